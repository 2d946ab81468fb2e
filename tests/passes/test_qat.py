from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import Digits, Net, accuracy, arrays, context, digest, exported, net, task, wrap
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.export import export_onnx
from compressor.model.base import TorchModel
from compressor.passes.qat import Qat
from compressor.passes.simulate import Simulated, simulate
from compressor.passes.training import Tick, finetune
from compressor.task.base import Examples
from compressor.tracing import trace

X, Y = arrays()


@cache
def trained() -> TorchModel:
    return finetune(net(), context(task()), epochs=8, learning_rate=1e-2)


@cache
def lopsided() -> TorchModel:
    """A model that int8 spoils: one channel is 1000 times the others, so they share one step of its range.

    The channel is scaled up in one layer and down in the next, which leaves the function as it was.
    """
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 10),
    )  # fmt: skip
    model = finetune(wrap(made), context(task()), epochs=10, learning_rate=1e-2)
    with torch.no_grad():
        model.module[0].weight[0] *= 1000
        model.module[0].bias[0] *= 1000
        model.module[2].weight[:, 0] /= 1000
    return model


def quantized_accuracy(model: TorchModel, folder: Path) -> float:
    """Accuracy after ONNX Runtime's own static quantizer: the types of int8, none of this package's corrections."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = [{"x": X[1200:1300]}]

        def get_next(self) -> dict[str, Any] | None:
            return self.rest.pop() if self.rest else None

    folder.mkdir()
    export_onnx(model, folder / "float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            folder / "float.onnx",
            folder / "int8.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    session = ort.InferenceSession(str(folder / "int8.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": X[-400:]})
    return float((found.argmax(1) == Y[-400:]).mean())


def test_weights_learn_to_survive_int8(tmp_path: Path) -> None:
    whole = accuracy(lopsided().module)
    plain = quantized_accuracy(lopsided(), tmp_path / "plain")
    made = Qat(epochs=12, learning_rate=3e-3).apply(lopsided(), context(task()))
    aware = quantized_accuracy(made, tmp_path / "aware")
    blind = finetune(lopsided(), context(task()), epochs=12, learning_rate=3e-3)
    assert plain < whole - 0.5  # the case is hard
    assert quantized_accuracy(blind, tmp_path / "blind") < aware - 0.1  # and more training alone does not help
    assert aware > whole - 0.05


@pytest.mark.parametrize("graph", [False, True])
def test_it_keeps_the_form_and_leaves_its_input_alone(graph: bool) -> None:
    model = exported(trained()) if graph else trained()
    before = digest(model)
    made = Qat(epochs=1).apply(model, context(task(300)))
    assert digest(model) == before
    assert type(made.module).__name__ == type(model.module).__name__
    assert set(digest(made)) == set(before)
    assert digest(made) != before
    assert not any(p.requires_grad for p in (*made.module.parameters(), *model.module.parameters()))
    assert not made.module.training
    assert accuracy(made.module) > accuracy(model.module) - 0.05
    step = made.steps[-1]
    assert (step.method, step.settings["activations"], step.settings["reduce_range"]) == ("qat", "uint8", False)
    assert step.notes[0] == "Rounding of 3 layers was simulated, activations with learnt ranges."
    assert step.notes[2] == "The weights are fp32 still: int8 has to follow."


def test_a_kill_in_the_middle_resumes_to_the_same_result(tmp_path: Path) -> None:
    settings = Qat(epochs=2, batch=64, checkpoint_minutes=0)

    class Killed(BaseException):
        pass

    def kill(tick: Tick) -> None:
        if (tick.epoch, tick.step) == (2, 2):
            raise Killed

    wanted = digest(settings.apply(trained(), context(task(300))))
    with pytest.raises(Killed):
        settings.apply(trained(), context(task(300), tmp_path), kill)
    ticks: list[Tick] = []
    assert digest(settings.apply(trained(), context(task(300), tmp_path), ticks.append)) == wanted
    assert (ticks[0].epoch, ticks[0].step) == (2, 3)


class Reused(nn.Module):
    """As torchvision's ResNets: one ReLU module called twice, in place, and a sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.one(x))
        y = self.norm(self.two(x))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


CASES = {
    "net": (lambda: Net(8, 2), 4, "learnt"),
    "reused": (Reused, 3, "learnt"),
    "transformer": (Transformer, 6, "each"),
}


@pytest.mark.parametrize("name", CASES)
def test_rounding_is_small_and_can_be_learnt_through(name: str) -> None:
    build, layers, ranges = CASES[name]
    torch.manual_seed(0)
    model = wrap(build())
    x = torch.from_numpy(X[:64])
    wanted = model.module(x)  # before: a traced program shares its weights with the model
    made, count, how = simulate(trace(model), "uint8", False, "qat")
    assert count == layers
    assert ranges in how
    made.train(True)
    made.requires_grad_(True)
    found = made(x)
    error = float((found.detach() - wanted).norm() / wanted.norm())
    assert 1e-5 < error < 0.1
    found.square().sum().backward()
    assert all(
        p.grad is not None and float(p.grad.abs().sum()) > 0 for n, p in made.named_parameters() if "bias" not in n
    )
    assert {name.removeprefix("graph.") for name, _ in made.named_parameters()} == {
        name for name, _ in model.module.named_parameters()
    }


def _first_weight(made: Simulated) -> tuple[Tensor, Tensor]:
    """A convolution's weight, before and after rounding."""
    weight = made.graph.get_parameter("stem.weight").detach()
    fake = made.graph.get_submodule("rounding_1")  # 0 is the input's
    return weight, fake(weight).detach()


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_weights_have_the_steps_of_onnx_runtimes_quantizer(reduce_range: bool, largest: int) -> None:
    made, _, _ = simulate(trace(trained()), "uint8", reduce_range, "qat")
    made.train(True)
    with torch.no_grad():
        made(torch.from_numpy(X[:8]))
    weight, rounded = _first_weight(made)
    step = weight.abs().amax((1, 2, 3), keepdim=True) / largest
    assert torch.allclose(rounded, (weight / step).round() * step, atol=1e-6)
    assert not torch.equal(rounded, weight)


def test_ranges_of_activations_are_held_in_eval_mode() -> None:
    made, _, _ = simulate(trace(trained()), "uint8", False, "qat")
    x = torch.from_numpy(X[:32])
    with torch.no_grad():
        made.train(True)
        made(x)
        made.eval()
        before = {name: value.clone() for name, value in made.state_dict().items()}
        made(100 * x)
        after = made.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        made.train(True)
        made(100 * x)
        assert any(not torch.equal(value, made.state_dict()[name]) for name, value in before.items())


def test_types_are_those_of_the_target() -> None:
    held = replace(context(task(200)), cpu_features=("neon", "dotprod"))
    assert Qat(epochs=1).apply(trained(), held).steps[-1].settings["activations"] == "int8"
    held = replace(context(task(200)), cpu_features=("avx2",))
    assert Qat(epochs=1).apply(trained(), held).steps[-1].settings["reduce_range"] is True


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (trained, None, "qat: there are no training examples; give data with a part to train on"),
        (
            trained,
            Examples((X[:50],), Y[:50] + 7),
            "qat: labels go up to 16 but the model has 10 outputs; number the classes from 0, or check that the data "
            "belong to this model",
        ),
        (
            lambda: wrap(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))),
            Examples((X[:50],), Y[:50]),
            "qat: the model has no convolution and no product with a weight that int8 would round; "
            "leave the method out",
        ),
        (
            trained,
            Examples((np.full_like(X[:50], np.nan),), Y[:50]),
            "qat: an activation is NaN; give a smaller learning_rate, and check the data for NaN",
        ),
    ],
)
def test_what_it_refuses(model: Any, data: Examples | None, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        Qat(epochs=1).apply(model(), context(Digits(data, Examples((X[:50],), None))))
    assert str(caught.value) == message


def test_settings_out_of_range() -> None:
    with pytest.raises(MethodError) as caught:
        Qat(epochs=0)
    assert str(caught.value) == "qat: epochs is 0, not at least 1"
