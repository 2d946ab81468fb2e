"""Compress PyTorch models and prove what it saves: accuracy kept, joules per inference, and how sure that is.

::

    import compressor

    outcome = compressor.compress("model.pt2", method="int8", data="fashion-mnist", max_loss=0.01)
    print(outcome.report.headline)

Names are imported when they are first used, so that a program which only meters does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.bench import BenchJob, run_bench
    from compressor.errors import CompressorError
    from compressor.meters.metering import meter
    from compressor.pipeline import Job, Outcome, compress, run
    from compressor.results import Report
    from compressor.store.records import load_report

__all__ = [
    "BenchJob",
    "CompressorError",
    "Job",
    "Outcome",
    "Report",
    "compress",
    "load_report",
    "meter",
    "run",
    "run_bench",
]

_HOMES = {
    "BenchJob": "bench",
    "CompressorError": "errors",
    "Job": "pipeline",
    "Outcome": "pipeline",
    "Report": "results",
    "compress": "pipeline",
    "load_report": "store.records",
    "meter": "meters.metering",
    "run": "pipeline",
    "run_bench": "bench",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compressor' has no attribute {name!r}")
    return getattr(import_module(f"compressor.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
