from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compressor import onnx_file
from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes import int8
from compressor.passes.base import Context
from compressor.passes.calibration import Calibration
from compressor.passes.int8 import Int8, Int8Dynamic, Int8Static
from compressor.passes.payoff import Stopwatch
from compressor.runtimes.registry import open_session

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]

# What the architecture alone decides is the same on every machine and however busy it is.
BY_RULE = Int8(by_rule=True)

STATIC = "Static int8 (ranges from calibration)"

# Kernels in int8, all compute kernels, and what some of the int8 kernels are.
EXPECTED = {
    "residual": (6, 6, {"QLinearConv": 5, "QGemm": 1, "QLinearAdd": 2, "QLinearGlobalAveragePool": 1}),
    "separable": (5, 5, {"QLinearConv": 4, "QGemm": 1, "QLinearAdd": 1, "QLinearMul": 2, "HardSigmoid": 0}),
    "one-dimensional": (3, 3, {"QLinearConv": 2, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
    "mlp": (2, 2, {"DynamicQuantizeMatMul": 2}),
    "shared": (2, 2, {"DynamicQuantizeMatMul": 2}),
    "patches": (6, 8, {"QLinearConv": 1, "DynamicQuantizeMatMul": 5}),
    "lstm": (2, 2, {"DynamicQuantizeLSTM": 1, "DynamicQuantizeMatMul": 1}),
    "gru": (1, 2, {"DynamicQuantizeMatMul": 1}),
    "tokens": (1, 1, {"DynamicQuantizeMatMul": 1}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_right_kind_of_int8_for_each_architecture(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source, inputs = zoo(name)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    target = tmp_path / "int8.onnx"
    step = BY_RULE.apply(source, target, vnni(inputs))
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    assert [x.name for x in tmp_path.iterdir()] == ["int8.onnx"]

    low, compute, by_op = EXPECTED[name]
    session = open_session(target)
    found = session.kernels()
    assert (found.low_precision, found.compute, found.precision) == (low, compute, "int8")
    assert {op: found.by_op.get(op, 0) for op in by_op} == by_op
    assert len(found.left) == compute - low

    expected, got = open_session(source).predict(inputs), session.predict(inputs)
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.04
    assert step.method == "int8"
    assert step.settings["activations"] == "uint8"
    assert step.settings["reduce_range"] is False
    assert onnx.load(target).metadata_props == []


def test_class_token_beside_patches_keeps_its_small_values(vnni: OnVnni, tmp_path: Path) -> None:
    """What leads to no int8 layer is not rounded: neither is the token put into the patches' range."""
    graph = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], name="patch", strides=[4, 4]),
        onnx.helper.make_node("Reshape", ["c", "shape"], ["r"], name="flat"),
        onnx.helper.make_node("Transpose", ["r"], ["t"], name="turn", perm=[0, 2, 1]),
        onnx.helper.make_node("Concat", ["token", "t"], ["j"], name="join", axis=1),
        onnx.helper.make_node("Add", ["j", "place"], ["a"], name="place"),
        onnx.helper.make_node("LayerNormalization", ["a", "s", "b"], ["y"], name="norm"),
    ]
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((8, 3, 4, 4)), "token": rng.standard_normal((1, 1, 8)) / 1000,
        "place": np.zeros((1, 10, 8)), "s": np.ones(8), "b": np.zeros(8),
    }  # fmt: skip
    weights = [onnx.numpy_helper.from_array(x.astype(np.float32), name) for name, x in arrays.items()]
    weights.append(onnx.numpy_helper.from_array(np.array([1, 8, 9]), "shape"))
    value = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph, "vit", [value("x", 1, [1, 3, 12, 12])], [value("y", 1, [1, 10, 8])], weights),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.save(proto, tmp_path / "vit.onnx")
    inputs = (rng.standard_normal((8, 3, 12, 12)).astype(np.float32),)
    BY_RULE.apply(tmp_path / "vit.onnx", tmp_path / "a.onnx", vnni(inputs))
    session = open_session(tmp_path / "a.onnx")
    assert session.kernels().by_op["QLinearConv"] == 1
    one = (inputs[0][:1],)
    expected, found = (open_session(tmp_path / f"{kind}.onnx").run(one)[0] for kind in ("vit", "a"))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    assert not np.array_equal(found[:, 1:], expected[:, 1:])


def test_notes_say_what_was_done_and_what_was_left(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("patches")
    step = BY_RULE.apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert step.notes[0] == f"{STATIC}: 1 Conv."
    assert step.notes[1].startswith("Dynamic int8 (ranges found in every call, over the whole batch): ")
    assert step.settings["calibration"] == "minimum and maximum"
    source, inputs = zoo("separable")
    assert any(
        "1 Sigmoid (of SiLU, mostly)" in x for x in BY_RULE.apply(source, tmp_path / "c.onnx", vnni(inputs)).notes
    )
    source, inputs = zoo("gru")
    step = BY_RULE.apply(source, tmp_path / "b.onnx", vnni(inputs))
    assert "Left in fp32, for lack of an int8 kernel: 1 GRU." in step.notes
    assert step.settings["calibration"] == "none"


def test_layer_used_twice_computes_the_same(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    # ONNX Runtime's own quantizer transposes the shared weight twice.
    source, inputs = zoo("shared")
    Int8Dynamic().apply(source, tmp_path / "a.onnx", vnni(inputs))
    expected = open_session(source).predict(inputs)
    got = open_session(tmp_path / "a.onnx").predict(inputs)
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize("name", ["residual", "patches"])
def test_same_input_gives_the_same_file(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source, inputs = zoo(name)
    for file in ("a.onnx", "b.onnx"):
        BY_RULE.apply(source, tmp_path / file, vnni(inputs))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_forced_modes(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    Int8Dynamic().apply(source, tmp_path / "dynamic.onnx", vnni(inputs))
    found = open_session(tmp_path / "dynamic.onnx").kernels()
    assert (found.low_precision, found.compute) == (1, 6)
    assert set(found.left.values()) == {"not quantized in the file"}
    source, inputs = zoo("mlp")
    Int8Static().apply(source, tmp_path / "static.onnx", vnni(inputs))
    assert open_session(tmp_path / "static.onnx").kernels().by_op["QGemm"] == 2


@pytest.mark.parametrize("name", ["residual", "patches"])
def test_weights_too_big_for_one_file(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, inputs = zoo(name)
    BY_RULE.apply(source, tmp_path / "whole.onnx", vnni(inputs))
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 1000)
    BY_RULE.apply(source, tmp_path / "split.onnx", vnni(inputs))
    assert sorted(x.name for x in tmp_path.iterdir()) == ["split.onnx", "split.onnx.data", "whole.onnx"]
    whole, split = (open_session(tmp_path / f"{kind}.onnx") for kind in ("whole", "split"))
    np.testing.assert_array_equal(whole.predict(inputs), split.predict(inputs))
    assert whole.kernels() == split.kernels()


def test_fixed_batch_stays_fixed(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual", fixed=True)
    odd = tuple(x[:31] for x in inputs)  # does not divide by the batch of 2
    BY_RULE.apply(source, tmp_path / "a.onnx", vnni(odd))
    session = open_session(tmp_path / "a.onnx")
    assert session.inputs[0].shape[0] == 2
    expected, got = open_session(source).predict(odd), session.predict(odd)
    assert expected.shape == got.shape == (31, 4)
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.04


@pytest.mark.parametrize(
    ("features", "activations", "reduce_range", "largest"),
    [
        (("avx2", "avx512f", "avx512_vnni"), "uint8", False, 127),
        (("avx2", "avx_vnni"), "uint8", False, 127),
        (("avx2", "avx512f", "amx_int8"), "uint8", False, 127),
        (("avx2", "avx512f"), "uint8", True, 64),
        (("avx2",), "uint8", True, 64),
        (("neon", "asimddp"), "int8", False, 127),
        ((), "uint8", False, 127),
    ],
)
def test_types_follow_the_cpu(
    zoo: Zoo,
    vnni: OnVnni,
    tmp_path: Path,
    features: tuple[str, ...],
    activations: str,
    reduce_range: bool,
    largest: int,
) -> None:
    source, inputs = zoo("one-dimensional")
    context = replace(vnni(inputs), cpu_features=features)
    step = BY_RULE.apply(source, tmp_path / "a.onnx", context)
    assert (step.settings["activations"], step.settings["reduce_range"]) == (activations, reduce_range)
    proto = onnx.load(tmp_path / "a.onnx")
    by_name = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights = [array for array in by_name.values() if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == 3
    assert largest - 1 <= max(int(np.abs(array.astype(int)).max()) for array in weights) <= largest
    points = {by_name[node.input[2]].dtype.name for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    assert points == {activations}
    per_channel = [
        by_name[node.input[1]].shape
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and by_name.get(node.input[0], np.zeros(0)).dtype == np.int8
    ]
    assert all(shape in ((16,), (4,)) for shape in per_channel)


def refused(source: Path, target: Path, context: Context, method: Int8 | Int8Static | Int8Dynamic | None = None) -> str:
    """The message; also that nothing is left behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(MethodError) as caught:
        (method or BY_RULE).apply(source, target, context)
    assert sorted(target.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quantized_model_is_refused(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("mlp")
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    Int8Static().apply(source, first, vnni(inputs))
    node = next(x for x in onnx.load(first).graph.node if "QuantizeLinear" in x.op_type or "Dequant" in x.op_type)
    assert refused(first, second, vnni(inputs)) == (
        f"{first}: the model is quantized already: it holds {node.op_type} '{node.name}'; give the original model"
    )


def test_model_without_arithmetic_is_refused(vnni: OnVnni, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    source = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), source)
    context = vnni((np.ones((4, 4), np.float32),))
    assert refused(source, tmp_path / "a.onnx", context) == (
        "int8: there is nothing to quantize: no convolution, matrix product or LSTM with float32 weights"
    )


def test_calibration_data_that_cannot_serve(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    target = tmp_path / "a.onnx"
    mend = "give examples such as the model will see in use"
    assert refused(source, target, vnni((inputs[0] * 0,))) == (
        f"calibration input 'in0': is 0 everywhere, so no range can be learnt; {mend}"
    )
    assert refused(source, target, vnni((inputs[0] * np.nan,))) == (
        "calibration input 'in0': holds NaN or infinity; remove those examples"
    )
    assert refused(source, target, vnni((inputs[0][:0],))) == (
        "there are no calibration examples; give data, with some left for calibration"
    )


def test_what_is_no_onnx_file_is_refused(vnni: OnVnni, tmp_path: Path) -> None:
    source = tmp_path / "x.onnx"
    source.write_bytes(b"text")
    assert refused(source, tmp_path / "a.onnx", vnni((np.ones((1, 1), np.float32),))).startswith(
        f"{source}: ONNX Runtime's quantizer gave up: "
    )


def clock(monkeypatch: pytest.MonkeyPatch, ratio: Callable[[int, int], float]) -> None:
    """A made-up CPU instead of a stopwatch: from the int8 layers of two files, as bits, to the ratio of their times."""

    def layers(path: Path) -> int:
        return int(path.stem.partition("-")[2], 16) if path.stem.startswith("variant-") else 0

    def heat(self: Stopwatch, first: Path, second: Path) -> float:
        assert first.exists()
        assert second.exists()
        return ratio(layers(first), layers(second))

    monkeypatch.setattr(Stopwatch, "heat", heat)


def test_where_nothing_pays_fp32_is_kept(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, lambda first, second: (10 + second.bit_count()) / (10 + first.bit_count()))
    source, inputs = zoo("residual")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert step.notes == (
        "int8 does not pay anywhere on this CPU: kept fp32.",
        "The whole model in int8 took 1.60 times as long as in fp32; it must save 5% of the time.",
    )
    assert (step.settings["kept_fp32"], step.settings["measured"]) == (True, True)
    found = open_session(tmp_path / "a.onnx").kernels()
    assert (found.low_precision, found.precision) == (0, "fp32")
    assert np.array_equal(open_session(source).predict(inputs), open_session(tmp_path / "a.onnx").predict(inputs))
    assert [row.kept for row in step.sensitivity] == [False] * 6
    assert step.sensitivity[0].time_ratio == pytest.approx(1.1)
    assert [x.name for x in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("name", ["separable", "patches", "mlp", "tokens"])
@pytest.mark.parametrize("worth", [-1, 0, 1])
def test_nets_with_smooth_activations_and_tiny_ones_never_become_slower(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, worth: int
) -> None:
    """SiLU, HardSwish, GELU and models of a few layers, on a CPU where all, every other or no layer is slower in int8.

    With ``worth`` 0, what one layer saves the next one loses.
    """

    def cost(bits: int) -> float:
        gains = [worth or (1 if index % 2 else -1) for index in range(bits.bit_length())]
        return 20 - sum(gain for index, gain in enumerate(gains) if bits >> index & 1)

    made: list[int] = []

    def ratio(first: int, second: int) -> float:
        made.extend([first, second])
        return cost(second) / cost(first)

    clock(monkeypatch, ratio)
    source, inputs = zoo(name)
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    kept = sum(1 << index for index, row in enumerate(step.sensitivity) if row.kept)
    assert cost(kept) <= (0.95 * cost(0) if kept else cost(0))
    assert step.settings["kept_fp32"] == (kept == 0)
    if worth == 1:
        assert kept
    if worth == -1:
        assert kept == 0
        assert open_session(tmp_path / "a.onnx").kernels().low_precision == 0


def test_where_everything_pays_everything_is_int8(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, lambda first, second: (10 - second.bit_count()) / (10 - first.bit_count()))
    source, inputs = zoo("residual")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    BY_RULE.apply(source, tmp_path / "b.onnx", vnni(inputs))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert "Timed on this CPU: 0.40 times fp32's time." in step.notes
    assert (step.settings["kept_fp32"], step.settings["fp32_layers"]) == (False, None)
    assert all(row.kept and row.time_ratio is not None and row.time_ratio < 1 for row in step.sensitivity)


@pytest.mark.parametrize(
    ("gain", "limit", "kernel"),
    [(2, 0.05, "QGemm"), (0, 0.05, "DynamicQuantizeMatMul"), (2, 1e-6, "DynamicQuantizeMatMul")],
)
def test_perceptron_gets_fixed_ranges_where_they_are_faster_and_exact(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: int, limit: float, kernel: str
) -> None:
    def cost(path: Path) -> int:
        layers = int(path.stem.partition("-")[2], 16).bit_count() if path.stem.startswith("variant-") else 0
        return 20 - 4 * layers - (gain if path.parent.name == "fixed" and layers else 0)

    monkeypatch.setattr(Stopwatch, "heat", lambda self, first, second: cost(second) / cost(first))
    monkeypatch.setattr(int8, "FIXED_ERROR", limit)
    source, inputs = zoo("mlp")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    found = open_session(tmp_path / "a.onnx").kernels()
    assert found.by_op[kernel] == found.compute == 2
    fixed = kernel == "QGemm"
    note = "Fixed ranges, as they are faster here than ranges found in every call, and exact enough."
    assert (note in step.notes) == fixed
    assert step.settings["weights"] == f"int8 per {'tensor' if fixed else 'channel'}"
    assert step.settings["calibration"] == ("minimum and maximum" if fixed else "none")


def test_layers_that_do_not_pay_stay_fp32(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(bits: int) -> int:  # the second layer is slower in int8, the other five are faster
        return 20 - 2 * bits.bit_count() + (5 if bits & 0b10 else 0)

    clock(monkeypatch, lambda first, second: cost(second) / cost(first))
    source, inputs = zoo("residual")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    left = [row.layer for row in step.sensitivity if not row.kept]
    assert left == [step.sensitivity[1].layer]
    assert step.settings["fp32_layers"] == left[0]
    assert f"Left in fp32, for not being faster in int8 here: {left[0]}." in step.notes
    assert "Timed on this CPU: 0.50 times fp32's time." in step.notes
    found = open_session(tmp_path / "a.onnx").kernels()
    assert (found.low_precision, found.compute) == (5, 6)


def test_timing_really_runs(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("patches")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert step.settings["measured"] is True
    assert {row.layer for row in step.sensitivity} > set()
    assert all(row.time_ratio is not None and 0.01 < row.time_ratio < 100 for row in step.sensitivity)
    found = open_session(tmp_path / "a.onnx").kernels()
    assert found.low_precision == sum(row.kept for row in step.sensitivity)


def test_layers_that_harm_stay_fp32(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    rows = Int8Static(max_error=1000.0).apply(source, tmp_path / "a.onnx", vnni(inputs)).sensitivity
    assert [row.op for row in rows] == ["Conv"] * 5 + ["Gemm"]
    errors = sorted(row.error for row in rows if row.error is not None)
    assert len(errors) == 6
    assert all(0 < error < 0.1 for error in errors)
    limit = (errors[3] + errors[4]) / 2
    step = Int8Static(max_error=limit).apply(source, tmp_path / "b.onnx", vnni(inputs))
    harmful = [row.layer for row in rows if row.error is not None and row.error > limit]
    assert [row.layer for row in step.sensitivity if not row.kept] == harmful
    assert step.settings["fp32_layers"] == ",".join(harmful)
    assert f"Left in fp32, for moving the output by more than {limit:g}: {', '.join(harmful)}." in step.notes
    found = open_session(tmp_path / "b.onnx").kernels()
    assert (found.low_precision, found.compute) == (4, 6)

    def error(name: str) -> float:
        expected, got = open_session(source).predict(inputs), open_session(tmp_path / name).predict(inputs)
        return float(np.linalg.norm(got - expected))

    assert error("b.onnx") < error("a.onnx")


def test_max_error_that_no_layer_meets(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    message = refused(source, tmp_path / "a.onnx", vnni(inputs), Int8Static(max_error=1e-9))
    assert message.startswith(
        "int8-static: every layer alone moves the output by more than max_error 1e-09; the least is "
    )


@pytest.mark.parametrize("calibration", ["percentile", "entropy"])
def test_calibration_that_cuts_outliers_helps_against_them(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, calibration: Calibration
) -> None:
    source, inputs = zoo("residual")
    spoilt = inputs[0].copy()
    spoilt[0, 0, 0, 0] = 300  # one broken pixel among 27 648
    errors = []
    for index, method in enumerate((Int8Static(), Int8Static(calibration, 99.9))):
        step = method.apply(source, tmp_path / f"{index}.onnx", vnni((spoilt,)))
        expected, got = (open_session(x).predict(inputs) for x in (source, tmp_path / f"{index}.onnx"))
        errors.append(float(np.linalg.norm(got - expected)))
    assert errors[1] < errors[0] / 2
    assert step.settings["calibration"] == {"percentile": "percentile 99.9", "entropy": "entropy"}[calibration]


def test_one_scale_per_layer(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    step = Int8Static(per_channel=False).apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert step.settings["weights"] == "int8 per tensor"
    proto = onnx.load(tmp_path / "a.onnx")
    scales = [x for x in proto.graph.initializer if x.name.endswith("weight_scale")]
    assert scales
    assert all(not x.dims or list(x.dims) == [1] for x in scales)


def test_without_examples_dynamic_int8_goes_by_rule(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("mlp")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni((inputs[0][:0],)))
    assert "Chosen by rule: there are no calibration examples to time it on." in step.notes
    assert step.settings["measured"] is False
    assert step.sensitivity == ()
    few = Int8().apply(source, tmp_path / "few.onnx", replace(vnni((inputs[0][:5],)), batch=8))
    assert "Chosen by rule: there are only 5 calibration examples for a batch of 8 to time it on." in few.notes
    message = refused(source, tmp_path / "b.onnx", vnni((inputs[0][:0],)), Int8(by_rule=True, max_error=0.1))
    assert message == (
        "int8: there are no calibration examples to measure max_error on; give data, with some left for calibration"
    )


def test_big_models_go_by_rule(zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "TIMED_BYTES", 2**10)
    source, inputs = zoo("residual")
    step = Int8().apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert "Chosen by rule: more than 0 MiB of weights are not timed." in step.notes
    assert step.settings["measured"] is False


@pytest.mark.parametrize(("rules", "kernel"), [((), "MatMulNBits"), (("dynamic *",), "DynamicQuantizeMatMul")])
def test_language_model_gets_weights_alone(tmp_path: Path, vnni: OnVnni, rules: tuple[str, ...], kernel: str) -> None:
    value = onnx.helper.make_tensor_value_info
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "w"], ["logits"], name="head"),
            onnx.helper.make_node("Identity", ["past_key_values.0.key"], ["present.0.key"], name="cache"),
        ],
        "g",
        [value("x", 1, ["n", 64]), value("past_key_values.0.key", 1, ["n", 4])],
        [value("logits", 1, ["n", 32]), value("present.0.key", 1, ["n", 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "s.onnx")
    inputs = (np.ones((2, 64), np.float32), np.ones((2, 4), np.float32))
    step = Int8(by_rule=True, rules=rules).apply(tmp_path / "s.onnx", tmp_path / "a.onnx", vnni(inputs))
    assert step.method == "int8"
    assert step.notes[0].startswith("A causal language model") == (not rules)
    kernels = open_session(tmp_path / "a.onnx").kernels()
    assert (kernels.low_precision, kernels.precision) == (1, "int8")
    assert kernels.by_op[kernel] == 1
