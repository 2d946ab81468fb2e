"""Files side by side on real, tiny models; the windows are too short for a figure, so none is looked at."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from invented import invented_benchmark
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressor import bench
from compressor.bench import BenchJob, _runtimes, run_bench
from compressor.benchmark import plan, runner
from compressor.errors import CompressorError, OutputError
from compressor.results import BenchRecord
from compressor.store.records import dump_report, load_measured, load_report, report_schema

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker: the record that the tests share has them."""
    monkeypatch.setattr(bench, "run_benchmark", invented_benchmark)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 32), nn.Linear(32, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))


def save_chain(path: Path, width: int = 64, seed: int = 0) -> Path:
    """Write an ONNX matrix product ``(batch, width) -> (batch, width)``."""
    weight = np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([node], "chain", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def save_program(path: Path, batch: int | None = None) -> Path:
    example = torch.zeros(batch or 2, 64)
    free = None if batch else ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(Mlp().eval(), (example,), dynamic_shapes=free), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    return save_chain(folder / "small.onnx"), save_program(folder / "mlp.pt2")


@pytest.fixture(scope="module")
def record(hurried: None, files: tuple[Path, Path]) -> BenchRecord:
    """An ONNX file against a program on either runtime, at two batch sizes."""
    graph, program = files
    job = BenchJob(
        (graph, program, program),
        ("onnxruntime", "torch", "onnxruntime"),
        batches=(1, 4),
        preset="quick",
        meters=("cpu-time",),
        watts_per_core=5.0,
    )
    with pytest.MonkeyPatch.context() as patch:  # every block starts four workers, twice
        patch.setitem(plan.PRESETS, "quick", replace(plan.PRESETS["quick"], blocks=2))
        return run_bench(job, command="compress bench …")


def arms(record: BenchRecord) -> list[str]:
    return [m.arm for m in record.runs[0].measurements]


def test_every_file_runs_on_its_runtime_with_the_first_ones_twin(record: BenchRecord) -> None:
    assert [(m.arm, m.role, m.runtime.name) for m in record.runs[0].measurements] == [
        ("small.onnx", "baseline", "onnxruntime"),
        ("mlp.pt2", "candidate", "torch"),
        ("mlp.pt2 on onnxruntime", "candidate", "onnxruntime"),
        ("small.onnx (A/A)", "control", "onnxruntime"),
    ]
    for run, batch in zip(record.runs, (1, 4), strict=True):
        assert {m.plan.batch for m in run.measurements} == {batch}
        assert all(len(m.trials) == 2 for m in run.measurements)
        assert [(c.baseline, c.candidate) for c in run.comparisons] == [
            ("small.onnx", "mlp.pt2"),
            ("small.onnx", "mlp.pt2 on onnxruntime"),
        ]
        assert {c.arm for c in run.control} == {"small.onnx"}


def test_the_record_bears_the_users_files(record: BenchRecord, files: tuple[Path, Path]) -> None:
    import hashlib

    for one, file in zip(record.runs[0].measurements, files, strict=False):
        assert one.artifact.path == str(file)
        assert one.artifact.size_bytes == file.stat().st_size
        assert one.artifact.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_without_data_nothing_is_scored_and_estimates_are_said_to_be(record: BenchRecord) -> None:
    assert record.task.synthetic
    assert all(m.score is None for run in record.runs for m in run.measurements)
    for run in record.runs:
        assert any(w.startswith("Energy was not measured here, only estimated (cpu-time: ") for w in run.warnings)
        for comparison in run.comparisons:
            for delta in comparison.deltas:
                if delta.metric.startswith("energy"):
                    assert (delta.verdict, delta.baseline.provenance) == ("not established", "estimated")


def test_record_comes_back_equal_and_an_edit_is_found(record: BenchRecord, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(dump_report(record))
    assert load_measured(file) == record
    raw = json.loads(file.read_text())
    raw["runs"][1]["measurements"][0]["trials"][0]["cpu_s"] *= 2
    file.write_text(json.dumps(raw))
    with pytest.raises(OutputError, match=r"disagrees with itself: runs\[1\]\.comparisons\[0\]\.deltas"):
        load_measured(file)
    raw["runs"][1]["colour"] = "blue"
    file.write_text(json.dumps(raw))
    with pytest.raises(OutputError, match=r"unknown key runs\[1\]\.colour; it was not written by this program$"):
        load_measured(file)
    del raw["runs"][1]["colour"], raw["runs"][0]["measurements"][0]["steady"]
    file.write_text(json.dumps(raw))
    with pytest.raises(OutputError, match=r"runs\[0\]\.measurements\[0\]\.steady: field required"):
        load_measured(file)
    file.write_text(dump_report(record)[:-200])
    with pytest.raises(OutputError, match="is cut off"):
        load_measured(file)


def test_record_is_no_report(record: BenchRecord, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(dump_report(record))
    with pytest.raises(OutputError):
        load_report(tmp_path / "bench.json")


def test_the_schema_in_the_repository_is_current() -> None:
    made = json.dumps(report_schema(BenchRecord), indent=2) + "\n"
    file = ROOT / "compressor" / "schemas" / "bench.schema.json"
    assert file.read_text() == made, "write it anew: make schema"


@pytest.mark.usefixtures("unmeasured")
def test_data_give_scores(tmp_path: Path, demo_model: Path) -> None:
    found = run_bench(BenchJob((demo_model,), data="demo", preset="quick", batches=(8,), meters=("cpu-time",)))
    (run,) = found.runs
    assert [m.arm for m in run.measurements] == ["resnet8.pt2", "resnet8.pt2 (A/A)"]
    assert run.comparisons == ()
    score = run.measurements[0].score
    assert score is not None
    assert (score.name, score.value > 0.92) == ("accuracy", True)


@pytest.mark.usefixtures("unmeasured")
def test_same_name_in_two_folders_and_the_same_file_twice(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = save_chain(tmp_path / "small.onnx", seed=1)
    job = BenchJob((files[0], other, other), preset="quick", meters=("cpu-time",))
    home, away = files[0].parent.name, tmp_path.name
    assert arms(run_bench(job))[:3] == [f"{home}/small.onnx", f"{away}/small.onnx", f"{away}/small.onnx (2)"]


def test_fixed_batch_is_measured_at_that_batch(files: tuple[Path, Path], tmp_path: Path) -> None:
    fixed = save_program(tmp_path / "fixed.pt2", batch=4)
    found = run_bench(BenchJob((files[0], fixed), ("onnxruntime",), preset="quick", meters=("cpu-time",)))
    assert [m.plan.batch for run in found.runs for m in run.measurements] == [4, 4, 4]


def test_program_that_would_run_code_never_reaches_a_worker(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A doctored archive: a pickle among the sample inputs that would make a file when torch loads it."""
    evil, trace = tmp_path / "evil.pt2", tmp_path / "was-run"
    payload = f"cbuiltins\nopen\n(V{trace}\nVw\ntR.".encode()
    with zipfile.ZipFile(files[1]) as source, zipfile.ZipFile(evil, "w") as target:
        for item in source.namelist():
            target.writestr(item, payload if "sample_inputs" in item else source.read(item))

    def started(*_: Any) -> Any:
        raise RuntimeError("a worker was started")

    monkeypatch.setattr(bench, "run_benchmark", started)
    with pytest.raises(CompressorError) as caught:
        run_bench(BenchJob((evil,), preset="quick", meters=("cpu-time",)))
    assert str(evil) in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtimes": ("onnxruntim",)}, "--runtime: no runtime 'onnxruntim'; did you mean 'onnxruntime'? known: "),
        ({"runtimes": ("torch", "torch", "torch")}, "--runtime: names 3 runtimes for 2 files; name one for all, "),
        ({"each": True}, "--each: needs the runtimes that it is about; name them with --runtime"),
        ({"device": "gpu"}, "--device: no device 'gpu'; known: cpu, cuda, cuda:1"),
        ({"runtimes": ("torch",), "each": True}, "small.onnx: none of torch runs it"),
        ({"runtimes": ("torch",)}, "small.onnx: torch does not run ONNX files; use onnxruntime for it"),
        ({"batches": (1, 0)}, "--batch: must be at least 1, not 0"),
        ({"threads": (0,)}, "--threads: must be at least 1, not 0"),
        ({"meters": ("rappl",)}, "there is no meter 'rappl'; did you mean 'rapl'? known: "),
        ({"metric": "accuracy"}, "--metric: needs data; give --data"),
        ({"data": "fashion-mnits"}, "there is no data 'fashion-mnits'; did you mean 'fashion-mnist'?"),
        ({"preset": "quik"}, "--preset: no preset 'quik'; did you mean 'quick'?"),
        ({"files": ()}, "bench: no file was named"),
    ],
)
def test_mistakes_are_told_in_one_line(options: dict[str, Any], message: str, files: tuple[Path, Path]) -> None:
    with pytest.raises(CompressorError) as caught:
        run_bench(replace(BenchJob(files, preset="quick", meters=("cpu-time",)), **options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_bench_does_not_take(files: tuple[Path, Path], tmp_path: Path) -> None:
    def told(*paths: Path, **options: Any) -> str:
        with pytest.raises(CompressorError) as caught:
            run_bench(BenchJob(paths, preset="quick", meters=("cpu-time",), **options))
        return str(caught.value)

    assert told(tmp_path) == (f"{tmp_path}: is a folder; name the model file in it")
    torch.save(Mlp().state_dict(), tmp_path / "weights.pt")
    assert told(tmp_path / "weights.pt") == (
        f"{tmp_path / 'weights.pt'}: is a state dict; bench takes ONNX files, exported programs, Hugging Face folders "
        "and what bf16 and the torchao methods write; 'compress MODEL' writes the first two from it, to baseline/ of "
        "its folder"
    )
    wide = save_chain(tmp_path / "wide.onnx", width=128)
    assert told(files[0], wide) == (
        "wide.onnx: takes float32 (any, 128), and small.onnx float32 (any, 64); "
        "files that are measured side by side run the same inputs"
    )
    fixed = save_program(tmp_path / "fixed.pt2", batch=4)
    assert told(fixed, batches=(4, 8)) == (
        "--batch: a model's batch is fixed at 4, not 8; leave the option out, or export the model with a dynamic batch"
    )


def test_interrupt_keeps_the_finished_runs(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return invented_benchmark(*arguments, **options)

    monkeypatch.setattr(bench, "run_benchmark", interrupted)
    job = BenchJob(files[:1], batches=(1, 2, 4), preset="quick", meters=("cpu-time",))
    found = run_bench(job)
    assert found.interrupted
    assert [run.measurements[0].plan.batch for run in found.runs] == [1]
    with pytest.raises(KeyboardInterrupt):
        run_bench(job)


def test_interrupted_blocks_say_what_they_still_allow(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, windows = runner._RunningArm.window, iter(range(1000))

    def window(self: Any, *arguments: Any) -> Any:
        if next(windows) == 8:  # three arms, there and back: in the second block
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", window)
    found = run_bench(BenchJob((files[0], files[0]), preset="quick", meters=("cpu-time",)))
    assert found.interrupted
    assert "Only 1 of 3 blocks were finished (interrupted)." in found.runs[0].warnings
    reasons = {d.reason for d in found.runs[0].comparisons[0].deltas if d.metric == "CPU time per inference"}
    assert reasons == {"1 finished blocks are too few"}


def test_inputs_of_two_files_are_fitted_to_each_other() -> None:
    from compressor.results import TensorSpec

    def arm(*shape: int | None) -> Any:
        inputs = (TensorSpec("x", "float32", shape),)
        artifact = type("Artifact", (), {"inputs": inputs})()
        return type("Arm", (), {"name": "a", "artifact": artifact})()

    (shared,) = bench._shared_inputs([arm(None, None, 8), arm(None, 16, 8), arm(4, 16, 8)])
    assert shared.shape == (4, 16, 8)
    assert np.prod(shared.shape[1:]) == 128


def test_each_pairs_every_file_with_every_runtime_that_can_run_it() -> None:
    files = (Path("a.onnx"), Path("b.pt2"))
    job, runtimes = _runtimes(BenchJob(files, runtimes=("onnxruntime", "torch"), each=True))
    assert list(zip(job.files, runtimes, strict=True)) == [
        (files[0], "onnxruntime"),
        (files[1], "onnxruntime"),
        (files[1], "torch"),
    ]
