"""The parent's end of the protocol against workers that fail; where a script stands in for the worker, it is a mock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.benchmark import process
from compressor.benchmark.process import ArmFile, WorkerProcess, cores_for
from compressor.errors import MeasurementError
from compressor.results import Plan

PLAN = Plan("custom", 1, 1, 1, window_s=0.05, idle_s=0.05, warmup_limit_s=0.3, seed=0)


@pytest.fixture
def arm(chain: Path, tmp_path: Path) -> ArmFile:
    np.savez(tmp_path / "inputs.npz", a=np.ones((4, 64), np.float32))
    return ArmFile("A", chain, None, tmp_path / "inputs.npz")


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A script that stands in for the worker's process."""
    real = subprocess.Popen

    def use(script: str) -> None:
        monkeypatch.setattr(process.subprocess, "Popen", lambda _, **more: real([sys.executable, "-c", script], **more))

    return use


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="not run: this system does not pin")
def test_the_last_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 1, 4})
    assert [cores_for(threads) for threads in (1, 2, 3, 9)] == [[7], [4, 7], [1, 4, 7], [1, 4, 7]]


def test_nothing_is_pinned_where_the_system_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores_for(2) == []


def test_threads_are_fixed_before_the_worker_starts(mock: Any, arm: ArmFile) -> None:
    mock(
        "import json, os; told = json.loads(input())\n"
        "names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'TORCHINDUCTOR_CACHE_DIR', 'COMPRESSOR_TENSORRT_CACHE')\n"
        "print(json.dumps([told, *(os.environ[name] for name in names)])); input()"
    )
    worker = WorkerProcess(arm, replace(PLAN, threads=3, batch=2))
    try:
        told, *environment, cache, engines = worker._receive()
    finally:
        worker.close()
    assert environment == ["3", "3"]
    assert Path(cache) == arm.inputs.parent / "inductor"
    assert Path(engines) == arm.inputs.parent / "tensorrt"
    assert (told["path"], told["batch"], told["threads"], told["runtime"]) == (str(arm.path), 2, 3, None)
    assert told["cores"] == cores_for(3)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; input(); os.kill(os.getpid(), 9)", "A: the worker was killed by signal 9 (out of memory?)"),
        ("import os; input(); os.kill(os.getpid(), 15)", "A: the worker was killed by signal 15"),
        ("""input(); print('{"error": "no such file"}')""", "A: no such file"),
    ],
)
def test_worker_that_cannot_load_is_told_in_one_line(script: str, message: str, mock: Any, arm: ArmFile) -> None:
    mock(script)
    worker = WorkerProcess(arm, PLAN)
    try:
        with pytest.raises(MeasurementError) as caught:
            worker.wait_until_loaded()
        assert str(caught.value) == message
    finally:
        worker.close()


def test_worker_that_is_gone_is_told_when_it_is_asked(mock: Any, arm: ArmFile) -> None:
    mock("input(); print('{}')")
    worker = WorkerProcess(arm, PLAN)
    try:
        worker._receive()
        worker._process.wait()
        with pytest.raises(MeasurementError, match=r"^A: the worker ended with exit code 0$"):
            worker.ask("run", calls=1)
    finally:
        worker.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_worker_that_hangs_is_ended_and_named(arm: ArmFile, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = WorkerProcess(arm, PLAN)
    try:
        worker.wait_until_loaded()
        monkeypatch.setattr(process, "PATIENCE_S", 0.2)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(MeasurementError, match=r"^A: the worker gave no answer within 0\.2 s and was ended$"):
            worker.ask("run", calls=1)
        with pytest.raises(MeasurementError, match=r"gave no answer"):
            worker.require_alive()
    finally:
        worker.close()


def test_worker_that_hangs_on_its_way_out_is_ended(mock: Any, arm: ArmFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_S", 0.1)
    mock("import os, time; input(); os.close(1); time.sleep(60)")
    worker = WorkerProcess(arm, PLAN)
    try:
        with pytest.raises(MeasurementError, match=r"^A: the worker gave no answer within 0\.1 s and was ended$"):
            worker.wait_until_loaded()
        assert gone(worker.pid)
    finally:
        worker.close()


def test_long_window_is_given_its_time(mock: Any, arm: ArmFile, monkeypatch: pytest.MonkeyPatch) -> None:
    mock("import time; input(); time.sleep(0.5); print('{\"done\": 1}'); input()")
    monkeypatch.setattr(process, "PATIENCE_S", 0.1)
    worker = WorkerProcess(arm, PLAN)
    try:
        assert worker.ask("run", 10.0, calls=1) == {"done": 1}
    finally:
        worker.close()


def test_a_users_file_does_not_stand_in_for_a_library(
    arm: ArmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('shadowed')\n")
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    worker = WorkerProcess(arm, PLAN)
    try:
        worker.wait_until_loaded()
        assert worker.runtime.name == "onnxruntime"
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "Traceback (most recent call last):\n  File x\ntorch.AcceleratorError: CUDA error: unspecified launch "
            "failure\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA`",
            "the worker ended with exit code 1: torch.AcceleratorError: CUDA error: unspecified launch failure",
        ),
        (
            "Traceback (most recent call last):\n  File x\n    run()\nort.InvalidArgument: [ONNXRuntimeError] : 2 : "
            "Got invalid dimensions\n index: 1\n Please fix either the inputs/outputs or the model.",
            "the worker ended with exit code 1: ort.InvalidArgument: [ONNXRuntimeError] : 2 : Got invalid dimensions",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "the worker ended with exit code 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
            "; use a smaller --batch",
        ),
        ("a library's last words", "the worker ended with exit code 1: a library's last words"),
        ("", "the worker ended with exit code 1"),
    ],
)
def test_last_words_are_those_of_the_error(mock: Any, arm: ArmFile, printed: str, said: str) -> None:
    mock(f"import sys; input(); sys.stderr.write({printed!r}); sys.exit(1)")
    worker = WorkerProcess(arm, PLAN)
    try:
        with pytest.raises(MeasurementError) as caught:
            worker.wait_until_loaded()
        assert str(caught.value) == f"A: {said}"
    finally:
        worker.close()


def test_worker_that_does_not_end_is_killed_with_its_children(
    mock: Any, arm: ArmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_S", 0.1)
    mock(
        "import subprocess, time; input(); child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); print('{{}}', flush=True); time.sleep(60)"
    )
    worker = WorkerProcess(arm, PLAN)
    worker._receive()
    worker.close()
    child = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if gone(child):
            break
        time.sleep(0.02)
    assert gone(worker.pid)
    assert gone(child)
