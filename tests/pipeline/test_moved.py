"""Which answers changed, on two tiny classifiers."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.export import describe_onnx
from compressor.pipeline.moved import moved
from compressor.results import TaskSummary
from compressor.task.array_task import ArrayTask
from compressor.task.base import Examples
from compressor.task.metrics import metric
from compressor.task.tokens import IGNORED
from compressor.task.views import Scoring

AGREEMENT = metric("agreement")
SUMMARY = TaskSummary("tiny", "accuracy", False, 0, 300)


def classifier(path, weights):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(weights, np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, path)
    return describe_onnx(path, ())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    artifacts = {
        "old": classifier(folder / "old.onnx", np.eye(2)),
        # Sees the second feature one and a half times as large.
        "new": classifier(folder / "new.onnx", np.diag([1.0, 1.5])),
    }
    return folder, artifacts


def task(targets, inputs):
    empty = Examples((inputs[:0],), targets[:0])
    return ArrayTask(SUMMARY, metric("accuracy"), empty, None, Examples((inputs,), targets))


def test_the_files_themselves_are_run_on_every_test_example(pair):
    inputs = np.random.default_rng(0).random((300, 2), dtype=np.float32)
    truth = inputs.argmax(1).astype(np.int64)
    found = moved(*pair, task(truth, inputs))
    now = (inputs * [1, 1.5]).argmax(1)
    assert (found.baseline, found.candidate) == ("old", "new")
    assert found.broken == int((now != truth).sum()) > 0
    assert found.mended == found.moved == 0
    assert [one.name for one in found.classes] == ["0", "1"]


def test_a_task_without_classes_has_nothing_that_moved(pair):
    inputs = np.zeros((4, 2), np.float32)
    assert moved(*pair, task(np.zeros(4), inputs)) is None
    assert moved(*pair, task(np.zeros((4, 2), np.int64), inputs)) is None


def test_names_and_texts_come_from_the_task_that_has_them(pair):
    inputs = np.array([[1.0, 0.9], [0.1, 0.9]], np.float32)
    plain = task(np.array([0, 1]), inputs)
    named = replace(plain, class_names=("low", "high"), columns=("left", "right"))
    found = moved(*pair, named)
    assert [(flip.target, flip.after, flip.text) for flip in found.flips] == [("low", "high", "left=1, right=0.9")]
    told = replace(plain, test_examples=replace(plain.test_examples, texts=("a", "b")))
    assert [flip.text for flip in moved(*pair, told).flips] == ["a"]


def test_words_have_classes_of_their_own(pair):
    inputs = np.array([[1.0, 0.9], [0.1, 0.9]], np.float32)
    view = Scoring(lambda _, scores: np.stack([scores.argmax(1), scores.argmax(1)], 1), "token-accuracy", AGREEMENT)
    targets = np.array([[0, IGNORED], [1, 1]])
    words = replace(
        task(targets, inputs),
        summary=replace(SUMMARY, metric="token-accuracy"),
        metric=metric("token-accuracy"),
        scoring=view,
        class_names=("O", "PER"),
        test_examples=Examples((inputs,), targets, ("Rome", "by Ada")),
    )
    found = moved(*pair, words)
    assert [(one.name, one.examples, one.right_after) for one in found.classes] == [("O", 1, 0), ("PER", 2, 2)]
    assert [(flip.index, flip.target, flip.after, flip.text) for flip in found.flips] == [(0, "O", "PER", "[Rome]")]
    assert found.counted == "words"
    assert moved(*pair, replace(words, class_names=())) is None
    # The tokenizer cut words off: which of them it is cannot be told.
    cut = replace(words, test_examples=Examples((inputs,), targets, ("in Rome", "by Ada")))
    assert [flip.text for flip in moved(*pair, cut).flips] == ["in Rome"]
