"""Measure the suite: ``python -m benchmarks [CASE…]``; one JSON a case in ``benchmarks/results/``, a table at the end.

Every case is run by the package's own pipeline at batch 1 and 32, so that what is measured is what a user gets. Run it
on a machine that does nothing else.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.cases import CASES, ROOT
from compressor import compare
from compressor.errors import CompressorError, nearest
from compressor.pipeline import Job, Method, run
from compressor.report import numbers
from compressor.results import Report
from compressor.store.runfolder import write_beside

RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(ROOT))


def summary(report: Report) -> dict[str, object]:
    """What a row of the README's table is made of."""
    against = {}
    for comparison in report.comparisons:
        deltas = {d.metric: d for d in comparison.deltas}
        against[comparison.baseline] = {
            metric: {"ratio": deltas[metric].ratio, "ci95": deltas[metric].ci95, "verdict": deltas[metric].verdict}
            for metric in (compare.CPU_TIME, compare.WALL_TIME, compare.SIZE)
            if metric in deltas
        }
    score = report.comparisons[0].score
    candidate = next(m for m in report.measurements if m.role == "candidate")
    kernels = candidate.kernels
    cpu_s = {m.arm: sum(t.cpu_s for t in m.trials) for m in report.measurements}
    inferences = {m.arm: max(1, sum(t.inferences for t in m.trials)) for m in report.measurements}
    return {
        "headline": report.headline,
        "warnings": report.warnings,
        "batch": candidate.plan.batch,
        "preset": candidate.plan.preset,
        "threads": candidate.plan.threads,
        "kernels": kernels and f"{kernels.low_precision} of {kernels.compute} in {kernels.precision}",
        "score": score and asdict(score),
        "detection_limit": {c.metric: c.detection_limit for c in report.control},
        "control_passed": {c.metric: c.passed for c in report.control},
        "against": against,
        "cost": {stage.stage: round(stage.elapsed_s, 2) for stage in report.stages},
        "size_bytes": {m.arm: m.artifact.size_bytes for m in report.measurements},
        "cpu_s_per_inference": {arm: cpu_s[arm] / inferences[arm] for arm in cpu_s},
    }


def row(case: str, found: dict) -> str:
    """One line of the table at the end."""
    fp32 = found["against"]["ONNX fp32"][compare.CPU_TIME]
    torch_fp32 = found["against"].get("PyTorch fp32", {}).get(compare.CPU_TIME)
    score = found["score"]
    cells = [
        f"{case:14}",
        f"{found['batch']:>5}",
        f"{numbers.speed(fp32['ratio'], fp32['ci95']):28}",
        f"{numbers.speed(torch_fp32['ratio'], torch_fp32['ci95']) if torch_fp32 else '–':28}",
        f"{numbers.quantity(score['baseline'], 'fraction')} → {numbers.quantity(score['candidate'], 'fraction')}",
    ]
    return "  ".join(cells)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", "preset", flag_value="quick", default="default", help="Measure for about 1 min each.")
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 32), show_default=True)
@click.option("--method", default="int8", show_default=True)
def main(names: tuple[str, ...], preset: str, batches: tuple[int, ...], method: str) -> None:
    """Measure the cases NAMES, or all of them."""
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise click.UsageError(f"no case {unknown[0]!r}; {nearest(unknown[0], CASES)}")
    rows = []
    for name in names or CASES:
        case = CASES[name]
        print(f"{name}: {case.about}", flush=True)
        model, found, environment = case.make(), [], None
        for batch in batches:
            with tempfile.TemporaryDirectory() as folder:
                job = Job(model, (Method(method),), case.data, batch=batch, preset=preset, out=Path(folder) / "out")
                report = run(job).report
            environment = asdict(report.measurements[0].environment)
            found.append(summary(report))
            rows.append(row(name, found[-1]))
            print(f"  batch {batch}: {report.headline}", flush=True)
        RESULTS.mkdir(exist_ok=True)
        record = {
            "command": f"python -m benchmarks {name}" + (" --quick" if preset == "quick" else ""),
            "about": case.about,
            "created_utc": report.created_utc,
            "environment": environment,
            "runs": found,
        }
        write_beside(RESULTS / f"{name}-{method}.json", json.dumps(record, indent=1) + "\n")
    print(f"\n{'case':14}  batch  {'CPU time against ONNX fp32':28}  {'against PyTorch fp32':28}  score")
    print("\n".join(rows))


if __name__ == "__main__":
    try:
        main()
    except CompressorError as error:
        sys.exit(f"error: {error}")
