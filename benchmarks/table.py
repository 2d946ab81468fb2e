"""The suite's results as Markdown: ``python -m benchmarks.table``, from the records in ``benchmarks/results/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.arms import INT8, MIX, ONNX, PYTORCH
from benchmarks.cases import CASES
from benchmarks.recording import RESULTS
from compressor import compare
from compressor.report import numbers

Row = dict[str, Any]


def main() -> None:
    runs = list(_runs())
    if not runs:
        print("no results yet: python -m benchmarks")
        return
    print("CPU time per inference, one thread, 95 % intervals; accuracy on the whole test part.\n")
    print("| model | batch | int8 against ONNX fp32 | mix against PyTorch fp32 | mix against ONNX fp32 | accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, run in runs:
        arms = run["arms"]
        scores = " → ".join(f"{arms[arm]['score']:.2%}" for arm in (ONNX, INT8, MIX))
        cells = [
            _times(arms[INT8], ONNX),
            _saved(arms[MIX], PYTORCH),
            _saved(arms[MIX], ONNX),
            f"fp32 → int8 → mix: {scores}",
        ]
        print(f"| {name} | {run['batch']} | {' | '.join(cells)} |")
    print("\nOurs against what a user would pick instead.\n")
    print("| model | batch | fastest peer within 1 point | int8 | mix | fastest peer of all | int8 | mix |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, run in runs:
        cells = []
        for kind in ("within the margin", "of all"):
            best = run["against_best_peer"].get(kind)
            if best is None:
                cells += ["none", "", ""]
                continue
            peer = best["peer"]
            score = run["arms"][peer]["score"]
            cells += [f"{peer} ({score:.2%})", *(_speed(best[arm][compare.CPU_TIME]) for arm in (INT8, MIX))]
        print(f"| {name} | {run['batch']} | {' | '.join(cells)} |")


def _runs() -> Iterator[tuple[str, Row]]:
    for name in CASES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            for run in json.loads(path.read_bytes())["runs"]:
                yield name, run


def _times(row: Row, baseline: str) -> str:
    return _speed(row[f"against {baseline}"][compare.CPU_TIME])


def _saved(row: Row, baseline: str) -> str:
    delta = row[f"against {baseline}"][compare.CPU_TIME]
    return f"{1 - delta['ratio']:.1%} less ({_speed(delta)})"


def _speed(delta: Row) -> str:
    return numbers.speed(delta["ratio"], delta["ci95"])


if __name__ == "__main__":
    main()
