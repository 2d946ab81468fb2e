from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chains import save_chain
from hypothesis import given
from hypothesis import strategies as st

from compressor.passes.payoff import Stopwatch, find_paying, layer_errors

GROUPS = [("a",), ("b", "c"), ("d",)]
FLOAT = Path("float")


def build(kept: frozenset[str]) -> Path:
    return Path("int8-" + "".join(sorted(kept)))


def machine(saved: dict[str, float], log: list[str] | None = None) -> Callable[[Path, Path], float]:
    """A made-up CPU instead of a clock: a model of 100 ms whose layers save the given ms when they are int8."""

    def cost(path: Path) -> float:
        if log is not None:
            log.append(path.name)
        layers = path.name.removeprefix("int8-") if path != FLOAT else ""
        return 100 - sum(saved.get(layer, 0) for layer in layers)

    return lambda first, second: cost(second) / cost(first)


def decide(saved: dict[str, float]) -> tuple[frozenset[str], float]:
    found = find_paying(FLOAT, GROUPS, build, (), 1, machine(saved))
    return found.kept, round(found.speed, 3)


def test_everything_pays() -> None:
    assert decide({"a": 20, "b": 20, "c": 10, "d": 20}) == (frozenset("abcd"), 0.3)


def test_group_that_costs_is_left_out() -> None:
    assert decide({"a": 40, "b": -20, "c": 5, "d": 20}) == (frozenset("ad"), 0.4)


def test_one_group_that_pays_in_a_model_that_does_not() -> None:
    assert decide({"a": 10, "b": -30, "c": -5, "d": -1}) == (frozenset("a"), 0.9)


def test_nothing_pays() -> None:
    found = find_paying(FLOAT, GROUPS, build, (), 1, machine({"a": -10, "b": -10, "d": -10}))
    assert found.kept == frozenset()
    assert found.speed == pytest.approx(1.3)
    assert [(group, round(ratio, 2)) for group, ratio in found.groups] == [
        (("a",), 1.1),
        (("b", "c"), 1.1),
        (("d",), 1.1),
    ]


def test_gain_too_small_to_be_sure_of_is_none() -> None:
    assert decide({"a": 2, "b": 1})[0] == frozenset()  # 3 %
    assert decide({"a": 30, "b": 1, "d": -1}) == (frozenset("abcd"), 0.7)  # 1 % is no reason to take d out


def test_parts_that_pay_only_together_are_told_by_the_whole() -> None:
    def heat(first: Path, second: Path) -> float:  # a made-up CPU: only the whole graph in int8 is fast
        cost = {"float": 100.0, "int8-abcd": 60.0}
        return cost.get(second.name, 120.0) / cost.get(first.name, 120.0)

    found = find_paying(FLOAT, GROUPS, build, (), 1, heat)
    assert (found.kept, found.speed) == (frozenset("abcd"), 0.6)


def test_one_noisy_heat_does_not_decide() -> None:
    seen = []

    def heat(first: Path, second: Path) -> float:  # a made-up CPU: the first time looks fast by accident
        seen.append(second.name)
        return 0.5 if len(seen) == 1 else 1.02

    assert find_paying(FLOAT, [("a",)], build, (), 1, heat).kept == frozenset()


@given(
    st.lists(st.floats(-15, 15), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(["ab", "bc", "cd", "ac"]), st.floats(-10, 10), max_size=3),
)
def test_what_is_kept_is_never_slower_than_float(saved: list[float], together: dict[str, float]) -> None:
    """Whatever each layer saves or costs by itself, and beside another one that is int8 too."""
    layers = "abcdef"[: len(saved)]

    def cost(path: Path) -> float:
        low = "" if path == FLOAT else path.name.removeprefix("int8-")
        pairs = sum(gain for pair, gain in together.items() if set(pair) <= set(low))
        return max(200 - sum(saved[layers.index(layer)] for layer in low) - pairs, 1.0)

    found = find_paying(FLOAT, [(x,) for x in layers], build, (), 1, lambda first, second: cost(second) / cost(first))
    took = cost(build(found.kept)) if found.kept else cost(FLOAT)
    assert took <= (0.95 * cost(FLOAT) if found.kept else cost(FLOAT)) * (1 + 1e-9)


def test_same_times_give_the_same_decision_and_the_same_work() -> None:
    logs: list[list[str]] = [[], []]
    found = [find_paying(FLOAT, GROUPS, build, (), 1, machine({"a": 40, "b": -20}, log)) for log in logs]
    assert found[0] == found[1]
    assert logs[0] == logs[1]


def test_stopwatch_tells_a_deep_model_from_a_shallow_one(tmp_path: Path) -> None:
    short = save_chain(tmp_path / "short.onnx", width=128, layers=2)
    deep = save_chain(tmp_path / "deep.onnx", width=128, layers=30)
    watch = Stopwatch((np.ones((4, 128), np.float32),), 1)
    assert watch.heat(short, deep) > 3
    assert watch.heat(deep, short) < 1 / 3


def test_error_of_a_layer_is_relative_to_the_output(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "a.onnx", layers=1, seed=0)
    other = save_chain(tmp_path / "b.onnx", layers=1, seed=1)
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    variants = {"same": path, "other": other}
    found = layer_errors(path, list(variants), lambda kept: variants[next(iter(kept))], (x,), 1, 4)
    assert found["same"] == 0
    assert 0.5 < found["other"] < 3
