from __future__ import annotations

from importlib.util import find_spec

import pytest

from compressor.errors import CompressorError
from compressor.passes.registry import make_pass
from compressor.pipeline.checks import check_order, chosen_runtimes

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="not run: openvino is not installed")


@pytest.mark.parametrize(
    "methods",
    [["int8"], ["prune", "qat", "int8"], ["prune", "torchao-int8-dynamic"], ["smoothquant", "int8"], ["prune", "bf16"]],
)
def test_orders_that_hold(methods: list[str]) -> None:
    check_order(methods)


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
    ],
)
def test_orders_that_do_not(methods: list[str], message: str) -> None:
    with pytest.raises(CompressorError) as caught:
        check_order(methods)
    assert str(caught.value) == message


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
