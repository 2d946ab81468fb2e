"""Several processes, one run: the whole command line as a launcher starts it, and each part alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import arrays, net

from compressor import cli
from compressor.errors import DataError, MethodError
from compressor.passes.distill import Distill
from compressor.passes.prune import Prune
from compressor.pipeline import together
from compressor.pipeline.together import Together

ROOT = Path(__file__).parents[2]
NOTE = "2 processes worked together; CPU time, and energy by cpu-time, are the first one's alone."


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second one of two."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(together, "GRACE_S", 0.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)


def test_two_processes_make_one_run(tmp_path: Path) -> None:
    x, y = arrays()
    np.savez(tmp_path / "digits.npz", train_x=x[:400], train_y=y[:400], test_x=x[-100:], test_y=y[-100:])
    shape = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(net(8).module, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shape), tmp_path / "model.pt2"
    )
    (tmp_path / "recipe.yaml").write_text("methods:\n  - distill: {epochs: 2, batch: 120}\n  - int8\n")
    (tmp_path / "both.py").write_text(
        "import os\n"
        "from compressor.passes import loop\n"
        "from compressor.benchmark import process\n"
        "from compressor.cli import main\n"
        "from compressor.pipeline import line\n"
        "from fast import hurry\n"
        "rank, cut, start = os.environ['RANK'], loop._Run._batch, process.WorkerProcess.__init__\n"
        "def part(run, rows):\n"
        "    batch = cut(run, rows)\n"
        "    with open(f'log{rank}', 'a') as log:\n"
        "        print(len(rows), len(batch.rows), file=log)\n"
        "    return batch\n"
        "def started(worker, *arguments):\n"
        "    assert not {'RANK', 'WORLD_SIZE', 'MASTER_ADDR'} & set(os.environ)\n"
        "    assert not loop.torch.distributed.is_initialized()\n"
        "    start(worker, *arguments)\n"
        "loop._Run._batch, process.WorkerProcess.__init__ = part, started\n"
        "spread = line.spread\n"  # without PyTorch's arm, whose workers would take most of the time
        "line.spread = lambda arms, *rest: spread([arm for arm in arms if arm.name != line.TORCH_ARM], *rest)\n"
        "hurry()\n"
        "main()\n"
    )
    found = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "both.py"),
            *("model.pt2", "--data", "digits.npz", "--recipe", "recipe.yaml", "--by-rule", "--out", "made"),
            *("--history", "h.db"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",  # or the launcher says that it has set it
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # main() is too late here: torch is imported already
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert found.stdout.count("Report            made/report.html") == found.stdout.count("History    ") == 1
    report = json.loads((tmp_path / "made" / "report.json").read_text())
    chosen = next(m["artifact"]["steps"] for m in report["measurements"] if m["role"] == "candidate")
    assert chosen[0]["notes"][-1] == NOTE
    first, other = ((tmp_path / f"log{rank}").read_text().splitlines() for rank in (0, 1))
    assert first == other  # both did all steps, each on its half of the rows
    assert first == ["40 20", *2 * ["120 60", "120 60", "120 60", "40 20"]]  # validation; steps and validation
    assert {path.name for path in tmp_path.iterdir() if path.suffix in ("", ".partial")} == {"log0", "log1", "made"}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process, whose streams a follower silences for good; gives the exit code."""
    before = sys.stdout, sys.stderr
    monkeypatch.setattr(sys, "argv", ["compress", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    if sys.stdout is not before[0]:
        sys.stdout.close()
    sys.stdout, sys.stderr = before
    return int(left.value.code or 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_bad_input_is_told_once(
    rank: int, second: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    (tmp_path / "m.pt2").write_bytes(b"")
    assert command(monkeypatch, str(tmp_path / "m.pt2"), "--method", "distil") == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n"), err[:42]) == (
        ("", 1, "error: no method 'distil'; did you mean 'd") if rank == 0 else ("", 0, "")
    )


def test_a_command_that_trains_nothing_is_the_first_ones_alone(
    second: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "recipes") == 0
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert command(monkeypatch, "recipes") == 0
    assert "WORLD_SIZE" not in os.environ  # its workers are none of the group


def test_the_others_leave_at_once_where_nothing_trains(second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as left:
        Together([Prune()]).follow(_unasked)
    assert left.value.code == 0
    monkeypatch.setenv("RANK", "0")
    alone = Together([Prune()])
    assert alone.do(_same, net()).steps == ()  # no word to others, and no note
    measure = lambda model: 1.0  # noqa: E731
    assert alone.agreed(measure)(net()) == 1.0


def test_an_error_of_the_second_one_alone_is_told_by_it(
    second: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(together, "_from_first", lambda value: ("there",))
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)

    def missing(where: str) -> Any:
        raise DataError("no such file", where=where)

    with pytest.raises(SystemExit) as left:
        Together([Distill()]).follow(missing)
    assert left.value.code == 2
    assert capfd.readouterr().err == "process 1 of 2: error: there: no such file\n"


def test_whoever_lost_the_others_says_so_in_one_line(second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(together, "_from_first", lambda value: value)

    def lost(text: str) -> Any:
        raise RuntimeError(text)

    with pytest.raises(MethodError) as told:
        Together([Distill()]).do(lost, "[pair.cc:538] Connection closed by peer [127.0.0.1]:4242")
    assert str(told.value) == "training: another process of this training has ended"
    with pytest.raises(RuntimeError, match="a defect"):
        Together([Distill()]).do(lost, "a defect")


def _same(model: Any) -> Any:
    return model


def _unasked(*_: Any) -> Any:
    raise AssertionError("nobody sent anything to do")
