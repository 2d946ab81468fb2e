"""The training loop.

It runs through Hugging Face Accelerate: on one CPU as it is, on GPUs, several machines or in half precision as
``accelerate launch`` or Accelerate's environment variables say. Everything random is a function of the seed and the
step, so a run that was killed goes on from its last checkpoint to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor

from compressor import processes
from compressor.errors import MethodError
from compressor.passes.augment import augmenter
from compressor.passes.base import Context
from compressor.passes.checkpoint import (
    Checkpoint,
    Progress,
    fingerprint,
    flatten_optimizer,
    put_weights,
    restore_optimizer,
    weights_of,
)
from compressor.passes.training import Batch, Loss, Rows, Tick, Training, one_line_if_untrainable, set_training
from compressor.task.base import Examples

WARMUP = 0.1
"""Share of all steps over which the learning rate rises."""

TELL_EVERY = 0.5
"""Seconds between news of a run, at least."""

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped."""

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: scoring a model may take the first one hours; who has died is noticed at
once."""

T = TypeVar("T")

# What random numbers are for; each use has a stream of its own.
_SPLIT, _ORDER, _STEP = 0, 1, 2


def fit(
    module: torch.nn.Module,
    examples: Examples,
    loss: Loss,
    training: Training,
    context: Context,
    *,
    key: str = "",
    fixed_batch: int | None = None,
    keep_zeros: bool = False,
    on_progress: Callable[[Tick], None] | None = None,
) -> Progress:
    """Train a module in place.

    Gradients are clipped; the learning rate warms up linearly (Goyal et al. 2017) and falls by a cosine (Loshchilov
    and Hutter 2017); AdamW is Loshchilov and Hutter 2019's. The weights with the smallest validation loss are kept,
    those from before training among them.

    Args:
        module: The module; in eval mode, on the CPU and without gradients at the end. A graph from an exported program
            keeps its batch norms' statistics and leaves out dropout, as it was exported.
        examples: What to train on; the validation part is taken from them.
        loss: What to make small.
        training: How.
        context: Seed, threads, and the folder for checkpoints.
        key: What else decides the result, such as a teacher; a checkpoint of another key is not taken up.
        fixed_batch: The model's batch where that is fixed.
        keep_zeros: Whether weights of layers that are 0 stay so.
        on_progress: Called after every step and every validation.

    Returns:
        How it went.

    Raises:
        MethodError: There is nothing to train, too few examples, or the loss is not finite.
        OSError: A checkpoint cannot be written, for instance because the disk is full.
    """
    training = training.settled(module)
    weights = [p for p in module.parameters() if p.is_floating_point()]
    if not weights:
        raise MethodError(
            "the model has no weights to train",
            where=training.name,
            mend="save it so that its weights are parameters, not constants",
        )
    trained, held_out = _split(len(examples), training, context.seed, fixed_batch)
    checkpoint = None
    if context.workdir is not None:
        known = fingerprint(module, examples, asdict(training) | {"checkpoint_minutes": 0}, context.seed, key)
        checkpoint = Checkpoint(context.workdir / f"{training.name}-{known}.safetensors")
    with _alone(context.threads):
        accelerator = _accelerator()
        for weight in weights:
            weight.requires_grad_(True)
        optimizer: Any = (
            torch.optim.AdamW(weights, training.learning_rate or 0.0)
            if training.optimizer == "adamw"
            else torch.optim.SGD(weights, training.learning_rate or 0.0, momentum=0.9)
        )
        ready, optimizer = accelerator.prepare(module, optimizer)
        masks = [(weight, weight != 0) for weight in weights if keep_zeros and weight.ndim > 1]
        loop = module, ready, optimizer, accelerator, examples, loss, training, checkpoint
        run = _Run(*loop, context.seed, fixed_batch, masks)
        try:
            progress = run.go(trained, held_out, _telling(on_progress, context, training))
        finally:
            # Takes the wrapper of half precision off again, which would stay on the module's forward.
            accelerator.unwrap_model(ready, keep_fp32_wrapper=False)
            accelerator.free_memory()
            module.to("cpu").requires_grad_(False)
            set_training(module, False)
    return progress


@dataclass
class _Run:
    """One run of :func:`fit`."""

    module: torch.nn.Module
    ready: torch.nn.Module
    optimizer: Any
    accelerator: Accelerator
    examples: Examples
    loss: Loss
    training: Training
    checkpoint: Checkpoint | None
    seed: int
    fixed: int | None
    masks: Sequence[tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        training = self.training
        self.batch, self.rate = training.batch or 1, training.learning_rate or 0.0
        self.augment = augmenter(training.augment, [x.shape for x in self.examples.inputs], training.name)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def go(self, trained: Rows, held_out: Rows, tell: Callable[[Tick], None]) -> Progress:
        training, progress = self.training, self._resume()
        steps = len(_batches(trained, self.batch, self.fixed))
        if progress.best is None and len(held_out):
            progress.first = progress.best = self._validate(held_out, 0)
            self.best = weights_of(self.module)
        saved = time.monotonic()
        while not progress.finished:
            epoch = progress.epoch
            order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(trained)
            set_training(self.module, True)
            for step, rows in enumerate(_batches(order, self.batch, self.fixed)):
                if step < progress.step:
                    continue
                loss = self._step(rows, epoch, step, steps)
                progress.step = step + 1
                # The last step's is the checkpoint of the epoch, with its validation in it.
                if step + 1 < steps and time.monotonic() - saved >= 60 * training.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
                tell(Tick(epoch + 1, step + 1, steps, loss))
            progress.epoch, progress.step = epoch + 1, 0
            if len(held_out):
                found = self._validate(held_out, epoch + 1)
                progress.waited += 1
                if progress.best is None or found < progress.best:
                    progress.best, progress.best_epoch, progress.waited = found, epoch + 1, 0
                    self.best = weights_of(self.module)
            else:
                progress.best_epoch = epoch + 1
            progress.finished = progress.epoch == training.epochs or progress.waited == training.patience
            self._save()
            saved = time.monotonic()
            if len(held_out):
                tell(Tick(epoch + 1, steps, steps, found, validated=True))
        if self.best:
            put_weights(self.module, self.best)
        for buffer in self.module.buffers():  # batch norms have seen other examples in every process
            broadcast(buffer)
        return progress

    def _step(self, rows: Rows, epoch: int, step: int, steps: int) -> float:
        number, rank = epoch * steps + step, self.accelerator.process_index
        seed = int(np.random.SeedSequence([self.seed, _STEP, number, rank]).generate_state(1, np.uint32)[0])
        # Dropout, and what a module of the user's or of transformers draws from elsewhere.
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate(number, self.training.epochs * steps)
        batch = self._batch(rows)
        if self.augment is not None:
            generator = torch.Generator(self.accelerator.device).manual_seed(seed)
            batch = replace(batch, inputs=self.augment(batch.inputs, generator))
        self.optimizer.zero_grad()
        with one_line_if_untrainable(self.training.name):
            loss = self.loss(self.ready(*batch.inputs), batch)
        # Over all processes: one alone that finds its part not finite would leave the others waiting.
        value = float(self.accelerator.reduce(loss.detach(), "mean"))
        self._check(value, f"in epoch {epoch + 1}, step {step + 1} of {steps}")
        with one_line_if_untrainable(self.training.name):
            self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.module.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        for weight, stays in self.masks:
            weight.data.mul_(stays)
        return value

    def _validate(self, rows: Rows, epoch: int) -> float:
        set_training(self.module, False)
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for part in _batches(rows, self.batch, self.fixed):
                batch = self._batch(part)
                loss = self.loss(self.ready(*batch.inputs), batch)
                total += torch.tensor([float(loss) * len(batch.rows), len(batch.rows)], dtype=torch.float64)
        found = self.accelerator.reduce(total.to(self.accelerator.device), "sum")
        value = float(found[0] / found[1])
        self._check(value, f"on the validation part after epoch {epoch}" if epoch else "before training")
        return value

    def _check(self, loss: float, when: str) -> None:
        if not math.isfinite(loss):
            raise MethodError(
                f"the loss is {loss} {when}",
                where=self.training.name,
                mend="give a smaller learning_rate, and check the data for NaN",
            )

    def _batch(self, rows: Rows) -> Batch:
        """The part of a batch that is this process's; all of it where it cannot be cut."""
        accelerator = self.accelerator
        whole = self.fixed or len(rows) < accelerator.num_processes
        mine = rows if whole else np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
        inputs = (torch.from_numpy(np.ascontiguousarray(x[mine])) for x in self.examples.inputs)
        return Batch(tuple(x.to(accelerator.device) for x in inputs), mine)

    def _save(self) -> None:
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        if self.accelerator.scaler is not None:
            self.progress.scaler = dict(self.accelerator.scaler.state_dict())
        if self.progress.finished:
            kept = {"module": self.best or weights_of(self.module)}
        else:
            optimizer = flatten_optimizer(self.optimizer.state_dict())
            kept = {"module": weights_of(self.module), "best": self.best, "optimizer": optimizer}
        self.checkpoint.save(
            self.progress, {f"{part}:{name}": value for part, all_ in kept.items() for name, value in all_.items()}
        )

    def _resume(self) -> Progress:
        found = self.checkpoint.load() if self.checkpoint is not None and self.accelerator.is_main_process else None
        # One process tells all: machines may share no disk.
        (found,) = broadcast_object_list([found])
        if found is not None:
            self.progress, tensors = found
            parts: dict[str, dict[str, Tensor]] = {"module": {}, "best": {}, "optimizer": {}}
            for name, value in tensors.items():
                part, _, rest = name.partition(":")
                parts[part][rest] = value
            put_weights(self.module, parts["module"])
            self.best = parts["best"]
            restore_optimizer(self.optimizer, parts["optimizer"])
            if self.progress.scaler and self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(self.progress.scaler)
        return self.progress


def rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: up linearly over :data:`WARMUP`, then down to 0 by half a cosine."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _telling(
    on_progress: Callable[[Tick], None] | None, context: Context, training: Training
) -> Callable[[Tick], None]:
    """Tell the caller of every step, and whoever listens to the run how long it will take, now and then."""
    start, first, last = time.monotonic(), -1, -math.inf

    def tell(tick: Tick) -> None:
        nonlocal first, last
        if on_progress is not None:
            on_progress(tick)
        now = time.monotonic()
        done = (tick.epoch - 1) * tick.steps + tick.step
        if first < 0:
            first = done - 1  # a run that goes on from a checkpoint has not done the steps before it
        if context.on_progress is not None and (now - last >= TELL_EVERY or tick.validated):
            last = now
            spent = now - start
            kind = "validation loss" if tick.validated else "loss"
            context.on_progress(
                spent,
                spent * (training.epochs * tick.steps - first) / max(1, done - first),
                f"{training.name}: epoch {tick.epoch} of {training.epochs}, {kind} {tick.loss:.3g}",
            )

    return tell


def _split(count: int, training: Training, seed: int, fixed: int | None) -> tuple[Rows, Rows]:
    """Rows to train on, and rows to validate on."""
    order = np.random.default_rng([seed, _SPLIT]).permutation(count)
    least = fixed or 1
    held_out = max(least, round(training.validation * count)) if training.validation else 0
    if count - held_out < least:
        raise MethodError(
            f"{count} training examples are too few to train on and validate",
            where=training.name,
            mend="give more, or set validation to 0",
        )
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _batches(rows: Rows, batch: int, fixed: int | None) -> list[Rows]:
    """Cut into steps: of one size give or take one, so that none is too small for batch norm; or of a fixed size."""
    if fixed:
        return [rows[i : i + fixed] for i in range(0, len(rows) - fixed + 1, fixed)]
    return np.array_split(rows, -(-len(rows) // batch))


@contextmanager
def one_process_first(threads: int) -> Iterator[None]:
    """Let one process of each machine go first, for instance to write what the others will read.

    Args:
        threads: How many it may keep busy.
    """
    with _alone(threads), _accelerator().local_main_process_first():
        yield


def from_first(value: T) -> T:
    """What the first process has, in all that train together; all of them have to ask.

    Args:
        value: What this process has; only the first one's matters.
    """
    if processes.count() == 1:
        return value
    with _alone(torch.get_num_threads()):
        _accelerator()
        (found,) = broadcast_object_list([value])
    return cast(T, found)


def leave() -> None:
    """End what connects the processes that train together: this one is alone from now on."""
    _accelerator().end_training()
    AcceleratorState._reset_state(reset_partial_state=True)
    processes.part()


def _accelerator() -> Accelerator:
    """Accelerate's view of all processes; whoever asks first decides for all, so everybody asks here.

    (Its ``PartialState``, made before any ``Accelerator``, takes processes on CPUs for runs of their own.)
    """
    # A model may have outputs that the loss does not use.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=PATIENCE)]
    # Processes on CPUs are taken for runs of their own unless one says so.
    return Accelerator(cpu=processes.count() > 1 and not torch.accelerator.is_available(), kwargs_handlers=handlers)


@contextmanager
def _alone(threads: int) -> Iterator[None]:
    """Use so many threads, and leave everybody's random numbers and torch's threads as they were."""
    before, others = torch.get_num_threads(), (np.random.get_state(), random.getstate())
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), warnings.catch_warnings():
            # Accelerate warns of settings of this process that are the user's own choice (threads, precision).
            warnings.filterwarnings("ignore", module="accelerate")
            yield
    finally:
        torch.set_num_threads(before)
        np.random.set_state(others[0])
        random.setstate(others[1])
