"""How long ``--method int8`` takes without the benchmark, against the plain library calls for the same work.

``python -m benchmarks.time_of_int8`` on a quiet machine; writes ``results/time_of_int8.json``. The plain calls are ONNX
Runtime's ``quant_pre_process`` and ``quantize_static`` with a reader that gives the same calibration examples in the
same batches, and the same types, operators and nodes. The two run by turns; what is reported is the ratio over pairs.
``int8`` as it is by default also times the layers on this processor: that ratio is given too, and is above 1 by what
the library does not do.
"""

from __future__ import annotations

import logging
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.memory import Given
from benchmarks.recording import machine, save
from compressor import stats
from compressor.environment import cpu_features
from compressor.passes.base import Context
from compressor.passes.calibration import BATCH
from compressor.passes.int8 import Int8
from compressor.passes.int8_plan import STATIC_OPS, Types
from compressor.passes.qdq import quiet

LIMIT = 1.2


def model_of(network: str, folder: Path) -> tuple[Path, tuple[int, ...]]:
    """A network of the examples with random weights, as ONNX, and the shape of its input."""
    import sys

    import torch

    from compressor.export import export_onnx
    from compressor.model.base import TorchModel
    from compressor.results import ModelSummary, TensorSpec

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import resnet

    torch.manual_seed(0)
    module = getattr(resnet, network)().eval()
    shape = (1, 28, 28)
    specs = (TensorSpec("x", "float32", (None, *shape)),)
    summary = ModelSummary(network, network, "exported program", "0" * 64, 1, None, specs)
    export_onnx(TorchModel(network, module, (torch.randn(2, *shape),), specs, summary), folder / "model.onnx")
    return folder / "model.onnx", shape


def by_library(source: Path, inputs: np.ndarray, target: Path) -> None:
    """What the library's documentation says to do."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(range(0, len(inputs), BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            start = next(self.batches, None)
            return None if start is None else {"x": inputs[start : start + BATCH]}

    types = Types.of(cpu_features())
    ready = target.with_name("ready.onnx")
    quant_pre_process(str(source), str(ready))
    quantize_static(
        str(ready),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC_OPS),
        per_channel=True,
        reduce_range=types.reduce_range,
        activation_type=QuantType.QUInt8 if types.activation == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )


def by_us(source: Path, method: Int8, context: Context, target: Path) -> None:
    """What ``compress`` does."""
    method.apply(source, target, context)


@click.command(help=__doc__)
@click.option("--network", "networks", multiple=True, default=("resnet8", "resnet18"), show_default=True)
@click.option("--examples", default=512, show_default=True, help="Calibration examples; 512 is what a run takes.")
@click.option("--pairs", default=7, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(networks: tuple[str, ...], examples: int, pairs: int, threads: int, seed: int) -> None:
    where, order, rows = machine(), random.Random(seed), []
    for network in networks:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source, shape = model_of(network, folder)
            inputs = np.random.default_rng(seed).standard_normal((examples, *shape), np.float32)
            context = Context(Given((inputs,)), threads=threads, cpu_features=cpu_features())
            arms: dict[str, Callable[[Path], object]] = {
                "library": partial(by_library, source, inputs),
                "by rule": partial(by_us, source, Int8(by_rule=True), context),
                "timed": partial(by_us, source, Int8(), context),
            }
            seconds: dict[str, list[float]] = {arm: [] for arm in arms}
            for pair in range(pairs + 1):
                for arm in order.sample(list(arms), len(arms)):
                    with tempfile.TemporaryDirectory(dir=folder) as out, quiet():
                        started = time.perf_counter()
                        arms[arm](Path(out) / "model.onnx")
                        if pair:  # the first warms up
                            seconds[arm].append(time.perf_counter() - started)
            for arm in ("by rule", "timed"):
                ratio, interval = stats.ratio_interval(seconds["library"], seconds[arm])
                text = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
                rows.append({"network": network, "arm": arm, "ratio": ratio, "ci95": interval, "seconds": seconds[arm]})
                verdict = "" if arm == "timed" else (": ok" if ratio <= LIMIT else f": NOT within {LIMIT}")
                ours, theirs = (float(np.median(seconds[which])) for which in (arm, "library"))
                shown = f"{network:9} {arm:8} {ours:6.2f} s, library {theirs:6.2f} s: {ratio:.2f}x"
                print(f"{shown}{text}{verdict}", flush=True)
            rows.append({"network": network, "arm": "library", "seconds": seconds["library"]})
    command = (
        f"python -m benchmarks.time_of_int8 --examples {examples} --pairs {pairs} --threads {threads} --seed {seed}"
    )
    figures: dict[str, object] = {"examples": examples, "threads": threads, "limit": LIMIT, "times": rows}
    print(save("time_of_int8", command, figures, where).name)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's advice on what it was not asked to do
        main()
