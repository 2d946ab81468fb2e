"""Who is cheapest at which score: Pareto fronts of what may be compared, and nothing else. Pure.

A front holds models that did the same task on the same test examples, on one machine, runtime, batch and number of
threads, under one meter. Estimated joules make no front: where energy was not measured, CPU time is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compressor.history.database import Entry
from compressor.history.rows import Mean


@dataclass(frozen=True)
class Group:
    """What has to be equal before two models may be ranked.

    Attributes:
        task: Name of the data.
        data: The data, the column and the draw of the test examples.
        metric: Name of the score.
        unit: Its unit.
        higher_is_better: Its direction.
        synthetic: Whether it is agreement on random inputs.
        machine: The machine.
        runtime: What ran the models.
        device: On which device.
        batch: Examples per call.
        threads: Threads of the runtime.
        workload: What a call is where tokens are counted; empty elsewhere.
        cost: What is compared: ``energy per inference, measured (METER)`` or ``CPU time per inference``; per token
            where there is a workload.
        cost_unit: ``J`` or ``s``.
    """

    task: str
    data: str
    metric: str
    unit: str
    higher_is_better: bool
    synthetic: bool
    machine: str
    runtime: str
    device: str
    batch: int
    threads: int
    workload: str
    cost: str
    cost_unit: str


@dataclass(frozen=True)
class Point:
    """A model on the plane of score and cost.

    Attributes:
        entry: Where it is from: the latest run that measured it.
        score: Its score.
        cost: What an inference costs.
    """

    entry: Entry
    score: Mean
    cost: Mean


@dataclass(frozen=True)
class Front:
    """Models that may be ranked, and those that no other beats.

    Attributes:
        group: What they share.
        points: All of them, the cheapest first.
        best: The Pareto front, the cheapest first: whoever is cheaper scores less.
    """

    group: Group
    points: tuple[Point, ...]
    best: tuple[Point, ...]

    def cheapest(self, min_score: float) -> Point | None:
        """The cheapest model that scores as required.

        Args:
            min_score: The score asked for, in the metric's unit; the most that is allowed where less is better.

        Returns:
            The model; ``None`` if none scores so.
        """
        sign = 1 if self.group.higher_is_better else -1
        return next((p for p in self.best if sign * p.score.value >= sign * min_score), None)


def fronts(arms: Iterable[Entry]) -> list[Front]:
    """Sort arms into what may be compared and find each group's Pareto front.

    Args:
        arms: Arms, the newest first; of a model that was measured again only the newest counts.

    Returns:
        The fronts by task, those with most models first. Arms without a score or without any cost are in none.
    """
    groups: dict[Group, dict[str, Point]] = defaultdict(dict)
    for entry in arms:
        for cost in _costs(entry):
            group = _group(entry, *cost[:2])
            if group is not None and entry.arm.score is not None:
                groups[group].setdefault(_identity(entry), Point(entry, entry.arm.score, cost[2]))
    found = []
    for group, points in groups.items():
        ranked = sorted(points.values(), key=lambda p: (p.cost.value, -_sign(group) * p.score.value))
        found.append(Front(group, tuple(ranked), tuple(_best(ranked, _sign(group)))))
    return sorted(_needed(found), key=lambda f: (f.group.synthetic, f.group.task, f.group.metric, -len(f.points)))


def _costs(entry: Entry) -> list[tuple[str, str, Mean]]:
    arm = entry.arm
    found = []
    each = "token" if arm.workload else "inference"
    if arm.energy_j is not None and arm.provenance == "measured":
        found.append((f"energy per {each}, measured ({arm.meter})", "J", arm.energy_j))
    # On a GPU the CPU's time says little.
    if arm.cpu_s is not None and arm.device == "cpu":
        found.append((f"CPU time per {each}", "s", arm.cpu_s))
    return found


def _group(entry: Entry, cost: str, unit: str) -> Group | None:
    run, arm = entry.run, entry.arm
    if arm.score_unit is None or arm.higher_is_better is None:
        return None
    return Group(
        task=run.task,
        data=run.data,
        metric=run.metric,
        unit=arm.score_unit,
        higher_is_better=arm.higher_is_better,
        synthetic=run.synthetic,
        machine=arm.machine,
        runtime=arm.runtime,
        device=arm.device,
        batch=arm.batch,
        threads=arm.threads,
        workload=arm.workload,
        cost=cost,
        cost_unit=unit,
    )


def _identity(entry: Entry) -> str:
    """What is the same model again: the same file; of an original, whose archive is never twice alike, its source."""
    arm = entry.arm
    return arm.model_sha256 if entry.run.kind == "compress" and arm.role == "baseline" else arm.artifact_sha256


def _sign(group: Group) -> int:
    return 1 if group.higher_is_better else -1


def _best(ranked: Sequence[Point], sign: int) -> Iterable[Point]:
    """Those that score better than everything cheaper."""
    top = float("-inf")
    for point in ranked:
        if sign * point.score.value > top:
            top = sign * point.score.value
            yield point


def _needed(found: Sequence[Front]) -> list[Front]:
    """Leave out the CPU time of models that all have measured joules by one meter."""
    measured: dict[tuple[object, ...], int] = defaultdict(int)
    for front in found:
        if front.group.cost_unit == "J":
            key = _place(front.group)
            measured[key] = max(measured[key], len(front.points))
    return [f for f in found if f.group.cost_unit == "J" or measured[_place(f.group)] < len(f.points)]


def _place(group: Group) -> tuple[object, ...]:
    return tuple(value for name, value in vars(group).items() if name not in ("cost", "cost_unit"))
