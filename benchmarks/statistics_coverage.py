"""How often the 95 % interval covers the truth, and how often an A/A claims a difference: simulated, not measured.

``python -m benchmarks.statistics_coverage`` writes ``results/statistics_coverage.json`` and ``docs/img/coverage.svg``.
Blocks are log-normal; what a block does to both arms (temperature, clock) is shared by the pair, as on a real machine.
Then the hard cases, window by window in the protocol's order: drift, heavy tails, bursts of other load, an arm of two
speeds, a speed that outlasts the block, a counter that moves slowly, and an idle power known from three windows.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.recording import save
from compressor import compare, stats
from compressor.results import Artifact, Environment, Measurement, Plan, RuntimeInfo, Trial

NOISES, RATIOS, BLOCKS = (0.03, 0.10), (0.6, 1.0, 1.1), (5, 10, 20)
SHARED_NOISE = 0.2
RESAMPLES = 1000
FIGURE = Path(__file__).parents[1] / "docs" / "img" / "coverage.svg"
HARD = {
    "drift: a random walk of 2 % a window": "walk",
    "heavy tails: Student's t with 2 degrees of freedom, 1 %": "tails",
    "bursts: one window in ten is up to 30 % slower": "bursts",
    "two speeds: one process in five of the candidate is 10 % slower": "two speeds",
    "a speed that outlasts the block: 2 %, 0.9 of it from block to block": "lasting",
    "windows of 10 periods of the counter, arms of 40 and 50 W": "counter 10",
    "windows of 100 periods of the counter, arms of 40 and 50 W": "counter 100",
    "energy above 30 W of idle power known to 1 W a window, arms of 40 and 36 W": "above idle",
}
HARD_BLOCKS = (3, 5, 10)
NOWHERE = Environment("simulated", (), 1, 1, (), "simulated", None, None, None, None, 0.0, {})
NOTHING = Artifact("simulated", "onnx", "", 1, (), (), None, None, ())


def bootstrap_interval(logs: np.ndarray, draw: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap of the mean, which the package does not use: shown for comparison."""
    means = logs[draw.integers(0, len(logs), (RESAMPLES, len(logs)))].mean(axis=1)
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    return float(low), float(high)


def coverage(noise: float, ratio: float, blocks: int, runs: int, seed: int) -> dict[str, float]:
    """Share of runs whose interval holds the true ratio."""
    draw = np.random.default_rng([seed, round(1000 * noise), round(100 * ratio), blocks])
    held = {"t_interval": 0, "bootstrap": 0}
    for _ in range(runs):
        shared = draw.lognormal(0, SHARED_NOISE, blocks)
        base, cand = shared * draw.lognormal(0, noise, blocks), shared * ratio * draw.lognormal(0, noise, blocks)
        _, interval = stats.ratio_interval(base.tolist(), cand.tolist())
        if interval is None:
            raise SystemExit("an interval needs two blocks")
        held["t_interval"] += interval[0] <= ratio <= interval[1]
        low, high = bootstrap_interval(np.log(cand / base), draw)
        held["bootstrap"] += low <= ratio <= high
    return {name: count / runs for name, count in held.items()}


def arm(name: str, seconds: list[float]) -> Measurement:
    """A simulated arm that took so many seconds per inference in each block."""
    trials = tuple(Trial(i, 1, s, s, {}, 0.0, None) for i, s in enumerate(seconds))
    plan, runtime = Plan("custom", 1, 1, len(seconds), 1.0, 1.0, 1.0, 0), RuntimeInfo("simulated", "", "cpu", {})
    return Measurement(
        name, "baseline", NOTHING, runtime, None, plan, NOWHERE, (), trials, (), {}, None, None, 0.0, True, None
    )


def false_verdicts(noise: float, blocks: int, runs: int, seed: int) -> float:
    """Share of runs in which two equal arms and a twin end in ``better`` or ``worse``, through the whole of compare."""
    draw = np.random.default_rng([seed, 7, round(1000 * noise), blocks])
    claims = 0
    for _ in range(runs):
        base, twin, cand = (arm(n, draw.lognormal(-4, noise, blocks).tolist()) for n in ("base", "twin", "candidate"))
        deltas = compare.compare(base, cand, compare.control(base, twin)).deltas
        claims += next(d for d in deltas if d.metric == compare.CPU_TIME).verdict != "not established"
    return claims / runs


def there_and_back(windows: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Means of each arm's two windows, ``(3, blocks)``.

    Args:
        windows: ``(blocks, 6)``, in the order in which they ran.
        orders: ``(blocks, 3)``, the place of each arm on the way there.
    """
    return ((np.take_along_axis(windows, orders, 1) + np.take_along_axis(windows, 5 - orders, 1)) / 2).T


def counted(watts: np.ndarray, orders: np.ndarray, periods: int, draw: np.random.Generator) -> np.ndarray:
    """Watts as a counter tells them that moves once a second and shows what it counted by then, ``(3, blocks)``.

    Args:
        watts: Of the three arms.
        orders: As :func:`there_and_back`.
        periods: Length of a window in s, more or less.
        draw: For the lengths, and for when the counter moves.
    """
    blocks = len(orders)
    turns = np.concatenate([np.argsort(orders, 1), np.argsort(orders, 1)[:, ::-1]], 1)
    seconds = periods * draw.lognormal(0, 0.01, (blocks, 6))
    power = watts[turns] * draw.lognormal(0, 0.003, (blocks, 6))
    edges = np.concatenate([[0.0], np.cumsum(seconds)])
    joules = np.concatenate([[0.0], np.cumsum(seconds * power)])
    phase = draw.random()
    shown = np.interp(np.floor(edges - phase) + phase, edges, joules)
    return there_and_back(np.diff(shown).reshape(blocks, 6) / seconds, orders)


def hard(kind: str, blocks: int, draw: np.random.Generator, *, equal: bool) -> tuple[np.ndarray, float]:
    """What a baseline, its twin and a candidate cost in each block, ``(3, blocks)``, and the candidate's true ratio.

    Args:
        kind: A value of ``HARD``.
        blocks: How many.
        draw: Random numbers.
        equal: Whether the candidate is the same as the baseline, where a case has it differ.
    """
    orders = np.argsort(draw.random((blocks, 3)), 1)
    quiet, truth, own = draw.lognormal(0, 0.01, (blocks, 6)), 1.0, np.ones((3, blocks))
    if kind == "walk":
        quiet *= np.exp(np.cumsum(draw.normal(0, 0.02, blocks * 6))).reshape(blocks, 6)
    elif kind == "tails":
        quiet = np.exp(0.01 * draw.standard_t(2, (blocks, 6)).clip(-100, 100))
    elif kind == "bursts":
        quiet *= 1 + 0.3 * draw.random((blocks, 6)) * (draw.random((blocks, 6)) < 0.1)
    elif kind == "two speeds":
        own = np.where(draw.random((3, blocks)) < 0.2, 1.1, 1.0)
        if not equal:
            own[:2], truth = 1.0, 1.1**0.2
    elif kind == "lasting":
        speed = draw.normal(0, 0.02, 3)
        for block in range(blocks):
            own[:, block] = np.exp(speed)
            speed = 0.9 * speed + 0.02 * (1 - 0.9**2) ** 0.5 * draw.standard_normal(3)
    elif kind.startswith("counter"):
        watts = np.array([40.0, 40.0, 40.0 if equal else 50.0])
        return counted(watts, orders, int(kind.split()[1]), draw), watts[2] / watts[0]
    elif kind == "above idle":
        watts, idle = np.array([[40.0], [40.0], [40.0 if equal else 36.0]]), 30 + draw.normal(0, 1, 3).mean()
        found = watts * draw.lognormal(0, 0.01, (3, blocks)) - idle
        return found.clip(0.1), float((watts[2, 0] - 30) / 10)
    return there_and_back(quiet, orders) * own, truth


def hard_case(kind: str, blocks: int, runs: int, seed: int) -> dict[str, float]:
    """Coverage and false verdicts of a hard case, and how often its A/A control passes."""
    draw = np.random.default_rng([seed, 11, list(HARD.values()).index(kind), blocks])
    held = claims = passed = 0
    for _ in range(runs):
        (base, _, cand), truth = hard(kind, blocks, draw, equal=False)
        _, interval = stats.ratio_interval(base.tolist(), cand.tolist())
        held += interval is not None and interval[0] <= truth <= interval[1]
        costs, _ = hard(kind, blocks, draw, equal=True)
        arms = [arm(name, cost.tolist()) for name, cost in zip(("base", "twin", "candidate"), costs, strict=True)]
        controls = [c for c in compare.control(arms[0], arms[1]) if c.metric == compare.CPU_TIME]
        passed += controls[0].passed
        deltas = compare.compare(arms[0], arms[2], controls).deltas
        claims += next(d for d in deltas if d.metric == compare.CPU_TIME).verdict != "not established"
    return {"t_interval": held / runs, "control_passed": passed / runs, "false_verdicts": claims / runs}


def draw_figure(cells: list[dict[str, float]], false: list[dict[str, float]], runs: int) -> None:
    """Draw coverage by blocks, and the false verdicts."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "coverage"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(2, 1))
    for kind, colour, label in (
        ("bootstrap", "#b8b8b8", "percentile bootstrap (not used)"),
        ("t_interval", "#1f6f50", "t-interval on log ratios"),
    ):
        for noise, marker in zip(NOISES, "os", strict=True):
            chosen = [c for c in cells if c["noise"] == noise]
            places = [BLOCKS.index(int(c["blocks"])) + 0.12 * (RATIOS.index(c["ratio"]) - 1) for c in chosen]
            left.plot(
                places, [100 * c[kind] for c in chosen], marker, color=colour, label=f"{label}, {noise:.0%} noise"
            )
    left.axhspan(93, 97, color="#1f6f50", alpha=0.12, lw=0)
    left.axhline(95, color="black", lw=0.8)
    left.set_xticks(range(len(BLOCKS)), [f"{b} blocks" for b in BLOCKS])
    left.set_ylabel("intervals that hold the true ratio, %")
    left.set_title(f"95 % interval, true ratio 0.6, 1.0, 1.1; {runs} runs a point", fontsize=9)
    left.legend(fontsize=7, loc="lower right")
    for noise, marker in zip(NOISES, "os", strict=True):
        chosen = [f for f in false if f["noise"] == noise]
        right.plot(range(len(chosen)), [100 * f["rate"] for f in chosen], marker, color="#1f6f50", label=f"{noise:.0%}")
    right.axhline(5, color="black", lw=0.8)
    right.set_ylim(0, 6)
    right.set_xticks(range(len(BLOCKS)), [f"{b}" for b in BLOCKS])
    right.set_xlabel("blocks")
    right.set_title("verdicts on equal arms, %", fontsize=9)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})


@click.command(help=__doc__)
@click.option("--runs", default=2000, show_default=True, help="Simulated runs per cell.")
@click.option("--seed", default=0, show_default=True)
def main(runs: int, seed: int) -> None:
    cells: list[dict[str, float]] = []
    print("noise  ratio  blocks  t-interval  bootstrap")
    for noise in NOISES:
        for ratio in RATIOS:
            for blocks in BLOCKS:
                found = coverage(noise, ratio, blocks, runs, seed)
                cells.append({"noise": noise, "ratio": ratio, "blocks": blocks, **found})
                print(f"{noise:5.0%}  {ratio:5}  {blocks:6}  {found['t_interval']:10.1%}  {found['bootstrap']:9.1%}")
    false = []
    print("noise  blocks  false verdicts")
    for noise in NOISES:
        for blocks in BLOCKS:
            false.append({"noise": noise, "blocks": blocks, "rate": false_verdicts(noise, blocks, runs, seed)})
            print(f"{noise:5.0%}  {blocks:6}  {false[-1]['rate']:14.1%}")
    difficult: list[dict[str, object]] = []
    print(f"{'':74}  blocks  t-interval  A/A passed  false verdicts")
    for said, kind in HARD.items():
        for blocks in HARD_BLOCKS:
            found = hard_case(kind, blocks, runs // 2, seed)
            difficult.append({"case": said, "blocks": blocks, **found})
            print(
                f"{said:74}  {blocks:6}  {found['t_interval']:10.1%}  {found['control_passed']:10.1%}  "
                f"{found['false_verdicts']:14.1%}",
                flush=True,
            )
    draw_figure(cells, false, runs)
    command = f"python -m benchmarks.statistics_coverage --runs {runs} --seed {seed}"
    path = save("statistics_coverage", command, {"coverage": cells, "false_verdicts": false, "hard": difficult}, None)
    print(f"{path.name}, {FIGURE.name}")


if __name__ == "__main__":
    main()
