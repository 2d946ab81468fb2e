"""The graph of an exported program, checked against torch's own schema before torch reads it.

The schema is ``torch._export.serde.schema``: dataclasses whose fields torch fills from JSON without looking at the
types. Here every value must be of its field's type, and every string must match the grammar of its role; a field that
a later torch adds is held to the strictest one.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from compressor.model.expressions import (
    RefusedError,
    check_dotted,
    check_expression,
    check_identifier,
    check_operator,
    check_structure,
    check_symbol,
)

_MAX_SIZE = 1 << 62
_MAX_RANGE = 1 << 64
_PAYLOAD = re.compile(r"(weight|tensor)_[0-9]{1,9}")


class ProgramError(Exception):
    """The graph does not follow the schema: damaged, or of another version of torch."""


def _anything(text: str) -> None:
    """Strings that torch keeps as data: arguments of operators, traces of the stack, free metadata."""


def _refuse(text: str) -> None:
    raise RefusedError(f"the custom object {text[:60]!r}")


def _payload(text: str) -> None:
    if not _PAYLOAD.fullmatch(text):
        raise RefusedError(f"the payload {text[:60]!r}")


def _inputs_structure(text: str) -> None:
    check_structure(text, names_become_source=True)


def _outputs_structure(text: str) -> None:
    check_structure(text, names_become_source=False)


# By class and field; ``keys of`` for the keys of a mapping. Everything else is a name that ends up in Python source.
_ROLES: Mapping[str, Callable[[str], None]] = {
    "SymExpr.expr_str": check_expression,
    "Node.target": check_operator,
    "Argument.as_operator": check_operator,
    "Argument.as_string": _anything,
    "Argument.as_strings": _anything,
    "keys of Argument.as_string_to_argument": check_dotted,
    "ConstantValue.as_string": _anything,
    "Node.metadata": _anything,
    "GraphModule.metadata": _anything,
    "keys of GraphModule.treespec_namedtuple_fields": check_dotted,
    "CustomObjArgument.name": _refuse,
    "CustomObjArgument.class_fqn": _refuse,
    "InputToParameterSpec.parameter_name": check_dotted,
    "InputToBufferSpec.buffer_name": check_dotted,
    "InputToTensorConstantSpec.tensor_constant_name": check_dotted,
    "BufferMutationSpec.buffer_name": check_dotted,
    "ParameterMutationSpec.parameter_name": check_dotted,
    "GradientToParameterSpec.parameter_name": check_dotted,
    "ModuleCallSignature.in_spec": _inputs_structure,
    "ModuleCallSignature.out_spec": _outputs_structure,
    "ModuleCallEntry.fqn": check_dotted,
    "ExportedProgram.torch_version": check_dotted,
    # Source of a function that checks inputs. The loader never asks torch for that function.
    "ExportedProgram.guards_code": _anything,
    "keys of ExportedProgram.range_constraints": check_symbol,
    "keys of PayloadConfig.config": check_dotted,
    "PayloadMeta.path_name": _payload,
}


def check_program(parsed: object) -> None:
    """Check the graph of an exported program.

    Args:
        parsed: The content of ``models/model.json``.

    Raises:
        RefusedError: A string that torch would not have written and that could run code.
        ProgramError: Not as the schema wants it.
    """
    from torch._export.serde import schema

    _Checker(vars(schema)).check(schema.ExportedProgram, parsed, "ExportedProgram")


def check_payloads(parsed: object, folder: str, sizes: Mapping[str, int]) -> None:
    """Check the table of weights or constants of an exported program.

    Args:
        parsed: The content of the table.
        folder: The archive's folder that it speaks of.
        sizes: Size in bytes of every member of the archive.

    Raises:
        RefusedError: A weight that is a pickle or a custom object.
        ProgramError: Not as the schema wants it, or a weight is missing.
    """
    from torch._export.serde import schema

    _Checker(vars(schema)).check(schema.PayloadConfig, parsed, "PayloadConfig")
    if not isinstance(parsed, dict):
        raise ProgramError("no table")
    for name, meta in parsed["config"].items():
        if meta["use_pickle"]:
            raise RefusedError(f"the pickled tensor {name!r} (of a tensor subclass, such as a quantized weight)")
        member = f"{folder}/{meta['path_name']}"
        if member not in sizes:
            raise ProgramError(f"'{member}', the data of {name!r}, is missing")
        if meta["tensor_meta"] is None:
            raise ProgramError(f"{name!r} has no shape")
        shape = [size.get("as_int") for size in meta["tensor_meta"]["sizes"]]
        if any(size is None for size in shape):
            raise ProgramError(f"{name!r} has no fixed shape")
        # torch makes zeros of the shape that the table says where there are no data.
        if sizes[member] == 0 and math.prod(shape) > 0:
            raise ProgramError(f"'{member}', the data of {name!r}, is empty")


class _Checker:
    """Walks JSON along the schema's classes."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = dict(names)
        self._hints: dict[type, dict[str, Any]] = {}

    def check(self, kind: Any, data: object, role: str) -> None:
        """Check one value.

        Args:
            kind: The type that the schema wants, as ``typing.get_type_hints`` gives it.
            data: The value.
            role: ``Class.field`` that it is in.
        """
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            if data is not None:
                self.check(next(a for a in arguments if a is not type(None)), data, role)
        elif origin is list:
            for item in _require(data, list, role):
                self.check(arguments[0], item, role)
        elif origin is dict:
            for key, value in _require(data, dict, role).items():
                _ROLES.get(f"keys of {role}", check_identifier)(key)
                self.check(arguments[1], value, role)
        elif dataclasses.is_dataclass(kind):
            self._check_record(kind, _require(data, dict, role))
        else:
            _check_leaf(kind, data, role)

    def _check_record(self, kind: Any, data: dict[str, Any]) -> None:
        hints = self._hints.setdefault(kind, {}) or typing.get_type_hints(kind, self._names)
        self._hints[kind] = hints
        if any(base.__name__ == "_Union" for base in kind.__mro__):
            if len(data) != 1 or next(iter(data)) not in hints:
                raise ProgramError(f"a {kind.__name__} has not exactly one known field")
        else:
            missing = [
                f.name
                for f in dataclasses.fields(kind)
                if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            ]
            if missing:
                raise ProgramError(f"a {kind.__name__} has no '{missing[0]}'")
        # Fields that the schema does not know are those of a later torch; torch does not read them.
        for name in data.keys() & hints.keys():
            self.check(hints[name], data[name], f"{kind.__name__}.{name}")


def _check_leaf(kind: Any, data: object, role: str) -> None:
    if kind is str:
        _ROLES.get(role, check_identifier)(_require(data, str, role))
    elif kind is bool:
        _require(data, bool, role)
    elif kind is float:
        # JSON's own numbers, and infinity and NaN as torch writes them.
        if data not in ("Infinity", "-Infinity", "NaN"):
            _require(data, (int, float), role)
    elif kind is int or (isinstance(kind, type) and issubclass(kind, enum.IntEnum)):
        value = _require(data, int, role)
        if isinstance(value, bool) or abs(value) > _MAX_RANGE:
            raise ProgramError(f"{role} is {value!r}")
        if role == "SymInt.as_int" and abs(value) > _MAX_SIZE:
            raise ProgramError(f"{role} is {value!r}")
    else:
        raise ProgramError(f"{role} is of a type that this program does not know")


def _require(data: object, kind: type | tuple[type, ...], role: str) -> Any:
    if not isinstance(data, kind):
        raise ProgramError(f"{role} is {str(data)[:40]!r}, of the wrong type")
    return data
