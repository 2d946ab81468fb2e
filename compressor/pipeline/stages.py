"""What the stages of a run record, and what is checked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.errors import CompressorError, MethodError
from compressor.results import Artifact, KernelCounts, ModelSummary, Parity, Score, TaskSummary
from compressor.task.base import Task


@dataclass(frozen=True)
class Exported:
    """The baselines: what the user's model is, and its files."""

    model: ModelSummary
    artifacts: dict[str, Artifact]
    parity: dict[str, Parity]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """The baselines' scores and kernels."""

    task: TaskSummary
    kernels: dict[str, KernelCounts | None]
    scores: dict[str, Score]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """What one method made of the model."""

    arm: str
    artifact: Artifact
    program: str | None
    """The torch side, for the next torch method: a program, or the weights in a Hugging Face folder; ``None`` once the
    model is a graph."""
    kernels: KernelCounts | None
    score: Score
    parity: Parity


def with_macs(baselines: Mapping[str, Artifact], folder: Path, task: Task) -> dict[str, Artifact]:
    """The baselines with their arithmetic: what PyTorch computes is what the graph made of it computes."""
    from compressor.export import counted

    graph = list(baselines.values())[-1]
    graph = counted(graph, folder / graph.path, task.test().inputs)
    return {arm: replace(one, macs=graph.macs, macs_shapes=graph.macs_shapes) for arm, one in baselines.items()}


def prove(method: str, arm: str, artifact: Artifact, kernels: KernelCounts | None) -> None:
    """An int8 graph whose kernels all stay in fp32 is an error, unless the method measured that this is best."""
    if artifact.steps[-1].settings.get("kept_fp32") or not method.startswith("int8"):
        return
    if kernels is not None and kernels.low_precision == 0:
        why = "; ".join(sorted(set(kernels.left.values()))) or "the graph has no such operator"
        raise MethodError(
            f"no operator will run in int8 ({why})", where=arm, mend="the model is left as it was; try another method"
        )


def intact(record: object, folder: Path) -> bool:
    """Whether the files that a stage recorded are still what they were."""
    from compressor.export import sha256_of

    artifacts: list[Artifact] = []
    if isinstance(record, Exported):
        artifacts = list(record.artifacts.values())
    elif isinstance(record, Made):
        artifacts = [record.artifact]
        if record.program is not None and not (folder / record.program).is_file():
            return False
    try:
        files = [(folder / artifact.path, artifact.sha256) for artifact in artifacts]
        return all(path.is_file() and sha256_of(path) == sha256 for path, sha256 in files)
    except CompressorError:
        return False
