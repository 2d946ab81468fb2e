from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import RecipeError
from compressor.rules import Rule, decide, parse_rules, touched

LAYERS = {
    "stem": "conv2d",
    "layers.0.conv1": "conv2d",
    "layers.0.conv2": "conv2d",
    "layers.1.conv1": "conv2d",
    "layers.1.down": "conv2d",
    "head": "linear",
}


def chosen(*lines: str) -> set[str]:
    return set(touched(LAYERS, parse_rules(lines)))


def test_without_rules_all_are_touched() -> None:
    assert chosen() == set(LAYERS)


def test_excluding_leaves_the_others() -> None:
    assert chosen("exclude head", "exclude layers.1.*") == {"stem", "layers.0.conv1", "layers.0.conv2"}


def test_including_leaves_out_the_others() -> None:
    assert chosen("include *.conv?") == {"layers.0.conv1", "layers.0.conv2", "layers.1.conv1"}


def test_first_match_decides() -> None:
    assert chosen("include layers.0.conv1", "exclude layers.0.*", "include layers.*") == {
        "layers.0.conv1", "layers.1.conv1", "layers.1.down",
    }  # fmt: skip


def test_kinds() -> None:
    assert chosen("exclude * LINEAR") == set(LAYERS) - {"head"}
    assert chosen("include * conv* embedding") == set(LAYERS) - {"head"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["exclude layers.0.conv3"],
            "rule 'exclude layers.0.conv3': matches no layer; nearest names: layers.0.conv2, layers.0.conv1, "
            "layers.1.conv1, layers.1.down, … (6 layers)",
        ),
        (
            ["include head conv*"],
            "rule 'include head conv*': matches no layer; the layers of that name are linear",
        ),
        (
            ["exclude layers.*", "include layers.0.*"],
            "rule 'include layers.0.*': has no effect: the rules before it decide on all 2 layers that it matches; "
            "move it to the front, or leave it out",
        ),
        (["exclde head"], "rule 'exclde head': a rule cannot start with 'exclde'; did you mean 'exclude'? "
                          "known: exclude, include"),
        (["exclude"], "rule 'exclude': names no layers; write for instance 'exclude head*'"),
        ([""], "rule '': a rule cannot start with ''; known: exclude, include"),
    ],
)  # fmt: skip
def test_errors(lines: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        touched(LAYERS, parse_rules(lines))
    assert str(caught.value) == message


NODES = {"stem/Conv": "Conv", "head/Gemm": "Gemm", "head/Gemm_2": "Gemm", "/features/0/Conv": "Conv"}


def test_node_of_a_graph_is_meant_by_its_layers_name() -> None:
    assert touched(NODES, parse_rules(["exclude head"])) == {"stem/Conv", "/features/0/Conv"}
    assert touched(NODES, parse_rules(["exclude head/Gemm"])) == NODES.keys() - {"head/Gemm"}
    assert touched(NODES, parse_rules(["include /features/*"])) == {"/features/0/Conv"}


def test_rule_that_says_how_does_not_say_which_others() -> None:
    rules = parse_rules(["dynamic head", "exclude stem"], ("dynamic", "static"))
    assert touched(NODES, rules) == NODES.keys() - {"stem/Conv"}
    assert {name: rule.scheme for name, rule in decide(NODES, rules).items()} == {
        "head/Gemm": "dynamic", "head/Gemm_2": "dynamic", "stem/Conv": "",
    }  # fmt: skip
    assert [str(rule) for rule in rules] == ["dynamic head", "exclude stem"]
    with pytest.raises(RecipeError, match="a rule cannot start with 'dynamic'"):
        parse_rules(["dynamic head"])


def test_names_are_shown_where_none_is_near() -> None:
    layers = {name: "linear" for name in ("c", "b", "a", "f", "e", "d")}
    with pytest.raises(RecipeError) as caught:
        touched(layers, parse_rules(["exclude decoder.*"]))
    assert str(caught.value) == "rule 'exclude decoder.*': matches no layer; nearest names: a, b, c, d, e, … (6 layers)"


def test_model_without_layers() -> None:
    with pytest.raises(RecipeError) as caught:
        touched({}, parse_rules(["exclude a"]))
    assert str(caught.value) == "rule 'exclude a': matches no layer; the model has no layers with weights"


names = st.text("abc.", min_size=1, max_size=6)


@given(st.dictionaries(names, st.sampled_from(["conv2d", "linear"]), min_size=1))
def test_written_and_read_again(layers: dict[str, str]) -> None:
    rules = [Rule(index % 2 == 0, name, (kind,)) for index, (name, kind) in enumerate(layers.items())]
    assert parse_rules(map(str, rules)) == tuple(rules)
    included = {name for index, name in enumerate(layers) if index % 2 == 0}
    assert touched(layers, rules) == included


def test_importing_loads_no_library() -> None:
    code = "import sys, compressor.rules; print(sorted({'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
