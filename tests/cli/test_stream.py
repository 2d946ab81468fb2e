"""``compress stream`` on a tiny decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from decoders import TEXT, save_llama

from compressor.cli.stream import stream


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def test_the_checkpoint_is_written_and_scored_beside_its_original(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    done = CliRunner().invoke(stream, [str(llama), "--bits", "8", "--data", "text.txt", "--out", "out", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["size_bytes"] < found["original_bytes"]
    assert [Path(found["folder"]).name, found["resumed"]] == ["out", 0]
    scores = found["scores"]
    # Eight bits change little of a model that knows nothing, and not nothing.
    assert 0.9 < scores["agreement"]["value"] <= 1
    assert scores["perplexity"]["baseline"] != scores["perplexity"]["candidate"]
    assert scores["perplexity"]["candidate"] == pytest.approx(scores["perplexity"]["baseline"], rel=0.02)
    assert scores["perplexity"]["max_loss"] == 0


def test_the_summary_says_where_it_is(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(stream, [str(llama), "--rule", "exclude model.layers.0.*", "--max-shard", "40KB"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert " → " in lines[0]
    assert " files, " in lines[0]
    assert lines[-1] == f"Quantized checkpoint  compressed/{llama.name}-int4"
    assert (tmp_path / "compressed" / f"{llama.name}-int4" / "config.json").is_file()
    assert max(map(len, lines)) <= 80


def test_a_text_that_is_not_there_is_told_before_anything_is_written(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(stream, [str(llama), "--data", "none.txt"])
    assert str(done.exception).startswith("none.txt: ")
    assert list(tmp_path.iterdir()) == []
