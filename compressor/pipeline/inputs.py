"""What the user gave a run: the model and the data, each loaded once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from compressor.errors import MethodError
from compressor.pipeline.job import Job
from compressor.pipeline.stages import Made
from compressor.results import Artifact, TensorSpec
from compressor.task.base import Task

if TYPE_CHECKING:
    from compressor.model.base import OnnxModel, TorchModel
    from compressor.task.text import Reading


class Inputs:
    """The model and the data of one run.

    Args:
        job: What is asked for; its model is a path that exists.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._task: Task | None = None
        self._original: TorchModel | OnnxModel | None = None

    def model(self) -> TorchModel | OnnxModel:
        """The user's model; data that do not fit it are told at once.

        Raises:
            CompressorError: The model or the data cannot serve.
        """
        from compressor.model.identify import identify
        from compressor.model.load import load_model

        job, example = self._job, None
        if self._original is None:
            if job.data is not None and not identify(job.model).has_signature and job.input_shapes is None:
                self._task = self._open(None)
                example = tuple(x[:2] for x in self._task.test().inputs)
            self._original = load_model(
                job.model,
                arch=job.arch,
                example=example,
                input_shapes=job.input_shapes,
                allow_pickle=job.allow_pickle,
                hf_task=job.hf_task,
                trust_remote_code=job.trust_remote_code,
            )
            outputs = self._outputs(self._original)
            if job.data is not None:
                self._task = self._open(self._original.inputs, outputs)
        return self._original

    def _outputs(self, model: TorchModel | OnnxModel) -> tuple[TensorSpec, ...]:
        """What the model returns, so that what does not fit it is told before minutes of work."""
        from compressor.model.base import OnnxModel
        from compressor.model.signature import outputs_of
        from compressor.task.open import scoring_for

        if scoring_for(self._reading(), model.inputs) is not None:
            return ()  # not the output itself is scored
        return model.outputs if isinstance(model, OnnxModel) else outputs_of(model)

    def torch_model(self, folder: Path, chain: Sequence[Made]) -> TorchModel:
        """What a method on the PyTorch model gets: the user's, no ONNX file by now, or what the method before made.

        Raises:
            MethodError: The method before left no PyTorch model.
        """
        from compressor.model.base import OnnxModel
        from compressor.model.load import load_model

        original = cast("TorchModel", self.model())
        if not chain or chain[-1].program is None:
            return original
        program = folder / chain[-1].program
        if program.suffix == ".safetensors":
            made = load_model(program.parent, hf_task=self._hf_task(), trust_remote_code=self._job.trust_remote_code)
        else:
            made = load_model(program)
        if isinstance(made, OnnxModel):
            raise MethodError("did not leave a PyTorch model", where=chain[-1].arm)
        return replace(made, name=original.name, steps=chain[-1].artifact.steps, summary=original.summary)

    def task(self, folder: Path, artifacts: Mapping[str, Artifact]) -> Task:
        """The data, opened if this run has not opened them yet; without labels the original model is the reference.

        Args:
            folder: The run folder.
            artifacts: The baselines; the first is the reference.
        """
        from compressor.model.hf_folder import limits
        from compressor.runtimes.registry import open_session
        from compressor.task.open import scoring_for
        from compressor.task.synthetic import synthetic_task, with_reference

        job, first = self._job, next(iter(artifacts.values()))
        if self._task is None and job.data is not None:
            self._task = self._open(first.inputs)
        if self._task is None or self._task.test().targets is None:
            reference = open_session(folder / first.path, threads=os.cpu_count() or 1).predict
            if self._task is None:
                reading = self._reading()
                self._task = synthetic_task(
                    first.inputs,
                    reference,
                    seed=job.seed,
                    limits=None if reading is None else limits(reading.folder, reading.max_length),
                    scoring=scoring_for(reading, first.inputs),
                )
            else:
                self._task = with_reference(self._task, reference)
        return self._task

    def _hf_task(self) -> str | None:
        reading = self._reading()
        return None if reading is None else reading.task

    def _open(self, inputs: tuple[TensorSpec, ...] | None, outputs: tuple[TensorSpec, ...] = ()) -> Task:
        from compressor.task.open import open_task

        job = self._job
        return open_task(
            job.data or "",
            metric=job.metric,
            inputs=inputs,
            outputs=outputs,
            target=job.target,
            seed=job.seed,
            reading=self._reading(),
        )

    def _reading(self) -> Reading | None:
        """How a Hugging Face model reads its data; ``None`` for another model."""
        from compressor.task.open import reading_for

        job = self._job
        return reading_for(job.model, hf_task=job.hf_task, text=job.text, target=job.target, max_length=job.max_length)
