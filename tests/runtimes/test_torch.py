from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compressor.results import TensorSpec
from compressor.runtimes.torch import open_session


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
