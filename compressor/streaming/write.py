"""Writing a quantized checkpoint: one tensor at a time, in blocks of rows, marked as it is finished."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import CompressorError, MethodError, ModelError, RecipeError
from compressor.model.checkpoint import StoredTensor, open_checkpoint, read_into, read_rows
from compressor.model.hf_folder import CONFIG, INDEX, copy_companions, folder_name, resolve, screen
from compressor.model.packing import Format, is_ours, quantize
from compressor.rules import parse_rules
from compressor.store.runfolder import RunFolder, open_run, write_beside
from compressor.streaming.layout import Piece, Shard, index_of, plan_pieces, plan_shards

SHARD_BYTES = 2 * 10**9
"""Most bytes of tensors in one file, unless asked for otherwise."""

BLOCK_WEIGHTS = 2**20
"""Weights that are quantized at once: a few arrays of 4 MB each, whatever the tensor's size."""

COPY_BYTES = 2**22
SPACE_BYTES = 64 * 2**20
"""Room to leave on the disk beside the weights: tokenizer, index, marks."""

Progress = Callable[[float, float, str], None]
"""Called with the bytes read, all bytes to read, and the tensor."""


@dataclass(frozen=True)
class StreamJob:
    """What is asked for; the fields are the command line's options.

    Attributes:
        model: Folder of the checkpoint, or its name on the hub.
        bits: 4 or 8.
        block_size: Weights per scale at 4 bits; ``None`` for 64. At 8 bits there is one scale per output.
        symmetric: Whether blocks of 4 bits have no zero points.
        rules: Lines as :mod:`compressor.rules` reads them, in front of the one that leaves the output head alone.
        shard_bytes: Most bytes of tensors in one file.
        out: Folder to write; ``None`` for ``compressed/NAME-int4``.
        overwrite: Start over, and replace what is there.
    """

    model: Path
    bits: int = 4
    block_size: int | None = None
    symmetric: bool = False
    rules: tuple[str, ...] = ()
    shard_bytes: int = SHARD_BYTES
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Streamed:
    """What was written.

    Attributes:
        folder: Where it is.
        files: The files that hold weights.
        size_bytes: Their bytes.
        original_bytes: The source's.
        resumed: Tensors that an earlier run had finished.
        tensors: All tensors of the source that were taken over.
        elapsed_s: Wall-clock time of this run.
        notes: What was done and what left alone.
    """

    folder: Path
    files: tuple[str, ...]
    size_bytes: int
    original_bytes: int
    resumed: int
    tensors: int
    elapsed_s: float
    notes: tuple[str, ...]


def stream(job: StreamJob, on_progress: Progress | None = None) -> Streamed:
    """Quantize the weights of a checkpoint that may be larger than memory.

    Memory holds one block of rows of one tensor at a time, whatever the checkpoint's size; of a layer that is stored
    transposed, one tensor. What is written depends on the checkpoint and the settings alone, byte by byte: a run that
    was killed goes on with the tensor it was at.

    Args:
        job: What is asked for.
        on_progress: Told how far it is.

    Returns:
        What was written.

    Raises:
        CompressorError: Anything in the input that the user can mend; see its subclasses.
    """
    started = time.perf_counter()
    block_size = 64 if job.block_size is None and job.bits == 4 else job.block_size
    form = Format(job.bits, block_size, job.symmetric or job.bits == 8)
    rules = parse_rules(job.rules)
    if job.shard_bytes < 1:
        raise RecipeError(f"must be above 0, not {job.shard_bytes}", where="--max-shard")
    folder = resolve(job.model)
    screened = screen(folder)
    if is_ours(screened.config):
        raise ModelError(
            "is quantized already, by this tool", where=folder, mend="give the model that it was made from"
        )
    stored = open_checkpoint(folder)
    from compressor.model.quantized import empty_model

    pieces, notes = plan_pieces(empty_model(folder), stored, form, rules, folder)
    shards = plan_shards(pieces, job.shard_bytes)
    out = job.out or Path("compressed") / f"{folder_name(folder)}-int{job.bits}"
    with open_run(out, _fingerprint(job, form, stored.values()), overwrite=job.overwrite, proof=INDEX) as run:
        resumed = _write_all(run, shards, form, on_progress)
        config = {**screened.config, "quantization_config": form.config()}
        write_beside(run.path / CONFIG, json.dumps(config, indent=2) + "\n")
        copy_companions(folder, run.path)
        write_beside(run.path / INDEX, json.dumps(index_of(shards), indent=2) + "\n")
        final = run.finish()
    return Streamed(
        folder=final,
        files=tuple(shard.file for shard in shards),
        size_bytes=sum(shard.size_bytes for shard in shards),
        original_bytes=sum(file.stat().st_size for file in {tensor.file for tensor in stored.values()}),
        resumed=resumed,
        tensors=len(pieces),
        elapsed_s=time.perf_counter() - started,
        notes=notes,
    )


def _fingerprint(job: StreamJob, form: Format, stored: Any) -> dict[str, object]:
    """All that decides the bytes of the result."""
    files = {tensor.file for tensor in stored}
    stats = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    return {
        "files": {name: list(stats[name]) for name in sorted(stats)},
        "format": form.config(),
        "rules": list(job.rules),
        "shard_bytes": job.shard_bytes,
        "version": version("compressor"),
    }


# --- writing -------------------------------------------------------------------------------------------------------


def _write_all(run: RunFolder, shards: Sequence[Shard], form: Format, tell: Progress | None) -> int:
    """Write every piece that is not finished yet; returns how many were."""
    missing = [shard for shard in shards if not _is_whole(run.path / shard.file, shard)]
    # A file that is there already has its bytes, or at least its length: only what is to come needs room.
    lacking = {shard.file for shard in missing}
    todo = sum(
        piece.size_bytes
        for shard in shards
        for piece in shard.pieces
        if shard.file in lacking or run.finished(piece.name) is None
    )
    run.require_space(todo + SPACE_BYTES)
    total = sum(piece.source.size_bytes for shard in shards for piece in shard.pieces)
    done = resumed = 0
    for shard in shards:
        path = run.path / shard.file
        fresh = shard.file in lacking
        if fresh:
            _begin(path, shard)
        with path.open("r+b", buffering=0) as file:
            for piece in shard.pieces:
                if not fresh and run.finished(piece.name) is not None:
                    resumed += 1
                else:
                    if tell:
                        tell(done, total, piece.name)
                    _write(file.fileno(), piece, shard, form)
                    # On the disk before it is called finished: a mark must survive nothing that the bytes do not.
                    os.fsync(file.fileno())
                    run.mark(piece.name, {"file": shard.file})
                done += piece.source.size_bytes
    if tell:
        tell(total, total, "written")
    return resumed


def _is_whole(path: Path, shard: Shard) -> bool:
    """Whether a file of an earlier run has its length and this very header."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size == shard.size_bytes and file.read(len(shard.header)) == shard.header
    except FileNotFoundError:
        return False


def _begin(path: Path, shard: Shard) -> None:
    """Give a file its header and its length; the tensors' bytes are still holes."""
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.write(shard.header)
        file.truncate(shard.size_bytes)
        os.fsync(file.fileno())
    beside.replace(path)


def _write(file: int, piece: Piece, shard: Shard, form: Format) -> None:
    """Write one piece to its places."""
    if not piece.quantized:
        _copy(file, piece.source, shard.offsets[piece.name])
        return
    begins = [shard.offsets[name] for name in piece.part_names]
    for rows in _row_blocks(piece):
        try:
            arrays = quantize(rows, form)
        except MethodError as error:
            raise MethodError(error.what, where=f"{piece.source.file}: {piece.source.name}", mend=error.mend) from error
        for index, array in enumerate(arrays):
            _write_at(file, begins[index], np.ascontiguousarray(array).data)
            begins[index] += array.nbytes


def _row_blocks(piece: Piece) -> Iterator[NDArray[np.float32]]:
    """The matrix ``(outputs, inputs)``, some rows at a time."""
    outputs, inputs = reversed(piece.source.shape) if piece.transposed else piece.source.shape
    step = max(1, BLOCK_WEIGHTS // max(1, inputs))
    # Its rows are the columns of what is stored, so there is no reading them apart.
    whole = read_rows(piece.source, 0, inputs) if piece.transposed else None
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        yield (read_rows(piece.source, start, stop) if whole is None else np.ascontiguousarray(whole[:, start:stop].T))


def _copy(file: int, source: StoredTensor, offset: int) -> None:
    buffer = memoryview(bytearray(min(COPY_BYTES, source.size_bytes)))
    for start in range(0, source.size_bytes, COPY_BYTES):
        piece = buffer[: min(COPY_BYTES, source.size_bytes - start)]
        read_into(source, start, piece)
        _write_at(file, offset + start, piece)


def _write_at(file: int, offset: int, data: memoryview) -> None:
    data = data.cast("B") if data.nbytes else data
    done = 0
    while done < data.nbytes:
        done += os.pwrite(file, data[done:], offset + done)


def sha256_of_weights(folder: Path) -> str:
    """One digest over all safetensors files of a folder, in name order.

    Raises:
        CompressorError: There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CompressorError("holds no safetensors file", where=folder)
    digest = sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(COPY_BYTES):
                digest.update(block)
    return digest.hexdigest()
