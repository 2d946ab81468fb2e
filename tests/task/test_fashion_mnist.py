"""Fashion-MNIST's cache and sources, on a small fake data set whose hashes stand in for the real ones."""

import gzip
import hashlib
import http.client
import subprocess
import urllib.request

import numpy as np
import pytest

from compressor.errors import DataError
from compressor.task import fashion_mnist

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def fake_files():
    """Four IDX files with the real header sizes: 6 training and 3 test pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 784), np.uint8)
    pixels[:, 0], pixels[:, 1] = 0, 255
    return {
        f"train-{IMAGES}": bytes(16) + pixels[:6].tobytes(),
        f"train-{LABELS}": bytes(8) + bytes([0, 1, 2, 7, 8, 9]),
        f"t10k-{IMAGES}": bytes(16) + pixels[6:].tobytes(),
        f"t10k-{LABELS}": bytes(8) + bytes([9, 0, 5]),
    }


@pytest.fixture
def files(monkeypatch, tmp_path):
    made = fake_files()
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "_SHA256", {n: hashlib.sha256(d).hexdigest() for n, d in made.items()})
    return made


def pack(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


def missing(why):
    def source(_):
        raise FileNotFoundError(why)

    source.__doc__ = f"{why.title()}."
    return source


def replace_sources(monkeypatch, *sources):
    names = ("_from_installed_package", "_from_debian_package", "_from_official_site")
    for name, source in zip(names, sources, strict=True):
        monkeypatch.setattr(fashion_mnist, name, source)


def cached(files):
    return {path.name: path.read_bytes() for path in fashion_mnist.cache_folder().iterdir()} == files


def test_load_scales_to_one(monkeypatch, files, tmp_path):
    packed = pack(files, tmp_path / "packed")
    replace_sources(monkeypatch, lambda _: packed, missing("b"), missing("c"))
    pictures, labels = fashion_mnist.load("train")
    assert pictures.shape == (6, 1, 28, 28)
    assert (pictures.dtype, pictures.min(), pictures.max()) == (np.float32, 0.0, 1.0)
    assert labels.tolist() == [0, 1, 2, 7, 8, 9]
    raw, raw_labels = fashion_mnist.load_bytes("test")
    assert (raw.shape, raw.dtype, raw_labels.tolist()) == ((3, 1, 28, 28), np.uint8, [9, 0, 5])
    assert raw.tobytes() == files[f"t10k-{IMAGES}"][16:]
    assert cached(files)


def test_the_cache_is_used_first(monkeypatch, files):
    folder = fashion_mnist.cache_folder()
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    replace_sources(monkeypatch, missing("a"), missing("b"), missing("c"))
    assert len(fashion_mnist.load("test")[0]) == 3


@pytest.mark.parametrize("working", [0, 1, 2])
def test_sources_are_tried_in_order(monkeypatch, files, tmp_path, working):
    packed, asked = pack(files, tmp_path / "packed"), []

    def source(number):
        def of(_):
            asked.append(number)
            if number != working:
                raise FileNotFoundError("not here")
            return packed

        return of

    replace_sources(monkeypatch, *map(source, range(3)))
    fashion_mnist.load("test")
    assert asked == list(range(working + 1))


def test_a_source_with_wrong_content_is_passed_over(monkeypatch, files, tmp_path):
    packed = pack(files, tmp_path / "packed")
    wrong = pack({**files, f"train-{LABELS}": b"other"}, tmp_path / "wrong")
    replace_sources(monkeypatch, lambda _: wrong, lambda _: packed, missing("c"))
    fashion_mnist.load("test")
    assert cached(files)


def test_no_source_leaves_nothing_and_names_each_reason(monkeypatch, files, tmp_path):
    wrong = pack({**files, f"train-{LABELS}": b"other"}, tmp_path / "wrong")

    def altered(_):
        """The altered one."""
        return wrong

    def half(_):
        """The half one."""
        raise http.client.IncompleteRead(b"", 9)

    replace_sources(monkeypatch, missing("a"), altered, half)
    with pytest.raises(DataError) as error:
        fashion_mnist.load("test")
    folder = fashion_mnist.cache_folder()
    assert str(error.value) == (
        "fashion-mnist: could not be fetched (A.: a; The altered one.: wrong SHA-256 of train-labels-idx1-ubyte; "
        "The half one.: IncompleteRead(0 bytes read, 9 more expected)); install the Debian package "
        f"dataset-fashion-mnist, or put the four unpacked IDX files into {folder}"
    )
    assert not folder.exists()


def test_a_changed_file_in_the_cache(files):
    folder = fashion_mnist.cache_folder()
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data + b"!")
    with pytest.raises(DataError) as error:
        fashion_mnist.load("test")
    assert str(error.value) == (
        f"{folder / 't10k-images-idx3-ubyte'}: has the wrong SHA-256; delete it and run again to fetch it anew"
    )


def test_a_full_disk_leaves_nothing_half_written(monkeypatch, files, tmp_path):
    packed = pack(files, tmp_path / "packed")
    replace_sources(monkeypatch, lambda _: packed, missing("b"), missing("c"))
    real, opened = fashion_mnist.tempfile.NamedTemporaryFile, []

    def third_fails(**options):
        opened.append(options)
        if len(opened) == 3:
            raise OSError(28, "No space left on device")
        return real(**options)

    monkeypatch.setattr(fashion_mnist.tempfile, "NamedTemporaryFile", third_fails)
    with pytest.raises(DataError) as error:
        fashion_mnist.load("test")
    folder = fashion_mnist.cache_folder()
    assert str(error.value) == (
        f"{folder}: cannot be written (No space left on device); set COMPRESSOR_CACHE to a folder that can"
    )
    assert list(folder.iterdir()) == []


def test_the_debian_package_is_fetched_and_unpacked(monkeypatch, files, tmp_path):
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: f"/usr/bin/{name}")
    commands = []

    # Stands in for apt-get and dpkg, which need a Debian system and its mirror.
    def run(command, cwd, **_):
        commands.append(command)
        if command[0] == "apt-get":
            (cwd / "dataset-fashion-mnist_0_all.deb").write_bytes(b"deb")
        else:
            pack(files, cwd / "unpacked" / "usr/share/datasets/fashion-mnist")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fashion_mnist.subprocess, "run", run)
    packed = fashion_mnist._from_debian_package(tmp_path)
    assert sorted(path.name for path in packed.iterdir()) == sorted(f"{name}.gz" for name in files)
    assert commands == [
        ["apt-get", "download", "dataset-fashion-mnist"],
        ["dpkg", "-x", "dataset-fashion-mnist_0_all.deb", "unpacked"],
    ]


def test_a_system_that_is_not_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt-get or dpkg is not on this system"):
        fashion_mnist._from_debian_package(tmp_path)


def test_the_official_site_gives_one_file_each(monkeypatch, files, tmp_path):
    packed, asked = pack(files, tmp_path / "packed"), []

    # Stands in for the network.
    def urlopen(address, timeout):
        asked.append(address)
        return (packed / address.rpartition("/")[2]).open("rb")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    target = tmp_path / "target"
    target.mkdir()
    assert fashion_mnist._from_official_site(target) == target
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {p.name: p.read_bytes() for p in packed.iterdir()}
    assert [address.rpartition("/")[2] for address in asked] == [f"{name}.gz" for name in files]
