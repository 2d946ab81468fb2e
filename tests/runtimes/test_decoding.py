from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import VOCABULARY, save_gpt2, save_llama
from numpy.typing import NDArray

from compressor.errors import DataError, RuntimeUnavailableError
from compressor.model.base import Arrays
from compressor.results import RuntimeInfo, TensorSpec, Workload
from compressor.runtimes.decoding import Decoder, WorkloadRun, open_language_model


class Counting:
    """A session whose next token is one more than the sum of all it has seen: nothing but the cache can tell it."""

    info = RuntimeInfo("none", "0", "cpu", {})
    outputs = (TensorSpec("logits", "float32", (None, None, 50)), TensorSpec("present.0.key", "float32", (None,) * 4))

    def __init__(self, *names: str) -> None:
        kinds = {"past_key_values.0.key": TensorSpec("past_key_values.0.key", "float32", (None, 1, None, 1))}
        self.inputs = tuple(kinds.get(name, TensorSpec(name, "int64", (None, None))) for name in names)
        self.calls: list[dict[str, NDArray[np.generic]]] = []

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        given = dict(zip([spec.name for spec in self.inputs], inputs, strict=True))
        self.calls.append(given)
        ids = given["input_ids"].astype(np.float32)
        cache = np.concatenate([given["past_key_values.0.key"], ids[:, None, :, None]], axis=2)
        logits = np.zeros((*ids.shape, 50), np.float32)
        following = (cache.sum(axis=(1, 2, 3)) + 1) % 50
        logits[np.arange(len(ids)), -1, following.astype(int)] = 1
        return logits, cache


ALL = ("input_ids", "attention_mask", "position_ids", "past_key_values.0.key")


def test_the_cache_carries_what_came_before() -> None:
    decoder = Decoder(Counting(*ALL))
    found = decoder.generate(np.array([[1, 2], [5, 5]]), 4)
    assert found.tolist() == [[4, 8, 16, 32], [11, 22, 44, 38]]


def test_mask_and_positions_grow_with_the_cache() -> None:
    session = Counting(*ALL)
    Decoder(session).generate(np.array([[1, 2, 3]]), 3)
    assert [call["input_ids"].shape for call in session.calls] == [(1, 3), (1, 1), (1, 1)]
    assert [call["attention_mask"].shape for call in session.calls] == [(1, 3), (1, 4), (1, 5)]
    assert [call["position_ids"].tolist() for call in session.calls] == [[[0, 1, 2]], [[3]], [[4]]]
    assert [call["past_key_values.0.key"].shape[2] for call in session.calls] == [0, 3, 4]


class TestWorkload:
    prompts = ((np.array([[1, 2, 3, 4]]),),)

    def test_prefill_is_one_call_of_the_prompt(self) -> None:
        session = Counting(*ALL)
        run = WorkloadRun(session, Workload("prefill", 3, 5))
        (item,) = run.prepare(self.prompts)
        assert session.calls == []
        run.run(item)
        assert [call["input_ids"].tolist() for call in session.calls] == [[[1, 2, 3]]]

    def test_decode_starts_behind_the_prompt_every_time(self) -> None:
        session = Counting(*ALL)
        run = WorkloadRun(session, Workload("decode", 3, 5))
        (item,) = run.prepare(self.prompts)
        assert len(session.calls) == 1  # the prompt, outside what is measured
        for _ in range(2):
            session.calls.clear()
            run.run(item)
            assert [call["input_ids"].shape for call in session.calls] == [(1, 1)] * 5
            assert [call["past_key_values.0.key"].shape[2] for call in session.calls] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("names", [("input_ids",), ("attention_mask", "past_key_values.0.key")])
def test_models_that_generate_nothing(names: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError, match="generates no text: it lacks input_ids, past_key_values and logits with present"
    ):
        Decoder(Counting(*names))


def test_inputs_without_a_value() -> None:
    with pytest.raises(DataError, match="takes the input 'pixel_values', for which generation has no value"):
        Decoder(Counting(*ALL, "pixel_values"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), dtype="float32")


class TestFolders:
    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_generates_what_transformers_generates(self, llama: Path, tmp_path: Path, kind: str) -> None:
        import transformers

        folder = llama if kind == "llama" else save_gpt2(tmp_path)
        prompt = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))
        found = Decoder(open_language_model(folder)).generate(prompt, 6)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.from_numpy(prompt)
        with torch.no_grad():
            for _ in range(6):  # without a cache: the whole text again for every token
                ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert found.tolist() == ids[:, 9:].tolist()

    def test_other_runtimes_and_devices(self, llama: Path, tmp_path: Path) -> None:
        with pytest.raises(RuntimeUnavailableError, match="openvino does not run folders; use torch for it"):
            open_language_model(llama, "openvino")
        with pytest.raises(RuntimeUnavailableError, match="is not measured on cuda: its cache would travel there"):
            open_language_model(tmp_path / "model.onnx", device="cuda")
