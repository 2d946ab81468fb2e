"""Measure the suite: ``python -m benchmarks [CASE…]``; one JSON a case in ``benchmarks/results/``, a table at the end.

``python -m benchmarks.prepare`` makes the files first. All arms of a case are measured interleaved in one run, by the
package's own benchmark. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from benchmarks.arms import INT8, MIX, ONNX, PYTORCH, Made, Workshop, elsewhere, folder_of, known
from benchmarks.cases import CASES
from benchmarks.peers import PEERS
from benchmarks.prepare import check_names
from benchmarks.recording import save
from compressor import compare
from compressor.benchmark.plan import make_plan
from compressor.benchmark.runner import Arm, BenchmarkResult, run_benchmark
from compressor.errors import CompressorError, MeasurementError, MethodError
from compressor.report import numbers
from compressor.results import Artifact, Comparison, Control, Environment, Measurement

MARGIN = 0.01
"""Accuracy that may be lost: one point."""

METRICS = (compare.CPU_TIME, compare.WALL_TIME, compare.SIZE, "energy per inference")
"""What metrics that are kept begin with; of energy there is one for each meter."""


def measure(name: str, preset: str, batch: int) -> tuple[dict[str, Any], Environment]:
    """Measure all arms of a case that there are files of.

    Returns:
        What was found, and where.

    Raises:
        MethodError: They are not made yet.
        MeasurementError: No block was sound, for instance because the machine is busy.
    """
    found = {arm: known(name, arm) for arm in (PYTORCH, ONNX, INT8, MIX, *PEERS, *elsewhere(name))}
    # Arms on other runtimes are measured where they were made: not every machine has those runtimes.
    missing = [arm for arm, made in found.items() if made is None and arm not in elsewhere(name)]
    if missing:
        raise MethodError(f"has no {missing[0]}", where=name, mend=f"python -m benchmarks.prepare {name}")
    made = {arm: one for arm, one in found.items() if one is not None}
    arms = [_arm(name, one, one.artifact) for one in made.values() if one.artifact is not None]
    twin = next(arm for arm in arms if arm.name == ONNX)
    arms.append(replace(twin, name=f"{ONNX} (A/A)", role="control"))
    plan = make_plan(preset, batch=batch)
    result = run_benchmark(arms, Workshop(name).task.test().inputs, plan)
    if not result.measurements[0].trials:
        why = "; ".join(result.warnings) or "every block was discarded"
        raise MeasurementError(why, where=name, mend="run it on a machine that does nothing else")
    return _summary(made, result), result.measurements[0].environment


def _arm(case: str, made: Made, artifact: Artifact) -> Arm:
    role: Any = "baseline" if made.name in (PYTORCH, ONNX) else "candidate"
    return Arm(made.name, role, artifact, folder_of(case) / artifact.path, made.runtime, made.kernels, made.score)


def _summary(made: dict[str, Made], result: BenchmarkResult) -> dict[str, Any]:
    of = {m.arm: m for m in result.measurements}
    controls = compare.control(of[ONNX], of[f"{ONNX} (A/A)"])
    failed = [c.metric for c in controls if not c.passed and c.ci95 is not None]
    warnings = [*result.warnings, *(f"A/A control failed: no verdict on {metric}" for metric in failed)]
    plan = of[ONNX].plan
    return {
        "batch": plan.batch,
        "threads": plan.threads,
        "preset": plan.preset,
        "warnings": warnings,
        "detection_limit": {c.metric: c.detection_limit for c in controls},
        "control_passed": {c.metric: c.passed for c in controls},
        "arms": {arm: _row(arm, made[arm], of, controls) for arm in made},
        "against_best_peer": _against_peers(of, controls),
    }


def _row(arm: str, made: Made, of: dict[str, Measurement], controls: Sequence[Control]) -> dict[str, Any]:
    """What is known of an arm: how it was made, its score, its time and its ratios."""
    steps = [step for step in (made.artifact.steps if made.artifact else ()) if step.method not in ("load", "export")]
    row: dict[str, Any] = {
        "made": [{"method": s.method, "settings": s.settings, "notes": s.notes} for s in steps] or made.about,
        "made_in_s": round(made.seconds, 1),
    }
    if arm not in of or made.artifact is None or made.score is None:
        return row | {"error": made.error}
    measured = of[arm]
    kernels = made.kernels
    row |= {
        "score": made.score.value,
        "size_bytes": made.artifact.size_bytes,
        "kernels": kernels and f"{kernels.low_precision} of {kernels.compute} in {kernels.precision}",
        "cpu_s_per_inference": sum(t.cpu_s for t in measured.trials) / sum(t.inferences for t in measured.trials),
        "steady": measured.steady,
    }
    for baseline in (PYTORCH, ONNX):
        if arm != baseline:
            row[f"against {baseline}"] = _ratios(compare.compare(of[baseline], measured, controls, MARGIN))
    return row


def _ratios(comparison: Comparison) -> dict[str, Any]:
    found: dict[str, Any] = {
        d.metric: {
            "ratio": d.ratio,
            "ci95": d.ci95,
            "verdict": d.verdict,
            "value": d.candidate.value,
            "unit": d.candidate.unit,
            "provenance": d.candidate.provenance,
        }
        for d in comparison.deltas
        if d.metric.startswith(METRICS)
    }
    score = comparison.score
    if score is not None:
        found["score"] = {
            "loss": score.loss,
            "ci95": score.ci95,
            "max_loss": score.max_loss,
            "p_value": score.p_value,
            "verdict": score.verdict,
        }
    return found


def _against_peers(of: dict[str, Measurement], controls: Sequence[Control]) -> dict[str, Any]:
    """Ours against the fastest peer that lost no more than the margin, and against the fastest whatever it lost."""
    fp32 = of[ONNX].score
    peers = {peer: of[peer] for peer in PEERS if peer in of}

    def time_of(peer: str) -> float:
        return sum(t.cpu_s for t in peers[peer].trials) / sum(t.inferences for t in peers[peer].trials)

    def lost(peer: str) -> float:
        score = peers[peer].score
        return 0.0 if fp32 is None or score is None else fp32.value - score.value

    found: dict[str, Any] = {}
    for kind, those in (("within the margin", [p for p in peers if lost(p) <= MARGIN]), ("of all", list(peers))):
        if those:
            best = min(those, key=time_of)
            found[kind] = {
                "peer": best,
                **{arm: _ratios(compare.compare(of[best], of[arm], controls, MARGIN)) for arm in (INT8, MIX)},
            }
    return found


def table(name: str, found: dict[str, Any]) -> str:
    """The arms of a case, a line each."""
    lines = [f"{name}, batch {found['batch']}", f"  {'arm':20} {'score':>8} {'CPU time':>10}  vs PyTorch  vs ONNX fp32"]
    for arm, row in found["arms"].items():
        if "score" not in row:
            lines.append(f"  {arm:20} failed: {row['error']}")
            continue
        ratios = []
        for baseline in (PYTORCH, ONNX):
            delta = row.get(f"against {baseline}", {}).get(compare.CPU_TIME)
            ratios.append(numbers.speed(delta["ratio"], delta["ci95"]) if delta else "–")
        time_us = row["cpu_s_per_inference"] * 1e6
        lines.append(f"  {arm:20} {row['score']:8.2%} {time_us:7.1f} µs  {ratios[0]:24} {ratios[1]:24}")
    for kind, best in found["against_best_peer"].items():
        for arm in (INT8, MIX):
            delta = best[arm][compare.CPU_TIME]
            ours = numbers.speed(delta["ratio"], delta["ci95"])
            lines.append(f"  {arm} against {best['peer']}, the fastest peer {kind}: {ours}")
    lines += [f"  ! {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", "preset", flag_value="quick", default="default", help="Half the time.")
@click.option("--batch", "batches", multiple=True, type=int, default=(1,), show_default=True)
def main(names: tuple[str, ...], preset: str, batches: tuple[int, ...]) -> None:
    """Measure the cases NAMES, or all of them."""
    check_names(names)
    tables = []
    for name in names or CASES:
        print(f"{name}: {CASES[name].about}", flush=True)
        runs = []
        for batch in batches:
            run, environment = measure(name, preset, batch)
            runs.append(run)
            tables.append(table(name, runs[-1]))
            print(tables[-1], flush=True)
        command = " ".join(["python -m benchmarks", name, *(part for part in sys.argv[1:] if part not in names)])
        found = {"about": CASES[name].about, "recipe": f"recipes/{CASES[name].recipe}.yaml", "runs": runs}
        save(name, command, found, environment)
    print("\n" + "\n\n".join(tables))


if __name__ == "__main__":
    try:
        main()
    except CompressorError as error:
        sys.exit(f"error: {error}")
