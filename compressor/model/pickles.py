"""Reading a pickle's instructions without carrying any of them out.

A pickle is a program for a small stack machine (PEP 307, PEP 3154; ``pickletools`` in the standard library documents
each instruction). This module follows such a program with placeholders on the stack, so that what it would build, and
which Python names it would import and call, is known before anything is loaded.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

_MAX_INSTRUCTIONS = 5_000_000
_MAX_DEPTH = 200
_MAX_KEYS = 64

DICTIONARIES = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"})


class PickleError(Exception):
    """The pickle is damaged, or too large or too deep to be a model's."""


@dataclass(slots=True)
class Item:
    """What the program would have put on its stack.

    Attributes:
        kind: ``dict``, ``tuple``, ``list``, ``object``, ``global``, ``text``, ``mark`` or ``value``.
        name: The class of an object, the dotted name of a global, the text of a text.
        depth: How deeply it is nested.
        entries: Of a dict: the first keys with what they hold.
    """

    kind: str
    name: str = ""
    depth: int = 0
    entries: list[tuple[str, Item]] = field(default_factory=list)


@dataclass(frozen=True)
class Scan:
    """What a pickle would do.

    Attributes:
        root: What it would build.
        names: Dotted Python names that it would import, in order of appearance.
    """

    root: Item
    names: tuple[str, ...]


def scan(source: bytes | IO[bytes]) -> Scan:
    """Follow a pickle's program up to its end, building nothing.

    Args:
        source: The pickle, or a file at its start; a file is left just behind the pickle's end.

    Returns:
        What it would build and import.

    Raises:
        PickleError: Damaged, over 5 million instructions, or nested over 200 deep.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):
            if count >= _MAX_INSTRUCTIONS:
                raise PickleError(f"its pickle has over {_MAX_INSTRUCTIONS:,} instructions")
            machine.step(opcode, argument)
    except (ValueError, IndexError, KeyError, UnicodeError, OverflowError, MemoryError) as error:
        raise PickleError("its pickle is damaged or cut off") from error
    if len(machine.stack) != 1:
        raise PickleError("its pickle is damaged or cut off")
    return Scan(machine.stack[0], tuple(machine.names))


class _Machine:
    """The stack machine, with placeholders for objects."""

    def __init__(self) -> None:
        self.stack: list[Item] = []
        self.memo: dict[int, Item] = {}
        self.names: dict[str, None] = {}
        self._special: dict[str, Callable[[object], None]] = {
            "MARK": lambda _: self.stack.append(Item("mark")),
            "POP": lambda _: self._pop_any(),
            "POP_MARK": lambda _: self._drop(),
            "DUP": lambda _: self.stack.append(self.stack[-1]),
            "EMPTY_DICT": lambda _: self.stack.append(Item("dict")),
            "DICT": lambda _: self._set_items(self._to_mark(), Item("dict"), push=True),
            "SETITEM": lambda _: self._set_item(),
            "SETITEMS": lambda _: self._set_items(self._to_mark(), self.stack[-1], push=False),
            "EMPTY_LIST": lambda _: self.stack.append(Item("list")),
            "EMPTY_SET": lambda _: self.stack.append(Item("list")),
            "LIST": lambda _: self._gather("list", self._to_mark()),
            "FROZENSET": lambda _: self._gather("tuple", self._to_mark()),
            "APPEND": lambda _: self._extend([self._pop()]),
            "APPENDS": lambda _: self._extend(self._to_mark()),
            "ADDITEMS": lambda _: self._extend(self._to_mark()),
            "EMPTY_TUPLE": lambda _: self.stack.append(Item("tuple")),
            "TUPLE": lambda _: self._gather("tuple", self._to_mark()),
            "TUPLE1": lambda _: self._gather("tuple", self._take(1)),
            "TUPLE2": lambda _: self._gather("tuple", self._take(2)),
            "TUPLE3": lambda _: self._gather("tuple", self._take(3)),
            "GLOBAL": lambda argument: self._global(str(argument).replace(" ", ".", 1)),
            "STACK_GLOBAL": lambda _: self._global(".".join(item.name for item in self._take(2))),
            "REDUCE": lambda _: self._call(self._take(2)),
            "NEWOBJ": lambda _: self._call(self._take(2)),
            "NEWOBJ_EX": lambda _: self._call(self._take(3)),
            "OBJ": lambda _: self._call(self._to_mark()),
            "INST": lambda argument: self._instance(str(argument).replace(" ", ".", 1)),
            "BUILD": lambda _: self._extend([self._pop()]),
            "BINPERSID": lambda _: self._call([Item("global", "persistent id"), self._pop()]),
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            "STOP": lambda _: None,
            "READONLY_BUFFER": lambda _: None,
        }

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        name = opcode.name
        if special := self._special.get(name):
            special(argument)
        elif name.endswith("PUT"):
            self._remember(_number(argument))
        elif name.endswith("GET"):
            self.stack.append(self.memo[_number(argument)])
        elif name.startswith("EXT"):
            self._global("copyreg extension")
        elif opcode.stack_before:
            raise PickleError(f"its pickle holds the unknown instruction {name}")
        elif opcode.stack_after:
            self.stack.append(Item("text", argument) if isinstance(argument, str) else Item("value"))

    def _pop(self) -> Item:
        item = self.stack.pop()
        if item.kind == "mark":
            raise PickleError("its pickle is damaged or cut off")
        return item

    def _pop_any(self) -> None:
        self.stack.pop()

    def _drop(self) -> None:
        self._to_mark()

    def _take(self, count: int) -> list[Item]:
        return [self._pop() for _ in range(count)][::-1]

    def _to_mark(self) -> list[Item]:
        items: list[Item] = []
        while (item := self.stack.pop()).kind != "mark":
            items.append(item)
        return items[::-1]

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _push(self, item: Item) -> None:
        if item.depth > _MAX_DEPTH:
            raise PickleError(f"its pickle is nested over {_MAX_DEPTH} deep")
        self.stack.append(item)

    def _gather(self, kind: str, items: list[Item]) -> None:
        self._push(Item(kind, depth=_deeper(items)))

    def _extend(self, items: list[Item]) -> None:
        top = self.stack[-1]
        top.depth = max(top.depth, _deeper(items))
        if top.depth > _MAX_DEPTH:
            raise PickleError(f"its pickle is nested over {_MAX_DEPTH} deep")

    def _set_item(self) -> None:
        pair = self._take(2)
        self._set_items(pair, self.stack[-1], push=False)

    def _set_items(self, items: list[Item], target: Item, *, push: bool) -> None:
        if push:
            self.stack.append(target)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if len(target.entries) < _MAX_KEYS:
                target.entries.append((key.name, value))
        self._extend(items)

    def _global(self, name: str) -> None:
        self.names[name] = None
        self._push(Item("global", name))

    def _instance(self, name: str) -> None:
        self.names[name] = None
        self._call([Item("global", name), *self._to_mark()])

    def _call(self, parts: list[Item]) -> None:
        kind = "dict" if parts[0].name in DICTIONARIES else "object"
        self._push(Item(kind, parts[0].name, depth=_deeper(parts)))


def _deeper(items: list[Item]) -> int:
    return 1 + max((item.depth for item in items), default=0)


def _number(argument: object) -> int:
    if isinstance(argument, int):
        return argument
    raise PickleError("its pickle is damaged or cut off")
