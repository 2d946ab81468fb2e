"""Hugging Face folders: what is in one, screened before anything of it is loaded, and without torch or transformers."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import ModelError, UnsafeFileError, nearest

EXTRA = "pip install 'compressor[hf]'"

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

TASKS: Mapping[str, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
    "text-generation-with-past": "AutoModelForCausalLM",
}
"""``optimum``'s name of each task that is supported, and the transformers class that loads a model for it."""

_ENDINGS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForCausalLM": "text-generation-with-past",
    "LMHeadModel": "text-generation-with-past",
    "Model": "feature-extraction",
}
_HEARS = re.compile(r"wav2vec2|hubert|wavlm|unispeech|sew|data2vec-audio|whisper|audio-spectrogram")
"""Model types whose ``ForSequenceClassification`` takes sound."""

_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_NOT_COMPANIONS = frozenset({INDEX, PICKLED[1], "signature.json", "report.json", "stages.json"})
_COMPANION_ENDINGS = frozenset({".json", ".txt", ".model", ".jinja", ".py", ".vocab", ".bpe"})
_COMPANION_LIMIT_BYTES = 64 * 2**20
_COUNT_FROM_PADDING = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text", "ibert", "esm"}
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILE_ENDINGS = frozenset({".pt2", ".pt", ".pth", ".onnx", ".safetensors", ".bin", ".pkl", ".ts", ".json", ".gguf"})


SOUND_SAMPLES = 16_000
"""Length of a clip where nothing tells: a second at the rate of nearly all speech models."""

_LENGTH = 128
_VOCABULARY = 100
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Folder:
    """A screened folder.

    Attributes:
        path: The folder.
        config: What ``config.json`` holds.
        weights: The files that hold the weights, in name order.
        pickled: Whether they are pickles, which the user allowed.
    """

    path: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    pickled: bool


def folder_name(path: Path) -> str:
    """A folder's short name, safe as the name of another; of a hub's snapshot, named by its commit, ``org-name``."""
    from compressor.model.base import safe_name

    path = path.resolve()
    found = path.name
    if path.parent.name == "snapshots":
        found = path.parent.parent.name.removeprefix("models--").replace("--", "-")
    # A version behind a dot is part of a folder's name, not a file's ending.
    return safe_name(Path(f"{found}.folder"))


def fingerprint(folder: Folder) -> tuple[str, int]:
    """SHA-256 and size in bytes of the config and the weights, in name order."""
    digest, size = hashlib.sha256(), 0
    for file in sorted((folder.path / CONFIG, *folder.weights)):
        size += file.stat().st_size
        with file.open("rb") as stream:
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
    return digest.hexdigest(), size


@dataclass(frozen=True)
class Limits:
    """What inputs that are drawn at random must keep to.

    Attributes:
        vocabulary: Token ids are below it.
        length: Tokens in a text.
        samples: Samples in a clip of sound.
    """

    vocabulary: int
    length: int
    samples: int = SOUND_SAMPLES


def limits(path: Path, max_length: int = _LENGTH) -> Limits | None:
    """Read the limits off the ``config.json`` in a model's folder; ``None`` where there is none.

    Args:
        path: The folder, which may hold an ONNX file beside its config.
        max_length: Most tokens, if the model takes so many.
    """
    if not (path / CONFIG).is_file():
        return None
    config = read_config(path)
    return Limits(vocabulary(config), min(max_length, longest(config) or max_length))


def vocabulary(config: Mapping[str, Any]) -> int:
    """How many token ids there are; 100, below any real vocabulary, where the config does not say."""
    return int(_of_text(config, "vocab_size") or _VOCABULARY)


def longest(config: Mapping[str, Any]) -> int | None:
    """Most tokens that the model has positions for; ``None`` where it has no such limit."""
    positions = _of_text(config, "max_position_embeddings") or _of_text(config, "n_positions")
    if positions is None:
        return None
    # RoBERTa and its kin count positions from behind the padding token's id.
    shifted = str(config.get("model_type")) in _COUNT_FROM_PADDING
    return int(positions) - (int(config.get("pad_token_id") or 0) + 1 if shifted else 0)


def _of_text(config: Mapping[str, Any], key: str) -> Any:
    inner = config.get("text_config")
    found = config.get(key)
    return found if found is not None or not isinstance(inner, Mapping) else inner.get(key)


def is_hub_id(path: Path) -> bool:
    """Whether a path that does not exist may be meant as ``org/name`` on the hub."""
    missing = not path.exists() and not path.parent.is_dir()
    return missing and path.suffix.lower() not in _FILE_ENDINGS and bool(_HUB_ID.fullmatch(path.as_posix()))


def resolve(path: Path, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> Path:
    """Find the folder of a model: a path as it is, or a hub id downloaded (once; the hub's own cache keeps it).

    Args:
        path: A file or folder, or ``org/name``.
        allow_pickle: Whether pickled weights are fetched too.
        trust_remote_code: Whether the repository's Python files are fetched too.

    Returns:
        The path itself, or the downloaded snapshot.

    Raises:
        ModelError: There is no such model on the hub, the hub cannot be reached, or the ``hf`` extra is not installed.
    """
    if not is_hub_id(path):
        return path
    name = path.as_posix()
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        raise ModelError(
            "is no file or folder here, and to ask the hub needs an extra", where=name, mend=EXTRA
        ) from error
    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    wanted += ["pytorch_model*.bin"] if allow_pickle else []
    wanted += ["*.py"] if trust_remote_code else []
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["onnx/*", "openvino/*"]))
    except GatedRepoError as error:
        raise ModelError(
            "asks for its licence to be accepted",
            where=name,
            mend="accept it on the hub and log in with 'hf auth login'",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "is no file or folder here, and no model on the hub",
            where=name,
            mend="check its name, or log in if private",
        ) from error
    except Exception as error:  # no network shows in the errors of three libraries
        raise ModelError(
            "is no file or folder here, and the Hugging Face hub cannot be reached",
            where=name,
            mend=f"download it where there is a network ('hf download {name} --local-dir {path.name}') and give the "
            "folder",
        ) from error


def looks_like_model(path: Path) -> bool:
    """Whether a folder holds what Hugging Face's libraries save."""
    return path.is_dir() and any(
        (path / name).is_file() for name in (CONFIG, "adapter_config.json", WEIGHTS, INDEX, *PICKLED, *_TOKENIZER)
    )


def is_known(path: Path) -> bool:
    """Whether a folder's ``config.json`` is that of a Hugging Face model."""
    return (path / CONFIG).is_file() and bool(read_config(path).get("model_type"))


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        ModelError: It is missing or no JSON object.
    """
    file = path / CONFIG
    if not file.is_file():
        if (path / "adapter_config.json").is_file():
            raise ModelError(
                "holds a PEFT adapter without the model it belongs to",
                where=path,
                mend="merge it into its model with merge_and_unload() and save that",
            )
        raise ModelError(
            "is a Hugging Face folder without config.json",
            where=path,
            mend="save it with model.save_pretrained(), or download the folder whole",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"is not JSON ({error})", where=file, mend="copy or download it again") from error
    if not isinstance(config, dict):
        raise ModelError("holds no JSON object", where=file, mend="copy or download it again")
    return config


def screen(path: Path, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> Folder:
    """Look at everything that loading a folder would read; nothing in it is run.

    Args:
        path: The folder.
        allow_pickle: Whether pickled weights may be used where there are no others.
        trust_remote_code: Whether a model that brings its own Python code may be used.

    Raises:
        ModelError: No config, no weights, or weights that are cut off.
        UnsafeFileError: Pickled weights or code of its own, and that was not allowed.
    """
    config = read_config(path)
    if config.get("auto_map") and not trust_remote_code:
        raise UnsafeFileError(
            "brings Python code of its own (auto_map in config.json), which loading it would run",
            where=path,
            mend="add --trust-remote-code only if you trust where it comes from",
        )
    weights = _safetensors(path)
    if weights:
        from compressor.model.identify import FileKind, identify

        for file in weights:
            if identify(file) is not FileKind.SAFETENSORS:
                raise ModelError("is no safetensors file", where=file, mend="copy or download it again")
        return Folder(path, config, weights, pickled=False)
    pickled = sorted(path.glob("pytorch_model*.bin"))
    if not pickled:
        raise ModelError("holds no weights", where=path, mend=_where_else(path))
    if not allow_pickle:
        raise UnsafeFileError(
            f"holds its weights as a pickle only ({pickled[0].name}); loading it could run whatever code is in it",
            where=path,
            mend="where it was made, save it with save_pretrained(safe_serialization=True); or add --allow-pickle if "
            "you trust where it comes from",
        )
    return Folder(path, config, tuple(pickled), pickled=True)


def _safetensors(path: Path) -> tuple[Path, ...]:
    """The one file, or the parts that the index names."""
    if (path / WEIGHTS).is_file():
        return (path / WEIGHTS,)
    index = path / INDEX
    if not index.is_file():
        return ()
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("is a damaged index of weights", where=index, mend="copy or download it again") from error
    if outside:
        raise UnsafeFileError(f"its weights are outside its folder, in {outside[0]}", where=index)
    if missing := [name for name in names if not (path / name).is_file()]:
        raise ModelError(f"names {missing[0]}, which is not there", where=index, mend="download the folder whole")
    return tuple(path / name for name in names)


def _where_else(path: Path) -> str:
    graphs = sorted(path.glob("*.onnx")) or sorted(path.glob("onnx/*.onnx"))
    if graphs:
        return f"name the ONNX file in it, {graphs[0]}, or give the folder that it was exported from"
    return "save it with model.save_pretrained(), which writes model.safetensors"


def task_of(folder: Folder, asked: str | None = None) -> str:
    """The task that a model was made for.

    Args:
        folder: The model.
        asked: The user's own choice, which goes first.

    Returns:
        A key of :data:`TASKS`.

    Raises:
        ModelError: No such task, or the architecture does not say one that is supported.
    """
    if asked is not None:
        name = "text-generation-with-past" if asked == "text-generation" else asked
        if name not in TASKS:
            raise ModelError(f"no task '{asked}'", where="--hf-task", mend=nearest(asked, TASKS))
        return name
    names = folder.config.get("architectures") or []
    if not names:
        raise ModelError(
            "its config.json names no architecture, so the task is unknown",
            where=folder.path,
            mend=f"name it with --hf-task; known: {', '.join(TASKS)}",
        )
    name = str(names[0])
    found = next((task for ending, task in _ENDINGS.items() if name.endswith(ending)), None)
    if found is None:
        raise ModelError(
            f"its architecture {name} belongs to no task that is supported",
            where=folder.path,
            mend=f"if part of it serves one, name that with --hf-task; known: {', '.join(TASKS)}",
        )
    if found == "text-classification" and _HEARS.match(str(folder.config.get("model_type"))):
        return "audio-classification"
    return found


def companions(path: Path) -> list[Path]:
    """The files that belong to a model beside its weights: config, tokenizer, processor, pooling; relative to it."""
    found = []
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        # One level down: what sentence-transformers keeps its pooling in.
        inside = len(relative.parts) == 1 or (len(relative.parts) == 2 and re.match(r"\d+_", relative.parts[0]))
        if (
            inside
            and file.is_file()
            and file.suffix in _COMPANION_ENDINGS
            and relative.name not in _NOT_COMPANIONS
            and file.stat().st_size <= _COMPANION_LIMIT_BYTES
        ):
            found.append(relative)
    return found


def copy_companions(source: Path, target: Path) -> None:
    """Copy config, tokenizer and the like, but nothing that is there already."""
    for relative in companions(source):
        if not (target / relative).exists():
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target / relative)


def pooling(path: Path) -> str:
    """How sentence-transformers makes one embedding of a text's tokens: ``mean``, its default, or ``cls``."""
    file = path / "1_Pooling" / CONFIG
    if not file.is_file():
        return "mean"
    about = json.loads(file.read_text(encoding="utf-8"))
    return "cls" if about.get("pooling_mode_cls_token") else "mean"


def has_tokenizer(path: Path) -> bool:
    """Whether a folder holds a tokenizer's own files."""
    return any((path / name).is_file() for name in _TOKENIZER)


def close_match(given: str, known: list[str]) -> str:
    """The known name that was probably meant, where listing all of them would be too long."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.7)
    return f"did you mean '{close[0]}'? " if close else ""
