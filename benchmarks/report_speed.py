"""How long a large report takes to render: ``python -m benchmarks.report_speed``.

The record is fictional (30 arms, 1 020 trials); what is timed is the rendering alone. Prints one line per format.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARMS, BLOCKS = 30, 34
_FICTIONAL = Path(__file__).parents[1] / "tests" / "report" / "conftest.py"


def fictional() -> Any:
    spec = importlib.util.spec_from_file_location("fictional_reports", _FICTIONAL)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{_FICTIONAL} is missing: run from a clone of the repository")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    from compressor.report.formats import FORMATS

    made = fictional()
    variants = (
        made.Arm(f"ONNX int8 variant {i}", "candidate", cpu_ms=0.3 + 0.02 * i, correct=9100 + i, precision="int8")
        for i in range(ARMS - 3)
    )
    report = made.build((made.RAPL,), (*made.ARMS[:3], *variants), blocks=BLOCKS, usage=made.USAGE)
    trials = sum(len(m.trials) for m in report.measurements)
    print(f"{len(report.measurements)} arms, {trials} trials, fictional figures")
    for name, known in FORMATS.items():
        if name == "pdf":
            continue
        # The first call pays for imports and fonts; both are shown.
        first, size = _timed(known.render, report)
        again, _ = _timed(known.render, report)
        print(f"{name:6} {first:6.2f} s, again {again:6.2f} s, {size / 1e6:.2f} MB")


def _timed(render: Callable[[Any], str | bytes], report: Any) -> tuple[float, int]:
    started = time.perf_counter()
    text = render(report)
    return time.perf_counter() - started, len(text.encode() if isinstance(text, str) else text)


if __name__ == "__main__":
    main()
