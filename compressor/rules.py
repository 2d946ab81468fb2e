"""Which layers a method touches: ordered rules of a name pattern and kinds of layer; the first that matches decides.

A rule is written as a line, ``exclude head*`` or ``include layers.*.conv? conv2d linear``: a verb, a pattern of names,
and the kinds of layer it holds for (all, if none is given). Patterns are those of file names: ``*``, ``?``, ``[ab]``.
Layers that no rule matches are left alone if any rule says ``include``, and touched otherwise.

A method may have verbs of its own that say how a layer is touched, such as ``dynamic head*`` of ``int8``. Methods on
the PyTorch model see its layers (``layers.0.conv1``, of kind ``conv2d``), those on the ONNX graph its nodes
(``layers.0.conv1/Conv``, of kind ``Conv``), and a node is meant by its layer's name as well: the same rule can do for
both.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from compressor.errors import RecipeError, nearest

_VERBS = ("exclude", "include")
_SHOWN = 5


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        include: Whether layers that match are touched.
        pattern: Of the layer's name.
        kinds: Patterns of the layer's kind, any case, e.g. ``conv*``; empty for all kinds.
        scheme: How layers that match are touched; empty if the rule only says that they are.
    """

    include: bool
    pattern: str
    kinds: tuple[str, ...] = ()
    scheme: str = ""

    @classmethod
    def parse(cls, line: str, schemes: tuple[str, ...] = ()) -> Rule:
        """Read a rule such as ``exclude head* linear``.

        Args:
            line: The rule.
            schemes: Verbs that the method has beside ``exclude`` and ``include``.

        Raises:
            RecipeError: It is none.
        """
        verb, *rest = line.split() or [""]
        if verb not in (*_VERBS, *schemes):
            known = nearest(verb, (*_VERBS, *schemes))
            raise RecipeError(f"a rule cannot start with '{verb}'", where=f"rule '{line}'", mend=known)
        if not rest:
            raise RecipeError("names no layers", where=f"rule '{line}'", mend=f"write for instance '{verb} head*'")
        return cls(verb != "exclude", rest[0], tuple(rest[1:]), verb if verb in schemes else "")

    def __str__(self) -> str:
        return " ".join([self.scheme or _VERBS[self.include], self.pattern, *self.kinds])

    def matches(self, name: str, kind: str) -> bool:
        """Whether the rule holds for a layer."""
        fits = not self.kinds or any(fnmatchcase(kind.lower(), each.lower()) for each in self.kinds)
        return fits and _is_named(name, self.pattern)


def _is_named(name: str, pattern: str) -> bool:
    """Whether a pattern is of a layer's name, or of the layer that a graph's node belongs to."""
    layer, slash, _ = name.rpartition("/")
    return fnmatchcase(name, pattern) or (slash != "" and fnmatchcase(layer, pattern))


def parse_rules(lines: Iterable[str], schemes: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Read the rules of a recipe, in order.

    Args:
        lines: The rules.
        schemes: Verbs that the method has beside ``exclude`` and ``include``.

    Raises:
        RecipeError: One of them is no rule, or there is a text where a list of rules should be.
    """
    if isinstance(lines, str):
        raise RecipeError("is one text, not a list", where=f"rules '{lines}'", mend=f"write ['{lines}']")
    return tuple(Rule.parse(line, schemes) for line in lines)


class Ruled:
    """A method with a setting ``rules``, which are read when it is made: a slip is told before any work.

    Attributes:
        schemes: Verbs that the method has beside ``exclude`` and ``include``.
        rules: Which layers, as this module has it.
    """

    schemes: ClassVar[tuple[str, ...]] = ()
    rules: tuple[str, ...]

    def __post_init__(self) -> None:
        parse_rules(self.rules, self.schemes)
        object.__setattr__(self, "rules", tuple(self.rules))

    @property
    def parsed(self) -> tuple[Rule, ...]:
        """The rules, read."""
        return parse_rules(self.rules, self.schemes)


def touched(layers: Mapping[str, str], rules: Sequence[Rule]) -> frozenset[str]:
    """Choose the layers that a method touches.

    Args:
        layers: Name of each layer to its kind.
        rules: In order; the first that matches a layer decides on it.

    Returns:
        The names of the layers to touch.

    Raises:
        RecipeError: A rule matches no layer, or only layers on which earlier rules have decided.
    """
    decided = decide(layers, rules)
    others = not any(rule.include and not rule.scheme for rule in rules)
    return frozenset(name for name in layers if (decided[name].include if name in decided else others))


def decide(layers: Mapping[str, str], rules: Sequence[Rule]) -> dict[str, Rule]:
    """Find the rule for each layer.

    Args:
        layers: Name of each layer to its kind.
        rules: In order; the first that matches a layer decides on it.

    Returns:
        Layer to rule; layers that no rule matches are left out.

    Raises:
        RecipeError: A rule matches no layer, or only layers on which earlier rules have decided.
    """
    decided: dict[str, Rule] = {}
    for rule in rules:
        matched = [name for name, kind in layers.items() if rule.matches(name, kind)]
        if not matched:
            raise RecipeError("matches no layer", where=f"rule '{rule}'", mend=_hint(rule, layers))
        fresh = [name for name in matched if name not in decided]
        if not fresh:
            raise RecipeError(
                f"has no effect: the rules before it decide on all {len(matched)} layers that it matches",
                where=f"rule '{rule}'",
                mend="move it to the front, or leave it out",
            )
        decided.update(dict.fromkeys(fresh, rule))
    return decided


def _hint(rule: Rule, layers: Mapping[str, str]) -> str:
    """What the rule probably means: a kind that exists, or the names most like its pattern."""
    named = [kind for name, kind in layers.items() if _is_named(name, rule.pattern)]
    if named:
        return f"the layers of that name are {', '.join(sorted(set(named)))}"
    bare = rule.pattern.strip("*?")
    close = difflib.get_close_matches(bare, layers, n=_SHOWN, cutoff=0.5) or sorted(layers)[:_SHOWN]
    more = f", … ({len(layers)} layers)" if len(layers) > len(close) else ""
    return f"nearest names: {', '.join(close)}{more}" if close else "the model has no layers with weights"
