"""The main job end to end on real models and data; only the windows are too short for a figure."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from invented import invented_benchmark
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from compressor import cli, pipeline
from compressor.errors import CompressorError, MethodError, OutputError, RecipeError
from compressor.pipeline import Job, Method, Outcome, deliver, line, run
from compressor.store.records import load_report

ROOT = Path(__file__).parents[1]
ARCH = f"{ROOT / 'examples' / 'resnet.py'}:resnet8"
BY_RULE = (Method("int8", {"by_rule": True}),)
"""Chosen by architecture: what pays on the machine that runs the tests must not decide them."""
FILES = ["baseline", "model.onnx", "report.html", "report.json", "report.md"]


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """The benchmark and the plots, which take most of a run's time; the demo's run has them."""
    patch.setattr(line, "run_benchmark", invented_benchmark)
    patch.setattr(deliver, "render_html", lambda report: report.headline)


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch)  # the fixtures of the module were made before


def job(model: Path, out: Path, methods: tuple[Method, ...] = BY_RULE, **options: Any) -> Job:
    return Job(model, methods, out=out, preset="quick", meters=("cpu-time",), **options)


def weights(demo_model: Path) -> dict[str, torch.Tensor]:
    return dict(torch.export.load(demo_model).state_dict)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def demo(hurried: None, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The demo's own run."""
    return run(job(demo_model, tmp_path_factory.mktemp("demo") / "out", data="demo"), command="compress demo")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tenth of the demo's data, for what does not look at the score."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(ROOT / "compressor" / "demo" / "data.npz") as data:
        np.savez(path, **{key: data[key][:200] for key in data.files})
    return str(path)


@pytest.fixture(scope="module")
def reference(few: str, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch)
        return run(job(demo_model, tmp_path_factory.mktemp("reference") / "out", data=few))


def test_folder_holds_the_model_the_baselines_and_the_report(demo: Outcome) -> None:
    assert sorted(p.name for p in demo.folder.iterdir()) == FILES
    assert sorted(p.name for p in (demo.folder / "baseline").iterdir()) == ["model.onnx", "model.pt2"]
    onnx.checker.check_model(str(demo.folder / "model.onnx"))
    assert load_report(demo.folder / "report.json") == demo.report


def test_four_arms_are_measured_and_scored(demo: Outcome) -> None:
    arms = {m.arm: m for m in demo.report.measurements}
    assert list(arms) == ["PyTorch fp32", "ONNX fp32", "ONNX int8", "ONNX fp32 (A/A)"]
    assert all(len(m.trials) == 3 for m in arms.values())
    assert all(m.score is not None and m.score.value > 0.92 for m in arms.values())
    assert arms["PyTorch fp32"].runtime.name == "torch"


def test_kernels_that_run_in_int8_are_counted(demo: Outcome) -> None:
    kernels = {m.arm: m.kernels for m in demo.report.measurements}
    found = kernels["ONNX int8"]
    assert found is not None
    assert (found.low_precision, found.compute, dict(found.left)) == (10, 10, {})
    before = kernels["ONNX fp32"]
    assert before is not None
    assert (before.low_precision, before.compute) == (0, 10)


def test_parity_is_checked_and_shown(demo: Outcome) -> None:
    assert demo.report.parity["ONNX fp32"].relative < 1e-5
    assert demo.report.parity["ONNX fp32"].same_top1 == 1.0
    assert 1e-4 < demo.report.parity["ONNX int8"].relative < 0.1


def test_accuracy_is_kept_within_half_a_point_and_the_file_shrinks(demo: Outcome) -> None:
    score = demo.report.comparisons[0].score
    assert score is not None
    assert abs(score.loss) <= 0.005
    by_metric = {delta.metric: delta for delta in demo.report.comparisons[0].deltas}
    assert by_metric["size"].ratio < 0.3


def test_estimates_are_marked_in_every_output(demo: Outcome) -> None:
    assert "energy was not measured here" in demo.report.headline
    for name in ("report.md", "report.html"):
        assert "estimated" in (demo.folder / name).read_text()
    for comparison in demo.report.comparisons:
        for delta in comparison.deltas:
            if delta.metric.startswith("energy"):
                assert (delta.verdict, delta.baseline.provenance) == ("not established", "estimated")


def test_costs_and_break_even_are_there(demo: Outcome) -> None:
    assert [stage.stage for stage in demo.report.stages] == ["export", "score", "1-int8"]
    assert all(stage.cpu_s > 0 and stage.energy_j["cpu-time/cpu"] > 0 for stage in demo.report.stages)
    assert {b.metric for b in demo.report.break_even} == {"CPU time", "energy (cpu-time)"}


def test_no_path_of_this_machine_is_in_the_models(demo: Outcome) -> None:
    for path in [demo.folder / "model.onnx", *(demo.folder / "baseline").iterdir()]:
        assert str(ROOT).encode() not in path.read_bytes()


@pytest.mark.parametrize("kind", ["state dict", "safetensors", "TorchScript", "ONNX"])
def test_same_weights_in_any_form_give_the_same_int8_model(
    kind: str, few: str, reference: Outcome, demo_model: Path, tmp_path: Path
) -> None:
    path, options = tmp_path / "model.pt", {"data": few}
    if kind == "state dict":
        torch.save(weights(demo_model), path)
        options["arch"] = ARCH
    elif kind == "safetensors":
        save_file(weights(demo_model), path)
        options["arch"] = ARCH
    elif kind == "TorchScript":
        sys.path.insert(0, str(ROOT / "examples"))
        from resnet import resnet8

        module = resnet8().eval()
        module.load_state_dict(weights(demo_model))
        with pytest.warns(
            DeprecationWarning, match="torch.jit"
        ):  # torch's own: the format is on its way out, its files are not
            torch.jit.save(torch.jit.script(module), path)
    else:
        path.write_bytes((reference.folder / "baseline" / "model.onnx").read_bytes())
    outcome = run(job(path, tmp_path / "out", **options))
    assert outcome.report.model.format == kind
    if kind == "TorchScript":  # other names of nodes and weights, the same numbers
        assert same_integers(outcome.folder / "model.onnx", reference.folder / "model.onnx")
    else:
        assert sha256(outcome.folder / "model.onnx") == sha256(reference.folder / "model.onnx")
    if kind == "ONNX":
        assert [m.arm for m in outcome.report.measurements] == ["ONNX fp32", "ONNX int8", "ONNX fp32 (A/A)"]


def same_integers(one: Path, other: Path) -> bool:
    """Whether two quantized models hold the same integer weights, in any order and under any names."""
    held = []
    for path in (one, other):
        tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
        held.append(sorted(t.tobytes() for t in tensors if t.dtype == np.int8 and t.size > 1))
    return held[0] == held[1] and len(held[0]) > 0


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).flatten(1))


def trained(module: nn.Module, x: np.ndarray, y: np.ndarray) -> nn.Module:
    """Fit to the handwritten digits that scikit-learn carries (1 797 real pictures of 8x8)."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    return module.eval()


def digits(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.data / 16).astype(np.float32).reshape(-1, *shape), data.target.astype(np.int64)


@pytest.mark.parametrize(
    ("make", "shape", "ops"),
    [
        (Cnn, (1, 8, 8), 3),
        (
            lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
            (64,),
            3,
        ),
    ],
    ids=["cnn", "mlp"],
)
def test_models_and_data_never_seen_before(
    make: Callable[[], nn.Module], shape: tuple[int, ...], ops: int, tmp_path: Path
) -> None:
    x, y = digits(shape)
    module = trained(make(), x[:1000], y[:1000])
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, *shape),)
    torch.export.save(torch.export.export(module, example, dynamic_shapes=({0: batch},)), tmp_path / "digits.pt2")
    np.savez(tmp_path / "digits.npz", x=x, y=y)
    outcome = run(job(tmp_path / "digits.pt2", tmp_path / "out", data=str(tmp_path / "digits.npz")))
    candidate = next(m for m in outcome.report.measurements if m.role == "candidate")
    assert candidate.kernels is not None
    assert (candidate.kernels.low_precision, candidate.kernels.compute) == (ops, ops)
    score = outcome.report.comparisons[0].score
    assert score is not None
    assert score.baseline > 0.9
    assert score.loss < 0.01
    task = outcome.report.task
    assert (task.calibration_examples + task.test_examples, task.synthetic) == (1797, False)


def test_without_data_agreement_is_measured_and_said_so(demo_model: Path, tmp_path: Path) -> None:
    outcome = run(job(demo_model, tmp_path / "out"))
    assert outcome.report.task.synthetic
    assert "agreement" in outcome.report.task.metric
    assert "No data were given: agreement with the original on synthetic inputs was measured, not accuracy." in (
        outcome.report.warnings
    )
    assert "agreement on synthetic inputs" in outcome.report.headline
    assert "accuracy" not in outcome.report.headline


def test_fixed_batch_is_measured_at_that_batch(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(4, 1, 8, 8),)), tmp_path / "fixed.pt2")
    outcome = run(job(tmp_path / "fixed.pt2", tmp_path / "out"))
    assert {m.plan.batch for m in outcome.report.measurements} == {4}
    with pytest.raises(RecipeError) as caught:
        run(job(tmp_path / "fixed.pt2", tmp_path / "other", batch=2))
    assert str(caught.value) == (
        "--batch: the model's batch is fixed at 4, not 2; "
        "leave the option out, or export the model with a dynamic batch"
    )


def test_model_without_arithmetic_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    torch.export.save(
        torch.export.export(nn.ReLU(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("b")},)),
        tmp_path / "relu.pt2",
    )
    with pytest.raises(MethodError):
        run(job(tmp_path / "relu.pt2", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


STAGES = ["export", "score", "1-int8", "measure"]


@pytest.mark.parametrize("stage", STAGES)
def test_interrupt_at_any_stage_loses_no_finished_one(
    stage: str, few: str, reference: Outcome, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, bool]] = []

    class Listener:
        def stage(self, name: str, resumed: bool) -> None:
            done.append((name, resumed))

        def progress(self, done_s: float, total_s: float, text: str) -> None: ...

    asked = job(demo_model, tmp_path / "out", data=few)
    name = "_compress" if stage == "1-int8" else f"_{stage}"
    real = getattr(line._Line, name)

    def interrupted(self: Any, folder: Path, *arguments: Any) -> Any:
        (folder / "half-written").write_text("…")
        raise KeyboardInterrupt

    monkeypatch.setattr(line._Line, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    monkeypatch.setattr(line._Line, name, real)
    assert not (tmp_path / "out").exists()
    before = STAGES[: STAGES.index(stage)]
    partial = tmp_path / "out.partial"
    assert partial.exists() == bool(before)
    if stage in ("export", "measure"):
        outcome = run(asked, Listener())
        assert done == [(name, name in before) for name in STAGES]
        assert sha256(outcome.folder / "model.onnx") == sha256(reference.folder / "model.onnx")
        assert outcome.report.stages[-1].stage == "1-int8"
        assert not partial.exists()


def test_resume_does_a_stage_again_whose_file_was_lost(
    few: str, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(demo_model, tmp_path / "out", data=few)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(line._Line, "_measure", interrupted)
        run(asked)
    (tmp_path / "out.partial" / "stages" / "1-int8" / "model.onnx").write_bytes(b"damaged")
    assert sorted(p.name for p in run(asked).folder.iterdir()) == FILES


def command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fast.py"), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_real_interrupt_and_kill_leave_marked_stages_or_nothing(
    blow: signal.Signals,
    few: str,
    demo_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(demo_model), "--data", few, "--out", "out", "--by-rule"]
    process = command(*arguments, cwd=tmp_path)
    # Struck while it writes the baselines, before any stage is marked.
    wait_for(tmp_path / "out.partial" / "baseline", process)
    process.send_signal(blow)
    _, errors = process.communicate(timeout=60)
    assert not (tmp_path / "out").exists()
    if blow is signal.SIGINT:
        assert process.returncode == 130
        # Click begins a new line, as the terminal has printed ^C on this one.
        assert errors == "\ninterrupted: what is finished is kept; the same command goes on from there\n"
        assert not (tmp_path / "out.partial").exists()
    else:
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out.partial" / "stages.json").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compress", *arguments, "--json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capsys.readouterr()
    assert (caught.value.code, shown.err) == (0, "")
    assert json.loads(shown.out)["model"]["name"] == "resnet8"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


def test_out_folder_that_cannot_be_written(demo_model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)  # nobody: root may write anywhere
    try:
        with pytest.raises(OutputError) as caught:
            run(job(demo_model, locked / "out", data="demo"))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    assert str(caught.value) == (
        f"{locked / 'out'}: cannot be written (Permission denied); name another folder with --out"
    )


def test_full_disk_is_one_line_and_leaves_nothing_that_looks_finished(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3200k", "tmpfs", tmp_path], check=False)
    if mounted.returncode != 0:
        pytest.skip("not run: mounting a small disk needs root")
    try:
        monkeypatch.setattr(
            sys, "argv", ["compress", str(demo_model), "--data", "demo", "--out", f"{tmp_path / 'out'}"]
        )
        with pytest.raises(SystemExit) as caught:
            cli.main()
        errors = capsys.readouterr().err
        assert caught.value.code == 2
        assert errors.count("\n") == 1
        assert f"{tmp_path / 'out'}: the disk is full: about " in errors
        assert not (tmp_path / "out").exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_unknown_option_of_the_api_names_the_nearest(demo_model: Path) -> None:
    with pytest.raises(CompressorError, match=r"compress\(\): there is no option 'preset_'; did you mean 'preset'\?"):
        pipeline.compress(demo_model, preset_="quick")
    with pytest.raises(CompressorError, match=r"there is no option 'methods'; did you mean 'method'\?"):
        pipeline.compress(demo_model, methods="int8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": nn.Linear(2, 2)}, "Linear is no path of a model file; save it first, e.g. with torch.export.save"),
        ({"method": None}, "None is no method and no list of them"),
        ({"method": ("int8", 3)}, "methods.1.name: input should be a valid string"),
        ({"runtimes": "torch"}, "runtimes: input should be a valid tuple"),
        ({"threads": 1.5}, "threads: input should be a valid integer, got a number with a fractional part"),
        ({"max_loss": "none"}, "max_loss: input should be a valid number, unable to parse string as a number"),
    ],
)
def test_value_of_another_type_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        pipeline.compress(options.pop("model", "model.pt2"), **options)
    assert str(caught.value) == f"compress(): {message}"


def test_data_may_be_a_path_and_a_mistake_in_them_is_not_in_the_way(demo_model: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.random((40, 1, 28, 28), np.float32), draw.integers(0, 10, 40)
    data, out = tmp_path / "data.npz", tmp_path / "out"

    def compress() -> Outcome:
        return pipeline.compress(str(demo_model), method=BY_RULE, data=data, out=out, preset="quick")

    np.savez(data, x=x, y=y + 100)
    with pytest.raises(CompressorError, match="labels go up to 10"):
        compress()
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
    np.savez(data, x=x, y=y)
    assert compress().report.settings["data"] == str(data)


def test_of_stages_that_all_lose_too_much_the_least_bad_is_the_result() -> None:
    """The parts that the choice looks at."""

    def score(value: float) -> Any:
        return SimpleNamespace(value=value, name="accuracy", unit="fraction", higher_is_better=True)

    def chosen(*values: float) -> tuple[str, str]:
        chain = [SimpleNamespace(arm=f"stage {i}", score=score(value)) for i, value in enumerate(values)]
        one: Any = SimpleNamespace(job=SimpleNamespace(max_loss=0.01))
        scored: Any = SimpleNamespace(scores={line.ONNX_ARM: score(0.9)})
        made, said = line._Line._choose(one, chain, scored)  # type: ignore[arg-type]
        return made.arm, said

    assert chosen(0.5) == ("stage 0", "")
    assert chosen(0.5, 0.895) == ("stage 1", "")
    assert chosen(0.895, 0.7, 0.6) == (
        "stage 0",
        "stage 1 lost 0.2, stage 2 lost 0.3 accuracy (fraction), more than the margin of 0.01: the result is stage 0.",
    )
    assert chosen(0.8, 0.85, 0.5)[0] == "stage 1"
    assert chosen(0.8, 0.85, 0.85)[0] == "stage 2"


def test_folder_without_second_names_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    for name in ("dump_report", "render_markdown", "render_html"):
        monkeypatch.setattr(deliver, name, lambda report: "report")
    place = tmp_path / "stages" / "1-int8"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(b"model")
    made: Any = SimpleNamespace(artifact=SimpleNamespace(path="stages/1-int8/model.onnx"))
    report: Any = None
    deliver.deliver(tmp_path, made, report, stages=())
    assert (tmp_path / "model.onnx").read_bytes() == b"model"
    assert not (tmp_path / "stages").exists()


def test_prune_distill_and_int8_in_sequence(tmp_path: Path) -> None:
    x, y = digits((1, 8, 8))
    module = trained(Cnn(), x[:1000], y[:1000])
    torch.export.save(
        torch.export.export(module, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("b")},)),
        tmp_path / "digits.pt2",
    )
    np.savez(tmp_path / "d.npz", train_x=x[:1000], train_y=y[:1000], test_x=x[1000:], test_y=y[1000:])
    methods = (Method("prune", {"flops": 0.4}), Method("distill", {"epochs": 8, "learning_rate": 0.005}), *BY_RULE)
    outcome = run(job(tmp_path / "digits.pt2", tmp_path / "out", methods, data=str(tmp_path / "d.npz"), max_loss=0.03))
    arms = {m.arm: m for m in outcome.report.measurements}
    names = ["PyTorch fp32", "ONNX fp32", "ONNX prune", "ONNX prune+distill", "ONNX prune+distill+int8"]
    assert list(arms)[:5] == names
    sizes = [arms[name].artifact.size_bytes for name in names[1:]]
    assert sizes[1] < sizes[0]
    assert sizes[3] < sizes[2]
    scores = [arms[name].score.value for name in names[1:]]  # type: ignore[union-attr]
    assert scores[2] > scores[1], "distillation brings back what pruning cost"
    assert arms[names[4]].kernels.low_precision == 3  # type: ignore[union-attr]
    assert sha256(outcome.folder / "model.onnx") == arms[names[4]].artifact.sha256
    assert [stage.stage for stage in outcome.report.stages] == ["export", "score", "1-prune", "2-distill", "3-int8"]
    assert sorted(p.name for p in (outcome.folder / "stages").iterdir()) == ["1-prune", "2-distill", "3-int8"]
    # The pruned model loads with plain torch.
    pruned = torch.export.load(outcome.folder / "stages" / "1-prune" / "model.pt2").module()
    assert pruned(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_what_was_finished_before_a_method_failed_is_taken_up_by_a_mended_command(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    torch.export.save(torch.export.export(module, (torch.zeros(4, 6),)), tmp_path / "mlp.pt2")
    prune, code, partial = Method("prune"), tmp_path / "mine.py", tmp_path / "out.partial"
    code.write_text("def small():\n    raise ValueError('not yet')\n")
    distill = Method("distill", {"student": f"{code}:small", "unlabeled": True})
    with pytest.raises(MethodError) as caught:
        run(job(tmp_path / "mlp.pt2", tmp_path / "out", (prune, distill)))
    assert str(caught.value).endswith(f"; ONNX prune is kept in {partial}: any methods after it go on from there")
    assert (partial / "stages" / "2-distill").is_dir()
    with pytest.raises(OutputError, match="unfinished run of another model"):  # it would be lost
        run(job(tmp_path / "mlp.pt2", tmp_path / "out", (Method("prune", {"flops": 0.3}),)))
    kept = sha256(partial / "stages" / "1-prune" / "model.onnx")
    outcome = run(job(tmp_path / "mlp.pt2", tmp_path / "out", (prune, Method("prune-2:4"))))
    assert sha256(outcome.folder / "stages" / "1-prune" / "model.onnx") == kept
    assert sorted(p.name for p in (outcome.folder / "stages").iterdir()) == ["1-prune", "2-prune-2:4"]


def test_stage_that_breaks_the_margin_is_undone_and_named(few: str, demo_model: Path, tmp_path: Path) -> None:
    methods = (Method("prune-unstructured", {"fraction": 0.05}), Method("prune", {"flops": 0.6}))
    outcome = run(job(demo_model, tmp_path / "out", methods, data=few))
    (candidate,) = [m for m in outcome.report.measurements if m.role == "candidate"]
    assert candidate.arm == "ONNX prune-unstructured"
    assert sha256(outcome.folder / "model.onnx") == candidate.artifact.sha256
    assert outcome.report.warnings[0].startswith("ONNX prune-unstructured+prune lost 0.")
    assert outcome.report.warnings[0].endswith("the result is ONNX prune-unstructured.")


def test_torch_method_after_a_graph_method_is_an_error(demo_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        run(job(demo_model, tmp_path / "out", (Method("int8"), Method("prune")), data="demo"))
    assert str(caught.value) == (
        "--method: prune works on the PyTorch model and cannot follow int8, which makes an ONNX graph of it; "
        "name prune before int8"
    )
