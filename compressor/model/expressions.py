"""The strict grammar of the strings in an exported program that torch turns into code.

``torch.export.load`` hands symbolic sizes to ``sympy.sympify``, which evaluates Python; resolves operator names by
``getattr`` from ``torch`` on; imports the modules that an input structure names; and writes the names of nodes and
weights into Python source that it executes. Each of them must match what torch itself writes there, and nothing more.
"""

from __future__ import annotations

import ast
import json
import keyword
import re

_MAX_EXPRESSION = 10_000
_MAX_DIGITS = 20
_MAX_EXPONENT = 64
_MAX_POWER_NESTING = 2

# What sympy.srepr and str write for the expressions of torch.fx.experimental.symbolic_shapes.
_FUNCTIONS = frozenset(
    {"Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "floor", "ceiling"}
    | {"Not", "And", "Or", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality"}
    | {"StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Where", "Identity"}
    | {"FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "PythonMod", "LShift", "RShift", "PowByNatural"}
    | {"FloatPow", "FloatTrueDiv", "IntTrueDiv", "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat"}
    | {"RoundToInt", "RoundDecimal", "ToFloat", "IsNonOverlappingAndDenseIndicator", "OpaqueUnaryFn_sqrt"}
)
# Keywords: what is assumed of a Symbol, and the precision of a Float.
_ASSUMPTIONS = frozenset(
    {"integer", "positive", "negative", "nonnegative", "nonpositive", "zero", "nonzero", "real", "finite", "precision"}
    | {"commutative", "complex", "extended_real", "hermitian", "imaginary", "infinite", "rational", "even", "odd"}
)
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
# No long numbers: torch counts up to the number of an unbacked symbol.
_SYMBOL = re.compile(r"(?!.*[0-9]{7})[A-Za-z_]\w{0,40}", re.ASCII)

_ARITHMETIC = frozenset(
    {"add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "eq", "ne", "lt", "le", "gt", "ge"}
    | {"and_", "or_", "xor", "not_", "lshift", "rshift", "getitem"}
)
_MATH = frozenset({"ceil", "floor", "trunc", "sqrt", "pow", "log", "log2", "exp", "fabs"})
_SYMBOLIC = frozenset(
    {"sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sqrt", "sym_sum", "_sym_sqrt"}
)
_HIGHER_ORDER = frozenset(
    {"cond", "while_loop", "map", "map_impl", "scan", "associative_scan", "out_dtype", "flex_attention"}
    | {"wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint", "wrap_activation_checkpoint"}
)
OPERATOR_NAMESPACES = frozenset({"aten", "prims", "quantized_decomposed", "quantized", "torchvision", "torchao"})
"""Where a model's operators may come from; none of these reads or writes files but those in :data:`FILE_OPERATORS`."""
FILE_OPERATORS = frozenset({"save", "from_file", "load_tensor"})
"""Operators that read or write files, among all 4374 that torch 2.13 registers."""
_DUNDER_OPERATORS = frozenset(f"__{i}{name}__" for name in ("and", "or", "xor", "lshift", "rshift") for i in ("", "i"))
_OPERATOR = re.compile(r"torch\.ops\.([A-Za-z]\w*)\.(\w+)\.([A-Za-z_]\w*)", re.ASCII)

_CONTAINERS = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DOTTED = re.compile(r"[\w .:/@+-]*")


class RefusedError(Exception):
    """A string that torch would not have written; says which and why."""


def check_symbol(text: str) -> None:
    """Require the name of a symbolic size, such as ``s77``.

    Raises:
        RefusedError: It is not one.
    """
    if not _SYMBOL.fullmatch(text):
        raise RefusedError(f"the symbol {text[:60]!r}")


def check_identifier(text: str) -> None:
    """Require a name that may stand in Python source, or nothing.

    Raises:
        RefusedError: It is not one.
    """
    if text and (not _IDENTIFIER.fullmatch(text) or keyword.iskeyword(text)):
        raise RefusedError(f"the name {text[:60]!r}")


def check_dotted(text: str) -> None:
    """Require a name such as a weight's: nothing that could end a quoted string or a line.

    Raises:
        RefusedError: It is not one.
    """
    if not _DOTTED.fullmatch(text):
        raise RefusedError(f"the name {text[:60]!r}")


def check_operator(text: str) -> None:
    """Require an operator that computes, by its full name as torch writes it.

    Raises:
        RefusedError: It reads or writes files, calls Python, or is in a namespace that is not known to be harmless.
    """
    module, _, rest = text.partition(".")
    known = {"_operator": _ARITHMETIC, "math": _MATH}.get(module, _SYMBOLIC if module == "torch" else frozenset())
    if rest in known or text.removeprefix("torch.ops.higher_order.") in _HIGHER_ORDER:
        return
    match = _OPERATOR.fullmatch(text)
    if match is None or match[1] not in OPERATOR_NAMESPACES or match[3].startswith("__"):
        raise RefusedError(f"the operator {text[:80]!r}")
    if match[2] in FILE_OPERATORS or (match[2].startswith("__") and match[2] not in _DUNDER_OPERATORS):
        raise RefusedError(f"the operator {text[:80]!r}")


def check_structure(text: str, *, names_become_source: bool) -> None:
    """Require a nesting of tuples, lists and dicts, as ``torch.utils._pytree.treespec_dumps`` writes it.

    Args:
        text: JSON.
        names_become_source: Whether the keys of dicts become names in Python source (inputs), or stay data (outputs).

    Raises:
        RefusedError: It holds anything else, such as an enum's or a default factory's module, which would be imported.
    """
    try:
        protocol, spec = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise RefusedError(f"the structure {text[:60]!r}") from error
    pending = [spec]
    while pending:
        node = pending.pop()
        if protocol != 1 or not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
            raise RefusedError(f"the structure {text[:60]!r}")
        _check_container(node["type"], node["context"], names_become_source)
        if not isinstance(node["children_spec"], list):
            raise RefusedError(f"the structure {text[:60]!r}")
        pending.extend(node["children_spec"])


def _check_container(kind: object, context: object, names_become_source: bool) -> None:
    if kind is None and context is None:
        return
    if not isinstance(kind, str) or not isinstance(context, str):
        raise RefusedError(f"the structure {str(kind)[:60]!r}")
    if kind == "collections.namedtuple":
        # Only names a type that the user's own code registered.
        check_dotted(context)
        return
    if kind not in _CONTAINERS:
        raise RefusedError(f"the structure {kind[:60]!r}")
    try:
        keys = json.loads(context)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the structure {context[:60]!r}") from error
    for key in keys if isinstance(keys, list) else [] if keys is None else [None]:
        if isinstance(key, int) and not names_become_source:
            continue
        if not isinstance(key, str):
            raise RefusedError(f"the structure {context[:60]!r}")
        (check_identifier if names_become_source else check_dotted)(key)


def check_expression(text: str) -> None:
    """Require a symbolic size: symbols, numbers, comparisons and arithmetic functions.

    Raises:
        RefusedError: It holds anything else, or a power that would take for ever to compute.
    """
    refused = RefusedError(f"the expression {text[:80]!r}")
    if len(text) > _MAX_EXPRESSION or not text.isascii() or not text.isprintable():
        raise refused
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refused from error
    # Depth first, with the number of powers around each node.
    pending: list[tuple[ast.expr, int]] = [(tree.body, 0)]
    while pending:
        node, powers = pending.pop()
        children = _children(node, refused)
        exponent = _exponent(node)
        if exponent is not None:
            powers += 1
            if powers > _MAX_POWER_NESTING or not _small(exponent):
                raise refused
        pending.extend((child, powers) for child in children)


def _children(node: ast.expr, refused: RefusedError) -> list[ast.expr]:
    """The parts of a node that is allowed; raises for one that is not."""
    match node:
        case ast.BinOp(left, op, right) if isinstance(op, _OPERATORS):
            return [left, right]
        case ast.UnaryOp(op, operand) if isinstance(op, _OPERATORS):
            return [operand]
        case ast.BoolOp(_, values):
            return values
        case ast.Compare(left, ops, comparators) if all(isinstance(op, _COMPARISONS) for op in ops):
            return [left, *comparators]
        case ast.Constant(value) if isinstance(value, bool | int | float) and len(repr(value)) <= _MAX_DIGITS + 4:
            return []
        case ast.Name(name) if _SYMBOL.fullmatch(name):
            return []
        case ast.Call(ast.Name(function), args, keywords) if function in _FUNCTIONS:
            return _arguments(function, args, keywords, refused)
    raise refused


def _arguments(
    function: str, args: list[ast.expr], keywords: list[ast.keyword], refused: RefusedError
) -> list[ast.expr]:
    for word in keywords:
        value = word.value.value if isinstance(word.value, ast.Constant) else None
        if function not in {"Symbol", "Float"} or word.arg not in _ASSUMPTIONS or not isinstance(value, bool | int):
            raise refused
        if not 0 <= value <= 1000:
            raise refused
    match function, args:
        case "Symbol", [ast.Constant(str(name))] if _SYMBOL.fullmatch(name):
            return []
        case "Float", [ast.Constant(str(digits))] if re.fullmatch(r"-?[0-9.]{1,40}(e[+-]?[0-9]{1,3})?", digits):
            return []
        case ("Symbol", _) | ("Float", _):
            raise refused
    return args


def _exponent(node: ast.expr) -> ast.expr | None:
    match node:
        case ast.BinOp(_, ast.Pow(), right):
            return right
        case ast.Call(ast.Name(function), [_, right]) if function in _POWERS:
            return right
    return None


def _small(node: ast.expr) -> bool:
    """Whether an exponent is a plain number of at most 64."""
    match node:
        case ast.Constant(value) if isinstance(value, int | float):
            return abs(value) <= _MAX_EXPONENT
        case ast.UnaryOp(ast.USub(), operand):
            return _small(operand)
        case ast.Call(ast.Name("Integer"), [operand]):
            return _small(operand)
        case ast.Call(ast.Name("Rational"), [above, below]):
            return _small(above) and _small(below)
        case ast.Call(ast.Name("Float"), [ast.Constant(str(digits))]):
            return len(digits) <= _MAX_DIGITS and abs(float(digits)) <= _MAX_EXPONENT
    return False
