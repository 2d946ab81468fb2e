"""How much workers on one file differ for as long as they live, against how much the windows of one worker scatter.

Why every block of the protocol has fresh workers: ``python -m benchmarks.process_scatter`` on a quiet machine. Writes
``results/process_scatter.json``. Source of the estimate: one-way analysis of variance with random effects (Searle,
Casella and McCulloch, "Variance components", 1992), on the logarithms of the times.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import click
import numpy as np

from benchmarks.cases import CASES
from benchmarks.recording import machine, save
from compressor.benchmark.plan import make_plan
from compressor.benchmark.process import ArmFile, WorkerProcess


def variance_components(times: np.ndarray) -> tuple[float, float]:
    """Standard deviations between and within groups, as fractions.

    Args:
        times: ``(workers, windows)``, positive.

    Returns:
        Between workers (0 where the windows explain all of it), within one.
    """
    logs = np.log(times)
    windows = logs.shape[1]
    between = windows * float(logs.mean(axis=1).var(ddof=1))
    within = float(logs.var(axis=1, ddof=1).mean())
    return math.sqrt(max(0.0, (between - within) / windows)), math.sqrt(within)


def onnx_of(case: str, folder: Path) -> tuple[Path, Path]:
    """A case's model as ONNX and random inputs for it."""
    from compressor.export import export_onnx
    from compressor.model.base import TorchModel
    from compressor.model.load import load_model

    model = load_model(CASES[case].make())
    if not isinstance(model, TorchModel):
        raise SystemExit(f"{case} is no torch model")
    export_onnx(model, folder / "model.onnx")
    shape = (64, *(size or 1 for size in model.inputs[0].shape[1:]))
    np.savez(folder / "inputs.npz", input_000=np.random.default_rng(0).standard_normal(shape, np.float32))
    return folder / "model.onnx", folder / "inputs.npz"


@click.command(help=__doc__)
@click.option("--case", type=click.Choice(list(CASES)), default="resnet8", show_default=True)
@click.option("--workers", default=12, show_default=True, help="Fresh processes.")
@click.option("--windows", default=10, show_default=True, help="Windows of each.")
@click.option("--window-s", default=1.0, show_default=True)
def main(case: str, workers: int, windows: int, window_s: float) -> None:
    where, plan = machine(), make_plan("quick")
    found: dict[str, list[list[float]]] = {"CPU time": [], "wall time": []}
    with tempfile.TemporaryDirectory() as folder:
        model, inputs = onnx_of(case, Path(folder))
        for number in range(workers):
            worker = WorkerProcess(ArmFile(f"worker {number}", model, None, inputs), plan)
            try:
                worker.wait_until_loaded()
                calls = max(1, round(window_s / (worker.ask("run", calls=20)["elapsed_s"] / 20)))
                worker.ask("run", calls=calls)  # warm-up
                answers = [worker.ask("run", calls=calls) for _ in range(windows)]
            finally:
                worker.close()
            found["CPU time"].append([a["cpu_s"] / calls for a in answers])
            found["wall time"].append([a["elapsed_s"] / calls for a in answers])
            print(f"worker {number}: {1e6 * np.median(found['CPU time'][-1]):.1f} µs of CPU per call", flush=True)
    components = {name: variance_components(np.asarray(times)) for name, times in found.items()}
    print(f"{'':10}  between workers  within one")
    for name, (between, within) in components.items():
        print(f"{name:10}  {between:15.2%}  {within:10.2%}")
    command = f"python -m benchmarks.process_scatter --case {case} --workers {workers} --windows {windows}"
    figures = {name: {"between_sd": b, "within_sd": w, "times_s": found[name]} for name, (b, w) in components.items()}
    print(save("process_scatter", command, {"case": case, "window_s": window_s, "metrics": figures}, where).name)


if __name__ == "__main__":
    main()
