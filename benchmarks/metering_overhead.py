"""What metering costs: throughput with a thread that reads the meters every few ms, against none, window by window.

``python -m benchmarks.metering_overhead`` on a quiet machine; writes ``results/metering_overhead.json``. The protocol
itself reads only at the edges of a window; a guard or a power sampler reads in between, at most every 50 ms. One worker
runs all windows, in random order within each pair, so that nothing but the reading differs.
"""

from __future__ import annotations

import random
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.cases import CASES
from benchmarks.process_scatter import onnx_of
from benchmarks.recording import machine, save
from compressor import stats
from compressor.benchmark.plan import make_plan
from compressor.benchmark.process import ArmFile, WorkerProcess
from compressor.meters.base import Meter, MeterOptions
from compressor.meters.metering import process_cpu_clock
from compressor.meters.registry import open_ladder, open_meter

LIMIT = 1.005


class Poll:
    """A thread that reads meters again and again."""

    def __init__(self, meters: list[Meter], every_s: float) -> None:
        self.meters, self.every_s, self.reads = meters, every_s, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Poll:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            for meter in self.meters:
                meter.read()
            self.reads += 1


@click.command(help=__doc__)
@click.option("--case", type=click.Choice(list(CASES)), default="resnet8", show_default=True)
@click.option("--meter", "names", multiple=True, help="Meter to read.  [default: as 'compress' chooses]")
@click.option("--poll-ms", "polls", multiple=True, type=float, default=(1.0, 10.0), show_default=True)
@click.option("--pairs", default=30, show_default=True)
@click.option("--window-s", default=1.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(case: str, names: tuple[str, ...], polls: tuple[float, ...], pairs: int, window_s: float, seed: int) -> None:
    where, plan, order = machine(), make_plan("quick"), random.Random(seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model, inputs = onnx_of(case, Path(folder))
        worker = WorkerProcess(ArmFile(case, model, None, inputs), plan)
        stack.callback(worker.close)
        worker.wait_until_loaded()
        options = MeterOptions(cpu_clock=process_cpu_clock(worker.pid))
        meters = [open_meter(name, options) for name in names] if names else list(open_ladder(options))
        for meter in meters:
            stack.callback(meter.close)
        calls = max(1, round(window_s / (worker.ask("run", calls=20)["elapsed_s"] / 20)))
        worker.ask("run", calls=calls)  # warm-up
        read = "+".join(meter.info.name for meter in meters)
        print(f"{read}: time with reading over time without, {pairs} pairs of {window_s:g} s")
        for poll_ms in polls:
            plain: list[float] = []
            metered: list[float] = []
            reads = 0
            for _ in range(pairs):
                for reading in order.sample([False, True], 2):
                    if reading:
                        with Poll(meters, poll_ms / 1e3) as poll:
                            metered.append(worker.ask("run", calls=calls)["elapsed_s"])
                        reads += poll.reads
                    else:
                        plain.append(worker.ask("run", calls=calls)["elapsed_s"])
            ratio, interval = stats.ratio_interval(plain, metered)
            shown = interval is not None and interval[1] < LIMIT
            rows.append({"poll_ms": poll_ms, "ratio": ratio, "ci95": interval, "reads": reads, "below_limit": shown})
            text = "no interval" if interval is None else f"[{interval[0] - 1:+.3%}, {interval[1] - 1:+.3%}]"
            verdict = "below 0.5 %" if shown else "NOT shown to be below 0.5 %"
            print(f"every {poll_ms:g} ms: {ratio - 1:+.3%} {text}: {verdict}", flush=True)
    command = f"python -m benchmarks.metering_overhead --case {case} --pairs {pairs} --seed {seed}"
    figures: dict[str, object] = {"case": case, "meters": read, "pairs": pairs, "window_s": window_s, "overhead": rows}
    print(save("metering_overhead", command, figures, where).name)


if __name__ == "__main__":
    main()
