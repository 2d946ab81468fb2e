"""Causal language models side by side: what ``compress bench --prompt-tokens`` measures, per token.

A model is a Hugging Face folder (one that ``compress stream`` wrote, too), which PyTorch runs where it is, or an ONNX
file with its ``config.json`` and tokenizer beside it. Every plan becomes two: prefill and decode.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compressor.benchmark.runner import Arm
from compressor.errors import DataError, RecipeError
from compressor.export import describe_onnx
from compressor.model import hf_folder
from compressor.model.base import Arrays
from compressor.results import Artifact, Plan, Score, TaskSummary, Workload
from compressor.runtimes.base import Session
from compressor.runtimes.batching import unique
from compressor.runtimes.decoding import Decoder, open_language_model
from compressor.task.language import AGREEMENT, TextTask, open_text

PROMPTS = 8
"""Prompts that every arm goes round; more if a batch is larger."""

PROMPT_TOKENS, NEW_TOKENS = 128, 32
TEST_WINDOWS = 64
"""Windows of text that are scored, unless asked for otherwise: a large model takes seconds for each."""


@dataclass(frozen=True)
class LanguageModels:
    """Models ready to be measured.

    Attributes:
        arms: One per file, the first the baseline, scored where there is text.
        prompts: Token numbers, ``(N, prompt_tokens)``.
        task: What they were scored on.
        notes: What was done to the text.
    """

    arms: tuple[Arm, ...]
    prompts: Arrays
    task: TaskSummary
    notes: tuple[str, ...]


def workloads(plans: Sequence[Plan], prompt_tokens: int | None, new_tokens: int | None) -> list[Plan]:
    """Each plan twice: for prefill and for decode.

    Raises:
        RecipeError: A number is below 1.
    """
    prompt, new = prompt_tokens or PROMPT_TOKENS, new_tokens or NEW_TOKENS
    for option, given in (("--prompt-tokens", prompt_tokens), ("--new-tokens", new_tokens)):
        if given is not None and given < 1:
            raise RecipeError(f"must be at least 1, not {given}", where=option)
    return [
        replace(plan, workload=work)
        for plan in plans
        for work in (Workload("prefill", prompt, new), Workload("decode", prompt, new))
    ]


def open_models(
    files: Sequence[Path],
    runtimes: Sequence[str | None],
    plans: Sequence[Plan],
    *,
    data: str | None,
    metric: str | None,
    seed: int,
    device: str = "cpu",
    windows: int = TEST_WINDOWS,
) -> LanguageModels:
    """Load and score each model once, and make the prompts.

    Args:
        files: Folders and ONNX files; the first is the baseline.
        runtimes: One per file, ``None`` for the usual one.
        plans: With workloads; they share prompt and new tokens.
        data: A text file, for the score and the prompts; ``None`` for random prompts and no score.
        metric: ``perplexity`` or ``agreement``.
        seed: Of the prompts.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        windows: Windows of text that are scored at most.

    Raises:
        CompressorError: A file is no causal language model, or the text cannot be read.
    """
    work = plans[0].workload
    if work is None:
        raise RecipeError("no plan has a workload", where="bench")
    if data is None and metric is not None:
        raise DataError("needs data", where="--metric", mend="give --data with a text file")
    arms: list[Arm] = []
    task: TextTask | None = None
    vocabulary = 0
    for file, runtime in zip(files, runtimes, strict=True):
        folder = _check(file)
        config = hf_folder.read_config(folder)
        _check_context(config, work, folder)
        session = open_language_model(file, runtime, threads=os.cpu_count() or 1, device=device)
        try:
            Decoder(session)
        except DataError as error:
            raise DataError(error.what, where=file, mend=error.mend) from error
        if not arms:
            vocabulary = hf_folder.vocabulary(config)
        if data is not None:
            if task is None:
                task = open_text(Path(data), folder, inputs=session.inputs, metric=metric, test_limit=windows)
                task = task.with_original(session.predict) if task.summary.metric == AGREEMENT else task
            task = replace(task, inputs=session.inputs)
        name = _unique(file, [arm.name for arm in arms])
        artifact, path = _artifact(file, session), file.resolve()
        score: Score | None = None if task is None else task.evaluate(session.predict)
        role: Any = "candidate" if arms else "baseline"
        arms.append(Arm(name, role, artifact, path, runtime, session.kernels(), score, device))
    count = max(PROMPTS, *(plan.batch for plan in plans))
    if task is None:
        drawn = np.random.default_rng(seed).integers(0, vocabulary, (count, work.prompt_tokens))
        return LanguageModels(tuple(arms), (drawn,), TaskSummary("random tokens", "none", True, 0, count), ())
    text = task.test_windows[:, -task.scored :].reshape(-1)
    prompts = np.resize(text, (count, work.prompt_tokens))
    return LanguageModels(tuple(arms), (prompts,), task.summary, task.notes)


def _check(file: Path) -> Path:
    """The folder that holds a model's configuration."""
    if file.is_dir():
        hf_folder.screen(file)
        return file
    from compressor.model.base import OnnxModel
    from compressor.model.load import load_model

    if not isinstance(load_model(file), OnnxModel):
        raise DataError(
            "generates no text here",
            where=file,
            mend="with --prompt-tokens name Hugging Face folders and ONNX files with a cache",
        )
    return file.parent


def _check_context(config: Mapping[str, Any], work: Workload, folder: Path) -> None:
    longest = hf_folder.longest(config)
    wanted = work.prompt_tokens + work.new_tokens
    if longest is not None and wanted > longest:
        raise RecipeError(
            f"{wanted} tokens are more than the model's context of {longest}",
            where=folder,
            mend="give fewer --prompt-tokens or --new-tokens",
        )


def _artifact(file: Path, session: Session) -> Artifact:
    if file.is_dir():
        sha256, size = hf_folder.fingerprint(hf_folder.screen(file))
        return Artifact(str(file), "safetensors", sha256, size, session.inputs, session.outputs, None, None, ())
    return replace(describe_onnx(file, ()), path=str(file))


def _unique(file: Path, taken: Sequence[str]) -> str:
    """The folder's name, or the file's with its folder; numbered where it is taken."""
    resolved = file.resolve()
    return unique(resolved.name if file.is_dir() else f"{resolved.parent.name}/{resolved.name}", taken)
