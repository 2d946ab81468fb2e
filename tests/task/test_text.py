"""Texts as a transformer reads them, for each kind of task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_transformers import VOCABULARY, save_tiny

from compressor.errors import DataError
from compressor.model.hf_load import load_folder
from compressor.results import TensorSpec
from compressor.task.open import open_task, reading_for
from compressor.task.tokens import IGNORED

INPUTS = tuple(TensorSpec(name, "int64", (None, None)) for name in ("input_ids", "attention_mask", "token_type_ids"))
CLS, SEP, MASK = (VOCABULARY.index(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
TEXTS = [f"the film was {a} {b}" for a in ("good", "bad", "fine", "poor") for b in ("music", "plot", "actor")]
SPLIT = {"calibration_limit": 2}


def ids(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    for name in ("bert", "distilbert", "roberta", "albert", "minilm", "gpt2"):
        save_tiny(name, root / name)
    return root


def lines(path: Path, **columns: list) -> str:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def opened(folder: Path, data: str, inputs=INPUTS, *, length: int = 12, text=None, target=None, metric=None):
    reading = reading_for(folder, hf_task=None, text=text, target=target, max_length=length)
    return open_task(data, inputs=inputs, target=target, metric=metric, reading=reading, **SPLIT)


def error_of(*args, **options) -> str:
    with pytest.raises(DataError) as caught:
        opened(*args, **options)
    return str(caught.value)


def test_classes_are_numbered_by_the_model(folders, tmp_path):
    labels = ["pos" if "good" in text or "fine" in text else "neg" for text in TEXTS]
    task = opened(folders / "bert", lines(tmp_path / "d.jsonl", sentence=TEXTS, label=labels))
    tokens, mask, kinds = task.test().inputs
    assert tokens.shape == (10, 12)
    rows = {tuple(row[:7]) for row in tokens.tolist()}
    assert rows <= {(CLS, *ids(text), SEP) for text in TEXTS}
    assert (mask.sum(axis=1) == 7).all()
    assert not kinds.any()
    good = {VOCABULARY.index("good"), VOCABULARY.index("fine")}
    wanted = [int(bool(good & set(row))) for row in tokens.tolist()]
    assert task.test().targets.tolist() == wanted
    assert task.summary.metric == "accuracy"
    assert "text read from sentence, targets from label" in task.notes
    assert "text labels numbered by the model's label2id" in task.notes
    assert "texts were padded to 12 tokens" in task.notes


def test_pairs_and_columns_by_name(folders, tmp_path):
    data = lines(tmp_path / "d.jsonl", a=TEXTS, b=TEXTS[::-1], c=[0, 1] * 6)
    task = opened(folders / "bert", data, text=("a", "b"), target="c", length=16)
    _, mask, kinds = task.test().inputs
    assert (mask.sum(axis=1) == 13).all()
    assert (kinds.sum(axis=1) == 6).all()
    assert error_of(folders / "bert", data) == (
        "d.jsonl: has no column of text; its columns are a, b, c; name it with --text, or call it 'text'"
    )
    assert error_of(folders / "bert", data, text=("z",)) == "d.jsonl: has no column 'z'; known: a, b, c"
    assert error_of(folders / "bert", data, text=("a",), target="d") == "d.jsonl: has no column 'd'; known: a, b, c"


def test_long_texts_are_cut_and_counted(folders, tmp_path):
    data = lines(tmp_path / "d.jsonl", text=[f"{text} " * 30 for text in TEXTS], label=[0, 1] * 6)
    task = opened(folders / "bert", data, length=500)
    assert task.test().inputs[0].shape == (10, 64)
    note = "texts were padded to 64 tokens (the model takes no more, 500 were asked for); 12 of 12 fill them and may "
    assert f"{note}be cut" in task.notes


def test_texts_without_targets_are_scored_by_agreement(folders, tmp_path):
    task = opened(folders / "bert", lines(tmp_path / "d.jsonl", text=TEXTS))
    assert task.test().targets is None
    assert task.summary.metric == "agreement with the original"


def test_embeddings_are_compared_by_their_direction(folders, tmp_path):
    from compressor.task.synthetic import with_reference

    task = opened(folders / "minilm", lines(tmp_path / "d.jsonl", text=TEXTS, label=[0, 1] * 6))
    model = load_folder(folders / "minilm")

    def predict(inputs):
        import torch

        return model.module(*map(torch.from_numpy, inputs)).numpy()

    judged = with_reference(task, predict)
    _, mask, _ = task.test().inputs
    hidden = predict(task.test().inputs)
    pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
    np.testing.assert_allclose(judged.test().targets, pooled, rtol=1e-5)
    assert judged.evaluate(predict).value == pytest.approx(1)
    score = judged.evaluate(lambda inputs: predict(inputs) + 0.5)
    cosines = [a @ (a + 0.5) / np.linalg.norm(a) / np.linalg.norm(a + 0.5) for a in pooled]
    assert score.value == pytest.approx(np.mean(cosines), abs=1e-5)
    assert score.name == "cosine with the original's embedding"


def test_tags_lie_on_the_first_piece_of_a_word(folders, tmp_path):
    words = [["the", "films", "was", last] for last in VOCABULARY[5:17]]
    tags = [["neg", "pos", "neg", "pos"]] * 12
    data = lines(tmp_path / "d.jsonl", tokens=words, ner_tags=tags)
    task = opened(folders / "distilbert", data, INPUTS[:2])
    # film ##s: the second piece is not scored.
    assert task.test().targets[0].tolist() == [IGNORED, 0, 1, IGNORED, 0, 1, *[IGNORED] * 6]
    assert task.summary.metric == "token-accuracy"

    def predict(inputs):
        found = np.zeros((*inputs[0].shape, 2), np.float32)
        found[:, 2, 1] = 1
        return found

    assert task.evaluate(predict).value == pytest.approx(3 / 4)
    short = lines(tmp_path / "e.jsonl", tokens=words, tags=[tag[:3] for tag in tags])
    assert error_of(folders / "distilbert", short, INPUTS[:2]) == (
        "e.jsonl: row 0 (counted from 0) has 4 words and 3 tags"
    )
    other = lines(tmp_path / "f.jsonl", tokens=words, tags=[["O"] * 4] * 12)
    assert error_of(folders / "distilbert", other, INPUTS[:2]) == (
        "f.jsonl, column tags: its tags are none of the model's: neg, pos"
    )


def test_answers_are_found_by_their_characters(folders, tmp_path):
    contexts = [f"the old house is {where} the river" for where in ("north", "south")] * 6
    contexts = [f"{a} {context}" for a, context in zip(VOCABULARY[5:17], contexts, strict=True)]
    starts = [context.index("house is ") + 9 for context in contexts]
    answers = [{"text": [c[at : at + 5]], "answer_start": [at]} for c, at in zip(contexts, starts, strict=True)]
    data = lines(tmp_path / "d.jsonl", question=["where is house"] * 12, context=contexts, answers=answers)
    task = opened(folders / "roberta", data, INPUTS[:2], length=20)
    # [CLS] where is house [SEP] x the old house is north
    assert task.test().targets.tolist() == [[10, 10]] * 10
    assert task.summary.metric == "exact-positions"

    def predict(inputs):
        found = np.zeros((len(inputs[0]), 2, 20), np.float32)
        found[:, :, 10] = 1
        found[0, 1, 11] = 2
        return found

    assert task.evaluate(predict).value == pytest.approx(9 / 10)
    assert "left out" not in " ".join(task.notes)
    answers[3]["answer_start"] = [0]
    wrong = lines(tmp_path / "e.jsonl", question=["where is house"] * 12, context=contexts, answers=answers)
    assert error_of(folders / "roberta", wrong, INPUTS[:2], length=20) == (
        "e.jsonl: the answer in row 3 (counted from 0) does not stand at character 0 of its context"
    )


def test_masked_words_are_the_targets(folders, tmp_path):
    task = opened(folders / "albert", lines(tmp_path / "d.jsonl", text=TEXTS))
    tokens, targets = task.test().inputs[0], task.test().targets
    masked = targets != IGNORED
    assert (masked.sum(axis=1) >= 1).all()
    assert (tokens[masked] == MASK).all()
    assert not (tokens[~masked] == MASK).any()
    restored = np.where(masked, targets, tokens)
    assert {tuple(row[1:6]) for row in restored.tolist()} <= {tuple(ids(text)) for text in TEXTS}


def test_next_words_are_the_targets_of_a_causal_model(folders, tmp_path):
    model = load_folder(folders / "gpt2")
    task = opened(folders / "gpt2", lines(tmp_path / "d.jsonl", text=TEXTS), model.inputs)
    tokens, _, positions, *cache = task.test().inputs
    targets = task.test().targets
    assert all(x.shape == (10, 4, 0, 8) for x in cache)
    assert positions[0, :7].tolist() == list(range(7))
    assert targets[:, :6].tolist() == tokens[:, 1:7].tolist()
    assert (targets[:, 6:] == IGNORED).all()


def test_texts_from_a_callable(folders, tmp_path):
    code = tmp_path / "own.py"
    code.write_text(f"def data():\n    return {TEXTS!r}, ['pos', 'neg'] * 6\n")
    task = opened(folders / "bert", f"{code}:data")
    assert task.test().inputs[0].shape == (10, 12)
    assert set(task.test().targets.tolist()) == {0, 1}


def test_token_ids_from_arrays(folders, tmp_path):
    tokens = np.array([[CLS, *ids(text), SEP] for text in TEXTS])
    arrays = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    np.savez(tmp_path / "d.npz", **arrays, y=np.array([0, 1] * 6))
    task = opened(folders / "bert", str(tmp_path / "d.npz"))
    assert task.test().inputs[0].shape == (10, 7)


def test_labels_that_do_not_fit(folders, tmp_path):
    some = lines(tmp_path / "d.jsonl", text=TEXTS, label=["pos", "neg", "meh"] * 4)
    assert error_of(folders / "bert", some) == "d.jsonl, column label: label 'meh' is none of the model's: neg, pos"
    gap = lines(tmp_path / "e.jsonl", text=TEXTS, label=["pos", ""] * 6)
    assert error_of(folders / "bert", gap) == "e.jsonl, column label: no value in row 1 (counted from 0)"
    number = lines(tmp_path / "f.jsonl", text=[*TEXTS[:-1], 3], label=[0, 1] * 6)
    assert error_of(folders / "bert", number) == (
        "f.jsonl: column text holds a int in row 11 (counted from 0), not a text"
    )


def test_classes_have_the_models_names_and_examples_their_texts(folders, tmp_path):
    labels = ["POS", "neg"] * 6
    task = opened(folders / "bert", lines(tmp_path / "d.jsonl", sentence1=TEXTS, sentence2=TEXTS[::-1], label=labels))
    assert task.class_names == ("neg", "pos")
    told = {f"{a} | {b}": int(label == "POS") for a, b, label in zip(TEXTS, TEXTS[::-1], labels, strict=True)}
    assert [told[text] for text in task.test().texts] == task.test().targets.tolist()
    words = [text.split() for text in TEXTS]
    tagged = lines(tmp_path / "t.jsonl", tokens=words, ner_tags=[[0, 1, 0, 0, 0][: len(row)] for row in words])
    task = opened(folders / "distilbert", tagged, INPUTS[:2])
    assert set(task.test().texts) <= set(TEXTS)
    assert task.class_names == ("neg", "pos")


def test_targets_of_the_wrong_form(folders, tmp_path):
    ragged = lines(tmp_path / "a.jsonl", text=TEXTS, label=[[1], [1, 2]] * 6)
    assert error_of(folders / "bert", ragged) == (
        "a.jsonl, column label: holds lists, and one label or number per row is needed"
    )
    beyond = lines(tmp_path / "b.jsonl", tokens=[["good"]] * 12, ner_tags=[[0], [7]] * 6)
    assert error_of(folders / "distilbert", beyond, INPUTS[:2]) == (
        "b.jsonl, column ner_tags: holds tag 7, and the model has 2, from 0"
    )
    number = lines(tmp_path / "c.jsonl", tokens=[["good"], 5] * 6, ner_tags=[[0]] * 12)
    assert error_of(folders / "distilbert", number, INPUTS[:2]) == (
        "c.jsonl, column tokens: holds a int in row 1 (counted from 0), not a list"
    )


def test_folder_without_a_tokenizer(folders, tmp_path):
    save_tiny("bert", tmp_path / "bert")
    for name in ("vocab.txt", "tokenizer.json"):
        (tmp_path / "bert" / name).unlink()
    data = lines(tmp_path / "d.jsonl", text=TEXTS, label=[0, 1] * 6)
    assert error_of(tmp_path / "bert", data) == (
        f"{tmp_path / 'bert'}: holds no tokenizer, so texts cannot be read for it; save it there with "
        "tokenizer.save_pretrained(), or give token ids as .npz"
    )


def test_tokenizer_of_another_model(folders, tmp_path):
    save_tiny("bert", tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    data = lines(tmp_path / "d.jsonl", text=TEXTS, label=[0, 1] * 6)
    biggest = max(max(ids(text)) for text in TEXTS)
    assert error_of(tmp_path / "bert", data) == (
        f"{tmp_path / 'bert'}: its tokenizer gives ids up to {biggest}, and the model has 20; take tokenizer and model "
        "from the same place"
    )


def test_text_options_need_a_text_model(demo_model):
    with pytest.raises(DataError) as caught:
        reading_for(demo_model, hf_task=None, text=None, target=None, max_length=32)
    assert str(caught.value) == (
        "--max-length: belongs to Hugging Face models, which read texts; leave it out, or give the model's folder"
    )
    assert reading_for(demo_model, hf_task=None, text=None, target=None, max_length=None) is None
