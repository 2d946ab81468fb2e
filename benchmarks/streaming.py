"""A checkpoint larger than the memory it is given: quantized to int4, killed on the way, resumed to the same bytes.

``python -m benchmarks.streaming`` writes a Llama-shaped bfloat16 checkpoint of 6 GB with random weights, quantizes it
in a process of its own and prints that process's largest resident size; then does it again, kills the process when half
of the tensors are done, and starts it once more. Writes ``results/streaming.json``. Needs 11 GB of disk in the folder
that ``BENCHMARK_CACHE`` names, ``benchmarks/.cache`` if none; files are read and written, not mapped, so the resident
size hides nothing.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.fetch import cache
from benchmarks.recording import machine, save
from compressor.benchmark.worker import peak_memory_bytes
from compressor.model.checkpoint import open_checkpoint
from compressor.streaming.write import StreamJob, sha256_of_weights, stream

BOUND_BYTES = 1.5e9
SHARD_BYTES = 2e9
VOCABULARY = 32_000
BLOCK = 2**20


def layer_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """One layer of Llama with four query heads per key head and an inner width of 3.5, as Llama 3 8B has."""
    inner, narrow = 7 * width // 2, width // 4
    return {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (narrow, width),
        "self_attn.v_proj": (narrow, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }


def shapes_of(size_bytes: float, width: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Names and shapes of a checkpoint of at least that size, and its number of layers."""
    ends = {"model.embed_tokens": (VOCABULARY, width), "model.norm": (width,), "lm_head": (VOCABULARY, width)}
    layer = layer_shapes(width)
    each = 2 * sum(int(np.prod(shape)) for shape in layer.values())
    layers = max(1, -(-int(size_bytes - 4 * VOCABULARY * width) // each))
    named = {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}
    return {f"{name}.weight": shape for name, shape in {**ends, **named}.items()}, layers


def write_checkpoint(folder: Path, size_bytes: float, width: int) -> None:
    """Write it shard by shard, a block of random weights at a time."""
    shapes, layers = shapes_of(size_bytes, width)
    shards: list[list[str]] = [[]]
    filled = 0.0
    for name, shape in shapes.items():
        if filled and filled + 2 * np.prod(shape) > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += 2 * np.prod(shape)
    draws = np.random.default_rng(0)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, end = {}, 0
        for name in names:
            begin, end = end, end + 2 * int(np.prod(shapes[name]))
            header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [begin, end]}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                for start in range(0, int(np.prod(shapes[name])), BLOCK):
                    count = min(BLOCK, int(np.prod(shapes[name])) - start)
                    values = draws.standard_normal(count, np.float32) * np.float32(0.02)
                    out.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 7 * width // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
        "num_key_value_heads": width // 512,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def quantize(source: Path, out: Path) -> None:
    """What the process of its own does."""
    found = stream(StreamJob(source, bits=4, block_size=64, out=out))
    print(
        json.dumps(
            {
                "peak_rss_bytes": peak_memory_bytes(),
                "elapsed_s": round(found.elapsed_s, 1),
                "resumed": found.resumed,
                "tensors": found.tensors,
                "size_bytes": found.size_bytes,
                "notes": found.notes,
            }
        )
    )


def try_out(folder: Path) -> None:
    """Load what was written and run a few tokens through it."""
    import torch

    from compressor.model.quantized import load_quantized

    started = time.perf_counter()
    model = load_quantized(folder).module.hf
    loaded_s = time.perf_counter() - started
    started = time.perf_counter()
    with torch.inference_mode():
        logits = model(torch.arange(8)[None]).logits
    found = {
        "load_s": round(loaded_s, 1),
        "eight_tokens_s": round(time.perf_counter() - started, 1),
        "finite": bool(logits.isfinite().all()),
        "peak_rss_bytes": peak_memory_bytes(),
    }
    print(json.dumps(found))


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.streaming", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def answer(process: subprocess.Popen[str]) -> dict:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the child ended with {process.returncode}")
    return json.loads(output.splitlines()[-1])


def marked(out: Path) -> int:
    """Tensors that an unfinished run has finished."""
    try:
        return len(json.loads((out.with_name(f"{out.name}.partial") / "stages.json").read_text())["stages"])
    except FileNotFoundError:
        return 0


def kill_at(source: Path, out: Path, tensors: int) -> int:
    """Start, and kill with SIGKILL once so many tensors are done; returns how many were."""
    process = child("--quantize", source, out)
    while process.poll() is None and marked(out) < tensors:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        sys.exit("the child was done before it could be killed; give more --gb")
    return marked(out)


@click.command(help=__doc__)
@click.option("--gb", default=6.0, show_default=True, help="Size of the checkpoint.")
@click.option("--width", default=4096, show_default=True, help="Of a layer.")
@click.option("--quantize", "job", nargs=2, type=click.Path(path_type=Path), hidden=True)
@click.option("--try-out", "result", type=click.Path(path_type=Path), hidden=True)
def main(gb: float, width: int, job: tuple[Path, Path] | None, result: Path | None) -> None:
    if job is not None:
        quantize(*job)
        return
    if result is not None:
        try_out(result)
        return
    where = machine()
    with tempfile.TemporaryDirectory(prefix="streaming-", dir=cache()) as name:
        place = Path(name)
        if shutil.disk_usage(place).free < 1.9e9 * gb:
            sys.exit(f"{place}: {1.9 * gb:.0f} GB of disk are needed; name another folder in BENCHMARK_CACHE")
        source = place / "checkpoint"
        source.mkdir()
        write_checkpoint(source, gb * 1e9, width)
        stored = open_checkpoint(source)
        size, largest = (f(t.size_bytes for t in stored.values()) for f in (sum, max))
        print(f"checkpoint: {size / 1e9:.2f} GB, {len(stored)} tensors, the largest {largest / 1e6:.0f} MB")
        whole = answer(child("--quantize", source, place / "whole"))
        peak = whole["peak_rss_bytes"]
        print(f"int4: {whole['size_bytes'] / 1e9:.2f} GB in {whole['elapsed_s']:.0f} s")
        print(f"peak resident size: {peak / 1e9:.2f} GB, bound {BOUND_BYTES / 1e9:.1f} GB")
        killed = kill_at(source, place / "resumed", len(stored) // 2)
        again = answer(child("--quantize", source, place / "resumed"))
        print(f"killed after {killed} of {len(stored)} tensors; resumed with {again['resumed']} of them")
        hashes = {run: sha256_of_weights(place / run) for run in ("whole", "resumed")}
        for run, digest in hashes.items():
            print(f"sha256 {run:8} {digest}")
        identical = hashes["whole"] == hashes["resumed"]
        tried = answer(child("--try-out", place / "whole"))
        print(f"loads in {tried['load_s']:.0f} s and runs, peak resident size {tried['peak_rss_bytes'] / 1e9:.2f} GB")
    found = {
        "checkpoint_bytes": size,
        "tensors": len(stored),
        "largest_tensor_bytes": largest,
        "bound_bytes": int(BOUND_BYTES),
        "within_bound": peak < BOUND_BYTES,
        "whole": whole,
        "killed_after": killed,
        "resumed": again,
        "sha256": hashes,
        "identical": identical,
        "runs": tried,
    }
    options = "" if (gb, width) == (6.0, 4096) else f" --gb {gb:g} --width {width}"
    if not options:
        save("streaming", "python -m benchmarks.streaming", found, where)
    if not (identical and found["within_bound"] and tried["finite"]):
        sys.exit("it does not hold")


if __name__ == "__main__":
    main()
