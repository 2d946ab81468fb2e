from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.benchmark import inputs
from compressor.errors import MeasurementError


def test_the_pool_is_large_enough_for_a_batch_and_small_enough_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tuple(np.random.default_rng(seed).random((1000, 4), np.float32) for seed in (0, 1))
    path = tmp_path / "inputs.npz"

    def kept(batch: int) -> list[int]:
        inputs.write_inputs(given, batch, path)
        with np.load(path) as found:
            assert found.files == ["input_000", "input_001"]
            assert all((found[name] == x[: len(found[name])]).all() for name, x in zip(found, given, strict=True))
            return [len(found[name]) for name in found.files]

    assert kept(1) == [512, 512]
    assert kept(600) == [600, 600]
    monkeypatch.setattr(inputs, "POOL_BYTES", 32 * 10)
    assert kept(1) == [10, 10]
    assert kept(16) == [16, 16]


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(MeasurementError) as caught:
        inputs.write_inputs((np.zeros((2, 2)),), 1, tmp_path / "inputs.npz")
    assert str(caught.value) == (
        f"{tmp_path}: the inputs cannot be written (No space left on device); make room there, or name another folder "
        "in TMPDIR"
    )
