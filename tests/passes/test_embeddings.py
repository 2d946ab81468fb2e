from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import RecipeError
from compressor.export import describe_onnx
from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.embeddings import LEAST, quantize_rows, shrink, tables
from compressor.passes.int8 import Int8Dynamic
from compressor.passes.weight_only import Int4
from compressor.runtimes.registry import open_session

OnVnni = Callable[[Arrays], Context]

ROWS, WIDTH = LEAST // 64, 64


def classifier(*, tied: bool = False, rows: int = ROWS) -> onnx.ModelProto:
    """Ids to rows of a table, and a product; or back to the table's rows, as language models with tied weights do."""
    draw = np.random.default_rng(0)
    table = draw.standard_normal((rows, WIDTH)).astype(np.float32) * np.geomspace(0.01, 10, rows)[:, None]
    weights = {"table": table.astype(np.float32), "head": draw.standard_normal((WIDTH, 8)).astype(np.float32)}
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed/Gather")]
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["turned"], name="turn", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["rows", "turned"], ["logits"], name="head/MatMul"))
    else:
        nodes.append(helper.make_node("MatMul", ["rows", "head"], ["logits"], name="head/MatMul"))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5, rows if tied else 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if not (tied and name == "head")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def given_file(tmp_path: Path, **how: bool) -> tuple[Path, Arrays]:
    onnx.save(classifier(**how), tmp_path / "m.onnx")
    return tmp_path / "m.onnx", (np.random.default_rng(1).integers(0, ROWS, (32, 5)),)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32)))
def test_value_moves_by_at_most_half_its_rows_scale(table: np.ndarray) -> None:
    levels, scale = quantize_rows(table)
    assert (levels.dtype, levels.shape, scale.shape) == (np.int8, table.shape, (len(table), 1))
    assert np.all(np.abs(levels * scale - table) <= scale / 2 * (1 + 1e-4) + 1e-30)


def test_parts_of_a_table_are_rounded_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32)
    whole = quantize_rows(table)
    monkeypatch.setattr("compressor.passes.embeddings._ROWS", 4)
    for one, other in zip(quantize_rows(table), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_keep_their_own_scale(tmp_path: Path) -> None:
    source, inputs = given_file(tmp_path)
    proto = classifier()
    said = shrink(proto.graph, tables(proto.graph))
    assert said == f"Embeddings stored in int8 with a scale per row, to save room and not time: {ROWS:,} × 64."
    onnx.save(proto, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 0.3 * source.stat().st_size
    expected, found = (open_session(path).predict(inputs) for path in (source, tmp_path / "small.onnx"))
    # Rows are a thousand times apart in size, and each is as exact as the others.
    error = np.linalg.norm(found - expected, axis=2) / np.linalg.norm(expected, axis=2)
    assert np.quantile(error, 0.95) < 0.02


@pytest.mark.parametrize("how", [{"tied": True}, {"rows": ROWS - 1}])
def test_table_that_something_else_reads_or_that_is_small_is_left_alone(how: dict[str, bool]) -> None:
    assert tables(classifier(**how).graph) == {}


def test_table_that_a_branch_reads_is_left_alone() -> None:
    proto = classifier()
    value = helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["table"], ["same"])], "branch", [], [value])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["any"], then_branch=branch, else_branch=branch))
    assert tables(proto.graph) == {}


@pytest.mark.parametrize("method", [Int8Dynamic, Int4])
def test_methods_store_tables_unless_a_rule_says_no(
    vnni: OnVnni, tmp_path: Path, method: type[Int8Dynamic] | type[Int4]
) -> None:
    source, inputs = given_file(tmp_path)
    before = describe_onnx(source, ())
    step = method().apply(source, tmp_path / "small.onnx", vnni(inputs))
    assert sum("Embeddings stored in int8" in note for note in step.notes) == 1
    after = describe_onnx(tmp_path / "small.onnx", (step,))
    assert after.size_bytes < 0.3 * before.size_bytes
    assert after.parameters == before.parameters

    step = method(rules=("exclude embed",)).apply(source, tmp_path / "same.onnx", vnni(inputs))
    assert not any("Embeddings stored" in note for note in step.notes)
    assert describe_onnx(tmp_path / "same.onnx", ()).size_bytes > 0.9 * before.size_bytes
    with pytest.raises(RecipeError, match="matches no layer"):
        method(rules=("exclude embedding",)).apply(source, tmp_path / "none.onnx", vnni(inputs))
