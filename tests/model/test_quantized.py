from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import save_gpt2, save_llama
from torch.nn import functional as F

from compressor.errors import ExportError, ModelError, UnsafeFileError
from compressor.export import export_torch
from compressor.export_hf import write_onnx
from compressor.model.checkpoint import open_checkpoint
from compressor.model.load import load_model
from compressor.model.packing import Format, dequantize, parts, quantize
from compressor.model.quantized import QuantizedLinear, empty_model, load_quantized
from compressor.runtimes.registry import open_session
from compressor.streaming.write import StreamJob, stream

FORMATS = [Format(8, None, True), Format(4, 32, False), Format(4, 64, True)]


def layer(form: Format, weight: np.ndarray, bias: torch.Tensor | None) -> QuantizedLinear:
    made = QuantizedLinear(form, *weight.shape, None if bias is None else torch.nn.Parameter(bias))
    for part, array in zip(parts(form, *weight.shape), quantize(weight, form), strict=True):
        made._buffers[part.suffix] = torch.from_numpy(array)
    return made


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("inputs", [96, 70, 33])
@pytest.mark.parametrize("biased", [False, True])
def test_a_layer_computes_what_its_levels_say(form: Format, inputs: int, biased: bool) -> None:
    torch.manual_seed(0)
    weight = np.random.default_rng(0).normal(size=(10, inputs)).astype(np.float32)
    bias = torch.randn(10) if biased else None
    made = layer(form, weight, bias)
    stands_for = torch.from_numpy(dequantize(quantize(weight, form), form, inputs))
    torch.testing.assert_close(made.weight_as_float(), stands_for)
    x = torch.randn(2, 3, inputs)
    torch.testing.assert_close(made(x), F.linear(x, stands_for, bias), rtol=1e-5, atol=1e-5)
    assert made(x.bfloat16()).dtype == torch.bfloat16 or biased
    assert made.packed_weights == 10 * inputs


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def logits(folder: Path) -> torch.Tensor:
    ids = torch.arange(40).view(2, 20) * 7 % 256
    with torch.inference_mode():
        return load_model(folder).module.hf(ids, use_cache=False).logits


@pytest.mark.parametrize(("bits", "block", "tolerance"), [(8, None, 0.02), (4, 32, 0.25)])
@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2"])
def test_a_streamed_model_computes_nearly_the_same(
    tmp_path: Path, kind: str, bits: int, block: int | None, tolerance: float
) -> None:
    make = {"llama": save_llama, "gpt2": save_gpt2, "tied": lambda folder: save_llama(folder, tied=True)}[kind]
    source = make(tmp_path / "source")
    stream(StreamJob(source, bits, block, out=tmp_path / "out"))
    found = load_quantized(tmp_path / "out")
    assert "QuantizedLinear" in {type(one).__name__ for one in found.module.modules()}
    assert 0 < relative(logits(tmp_path / "out"), logits(source)) < tolerance
    # Every weight is counted, packed or not.
    assert found.summary.parameters == load_model(source).summary.parameters


def test_saved_again_it_is_such_a_checkpoint(llama: Path, tmp_path: Path) -> None:
    """As 'compress bench' does, which runs a copy."""
    model = load_quantized(stream(StreamJob(llama, out=tmp_path / "out")).folder)
    artifact = export_torch(model, tmp_path)
    again = open_session(tmp_path / artifact.path)
    inputs = tuple(x.numpy() for x in model.example_inputs)
    with torch.no_grad():
        assert np.array_equal(again.run(inputs)[0], model.module(*model.example_inputs)[0].numpy())
    with pytest.raises(ExportError) as caught:
        write_onnx(model, tmp_path / "model.onnx", 20)
    assert str(caught.value) == (
        "out: its weights are quantized already, by 'compress stream', for PyTorch alone; give the model that it was "
        "made from, or measure it by 'compress bench' on torch"
    )


def test_the_levels_are_the_weights_of_the_checkpoint(llama: Path, tmp_path: Path) -> None:
    """What runs is what quantize() says of the original, layer by layer."""
    stream(StreamJob(llama, 4, 32, out=tmp_path / "out"))
    original = load_model(llama).module.hf
    named = load_quantized(tmp_path / "out").module.hf.named_modules()
    layers = {name: module for name, module in named if isinstance(module, QuantizedLinear)}
    assert layers
    for name, module in layers.items():
        weight = original.get_submodule(name).weight.numpy()
        form = Format(4, 32, False)
        wanted = dequantize(quantize(weight, form), form, weight.shape[1])
        assert module.weight_as_float().numpy().tolist() == wanted.tolist()


class TestRefused:
    @pytest.fixture
    def streamed(self, llama: Path, tmp_path: Path) -> Path:
        stream(StreamJob(llama, 8, out=tmp_path / "out"))
        return tmp_path / "out"

    def test_a_folder_that_is_not_quantized(self, llama: Path) -> None:
        with pytest.raises(ModelError, match="its weights are not quantized; 'compress stream FOLDER' writes"):
            load_quantized(llama)

    def test_a_cut_shard(self, streamed: Path) -> None:
        shard = next(streamed.glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-10])
        with pytest.raises(ModelError, match=r"truncated|cut off"):
            load_quantized(streamed)

    def test_a_config_of_other_sizes(self, streamed: Path) -> None:
        self.change(streamed, intermediate_size=96)
        with pytest.raises(ModelError, match=r"tensor 'model.layers.0.mlp.\w+.\w+' is \[.*\] and should be \["):
            load_quantized(streamed)

    def test_a_config_with_more_layers(self, streamed: Path) -> None:
        self.change(streamed, num_hidden_layers=3)
        with pytest.raises(
            ModelError, match=r"its weights lack 'model.layers.2.\S+' and \d+ more, which LlamaForCausalLM"
        ):
            load_quantized(streamed)

    def test_a_config_with_fewer_layers(self, streamed: Path) -> None:
        self.change(streamed, num_hidden_layers=1)
        with pytest.raises(ModelError, match=r"'model.layers.1.\S+' is quantized, and no linear layer of the model"):
            load_quantized(streamed)

    def test_an_unknown_architecture(self, llama: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCasualLM"]}))
        with pytest.raises(ModelError) as caught:
            empty_model(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path / 'config.json'}: transformers knows no architecture 'LlamaForCasualLM'; "
            "did you mean 'LlamaForCausalLM'?"
        )

    def test_a_model_that_brings_code(self, streamed: Path) -> None:
        self.change(streamed, auto_map={"AutoModel": "x.Y"})
        with pytest.raises(UnsafeFileError):
            load_quantized(streamed)

    @staticmethod
    def change(folder: Path, **settings: object) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))


def test_nothing_is_mapped(llama: Path, tmp_path: Path) -> None:
    """The tensors own their memory: a mapped checkpoint would count as resident."""
    stream(StreamJob(llama, 8, out=tmp_path / "out"))
    stored = open_checkpoint(tmp_path / "out")
    model = load_quantized(tmp_path / "out").module
    files = {str(tensor.file) for tensor in stored.values()}
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("not run: only Linux tells what is mapped")
    assert model is not None
    assert not any(file in maps.read_text() for file in files)
