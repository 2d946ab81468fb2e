"""Make the peers' files of a case: ``python -m benchmarks.peers.make CASE FOLDER EPOCHS THREADS``.

It runs in the peers' environment. It gets ``fp32/model.onnx`` and ``calibration.npz`` in the folder (and the trained
weights and training data from the suite's cache) and writes ``peers/….onnx`` and ``peers/peers.json`` there. Every peer
is used as its own documentation shows, with its defaults; what is not a default is said in ``about``. One that fails is
recorded with its message.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS


def optimum_dynamic(case: str, folder: Path, target: Path) -> str:
    """What ``optimum-cli onnxruntime quantize --avx512_vnni`` does."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    quantizer = ORTQuantizer(folder / "fp32" / "model.onnx")
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    quantizer.quantize(config, save_dir=target.parent, file_suffix="quantized")
    (target.parent / "model_quantized.onnx").replace(target)
    return "optimum-onnx, ORTQuantizer with AutoQuantizationConfig.avx512_vnni, dynamic: every operator it knows"


def onnxruntime_static(case: str, folder: Path, target: Path) -> str:
    """``quantize_static`` with its defaults behind the preparation that its documentation asks for."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = _feeds(folder)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    prepared = target.with_suffix(".prepared.onnx")
    without = ""
    try:
        quant_pre_process(folder / "fp32" / "model.onnx", prepared)
    except Exception as failure:  # it raises a bare Exception, and its documentation then says to leave this out
        without = f", without symbolic shape inference ({failure})"
        quant_pre_process(folder / "fp32" / "model.onnx", prepared, skip_symbolic_shape=True)
    quantize_static(prepared, target, Reader())
    prepared.unlink()
    defaults = "their defaults (QDQ, S8S8, per tensor, min-max)"
    return f"ONNX Runtime, quant_pre_process{without} and quantize_static with {defaults}"


def nncf_onnx(case: str, folder: Path, target: Path) -> str:
    """NNCF's post-training quantization of the ONNX model."""
    import nncf
    import onnx

    nncf.set_log_level("ERROR")
    transformer = case == "r8"
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    made = nncf.quantize(onnx.load(folder / "fp32" / "model.onnx"), nncf.Dataset(list(_feeds(folder))), **kind)
    onnx.save(made, target)
    return f"NNCF, quantize() of the ONNX model{' as a transformer' if transformer else ''}, 300 examples, its defaults"


def torch_pruning(case: str, folder: Path, target: Path) -> str:
    """Torch-Pruning's magnitude pruner at half of the channels, then fine-tuning on the labels."""
    import torch
    import torch_pruning as tp

    from benchmarks.cases import CASES

    epochs = int(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    torch.manual_seed(0)
    model = CASES[case].network().eval()
    if case != "r8":
        model.load_state_dict(torch.export.load(CASES[case].make()).state_dict)
    with np.load(folder / "calibration.npz") as held:
        example = tuple(torch.from_numpy(held[key][:2]) for key in held.files)
    model.requires_grad_(True)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    heads, options = _heads(model), {}
    if heads:
        options = {"num_heads": heads, "prune_num_heads": True, "head_pruning_ratio": 0.5}
    pruner = tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=linear[-1:],
        **options,
    )
    pruner.step()
    for module in model.modules():
        if hasattr(module, "num_attention_heads"):
            module.num_attention_heads = pruner.num_heads[module.query]
            module.attention_head_size = module.query.out_features // module.num_attention_heads
            module.all_head_size = module.query.out_features
    if epochs:
        _finetune(case, model, epochs)
    model.eval()
    batch = torch.export.Dim("batch")
    names = _names(folder)
    program = torch.export.export(model, example, dynamic_shapes=tuple({0: batch} for _ in example))
    torch.onnx.export(program, dynamo=True, opset_version=20, input_names=names, verbose=False).save(target)
    tuned = f"fine-tuned {epochs} epochs on the labels" if epochs else "not fine-tuned: there was no budget for it"
    return f"Torch-Pruning, MagnitudePruner at half of the channels, {tuned}; fp32"


MAKERS: dict[str, Callable[[str, Path, Path], str]] = dict(
    zip(PEERS, (optimum_dynamic, onnxruntime_static, nncf_onnx, torch_pruning), strict=True)
)


def _names(folder: Path) -> list[str]:
    import onnx

    return [value.name for value in onnx.load(folder / "fp32" / "model.onnx", load_external_data=False).graph.input]


def _feeds(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Examples one by one, as a user of these libraries feeds them; 300 is NNCF's default."""
    names = _names(folder)
    with np.load(folder / "calibration.npz") as held:
        arrays = [held[key][:300] for key in held.files]
    for index in range(len(arrays[0])):
        yield {name: array[index : index + 1] for name, array in zip(names, arrays, strict=True)}


def _heads(model: Any) -> dict[Any, int]:
    """Heads of every query, key and value, which Torch-Pruning has to be told."""
    found = {}
    for module in model.modules():
        if hasattr(module, "num_attention_heads"):
            for linear in (module.query, module.key, module.value):
                found[linear] = module.num_attention_heads
    return found


def _finetune(case: str, model: Any, epochs: int) -> None:
    import torch

    from benchmarks import data
    from benchmarks.texts import tune
    from benchmarks.training import fit, shifted_and_mirrored

    if case == "r8":
        tune(model, epochs=epochs)
        return
    if case.startswith("resnet"):
        from compressor.task import fashion_mnist

        x, y = fashion_mnist.load("train")
    else:
        arrays = getattr(data, {"mobilenet_v2": "elpv"}.get(case, case))()
        x, y = arrays["train_x"], arrays["train_y"]
    augment = shifted_and_mirrored if case.startswith(("resnet", "mobilenet")) else None
    size = 32 if case == "mobilenet_v2" else 128
    fit(model, torch.from_numpy(x), torch.from_numpy(y), epochs=epochs, peak_rate=0.02, batch=size, augment=augment)


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = {}
    for name, make in MAKERS.items():
        target = folder / "peers" / f"{name.lower().replace(' ', '-')}.onnx"
        target.unlink(missing_ok=True)
        started, about, error = time.perf_counter(), "", ""
        try:
            about = make(case, folder, target)
        except Exception as failure:
            error = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
        seconds = time.perf_counter() - started
        found[name] = {"file": target.name, "about": about, "error": error, "seconds": seconds}
        print(f"  {case}: {name}: {error or 'made'}, {seconds:.0f} s", flush=True)
    (folder / "peers" / "peers.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
