"""The original model as its own judge: for data without targets, and for no data at all.

The score is agreement with the original's outputs (formula: :func:`compressor.task.metrics._agrees`): it says whether
compressing changed what the model computes, not whether the model is right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.model.base import Arrays
from compressor.model.hf_folder import Limits
from compressor.results import TaskSummary, TensorSpec
from compressor.task.array_task import ArrayTask
from compressor.task.base import Examples, Predict, Task, predict_all
from compressor.task.fit import first_not_finite
from compressor.task.language import TextTask
from compressor.task.metrics import AGREEMENT, metric
from compressor.task.prepare import LEAST
from compressor.task.splits import row_digests
from compressor.task.views import Scoring, viewed

FREE_AXIS = 32
"""Size of an axis, other than that of the examples, which the model leaves free."""

TOKEN_IDS = 100
"""Whole numbers are drawn from 0 to one less: within any vocabulary that is not tiny."""

_BATCH = 256


def with_reference(task: Task, reference: Predict) -> Task:
    """Give a task without targets the original model's outputs to be scored against.

    Args:
        task: Its test examples need no targets.
        reference: The original model; run once over the test examples.

    Returns:
        The same examples, scored by agreement with the original.

    Raises:
        DataError: The original cannot run on them, or its outputs are not finite.
    """
    if isinstance(task, TextTask):
        return task.with_original(reference)
    test, summary, scoring = task.test(), task.summary, getattr(task, "scoring", None)
    agreement = metric(AGREEMENT) if scoring is None else scoring.agreement
    outputs = _outputs(viewed(reference, scoring), test.inputs, summary.name)
    return ArrayTask(
        TaskSummary(
            summary.name, agreement.name, summary.synthetic, summary.calibration_examples, summary.test_examples
        ),
        agreement,
        task.calibration(),
        task.training(),
        Examples(test.inputs, outputs),
        getattr(task, "notes", ()),
        scoring,
    )


def synthetic_task(
    inputs: tuple[TensorSpec, ...],
    reference: Predict,
    *,
    seed: int = 0,
    examples: int = 256,
    limits: Limits | None = None,
    scoring: Scoring | None = None,
) -> ArrayTask:
    """Draw inputs from the model's signature, to be scored by agreement with the original.

    Floats are standard normal; whole numbers uniform over 0..99 (uint8: 0..255); booleans even. By its name an input
    is all ones (``mask``), all zeros (``token_type``), counts from 0 along its last axis (``position``) or is empty
    (``past_key_values``). Free axes get 32. With ``limits`` token ids are drawn from the whole vocabulary, and texts
    and sounds have their length.

    Args:
        inputs: The model's inputs.
        reference: The original model; run once over the test examples.
        seed: Of the draw.
        examples: How many to score; as many again calibrate.
        limits: What a Hugging Face model's config says of its inputs.
        scoring: What of the output is scored.

    Raises:
        DataError: The original cannot run on such inputs, or they leave no room for two different examples.
    """
    if examples < LEAST:
        raise DataError(f"is {examples}; at least {LEAST} are needed", where="examples")
    if not inputs:
        raise DataError("the model has no inputs to draw", where="synthetic data")
    generator = np.random.default_rng(seed)
    calibration, test = (tuple(_drawn(spec, examples, generator, limits) for spec in inputs) for _ in range(2))
    shared = np.isin(row_digests(calibration), row_digests(test))
    if (kept := int((~shared).sum())) < LEAST:
        raise DataError(
            "the model's inputs take so few values that calibration and test examples are the same",
            where="synthetic data",
            mend="give data",
        )
    agreement = metric(AGREEMENT) if scoring is None else scoring.agreement
    notes = [f"{spec.name} drawn at random: {spec.dtype} {test[i].shape[1:]}" for i, spec in enumerate(inputs)]
    if kept < examples:
        notes.append(f"took out {examples - kept} of {examples} calibration examples that are also test examples")
    return ArrayTask(
        TaskSummary("synthetic", agreement.name, True, kept, examples),
        agreement,
        Examples(tuple(x[~shared] for x in calibration) if kept < examples else calibration, None),
        None,
        Examples(test, _outputs(viewed(reference, scoring), test, "synthetic data")),
        tuple(notes),
        scoring,
    )


def _drawn(spec: TensorSpec, count: int, generator: np.random.Generator, limits: Limits | None) -> NDArray[np.generic]:
    dtype, name = np.dtype(spec.dtype), spec.name.lower()
    free = FREE_AXIS if limits is None else limits.samples if name == "input_values" else limits.length
    if name.startswith("past_key_values"):
        free = 0  # nothing was said before
    shape = (count, *(free if size is None else size for size in spec.shape[1:]))
    if "mask" in name:
        return np.ones(shape, dtype)
    if "token_type" in name:
        return np.zeros(shape, dtype)
    if dtype.kind in "iu":
        if "position" in name:
            return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
        ids = TOKEN_IDS if limits is None else limits.vocabulary
        return generator.integers(0, 256 if dtype == np.uint8 else ids, shape).astype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape, np.float32).astype(dtype)
    raise DataError(f"inputs of type {spec.dtype} cannot be drawn", where=spec.name, mend="give data")


def _outputs(reference: Predict, inputs: Arrays, where: str) -> NDArray[np.generic]:
    try:
        outputs = np.asarray(predict_all(reference, inputs, _BATCH))
    except Exception as error:
        raise DataError(
            f"the original model fails on these inputs ({type(error).__name__}: {error})",
            where=where,
            mend="give data that it was made for",
        ) from error
    if (row := first_not_finite(outputs)) is not None:
        raise DataError(f"the original model's output for test example {row} is NaN or infinite", where=where)
    return outputs
