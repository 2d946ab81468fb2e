"""Which answers changed between the baseline and the result, on the test examples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compressor.confusion import confusion
from compressor.results import Artifact, Confusion
from compressor.task.base import Task, predict_all
from compressor.task.views import viewed

_BATCH = 256


def moved(folder: Path, artifacts: Mapping[str, Artifact], task: Task) -> Confusion | None:
    """Run two models on the test examples and compare their answers.

    Args:
        folder: The run's folder; the artifacts' paths are relative to it.
        artifacts: The baseline and the result, by the names of their arms.
        task: The data. Its ``class_names`` and the ``texts`` of its test examples are shown if it has them.

    Returns:
        What moved; ``None`` where the task is no classification.
    """
    from compressor.runtimes.registry import open_session

    examples = task.test()
    targets = examples.targets
    if targets is None or targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        return None
    scoring = getattr(task, "scoring", None)
    outputs = []
    for artifact in artifacts.values():
        session = open_session(folder / artifact.path, threads=os.cpu_count() or 1)
        outputs.append(np.asarray(predict_all(viewed(session.predict, scoring), examples.inputs, _BATCH)))
    baseline, candidate = artifacts
    return confusion(
        baseline,
        candidate,
        outputs[0],
        outputs[1],
        examples,
        class_names=getattr(task, "class_names", ()),
        texts=getattr(task, "texts", ()),
    )
