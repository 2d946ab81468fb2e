"""Causal language models side by side, on tiny ones; the windows are too short for a figure, so none is looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from decoders import TEXT, save_llama

from compressor import onnx_file
from compressor.bench import BenchJob, run_bench
from compressor.benchmark import plan, runner
from compressor.benchmark.plan import make_plan, units_per_call
from compressor.cli import cli
from compressor.console import print_bench
from compressor.errors import CompressorError, DataError, RecipeError
from compressor.export_hf import write_onnx
from compressor.generation import open_models, workloads
from compressor.model.hf_folder import copy_companions
from compressor.model.hf_load import load_folder
from compressor.passes.base import Context
from compressor.passes.registry import make_pass
from compressor.results import BenchRecord, Workload
from compressor.runtimes.decoding import Decoder, open_language_model
from compressor.store.records import dump_report, load_measured
from compressor.streaming.write import StreamJob, stream
from compressor.task.language import open_text
from compressor.task.open import open_task, reading_for


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def onnx(llama: Path) -> Path:
    """The same model as ONNX with its cache, tokenizer and config beside it."""
    folder = llama.parent / "llama-onnx"
    folder.mkdir()
    write_onnx(load_folder(llama), folder / "model.onnx", 18)
    copy_companions(llama, folder)
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def int4(llama: Path) -> Path:
    return stream(StreamJob(llama, block_size=32, out=llama.parent / "llama-int4")).folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny products on several threads of a shared machine mostly wait for each other."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


class TestModels:
    def test_folders_and_files_are_scored_alike(self, llama: Path, onnx: Path, int4: Path, text: Path) -> None:
        plans = workloads([make_plan("quick")], 16, 4)
        found = open_models((llama, onnx, int4), (None,) * 3, plans, data=str(text), metric=None, seed=0)
        assert [arm.name for arm in found.arms] == ["llama", "llama-onnx/model.onnx", "llama-int4"]
        assert [arm.role for arm in found.arms] == ["baseline", "candidate", "candidate"]
        scores = [arm.score.value for arm in found.arms if arm.score is not None]
        assert scores[1] == pytest.approx(scores[0], rel=1e-4)
        assert scores[2] != pytest.approx(scores[0], rel=1e-4)
        assert scores[2] == pytest.approx(scores[0], rel=0.1)
        assert found.arms[2].artifact.size_bytes < found.arms[0].artifact.size_bytes
        assert found.prompts[0].shape == (8, 16)
        assert found.task.metric == "perplexity"
        written = bytes(found.prompts[0].astype(np.uint8).reshape(-1)[:16])
        assert len(set(written)) > 4  # tokens of the text, not drawn

    def test_agreement_is_with_the_first(self, llama: Path, int4: Path, text: Path) -> None:
        plans = workloads([make_plan("quick")], 16, 4)
        found = open_models((llama, int4), (None, None), plans, data=str(text), metric="agreement", seed=0)
        scores = [arm.score.value for arm in found.arms if arm.score is not None]
        assert scores[0] == 1
        assert 0.5 < scores[1] < 1

    def test_torch_and_onnx_generate_the_same(self, llama: Path, onnx: Path) -> None:
        prompt = np.arange(24).reshape(2, 12) * 5
        one, two = (Decoder(open_language_model(path)).generate(prompt, 5).tolist() for path in (llama, onnx))
        assert one == two

    def test_int4_with_its_weights_in_a_second_file(
        self, onnx: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What happens above 1.8 GB, at a limit of 1 kB."""
        monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 1000)
        session = open_language_model(onnx)
        task = open_text(text, onnx.parent, inputs=session.inputs)
        make_pass("int4").apply(onnx, tmp_path / "model.onnx", Context(task))
        assert (tmp_path / "model.onnx.data").stat().st_size > (tmp_path / "model.onnx").stat().st_size
        quantized = open_language_model(tmp_path / "model.onnx")
        kernels = quantized.kernels()
        assert kernels is not None
        assert (kernels.low_precision, kernels.precision) == (15, "int4")
        before, after = (task.evaluate(one.predict).value for one in (session, quantized))
        assert after == pytest.approx(before, rel=0.1)
        assert Decoder(quantized).generate(np.arange(6)[None], 3).shape == (1, 3)

    def test_plain_text_is_data_of_the_main_job(self, llama: Path, text: Path) -> None:
        reading = reading_for(llama, hf_task=None, text=None, target=None, max_length=None)
        task = open_task(str(text), inputs=open_language_model(llama).inputs, reading=reading)
        assert task.summary.metric == "perplexity"
        assert len(task.calibration().inputs) == len(task.test().inputs) > 3

    def test_more_tokens_than_the_context(self, llama: Path) -> None:
        plans = workloads([make_plan("quick")], 500, 20)
        with pytest.raises(RecipeError, match="520 tokens are more than the model's context of 512; give fewer"):
            open_models((llama,), (None,), plans, data=None, metric=None, seed=0)

    def test_files_that_generate_nothing(self, onnx: Path, chain: Path) -> None:
        plans = workloads([make_plan("quick")], 16, 4)
        (chain.parent / "config.json").write_text((onnx.parent / "config.json").read_text())
        with pytest.raises(DataError, match=r"chain.onnx: generates no text: it lacks input_ids"):
            open_models((chain,), (None,), plans, data=None, metric=None, seed=0)

    def test_a_metric_without_text(self, llama: Path) -> None:
        with pytest.raises(DataError, match="--metric: needs data; give --data with a text file"):
            open_models((llama,), (None,), workloads([make_plan("quick")], 16, 4), data=None, metric="x", seed=0)


class TestPlans:
    @pytest.mark.parametrize(("option", "given"), [("hf_task", "fill-mask"), ("trust_remote_code", True)])
    def test_options_that_would_be_ignored(self, llama: Path, option: str, given: Any) -> None:
        with pytest.raises(RecipeError, match=r"does not go with --prompt-tokens and --new-tokens; leave it out"):
            run_bench(BenchJob((llama,), prompt_tokens=4, **{option: given}))

    def test_prefill_and_decode_are_apart(self) -> None:
        one, two = workloads([make_plan("quick", batch=3)], 16, None)
        assert (one.workload, two.workload) == (Workload("prefill", 16, 32), Workload("decode", 16, 32))
        assert (units_per_call(one), units_per_call(two)) == (48, 96)
        assert units_per_call(make_plan("quick", batch=3)) == 3

    @pytest.mark.parametrize(("prompt", "new", "option"), [(0, None, "--prompt-tokens"), (None, -1, "--new-tokens")])
    def test_numbers_below_1(self, prompt: int | None, new: int | None, option: str) -> None:
        with pytest.raises(RecipeError, match=f"{option}: must be at least 1, not"):
            workloads([make_plan("quick")], prompt, new)


@pytest.fixture(scope="module")
def record(onnx: Path) -> Iterator[BenchRecord]:
    """One short block of each phase."""
    presets, limit = dict(plan.PRESETS), runner.FOREIGN_LOAD_LIMIT
    runner.FOREIGN_LOAD_LIMIT = 2.0
    short = {"blocks": 1, "window_s": 0.03, "idle_s": 0.0, "warmup_limit_s": 0.1}
    plan.PRESETS["quick"] = replace(plan.PRESETS["quick"], **short)
    yield run_bench(BenchJob((onnx,), preset="quick", meters=("cpu-time",), prompt_tokens=16, new_tokens=4))
    plan.PRESETS.update(presets)
    runner.FOREIGN_LOAD_LIMIT = limit


class TestBench:
    def test_counts_tokens(self, record: BenchRecord) -> None:
        works = [run.measurements[0].plan.workload for run in record.runs]
        assert works == [Workload("prefill", 16, 4), Workload("decode", 16, 4)]
        for run, tokens in zip(record.runs, (16, 4), strict=True):
            for measurement in run.measurements:
                assert measurement.trials[0].inferences % tokens == 0
                assert measurement.latency is not None
                calls = measurement.trials[0].inferences // tokens
                assert calls == measurement.latency.calls
        assert record.task.metric == "none"

    def test_the_record_round_trips(self, record: BenchRecord, tmp_path: Path) -> None:
        (tmp_path / "b.json").write_text(dump_report(record))
        assert load_measured(tmp_path / "b.json") == record

    def test_prints_tokens(self, record: BenchRecord, capsys: pytest.CaptureFixture[str]) -> None:
        print_bench(record)
        printed = capsys.readouterr().out
        assert "prefill of 16 tokens, batch 1, 1 thread, per token" in printed
        assert "decode of 4 tokens behind 16, batch 1, 1 thread, per token" in printed
        assert "per inference" not in printed


class TestCommand:
    def test_stream_and_score(self, llama: Path, text: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        given = ["stream", str(llama), "--bits", "8", "--max-shard", "0.05MB", "--out", str(out), "--data", str(text)]
        found = CliRunner().invoke(cli, [*given, "--json"], catch_exceptions=False)
        answer = json.loads(found.stdout)
        assert len(answer["files"]) > 1
        assert answer["scores"]["agreement"]["value"] > 0.9
        delta = answer["scores"]["perplexity"]
        assert delta["candidate"] == pytest.approx(delta["baseline"], rel=0.05)
        printed = CliRunner().invoke(cli, [*given, "--overwrite"], catch_exceptions=False).stdout
        assert "14 of 21 tensors are quantized" in printed
        assert "perplexity " in printed
        assert "next-token agreement " in printed

    @pytest.mark.parametrize("size", ["2XB", "x", "-1"])
    def test_sizes_that_are_none(self, llama: Path, size: str) -> None:
        found = CliRunner().invoke(cli, ["stream", str(llama), "--max-shard", size])
        assert f"'{size}' is not a size such as 2GB or 500MB" in found.output

    def test_a_text_that_is_not_there_is_told_first(self, llama: Path, tmp_path: Path) -> None:
        with pytest.raises(CompressorError, match="there is no such file"):
            CliRunner().invoke(
                cli,
                ["stream", str(llama), "--out", str(tmp_path / "out"), "--data", "absent.txt"],
                catch_exceptions=False,
            )
        assert not (tmp_path / "out").exists()

    def test_an_original_too_large_to_score(
        self, llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import psutil

        memory = psutil.virtual_memory()
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1000))
        with pytest.raises(CompressorError, match="cannot be scored here: in float32 it needs"):
            CliRunner().invoke(
                cli,
                ["stream", str(llama), "--out", str(tmp_path / "out"), "--data", str(text)],
                catch_exceptions=False,
            )
