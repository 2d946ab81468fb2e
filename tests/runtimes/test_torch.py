from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import RuntimeUnavailableError
from compressor.results import TensorSpec
from compressor.runtimes import torch as torch_runtime
from compressor.runtimes.torch import TorchSession, open_session, require


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, keep: Tensor) -> dict[str, Tensor]:
        y = self.linear(x)
        return {"logits": y, "kept": torch.where(keep, y, 0)}


def test_session_tells_its_inputs_outputs_and_options(tmp_path: Path) -> None:
    free = {0: torch.export.Dim.DYNAMIC}
    module = Two().eval()
    program = torch.export.export(
        module, (torch.randn(2, 3), torch.ones(2, 1, dtype=torch.bool)), dynamic_shapes=(free, free)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    before = torch.get_num_threads()
    try:
        session = open_session(tmp_path / "m.pt2", 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert session.inputs == (TensorSpec("x", "float32", (None, 3)), TensorSpec("keep", "bool", (None, 1)))
    assert [(spec.dtype, spec.shape) for spec in session.outputs] == [("float32", (None, 2))] * 2
    assert (session.info.name, session.info.device) == ("torch", "cpu")
    assert dict(session.info.options) == {"mode": "eager", "threads": "1"}
    assert session.kernels() is None
    x, keep = np.ones((5, 3), np.float32), np.zeros((5, 1), np.bool_)
    x.setflags(write=False)  # arrays that are mapped from a file cannot be written to
    logits, kept = session.run((x, keep))
    assert not kept.any()
    np.testing.assert_allclose(logits, module(torch.ones(5, 3), torch.ones(5, 1).bool())["logits"].detach(), rtol=1e-5)


def test_what_is_said_of_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes: no GPU is here, and torch is a build for the CPU."""

    def told(device: str) -> str:
        with pytest.raises(RuntimeUnavailableError) as caught:
            require(device)
        return str(caught.value)

    start = "--device: torch cannot run on a GPU here: "
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert told("cuda") == start + "the installed torch is a build without CUDA; use --device cpu"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert told("cuda") == start + "no NVIDIA GPU is here; use --device cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert told("cuda:2") == start + "there are 2 GPUs, counted from 0, and no cuda:2; use --device cpu"
    require("cuda:1")


def test_on_a_gpu_every_call_ends_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: tensors stay on the CPU, and what would wait for the GPU is counted."""
    waits: list[str] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    before = torch.get_num_threads()
    specs = ((TensorSpec("x", "float32", (None, 3)),), (TensorSpec("y", "float32", (None, 2)),))
    session = TorchSession(nn.Linear(3, 2).eval(), specs, 1, "cuda:1", False)
    torch.set_num_threads(before)
    assert session.info.device == "cuda:1"
    for count in (1, 2):
        session.run((np.ones((4, 3), np.float32),))
        assert waits == ["cuda:1"] * count


def test_without_a_compiler_torch_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(RuntimeUnavailableError) as caught:
        require("cpu", compiled=True)
    assert str(caught.value) == (
        "torch-compile: torch.compile finds no C++ compiler; install g++ or clang, or name one in the environment "
        "variable CXX"
    )


def test_torch_compile_that_is_switched_off_says_so() -> None:
    torch_runtime._require_switched_on.cache_clear()
    with torch._dynamo.config.patch(disable=True), pytest.raises(RuntimeUnavailableError) as caught:
        require("cpu", compiled=True)
    assert str(caught.value) == (
        "torch-compile: torch.compile is switched off; unset TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE, or use "
        "torch"
    )


def test_running_out_of_compilations_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch itself would run the module eagerly from then on."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", dynamic=False))
    before = torch.get_num_threads()
    specs = ((TensorSpec("x", "float32", (None, 3)),), ())
    session = TorchSession(nn.Linear(3, 2), specs, 1, "cpu", True)
    torch.set_num_threads(before)
    session.run((np.ones((4, 3), np.float32),))
    monkeypatch.setattr(torch_runtime, "RECOMPILE_LIMIT", 1)
    with pytest.raises(RuntimeUnavailableError, match=r"torch\.compile cannot compile it: "):
        session.run((np.ones((5, 3), np.float32),))


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such\nlayer")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    before = torch.get_num_threads()
    specs = ((TensorSpec("x", "float32", (None, 3)),), ())
    session = TorchSession(Broken(), specs, 1, "cpu", True)
    torch.set_num_threads(before)
    with pytest.raises(RuntimeUnavailableError) as caught:
        session.run((np.ones((4, 3), np.float32),))
    assert str(caught.value).startswith("torch-compile: torch.compile cannot compile it: ")
    assert str(caught.value).endswith("; use torch for it")
    assert "\n" not in str(caught.value)
