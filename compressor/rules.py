"""Which layers a method touches: ordered rules of a name pattern and kinds of layer; the first that matches decides.

A rule is written as a line, ``exclude head*`` or ``include layers.*.conv? conv2d linear``: a verb, a pattern of names,
and the kinds of layer it holds for (all, if none is given). Patterns are those of file names: ``*``, ``?``, ``[ab]``.
Layers that no rule matches are touched if all rules exclude, and left alone otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

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
    """

    include: bool
    pattern: str
    kinds: tuple[str, ...] = ()

    @classmethod
    def parse(cls, line: str) -> Rule:
        """Read a rule such as ``exclude head* linear``.

        Raises:
            RecipeError: It is none.
        """
        verb, *rest = line.split() or [""]
        if verb not in _VERBS:
            raise RecipeError(f"a rule cannot start with '{verb}'", where=f"rule '{line}'", mend=nearest(verb, _VERBS))
        if not rest:
            raise RecipeError("names no layers", where=f"rule '{line}'", mend=f"write for instance '{verb} head*'")
        return cls(verb == "include", rest[0], tuple(rest[1:]))

    def __str__(self) -> str:
        return " ".join([_VERBS[self.include], self.pattern, *self.kinds])

    def matches(self, name: str, kind: str) -> bool:
        """Whether the rule holds for a layer."""
        fits = not self.kinds or any(fnmatchcase(kind.lower(), each.lower()) for each in self.kinds)
        return fits and fnmatchcase(name, self.pattern)


def parse_rules(lines: Iterable[str]) -> tuple[Rule, ...]:
    """Read the rules of a recipe, in order.

    Raises:
        RecipeError: One of them is no rule.
    """
    return tuple(Rule.parse(line) for line in lines)


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
    undecided = dict(layers)
    chosen: set[str] = set()
    for rule in rules:
        matched = [name for name, kind in layers.items() if rule.matches(name, kind)]
        if not matched:
            raise RecipeError("matches no layer", where=f"rule '{rule}'", mend=_hint(rule, layers))
        fresh = [name for name in matched if name in undecided]
        if not fresh:
            raise RecipeError(
                f"has no effect: the rules before it decide on all {len(matched)} layers that it matches",
                where=f"rule '{rule}'",
                mend="move it to the front, or leave it out",
            )
        for name in fresh:
            del undecided[name]
        chosen.update(fresh if rule.include else ())
    if not any(rule.include for rule in rules):
        chosen.update(undecided)
    return frozenset(chosen)


def _hint(rule: Rule, layers: Mapping[str, str]) -> str:
    """What the rule probably means: a kind that exists, or the names most like its pattern."""
    named = [kind for name, kind in layers.items() if fnmatchcase(name, rule.pattern)]
    if named:
        return f"the layers of that name are {', '.join(sorted(set(named)))}"
    bare = rule.pattern.strip("*?")
    close = difflib.get_close_matches(bare, layers, n=_SHOWN, cutoff=0.5) or sorted(layers)[:_SHOWN]
    more = f", … ({len(layers)} layers)" if len(layers) > len(close) else ""
    return f"nearest names: {', '.join(close)}{more}" if close else "the model has no layers with weights"
