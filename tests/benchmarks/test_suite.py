"""The suite's own code, without its data: sounds, the cache, records and the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arms, cases, data, fetch, table
from benchmarks.peers import PEERS
from compressor.errors import DataError
from compressor.recipe import load_recipe
from compressor.results import Artifact, Score

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("hertz", [300, 1000, 2500])
def test_a_tone_lights_up_its_own_band_of_the_mel_spectrogram(hertz: int) -> None:
    time_s = np.arange(8000 * 3) / 8000
    tone = np.sin(2 * np.pi * hertz * time_s).astype(np.float32)
    found = data._log_mel(tone, data._mel_filters())
    assert found.shape == (40, 150)
    mel = 2595 * np.log10(1 + hertz / 700)
    highest = 2595 * np.log10(1 + 4000 / 700)
    assert abs(found.mean(1).argmax() - (mel / highest * 41 - 1)) <= 1


def test_a_short_sound_is_put_between_silence() -> None:
    filters = data._mel_filters()
    found = data._log_mel(np.ones(2000, np.float32), filters)
    silence = data._log_mel(np.zeros(2000, np.float32), filters)
    assert (found[:, :30] == silence[:, :30]).all()
    assert (found[:, -30:] == silence[:, -30:]).all()
    assert (found != silence).any()


def test_arrays_are_made_once(cache: Path) -> None:
    calls = []

    def make() -> data.Arrays:
        calls.append(1)
        return {"train_x": np.arange(6).reshape(3, 2)}

    first, second = data._kept("some", make), data._kept("some", make)
    assert calls == [1]
    assert (first["train_x"] == second["train_x"]).all()
    assert [path.name for path in cache.iterdir()] == ["some.npz"]


def test_a_package_that_fails_to_unpack_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise DataError("broken")

    with pytest.raises(DataError):
        fetch._unpacked("some-1.0", fail)
    assert list((cache / "unpacked").iterdir()) == []
    folder = fetch._unpacked("some-1.0", lambda place: (place / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_command_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(DataError) as caught:
        fetch._run("no-such-tool")
    assert str(caught.value) == "benchmarks: needs no-such-tool; run the suite on Debian or Ubuntu"


def test_every_case_has_a_recipe_that_takes_what_it_changes() -> None:
    for case in cases.CASES.values():
        recipe = load_recipe(ROOT / "recipes" / f"{case.recipe}.yaml")
        assert case.changed.keys() <= {method for method, _ in recipe.steps()}


def test_a_record_of_a_file_that_is_gone_counts_for_nothing(cache: Path) -> None:
    artifact = Artifact("int8/model.onnx", "onnx", "0", 5, (), (), 20, 1, ())
    made = arms.Made("int8", artifact, Score("accuracy", 0.5, "fraction", True, (1.0, 0.0)), None, 1.0)
    arms.save("tep", made)
    assert arms.known("tep", "int8") is None
    file = arms.folder_of("tep") / "int8" / "model.onnx"
    file.parent.mkdir()
    file.touch()
    assert arms.known("tep", "int8") == made


def test_a_failure_is_known_as_one(cache: Path) -> None:
    arms.save("tep", arms.Made("NNCF", None, error="RuntimeError: no"))
    found = arms.known("tep", "NNCF")
    assert found is not None
    assert found.error == "RuntimeError: no"


def test_the_table_tells_of_each_model_and_of_the_best_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def against(ratio: float) -> dict[str, object]:
        return {"CPU time per inference": {"ratio": ratio, "ci95": [ratio * 0.99, ratio * 1.01], "verdict": "better"}}

    row = {"against PyTorch fp32": against(0.1), "against ONNX fp32": against(0.4), "score": 0.98}
    failed = {"error": "RuntimeError: no"}
    run = {
        "batch": 1,
        "arms": {
            "PyTorch fp32": {"score": 0.99},
            "ONNX fp32": {"score": 0.99, "against PyTorch fp32": against(0.5)},
            "int8": row,
            "mix": row,
            **dict.fromkeys(PEERS, failed),
            "NNCF": {**row, "score": 0.985},
        },
        "against_best_peer": {"within the margin": {"peer": "NNCF", "int8": against(0.5), "mix": against(0.25)}},
    }
    (tmp_path / "tep.json").write_text(json.dumps({"runs": [run]}))
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    table.main()
    printed = capsys.readouterr().out
    assert (
        "| `tep` | 2.00× faster [1.98, 2.02] against PyTorch; 99.00% | 2.50× faster [2.48, 2.53]; 98.00% |" in printed
    )
    assert "| 10.00× faster [9.90, 10.10], 90.0% less |" in printed
    assert (
        "| failed | failed | 2.50× faster [2.48, 2.53]; 98.50% | failed | 4.00× faster [3.96, 4.04], NNCF |" in printed
    )
