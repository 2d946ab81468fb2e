"""How small a difference a run can see: a real A/A of an untrained ResNet-18 (11.2 M parameters), by the protocol.

``python -m benchmarks.detection_limit`` on a quiet machine, about 1 min; writes ``results/detection_limit.json``. What
the weights are does not matter to how long they take.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import torch

from benchmarks.cases import ROOT
from benchmarks.recording import machine, save
from benchmarks.training import export
from compressor.bench import BenchJob, run_bench
from compressor.benchmark.plan import PRESETS

sys.path.insert(0, str(ROOT / "examples"))
from resnet import resnet18


@click.command(help=__doc__)
@click.option("--preset", default="quick", show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--meter", "meters", multiple=True, default=("cpu-time",), show_default=True)
@click.option("--blocks", type=int, help="Fewer blocks than the preset's, to try the script.")
@click.option("--window-s", type=float, help="Shorter windows than the preset's, to try the script.")
@click.option("--seed", default=0, show_default=True)
def main(
    preset: str, batch: int, meters: tuple[str, ...], blocks: int | None, window_s: float | None, seed: int
) -> None:
    where = machine()
    if blocks or window_s:
        usual = PRESETS[preset]
        PRESETS[preset] = replace(
            usual, preset="custom", blocks=blocks or usual.blocks, window_s=window_s or usual.window_s
        )
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        file = export(resnet18().eval(), (torch.zeros(2, 1, 28, 28),), Path(folder) / "resnet18.pt2")
        job = BenchJob((file,), ("onnxruntime",), (batch,), preset=preset, meters=meters, seed=seed)
        (run,) = run_bench(job).runs
    if not run.control:
        raise SystemExit(f"not run: {' '.join(run.warnings)}")
    print(f"{'metric':42} twin/original  95 % interval      detection limit")
    for control in run.control:
        low, high = control.ci95 or (float("nan"), float("nan"))
        limit = "none" if control.detection_limit is None else f"{control.detection_limit:.2%}"
        passed = "" if control.passed else "  FAILED"
        print(f"{control.metric:42} {control.ratio:13.4f}  [{low:.4f}, {high:.4f}]  {limit:>15}{passed}")
    for warning in run.warnings:
        print(f"! {warning}")
    figures = {
        "model": "ResNet-18, 28x28 pictures, ONNX Runtime",
        "preset": run.measurements[0].plan.preset,
        "control": [
            {"metric": c.metric, "ratio": c.ratio, "ci95": c.ci95, "limit": c.detection_limit, "passed": c.passed}
            for c in run.control
        ],
        "warnings": list(run.warnings),
    }
    command = f"python -m benchmarks.detection_limit --preset {preset} --batch {batch} --seed {seed}"
    print(save("detection_limit", command, figures, where).name)


if __name__ == "__main__":
    main()
