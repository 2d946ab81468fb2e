"""Fashion-MNIST: fetched once, checked by hash, kept in the user's cache folder.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms" (2017);
60 000 training and 10 000 test pictures of 28x28 grey levels in 10 classes, MIT licence.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from compressor.errors import DataError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# SHA-256 of the *unpacked* IDX files: the Debian package and the official download are packed differently.
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_OFFICIAL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_TIMEOUT_S = 120


def load(split: Literal["train", "test"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load one official split, fetching the data set first if it is not in the cache.

    Args:
        split: ``"train"`` (60 000 pictures) or ``"test"`` (10 000).

    Returns:
        Pictures ``(N, 1, 28, 28)`` as floats in [0, 1], and labels ``(N,)`` in 0..9.

    Raises:
        DataError: The data set is in no known place and could not be fetched, or a file has the wrong hash.
    """
    pictures, labels = load_bytes(split)
    return np.divide(pictures, 255, dtype=np.float32), labels


def load_bytes(split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load one official split as :func:`load` does, its pictures as grey levels 0..255.

    Raises:
        DataError: As :func:`load`.
    """
    prefix = "train" if split == "train" else "t10k"
    pictures = _unpacked(f"{prefix}-images-idx3-ubyte")[16:].reshape(-1, 1, 28, 28)
    return pictures, _unpacked(f"{prefix}-labels-idx1-ubyte")[8:].astype(np.int64)


def cache_folder() -> Path:
    """Where the unpacked files are kept: ``COMPRESSOR_CACHE`` if set, else the user's cache folder."""
    given = os.environ.get("COMPRESSOR_CACHE")
    return (Path(given) if given else user_cache_path("compressor")) / "fashion-mnist"


def _unpacked(name: str) -> NDArray[np.uint8]:
    path = cache_folder() / name
    if not path.is_file():
        _fetch()
    data = np.fromfile(path, np.uint8)
    if hashlib.sha256(data.data).hexdigest() != _SHA256[name]:
        raise DataError("has the wrong SHA-256", where=path, mend="delete it and run again to fetch it anew")
    return data


def _fetch() -> None:
    """Fill the cache from the first source that has all four files with the right hash."""
    tried: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in (_from_installed_package, _from_debian_package, _from_official_site):
            try:
                packed = source(Path(folder))
                files = {name: gzip.decompress((packed / f"{name}.gz").read_bytes()) for name in _SHA256}
            except (OSError, EOFError, zlib.error, http.client.HTTPException, subprocess.SubprocessError) as error:
                tried.append(f"{source.__doc__}: {error}")
                continue
            wrong = [name for name, data in files.items() if hashlib.sha256(data).hexdigest() != _SHA256[name]]
            if wrong:
                tried.append(f"{source.__doc__}: wrong SHA-256 of {', '.join(wrong)}")
                continue
            _store(files)
            return
    raise DataError(
        f"could not be fetched ({'; '.join(tried)})",
        where="fashion-mnist",
        mend=f"install the Debian package {_DEBIAN_PACKAGE}, or put the four unpacked IDX files into {cache_folder()}",
    )


def _store(files: dict[str, bytes]) -> None:
    """Write all files beside their places, then rename: neither a second process nor a kill sees half of one."""
    folder = cache_folder()
    beside: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as file:
                beside[Path(file.name)] = folder / name
                file.write(data)
        for written, place in beside.items():
            written.replace(place)
    except OSError as error:
        for written in beside:
            written.unlink(missing_ok=True)
        raise DataError(
            f"cannot be written ({error.strerror})", where=folder, mend="set COMPRESSOR_CACHE to a folder that can"
        ) from error


def _from_installed_package(_: Path) -> Path:
    """The installed Debian package."""
    return Path("/") / _DEBIAN_FOLDER


def _from_debian_package(folder: Path) -> Path:
    """The Debian package by apt-get download."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise FileNotFoundError("apt-get or dpkg is not on this system")
    command = ["apt-get", "download", _DEBIAN_PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S)
    archives = list(folder.glob(f"{_DEBIAN_PACKAGE}_*.deb"))
    if done.returncode != 0 or not archives:
        raise FileNotFoundError(done.stderr.strip() or "apt-get download brought no file")
    subprocess.run(["dpkg", "-x", archives[0].name, "unpacked"], cwd=folder, check=True, timeout=_TIMEOUT_S)
    return folder / "unpacked" / _DEBIAN_FOLDER


def _from_official_site(folder: Path) -> Path:
    """The official download."""
    for name in _SHA256:
        try:
            with urllib.request.urlopen(f"{_OFFICIAL}/{name}.gz", timeout=_TIMEOUT_S) as answer:
                (folder / f"{name}.gz").write_bytes(answer.read())
        except urllib.error.URLError as error:
            raise OSError(str(error.reason)) from error
    return folder
