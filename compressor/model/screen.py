"""What a model file could do to this machine, checked before anything in it is loaded.

Tried on torch 2.13: ``torch.export.load`` runs pickles, evaluates Python in symbolic sizes and executes source made of
the names in the file; ``torch.jit.load`` can save and read files; ONNX can name data anywhere on the disk. Archives are
read here with torch's own reader, so that what is screened is what will be loaded.
"""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from typing import Any

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.archive import Archive, damaged, open_archive
from compressor.model.expressions import FILE_OPERATORS, OPERATOR_NAMESPACES, RefusedError
from compressor.model.identify import pickle_root
from compressor.model.pickles import PickleError, scan
from compressor.model.program_schema import ProgramError, check_payloads, check_program

_TEXT_LIMIT_BYTES = 256 << 20
_SAVE_ANEW = "load it where it was made and save it anew with torch.export.save"

_PROGRAM_MEMBERS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/(weights/weight|constants/tensor)_\d{1,9}"
    r"|data/weights/model_weights_config\.json|data/constants/model_constants_config\.json"
    r"|data/(weights|constants)/model\.pt|archive_format|archive_version|byteorder|version|\.data/\w+"
    r"|\.format_version|\.storage_alignment|extra/.*"
    # torch 2.7 and older
    r"|serialized_(exported_program\.json|(state_dict|constants|example_inputs)\.pt)|extra_files/.*",
    re.ASCII,
)
_SCRIPT_MEMBERS = re.compile(
    r"(data|constants)\.pkl|(data|constants|traced_inputs)/\d{1,9}|traced_inputs\.pkl|code/[\w./<>]+\.(py|debug_pkl)|version|byteorder|\.data/\w+"
    r"|\.format_version|\.storage_alignment|extra/.*|bytecode\.pkl|mobile_debug_handles\.pkl|attributes\.pkl",
    re.ASCII,
)
_SCRIPT_PICKLE_NAMES = re.compile(
    r"__torch__\.[\w.]+|torch\._utils\._rebuild_\w+|torch\.jit\._pickle\.\w+|collections\.OrderedDict"
    r"|torch\.(Size|device|\w*Storage)",
    re.ASCII,
)


class Records:
    """The members of an archive through torch's own reader, once both readers agree on what they are."""

    def __init__(self, archive: Archive) -> None:
        import torch

        self.path = archive.path
        self.sizes = archive.sizes
        try:
            self._reader: Any = torch._C.PyTorchFileReader(str(archive.path))
            sizes = {name: self._reader.get_record_size(name) for name in self._reader.get_all_records()}
        except RuntimeError as error:
            raise damaged(archive.path) from error
        if sizes != archive.sizes:
            raise UnsafeFileError(
                "is a zip archive whose table of contents can be read in two ways", where=archive.path, mend=_SAVE_ANEW
            )

    def read(self, name: str) -> bytes:
        """Read one member, named without the top folder."""
        if self.sizes[name] > _TEXT_LIMIT_BYTES:
            raise UnsafeFileError(f"its member '{name}' has {self.sizes[name] >> 20} MB, too much", where=self.path)
        try:
            return bytes(self._reader.get_record(name))
        except RuntimeError as error:
            raise damaged(self.path) from error


def screen_program(path: Path) -> None:
    """Refuse an exported program that could run code when it is loaded or run.

    Args:
        path: The file; :func:`~compressor.model.identify.identify` called it an exported program.

    Raises:
        UnsafeFileError: A pickle that builds more than tensors, Python in an expression, a name or a structure, an
            operator that touches files, native code, or a member that has no business there.
        ModelError: Damaged.
    """
    archive = open_archive(path)
    for name in archive.sizes:
        if name.startswith(("data/aotinductor/", "data/executorch/", "data/mtia")):
            raise UnsafeFileError(f"holds native code ('{name}')", where=path, mend=f"{_SAVE_ANEW}, not compiled")
        if name.startswith(("data/constants/custom_obj_", "data/constants/opaque_obj_")):
            raise UnsafeFileError(f"holds a custom object ('{name}')", where=path, mend=_SAVE_ANEW)
        if not _PROGRAM_MEMBERS.fullmatch(name):
            raise UnsafeFileError(f"holds the unexpected member '{name}'", where=path, mend=_SAVE_ANEW)
    if archive.top == "":
        _screen_old_program(archive)
        return
    records = Records(archive)
    _check_json(path, records, "models/model.json")
    for folder in ("weights", "constants"):
        if f"data/{folder}/model.pt" in records.sizes:
            _check_tensors_only(path, f"data/{folder}/model.pt", records.read(f"data/{folder}/model.pt"))
        else:
            _check_json(path, records, f"data/{folder}/model_{folder}_config.json")
    if "data/sample_inputs/model.pt" in records.sizes:
        _check_tensors_only(path, "data/sample_inputs/model.pt", records.read("data/sample_inputs/model.pt"))


def _screen_old_program(archive: Archive) -> None:
    for member in archive.sizes:
        if member == "serialized_exported_program.json":
            _check_parsed(archive.path, member, archive.read(member), {})
        elif member.endswith(".pt"):
            _check_tensors_only(archive.path, member, archive.read(member))


def _check_json(path: Path, records: Records, member: str) -> None:
    if member not in records.sizes:
        raise ModelError(f"lacks its part '{member}'", where=path, mend=_SAVE_ANEW)
    _check_parsed(path, member, records.read(member), records.sizes)


def _check_parsed(path: Path, member: str, content: bytes, sizes: dict[str, int]) -> None:
    try:
        parsed = json.loads(content.decode())
        if "config.json" in member:
            check_payloads(parsed, member.rpartition("/")[0], sizes)
        else:
            check_program(parsed)
    except RefusedError as error:
        raise UnsafeFileError(
            f"holds {error} in '{member}', which torch does not write there and which could run code",
            where=path,
            mend=_SAVE_ANEW,
        ) from error
    except ProgramError as error:
        raise ModelError(f"its part '{member}' is not what this torch reads: {error}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its part '{member}' is damaged", where=path, mend=_SAVE_ANEW) from error


def _check_tensors_only(path: Path, member: str, content: bytes) -> None:
    """Require that torch's restricted unpickler accepts a pickle, so that torch never turns to the unrestricted one."""
    import torch

    if not content:
        return
    pickle_root(path, content)
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise UnsafeFileError(
            f"its part '{member}' is a pickle of more than tensors: loading it could run code",
            where=path,
            mend=_SAVE_ANEW,
        ) from error


def screen_torchscript(path: Path) -> None:
    """Refuse a TorchScript archive that could touch files or run native classes when it is loaded or run.

    Its code is read as text, before torch compiles it: TorchScript's source is Python's grammar.

    Args:
        path: The file; :func:`~compressor.model.identify.identify` called it TorchScript.

    Raises:
        UnsafeFileError: An operator that reads or writes files, one of a namespace that is not known to be harmless,
            code that runs while loading, or a native class.
        ModelError: Damaged, or written by a torch before 1.4.
    """
    archive = open_archive(path)
    if "data.pkl" not in archive.sizes:
        raise ModelError("is TorchScript of a torch before 1.4", where=path, mend="save it anew with a newer torch")
    for name in archive.sizes:
        if not _SCRIPT_MEMBERS.fullmatch(name):
            raise UnsafeFileError(f"holds the unexpected member '{name}'", where=path)
    records = Records(archive)
    for name in archive.sizes:
        if name.endswith(".pkl"):
            _check_script_pickle(path, name, records.read(name))
        elif name.startswith("code/") and name.endswith(".py"):
            _check_script_code(path, name, records.read(name))


def _check_script_pickle(path: Path, member: str, content: bytes) -> None:
    try:
        names = scan(content).names
    except PickleError as error:
        raise ModelError(str(error), where=path, mend="copy or download it again") from error
    for name in names:
        if name.startswith("__torch__.torch.classes."):
            raise _native_class(path, name)
        if not _SCRIPT_PICKLE_NAMES.fullmatch(name):
            raise UnsafeFileError(f"its part '{member}' names '{name}', which TorchScript has no use for", where=path)


def _check_script_code(path: Path, member: str, content: bytes) -> None:
    try:
        text = content.decode()
        # TorchScript writes names that Python's grammar does not know: constants and mangled names with dots are fine,
        # lambda names in angle brackets are not.
        tree = ast.parse(text.replace("<lambda>", "lambda_"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"its code '{member}' cannot be read, so it cannot be trusted", where=path) from error
    if "__torch__.torch.classes." in text:
        raise _native_class(path, "__torch__.torch.classes")
    plain_getattr = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) == 2 and isinstance(node.args[1], ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name="__setstate__"):
                raise UnsafeFileError(f"runs code of its own while it is loaded ('{member}': __setstate__)", where=path)
            case ast.Attribute(attr=name) if name in FILE_OPERATORS:
                raise _file_operator(path, name)
            case ast.Call(ast.Name("getattr"), [_, ast.Constant(name)]) if name in FILE_OPERATORS:
                raise _file_operator(path, name)
            case ast.Name("getattr") if id(node) not in plain_getattr:
                raise UnsafeFileError(f"hides names behind getattr ('{member}')", where=path)
            case ast.Attribute(ast.Name("ops"), name) if name not in OPERATOR_NAMESPACES | {"prim"}:
                raise UnsafeFileError(f"uses operators of '{name}', not known to be harmless", where=path)


def check_script_graph(path: Path, kinds: set[str]) -> None:
    """Refuse a compiled TorchScript model by the operators in its graphs; the second look, before anything is run.

    Args:
        path: The file, for the message.
        kinds: Every operator of every graph, such as ``aten::conv2d``.

    Raises:
        UnsafeFileError: One of them reads or writes files, or is not known to be harmless.
    """
    for kind in sorted(kinds):
        namespace, _, name = kind.partition("::")
        if name in FILE_OPERATORS or name.startswith("rpc_") or kind in {"prim::PythonOp", "prim::IgnoredPythonOp"}:
            raise _file_operator(path, kind)
        if namespace not in OPERATOR_NAMESPACES | {"prim"}:
            raise UnsafeFileError(f"uses the operator {kind}, not known to be harmless", where=path)


def _file_operator(path: Path, name: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"uses the operator '{name}', which reads or writes files when the model runs",
        where=path,
        mend="remove it from the model and save it anew",
    )


def _native_class(path: Path, name: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"holds an object of the native class '{name}' (a quantized or custom layer)",
        where=path,
        mend="give the float model that it was made from, saved with torch.export.save",
    )
