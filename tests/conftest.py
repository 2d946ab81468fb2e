"""Small models and data that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from chains import save_chain


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A small ONNX model."""
    return save_chain(tmp_path / "chain.onnx")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model that the package carries."""
    return Path(__file__).parents[1] / "compressor" / "demo" / "resnet8.pt2"
