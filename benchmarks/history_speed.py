"""How long the history takes with 10 000 runs in it: ``python -m benchmarks.history_speed [RUNS]``.

Fills a history in a temporary folder with runs as large as real ones (rows, and a compressed record of some kB), then
times what a user does: the whole command line, interpreter start included. Medians of five, on whatever machine this
is; the user's CPU time is beside the wall time.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from compressor.history.database import History, open_history
from compressor.history.rows import ArmRow, Mean, RunRow

ARM = ArmRow(
    position=0,
    listed=False,
    role="baseline",
    arm="ONNX fp32",
    model="",
    model_sha256="",
    method="",
    artifact_sha256="",
    size_bytes=305_000,
    parameters=77_850,
    runtime="onnxruntime",
    runtime_version="1.31.1",
    device="cpu",
    machine="A CPU · 2 cores",
    batch=1,
    threads=1,
    workload="",
    score=Mean(0.92, (0.915, 0.925)),
    score_unit="fraction",
    higher_is_better=True,
    energy_j=Mean(2e-3, (1.9e-3, 2.1e-3)),
    provenance="measured",
    meter="rapl",
    carbon_g=None,
    cpu_s=Mean(1e-3, (0.9e-3, 1.1e-3)),
    baseline=None,
    energy_ratio=None,
    energy_verdict=None,
    cpu_ratio=None,
    cpu_verdict=None,
    label=None,
)


def fill(history: History, runs: int) -> None:
    """Add runs with figures drawn at random: what is measured is the history, not a model."""
    dice = random.Random(0)
    for number in range(runs):
        digest = f"{dice.getrandbits(256):064x}"
        model, joules = f"model-{number % 500}", dice.uniform(1e-4, 1e-1)
        run = RunRow(
            digest=digest,
            kind="compress",
            created_utc=f"2030-01-{1 + number % 28:02}T{number % 24:02}:00:00+00:00",
            tool="compressor",
            model=model,
            task=f"task {number % 20}",
            data=f"task {number % 20}, 10 000 test examples",
            metric="accuracy",
            synthetic=False,
            headline="43 % less energy per inference",
            compress_s=75.0,
            compress_cpu_s=70.0,
            compress_j=1200.0,
            compress_provenance="measured",
            compress_carbon_g=0.1,
            folder=f"/runs/{number}",
            command="compress model.pt2",
        )
        own = replace(ARM, model=model, artifact_sha256=digest, model_sha256=f"{number % 500:064x}")
        after = replace(
            own, position=1, listed=True, role="candidate", arm="ONNX int8", method="int8", baseline=0,
            score=Mean(dice.uniform(0.7, 0.99), None), energy_j=Mean(joules, (0.9 * joules, 1.1 * joules)),
        )  # fmt: skip
        # As incompressible as a real record: about 7 kB.
        history.add(run, (own, after), '{"schema": 1, "padding": "' + dice.randbytes(6_000).hex() + '"}')


def timed(*arguments: str) -> tuple[float, float]:
    """Median wall-clock and CPU seconds of five runs of ``compress``."""
    wall, cpu = [], []
    for _ in range(5):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "compressor", *arguments], check=True, stdout=subprocess.DEVNULL)
        wall.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(wall), statistics.median(cpu)


@click.command()
@click.argument("runs", type=int, default=10_000)
def main(runs: int) -> None:
    """Fill a history with RUNS runs and time it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "history.db"
        started = time.perf_counter()
        with open_history(place, write=True) as history:
            fill(history, runs)
        filled = time.perf_counter() - started
        print(f"{runs} runs, {place.stat().st_size / 1e6:.0f} MB; {filled / runs * 1e3:.2f} ms to add one")
        page = Path(folder) / "page.html"
        history_command = ("history", "--history", str(place))
        for name, arguments in (
            ("compress --version, for comparison", ("--version",)),
            ("list the newest 50", history_command),
            ("list all", (*history_command, "--limit", "0")),
            ("list all by energy", (*history_command, "--limit", "0", "--sort", "energy")),
            ("one task by score", (*history_command, "--task", "task 3", "--sort", "score")),
            ("all as JSON", (*history_command, "--limit", "0", "--json")),
            ("overview page", (*history_command, "--html", str(page))),
        ):
            wall, cpu = timed(*arguments)
            print(f"  {name:36} {wall:6.2f} s, {cpu:5.2f} s of CPU")
        print(f"  {'size of the page':36} {page.stat().st_size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()
