from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import Digits, Net, accuracy, arrays, context, digest, exported, net, task, wrap
from torch import Tensor, nn

from compressor.errors import DataError, MethodError
from compressor.model.base import TorchModel
from compressor.passes.distill import Distill
from compressor.passes.hints import attention_map
from compressor.passes.losses import Meaning
from compressor.passes.training import Tick, finetune
from compressor.task.base import Examples

X, Y = arrays()


class Killed(BaseException):
    """Stands for whatever ends the process."""


@cache
def teacher() -> TorchModel:
    """A net with three equal blocks, about 97 % right."""
    return finetune(net(16, 3), context(task()), epochs=8, learning_rate=1e-2)


def test_a_student_learns_from_the_original_without_labels_and_changes_neither() -> None:
    student = net(8)
    before, original = digest(student), digest(teacher())
    unlabeled = Digits(None, Examples((X[:1000],), None))
    made = Distill(epochs=12, learning_rate=1e-2, unlabeled=True).apply(student, context(unlabeled, teacher=teacher()))
    assert (digest(student), digest(teacher())) == (before, original)
    assert not any(p.requires_grad for p in (*student.module.parameters(), *teacher().module.parameters()))
    assert accuracy(student.module) < 0.3
    assert accuracy(made.module) > 0.85
    assert not made.module.training
    step = made.steps[-1]
    assert (step.method, step.settings["temperature"], step.settings["student"]) == ("distill", 4.0, "same")
    assert step.notes[:3] == (
        "The student is the model as the stage before left it.",
        "Trained on the 1000 calibration examples, without labels.",
        "The original's outputs were computed once.",
    )


def test_a_few_labels_teach_less_than_the_originals_outputs() -> None:
    """What distillation is for: the original answers on pictures that nobody has labelled."""
    few = Digits(Examples((X[:60],), Y[:60]), Examples((X[:1000],), None))
    alone = finetune(net(8), context(few), epochs=60, learning_rate=1e-2, batch=16)
    unlabeled = replace(few, train=Examples((X[:1000],), None))
    taught = Distill(epochs=12, learning_rate=1e-2).apply(net(8), context(unlabeled, teacher=teacher()))
    assert accuracy(taught.module) > accuracy(alone.module)
    assert taught.steps[-1].notes[1] == (
        "The training examples have no labels: the student learns from the original alone."
    )


def test_a_graph_from_an_exported_program_is_student_and_teacher() -> None:
    spoilt = exported(teacher())
    with torch.no_grad():
        spoilt.module.get_parameter("head.weight").mul_(0.05)
    before = accuracy(spoilt.module)
    made = Distill(epochs=6, learning_rate=1e-2).apply(spoilt, context(task(), teacher=exported(teacher())))
    assert accuracy(made.module) > before


def test_fewer_layers_keep_the_first_and_the_last() -> None:
    made = Distill(epochs=4, learning_rate=3e-3, student="layers", layers=0.67).apply(
        teacher(), context(task(), teacher=teacher())
    )
    assert made.steps[-1].notes[0] == "The student keeps 2 of the 3 layers of 'blocks': 0, 2."
    assert len(made.module.blocks) == 2
    assert len(teacher().module.blocks) == 3
    assert accuracy(made.module) > 0.9


def test_layers_of_a_transformer_are_left_out() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x.flatten(1, 2)).mean(1))

    torch.manual_seed(0)
    model = wrap(Encoder())
    step = Distill(epochs=1, student="layers").apply(model, context(task(200), teacher=model))
    assert len(step.module.encoder.layers) == 2
    assert step.steps[-1].notes[0] == "The student keeps 2 of the 4 layers of 'encoder.layers': 0, 3."


def test_a_student_of_ones_own(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "from torch import nn\n"
        "def small():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def wrong():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
        "def blind():\n"
        "    return nn.Linear(3, 10)\n"
        "def nothing():\n"
        "    return 7\n"
        "def broken():\n"
        "    raise ValueError('no weights here')\n"
    )
    held = context(task(), teacher=teacher())
    settings: dict[str, Any] = {"epochs": 10, "learning_rate": 1e-2}
    made, same = (Distill(student=f"{code}:small", **settings).apply(teacher(), held) for _ in range(2))
    assert accuracy(made.module) > 0.8
    assert digest(made) == digest(same)
    messages = {
        "wrong": "distill: the student's output is (N, 4), the original's is (N, 10); give a student with "
        "the same outputs",
        "nothing": f"distill: student '{code}:nothing' is a int, not a torch.nn.Module",
        "broken": f"distill: student '{code}:broken' raised ValueError: no weights here; name a callable that takes no "
        "arguments",
    }
    for name, message in messages.items():
        with pytest.raises(MethodError) as caught:
            Distill(student=f"{code}:{name}").apply(teacher(), held)
        assert str(caught.value) == message
    with pytest.raises(MethodError) as caught:
        Distill(student=f"{code}:blind").apply(teacher(), held)
    assert str(caught.value).startswith("distill: the student does not run on the model's inputs: RuntimeError: ")
    with pytest.raises(DataError, match="has no 'smal'; did you mean 'small'"):
        Distill(student=f"{code}:smal").apply(teacher(), held)


def test_features_and_attention_maps_are_imitated() -> None:
    """More of either brings the student's layers nearer to the original's, by a measure the loss does not use."""

    def apart(features: float, attention: float) -> tuple[float, float]:
        settings = Distill(
            epochs=4,
            learning_rate=1e-2,
            features=("blocks.0=blocks.2",),
            feature_weight=features,
            attention=("norm",),
            attention_weight=attention,
        )
        made = settings.apply(net(16), context(task(600), teacher=teacher())).module
        heard: dict[str, Tensor] = {}
        for module, key, name in ((made, "0", "blocks.0"), (made, "1", "norm")):
            module.get_submodule(name).register_forward_hook(lambda m, i, o, key=key: heard.update({"mine" + key: o}))
        theirs = {"0": "blocks.2", "1": "norm"}
        handles = [
            teacher()
            .module.get_submodule(name)
            .register_forward_hook(lambda m, i, o, key=key: heard.update({"his" + key: o}))
            for key, name in theirs.items()
        ]
        with torch.no_grad():
            made(torch.from_numpy(X[-200:]))
            teacher().module(torch.from_numpy(X[-200:]))
        for handle in handles:
            handle.remove()
        cosine = nn.functional.cosine_similarity(heard["mine0"].flatten(1), heard["his0"].flatten(1))
        maps = (attention_map(heard["mine1"]) - attention_map(heard["his1"])).abs().mean()
        return float(cosine.mean()), float(maps)

    without, with_features, with_attention = apart(0, 0), apart(10, 0), apart(0, 1000)
    assert with_features[0] > without[0] + 0.1
    assert with_attention[1] < 0.8 * without[1]


def test_a_projector_joins_layers_of_different_width() -> None:
    settings = Distill(epochs=1, features=("stem", "head"), feature_weight=1.0)
    made = settings.apply(net(8), context(task(200), teacher=teacher()))
    assert set(made.module.state_dict()) == set(net(8).module.state_dict())  # the projectors are gone
    assert not any(part._forward_hooks for part in made.module.modules())
    assert made.steps[-1].settings["features"] == "stem, head"


def test_the_originals_outputs_are_computed_once_and_kept(tmp_path: Path) -> None:
    calls = 0

    class Counted(Net):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x)

    torch.manual_seed(0)
    original = wrap(Counted(16))
    settings = Distill(epochs=5, batch=100, learning_rate=1e-2)
    settings.apply(net(8), context(task(300), tmp_path, original))
    assert calls == 2 + 3  # the fit of shapes, what the output means, and three batches
    (kept,) = tmp_path.glob("teacher-*.npy")
    with torch.no_grad():
        wanted = original.module(torch.from_numpy(X[:300])).numpy()
    np.testing.assert_allclose(np.load(kept), wanted, rtol=1e-4, atol=1e-5)
    assert not list(tmp_path.glob("*.partial"))
    calls = 0
    Distill(epochs=1, batch=100).apply(net(8), context(task(300), tmp_path, original))
    assert calls == 2


def test_a_kill_in_the_middle_resumes_to_the_same_result(tmp_path: Path) -> None:
    """A process is really killed: SIGKILL from inside, after the fourth step of the second epoch."""
    code = tmp_path / "distilling.py"
    code.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from digits import context, net, task\n"
        "from compressor.passes.distill import Distill\n"
        "def kill(tick):\n"
        "    if (tick.epoch, tick.step) == (2, 4):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "held = context(task(300), Path(sys.argv[1]), net(16, 2, seed=5))\n"
        "Distill(epochs=3, batch=32, checkpoint_minutes=0).apply(net(8), held, kill)\n"
    )
    root, folder = Path(__file__).parents[2], tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, str(code), str(folder)],
        env={"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(folder.glob("distill-*.safetensors"))) == 1

    settings = Distill(epochs=3, batch=32)
    ticks: list[Tick] = []
    resumed = settings.apply(net(8), context(task(300), folder, net(16, 2, seed=5)), ticks.append)
    assert (ticks[0].epoch, ticks[0].step) == (2, 5)  # the fourth was saved before it was told of
    whole = settings.apply(net(8), context(task(300), teacher=net(16, 2, seed=5)))
    assert digest(resumed) == digest(whole)


def test_several_processes_train_one_student(tmp_path: Path) -> None:
    """Two processes on this machine, as ``accelerate launch`` starts them; a batch is cut between them.

    The second one's clock calls for a checkpoint after every step, and the first one's never does: only the first one
    writes, and a second that wrote as well would find its file renamed away under its hands.
    """
    code = tmp_path / "both.py"
    code.write_text(
        "import hashlib, os, sys\n"
        "from pathlib import Path\n"
        "from digits import context, digest, net, task\n"
        "from compressor.passes import loop\n"
        "from compressor.passes.checkpoint import Checkpoint\n"
        "from compressor.passes.distill import Distill\n"
        "rank, save, cut = os.environ['RANK'], Checkpoint.save, loop._Run._batch\n"
        "log = open(f'log{rank}', 'w')\n"
        "def saved(checkpoint, progress, tensors):\n"
        "    print('saved', progress.epoch, file=log)\n"
        "    save(checkpoint, progress, tensors)\n"
        "def part(run, rows):\n"
        "    batch = cut(run, rows)\n"
        "    print('half' if 2 * len(batch.rows) == len(rows) else 'whole', file=log)\n"
        "    return batch\n"
        "Checkpoint.save, loop._Run._batch = saved, part\n"
        "held = context(task(400), Path(sys.argv[1]), net(16, 2, seed=5))\n"
        "settings = Distill(epochs=2, batch=120, learning_rate=1e-2, checkpoint_minutes=0 if rank == '1' else 60)\n"
        "made = settings.apply(net(8), held)\n"
        "print('weights', hashlib.sha256(repr(sorted(digest(made).items())).encode()).hexdigest(), file=log)\n"
        "log.close()\n"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(code), "run"],
        env={
            "PYTHONPATH": f"{root}:{root / 'tests'}",
            "PATH": "",
            "ACCELERATE_USE_CPU": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    one, other = ((tmp_path / f"log{rank}").read_text().splitlines() for rank in (0, 1))
    batches = ["half"] + 2 * ["half", "half", "half", "half"]  # before training; three steps and a validation
    assert [line for line in one if line != "half"] == ["saved 1", "saved 2", one[-1]]
    assert other == [*batches, one[-1]]
    assert sorted(path.suffix for path in (tmp_path / "run").iterdir()) == [".npy", ".safetensors"]


def test_a_full_disk_leaves_nothing_of_the_originals_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:  # stands for a disk that is full
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        Distill(epochs=1).apply(net(8), context(task(100), tmp_path, teacher()))
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_hints_resumes_too(tmp_path: Path) -> None:
    settings = Distill(epochs=2, batch=64, features=("stem",), checkpoint_minutes=0)

    def kill(tick: Tick) -> None:
        if (tick.epoch, tick.step) == (1, 3):
            raise Killed

    wanted = digest(settings.apply(net(8), context(task(300), teacher=teacher())))
    with pytest.raises(Killed):
        settings.apply(net(8), context(task(300), tmp_path, teacher()), kill)
    assert digest(settings.apply(net(8), context(task(300), tmp_path, teacher()))) == wanted


def test_another_original_is_another_run(tmp_path: Path) -> None:
    settings = Distill(epochs=1, learning_rate=1e-2)
    one = settings.apply(net(8), context(task(300), tmp_path, teacher()))
    two = settings.apply(net(8), context(task(300), tmp_path, net(16, 3, seed=9)))
    assert digest(one) != digest(two)
    assert len(list(tmp_path.glob("distill-*.safetensors"))) == len(list(tmp_path.glob("teacher-*.npy"))) == 2


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_soft_loss_is_hintons() -> None:
    draw = np.random.default_rng(0)
    student, original, temperature = draw.normal(size=(5, 4)), draw.normal(size=(5, 4)), 3.0

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x)
        return e / e.sum(1, keepdims=True)

    p, q = softmax(original / temperature), softmax(student / temperature)
    wanted = temperature**2 * float((p * np.log(p / q)).sum(1).mean())
    found = Meaning("classes").teacher_loss(torch.tensor(student), torch.tensor(original), temperature)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_probabilities_teach_as_their_logits_do() -> None:
    torch.manual_seed(0)
    student, original = torch.randn(6, 4), torch.randn(6, 4)
    plain = Meaning("classes").teacher_loss(student, original, 2.0)
    soft = Meaning("classes", True).teacher_loss(student.softmax(1), original.softmax(1), 2.0)
    assert float(soft) == pytest.approx(float(plain), rel=1e-4)
    one, two = student[:, :1], original[:, 0]
    plain = Meaning("binary").teacher_loss(one, two, 2.0)
    assert float(Meaning("binary", True).teacher_loss(one.sigmoid(), two.sigmoid(), 2.0)) == pytest.approx(
        float(plain), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["classes", "binary", "numbers"])
def test_the_soft_loss_is_smallest_at_the_original(kind: Any) -> None:
    torch.manual_seed(0)
    original = torch.randn(6, 1 if kind == "binary" else 4)
    student = original.clone().requires_grad_(True)
    Meaning(kind).teacher_loss(student, original, 4.0).backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-6


def test_numbers_are_distilled_by_least_squares() -> None:
    wanted = X.mean((1, 2, 3))
    data = Digits(Examples((X[:600],), wanted[:600]), Examples((X[:50],), None), "mse")
    torch.manual_seed(0)
    original = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    with torch.no_grad():
        original.module[1].weight.fill_(1 / 64)
        original.module[1].bias.zero_()
    student = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    made = Distill(epochs=30, learning_rate=1e-2).apply(student, context(data, teacher=original))
    with torch.no_grad():
        error = made.module(torch.from_numpy(X[-200:])).flatten().numpy() - wanted[-200:]
    assert float(np.sqrt((error**2).mean())) < 0.05


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "distill: epochs is 0, not at least 1"),
        ({"temperature": 0.0}, "distill: temperature is 0.0, not above 0"),
        ({"weight": 1.5}, "distill: weight is 1.5, not from 0 to 1"),
        ({"layers": 0.0}, "distill: layers is 0.0, not a share below 1 or a number of layers"),
        ({"layers": 1.5}, "distill: layers is 1.5, not a share below 1 or a number of layers"),
        ({"width": 1.0}, "distill: width is 1.0, not above 0 and below 1"),
        ({"feature_weight": -1.0}, "distill: feature_weight is -1.0, not at least 0"),
        ({"attention_weight": -1.0}, "distill: attention_weight is -1.0, not at least 0"),
        (
            {"student": "layer"},
            "distill: has no student 'layer'; did you mean 'layers'? known: layers, narrower, same, or "
            "package.module:callable or file.py:callable",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        Distill(**settings)
    assert str(caught.value) == message


def _no_layers() -> TorchModel:
    return wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        (
            {"student": "layers"},
            _no_layers,
            "distill: the model has no ModuleList or Sequential of equal layers to leave some out of; name a student "
            "of your own",
        ),
        (
            {"student": "layers"},
            lambda: exported(net(8, 2)),
            "distill: an exported program has no layers left to leave out; give the model as weights with --arch, or "
            "name a student of your own",
        ),
        (
            {"student": "layers", "layers": 0.9},
            lambda: net(8, 2),
            "distill: layers is 0.9, which keeps all 2 layers of 'blocks'",
        ),
        (
            {"features": ["stem"]},
            lambda: exported(net(8)),
            "distill: the student is an exported program, whose layers cannot be listened to; give the model as "
            "weights with --arch, or leave out features and attention",
        ),
        (
            {"features": ["stem=blocks.0"]},
            lambda: net(8, 1),
            None,
        ),
        (
            {"features": ["norm=head"]},
            lambda: net(8),
            "distill: layer 'norm=head' gives (2, 8, 8, 8) in the student and (2, 10) in the original; they may differ "
            "in one axis only",
        ),
        (
            {"attention": ["head"]},
            lambda: net(8),
            "distill: layer 'head' gives (2, 10) in the student and (2, 10) in the original; attention needs pictures "
            "(N, C, H, W) of one height and width",
        ),
        (
            {"features": ["blocks"]},
            lambda: net(8),
            "distill: layer 'blocks' is not called by forward()",
        ),
    ],
)
def test_students_and_layers_that_do_not_fit(
    settings: dict[str, Any], model: Callable[[], TorchModel], message: str | None
) -> None:
    made = Distill(epochs=1, **settings)
    held = context(task(100), teacher=teacher())
    if message is None:
        made.apply(model(), held)
        return
    with pytest.raises(MethodError) as caught:
        made.apply(model(), held)
    assert str(caught.value) == message


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(MethodError) as caught:
        Distill(features=("sten",)).apply(net(8), context(task(100), teacher=teacher()))
    assert str(caught.value).startswith(
        "distill: the student has no layer 'sten'; did you mean 'stem'? known: blocks, "
    )


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (
            None,
            {},
            "distill: there are no training examples; give data with a part to train on, or set unlabeled to learn "
            "from the original's outputs on the calibration examples",
        ),
        (
            Examples((X[:50],), Y[:50] + 5),
            {},
            "distill: labels go up to 14 but the model has 10 outputs; number the classes from 0, or check that the "
            "data belong to this model",
        ),
        (
            Examples((np.full_like(X[:50], 1e38),), None),
            {},
            "distill: the original's outputs on the training examples are NaN or infinite; check the data and the "
            "model",
        ),
    ],
)
def test_data_that_cannot_serve(data: Examples | None, settings: dict[str, Any], message: str) -> None:
    made = Digits(data, Examples((X[:50],), None))
    with pytest.raises(MethodError) as caught:
        Distill(epochs=1, **settings).apply(net(8), context(made, teacher=teacher()))
    assert str(caught.value) == message


def test_without_an_original_or_anything_to_learn() -> None:
    with pytest.raises(MethodError) as caught:
        Distill().apply(net(8), context(task(100)))
    assert str(caught.value) == ("distill: there is no original model to learn from; give a PyTorch model, not ONNX")
    with pytest.raises(MethodError) as caught:
        Distill(unlabeled=True).apply(teacher(), context(task(100), teacher=teacher()))
    assert str(caught.value) == (
        "distill: the student is the original itself, and without labels it has nothing to learn; prune before, or "
        "name another student"
    )
