"""Joules per item or token of transformers on an NVIDIA GPU, in every precision that it has; and the counter itself.

``python -m benchmarks.gpu_energy`` writes ``results/gpu-DEVICE.json``, after every case, and takes finished cases up
from there; it needs a CUDA build of torch and the ``hf`` extra. First the counter: its update period as probed, and its
joules against integrated power while a matrix product of a known size keeps the GPU busy. Then models of BERT-base's,
ViT-base's and a 1.2-billion-parameter Llama's size, at batch 1, 8 and 32: all forms of a model run block by block in
random order and back, the device synchronised at both edges of every window. A twin of the fp32 model gives the
detection limit. What costs more in a lower precision is listed as such. The whole takes hours where the counter moves
every 100 ms; an hour on the GPU is best spent on one model at a time, or on ``--batches 1,32``.
"""

from __future__ import annotations

import gc
import json
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch

from benchmarks.gpu_models import FORMS, MODELS, Form, Work, build, in_form, work_of
from benchmarks.recording import RESULTS, machine, save
from compressor import stats
from compressor.errors import CompressorError, MeasurementError, MeterError, nearest
from compressor.meters.base import Meter, energy_between
from compressor.meters.nvml import open_nvml
from compressor.meters.sampling import SampledMeter
from compressor.model.signature import one_line

DOMAIN, DEVICE = "gpu-0", "cuda:0"
SAMPLE_S = 0.02
SHORTEST_S, PERIODS = 2.0, 100
"""A window lasts at least so long, and so many update periods of the counter; a warm-up only the former."""
AGAINST = ("fp32", "bf16", "bf16 compiled")
"""What a lower precision is asked to beat."""


def window(
    meters: Sequence[Meter], work: Work, seconds: float, synchronize: Callable[[], None]
) -> tuple[list[float], float, int]:
    """Joules by each meter, elapsed seconds and calls of a window of at least that length."""
    synchronize()
    before, started, calls = [m.read() for m in meters], time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        calls += 1
        # Else the queue runs far ahead of the clock.
        synchronize()
    after, elapsed = [m.read() for m in meters], time.perf_counter() - started
    joules = [energy_between(a, b, "nvml")[f"nvml/{DOMAIN}"] for a, b in zip(before, after, strict=True)]
    return joules, elapsed, calls


def against_power(counter: Meter, size: int, blocks: int, seconds: float) -> dict[str, Any]:
    """The counter's joules over those of integrated power, on one matrix product after the other."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(0)  # of DOMAIN
    a, b = (torch.randn(size, size, device=DEVICE) for _ in range(2))
    sampled = SampledMeter(
        counter.info, lambda: {DOMAIN: 1e-3 * float(pynvml.nvmlDeviceGetPowerUsage(handle))}, SAMPLE_S
    )
    try:
        window([counter], lambda: a @ b, SHORTEST_S, torch.cuda.synchronize)  # warm-up
        found = [window([counter, sampled], lambda: a @ b, seconds, torch.cuda.synchronize) for _ in range(blocks)]
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


def side_by_side(
    works: Mapping[str, Work],
    items: int,
    meter: Meter,
    *,
    blocks: int,
    seconds: float,
    seed: int,
    synchronize: Callable[[], None],
) -> dict[str, dict[str, list[float]]]:
    """Joules and seconds per item of each work in each block, every block there and back in random order.

    Args:
        works: One call of each form.
        items: What one call makes.
        meter: Read at the edges of each window.
        blocks: How many.
        seconds: Least length of a window.
        seed: Of the order.
        synchronize: Waits until the device has nothing left to do.
    """
    order, names = random.Random(seed), list(works)
    found: dict[str, dict[str, list[float]]] = {name: {"joules": [], "seconds": []} for name in names}
    for _ in range(blocks):
        there = order.sample(names, len(names))
        sums = {name: [0.0, 0.0, 0] for name in names}
        for name in [*there, *reversed(there)]:
            (used,), elapsed, calls = window([meter], works[name], seconds, synchronize)
            sums[name] = [sums[name][0] + used, sums[name][1] + elapsed, sums[name][2] + calls * items]
        for name, (used, elapsed, count) in sums.items():
            found[name]["joules"].append(used / count)
            found[name]["seconds"].append(elapsed / count)
    return found


def judged(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """Means, ratios and what costs more, from the joules of each block; the twin's interval is the detection limit."""
    first, twin = (form.name for form in FORMS[:2])
    aa, held = stats.ratio_interval(found[first]["joules"], found[twin]["joules"])
    limit = None if held is None else max(held[1] / aa, aa / held[0]) - 1
    sound = held is not None and held[0] <= 1 <= held[1]
    forms: dict[str, Any] = {}
    costs: list[dict[str, Any]] = []
    for name, values in found.items():
        mean, inside = stats.geometric_mean(values["joules"])
        forms[name] = {"joules": mean, "ci95": inside, "seconds": stats.geometric_mean(values["seconds"])[0]}
        for other in [other for other in AGAINST if other in found and other != name]:
            ratio, interval = stats.ratio_interval(found[other]["joules"], values["joules"])
            forms[name][f"ratio to {other}"] = {"ratio": ratio, "ci95": interval}
            lower = AGAINST.index(other) < AGAINST.index(name) if name in AGAINST else name != twin
            beyond = interval is not None and limit is not None and interval[0] > 1 and ratio > 1 + limit
            if sound and lower and beyond:
                costs.append({"form": name, "against": other, "ratio": ratio, "ci95": interval})
    return {"forms": forms, "detection_limit": limit, "control_passed": sound, "costs": costs}


def case(name: str, batch: int, meter: Meter, blocks: int, seconds: float, seed: int) -> dict[str, Any]:
    """All forms of one model at one batch size; a form that does not run is told with its reason.

    Raises:
        MeasurementError: What all others are compared with does not run.
    """
    # What the compiler learned of another batch size would make it write code for any, which is slower.
    torch.compiler.reset()
    works: dict[str, Work] = {}
    not_run: dict[str, str] = {}
    for form in FORMS:
        try:
            works[form.name] = _ready(name, form, batch)
        except CompressorError as error:
            not_run[form.name] = str(error)
        except Exception as error:  # torch.cuda.OutOfMemoryError, a kernel that is missing, the compiler's own
            not_run[form.name] = one_line(error)
        if form.name in not_run:  # here the exception has let go of its model
            free_memory()
    missing = [form.name for form in FORMS[:2] if form.name in not_run]
    if missing:
        raise MeasurementError(f"{missing[0]} does not run: {not_run[missing[0]]}", where=f"{name}, batch {batch}")
    with torch.inference_mode():
        for work in works.values():
            window([meter], work, SHORTEST_S, torch.cuda.synchronize)  # warm-up
        before = meter.read()
        time.sleep(seconds)
        after = meter.read()
        idle = energy_between(before, after, "nvml")[f"nvml/{DOMAIN}"] / (after.time_s - before.time_s)
        found = side_by_side(
            works,
            batch * MODELS[name],
            meter,
            blocks=blocks,
            seconds=seconds,
            seed=seed,
            synchronize=torch.cuda.synchronize,
        )
    return {
        "model": name,
        "batch": batch,
        "per": "token" if MODELS[name] > 1 else "item",
        "blocks": blocks,
        "window_s": seconds,
        "idle_w": idle,
        "other_processes": others(),
        **judged(found),
        "not_run": not_run,
    }


def _ready(name: str, form: Form, batch: int) -> Work:
    """A form of a model on the GPU, called once: a compiler works, and fails, in the first call."""
    work = work_of(name, in_form(build(name, DEVICE), form, DEVICE), form, batch, DEVICE)
    with torch.inference_mode():
        work()
    torch.cuda.synchronize()
    return work


def free_memory() -> None:
    """Give the GPU's memory back, that of models that ended in an exception too."""
    gc.collect()
    torch.cuda.empty_cache()


def others() -> int | None:
    """Other processes on the GPU, whose joules the counter holds too; ``None`` where NVML does not list them.

    One of those listed is this one, which has been on the GPU before; in a container its number there is another.
    """
    import pynvml

    try:
        listed = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(0))  # of DOMAIN
    except pynvml.NVMLError:
        return None
    return max(0, len(listed) - 1)


def why_not() -> str:
    """Why torch's first GPU is not NVML's first, whose counter is read; empty if it is."""
    import pynvml

    seen = str(torch.cuda.get_device_properties(DEVICE).uuid)
    read = str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0)))
    order = "unset CUDA_VISIBLE_DEVICES and set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    return "" if seen in read else f"{DEVICE} is GPU-{seen} and NVML's {DOMAIN} is {read}; {order}"


def show(found: Mapping[str, Any]) -> None:
    """Print a case."""
    limit = found["detection_limit"]
    said = "unknown" if limit is None else f"{limit:.1%}"
    control = "" if found["control_passed"] else "; the A/A control FAILED: no verdict"
    print(f"{found['model']}, batch {found['batch']}: joules per {found['per']}; detection limit {said}{control}")
    if found.get("other_processes"):
        print(f"  {found['other_processes']} other processes were on the GPU: their joules are in these figures")
    for name, form in found["forms"].items():
        versus = form.get("ratio to fp32")
        ratio = "" if versus is None else f"; {versus['ratio']:.3f} of fp32 {versus['ci95']}"
        print(f"  {name:24} {1e3 * form['joules']:10.3f} mJ {form['ci95']}{ratio}")
    for name, why in found["not_run"].items():
        print(f"  {name:24} not run: {why}")
    for cost in found["costs"]:
        print(f"  COSTS MORE: {cost['form']} takes {cost['ratio']:.2f}× the energy of {cost['against']}")


def _listed(text: str, known: Mapping[str, int]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if wrong := [name for name in names if name not in known]:
        raise click.UsageError(f"no model {wrong[0]!r}; {nearest(wrong[0], known)}")
    return names


@click.command(help=__doc__)
@click.option("--models", default=",".join(MODELS), show_default=True)
@click.option("--batches", default="1,8,32", show_default=True)
@click.option("--blocks", default=5, show_default=True)
@click.option("--window-s", type=float, help="[default: 100 update periods of the counter, at least 2 s]")
@click.option("--size", default=8192, show_default=True, help="Of the matrices.")
@click.option("--seed", default=0, show_default=True)
@click.option("--again", is_flag=True, help="Measure finished cases again.")
def main(models: str, batches: str, blocks: int, window_s: float | None, size: int, seed: int, again: bool) -> None:
    names, sizes = _listed(models, MODELS), [int(part) for part in batches.split(",")]
    if not torch.cuda.is_available():
        print("not run: no NVIDIA GPU" + ("" if torch.version.cuda else " (or torch is a build without CUDA)"))
        return
    try:
        counter = open_nvml()
    except MeterError as error:
        print(f"not run: {error}")
        return
    where = machine()
    gpu = torch.cuda.get_device_name(0)
    slug = "gpu-" + re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    # fp32 means fp32: without TF32, which has 10 bits of mantissa.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    path = RESULTS / f"{slug}.json"
    kept = json.loads(path.read_text())["cases"] if path.is_file() and not again else {}
    try:
        if why := why_not():
            print(f"not run: {why}")
            return
        seconds = window_s or max(SHORTEST_S, PERIODS * counter.info.update_period_s)
        period_ms = 1e3 * counter.info.update_period_s
        print(f"{gpu}: {counter.info.source}; moves every {period_ms:.1f} ms; windows of {seconds:.1f} s")
        open_cases = sum(f"{name}, batch {batch}" not in kept for name in names for batch in sizes)
        minutes = open_cases * (len(FORMS) * (SHORTEST_S + 2 * blocks * seconds) + seconds) / 60
        print(f"{open_cases} cases: {minutes:.0f} min of windows; loading and compiling come on top", flush=True)
        found: dict[str, object] = {
            "gpu": gpu,
            "source": counter.info.source,
            "update_period_s": counter.info.update_period_s,
            "resolution_j": counter.info.resolution_j,
            "against_power": against_power(counter, size, blocks, seconds),
            "cases": kept,
        }
        command = (
            f"python -m benchmarks.gpu_energy --models {models} --batches {batches} --blocks {blocks} --seed {seed}"
            f"{f' --window-s {window_s:g}' if window_s else ''}"
        )
        save(slug, command, found, where)
        for name in names:
            for batch in sizes:
                key = f"{name}, batch {batch}"
                if key not in kept:
                    try:
                        kept[key] = case(name, batch, counter, blocks, seconds, seed)
                    except MeasurementError as error:  # the next one may fit into the memory
                        print(f"not run: {error}", flush=True)
                        continue
                    finally:
                        free_memory()
                    save(slug, command, found, where)
                show(kept[key])
    finally:
        counter.close()
    print(path.name)


if __name__ == "__main__":
    try:
        main()
    except CompressorError as error:
        sys.exit(f"error: {error}")
