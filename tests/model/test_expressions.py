from __future__ import annotations

import json

import pytest

from compressor.model import expressions
from compressor.model.expressions import RefusedError

GOOD = [
    "s77",
    "2*s0 + 1",
    "(s0//2)",
    "Eq(s0, 3)",
    "s0 <= 4",
    "-s0**2",
    "Symbol('s77', positive=True, integer=True)",
    "Add(Mul(Integer(-1), Symbol('s77', integer=True)), Integer(2))",
    "FloorDiv(Symbol('s0'), Integer(2))",
    "Pow(Symbol('s0'), Integer(2))",
    "Pow(Symbol('s0'), Rational(1, 2))",
    "Max(Integer(1), Symbol('u0'))",
    "Float('0.5', precision=53)",
    "True",
]
BAD = [
    "__import__('os').system('true')",
    "exec('1')",
    "eval('1')",
    "s0.__class__",
    "(lambda: 1)()",
    "[s0]",
    "s0 if s0 else s0",
    "f's0'",
    "'s0'",
    "print(s0)",
    "Symbol('x\\'+y')",
    "Symbol('s0', __class__=1)",
    "Symbol(exec)",
    "Lambda(s0, s0)",
    "Function('f')(s0)",
    "Integer('1')",
    "(x := 1)",
    "s0; s1",
    "s0\nimport os",
    "s0 # \u0660",
    "9**9**9**9",
    "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
    "2**999999999",
    "LShift(Integer(1), Integer(999999999999))",
    "Pow(Integer(2), Symbol('s0'))",
    "((2**64)**64)**64",
    "u99999999999",
    "1" * 30,
    "(" * 500 + "1" + ")" * 500,
    "s0+" * 5000 + "s0",
    "factorial(s0)",
    "",
]


@pytest.mark.parametrize("text", GOOD)
def test_expressions_that_torch_writes(text):
    expressions.check_expression(text)


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_expressions_that_it_does_not(text):
    with pytest.raises(RefusedError, match="the expression"):
        expressions.check_expression(text)


def test_every_sympy_form_of_a_symbolic_size_passes():
    import sympy
    from torch.utils._sympy import functions

    s, t = sympy.Symbol("s0", positive=True, integer=True), sympy.Symbol("u1", integer=True)
    made = [s + 1, 2 * s * t, s**2, s / 2, functions.FloorDiv(s, 3), functions.PythonMod(s, 4), sympy.Max(s, t), -s]
    made += [sympy.Eq(s, t), sympy.Ne(s, 2), s < t, s >= 2, functions.CeilToInt(s / 2), sympy.Min(s, 8)]
    made += [functions.ModularIndexing(s, 2, 3), functions.ToFloat(s), functions.IntTrueDiv(s, t), sympy.Not(s < t)]
    for expression in made:
        expressions.check_expression(sympy.srepr(expression))
        expressions.check_expression(str(expression))


@pytest.mark.parametrize(
    "name",
    [
        "torch.ops.aten.conv2d.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.higher_order.cond",
        "torch.ops.quantized_decomposed.quantize_per_tensor.default",
        "_operator.add",
        "math.trunc",
        "torch.sym_max",
        "torch._sym_sqrt",
    ],
)
def test_operators_that_compute(name):
    expressions.check_operator(name)


@pytest.mark.parametrize(
    "name",
    [
        "torch.os.system",
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.conv2d.__class__",
        "torch.ops.aten.__class__.default",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
        "torch.ops.mylib.op.default",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.factorial",
        "#executorch:op",
        "builtins.eval",
        "torch.ops.aten.conv2d.default\n",
        "",
    ],
)
def test_operators_that_do_not(name):
    with pytest.raises(RefusedError, match="the operator"):
        expressions.check_operator(name)


def spec(kind, context, *children, protocol=1):
    return json.dumps([protocol, {"type": kind, "context": context, "children_spec": list(children)}])


def test_structures_that_torch_writes():
    import torch
    from torch.utils import _pytree

    for tree in [(1, [2]), {"a": 1, "b": (2,)}, ((1,), {"x": 2}), torch.ones(1), None]:
        text = _pytree.treespec_dumps(_pytree.tree_structure(tree))
        expressions.check_structure(text, names_become_source=True)


@pytest.mark.parametrize(
    "text",
    [
        spec("builtins.dict", json.dumps({"__enum__": True, "fqn": "evil:x", "name": "y"})),
        spec("builtins.dict", json.dumps([{"__enum__": True, "fqn": "evil:x", "name": "y"}])),
        spec("collections.defaultdict", json.dumps({"default_factory_module": "os", "default_factory_name": "abort"})),
        spec("evil.Type", "null"),
        spec("builtins.dict", json.dumps(["a'): pass; ("])),
        spec("builtins.dict", json.dumps(["a", 1.5])),
        spec("builtins.tuple", "null", 7),
        spec("builtins.tuple", "null", protocol=2),
        "no json",
        "[" * 5000,
    ],
)
def test_structures_that_it_does_not(text):
    with pytest.raises(RefusedError):
        expressions.check_structure(text, names_become_source=True)


def test_keys_of_outputs_may_hold_more_than_identifiers():
    text = spec("builtins.dict", json.dumps(["logits/main", 3]))
    expressions.check_structure(text, names_become_source=False)
    with pytest.raises(RefusedError):
        expressions.check_structure(text, names_become_source=True)


@pytest.mark.parametrize("name", ["x): import os #", "a b", "1x", "lambda", "a.b", "x\n", "é"])
def test_names_that_cannot_stand_in_source(name):
    with pytest.raises(RefusedError):
        expressions.check_identifier(name)
