"""NVML's energy counter against integrated power, and joules per inference in fp32, fp16 and bf16, on an NVIDIA GPU.

``python -m benchmarks.gpu_energy`` writes ``results/gpu_energy.json``; it needs a CUDA build of torch. First a matrix
product of a known size keeps the GPU busy while both the counter and the power sensor are read; then one model runs at
three precisions in random order, block by block. The device is synchronised at both edges of every window.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import click
import torch

from benchmarks.cases import ROOT
from benchmarks.recording import machine, save
from compressor import stats
from compressor.errors import MeterError
from compressor.meters.base import energy_between
from compressor.meters.nvml import open_nvml
from compressor.meters.sampling import CombinedMeter, SampledMeter

sys.path.insert(0, str(ROOT / "examples"))
from resnet import resnet18

DOMAIN = "gpu-0"
SAMPLE_S = 0.02
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def power_meter(counter: CombinedMeter) -> SampledMeter:
    """The same GPU's power sensor, sampled and integrated, beside the counter."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return SampledMeter(counter.info, lambda: {DOMAIN: 1e-3 * float(pynvml.nvmlDeviceGetPowerUsage(handle))}, SAMPLE_S)


def window(meters: list, work: Callable[[], object], seconds: float) -> tuple[list[float], float, int]:
    """Joules by each meter, elapsed seconds and calls of a window of at least that length."""
    torch.cuda.synchronize()
    before, started, calls = [m.read() for m in meters], time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        calls += 1
        # Else the queue runs far ahead of the clock.
        torch.cuda.synchronize()
    after, elapsed = [m.read() for m in meters], time.perf_counter() - started
    joules = [energy_between(a, b, "nvml")[f"nvml/{DOMAIN}"] for a, b in zip(before, after, strict=True)]
    return joules, elapsed, calls


def against_power(counter: CombinedMeter, size: int, blocks: int, seconds: float) -> dict[str, object]:
    """The counter's joules over those of integrated power, on one matrix product after the other."""
    a, b = (torch.randn(size, size, device="cuda") for _ in range(2))
    sampled = power_meter(counter)
    try:
        window([counter], lambda: a @ b, seconds)  # warm-up
        found = [window([counter, sampled], lambda: a @ b, seconds) for _ in range(blocks)]
    finally:
        sampled.close()
    counted, integrated = [f[0][0] for f in found], [f[0][1] for f in found]
    ratio, interval = stats.ratio_interval(integrated, counted)
    watts = [joules / f[1] for joules, f in zip(counted, found, strict=True)]
    flops = [2 * size**3 * f[2] / f[1] for f in found]
    print(
        f"matrix product {size}x{size} fp32: {stats.geometric_mean(watts)[0]:.0f} W by the counter, "
        f"{stats.geometric_mean(flops)[0] / 1e12:.1f} TFLOP/s; counter/integrated power {ratio:.4f} {interval}"
    )
    return {"size": size, "ratio": ratio, "ci95": interval, "watts": watts, "flops": flops, "window_s": seconds}


def by_precision(counter: CombinedMeter, batch: int, blocks: int, seconds: float, seed: int) -> dict[str, object]:
    """Joules per inference of ResNet-18 (224x224 pictures) at each precision, against fp32."""
    order = random.Random(seed)
    torch.manual_seed(seed)
    models = {n: resnet18().eval().to("cuda", t) for n, t in PRECISIONS.items()}
    inputs = {n: torch.randn(batch, 1, 224, 224, device="cuda", dtype=t) for n, t in PRECISIONS.items()}
    joules: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    with torch.inference_mode():
        for name in PRECISIONS:
            window([counter], lambda n=name: models[n](inputs[n]), seconds)  # warm-up
        for _ in range(blocks):
            there = order.sample(list(PRECISIONS), len(PRECISIONS))
            both = {name: [0.0, 0] for name in PRECISIONS}
            for name in [*there, *reversed(there)]:
                (used,), _, calls = window([counter], lambda n=name: models[n](inputs[n]), seconds)
                both[name] = [both[name][0] + used, both[name][1] + calls * batch]
            for name, (used, count) in both.items():
                joules[name].append(used / count)
    found: dict[str, object] = {}
    for name in PRECISIONS:
        mean, inside = stats.geometric_mean(joules[name])
        ratio, interval = stats.ratio_interval(joules["fp32"], joules[name])
        found[name] = {"joules": mean, "ci95": inside, "ratio_to_fp32": ratio, "ratio_ci95": interval}
        print(f"{name}: {1e3 * mean:.3f} mJ per inference {inside}; ratio to fp32 {ratio:.4f} {interval}")
    return {"model": "ResNet-18, 224x224, one channel", "batch": batch, "blocks": blocks, "precision": found}


@click.command(help=__doc__)
@click.option("--size", default=8192, show_default=True, help="Of the matrices.")
@click.option("--batch", default=64, show_default=True)
@click.option("--blocks", default=5, show_default=True)
@click.option("--window-s", type=float, help="[default: 100 update periods of the counter, at least 2 s]")
@click.option("--seed", default=0, show_default=True)
def main(size: int, batch: int, blocks: int, window_s: float | None, seed: int) -> None:
    if not torch.cuda.is_available():
        print("not run: no NVIDIA GPU" + ("" if torch.version.cuda else " (or torch is a build without CUDA)"))
        return
    try:
        counter = open_nvml()
    except MeterError as error:
        print(f"not run: {error}")
        return
    where = machine()
    # fp32 means fp32: without TF32, which has 10 bits of mantissa.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        seconds = window_s or max(2.0, 100 * counter.info.update_period_s)
        period_ms = 1e3 * counter.info.update_period_s
        print(f"{counter.info.source}; moves every {period_ms:.1f} ms; windows of {seconds:.1f} s")
        found: dict[str, object] = {
            "gpu": torch.cuda.get_device_name(0),
            "source": counter.info.source,
            "update_period_s": counter.info.update_period_s,
            "resolution_j": counter.info.resolution_j,
            "against_power": against_power(counter, size, blocks, seconds),
            "inference": by_precision(counter, batch, blocks, seconds, seed),
        }
    finally:
        counter.close()
    command = f"python -m benchmarks.gpu_energy --size {size} --batch {batch} --blocks {blocks} --seed {seed}"
    print(save("gpu_energy", command, found, where).name)


if __name__ == "__main__":
    main()
