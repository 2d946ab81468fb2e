"""Reading a folder of pictures: one subfolder a class, optionally ``train/`` and ``test/`` on top."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.base import Examples
from compressor.task.metrics import show_shape
from compressor.task.parts import SPLITS, PartName, Parts

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_HIDDEN = (".", "__MACOSX")  # the latter is what archives from a Mac hold beside the files
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = ("I", "F")  # 16 or 32 bits a pixel; Pillow would clip them to 255


@dataclass(frozen=True)
class ClassFolders:
    """Files sorted into folders by class.

    Attributes:
        files: By part, each with its class number.
        classes: Names of the classes in the order of their numbers.
        left_out: Files of other kinds.
    """

    files: Mapping[PartName, Sequence[tuple[Path, int]]]
    classes: tuple[str, ...]
    left_out: tuple[Path, ...]

    def note(self) -> str:
        """Which class has which number."""
        return f"classes in sorted order: {', '.join(f'{i}={name}' for i, name in enumerate(self.classes))}"


def class_folders(folder: Path, suffixes: Collection[str], what: str) -> ClassFolders:
    """Find files in subfolders by class, optionally with ``train/`` and ``test/`` on top.

    Args:
        folder: Its subfolders are the classes, numbered in sorted order; or the parts by the names of
            :data:`~compressor.task.parts.SPLITS`, which hold them. Without a test part the validation part is the test.
        suffixes: Endings of the files that are meant, in lower case.
        what: What they are, for messages.

    Raises:
        DataError: There are no classes, or one of them is empty.
    """
    tops = _tops(folder)
    names = {part: [child.name for child in _subfolders(top)] for part, top in tops.items()}
    classes = names["train"] if "train" in names else sorted({name for some in names.values() for name in some})
    if not classes:
        raise DataError("has no subfolders; one per class is needed", where=folder)
    files: dict[PartName, list[tuple[Path, int]]] = {}
    left_out: list[Path] = []
    for part, top in tops.items():
        if unknown := sorted(set(names[part]) - set(classes)):
            raise DataError(f"has a class that train/ has not: {unknown[0]}", where=top)
        files[part] = []
        for name in names[part]:
            files[part] += [(path, classes.index(name)) for path in _files(top / name, suffixes, what, left_out)]
    return ClassFolders(files, tuple(classes), tuple(left_out))


def _tops(folder: Path) -> dict[PartName, Path]:
    """The folders that hold the classes, by part; a class may be called "test" too."""
    children = _subfolders(folder)
    tops = {SPLITS[child.name.lower()]: child for child in children if child.name.lower() in SPLITS}
    tops = {part: top for part, top in tops.items() if _subfolders(top)}
    if len(tops) < len(children) and not ("train" in tops and len(tops) > 1):
        return {"all": folder}
    if "test" not in tops and "calibration" in tops:
        tops["test"] = tops.pop("calibration")
    return tops if len(tops) > 1 else {"all": next(iter(tops.values()), folder)}


def read_pictures(folder: Path, inputs: tuple[TensorSpec, ...] | None, where: str) -> Parts:
    """Read all pictures, converted to the channels and size of the model's input.

    Args:
        folder: Its subfolders are the classes, numbered in sorted order; or ``train`` and ``test``, which hold them.
        inputs: The model's inputs; the only one is ``(N, C, H, W)``. Where C is free: grey if all pictures are grey,
            else RGB. Where H and W are free: all pictures must have the same size.
        where: The data as the user named them.

    Returns:
        Inputs ``(N, C, H, W)`` uint8, targets ``(N,)`` int64.

    Raises:
        DataError: No pictures, an empty class, a picture that cannot be read, or sizes that differ.
    """
    found = class_folders(folder, SUFFIXES, "pictures")
    files = found.files
    form = _Form.of(inputs, [path for some in files.values() for path, _ in some])
    examples = {
        part: Examples((form.read([path for path, _ in some]),), np.array([label for _, label in some], np.int64))
        for part, some in files.items()
    }
    notes = [found.note()]
    if form.resized:
        notes.append(f"{form.resized} pictures resized to {form.height}x{form.width} (bilinear)")
    if found.left_out:
        notes.append(f"{len(found.left_out)} files that are not pictures were left out, e.g. {found.left_out[0].name}")
    return Parts(examples, where, tuple(notes), found.classes)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(_HIDDEN))


def _files(folder: Path, suffixes: Collection[str], what: str, left_out: list[Path]) -> list[Path]:
    # A link that leads nowhere is kept, so that it is named when it cannot be read.
    files = sorted(
        path
        for path in folder.rglob("*")
        if (path.is_file() or not path.exists())
        and not any(part.startswith(_HIDDEN) for part in path.relative_to(folder).parts)
    )
    kept = [path for path in files if path.suffix.lower() in suffixes]
    left_out += [path for path in files if path.suffix.lower() not in suffixes]
    if not kept:
        raise DataError(f"has no {what}", where=folder, mend=f"known: {', '.join(sorted(suffixes))}")
    return kept


class _Form:
    """The channels and size that every picture gets."""

    def __init__(self, mode: str, height: int, width: int, *, resize: bool) -> None:
        self.mode = mode
        self.height = height
        self.width = width
        self.resize = resize
        self.resized = 0

    @classmethod
    def of(cls, inputs: tuple[TensorSpec, ...] | None, paths: list[Path]) -> _Form:
        shape: tuple[int | None, ...] = (None, None, None, None) if inputs is None else inputs[0].shape
        if (inputs is not None and len(inputs) != 1) or len(shape) != 4:
            shapes = ", ".join(show_shape(spec.shape) for spec in inputs or ())
            raise DataError(f"pictures need one input (N, C, H, W), and the model has {shapes}", where=paths[0].parent)
        _, channels, height, width = shape
        if channels is not None and channels not in _MODES:
            raise DataError(
                f"pictures have 1, 3 or 4 channels, and the model's input is {show_shape(shape)}",
                where=paths[0].parent,
                mend="give other data as .npy or .npz",
            )
        if channels is None:
            channels = 1 if all(open_picture(path).mode in ("1", "L") for path in paths) else 3
        if height is not None and width is not None:
            return cls(_MODES[channels], height, width, resize=True)
        first = open_picture(paths[0], load=True)
        return cls(_MODES[channels], height or first.height, width or first.width, resize=False)

    def read(self, paths: list[Path]) -> NDArray[np.uint8]:
        channels = len(self.mode)
        pixels = np.empty((len(paths), channels, self.height, self.width), np.uint8)
        for i, path in enumerate(paths):
            picture = open_picture(path, load=True)
            if picture.size != (self.width, self.height):
                if not self.resize:
                    raise DataError(
                        f"is {picture.height}x{picture.width} pixels, others are {self.height}x{self.width}",
                        where=path,
                        mend="bring them to one size, or give a model whose input size is fixed",
                    )
                self.resized += 1
            picture = in_mode(picture, self.mode, path)
            if picture.size != (self.width, self.height):
                picture = picture.resize((self.width, self.height), Image.Resampling.BILINEAR)
            pixels[i] = np.asarray(picture).reshape(self.height, self.width, channels).transpose(2, 0, 1)
        return pixels


def in_mode(picture: Image.Image, mode: str, path: Path) -> Image.Image:
    """Convert a picture's channels.

    Args:
        picture: From :func:`open_picture`.
        mode: ``L``, ``RGB`` or ``RGBA``.
        path: Its file, for messages.

    Raises:
        DataError: Pillow knows no way from its colours to these.
    """
    try:
        # A palette's transparency is lost noisily otherwise.
        return (picture.convert("RGBA") if picture.mode == "P" else picture).convert(mode)
    except ValueError as error:
        raise DataError(f"cannot become {mode} ({error})", where=path, mend="save it as RGB") from error


def open_picture(path: Path, *, load: bool = False) -> Image.Image:
    """Open a picture of 8 bits per channel.

    Args:
        path: The file.
        load: Whether its pixels are wanted too; they are then turned as its EXIF says, as viewers show it.

    Raises:
        DataError: It cannot be read, or has more bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if load:
                    picture.load()
                    ImageOps.exif_transpose(picture, in_place=True)
    # Pillow's decoders raise all of these on a broken file.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise DataError(f"is not a readable picture ({error})", where=path) from error
    if picture.mode.startswith(_DEEP):
        raise DataError(
            f"has more than 8 bits per channel (mode {picture.mode})",
            where=path,
            mend="save it with 8 bits, or give the data as .npy",
        )
    return picture
