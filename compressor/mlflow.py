"""A finished run in MLflow: its settings as parameters, its figures as metrics, its report files as artifacts.

MLflow is an extra (``compressor[mlflow]``); it is imported only where ``--mlflow`` asks for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import HistoryError, RuntimeUnavailableError
from compressor.history.rows import ArmRow, Mean, RunRow, rows_of

if TYPE_CHECKING:
    from compressor.results import Report

EXPERIMENT = "compressor"
"""The experiment that runs are logged to, unless MLflow's own environment variables name one."""

_LONGEST = 500
_FILES = ("report.json", "report.md", "report.html")
_FORBIDDEN = re.compile(r"[^\w\-. /]")


def require_mlflow() -> Any:
    """The ``mlflow`` module.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    try:
        import mlflow
    except ImportError:
        raise RuntimeUnavailableError(
            "MLflow is not installed", where="--mlflow", mend="pip install 'compressor[mlflow]'"
        ) from None
    return mlflow


def log_run(report: Report, folder: Path, uri: str | None = None) -> str:
    """Log a run: every setting, score, cost and ratio with their intervals, and the files of its report.

    The metrics of energy bear their provenance in the name (``energy_measured_j``), so that MLflow, which plots
    whatever has one name, never sets estimated joules beside measured ones.

    Args:
        report: What was found.
        folder: Where the report's files are.
        uri: Tracking server or store; ``None`` for MLflow's own setting.

    Returns:
        The experiment and the run's ID.

    Raises:
        RuntimeUnavailableError: MLflow is not installed.
        HistoryError: The server or store does not take the run.
    """
    mlflow = require_mlflow()
    run, arms = rows_of(report, "", None)
    candidate = next((arm for arm in arms if arm.listed), None)
    baseline = arms[candidate.baseline] if candidate is not None and candidate.baseline is not None else None
    try:
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        if not (os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID")):
            mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=f"{run.model} {'+'.join(report.methods)}"[:_LONGEST]) as started:
            mlflow.log_params(dict(_params(report, run, candidate)))
            mlflow.log_metrics(dict(_metrics(run, candidate, baseline)))
            mlflow.set_tags({"headline": run.headline, "tool": run.tool, "created_utc": run.created_utc})
            for name in _FILES:
                if (folder / name).is_file():
                    mlflow.log_artifact(str(folder / name))
    except Exception as error:
        # Whatever a server or its client library raises: the run itself is done and must not be lost to it.
        raise HistoryError(f"{type(error).__name__}: {error}"[:_LONGEST], where="MLflow") from error
    return f"experiment {started.info.experiment_id}, run {started.info.run_id}"


def _params(report: Report, run: RunRow, arm: ArmRow | None) -> Iterator[tuple[str, str]]:
    own = {"model_name": run.model, "model_sha256": report.model.sha256, "task": run.task, "data_drawn": run.data}
    if arm is not None:
        own |= {"runtime": f"{arm.runtime} {arm.runtime_version}", "device": arm.device, "machine": arm.machine}
        own |= {"meter": str(arm.meter), "energy_provenance": str(arm.provenance), "applied": arm.method}
    for name, value in {**report.settings, **own}.items():
        yield _FORBIDDEN.sub("_", name), str(value)[:_LONGEST]


def _metrics(run: RunRow, arm: ArmRow | None, baseline: ArmRow | None) -> Iterator[tuple[str, float]]:
    if run.compress_s is not None:
        yield "compress_s", run.compress_s
    if run.compress_j is not None:
        yield f"compress_{run.compress_provenance}_j", run.compress_j
    for one, end in ((arm, ""), (baseline, "_baseline")):
        if one is None:
            continue
        yield f"size_bytes{end}", float(one.size_bytes)
        yield from _ends(f"score{end}", one.score)
        yield from _ends(f"cpu_s{end}", one.cpu_s)
        yield from _ends(f"energy_{one.provenance}_j{end}", one.energy_j)
    if arm is not None:
        yield from _ends("cpu_ratio", arm.cpu_ratio)
        yield from _ends(f"energy_{arm.provenance}_ratio", arm.energy_ratio)
        if arm.carbon_g is not None:
            yield f"carbon_{arm.provenance}_g", arm.carbon_g


def _ends(name: str, mean: Mean | None) -> Iterator[tuple[str, float]]:
    if mean is None:
        return
    yield name, mean.value
    if mean.ci95 is not None:
        yield f"{name}_low", mean.ci95[0]
        yield f"{name}_high", mean.ci95[1]
