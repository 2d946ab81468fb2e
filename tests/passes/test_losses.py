from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.passes.losses import IGNORED, Meaning, meaning_of


def meant(output: tuple[int, ...], targets: NDArray[np.generic] | None, metric: str = "accuracy") -> Meaning:
    """What an output of that shape, some of it negative, is taken for."""
    return meaning_of(torch.randn(output, generator=torch.Generator().manual_seed(0)), targets, metric, "distill")


@pytest.mark.parametrize("shape", [(8, 4, 4), (8, 1, 4, 4)])
def test_one_score_of_every_point_is_binary(shape: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).integers(0, 2, shape)
    assert meant((8, 1, 4, 4), labels) == meant((8, 1, 4, 4), labels.astype(bool)) == Meaning("binary")
    scores = torch.zeros(8, 1, 4, 4)
    found = Meaning("binary").label_loss(scores, Meaning("binary").targets(labels))
    assert float(found) == pytest.approx(np.log(2))


def test_one_score_of_every_point_is_learnt_without_labels() -> None:
    meaning = meant((8, 1, 4, 4), None)
    assert meaning == Meaning("numbers")
    assert float(meaning.teacher_loss(torch.zeros(8, 1, 4, 4), torch.ones(8, 1, 4, 4), 4.0)) == 1


def test_points_have_their_classes_on_axis_1_and_tokens_on_the_last() -> None:
    labels = np.zeros((8, 4), np.int64)
    assert meant((8, 5, 4), labels) == Meaning("classes")
    assert meant((8, 4, 5), labels) == Meaning("classes", last=True)
    assert meant((8, 4, 4), labels) == Meaning("classes")  # either way: as torch has it
    labels[:, 2:] = IGNORED
    meaning, scores = meant((8, 4, 5), labels), torch.zeros(8, 4, 5)
    scores[:, :2, 0] = 100
    assert float(meaning.label_loss(scores, meaning.targets(labels))) == 0


def test_several_labels_of_an_example_are_each_yes_or_no() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (8, 5))
    assert meant((8, 5), labels) == meant((8, 5), labels.astype(bool)) == Meaning("binary")
    assert meant((8, 5), labels.astype(np.float32)) == Meaning("numbers")
    scores = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.from_numpy(labels.astype(np.float32))
    each = torch.nn.functional.binary_cross_entropy(scores.sigmoid(), wanted)
    found = Meaning("binary").label_loss(scores, Meaning("binary").targets(labels))
    assert float(found) == pytest.approx(float(each), rel=1e-5)


def test_one_score_differs_from_its_teachers_by_the_divergence() -> None:
    student, teacher = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.0], [0.5]])
    two = [torch.cat([torch.zeros(2, 1), each], 1) for each in (student, teacher)]
    found = Meaning("binary").teacher_loss(student, teacher, 2.0)
    assert float(found) == pytest.approx(float(Meaning("classes").teacher_loss(two[0], two[1], 2.0)), rel=1e-5)


@pytest.mark.parametrize(
    ("output", "targets", "message"),
    [
        (
            (8, 1, 4, 4),
            np.full((8, 4, 4), 2),
            "distill: labels go up to 2 but the model has 1 output; number the classes from 0, or check that the data "
            "belong to this model",
        ),
        (
            (8, 1, 4, 4),
            np.zeros((8, 2, 2), np.int64),
            "distill: the labels are (N, 2, 2), the model's output is (N, 1, 4, 4)",
        ),
        (
            (8, 4, 5),
            np.full((8, 4), 5),
            "distill: labels go up to 5 but the model has 5 outputs; number the classes from 0, or check that the data "
            "belong to this model",
        ),
        (
            (8, 5),
            np.full((8, 5), 2),
            "distill: the labels are (N, 5), the model's output is (N, 5); give one class number for each row of "
            "scores, (N,) for (N, C), or a 0 or 1 for each score",
        ),
        (
            (8, 5),
            np.full(8, IGNORED),
            "distill: labels go down to -100; number the classes from 0",
        ),
    ],
)
def test_labels_that_do_not_match(output: tuple[int, ...], targets: NDArray[np.generic], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        meant(output, targets)
    assert str(caught.value) == message
