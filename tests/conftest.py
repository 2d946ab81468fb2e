"""Small models and data that many tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from chains import save_chain

# The same examples in every run: what fails here fails everywhere.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Before torch is imported anywhere: the test processes share the cores, and their threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_history() -> Iterator[None]:
    """No test, nor a process that it starts, writes to the user's own history; those about it name a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSOR_HISTORY", "off")
        yield


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A small ONNX model."""
    return save_chain(tmp_path / "chain.onnx")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model that the package carries."""
    return Path(__file__).parents[1] / "compressor" / "demo" / "resnet8.pt2"


@pytest.fixture(scope="module")
def hurried() -> Iterator[None]:
    """Benchmarks of windows of 50 ms."""
    from fast import hurried

    with hurried():
        yield
