from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import Digits, digest
from tiny_transformers import FILLED, LENGTH, answer, data, reloaded, small, wrapped

from compressor.errors import MethodError
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.distill import Distill
from compressor.passes.hf_hints import attention_pairs, layer_pairs, showing_attention
from compressor.passes.hf_students import fewer_layers
from compressor.passes.hints import heads_apart
from compressor.passes.losses import Meaning, masked_mean
from compressor.passes.training import Tick, finetune
from compressor.task.base import Examples

STACKS = {
    "bert": "bert.encoder.layer",
    "roberta classes": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "vit": "vit.encoder.layer",
    "wav2vec2": "wav2vec2.encoder.layers",
    "gpt2": "transformer.h",
    "llama": "model.layers",
}


class Killed(BaseException):
    """Stands for whatever ends the process."""


def held(model: TorchModel, targets: Any = None, workdir: Path | None = None, count: int = 40) -> Context:
    x = data(model.module.hf, count)
    return Context(Digits(Examples(x, targets), Examples(x, None)), workdir=workdir, teacher=model)


@pytest.mark.parametrize("name", STACKS)
def test_layers_are_left_out_and_the_rest_loads_again(name: str, tmp_path: Path) -> None:
    model = small(name, layers=4)
    before, config = digest(model), model.module.hf.config.to_dict()
    made, note = fewer_layers(model, 2, "distill")
    assert note == f"The student keeps 2 of the 4 layers of '{STACKS[name]}': 0, 3."
    assert made.module.hf.config.num_hidden_layers == 2
    theirs = model.module.hf.get_submodule(STACKS[name])
    for place, index in enumerate((0, 3)):
        mine = made.module.hf.get_submodule(f"{STACKS[name]}.{place}").state_dict()
        assert all(torch.equal(value, theirs[index].state_dict()[key]) for key, value in mine.items())
    again = reloaded(made, tmp_path)
    torch.testing.assert_close(answer(again), answer(made), rtol=0, atol=0)
    assert [spec.name for spec in again.inputs] == [spec.name for spec in made.inputs]
    assert again.module.output_names == made.module.output_names
    assert (digest(model), model.module.hf.config.to_dict()) == (before, config)


def test_shared_layers_run_less_often(tmp_path: Path) -> None:
    model = small("albert", layers=4)
    made, note = fewer_layers(model, 0.5, "distill")
    assert note == "The student runs its one shared layer 2 instead of 4 times; its parameters stay."
    assert not torch.allclose(answer(made), answer(model))
    torch.testing.assert_close(answer(reloaded(made, tmp_path)), answer(made), rtol=0, atol=0)


def test_heads_that_were_pruned_stay_with_their_layers() -> None:
    model = small("bert", layers=4)
    model.module.hf.prune_heads({0: [1], 3: [0, 2]})
    made, _ = fewer_layers(model, 2, "distill")
    assert made.module.hf.config.pruned_heads == {0: [1], 1: [0, 2]}


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("bert", 4, "distill: layers is 4, which keeps all 4 layers of the model"),
        ("bert", 0.9, "distill: layers is 0.9, which keeps all 4 layers of the model"),
        (
            "resnet",
            0.5,
            "distill: a resnet model has no num_hidden_layers, so its layers stay; name a student of your own",
        ),
        (
            "whisper",
            1,
            "distill: a whisper model is an encoder and a decoder, so its layers stay; name a student of your own",
        ),
    ],
)
def test_what_cannot_lose_layers(name: str, layers: float, message: str) -> None:
    if name == "whisper":
        model = small("bert", layers=4)
        model.module.hf.config.is_encoder_decoder, model.module.hf.config.model_type = True, "whisper"
    else:
        model = small(name, layers=4)
    with pytest.raises(MethodError) as caught:
        fewer_layers(model, layers, "distill")
    assert str(caught.value) == message


def test_a_layer_that_works_in_another_way_is_named() -> None:
    model = small("bert", layers=4)
    model.module.hf.bert.encoder.layer[3].chunk_size_feed_forward = 2
    with pytest.raises(MethodError) as caught:
        fewer_layers(model, 2, "distill")
    assert str(caught.value) == (
        "distill: layer 3 of 'bert.encoder.layer' works in another way as layer 1; name a student of your own"
    )


TARGETS: dict[str, Any] = {
    "bert": lambda n: np.arange(n) % 2,
    "bert words": lambda n: np.where(np.arange(LENGTH) < FILLED, np.arange(LENGTH) % 2, -100) * np.ones((n, 1), int),
    "bert answers": lambda n: np.tile([1, 4], (n, 1)),
    "albert": lambda n: np.full((n, LENGTH), -100),
    "minilm": lambda n: None,
    "gpt2": lambda n: None,
    "vit": lambda n: np.arange(n) % 2,
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_task_is_distilled_and_loads_again(name: str, tmp_path: Path) -> None:
    model = small(name, layers=3)
    ticks: list[Tick] = []
    method = Distill(student="layers", layers=2, epochs=8, learning_rate=3e-3, batch=20, optimizer="adamw")
    made = method.apply(model, held(model, TARGETS[name](40)), ticks.append)
    validated = [tick.loss for tick in ticks if tick.validated]
    assert min(validated[1:]) < validated[0]
    assert made.module.hf.config.num_hidden_layers == 2
    torch.testing.assert_close(answer(reloaded(made, tmp_path)), answer(made), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in made.module.parameters())


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_hidden_states_and_attention_are_imitated(name: str) -> None:
    """More of either brings the student's layers nearer to the original's."""
    model = small(name, layers=3)
    x = tuple(torch.from_numpy(column) for column in data(model.module.hf, 24))

    def apart(**settings: Any) -> tuple[float, float]:
        method = Distill(
            student="layers", layers=2, epochs=6, learning_rate=3e-3, batch=12, unlabeled=True, temperature=1.0,
            features=("layers",), attention=("layers",), validation=0, **settings,
        )  # fmt: skip
        made = method.apply(model, held(model, count=24))
        assert made.module.hf.config._attn_implementation == model.module.hf.config._attn_implementation
        found = []
        for module in (made.module, model.module):
            shown: Any = showing_attention(module)
            given = dict(zip(shown.input_names, x, strict=False))
            given = {key: value for key, value in given.items() if "past" not in key}
            with torch.no_grad():
                found.append(shown.hf(**given, output_hidden_states=True))
        mine, his = found
        states = torch.nn.functional.cosine_similarity(mine.hidden_states[1], his.hidden_states[2], -1).mean()
        looks = (mine.attentions[0] - his.attentions[1]).abs().mean()
        return float(states), float(looks)

    without = apart(feature_weight=0.0, attention_weight=0.0)
    states = apart(feature_weight=10.0, attention_weight=0.0)
    looks = apart(feature_weight=0.0, attention_weight=30.0)
    assert states[0] > without[0]
    assert looks[1] < without[1]


def test_which_layer_imitates_which() -> None:
    teacher = small("bert", layers=6).module
    for count, wanted in ((2, (2, 5)), (3, (1, 3, 5)), (4, (1, 2, 3, 5)), (6, (0, 1, 2, 3, 4, 5))):
        pairs = layer_pairs(small("bert", layers=count).module, teacher)
        assert pairs == tuple(
            f"hf.bert.encoder.layer.{mine}=hf.bert.encoder.layer.{his}" for mine, his in enumerate(wanted)
        )
    model = small("bert")
    shown = showing_attention(model.module)
    assert attention_pairs(shown, shown, model.example_inputs) == tuple(
        f"hf.bert.encoder.layer.{i}.attention.self=hf.bert.encoder.layer.{i}.attention.self" for i in range(2)
    )
    torch.testing.assert_close(answer(model, shown), answer(model), rtol=1e-4, atol=1e-5)


def test_a_kill_with_attention_resumes_to_the_same_result(tmp_path: Path) -> None:
    model = small("wav2vec2", layers=3)  # draws from numpy's random numbers, and leaves out layers at random
    method = Distill(
        student="layers", layers=2, epochs=2, batch=8, learning_rate=1e-3, unlabeled=True, features=("layers",),
        attention=("layers",), checkpoint_minutes=0,
    )  # fmt: skip

    def kill(tick: Tick) -> None:
        if (tick.epoch, tick.step) == (1, 2):
            raise Killed

    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    wanted = digest(method.apply(model, held(model, count=24)))
    assert (np.random.get_state()[1] == state).all()
    with pytest.raises(Killed):
        method.apply(model, held(model, workdir=tmp_path, count=24), kill)
    assert digest(method.apply(model, held(model, workdir=tmp_path, count=24))) == wanted


def test_a_transformer_is_trained_gently_unless_asked_otherwise() -> None:
    model = small("bert")
    settings = finetune(model, held(model, np.arange(40) % 2), epochs=1).steps[-1].settings
    assert (settings["learning_rate"], settings["batch"]) == (5e-5, 32)


def test_a_narrower_transformer(tmp_path: Path) -> None:
    model = small("bert", free=False)
    for fresh in (False, True):
        method = Distill(student="narrower", width=0.5, fresh=fresh, epochs=1, unlabeled=True)
        made = method.apply(model, held(model))
        config = made.module.hf.config
        assert (config.intermediate_size, {i: len(gone) for i, gone in config.pruned_heads.items()}) == (
            32,
            {0: 2, 1: 2},
        )
        torch.testing.assert_close(answer(reloaded(made, tmp_path / str(fresh))), answer(made), rtol=0, atol=0)


def test_a_student_of_ones_own_may_be_a_transformer(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "def student(labels=2):\n"
        "    return BertForSequenceClassification(BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,\n"
        "        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64, num_labels=labels))\n"
        "def other():\n"
        "    return student(3)\n"
    )
    model = small("bert")
    made = Distill(student=f"{code}:student", epochs=1, features=("layers",)).apply(model, held(model))
    assert made.module.hf.config.hidden_size == 16
    with pytest.raises(MethodError) as caught:
        Distill(student=f"{code}:other").apply(model, held(model))
    assert str(caught.value) == (
        "distill: the student's output is (N, 3), the original's is (N, 2); give a student with the same outputs"
    )


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        (
            "minilm",
            np.zeros(40, np.int64),
            "distill: embeddings have no labels to be trained on; set unlabeled to distill without them",
        ),
        (
            "bert words",
            np.zeros(40, np.int64),
            "distill: the labels are (N,), the model's answer is (N, 10, 2); give one class number for each of its "
            "rows of scores, or -100 for none",
        ),
        (
            "bert words",
            np.full((40, LENGTH), 2),
            "distill: labels go up to 2 but the model has 2 outputs; number the classes from 0, or check that the data "
            "belong to this model",
        ),
    ],
)
def test_labels_that_do_not_match(name: str, targets: Any, message: str) -> None:
    model = small(name)
    with pytest.raises(MethodError) as caught:
        Distill(student="layers", layers=1).apply(model, held(model, targets))
    assert str(caught.value) == message


def test_layers_of_what_is_no_transformer() -> None:
    from digits import context, net, task

    with pytest.raises(MethodError) as caught:
        Distill(features=("layers",)).apply(net(8), context(task(100), teacher=net(16)))
    assert str(caught.value) == (
        "distill: the student has no layers of a Hugging Face model that 'layers' could stand for; name layers one by "
        "one"
    )


def test_large_outputs_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressor.passes import distill

    monkeypatch.setattr(distill, "LARGEST_CACHE", 100)
    model = small("bert")
    made = Distill(student="layers", layers=1, epochs=1).apply(model, held(model, workdir=tmp_path))
    assert made.steps[-1].notes[1:3] == (
        "The training examples have no labels: the student learns from the original alone.",
        "The original runs beside the student in every step, as its outputs would be large.",
    )
    assert not list(tmp_path.glob("*.npy"))


# --- the losses -----------------------------------------------------------------------------------------------------


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 3)
    for meaning in (Meaning("classes", last=True), Meaning("embeddings")):
        found = meaning.teacher_loss(student, teacher, 2.0, mask)
        torch.testing.assert_close(found, meaning.teacher_loss(student[:, :3], teacher[:, :3], 2.0))
        spoilt = teacher.clone()
        spoilt[:, 3:] += 5
        torch.testing.assert_close(found, meaning.teacher_loss(student, spoilt, 2.0, mask))
        assert float(meaning.teacher_loss(teacher, teacher, 2.0, mask)) == pytest.approx(0, abs=1e-6)
    assert float(masked_mean(torch.ones(3, 5, 2), mask)) == 1.0


def test_where_heads_look_is_compared_by_divergence() -> None:
    torch.manual_seed(0)
    mine, his = torch.randn(2, 4, 5, 5).softmax(-1), torch.randn(2, 4, 5, 5).softmax(-1)
    wanted = (his * (his / mine).log()).sum(-1).mean()
    torch.testing.assert_close(heads_apart(mine, his, None), wanted)
    assert float(heads_apart(his, his, None)) == pytest.approx(0, abs=1e-6)
    assert float(heads_apart(his.mean(1, keepdim=True), his, None)) == pytest.approx(0, abs=1e-6)


def test_tokens_without_a_label_teach_nothing() -> None:
    meaning = Meaning("classes", last=True)
    scores = torch.randn(2, 3, 4, requires_grad=True)
    labels = meaning.targets(np.array([[1, -100, 2], [-100, -100, 0]]))
    meaning.label_loss(scores, labels).backward()
    assert scores.grad is not None
    assert float(scores.grad[labels == -100].abs().max()) == 0
    assert float(meaning.label_loss(scores.detach(), torch.full((2, 3), -100))) == 0


def test_a_copy_that_was_not_made_by_transformers_keeps_its_signature() -> None:
    model = small("bert", layers=4)
    made, _ = fewer_layers(replace(model, name="other"), 2, "distill")
    assert (made.name, made.module.task) == ("other", model.module.task)
    assert wrapped(made.module.hf).module.input_names == made.module.input_names
