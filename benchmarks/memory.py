"""Peak memory: quantizing a model of 2 GB against the model's size, and calibrating on 10 000 pictures.

``python -m benchmarks.memory``; writes ``results/memory.json``. Each method runs in a process of its own on a made-up
model whose weights are in a second file. The peak is the larger of two: the process's own high-water mark (``VmHWM``,
mapped files included), and the sum over it and its children, sampled every 20 ms. Memory does not depend on how busy
the machine is; the times are for orientation.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper

from benchmarks.recording import machine, save

LIMIT, PICTURES_LIMIT = 2.0, 1e9
JOBS = {
    "convolutions": ("int8", "int8-static", "fp16"),
    "products": ("int8", "int8-static", "int8-dynamic", "fp16", "int4", "smoothquant"),
}
PICTURES, SIDE = 10_000, 64


class Writer:
    """Writes weights to a second file as they are drawn."""

    def __init__(self, path: Path) -> None:
        self.path, self.rng = path, np.random.default_rng(0)
        self.data = path.with_name(f"{path.name}.data").open("wb")
        self.weights: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def weight(self, *shape: int) -> str:
        """Draw a weight as He et al. (2015) would; returns its name."""
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        array = self.rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        tensor = TensorProto(name=f"w{len(self.weights)}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", Path(self.data.name).name),
            ("offset", self.data.tell()),
            ("length", array.nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(array.tobytes())
        self.weights.append(tensor)
        return tensor.name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add an operator; returns what it puts out."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def save(self, last: str, shape: list[int], outputs: list[int]) -> None:
        """Write the model that takes ``(batch, *shape)`` and puts out ``last``."""
        self.data.close()
        self.nodes.append(helper.make_node("Identity", [last], ["y"], name="last"))
        value = helper.make_tensor_value_info
        ends = value("x", 1, ["batch", *shape]), value("y", 1, ["batch", *outputs])
        graph = helper.make_graph(self.nodes, "model", [ends[0]], [ends[1]], self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), self.path)


def make(kind: str, path: Path, size_bytes: float) -> None:
    """Write a model of a size: convolutions of 1 024 channels on 4x4, or products of 4 096 by 4 096."""
    made, last = Writer(path), "x"
    if kind == "convolutions":
        last = made.node("Conv", last, made.weight(1024, 3, 4, 4), strides=[4, 4])
        while made.data.tell() < size_bytes:
            last = made.node("Relu", made.node("Conv", last, made.weight(1024, 1024, 3, 3), pads=[1, 1, 1, 1]))
        made.save(made.node("GlobalAveragePool", last), [3, 16, 16], [1024, 1, 1])
    else:
        while made.data.tell() < size_bytes:
            last = made.node("Relu", made.node("MatMul", last, made.weight(4096, 4096)))
        made.save(last, [4096], [4096])


def make_resnet(path: Path) -> None:
    """Write a network as ResNet-18 is, for pictures of 64x64."""
    made = Writer(path)
    last = made.node("Relu", made.node("Conv", "x", made.weight(64, 3, 7, 7), strides=[2, 2], pads=[3] * 4))
    last = made.node("MaxPool", last, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and width > 64 else 1
            short = last
            if stride == 2:
                short = made.node("Conv", last, made.weight(width, before, 1, 1), strides=[2, 2])
            first = made.weight(width, before, 3, 3)
            inner = made.node("Relu", made.node("Conv", last, first, strides=[stride] * 2, pads=[1] * 4))
            inner = made.node("Conv", inner, made.weight(width, width, 3, 3), pads=[1] * 4)
            last, before = made.node("Relu", made.node("Add", inner, short)), width
    made.save(made.node("GlobalAveragePool", last), [3, SIDE, SIDE], [512, 1, 1])


@dataclass(frozen=True)
class Given:
    """A task that has calibration examples only."""

    inputs: tuple[np.ndarray, ...]

    def calibration(self) -> object:
        """The examples."""
        from compressor.task.base import Examples

        return Examples(self.inputs, None)


def child(method: str, model: Path, data: Path, settings: str) -> None:
    """Apply a method and print the high-water mark before and after."""
    from compressor.environment import cpu_features
    from compressor.passes.base import Context
    from compressor.passes.registry import make_pass

    task, one = Given((np.load(data, mmap_mode="r"),)), make_pass(method, **json.loads(settings))
    before, started = high_water(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        one.apply(model, Path(folder) / "out.onnx", Context(task, threads=1, cpu_features=cpu_features()))
        written = sum(file.stat().st_size for file in Path(folder).iterdir())
    print(json.dumps({"start": before, "own": high_water(), "seconds": time.perf_counter() - started, "out": written}))


def high_water() -> int:
    """Largest resident size of this process so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(method: str, model: Path, data: Path, **settings: object) -> dict[str, float]:
    """Run :func:`child` and watch it and its children; sizes in bytes."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--child", method, str(model), str(data)]
    worker = subprocess.Popen([*command, json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    tree = 0
    root = psutil.Process(worker.pid)
    while worker.poll() is None:
        try:
            tree = max(tree, sum(each.memory_info().rss for each in (root, *root.children(recursive=True))))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.02)
    if worker.returncode:
        raise SystemExit(f"{method} failed on {model.name}")
    found = json.loads(worker.stdout.read())
    return {**found, "tree": tree, "peak": max(tree, found["own"])}


@click.command(help=__doc__)
@click.option("--gb", default=2.0, show_default=True, help="Size of the models, in 10^9 bytes.")
@click.option("--pictures", default=PICTURES, show_default=True)
@click.option("--child", "of", nargs=4, hidden=True)
def main(gb: float, pictures: int, of: tuple[str, str, str, str] | None) -> None:
    if of:
        child(of[0], Path(of[1]), Path(of[2]), of[3])
        return
    where, rows = machine(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, methods in JOBS.items():
            make(kind, folder / "model.onnx", gb * 1e9)
            size = (folder / "model.onnx.data").stat().st_size
            shape = (3, 16, 16) if kind == "convolutions" else (4096,)
            np.save(folder / "data.npy", np.random.default_rng(0).standard_normal((32, *shape), np.float32))
            for method in methods:
                found = measure(method, folder / "model.onnx", folder / "data.npy")
                rows.append(
                    {"model": kind, "model_bytes": size, "method": method, **found, "ratio": found["peak"] / size}
                )
                print(
                    f"{kind:13} {size / 1e9:.2f} GB  {method:13} peak {found['peak'] / 1e9:5.2f} GB, "
                    f"{found['peak'] / size:.2f}x the model ({found['start'] / 1e9:.2f} GB before it began), "
                    f"{found['seconds']:.0f} s: {'ok' if found['peak'] < LIMIT * size else 'NOT under twice'}",
                    flush=True,
                )
        make_resnet(folder / "model.onnx")
        size = (folder / "model.onnx.data").stat().st_size
        data = np.lib.format.open_memmap(folder / "data.npy", "w+", np.float32, (pictures, 3, SIDE, SIDE))
        for start in range(0, pictures, 500):
            data[start : start + 500] = np.random.default_rng(start).standard_normal(data[start : start + 500].shape)
        data.flush()
        calibrated = []
        for calibration in ("minmax", "percentile", "entropy"):
            found = measure("int8-static", folder / "model.onnx", folder / "data.npy", calibration=calibration)
            above = found["peak"] - size
            calibrated.append(
                {"calibration": calibration, "pictures": pictures, "model_bytes": size, **found, "above": above}
            )
            print(
                f"{pictures} pictures of 3x{SIDE}x{SIDE} ({data.nbytes / 1e9:.2f} GB), {calibration:10}: "
                f"{above / 1e9:.2f} GB above the model, {found['seconds']:.0f} s: "
                f"{'ok' if above < PICTURES_LIMIT else 'NOT under 1 GB'}",
                flush=True,
            )
    command = f"python -m benchmarks.memory --gb {gb:g} --pictures {pictures}"
    print(save("memory", command, {"quantizing": rows, "calibrating": calibrated}, where).name)


if __name__ == "__main__":
    main()
