"""Fetching what the suite needs: packages that carry data or weights, and environments of their own.

Nothing here is installed beside the project: wheels and Debian packages are unpacked into the cache folder, and what
has to run (a simulator, the peers) runs in a virtual environment there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from compressor.errors import DataError

HERE = Path(__file__).parent


def cache() -> Path:
    """Where all that is fetched, trained and made is kept: ``BENCHMARK_CACHE`` if set, else ``.cache`` beside this."""
    folder = Path(os.environ.get("BENCHMARK_CACHE", HERE / ".cache"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wheel(package: str) -> Path:
    """Unpack a package of ``requirements.txt``, downloaded once and checked by its hash.

    Args:
        package: Its name there.

    Returns:
        The folder with its files.
    """
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{package}=="))
    version = line.split()[0].partition("==")[2]
    return _unpacked(f"{package}-{version}", lambda folder: _unzip(_download_wheel(package, line), folder))


def debian(package: str, version: str) -> Path:
    """Unpack a Debian package, downloaded once; apt checks its hash.

    Args:
        package: Its name.
        version: Its version.

    Returns:
        The folder that stands for ``/``.
    """
    return _unpacked(
        f"{package}-{version}",
        lambda folder: _run("dpkg-deb", "-x", str(_download_debian(package, version)), str(folder)),
    )


def environment(name: str, requirements: Path, *, constraints: Path | None = None) -> Path:
    """A virtual environment with what a file lists; made anew when that file changes.

    Args:
        name: Its folder's name in the cache.
        requirements: What to install.
        constraints: Versions that hold for what the requirements depend on.

    Returns:
        Its Python.
    """
    folder = cache() / name
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return python
    print(f"  making the environment {folder}", flush=True)
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    limits = [] if constraints is None else ["-c", str(constraints)]
    _run(str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements), *limits)
    mark.write_text(wanted, encoding="utf-8")
    return python


def _unpacked(name: str, unpack: Callable[[Path], object]) -> Path:
    folder = cache() / "unpacked" / name
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            whole = Path(beside) / name
            whole.mkdir()
            unpack(whole)
            whole.replace(folder)
    return folder


def _packages() -> Path:
    folder = cache() / "packages"
    folder.mkdir(exist_ok=True)
    return folder


def _download_wheel(package: str, line: str) -> Path:
    folder = _packages()
    pattern = f"{package.replace('-', '_')}-*.whl"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(line + "\n")
        wanted.flush()
        # A file that is there already is checked by its hash and not downloaded again.
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet"]
        _run(sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", wanted.name)
    return next(folder.glob(pattern))


def _download_debian(package: str, version: str) -> Path:
    folder = _packages()
    pattern = f"{package}_{version}_*.deb"
    if not list(folder.glob(pattern)):
        _run("apt-get", "download", f"{package}={version}", folder=folder)
    return next(folder.glob(pattern))


def _unzip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)


def _run(*command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise DataError(f"needs {command[0]}", where="benchmarks", mend="run the suite on Debian or Ubuntu") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"{' '.join(command[:4])} failed: {last}", where="benchmarks")
