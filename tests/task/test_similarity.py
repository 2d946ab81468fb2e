"""Pairs of sentences with grades: what is read, what is scored, and what methods see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from tiny_transformers import WORDS, save_tiny

from compressor.errors import DataError
from compressor.model.hf_load import load_folder
from compressor.task.open import open_task, reading_for

FIRST = [f"the {a} was {b}" for a in WORDS[:6] for b in WORDS[10:15]]
SECOND = [f"{a} {b} is new" for a in WORDS[20:25] for b in WORDS[3:9]]
GRADES = [round(i % 7 / 1.4, 2) for i in range(30)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_tiny("minilm", tmp_path_factory.mktemp("encoder"))


def saved(path: Path, **columns: list) -> str:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def opened(encoder: Path, data: str, *, text=None, target=None, metric=None):
    reading = reading_for(encoder, hf_task=None, text=text, target=target, max_length=8)
    return open_task(data, inputs=load_folder(encoder).inputs, reading=reading, target=target, metric=metric)


def fake(inputs):
    """Stands in for the model: an embedding per token that depends on the token alone; ``(N, 8, 64)``."""
    return np.random.default_rng(0).standard_normal((64, 64))[inputs[0]]


def test_the_score_is_the_rank_correlation_of_the_cosines_of_mean_pooled_embeddings(encoder, tmp_path):
    task = opened(encoder, saved(tmp_path / "d.jsonl", sentence1=FIRST, sentence2=SECOND, score=GRADES))
    test = task.test()
    ids, mask = test.inputs[:2]
    assert (len(test), len(test.targets), task.summary.test_examples) == (48, 24, 24)
    hidden, weights = fake(test.inputs), mask[:, :, None]
    means = (hidden * weights).sum(1) / weights.sum(1)
    a, b = means[0::2], means[1::2]
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    score = task.evaluate(fake)
    assert score.value == pytest.approx(spearmanr(test.targets, cosines).statistic)
    assert (score.name, score.unit, len(score.per_example)) == ("spearman", "", 24)
    # Both texts of a pair stand behind each other, each by itself.
    known = {tuple(row) for row in ids[0::2, 1:5].tolist()}
    vocabulary = (encoder / "vocab.txt").read_text().split()
    assert known <= {tuple(vocabulary.index(word) for word in text.split()) for text in FIRST}
    assert "pairs of texts read from sentence1 and sentence2, their similarity from score" in task.notes


def test_methods_see_single_texts_that_are_not_scored_and_no_grades(encoder, tmp_path):
    for part, rows in (("train", slice(0, 20)), ("test", slice(18, 30))):
        columns = {"sentence1": FIRST[rows], "sentence2": SECOND[rows], "label": GRADES[rows]}
        saved(tmp_path / f"{part}.jsonl", **columns)
    task = opened(encoder, str(tmp_path))
    assert (len(task.training()), len(task.calibration()), task.training().targets) == (36, 36, None)
    scored = {row.tobytes() for row in task.test().inputs[0]}
    assert not scored & {row.tobytes() for row in task.calibration().inputs[0]}


def test_grades_may_be_texts_of_numbers_and_columns_have_other_names(encoder, tmp_path):
    rows = zip(FIRST, SECOND, GRADES, strict=True)
    (tmp_path / "d.csv").write_text("one,two,close\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    task = opened(encoder, str(tmp_path / "d.csv"), text=("one", "two"), target="close")
    assert task.summary.metric == "spearman"
    assert set(task.test().targets.round(2)) <= set(GRADES)


def test_without_grades_the_original_is_the_judge(encoder, tmp_path):
    bare = opened(encoder, saved(tmp_path / "a.jsonl", sentence1=FIRST, sentence2=SECOND))
    words = saved(tmp_path / "b.jsonl", sentence1=FIRST, sentence2=SECOND, label=["yes", "no"] * 15)
    unlike = saved(tmp_path / "c.jsonl", question=FIRST, context=SECOND, label=GRADES)
    for task in (bare, opened(encoder, words), opened(encoder, unlike)):
        assert (len(task.test()), task.test().targets) == (24, None)
    graded = saved(tmp_path / "d.jsonl", sentence1=FIRST, sentence2=SECOND, score=GRADES)
    asked = opened(encoder, graded, metric="agreement")
    assert (len(asked.test()), asked.test().targets) == (48, None)
    assert asked.summary.metric == "cosine with the original's embedding"


def test_what_is_wrong_with_grades(encoder, tmp_path):
    gap = saved(tmp_path / "a.jsonl", sentence1=FIRST, sentence2=SECOND, score=[*GRADES[:3], None, *GRADES[4:]])
    with pytest.raises(DataError) as caught:
        opened(encoder, gap)
    assert str(caught.value) == "a.jsonl, column score: no value in row 3 (counted from 0)"
    words = saved(tmp_path / "b.jsonl", sentence1=FIRST, sentence2=SECOND, score=["high"] * 30)
    with pytest.raises(DataError) as caught:
        opened(encoder, words, target="score")
    assert str(caught.value) == "b.jsonl, column score: holds what is no number"
