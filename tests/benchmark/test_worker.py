"""The worker's parts that need no process, and the process itself when its parent goes away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.benchmark import worker
from compressor.benchmark.process import cores_for


@given(count=st.integers(1, 40), batch=st.integers(1, 12))
def test_batches_are_full_contiguous_and_in_order(count: int, batch: int) -> None:
    x = np.arange(count * 3).reshape(count, 3)
    cut = worker.batches_of((x, x * 2), batch)
    assert len(cut) == max(1, count // batch)
    for one, other in cut:
        assert one.shape == (batch, 3)
        assert one.flags.c_contiguous
        assert (other == 2 * one).all()
    whole = np.concatenate([one for one, _ in cut])
    assert (whole == np.resize(x, whole.shape)).all()


def config(chain: Path, tmp_path: Path) -> dict[str, object]:
    np.savez(tmp_path / "inputs.npz", a=np.ones((4, 64), np.float32))
    return {
        "path": str(chain),
        "runtime": None,
        "inputs": str(tmp_path / "inputs.npz"),
        "batch": 2,
        "threads": 1,
        "device": "cpu",
        "cores": [],
    }


def test_times_beyond_the_store_overwrite_the_oldest(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_SAMPLES", 8)
    one = worker.Worker(config(chain, tmp_path))
    one.run(20)
    assert one.summary(str(tmp_path / "times.npy"))["calls"] == 20
    times = np.load(tmp_path / "times.npy")
    assert times.shape == (8,)
    assert (times > 0).all()
    one.forget()
    one.summary(str(tmp_path / "times.npy"))
    assert np.load(tmp_path / "times.npy").shape == (0,)


def test_worker_ends_when_its_parent_goes_away(chain: Path, tmp_path: Path) -> None:
    settings = {**config(chain, tmp_path), "cores": cores_for(1)}
    process = subprocess.Popen(
        [sys.executable, "-m", "compressor.benchmark.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(settings) + "\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["runtime"]["name"] == "onnxruntime"
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


def test_what_a_library_prints_stays_out_of_the_protocol(chain: Path, tmp_path: Path) -> None:
    settings = {**config(chain, tmp_path), "cores": cores_for(1)}
    noisy = "import os, compressor.benchmark.worker as w; f = w.open_session\n"
    noisy += "def chatty(*a, **k): print('hello'); os.write(1, b'raw'); return f(*a, **k)\n"
    noisy += "w.open_session = chatty; w.serve()"
    done = subprocess.run(
        [sys.executable, "-c", noisy], input=json.dumps(settings) + "\n", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["load_s"] > 0
    assert "hello" in done.stderr
