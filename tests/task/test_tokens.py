"""Scores over tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compressor.errors import DataError, ModelError
from compressor.results import TensorSpec
from compressor.task.metrics import metric
from compressor.task.tokens import IGNORED, exact_rows, right_tokens, token_accuracy
from compressor.task.views import pooling_of, scoring_of

TARGETS = np.array([[1, 2, IGNORED, IGNORED], [3, 3, 3, 3]])
OUTPUTS = np.array([[1, 0, 1, 1], [3, 3, 3, 0]])


def test_token_accuracy_is_over_all_scored_tokens():
    assert token_accuracy(TARGETS, OUTPUTS) == pytest.approx(4 / 6)
    # Each example weighs as many tokens as it has: 1 and 3 right ones of 3 on average.
    assert right_tokens(TARGETS, OUTPUTS).tolist() == pytest.approx([1 / 3, 3 / 3])


def test_exact_positions_need_both_ends():
    assert exact_rows(np.array([[1, 4], [2, 2]]), np.array([[1, 4], [2, 3]])).tolist() == [1, 0]


def test_scores_carry_their_examples():
    score = metric("token-accuracy").score(TARGETS, OUTPUTS)
    assert score.value == pytest.approx(np.mean(score.per_example))
    assert metric("exact-positions").score(TARGETS, TARGETS).value == 1


def test_targets_and_outputs_must_fit():
    with pytest.raises(DataError) as caught:
        metric("token-accuracy").check(TARGETS[0], None)
    assert str(caught.value) == "token-accuracy: needs whole numbers (N, length), and the targets are int64 (N,)"
    with pytest.raises(DataError) as caught:
        metric("token-accuracy").check(TARGETS, TensorSpec("output", "float32", (2, 3)))
    assert str(caught.value).startswith(
        "token-accuracy: the targets are (N, 4), and the model gives float32 (N, 3); it scores token classification"
    )


def test_padding_takes_no_part_in_agreement():
    inputs = tuple(TensorSpec(name, "int64", (None, None)) for name in ("input_ids", "attention_mask"))
    scoring = scoring_of("token-classification", inputs)
    assert scoring is not None
    mask = np.array([[1, 1, 0]])
    logits = np.array([[[0, 1], [1, 0], [1, 0]]], np.float32)
    seen = scoring.view((mask, mask), logits)
    assert seen.tolist() == [[1, 0, IGNORED]]
    other = scoring.view((mask, mask), logits[:, ::-1])
    assert scoring.agreement.value(seen, other) == pytest.approx(0.5)


def test_embedding_of_the_first_token():
    inputs = tuple(TensorSpec(name, "int64", (None, None)) for name in ("input_ids", "attention_mask"))
    hidden = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    mask = np.array([[1, 1, 0]])
    mean, first = (scoring_of("feature-extraction", inputs, how) for how in ("mean", "cls"))
    assert mean is not None
    assert first is not None
    assert mean.view((mask, mask), hidden).tolist() == [[2, 3, 4, 5]]
    assert first.view((mask, mask), hidden).tolist() == [[0, 1, 2, 3]]


def test_embedding_of_the_last_token_and_of_the_largest_values():
    inputs = tuple(TensorSpec(name, "int64", (None, None)) for name in ("input_ids", "attention_mask"))
    hidden = np.arange(12, dtype=np.float32).reshape(1, 3, 4) * [[[1], [-1], [1]]]
    last, largest = (scoring_of("feature-extraction", inputs, how) for how in ("lasttoken", "max"))
    assert last is not None
    assert largest is not None
    for mask, at in (([[1, 1, 0]], 1), ([[0, 1, 1]], 2)):
        assert last.view((np.array(mask),) * 2, hidden).tolist() == hidden[:, at].tolist()
    assert largest.view((np.array([[1, 1, 0]]),) * 2, hidden).tolist() == [[0, 1, 2, 3]]


def test_numbers_are_scored_as_numbers():
    scoring = scoring_of("text-classification", (), problem="regression")
    assert scoring is not None
    assert scoring.metric == "mse"
    assert scoring.view((), np.array([[0.7]])).tolist() == [[0.7]]


def test_several_labels_are_right_together():
    scoring = scoring_of("text-classification", (), problem="multi_label_classification")
    assert scoring is not None
    seen = scoring.view((), np.array([[1.0, -2.0, 0.5], [-1.0, -1.0, -1.0]], np.float32))
    assert seen.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert metric(scoring.metric).value(np.array([[1, 0, 1], [0, 1, 0]]), seen) == 0.5


@pytest.mark.parametrize(
    ("about", "way"),
    [
        (None, "mean"),
        ({}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_sqrt_len_tokens": True, "include_prompt": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "max"}, "max"),
    ],
)
def test_pooling_is_read_off_the_folder(tmp_path, about, way):
    if about is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(about))
    assert pooling_of(tmp_path) == way


def test_pooling_that_cannot_be_scored(tmp_path):
    file = tmp_path / "1_Pooling" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError) as caught:
        pooling_of(tmp_path)
    assert str(caught.value) == (
        f"{file}: pools the tokens of a text by pooling_mode_mean_tokens and pooling_mode_max_tokens, which is not "
        "scored here; known: one of mean, mean_sqrt_len, cls, max, lasttoken"
    )
    file.write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        pooling_of(tmp_path)


def test_answers_need_both_outputs():
    scoring = scoring_of("question-answering", ())
    assert scoring is not None
    with pytest.raises(DataError, match=r"needs scores of both ends, \(N, 2, length\)"):
        scoring.view((), np.zeros((2, 5)))
