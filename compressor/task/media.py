"""Pictures and sound as a transformer reads them: through the processor that its folder holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import CompressorError, DataError
from compressor.model.hf_load import quiet_transformers
from compressor.model.signature import one_line
from compressor.results import TensorSpec
from compressor.task.base import Examples
from compressor.task.labels import class_names, class_numbers
from compressor.task.parts import Parts
from compressor.task.pictures import SUFFIXES as PICTURES
from compressor.task.pictures import class_folders, in_mode, open_picture

SOUNDS = frozenset({".wav"})
LONGEST_S = 30
"""Longer clips are cut: no classifier of transformers was trained on longer ones."""

_AT_ONCE = 32

Array = NDArray[np.generic]


def read_media(path: Path, folder: Path, task: str, inputs: tuple[TensorSpec, ...], name: str) -> Parts:
    """Read pictures or sounds in folders by class, optionally with ``train/`` and ``test/`` on top.

    Classes are numbered by the model's ``label2id`` where that knows all of them, else in sorted order.

    Args:
        path: The folder of the data.
        folder: The model's folder, which holds the processor.
        task: ``image-classification`` or ``audio-classification``.
        inputs: The model's inputs, one.
        name: The data as the user named them.

    Returns:
        Inputs as the model takes them, float32, and class numbers ``(N,)``. Sounds are brought to the processor's
        rate, to one channel and to the length of the longest clip.

    Raises:
        DataError: No files, an empty class, a file that cannot be read, or no processor.
    """
    sound = task == "audio-classification"
    found = class_folders(path, SOUNDS if sound else PICTURES, "sounds (.wav)" if sound else "pictures")
    notes: list[str] = []
    known = class_numbers(found.classes, folder)
    if len(known) == len(found.classes):
        numbers, names = [known[name] for name in found.classes], class_names(folder)
        notes.append("classes numbered by the model's label2id")
    else:
        numbers, names = list(range(len(found.classes))), found.classes
        notes.append(found.note())
    paths = {part: [file for file, _ in some] for part, some in found.files.items()}
    everything = [file for some in paths.values() for file in some]
    read = _hearing(everything, folder, inputs, notes) if sound else _seeing(folder)
    examples = {
        part: Examples(
            (np.concatenate([read(files) for files in _pieces(paths[part])]),),
            np.array([numbers[label] for _, label in some], np.int64),
        )
        for part, some in found.files.items()
    }
    if found.left_out:
        notes.append(f"{len(found.left_out)} files of other kinds were left out, e.g. {found.left_out[0].name}")
    return Parts(examples, name, tuple(notes), names)


def _pieces(paths: Sequence[Path]) -> list[Sequence[Path]]:
    return [paths[i : i + _AT_ONCE] for i in range(0, len(paths), _AT_ONCE)]


def _processor(folder: Path, kind: str) -> Any:
    if not (folder / "preprocessor_config.json").is_file():
        raise DataError(
            "holds no processor (preprocessor_config.json), so files cannot be read for it",
            where=folder,
            mend="save it there with processor.save_pretrained(), or give arrays as .npz",
        )
    options = {"use_fast": False} if kind == "AutoImageProcessor" else {}  # the fast ones need torchvision
    with quiet_transformers() as transformers:
        try:
            return getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:
            raise DataError(
                f"its processor cannot be loaded: {one_line(error)}", where=folder, mend="copy its files again"
            ) from error


def _seeing(folder: Path) -> Callable[[Sequence[Path]], Array]:
    processor = _processor(folder, "AutoImageProcessor")

    def read(paths: Sequence[Path]) -> Array:
        pictures = [in_mode(open_picture(path, load=True), "RGB", path) for path in paths]
        return _processed(folder, lambda: processor(pictures, return_tensors="np")["pixel_values"])

    return read


def _hearing(
    paths: Sequence[Path], folder: Path, inputs: tuple[TensorSpec, ...], notes: list[str]
) -> Callable[[Sequence[Path]], Array]:
    processor = _processor(folder, "AutoFeatureExtractor")
    rate = int(processor.sampling_rate)
    clips = {path: _sound(path, rate, notes) for path in paths}
    longest = max(len(clip) for clip in clips.values())
    length = min(longest, LONGEST_S * rate)
    notes.append(
        f"sounds of {rate} Hz, padded to {length / rate:.3g} s" + (" and cut there" if longest > length else "")
    )
    wanted = inputs[0].name

    def read(some: Sequence[Path]) -> Array:
        cut = [clips[path][:length] for path in some]
        # Spectrograms have the length that the model was made for.
        options = (
            {"padding": "max_length", "max_length": length, "truncation": True} if wanted == "input_values" else {}
        )
        if len(inputs[0].shape) > 2:
            options = {}
        return _processed(folder, lambda: processor(cut, sampling_rate=rate, return_tensors="np", **options)[wanted])

    return read


def _processed(folder: Path, call: Callable[[], Any]) -> Array:
    with quiet_transformers():
        try:
            return np.asarray(call(), np.float32)
        except CompressorError:
            raise
        except Exception as error:  # a library that the processor needs, or a file that it does not like
            raise DataError(f"its processor failed: {one_line(error)}", where=folder) from error


def _sound(path: Path, rate: int, notes: list[str]) -> NDArray[np.float32]:
    """One channel in [-1, 1] at the given rate."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        # Chunks that are no sound (tags of editors) are announced by a warning; nothing is lost.
        with quiet_transformers():
            own, data = wavfile.read(path)
    except Exception as error:  # SciPy lets struct.error and others through
        raise DataError(f"is not a readable .wav file ({error})", where=path) from error
    if not len(data):
        raise DataError("holds no sound", where=path)
    if data.dtype.kind in "iu":
        middle = 128 if data.dtype == np.uint8 else 0
        data = (data.astype(np.float32) - middle) / (128 if data.dtype == np.uint8 else -np.iinfo(data.dtype).min)
    if data.ndim == 2:
        data = data.mean(axis=1)
    if own != rate:
        divisor = np.gcd(own, rate)
        data = resample_poly(data, rate // divisor, own // divisor)
        note = f"sounds of {own} Hz were resampled"
        if note not in notes:
            notes.append(note)
    return np.asarray(data, np.float32)
