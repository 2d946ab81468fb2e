from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from topologies import settle, topology, torch_model
from torch import Tensor, nn

from compressor.errors import MethodError, RecipeError
from compressor.export import check_parity, export_onnx, export_program
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.graph import ChannelGraph
from compressor.passes.prune import Prune
from compressor.passes.registry import make_pass
from compressor.results import TaskSummary
from compressor.runtimes.registry import open_session
from compressor.task.base import Examples


@dataclass(frozen=True)
class Labelled:
    """A task with training examples only."""

    examples: Examples | None = None

    @property
    def summary(self) -> TaskSummary:
        return TaskSummary("random", "accuracy", False, 0, 0)

    def training(self) -> Examples | None:
        return self.examples

    def calibration(self) -> Examples:
        return self.examples or Examples((), None)


NO_DATA = Context(Labelled())  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convnet(width: int = 64) -> TorchModel:
    torch.manual_seed(0)
    return torch_model(
        nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5),
        ),
        torch.randn(2, 3, 6, 6),
    )  # fmt: skip


@pytest.mark.parametrize("target", ["parameters", "flops"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_target_is_met_within_a_channel(target: str, scope: str, share: float) -> None:
    model = convnet()
    smaller = Prune(**{target: share}, scope=scope, round_to=1).apply(model, NO_DATA)  # type: ignore[arg-type]
    before, after = ChannelGraph(model), ChannelGraph(smaller)
    sizes = [graph.parameter_count(graph.none) if target == "parameters" else graph.flops(graph.none)
             for graph in (before, after)]  # fmt: skip
    removed = 1 - sizes[1] / sizes[0]
    assert share <= removed < share + 0.04  # uniform takes one of 64 channels from both layers at a time
    settings = smaller.steps[-1].settings
    assert settings[f"removed_{target}"] == round(removed, 4)
    assert parameters(smaller.module) == after.parameter_count(after.none)


def test_account() -> None:
    smaller = Prune(flops=0.5, scope="uniform").apply(convnet(), NO_DATA)
    step = smaller.steps[-1]
    assert step.method == "prune"
    assert step.notes == (
        "Parameters 39,301 → 18,869 (-52.0%), FLOPs per example 2,779,264 → 1,322,400 (-52.4%).",
        "Output channels: 0 (64 → 40), 3 (64 → 48).",
        "Kept at their width: 8.",
        "The batch norms keep the statistics of the whole model: 0 real examples are too few to measure them anew.",
        "Not fine-tuned: accuracy comes back with training or distillation.",
    )
    assert step.settings == {
        "parameters": None, "flops": 0.5, "time": None, "importance": "magnitude", "scope": "uniform", "steps": 1,
        "finetune_epochs": 0, "learning_rate": None, "round_to": 8, "rules": "", "augment": "",
        "removed_parameters": 0.5199, "removed_flops": 0.5242,
    }  # fmt: skip


@pytest.mark.parametrize("round_to", [1, 4, 16])
def test_widths_are_multiples(round_to: int) -> None:
    smaller = Prune(parameters=0.4, round_to=round_to).apply(convnet(), NO_DATA)
    widths = [len(layer.channels) for layer in ChannelGraph(smaller).layers[:2]]
    assert all(width % round_to == 0 and 0 < width <= 64 for width in widths)
    assert min(widths) < 64


def test_narrow_layers_stay() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 2))
    smaller = Prune(parameters=0.3).apply(torch_model(net, torch.randn(2, 6)), NO_DATA)
    assert [len(layer.channels) for layer in ChannelGraph(smaller).layers] == [5, 40, 2]


def test_least_important_go_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        for weight in (net[0].weight, net[0].bias):
            weight[8:] *= 1e-6
    model = torch_model(net, torch.randn(2, 6))
    smaller = Prune(parameters=0.4).apply(model, NO_DATA)
    torch.testing.assert_close(smaller.module.get_parameter("0.weight"), net[0].weight[:8])
    torch.testing.assert_close(smaller.module(*model.example_inputs), net(*model.example_inputs), atol=1e-4, rtol=0)


def test_heads_go_whole() -> None:
    smaller = Prune(parameters=0.35, round_to=4, rules=("include *self_attn* linear",)).apply(
        topology("encoder"), NO_DATA
    )
    widths = {layer.name: len(layer.channels) for layer in ChannelGraph(smaller).layers}
    # Heads are 4 wide; queries, keys and values are packed.
    packed = [width for name, width in widths.items() if name.endswith("in_proj")]
    assert all(width % 12 == 0 for width in packed)
    assert min(packed) < 48


def test_rules() -> None:
    smaller = Prune(parameters=0.4, rules=("exclude 0",)).apply(convnet(), NO_DATA)
    widths = {layer.name: len(layer.channels) for layer in ChannelGraph(smaller).layers}
    assert widths["0"] == 64
    assert widths["3"] < 64
    assert "Left alone by the rules: 0." in smaller.steps[-1].notes


def test_steps_end_at_the_target() -> None:
    smaller = Prune(parameters=0.6, steps=3, round_to=1).apply(convnet(), NO_DATA)
    assert 0.4 - 0.03 < parameters(smaller.module) / parameters(convnet().module) <= 0.4
    assert [step.method for step in smaller.steps] == ["prune"]


def pretended(model: TorchModel) -> float:
    """A clock that this test makes up: a fixed cost, and one per operation."""
    graph = ChannelGraph(model)
    return 1e-3 + 1e-9 * graph.flops(graph.none)


def test_time_is_searched_for_by_measuring() -> None:
    model = convnet()
    context = Context(Labelled(), measure=pretended)  # type: ignore[arg-type]
    smaller = Prune(time=0.5, round_to=1).apply(model, context)
    assert 0.5 <= 1 - pretended(smaller) / pretended(model) < 0.56
    step = smaller.steps[-1]
    assert step.settings["time"] == 0.5
    assert step.settings["flops"] is None
    assert step.notes[0].startswith("Time of a call 3.78 ms → 1.")


def test_time_that_does_not_follow_the_operations() -> None:
    context = Context(Labelled(), measure=lambda model: 1.0)  # type: ignore[arg-type]
    with pytest.raises(MethodError) as caught:
        Prune(time=0.3).apply(convnet(), context)
    assert str(caught.value) == (
        "prune: cannot remove 30.0% of the time: removing 97.9% of the FLOPs saves 0.0%; lower time or round_to, or "
        "give flops"
    )


def test_fine_tuning_between_steps() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype(np.float32)
    context = Context(Labelled(Examples((x,), (x.sum(1) > 0).astype(np.int64))))  # type: ignore[arg-type]
    pruned = Prune(parameters=0.4, round_to=1, steps=2, finetune_epochs=1)
    smaller = pruned.apply(topology("mlp"), context)
    assert [step.method for step in smaller.steps] == ["prune"]
    notes = [note for note in smaller.steps[-1].notes if "Trained" in note]
    assert [note.split(":")[0] for note in notes] == ["Step 1 of 2", "Step 2 of 2"]
    assert not any("Not fine-tuned" in note for note in smaller.steps[-1].notes)


def test_same_input_gives_the_same_weights() -> None:
    one, other = (Prune(flops=0.5).apply(convnet(), NO_DATA).module.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["residual", "encoder", "unet", "shuffle"])
def test_result_is_a_file_like_any_other(name: str, tmp_path: Path) -> None:
    model = Prune(parameters=0.2, round_to=1).apply(topology(name), NO_DATA)
    export_program(model, tmp_path / "a.pt2")
    export_onnx(model, tmp_path / "a.onnx")
    loaded = torch.export.load(tmp_path / "a.pt2").module()
    x = torch.randn(3, *model.example_inputs[0].shape[1:])
    torch.testing.assert_close(loaded(x), model.module(x))
    check_parity(
        open_session(tmp_path / "a.pt2"), open_session(tmp_path / "a.onnx"), (x.numpy(),),
        reference_name="torch", tolerance=1e-4,
    )  # fmt: skip


class Fixed(nn.Module):
    """Copies a constant of a fixed size beside its channels by an operator that is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)).view(-1, 4, 4).sort(-1).values.view(-1, 16))


def linear() -> TorchModel:
    return torch_model(nn.Linear(4, 2), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": 0.5, "flops": 0.5}, "prune: has 2 targets, parameters, flops; give one of them"),
        ({"parameters": 0}, "prune: parameters is 0, not a share above 0 and below 1"),
        ({"time": 1}, "prune: time is 1, not a share above 0 and below 1"),
        ({"flops": 1.0}, "prune: flops is 1.0, not a share above 0 and below 1"),
        ({"flops": 50}, "prune: flops is 50, not a share above 0 and below 1"),
        ({"flops": float("nan")}, "prune: flops is nan, not a share above 0 and below 1"),
        ({"steps": 0}, "prune: steps is 0, not at least 1"),
        ({"round_to": 0}, "prune: round_to is 0, not at least 1"),
        ({"finetune_epochs": -1}, "prune: finetune_epochs is -1, not at least 0"),
        (
            {"importance": "tailor"},
            "prune: has no importance 'tailor'; did you mean 'taylor'? known: magnitude, random, taylor",
        ),
        ({"scope": "globl"}, "prune: has no scope 'globl'; did you mean 'global'? known: global, uniform"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        make_pass("prune", **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("method", "model", "message"),
    [
        (
            Prune(parameters=0.999),
            convnet(),
            "prune: cannot remove 99.9% of the parameters: at most 97.7% can go; lower parameters or round_to",
        ),
        (
            Prune(flops=0.9, rules=("exclude 3",)),
            convnet(),
            "prune: cannot remove 90.0% of the FLOPs: at most 87.5% can go; lower flops or round_to, or change the "
            "rules",
        ),
        (
            Prune(time=0.5),
            convnet(),
            "prune: time is not measured here, so it cannot be a target; give parameters or flops instead",
        ),
        (
            Prune(),
            linear(),
            "prune: no channel can be removed: each reaches the model's inputs or outputs, meets a tensor of fixed "
            "size, or is the only one",
        ),
        (
            Prune(),
            torch_model(nn.ReLU(), torch.randn(2, 4)),
            "prune: the model has no convolution, linear layer or embedding with weights of its own",
        ),
        (Prune(rules=("exclude *",)), convnet(), "prune: the rules leave no layer to prune; exclude fewer layers"),
        (
            Prune(importance="taylor"),
            convnet(),
            "prune: there are no training examples; give data with a part to train on",
        ),
        (
            Prune(finetune_epochs=1),
            convnet(),
            "prune: there are no training examples; give data with a part to train on",
        ),
    ],
    ids=[
        "too much",
        "too much under rules",
        "no measure",
        "one layer",
        "no layer",
        "excluded",
        "taylor",
        "fine-tuning",
    ],
)
def test_errors(method: Prune, model: TorchModel, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        method.apply(model, NO_DATA)
    assert str(caught.value) == message


def test_operator_in_the_way_is_named() -> None:
    with pytest.raises(MethodError) as caught:
        Prune().apply(torch_model(Fixed(), torch.randn(2, 6)), NO_DATA)
    assert str(caught.value).startswith(
        "prune: no channel can be removed: each reaches the model's inputs or outputs, meets a tensor of fixed size, "
        "or is the only one; channels cannot be followed through sort (test_prune.py:"
    )


def test_rule_that_matches_nothing() -> None:
    with pytest.raises(RecipeError) as caught:
        Prune(rules=("exclude heads",)).apply(topology("attention"), NO_DATA)
    assert str(caught.value).startswith("rule 'exclude heads': matches no layer; nearest names: head, ")


def test_weights_that_are_not_finite() -> None:
    model = convnet()
    model.module[0].weight[0, 0, 0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(MethodError, match=r"^prune: the model's weights or gradients are not finite"):
        Prune().apply(model, NO_DATA)


def signal() -> nn.Module:
    """A 1-D network as for sensors: strides, a residual, a depthwise part."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv1d(6, 32, 5, stride=2, padding=2), nn.BatchNorm1d(32), nn.ReLU())
            self.depthwise = nn.Conv1d(32, 32, 5, padding=2, groups=32)
            self.point = nn.Sequential(nn.Conv1d(32, 32, 1), nn.BatchNorm1d(32))
            self.wide = nn.Conv1d(32, 64, 3, stride=2)
            self.head = nn.Linear(64, 11)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = torch.relu(x + self.point(self.depthwise(x)))
            return self.head(torch.relu(self.wide(x)).mean(2))

    return Net()


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(9, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 7)
    )


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    return nn.Sequential(
        nn.Linear(5, 32), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(32, 3)
    )


def mobilenet() -> nn.Module:
    """MobileNetV2 with its first kinds of block; the whole of it is pruned in ``test_graph``."""
    import mobilenet as blocks  # topologies puts the examples on the path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_STAGES", ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2)))
        return blocks.MobileNetV2(2)


def residual() -> nn.Module:
    from resnet import resnet8  # topologies puts the examples on the path

    return resnet8()


REAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobilenet": (mobilenet, (3, 16, 16)),
    "resnet": (residual, (1, 16, 16)),
    "signal": (signal, (6, 40)),
    "perceptron": (perceptron, (9,)),
    "encoder": (encoder, (7, 5)),
}


@pytest.mark.parametrize("name", REAL)
def test_half_of_the_operations_of_a_real_network_go(name: str, tmp_path: Path) -> None:
    build, shape = REAL[name]
    torch.manual_seed(0)
    model = torch_model(settle(build().requires_grad_(False)), torch.randn(2, *shape))
    smaller = Prune(flops=0.5).apply(model, NO_DATA)
    assert 0.5 <= float(smaller.steps[-1].settings["removed_flops"] or 0) < 0.63
    assert "cannot be followed" not in " ".join(smaller.steps[-1].notes)
    x = torch.randn(3, *shape)
    expected = smaller.module(x)
    assert expected.shape == model.module(x).shape
    export_onnx(smaller, tmp_path / "a.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (given,) = found.run(None, {found.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(given, expected.numpy(), rtol=1e-3, atol=1e-4)


def by_weights(model: TorchModel) -> float:
    """Another clock of this test's own."""
    return 1e-4 + 1e-8 * parameters(model.module)


def test_a_clock_that_stumbles_is_asked_again() -> None:
    stumbles = iter([False, False, True])

    def seconds(model: TorchModel) -> float:  # stands for a clock on a busy machine
        return by_weights(model) * (3 if next(stumbles, False) else 1)

    model, context = convnet(), Context(Labelled(), measure=seconds)  # type: ignore[arg-type]
    smaller = Prune(time=0.5, round_to=1).apply(model, context)
    assert 0.5 <= 1 - by_weights(smaller) / by_weights(model) < 0.56


def test_time_in_several_steps_is_measured_at_the_end() -> None:
    timed: list[TorchModel] = []

    def seconds(model: TorchModel) -> float:
        timed.append(model)
        return by_weights(model)

    model, context = convnet(), Context(Labelled(), measure=seconds)  # type: ignore[arg-type]
    smaller = Prune(time=0.4, steps=2, round_to=1).apply(model, context)
    assert timed[-1].module is smaller.module
    assert len(timed) <= 10
