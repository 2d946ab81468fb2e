from __future__ import annotations

import collections
import io
import pickle
from fractions import Fraction

import pytest

from compressor.model.pickles import PickleError, scan


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "kind", "name"),
    [
        ({"a": (1, [2.5, None]), "b": {True, b"x"}}, "dict", ""),
        (collections.OrderedDict(a=1), "dict", "collections.OrderedDict"),
        ([1, "two"], "list", ""),
        ((1, (2, (3,))), "tuple", ""),
        ("text", "text", "text"),
        (7, "value", ""),
    ],
)
def test_root(value, kind, name, protocol):
    root = scan(pickle.dumps(value, protocol)).root
    assert (root.kind, root.name) == (kind, name)


@pytest.mark.parametrize("protocol", range(6))
def test_names_that_would_be_imported(protocol):
    found = scan(pickle.dumps({"f": Fraction(1, 2), "g": eval}, protocol))
    assert "fractions.Fraction" in found.names
    assert {"builtins.eval", "__builtin__.eval"} & set(found.names)
    assert dict(found.root.entries)["f"].kind == "object"


def test_nothing_is_called(tmp_path):
    marker = tmp_path / "marker"
    program = f"cpathlib\nPath.touch\n(cpathlib\nPath\n(V{marker}\ntRtR.".encode()
    assert scan(program).names == ("pathlib.Path.touch", "pathlib.Path")
    assert not marker.exists()


def test_a_file_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps((2,)))
    assert [scan(stream).root.kind, scan(stream).root.kind] == ["list", "tuple"]


def test_deep_nesting_is_refused():
    # Hashing tuples nested a million deep overflows the stack of the interpreter itself.
    with pytest.raises(PickleError, match="nested over 200 deep"):
        scan(b"\x80\x02)" + b"\x85" * 1_000_000 + b".")


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"\x80\x02}", b"(", b"\x80\x020.", b"\x80\x02h\x05.", b"\x80\x02X\xff\xff\xff\x7fab"]
)
def test_damaged(content):
    with pytest.raises(PickleError, match="its pickle is damaged or cut off"):
        scan(content)
