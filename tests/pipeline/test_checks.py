from __future__ import annotations

from importlib.util import find_spec

import pytest

from compressor.errors import CompressorError
from compressor.model.identify import FileKind
from compressor.passes.registry import make_pass
from compressor.pipeline import Method
from compressor.pipeline.checks import check_order, chosen_runtimes

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="not run: openvino is not installed")


@pytest.mark.parametrize(
    "methods",
    [
        ["int8"],
        ["prune", "qat", "int8"],
        ["prune", "torchao-int8-dynamic"],
        ["prune", "smoothquant"],
        ["prune", "bf16"],
    ],
)
def test_orders_that_hold(methods: list[str]) -> None:
    check_order([Method(name) for name in methods], FileKind.EXPORTED_PROGRAM)


def test_fp16_by_rules_leaves_layers_to_another_method() -> None:
    check_order([Method("fp16", {"rules": ["exclude head"]}), Method("int8")], FileKind.ONNX)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            ["int8", "prune"],
            "--method: prune works on the PyTorch model and cannot follow int8, which makes an ONNX graph of it; "
            "name prune before int8",
        ),
        (
            ["fp16", "torchao-int8-dynamic"],
            "--method: torchao-int8-dynamic works on the PyTorch model and cannot follow fp16, which makes an ONNX "
            "graph of it; name torchao-int8-dynamic before fp16",
        ),
        (
            ["torchao-int8-dynamic", "int8"],
            "--method: int8 cannot follow torchao-int8-dynamic, which writes a file that only PyTorch runs",
        ),
        *(
            (
                [first, second],
                f"--method: {second} cannot follow {first}, which leaves no float32 weights to it; name one of them",
            )
            for first, second in (("int8-dynamic", "int4"), ("smoothquant", "int8"), ("fp16", "int8"))
        ),
    ],
)
def test_orders_that_do_not(methods: list[str], message: str) -> None:
    with pytest.raises(CompressorError) as caught:
        check_order([Method(name) for name in methods], FileKind.EXPORTED_PROGRAM)
    assert str(caught.value) == message


@pytest.mark.parametrize("method", ["distill", "bf16"])
def test_an_onnx_file_has_no_model_for_a_method_on_pytorch(method: str) -> None:
    with pytest.raises(CompressorError) as caught:
        check_order([Method(method), Method("int8")], FileKind.ONNX)
    told = f"{method}: needs the PyTorch model, and the file is ONNX; give the model it was exported from"
    assert str(caught.value) == told


def chosen(method: str, *runtimes: str, device: str = "cpu") -> tuple[str, ...]:
    return chosen_runtimes([method], [make_pass(method)], runtimes, device)


def test_runtimes_follow_from_the_method_unless_named() -> None:
    assert chosen("int8") == ()
    assert chosen("int8", "onnxruntime", "torch") == ("onnxruntime", "torch")
    assert chosen("torchao-int8-dynamic", "torch") == ("torch",)
    assert chosen("bf16", "torch") == ("torch",)


@pytest.mark.parametrize(
    ("method", "runtimes", "message"),
    [
        ("int8", ["torch"], "--runtime torch: cannot run what int8 makes; add onnxruntime"),
        (
            "torchao-int8-dynamic",
            ["onnxruntime"],
            "--runtime onnxruntime: cannot run what torchao-int8-dynamic makes; add torch",
        ),
        (
            "torchao-fp8",
            ["torch"],
            "torchao-fp8: has no kernel on a CPU: it needs an NVIDIA GPU of compute capability 8.9",
        ),
    ],
)
def test_what_cannot_run_is_told_first(method: str, runtimes: list[str], message: str) -> None:
    with pytest.raises(CompressorError) as caught:
        chosen(method, *runtimes)
    assert str(caught.value).startswith(message)


@needs_openvino
def test_openvino_may_stand_alone() -> None:
    assert chosen("int8", "openvino") == ("openvino",)
