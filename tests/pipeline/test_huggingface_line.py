"""A Hugging Face folder on its way through the stages of a run and of bench, up to the measurement."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tiny_transformers import VOCABULARY, save_tiny

from compressor import bench
from compressor.errors import DataError, ModelError
from compressor.passes.registry import make_pass
from compressor.pipeline.job import Job, Method
from compressor.pipeline.line import ONNX_ARM, TORCH_ARM, _Line
from compressor.pipeline.settings import changed_ns, settings_of, size_bytes
from compressor.runtimes.registry import open_session

FILES = {"config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence", "label"])
        for index in range(60):
            words = [VOCABULARY[5 + at % 33] for at in (index, index // 33, index * 5, index * 7)]
            rows.writerow([" ".join(words), "pos" if index % 2 else "neg"])
    return path


def test_stages_of_a_run(bert, texts, tmp_path):
    job = Job(bert, (Method("int8", {"by_rule": True}),), data=str(texts), max_length=16)
    line = _Line(job, None, "")
    exported = line._export(tmp_path)
    assert list(exported.artifacts) == [TORCH_ARM, ONNX_ARM]
    assert exported.artifacts[TORCH_ARM].path == "baseline/pytorch/model.safetensors"
    assert exported.model.format == "Hugging Face folder"
    assert exported.parity[ONNX_ARM].relative < 1e-4
    assert {file.name for file in (tmp_path / "baseline").iterdir()} == {*FILES, "model.onnx", "pytorch"}
    scored = line._score(tmp_path, exported)
    assert scored.scores[TORCH_ARM].value == scored.scores[ONNX_ARM].value
    assert scored.task.metric == "accuracy"
    assert "text read from sentence, targets from label" in scored.notes
    made = line._compress(tmp_path, 0, [], exported)
    assert made.kernels is not None
    assert made.kernels.low_precision > 0
    # The same products in every arm, at the length that texts are cut to.
    tokens, width, inner, blocks = 16, 32, 64, 2
    in_block = tokens * (4 * width**2 + 2 * width * inner) + 2 * tokens**2 * width
    for artifact in (*exported.artifacts.values(), made.artifact):
        assert artifact.macs == blocks * in_block + width**2 + 2 * width
        assert artifact.macs_shapes == ((16,), (16,), (16,))
    assert {file.name for file in (tmp_path / made.artifact.path).parent.iterdir()} == {*FILES, "model.onnx"}
    assert [spec.name for spec in open_session(tmp_path / made.artifact.path).outputs] == ["logits"]


def test_labels_that_do_not_fit_are_told_before_anything_is_exported(bert, tmp_path):
    data = tmp_path / "from_one.csv"
    data.write_text("text,label\n" + "".join(f"good film,{1 + row % 2}\n" for row in range(20)))
    with pytest.raises(DataError) as caught:
        _Line(Job(bert, data=str(data), max_length=8), None, "").inputs.model()
    assert str(caught.value) == (
        "accuracy: labels go up to 2 but the model has 2 outputs; number the classes from 0, or check that the data "
        "belong to this model"
    )


def test_run_without_data_draws_valid_tokens(bert, tmp_path):
    line = _Line(Job(bert, max_length=8), None, "")
    exported = line._export(tmp_path)
    tokens, mask, kinds = line.inputs.task(tmp_path, exported.artifacts).test().inputs
    assert tokens.shape == (256, 8)
    assert (tokens.min() >= 0, tokens.max() < len(VOCABULARY)) == (True, True)
    assert mask.all()
    assert not kinds.any()


def test_exported_file_reads_texts_as_its_folder_does(bert, texts, tmp_path):
    (tmp_path / "first").mkdir()
    _Line(Job(bert), None, "")._export(tmp_path / "first")
    (tmp_path / "second").mkdir()
    file = tmp_path / "first" / "baseline" / "model.onnx"
    line = _Line(Job(file, data=str(texts), max_length=16), None, "")
    exported = line._export(tmp_path / "second")
    assert line._score(tmp_path / "second", exported).task.metric == "accuracy"
    assert {copied.name for copied in (tmp_path / "second" / "baseline").iterdir()} >= FILES


def test_settings_see_a_change_of_the_weights(bert):
    settings = settings_of(
        Job(bert, hf_task="text-classification", text=("a", "b"), max_length=32), [make_pass("int8")]
    )
    assert (settings["hf_task"], settings["text"], settings["max_length"]) == ("text-classification", "a,b", 32)
    assert settings["model_changed"] == changed_ns(bert) == max(file.stat().st_mtime_ns for file in bert.iterdir())
    assert size_bytes(bert) == sum(file.stat().st_size for file in bert.iterdir())


def test_text_options_for_another_model(demo_model, tmp_path):
    with pytest.raises(DataError, match=r"^--max-length: belongs to Hugging Face models"):
        _Line(Job(demo_model, data="demo", max_length=16), None, "")._export(tmp_path)


def test_bench_takes_folders_beside_their_export(bert, texts, tmp_path):
    (tmp_path / "run").mkdir()
    _Line(Job(bert), None, "")._export(tmp_path / "run")
    onnx_file = tmp_path / "run" / "baseline" / "model.onnx"
    job = bench.BenchJob((bert, onnx_file, bert), data=str(texts), max_length=16)
    (tmp_path / "arms").mkdir()
    arms = bench._arms(job, [None, None, "onnxruntime"], tmp_path / "arms")
    assert [arm.name for arm in arms] == ["bert", "model.onnx", "bert on onnxruntime"]
    assert [arm.path.suffix for arm in arms] == [".safetensors", ".onnx", ".onnx"]
    assert arms[0].artifact.path == str(bert)
    inputs = bench._shared_inputs(arms)
    task = bench._task(job, arms, inputs, 1)
    scores = [arm.score for arm in bench._judged(arms, task)]
    assert scores[0] == scores[1] == scores[2]
    assert task.test().inputs[0].shape[1] == 16


def test_bench_draws_tokens_for_a_folder(bert, tmp_path):
    job = bench.BenchJob((bert,), max_length=8)
    arms = bench._arms(job, [None], tmp_path)
    task = bench._task(job, arms, bench._shared_inputs(arms), 1)
    assert task.test().inputs[0].shape == (bench.SYNTHETIC_EXAMPLES, 8)
    assert task.test().inputs[0].max() < len(VOCABULARY)


def test_bench_says_what_is_wrong_with_a_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "work").mkdir()
    with pytest.raises(ModelError, match="is a Hugging Face folder without config"):
        bench._arms(bench.BenchJob((tmp_path,)), [None], tmp_path / "work")
