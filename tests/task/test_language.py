from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.model.base import Arrays
from compressor.results import TensorSpec
from compressor.scoring import score_delta
from compressor.task.language import TextTask, cut, model_inputs, nll, open_text
from compressor.task.synthetic import with_reference

VOCABULARY = 128


def by_letter(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, and back again; " * 20)
    return path


@pytest.fixture
def task(text: Path) -> TextTask:
    return open_text(text, by_letter, window=32)


class Bigrams:
    """A real, small language model: counts of pairs of letters, smoothed."""

    def __init__(self, text: str, smoothing: float) -> None:
        counts = np.full((VOCABULARY, VOCABULARY), smoothing)
        for one, two in pairwise(text):
            counts[ord(one), ord(two)] += 1
        self.logits = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)

    def __call__(self, inputs: Arrays) -> NDArray[np.generic]:
        return self.logits[inputs[0]]


class TestCut:
    def test_every_token_is_scored_once(self) -> None:
        windows, scored = cut(range(100), 16)
        assert scored == 8
        tails = windows[:, -scored:].reshape(-1)
        assert tails.tolist() == list(range(8, 96))

    def test_a_short_text_has_shorter_windows(self) -> None:
        windows, scored = cut(range(40), 256)
        assert windows.shape == (4, 16)
        assert scored == 8

    def test_too_little_text(self) -> None:
        with pytest.raises(DataError, match="has 5 tokens, too few to score; give a text of some hundred words"):
            cut(range(5), 256)


class TestPerplexity:
    def test_by_hand(self) -> None:
        """Uniform logits over 4 tokens: perplexity 4; logits of p = 1/2 for the right one: perplexity 2."""
        logits = np.zeros((3, 4), np.float32)
        assert nll(logits, np.array([0, 1, 3])) == pytest.approx(math.log(4))
        logits[np.arange(3), [0, 1, 3]] = math.log(3)
        assert nll(logits, np.array([0, 1, 3])) == pytest.approx(math.log(2))

    def test_large_logits_do_not_overflow(self) -> None:
        assert nll(np.array([[1e4, 0.0]], np.float32), np.array([1])) == pytest.approx(1e4)

    def test_is_the_exponential_of_the_mean(self, text: Path, task: TextTask) -> None:
        model = Bigrams(text.read_text(), 0.1)
        score = task.evaluate(model)
        losses = [
            -model.logits[one, two]
            for window in task.test_windows
            for one, two in zip(window[-task.scored - 1 : -1], window[-task.scored :], strict=True)
        ]
        assert score.value == pytest.approx(math.exp(np.mean(losses)))
        assert (score.name, score.unit, score.higher_is_better) == ("perplexity", "", False)
        assert score.per_example is not None
        assert np.mean(score.per_example) == pytest.approx(score.value)

    def test_the_interval_holds_the_loss(self, text: Path, task: TextTask) -> None:
        good, worse = (task.evaluate(Bigrams(text.read_text(), smoothing)) for smoothing in (0.1, 1.0))
        delta = score_delta(good, worse, max_loss=0.01)
        assert delta.loss == pytest.approx(worse.value - good.value)
        assert delta.ci95 is not None
        assert delta.ci95[0] < delta.loss < delta.ci95[1]
        assert delta.verdict == "lost"

    def test_the_interval_is_right_as_often_as_it_says(self) -> None:
        """Windows of random losses: the interval of the difference holds the true one in about 95 %."""
        draws, hits = np.random.default_rng(0), 0
        base, rise, spread, count = 3.0, 0.02, 0.05, 40
        true = math.exp(base + rise) - math.exp(base)
        for _ in range(400):
            shared = draws.normal(0, 0.3, count)
            one = base + shared - shared.mean()
            two = one + rise + draws.normal(0, spread, count)
            scores = []
            for losses in (one, two):
                mean = losses.mean()
                scores.append(np.exp(mean) * (1 + losses - mean))
            difference = scores[1] - scores[0]
            half = 2.02 * difference.std(ddof=1) / math.sqrt(count)
            hits += abs(difference.mean() - true) <= half
        assert 0.91 < hits / 400 < 0.99


class TestAgreement:
    def test_a_model_agrees_with_itself(self, text: Path, task: TextTask) -> None:
        model = Bigrams(text.read_text(), 0.1)
        by_choice = with_reference(task, model)
        assert by_choice.summary.metric == "agreement"
        assert by_choice.evaluate(model).value == 1

    def test_counts_the_tokens(self, text: Path, task: TextTask) -> None:
        model = Bigrams(text.read_text(), 0.1)
        turned = Bigrams(text.read_text(), 0.1)
        turned.logits[ord("q")] = np.roll(turned.logits[ord("q")], 1)
        score = task.with_original(model).evaluate(turned)
        before = task.test_windows[:, -task.scored - 1 : -1]
        assert score.value == pytest.approx((before != ord("q")).mean())
        assert score.per_example is not None
        assert len(score.per_example) == len(task.test_windows)

    def test_needs_the_original(self, text: Path) -> None:
        task = open_text(text, by_letter, metric="agreement", window=32)
        assert task.test().targets is None
        with pytest.raises(DataError, match=r"text.txt: the original model's choices are not known"):
            task.evaluate(Bigrams(text.read_text(), 0.1))


class TestExamples:
    def test_calibration_and_test_score_different_tokens(self, task: TextTask) -> None:
        calibration, test = task.calibration(), task.test()
        assert len(calibration) == task.summary.calibration_examples
        assert len(test) == task.summary.test_examples
        assert task.training() is None
        assert task.notes == ("1220 tokens in windows of 32; the last 16 of each are scored, 1088 in all",)

    def test_inputs_of_a_model_with_a_cache(self) -> None:
        specs = (
            TensorSpec("input_ids", "int64", (None, None)),
            TensorSpec("attention_mask", "int64", (None, None)),
            TensorSpec("position_ids", "int64", (None, None)),
            TensorSpec("past_key_values.0.key", "float32", (None, 2, None, 8)),
        )
        ids, mask, positions, past = model_inputs(np.array([[5, 6, 7]]), specs)
        assert ids.tolist() == [[5, 6, 7]]
        assert mask.tolist() == [[1, 1, 1]]
        assert positions.tolist() == [[0, 1, 2]]
        assert past.shape == (1, 2, 0, 8)

    def test_another_input_is_refused(self) -> None:
        with pytest.raises(DataError, match="plain text gives no value for the model's input 'pixel_values'"):
            model_inputs(np.array([[1]]), (TensorSpec("pixel_values", "float32", (None, 3)),))


class TestRefused:
    def test_outputs_of_another_kind(self, task: TextTask) -> None:
        with pytest.raises(DataError, match=r"the model's output is \(1, 10\) for \(1, 32\) tokens"):
            task.evaluate(lambda _: np.zeros((1, 10), np.float32))

    def test_outputs_that_are_no_numbers(self, task: TextTask) -> None:
        with pytest.raises(DataError, match="the model's output for test example 0 is NaN or infinite"):
            task.evaluate(lambda inputs: np.full((*inputs[0].shape, VOCABULARY), np.nan, np.float32))

    def test_a_tokenizer_of_another_model(self, task: TextTask) -> None:
        with pytest.raises(DataError, match="and the model knows 64; the tokenizer does not belong to this model"):
            task.evaluate(lambda inputs: np.zeros((*inputs[0].shape, 64), np.float32))

    def test_files(self, text: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no such file"):
            open_text(tmp_path / "absent.txt", by_letter)
        (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
            open_text(tmp_path / "bytes.txt", by_letter)
        with pytest.raises(DataError, match="text has no metric 'perplexty'; did you mean 'perplexity'"):
            open_text(text, by_letter, metric="perplexty")
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(DataError, match="holds no tokenizer, so texts cannot be read for it"):
            open_text(text, tmp_path)
