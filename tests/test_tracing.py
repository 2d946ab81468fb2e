from __future__ import annotations

import pytest
import torch
from topologies import topology, torch_model
from torch import Tensor, nn

from compressor.errors import ExportError
from compressor.tracing import node_line, trace


def test_encoder_layers_are_not_fused() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    names = {str(node.target) for node in trace(topology("encoder")).graph.nodes}
    assert not any("_transformer_encoder_layer_fwd" in name for name in names)
    assert "aten.scaled_dot_product_attention.default" in names
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_free_axes_stay_free() -> None:
    program = trace(topology("mlp"))
    assert program.module()(torch.randn(7, 6)).shape == (7, 2)


def test_node_names_the_line_of_the_model() -> None:
    nodes = {str(node.target): node for node in trace(topology("squeeze")).graph.nodes}
    line = node_line(nodes["aten.adaptive_avg_pool2d.default"])
    assert line is not None
    assert line.startswith("topologies.py:")
    assert node_line(next(node for node in nodes.values() if node.op == "placeholder")) is None


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_branch_on_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError) as caught:
        trace(torch_model(Branch(), torch.randn(2, 3)))
    assert capsys.readouterr() == ("", ""), "torch prints the whole graph"
    text = str(caught.value)
    assert text.startswith("net, test_tracing.py:")
    assert text.endswith(
        "what the model does depends on the values of its input; replace the Python branch or .item() by torch.where, "
        "or by torch.cond"
    )
