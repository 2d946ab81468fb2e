"""Hugging Face folders: what is in one, screened before anything of it is loaded, and without torch or transformers."""

from __future__ import annotations

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
_ADAPTER = "adapter_config.json"

GENERATION = "text-generation-with-past"

TASKS: Mapping[str, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
    GENERATION: "AutoModelForCausalLM",
}
"""``optimum``'s name of each task that is supported, and the transformers class that loads a model for it."""

_ENDINGS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForCausalLM": GENERATION,
    "LMHeadModel": GENERATION,
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
            hashlib.file_digest(stream, lambda: digest)
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


def label_count(config: Mapping[str, Any]) -> int:
    """How many outputs a classifier has: 2 where its config does not say, as in ``transformers``."""
    return len(config.get("id2label") or ()) or int(config.get("num_labels") or 2)


def problem_of(config: Mapping[str, Any]) -> str | None:
    """What a classifier's outputs are: ``regression``, ``multi_label_classification``, or else one class of several.

    As in ``transformers``, a single output without a word on it is a number.
    """
    named = config.get("problem_type")
    return str(named) if named else "regression" if label_count(config) == 1 else None


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
    wanted += ["pytorch_model*.bin"] * allow_pickle + ["*.py"] * trust_remote_code
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
        (path / name).is_file() for name in (CONFIG, _ADAPTER, WEIGHTS, INDEX, *PICKLED, *_TOKENIZER)
    )


def is_known(path: Path) -> bool:
    """Whether a folder's ``config.json`` is that of a Hugging Face model."""
    return (path / CONFIG).is_file() and bool(read_config(path).get("model_type"))


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        ModelError: It is missing or no JSON object, or the folder is an adapter's.
    """
    file = path / CONFIG
    if (path / _ADAPTER).is_file():
        raise ModelError(
            f"holds a PEFT adapter ({_ADAPTER}), which is no whole model",
            where=path,
            mend="merge it into its model with merge_and_unload() and save that",
        )
    if not file.is_file():
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
        ModelError: No config, no weights, weights that are cut off, or that another tool has quantized.
        UnsafeFileError: Pickled weights or code of its own, and that was not allowed.
    """
    if not path.is_dir():
        what = "is a file, not the folder of a model" if path.exists() else "no such folder"
        raise ModelError(what, where=path, mend="name the folder that holds config.json and the weights")
    config = read_config(path)
    _refuse_quantized(path, config)
    if config.get("auto_map") and not trust_remote_code:
        raise UnsafeFileError(
            "brings Python code of its own (auto_map in config.json), which loading it would run",
            where=path,
            mend="'compress' and 'bench' take --trust-remote-code: add it only if you trust where it comes from",
        )
    if (path / WEIGHTS).is_file() or (path / INDEX).is_file():
        from compressor.model.checkpoint import open_checkpoint, weight_files
        from compressor.model.identify import FileKind, identify

        weights = weight_files(path)
        for file in weights:
            if identify(file) is not FileKind.SAFETENSORS:
                raise ModelError("is no safetensors file", where=file, mend="copy or download it again")
        open_checkpoint(path)
        return Folder(path, config, weights, pickled=False)
    pickled = sorted(path.glob("pytorch_model*.bin"))
    if not pickled:
        raise ModelError("holds no weights", where=path, mend=_where_else(path))
    if not allow_pickle:
        raise UnsafeFileError(
            f"holds its weights as a pickle only ({pickled[0].name}); loading it could run whatever code is in it",
            where=path,
            mend="where it was made, save it with save_pretrained(safe_serialization=True); or, if you trust where it "
            "comes from, 'compress' takes --allow-pickle",
        )
    return Folder(path, config, tuple(pickled), pickled=True)


def _refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse weights that another tool has quantized: there is nothing left to save, and its kernels are not here."""
    from compressor.model.packing import is_ours

    found = config.get("quantization_config") or config.get("compression_config")
    if not found or is_ours(config):
        return
    by = found.get("quant_method") if isinstance(found, Mapping) else found
    raise ModelError(
        f"is quantized already, by {by or 'another tool'}", where=path, mend="give the model that it was made from"
    )


def _where_else(path: Path) -> str:
    graphs = sorted(path.glob("*.onnx")) or sorted(path.glob("onnx/*.onnx"))
    if graphs:
        return f"name the ONNX file in it, {graphs[0]}, or give the folder that it was exported from"
    if any(path.glob("*.gguf")):
        return "GGUF files are not read: give the model that they were made from"
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
        name = GENERATION if asked == "text-generation" else asked
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
    # Of Whisper, sound is classified by the encoder alone.
    if name.endswith("EncoderModel") or (folder.config.get("is_encoder_decoder") and found != "audio-classification"):
        raise ModelError(
            f"its architecture {name} is an encoder-decoder model or half of one, which is not supported",
            where=folder.path,
            mend="give the part that runs as .pt2 or ONNX",
        )
    return found


def companions(path: Path) -> list[Path]:
    """The files that belong to a model beside its weights: config, tokenizer, processor, pooling; relative to it."""
    # One level down: what sentence-transformers keeps its pooling in.
    return sorted(
        file.relative_to(path)
        for file in (*path.glob("*"), *path.glob("[0-9]*_*/*"))
        if file.is_file()
        and file.suffix in _COMPANION_ENDINGS
        and file.name not in _NOT_COMPANIONS
        and file.stat().st_size <= _COMPANION_LIMIT_BYTES
    )


def copy_companions(source: Path, target: Path) -> None:
    """Copy config, tokenizer and the like, but nothing that is there already."""
    for relative in companions(source):
        if not (target / relative).exists():
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target / relative)


def has_tokenizer(path: Path) -> bool:
    """Whether a folder holds a tokenizer's own files."""
    return any((path / name).is_file() for name in _TOKENIZER)
