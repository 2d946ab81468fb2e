"""Hugging Face folders: loading, and one clear line for each that cannot serve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_transformers import SIZES, VOCABULARY, save_image_processor, save_tiny

from compressor.errors import ModelError, UnsafeFileError
from compressor.model import hf_folder, hf_load
from compressor.model.describe import describe
from compressor.model.hf_load import load_folder, quiet_transformers, save_folder
from compressor.model.hf_signature import kept_signature
from compressor.model.huggingface import HuggingFaceModule
from compressor.model.identify import FileKind, identify
from compressor.model.load import load_model
from compressor.results import TensorSpec


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def copy(bert, tmp_path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "bert"))


def configure(folder: Path, **changes: object) -> None:
    """Change keys of the config; ``None`` takes one out."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def error_of(folder: Path, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, **options)
    return str(caught.value)


def test_folder_becomes_a_module_with_named_inputs(bert):
    model = load_model(bert)
    assert isinstance(model.module, HuggingFaceModule)
    assert model.module.task == "text-classification"
    assert model.module.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert model.module.output_names == ("logits",)
    assert model.inputs[0] == TensorSpec("input_ids", "int64", (None, None))
    assert model.summary.format == "Hugging Face folder"
    assert model.steps[0].settings["architecture"] == "BertForSequenceClassification"
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    ids, mask, kinds = model.example_inputs
    assert ids.max() < len(VOCABULARY)
    with torch.no_grad():
        wanted = model.module.hf(input_ids=ids, attention_mask=mask, token_type_ids=kinds).logits
    assert torch.equal(model.module(ids, mask, kinds), wanted)
    assert model.module(ids, mask).shape == (2, 2)  # the last inputs may be left out


def test_pictures_have_the_size_that_the_processor_makes_not_the_configs(tmp_path):
    with quiet_transformers() as transformers:
        sizes = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "image_size": 64}
        transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes)).save_pretrained(tmp_path)
    save_image_processor(tmp_path, side=32)
    assert load_folder(tmp_path).inputs == (TensorSpec("pixel_values", "float32", (None, 3, 32, 32)),)


def test_causal_model_takes_and_returns_its_cache(tmp_path):
    model = load_folder(save_tiny("llama", tmp_path / "llama"))
    assert model.module.task == "text-generation-with-past"
    assert [spec.name for spec in model.inputs[:4]] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
    ]
    assert model.inputs[3].shape == (None, 2, None, 8)
    ids, mask, positions, *empty = model.example_inputs
    with torch.no_grad():
        whole, *_ = model.module(ids, mask, positions, *empty)
        _, *cache = model.module(ids[:, :9], mask[:, :9], positions[:, :9], *empty)
        rest, *longer = model.module(ids[:, 9:], mask, positions[:, 9:], *cache)
    torch.testing.assert_close(rest, whole[:, 9:])
    assert longer[0].shape == (2, 2, 16, 8)
    assert torch.equal(model.module(ids, mask), whole)


def test_saved_model_loads_again_without_asking_optimum(bert, tmp_path, monkeypatch):
    model = load_folder(bert)
    weights, outputs = save_folder(model, tmp_path / "again")
    assert weights == tmp_path / "again" / "model.safetensors"
    assert outputs == (TensorSpec("logits", "float32", (None, 2)),)
    signature = kept_signature(tmp_path / "again")
    assert signature is not None
    assert (signature.inputs, signature.outputs) == (model.inputs, outputs)
    monkeypatch.setattr("compressor.model.hf_load.signature_of", lambda *_: pytest.fail("asked again"))
    again = load_folder(tmp_path / "again")
    assert torch.equal(again.module(*model.example_inputs), model.module(*model.example_inputs))


def test_describe_lists_layers_and_task(bert):
    found = describe(bert)
    assert found.kind == "Hugging Face folder"
    assert found.notes[0] == "BertForSequenceClassification for the task text-classification."
    assert "bert.embeddings.word_embeddings" in [layer.name for layer in found.layers]
    assert found.parameters == sum(layer.parameters for layer in found.layers)


def test_size_and_hash_cover_config_and_weights(bert, copy):
    before = load_folder(bert).summary
    files = (bert / "config.json", bert / "model.safetensors")
    assert before.size_bytes == sum(file.stat().st_size for file in files)
    configure(copy, hidden_dropout_prob=0.3)
    assert load_folder(copy).summary.sha256 != before.sha256


def test_half_precision_becomes_float32_with_a_note(copy):
    file = copy / "model.safetensors"
    save_file({name: x.half() for name, x in load_file(file).items()}, file, metadata={"format": "pt"})
    configure(copy, dtype="float16")
    model = load_folder(copy)
    assert next(model.module.parameters()).dtype is torch.float32
    assert model.steps[0].notes == ("Weights of float16 in the file became float32.",)


def test_shards_are_read_by_their_index(bert, copy):
    tensors = load_file(bert / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for part, some in parts.items():
        save_file({name: tensors[name] for name in some}, copy / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, some in parts.items() for name in some}}
    (copy / hf_folder.INDEX).write_text(json.dumps(index))
    whole, split = load_folder(bert), load_folder(copy)
    assert torch.equal(whole.module(*whole.example_inputs), split.module(*whole.example_inputs))
    (copy / "model-00002-of-00002.safetensors").unlink()
    assert error_of(copy) == (
        f"{copy / hf_folder.INDEX}: names model-00002-of-00002.safetensors, which is not there; download the folder "
        "whole"
    )


def test_index_that_leads_outside_is_refused(copy):
    (copy / "model.safetensors").unlink()
    (copy / hf_folder.INDEX).write_text(json.dumps({"weight_map": {"a": "../other/model.safetensors"}}))
    with pytest.raises(
        UnsafeFileError, match=r"names '\.\./other/model\.safetensors', which is no safetensors file beside"
    ):
        load_folder(copy)


# --- what cannot serve ---------------------------------------------------------------------------------------------


def test_no_config(copy):
    (copy / "config.json").unlink()
    assert error_of(copy) == (
        f"{copy}: is a Hugging Face folder without config.json; save it with model.save_pretrained(), or download the "
        "folder whole"
    )


def test_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{")
    assert error_of(copy).startswith(f"{copy / 'config.json'}: is not JSON (")


def test_adapter_alone(copy):
    (copy / "config.json").unlink()
    (copy / "adapter_config.json").write_text("{}")
    assert error_of(copy) == (
        f"{copy}: holds a PEFT adapter (adapter_config.json), which is no whole model; merge it into its model with "
        "merge_and_unload() and save that"
    )


def test_adapter_beside_a_model(copy):
    """transformers would load the adapter's own base from the hub instead of these weights."""
    (copy / "adapter_config.json").write_text("{}")
    assert ": holds a PEFT adapter (adapter_config.json)" in error_of(copy)


@pytest.mark.parametrize(
    ("config", "by"),
    [({"quant_method": "gptq", "bits": 4}, "gptq"), ({"load_in_8bit": True}, "another tool"), ("fp8", "fp8")],
)
def test_quantized_by_another_tool(copy, config, by):
    configure(copy, quantization_config=config)
    assert error_of(copy) == f"{copy}: is quantized already, by {by}; give the model that it was made from"


def test_fewer_layers_than_weights(copy):
    configure(copy, num_hidden_layers=1)
    assert error_of(copy) == (
        f"{copy}: its config.json describes fewer layers than it holds weights of, e.g. "
        "bert.encoder.layer.1.attention.output.LayerNorm.bias; take config and weights from the same model"
    )


def test_one_file_goes_before_an_index(copy):
    (copy / hf_folder.INDEX).write_text("left over")
    assert hf_folder.screen(copy).weights == (copy / "model.safetensors",)


def test_bytes_behind_the_weights(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"xy")
    assert error_of(copy) == f"{file}: has 2 bytes too many; copy or download it again"


@pytest.mark.parametrize(
    ("name", "what"), [("config.json", "is a file, not the folder of a model"), ("no", "no such folder")]
)
def test_no_folder(bert, name, what):
    with pytest.raises(ModelError) as caught:
        hf_folder.screen(bert / name)
    assert caught.value.what == what


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, None),
        ({"id2label": {"0": "LABEL_0"}}, "regression"),
        ({"num_labels": 1}, "regression"),
        ({"id2label": {"0": "a"}, "problem_type": "single_label_classification"}, "single_label_classification"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_what_a_classifier_gives(config, problem):
    assert hf_folder.problem_of(config) == problem


def test_unknown_model_type(copy):
    configure(copy, model_type="brt")
    import transformers

    found = error_of(copy)
    assert found.startswith(f"{copy}: is of an unknown architecture, model_type 'brt'; did you mean 'b")
    assert found.endswith("a newer one may know it")
    assert f"transformers {transformers.__version__} knows" in found


def test_architecture_of_no_known_task(copy):
    configure(copy, architectures=["BertForNextSentencePrediction"])
    assert error_of(copy).startswith(
        f"{copy}: its architecture BertForNextSentencePrediction belongs to no task that is supported; if part of it "
        "serves one, name that with --hf-task; known: text-classification, "
    )


@pytest.mark.parametrize(
    ("name", "both"), [("T5EncoderModel", False), ("T5Model", True), ("BartForSequenceClassification", True)]
)
def test_encoder_decoder(copy, name, both):
    configure(copy, architectures=[name], is_encoder_decoder=both)
    assert error_of(copy) == (
        f"{copy}: its architecture {name} is an encoder-decoder model or half of one, which is not supported; give the "
        "part that runs as .pt2 or ONNX"
    )


def test_no_architecture(copy):
    configure(copy, architectures=None)
    assert error_of(copy).startswith(f"{copy}: its config.json names no architecture, so the task is unknown")
    assert load_folder(copy, task="text-classification").module.task == "text-classification"


def test_unknown_task(copy):
    assert error_of(copy, hf_task="text-clasification").startswith(
        "--hf-task: no task 'text-clasification'; did you mean 'text-classification'? known: audio-classification, "
    )


def test_task_that_the_weights_do_not_serve(copy):
    assert error_of(copy, hf_task="question-answering") == (
        f"{copy}: holds no weights for 2 layers' parameters that the task question-answering needs: qa_outputs.bias, "
        "qa_outputs.weight; train it for that task first, or name the task it was trained for with --hf-task"
    )


def test_task_that_the_architecture_has_not(copy):
    assert error_of(copy, hf_task="image-classification") == (
        f"{copy}: transformers has no bert model for the task image-classification; name another with --hf-task"
    )


def test_truncated_safetensors(copy):
    file = copy / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    assert error_of(copy) == (
        f"{file}: is a truncated safetensors file: {len(content) - 100:,} bytes of {len(content):,}; copy or download "
        "it again"
    )


def test_shapes_that_disagree_with_the_config(copy):
    configure(copy, intermediate_size=128)
    assert error_of(copy) == (
        f"{copy}: 6 of its weights have other shapes than config.json says, e.g. "
        "bert.encoder.layer.0.intermediate.dense.bias, which should be (128,) and is (64,); take config and weights "
        "from the same model"
    )


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    assert error_of(copy) == (
        f"{copy}: holds no weights; save it with model.save_pretrained(), which writes model.safetensors"
    )
    (copy / "model.onnx").write_bytes(b"")
    assert error_of(copy) == (
        f"{copy}: holds no weights; name the ONNX file in it, {copy / 'model.onnx'}, or give the folder that it was "
        "exported from"
    )
    (copy / "model.onnx").rename(copy / "model.gguf")
    assert error_of(copy).endswith("; GGUF files are not read: give the model that they were made from")


def test_pickled_weights_need_leave(bert, copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UnsafeFileError) as caught:
        load_model(copy)
    assert str(caught.value) == (
        f"{copy}: holds its weights as a pickle only (pytorch_model.bin); loading it could run whatever code is in it; "
        "where it was made, save it with save_pretrained(safe_serialization=True); or, if you trust where it comes "
        "from, 'compress' takes --allow-pickle"
    )
    whole, pickled = load_folder(bert), load_model(copy, allow_pickle=True)
    assert torch.equal(whole.module(*whole.example_inputs), pickled.module(*whole.example_inputs))


CODE = """
from transformers import BertConfig, BertForSequenceClassification


class OwnConfig(BertConfig):
    model_type = "own"


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""


def test_code_of_its_own_needs_leave(copy, monkeypatch):
    (copy / "own.py").write_text(CODE)
    names = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForSequenceClassification": "own.OwnForSequenceClassification",
    }
    configure(copy, auto_map=names)
    with pytest.raises(UnsafeFileError) as caught:
        load_model(copy)
    assert str(caught.value) == (
        f"{copy}: brings Python code of its own (auto_map in config.json), which loading it would run; 'compress' "
        "and 'bench' take --trust-remote-code: add it only if you trust where it comes from"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(copy.parent / "modules"))
    configure(copy, model_type="own")
    hf = hf_load._pretrained(hf_folder.screen(copy, trust_remote_code=True), "text-classification", trust=True)[0]
    assert type(hf).__name__ == "OwnForSequenceClassification"


def test_options_of_folders_are_refused_for_files(tmp_path, demo_model):
    assert error_of(demo_model, hf_task="fill-mask") == (
        f"{demo_model}: is no Hugging Face folder (exported program); leave out --hf-task"
    )
    assert error_of(demo_model, trust_remote_code=True).endswith("leave out --trust-remote-code")


def test_architecture_option_is_refused(bert):
    assert error_of(bert, arch="a:b") == (f"{bert}: holds its own architecture (Hugging Face folder); leave out --arch")


def test_other_folders_are_no_models(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        identify(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert identify(tmp_path) is FileKind.HUGGING_FACE


# --- the hub -------------------------------------------------------------------------------------------------------


def test_hub_name_without_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)  # stands in for a machine without a network
    with pytest.raises(ModelError) as caught:
        describe(Path("org/name-v2.5"))
    assert str(caught.value) == (
        "org/name-v2.5: is no file or folder here, and the Hugging Face hub cannot be reached; download it where there "
        "is a network ('hf download org/name-v2.5 --local-dir name-v2.5') and give the folder"
    )


def test_hub_name_becomes_the_downloaded_folder(tmp_path, monkeypatch):
    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path / "models--org--name" / "snapshots" / "abc")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)  # stands in for the hub
    found = hf_folder.resolve(Path("org/name"))
    assert found == tmp_path / "models--org--name" / "snapshots" / "abc"
    assert hf_folder.folder_name(found) == "org-name"
    assert asked["name"] == "org/name"
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked["allow_patterns"])
    hf_folder.resolve(Path("org/name"), allow_pickle=True, trust_remote_code=True)
    assert {"pytorch_model*.bin", "*.py"} <= set(asked["allow_patterns"])


@pytest.mark.parametrize("name", ["model.onnx", "models/net.pt2", "a/b/c", "/nowhere/net"])
def test_paths_are_not_taken_for_hub_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hf_folder.resolve(Path(name)) == Path(name)


# --- parts ---------------------------------------------------------------------------------------------------------


def test_limits_follow_the_config(bert, tmp_path):
    assert hf_folder.limits(bert) == hf_folder.Limits(len(VOCABULARY), SIZES["max_position_embeddings"])
    assert hf_folder.limits(bert, 16) == hf_folder.Limits(len(VOCABULARY), 16)
    assert hf_folder.limits(tmp_path) is None
    # RoBERTa counts positions from behind its padding token.
    assert hf_folder.longest({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512


@pytest.mark.parametrize(
    ("name", "model_type", "task"),
    [
        ("BertForSequenceClassification", "bert", "text-classification"),
        ("Wav2Vec2ForSequenceClassification", "wav2vec2", "audio-classification"),
        ("ASTForAudioClassification", "audio-spectrogram-transformer", "audio-classification"),
        ("GPT2LMHeadModel", "gpt2", "text-generation-with-past"),
        ("MPNetModel", "mpnet", "feature-extraction"),
    ],
)
def test_task_follows_the_architecture(name, model_type, task, tmp_path):
    folder = hf_folder.Folder(tmp_path, {"architectures": [name], "model_type": model_type}, (), pickled=False)
    assert hf_folder.task_of(folder) == task


def test_companions_are_copied_and_weights_are_not(bert, tmp_path):
    (bert / "1_Pooling").mkdir(exist_ok=True)
    (bert / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    hf_folder.copy_companions(bert, tmp_path)
    copied = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert copied == {
        "1_Pooling/config.json",
        "config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }


def test_example_is_the_same_every_time(bert):
    first, second = load_folder(bert), load_folder(bert)
    assert all(np.array_equal(a, b) for a, b in zip(first.example_inputs, second.example_inputs, strict=True))
