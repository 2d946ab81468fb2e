from __future__ import annotations

import errno
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import Digits, Net, accuracy, arrays, context, digest, exported, net, task, wrap
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.passes import training as module_under_test
from compressor.passes.checkpoint import copy_of
from compressor.passes.distill import Distill
from compressor.passes.loop import fit, rate
from compressor.passes.losses import Meaning
from compressor.passes.prune_masks import PruneUnstructured
from compressor.passes.training import Tick, Training, finetune, label_loss
from compressor.task.base import Examples


class Killed(BaseException):
    """Stands for whatever ends the process."""


def run(module: nn.Module, training: Training, workdir: Path | None = None, **options: Any) -> dict[str, bytes]:
    """Train a copy on the digits and give all its weights."""
    made = copy_of(module)
    examples = task(300).training()
    assert examples is not None
    fit(made, examples, label_loss(Meaning("classes"), examples), training, context(task(300), workdir), **options)
    return {name: value.numpy().tobytes() for name, value in made.state_dict().items()}


def several(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Three labels of a digit: above 4, odd, prime."""
    return np.stack([classes > 4, classes % 2, np.isin(classes, (2, 3, 5, 7))], 1).astype(np.int64)


def right(module: nn.Module) -> float:
    """Share of the last 400 pictures whose labels are all right."""
    x, y = arrays()
    return float(((module(torch.from_numpy(x[-400:])).numpy() > 0) == several(y[-400:])).all(1).mean())


def test_several_labels_per_example_are_learnt_from_labels_and_from_a_teacher() -> None:
    x, y = arrays()
    data = Digits(Examples((x[:600],), several(y[:600])), task().calibration(), "exact")
    teacher = finetune(net(16, classes=3), context(data), epochs=8, learning_rate=1e-2)
    assert right(net(16, classes=3).module) < 0.3
    assert right(teacher.module) > 0.55
    training = Distill(epochs=8, learning_rate=2e-2, weight=1.0)
    student = training.apply(net(16, classes=3, seed=1), context(data, teacher=teacher))
    pictures = torch.from_numpy(x[-400:])
    alike = (student.module(pictures) > 0) == (teacher.module(pictures) > 0)
    assert float(alike.float().mean()) > 0.85


def test_a_transformer_of_several_labels_is_trained_on_them() -> None:
    tiny = pytest.importorskip("tiny_transformers")
    model = tiny.small("bert", layers=1)
    model.module.hf.config.problem_type = "multi_label_classification"
    inputs = tiny.data(model.module.hf, 4)

    def meaning(targets: NDArray[np.int64] | None) -> Meaning:
        examples = Examples(inputs, targets)
        return module_under_test.meaning_on(model.module, model, examples, context(task(300)), "distill")

    assert meaning(np.eye(2, dtype=np.int64)[[0, 1, 1, 0]]) == meaning(None) == Meaning("binary")
    with pytest.raises(MethodError) as caught:
        meaning(np.zeros(4, np.int64))
    assert str(caught.value) == (
        "distill: the labels are (N,), the model's output is (N, 2); give a 0 or 1 for each of its labels"
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weights_that_a_method_set_to_0_stay_so(optimizer: str, tmp_path: Path) -> None:
    model = PruneUnstructured(fraction=0.6).apply(net(), context(task()))
    zero = {name: value == 0 for name, value in model.module.named_parameters() if value.ndim > 1}
    made = [finetune(model, context(task(300)), epochs=1, learning_rate=1e-2)]
    distill = Distill(epochs=1, learning_rate=1e-2, optimizer=optimizer)  # type: ignore[arg-type]
    made.append(distill.apply(model, context(task(300), teacher=net(seed=1))))
    for trained in made:
        found = dict(trained.module.named_parameters())
        assert all(bool((found[name][where] == 0).all()) for name, where in zero.items())
        assert any(bool((found[name] != value).any()) for name, value in model.module.named_parameters())


def test_fine_tuning_learns_and_leaves_its_input_alone() -> None:
    model = net()
    before = digest(model)
    tuned = finetune(model, context(task()), epochs=8, learning_rate=1e-2)
    assert digest(model) == before
    assert not any(p.requires_grad for p in model.module.parameters())
    assert accuracy(model.module) < 0.3
    assert accuracy(tuned.module) > 0.8
    assert not tuned.module.training
    assert not any(p.requires_grad for p in tuned.module.parameters())
    step = tuned.steps[-1]
    assert (step.method, step.settings["epochs"], step.settings["learning_rate"]) == ("finetune", 8, 1e-2)
    assert step.notes[0].startswith("Trained for 8 of 8 epochs; the weights of epoch ")


def test_a_graph_from_an_exported_program_can_be_trained() -> None:
    good = finetune(net(), context(task()), epochs=6, learning_rate=1e-2)
    graph = exported(good)
    with pytest.raises(NotImplementedError):
        graph.module.train()
    with torch.no_grad():
        graph.module.get_parameter("head.weight").mul_(0.1)
    spoilt = accuracy(graph.module)
    before = digest(graph)
    tuned = finetune(graph, context(task()), epochs=4, learning_rate=1e-2)
    assert digest(graph) == before
    assert accuracy(tuned.module) > max(spoilt, 0.8)
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(digest(tuned)[name] == before[name] for name in statistics)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, same, other = (
        digest(finetune(net(), context(task(300), seed=seed), epochs=2, learning_rate=1e-2)) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_the_callers_random_numbers_and_threads_stay() -> None:
    torch.manual_seed(5)
    wanted, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    run(Net(), Training(epochs=1))
    # Net() draws its weights, so the state is compared with that of a second Net() without training.
    found = torch.rand(3)
    torch.manual_seed(5)
    Net()
    assert torch.equal(found, torch.rand(3))
    assert not torch.equal(found, wanted)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("optimizer", "stop"), [("adamw", (1, 2)), ("adamw", (2, 1)), ("adamw", (3, 5)), ("sgd", (2, 3))]
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path, optimizer: str, stop: tuple[int, int]) -> None:
    module = net().module
    settings = Training(epochs=3, batch=64, learning_rate=1e-2, optimizer=optimizer, checkpoint_minutes=0)  # type: ignore[arg-type]
    wanted = run(module, replace(settings, checkpoint_minutes=10))

    def kill(tick: Tick) -> None:
        if (tick.epoch, tick.step) == stop and not tick.validated:
            raise Killed

    with pytest.raises(Killed):
        run(module, settings, tmp_path, on_progress=kill)
    ticks: list[Tick] = []
    assert run(module, settings, tmp_path, on_progress=ticks.append) == wanted
    first = ticks[0]
    assert (first.epoch, first.step) > stop or (stop[1] == 5 and (first.epoch, first.step) == stop)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, settings = net().module, Training(epochs=2, batch=64, checkpoint_minutes=0)
    wanted = run(module, settings)
    writes = 0

    def interrupted(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(Killed):
            run(module, settings, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert run(module, settings, tmp_path) == wanted


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    module = net().module
    wanted = run(module, Training(epochs=2), tmp_path)
    ticks: list[Tick] = []
    assert run(module, Training(epochs=2, checkpoint_minutes=3), tmp_path, on_progress=ticks.append) == wanted
    assert ticks == []


@pytest.mark.parametrize("change", ["settings", "weights", "key"])
def test_a_checkpoint_of_another_run_is_not_taken_up(tmp_path: Path, change: str) -> None:
    module = net().module
    run(module, Training(epochs=1), tmp_path)
    other = net(seed=3).module if change == "weights" else module
    settings = Training(epochs=1, learning_rate=2e-3) if change == "settings" else Training(epochs=1)
    options = {"key": "another teacher"} if change == "key" else {}
    ticks: list[Tick] = []
    run(other, settings, tmp_path, on_progress=ticks.append, **options)
    assert len(ticks) == 4  # 3 steps and a validation
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    module = net().module
    run(module, Training(epochs=1), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MethodError) as caught:
        run(module, Training(epochs=1), tmp_path)
    assert caught.value.what.startswith("the checkpoint is damaged: ")
    assert caught.value.where == str(path)
    assert caught.value.mend == "delete it to train from the start"


def test_checkpoints_hold_tensors_and_json_only(tmp_path: Path) -> None:
    def kill(tick: Tick) -> None:
        if tick.step == 2:
            raise Killed

    with pytest.raises(Killed):
        run(net().module, Training(epochs=1, batch=64, checkpoint_minutes=0), tmp_path, on_progress=kill)
    from safetensors import safe_open

    (path,) = tmp_path.iterdir()
    with safe_open(str(path), framework="np") as file:
        names = set(file.keys())
        assert set(file.metadata()) == {"progress"}
    assert {"module:head.weight", "best:head.weight", "optimizer:0.exp_avg", "optimizer:0.exp_avg_sq"} <= names


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: needs a device that is always full")
def test_a_full_disk_is_the_systems_error(tmp_path: Path) -> None:
    module = net().module
    run(module, Training(epochs=1), tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.with_suffix(".partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(module, Training(epochs=1), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_it_stops_early_and_keeps_the_best_weights() -> None:
    x, _ = arrays()
    labels = np.random.default_rng(0).integers(0, 10, 200)  # nothing to learn: only memorising
    data = Digits(Examples((x[:200],), labels), Examples((x[:50],), None))
    examples = data.training()
    assert examples is not None
    made, loss = copy_of(net(16).module), label_loss(Meaning("classes"), examples)
    settings = Training(epochs=40, learning_rate=3e-2, batch=20, patience=3)
    states: list[dict[str, bytes]] = [{name: value.numpy().tobytes() for name, value in made.state_dict().items()}]
    losses: list[float] = []

    def note(tick: Tick) -> None:
        if tick.validated:
            losses.append(tick.loss)
            states.append({name: value.detach().numpy().tobytes() for name, value in made.state_dict().items()})

    progress = fit(made, examples, loss, settings, context(data), on_progress=note)
    assert progress.epoch == len(losses) < 40
    assert progress.epoch - progress.best_epoch == 3
    assert progress.first is not None
    assert progress.best == min(progress.first, *losses) == [progress.first, *losses][progress.best_epoch]
    kept = {name: value.numpy().tobytes() for name, value in made.state_dict().items()}
    assert kept == states[progress.best_epoch]


def test_weights_that_training_only_spoils_are_kept() -> None:
    good = finetune(net(), context(task()), epochs=8, learning_rate=1e-2)
    x, y = arrays()
    wrong = Digits(Examples((x[:600],), y[:600]), Examples((x[:50],), None))
    spoilt = finetune(good, context(wrong), epochs=1, learning_rate=50.0)
    assert digest(spoilt) == digest(good)
    assert "no epoch lowered the validation loss" in spoilt.steps[-1].notes[0]


def test_without_a_validation_part_the_last_weights_are_kept() -> None:
    made = copy_of(net().module)
    examples = task(300).training()
    assert examples is not None
    loss = label_loss(Meaning("classes"), examples)
    progress = fit(made, examples, loss, Training(epochs=2, validation=0), context(task(300)))
    assert (progress.epoch, progress.best, progress.best_epoch) == (2, None, 2)


def test_the_validation_part_is_not_trained_on() -> None:
    seen: set[int] = set()
    held: set[int] = set()
    made = copy_of(net().module)
    examples = task(300).training()
    assert examples is not None
    inner = label_loss(Meaning("classes"), examples)

    def loss(outputs: Any, batch: Any) -> Tensor:
        (seen if torch.is_grad_enabled() else held).update(batch.rows.tolist())
        return inner(outputs, batch)

    fit(made, examples, loss, Training(epochs=2, validation=0.2), context(task(300)))
    assert len(held) == 60
    assert len(seen) == 240
    assert not seen & held


def test_numbers_are_fitted_by_least_squares() -> None:
    x, _ = arrays()
    wanted = x[:600].mean((1, 2, 3))
    data = Digits(Examples((x[:600],), wanted), Examples((x[:50],), None), "mse")
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    tuned = finetune(model, context(data), epochs=30, learning_rate=1e-2)
    with torch.no_grad():
        error = tuned.module(torch.from_numpy(x[-200:])).flatten().numpy() - x[-200:].mean((1, 2, 3))
    assert float(np.sqrt((error**2).mean())) < 0.05


@pytest.mark.parametrize("sigmoid", [False, True])
def test_one_score_is_fitted_by_binary_cross_entropy(sigmoid: bool) -> None:
    x, y = arrays()
    chosen = y < 2
    x, y = x[chosen], y[chosen]
    data = Digits(Examples((x[:300],), y[:300]), Examples((x[:50],), None))
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), *([nn.Sigmoid()] if sigmoid else [])))
    tuned = finetune(model, context(data), epochs=10, learning_rate=1e-2, batch=32)
    with torch.no_grad():
        found = tuned.module(torch.from_numpy(x[300:])).flatten().numpy() > (0.5 if sigmoid else 0)
    assert (found == y[300:]).mean() > 0.95


def test_a_fixed_batch_is_kept_to() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.reshape(8, 64))

    tuned = finetune(wrap(Fixed(), batch=8), context(task(300)), epochs=2, learning_rate=1e-2)
    assert "epoch 2 are kept" in tuned.steps[-1].notes[0]


def test_inputs_are_changed_by_the_users_callable(tmp_path: Path) -> None:
    code = tmp_path / "augment.py"
    code.write_text(
        "import torch\n"
        "def noise(inputs, generator):\n"
        "    x, = inputs\n"
        "    return (x + torch.randn(x.shape, generator=generator),)\n"
    )
    module = net().module
    plain = run(module, Training(epochs=1, validation=0))
    settings = Training(epochs=1, validation=0, augment=f"{code}:noise")
    assert run(module, settings) == run(module, settings)
    assert run(module, settings) != plain


def test_whoever_listens_hears_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from compressor.passes import loop

    monkeypatch.setattr(loop, "TELL_EVERY", 0.0)
    heard: list[tuple[float, float, str]] = []
    held = replace(context(task(300)), on_progress=lambda done, total, text: heard.append((done, total, text)))
    finetune(net(), held, epochs=2, batch=100)
    assert len(heard) == 2 * (3 + 1)  # three steps and a validation
    assert all(0 <= done <= total for done, total, _ in heard)
    assert heard[0][2].startswith("finetune: epoch 1 of 2, loss 2.")
    assert heard[3][2].startswith("finetune: epoch 1 of 2, validation loss ")
    assert heard[-1][0] == pytest.approx(heard[-1][1])


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 1e-3
    assert rate(0, 1) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "training: epochs is 0, not at least 1"),
        ({"learning_rate": 0.0}, "training: learning_rate is 0.0, not above 0"),
        ({"learning_rate": float("nan")}, "training: learning_rate is nan, not above 0"),
        ({"batch": 0}, "training: batch is 0, not at least 1"),
        ({"validation": 1.0}, "training: validation is 1.0, not from 0 to below 1"),
        ({"patience": 0}, "training: patience is 0, not at least 1"),
        ({"checkpoint_minutes": -1}, "training: checkpoint_minutes is -1, not at least 0"),
        ({"optimizer": "adam"}, "training: has no optimizer 'adam'; did you mean 'adamw'? known: adamw, sgd"),
        (
            {"augment": "flip"},
            "training: has no augment 'flip'; known: mirror, shift, or package.module:callable or file.py:callable",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        Training(**settings)
    assert str(caught.value) == message


X, Y = arrays()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "finetune: there are no training examples; give data with a part to train on"),
        (Examples((X[:50],), None), "finetune: the training examples have no labels; give data with labels"),
        (
            Examples((X[:50],), Y[:50] + 1),
            "finetune: labels go up to 10 but the model has 10 outputs; number the classes from 0, or check that the "
            "data belong to this model",
        ),
        (Examples((X[:50],), Y[:50] - 1), "finetune: labels go down to -1; number the classes from 0"),
        (
            Examples((X[:50],), np.zeros((50, 3), np.int64)),
            "finetune: the labels are (N, 3), the model's output is (N, 10); give one class number for each row of "
            "scores, (N,) for (N, C), or a 0 or 1 for each score",
        ),
        (
            Examples((X[:50],), np.zeros(50, np.float32)),
            "finetune: the targets are (N,), the model's output is (N, 10)",
        ),
        (
            Examples((X[:1],), Y[:1]),
            "finetune: 1 training examples are too few to train on and validate; give more, or set validation to 0",
        ),
    ],
)
def test_data_that_cannot_serve(data: Examples | None, message: str) -> None:
    made = Digits(data, Examples((X[:10],), None))
    with pytest.raises(MethodError) as caught:
        finetune(net(), context(made), epochs=1)
    assert str(caught.value) == message


def test_a_loss_that_is_not_finite_names_epoch_and_step() -> None:
    x = X[:200].copy()
    x[:] = np.where(np.arange(200).reshape(-1, 1, 1, 1) % 2, x, 1e30)
    data = Digits(Examples((x,), Y[:200]), Examples((X[:10],), None))
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1e10)
    with pytest.raises(MethodError) as caught:
        finetune(wrap(module), context(data), epochs=1)
    assert str(caught.value) == (
        "finetune: the loss is nan before training; give a smaller learning_rate, and check the data for NaN"
    )
    examples = data.training()
    assert examples is not None
    loss = label_loss(Meaning("classes"), examples)
    with pytest.raises(MethodError) as caught:
        fit(module, examples, loss, Training(validation=0), context(data))
    assert str(caught.value) == (
        "training: the loss is nan in epoch 1, step 1 of 2; give a smaller learning_rate, and check the data for NaN"
    )
    assert not any(p.requires_grad for p in module.parameters())


def test_a_module_without_weights() -> None:
    examples = task(100).training()
    assert examples is not None
    with pytest.raises(MethodError) as caught:
        fit(nn.Flatten(), examples, label_loss(Meaning("classes"), examples), Training(), context(task()))
    assert str(caught.value) == (
        "training: the model has no weights to train; save it so that its weights are parameters, not constants"
    )


def test_class_numbers_have_no_gradient() -> None:
    class Decided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1)).argmax(1)

    with pytest.raises(MethodError) as caught:
        finetune(wrap(Decided()), context(task()), epochs=1)
    assert str(caught.value) == (
        "finetune: the model's first output is int64 (256,), which has no gradient; train a model that gives scores, "
        "(N, C), or numbers"
    )


class InPlace(nn.Module):
    """Runs, but overwrites what its gradient needs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.linear(x.flatten(1)))
        x[:, 0] = 0
        return self.head(x)


class Huge(nn.Module):
    """Stands for a model whose batch takes more memory than there is, with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("module", "count", "message"),
    [
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)),
            2,  # one to validate with
            "finetune: a batch norm was given one example, whose statistics mean nothing; give more training examples, "
            "or a larger batch",
        ),
        (
            InPlace,
            20,
            "finetune: the model runs but cannot be trained: RuntimeError: one of the variables needed for gradient "
            "computation has been modified by an inplace operation: ",
        ),
        (Huge, 20, "finetune: ran out of memory; give a smaller batch"),
    ],
)
def test_models_that_run_but_cannot_be_trained(module: Any, count: int, message: str) -> None:
    data = Digits(Examples((X[:count],), Y[:count]), Examples((X[:10],), None))
    with pytest.raises(MethodError) as caught:
        finetune(wrap(module()), context(data), epochs=1)
    assert str(caught.value).startswith(message)


def test_outputs_that_are_not_trained_are_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(64, 10), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"class": self.one(x.flatten(1)), "box": self.other(x.flatten(1))}

    tuned = finetune(wrap(Two()), context(task(100)), epochs=1)
    assert tuned.steps[-1].notes[1:] == (
        "Only the first of the model's 2 outputs was trained: see what became of the others.",
    )


def test_importing_loads_no_torch() -> None:
    import subprocess
    import sys

    code = f"import sys, {module_under_test.__name__}; print(sorted({{'torch', 'accelerate'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
