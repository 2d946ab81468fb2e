"""Two checkpoints on one text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from decoders import TEXT, save_llama

from compressor.errors import DataError
from compressor.streaming.score import open_scoring, score_both
from compressor.streaming.write import StreamJob, stream


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_a_model_agrees_with_itself_and_less_with_what_was_made_of_it(llama: Path, text: Path, tmp_path: Path) -> None:
    task = open_scoring(llama, text)
    same = score_both(task, llama, llama)
    assert (same.agreement.value, same.perplexity.loss) == (1.0, 0.0)
    assert same.text
    made = stream(StreamJob(llama, block_size=128, symmetric=True, out=tmp_path / "out")).folder
    found = score_both(task, llama, made)
    assert found.perplexity.baseline == same.perplexity.baseline
    assert found.perplexity.loss != 0
    assert 0 < found.agreement.value < 1


def test_a_model_that_text_does_not_score_is_told_first(llama: Path, text: Path, tmp_path: Path) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("LlamaForCausalLM", "LlamaForSequenceClassification"))
    with pytest.raises(DataError) as caught:
        open_scoring(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}: is no causal language model, and text scores no other; leave out --data"


def test_what_does_not_fit_in_memory_is_told_first(llama: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(DataError) as caught:
        open_scoring(llama, text)
    assert str(caught.value) == (
        f"{llama}: cannot be scored here: in float32 it needs 0.0 GB, and 0.0 GB are free; leave out --data"
    )
