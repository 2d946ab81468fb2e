"""A round trip per architecture: export, int8, load by optimum, and the outputs still agree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_transformers import LABELS, MODELS, save_tiny

from compressor.errors import ExportError
from compressor.export import check_parity, export_onnx, export_torch
from compressor.export_hf import write_onnx
from compressor.model import hf_folder
from compressor.model.base import Arrays, TorchModel
from compressor.model.hf_load import load_folder, quiet_transformers
from compressor.passes.base import Context
from compressor.passes.registry import make_pass
from compressor.results import Artifact
from compressor.runtimes.registry import open_session
from compressor.task.array_task import ArrayTask
from compressor.task.open import reading_for, scoring_for
from compressor.task.synthetic import synthetic_task

LENGTH = 24

CLASSES = {
    "bert": "ORTModelForSequenceClassification",
    "distilbert": "ORTModelForTokenClassification",
    "roberta": "ORTModelForQuestionAnswering",
    "albert": "ORTModelForMaskedLM",
    "minilm": "ORTModelForFeatureExtraction",
    "vit": "ORTModelForImageClassification",
    "resnet": "ORTModelForImageClassification",
    "wav2vec2": "ORTModelForAudioClassification",
    "whisper": "ORTModelForAudioClassification",
    "gpt2": "ORTModelForCausalLM",
    "llama": "ORTModelForCausalLM",
}
TOLERANCE = 0.1
"""Norm of the change by int8 over the norm of the output: random weights of width 32 are coarser than trained ones."""


@dataclass(frozen=True)
class Made:
    """A tiny model on its way."""

    source: Path
    model: TorchModel
    exported: Artifact
    folder: Path
    torch_side: Artifact
    task: ArrayTask


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Made]:
    """Each model saved, loaded and exported once."""
    root = tmp_path_factory.mktemp("hf")

    @functools.cache
    def make(name: str) -> Made:
        source = save_tiny(name, root / name)
        model = load_folder(source)
        folder = root / f"{name}-baseline"
        folder.mkdir()
        exported = export_onnx(model, folder / "model.onnx")
        torch_side = export_torch(model, folder)
        hf_folder.copy_companions(source, folder)
        reading = reading_for(source, hf_task=None, text=None, target=None, max_length=LENGTH)
        task = synthetic_task(
            model.inputs,
            open_session(folder / "model.onnx").predict,
            examples=8,
            limits=hf_folder.limits(source, LENGTH),
            scoring=scoring_for(reading, model.inputs),
        )
        return Made(source, model, exported, folder, torch_side, task)

    return make


def loaded_by_optimum(name: str, folder: Path) -> Any:
    with quiet_transformers():
        import optimum.onnxruntime

        return getattr(optimum.onnxruntime, CLASSES[name]).from_pretrained(folder, local_files_only=True)


def outputs_by_optimum(loaded: Any, made: Made, inputs: Arrays) -> list[np.ndarray]:
    """The first outputs of an ``ORTModel``; it fills an empty cache in by itself."""
    given = {
        spec.name: torch.from_numpy(x)
        for spec, x in zip(made.model.inputs, inputs, strict=True)
        if not spec.name.startswith("past_key_values")
    }
    with quiet_transformers():
        found = loaded(**given)
    return [found[name].numpy() for name in made.model.module.output_names if not name.startswith("present")]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("name", MODELS)
def test_export_computes_the_same_and_is_named_for_optimum(name, made):
    one = made(name)
    with_torch = open_session(one.folder / one.torch_side.path)
    with_onnx = open_session(one.folder / "model.onnx")
    parity = check_parity(with_torch, with_onnx, one.task.test().inputs, reference_name="PyTorch", tolerance=1e-4)
    assert parity.examples == 8
    assert [spec.name for spec in one.exported.inputs] == list(one.model.module.input_names)
    assert tuple(spec.name for spec in one.exported.outputs) == one.model.module.output_names
    assert [spec.shape for spec in one.exported.inputs] == [spec.shape for spec in one.model.inputs]
    assert with_torch.outputs == one.torch_side.outputs
    onnx.checker.check_model(str(one.folder / "model.onnx"), full_check=True)


@pytest.mark.parametrize("name", MODELS)
def test_int8_loads_by_optimum_and_agrees(name, made, tmp_path):
    one = made(name)
    context = Context(one.task, cpu_features=("avx512_vnni",))
    make_pass("int8", by_rule=True).apply(one.folder / "model.onnx", tmp_path / "model.onnx", context)
    hf_folder.copy_companions(one.folder, tmp_path)
    session = open_session(tmp_path / "model.onnx")
    kernels = session.kernels()
    assert kernels is not None
    assert kernels.low_precision >= 7
    inputs = one.task.test().inputs
    ours = session.run(inputs)
    theirs = outputs_by_optimum(loaded_by_optimum(name, tmp_path), one, inputs)
    for mine, other in zip(ours, theirs, strict=False):
        np.testing.assert_allclose(other, mine, rtol=1e-4, atol=1e-5)
    original = open_session(one.folder / one.torch_side.path).run(inputs)
    changed = [relative(a, b) for a, b in zip(original, ours, strict=True)]
    assert 0 < max(changed) < TOLERANCE


def test_pipeline_of_transformers_runs_the_folder(made):
    one = made("bert")
    loaded = loaded_by_optimum("bert", one.folder)
    with quiet_transformers() as transformers:
        tokenizer = transformers.AutoTokenizer.from_pretrained(one.folder, local_files_only=True)
        classify = transformers.pipeline("text-classification", model=loaded, tokenizer=tokenizer)
        found = classify("the film was good")
        logits = one.model.module.hf(**tokenizer("the film was good", return_tensors="pt")).logits
    best = int(logits.argmax())
    assert found[0]["label"] == LABELS["id2label"][best]
    assert found[0]["score"] == pytest.approx(float(logits.softmax(-1)[0, best]), abs=1e-5)


def test_causal_model_generates_with_its_cache(made):
    one = made("llama")
    loaded = loaded_by_optimum("llama", one.folder)
    prompt = torch.tensor([[5, 9, 12, 7]])
    with quiet_transformers():
        options = {
            "max_new_tokens": 6,
            "do_sample": False,
            "attention_mask": torch.ones_like(prompt),
            "pad_token_id": 0,
        }
        theirs = loaded.generate(prompt, **options)
        ours = one.model.module.hf.generate(prompt, **options)
    assert torch.equal(theirs, ours)


def test_changed_model_exports_too(made, tmp_path):
    one = made("bert")
    import copy

    module = copy.deepcopy(one.model.module)
    module.hf.bert.encoder.layer = module.hf.bert.encoder.layer[:1]
    module.hf.config.num_hidden_layers = 1
    model = replace(one.model, module=module)
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert artifact.parameters < one.exported.parameters
    written = export_torch(model, tmp_path)
    again = load_folder(tmp_path / "pytorch")
    inputs = one.task.test().inputs
    check_parity(
        open_session(tmp_path / written.path),
        open_session(tmp_path / "model.onnx"),
        inputs,
        reference_name="PyTorch",
        tolerance=1e-4,
    )
    assert len(again.module.hf.bert.encoder.layer) == 1
    assert loaded_by_optimum("bert", tmp_path).config.num_hidden_layers == 1


def test_export_leaves_the_model_as_it_was(made, tmp_path):
    one = made("gpt2")
    before = one.model.module.hf.config.to_dict()
    export_onnx(one.model, tmp_path / "model.onnx")
    assert one.model.module.hf.config.to_dict() == before
    assert (tmp_path / "model.onnx").read_bytes() == (one.folder / "model.onnx").read_bytes()


def test_model_that_cannot_be_exported_leaves_nothing(made, tmp_path, monkeypatch):
    one = made("bert")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such operator\nin forward")

    monkeypatch.setattr("optimum.exporters.onnx.convert.export", fail)
    with pytest.raises(ExportError) as caught:
        write_onnx(one.model, tmp_path / "model.onnx", 20)
    assert str(caught.value) == (
        "bert: optimum-onnx cannot export it: ValueError: no such operator; report it with the model"
    )
    assert not list(tmp_path.iterdir())
