"""The page as PDF, printed by Chromium where it is installed; nothing is fetched and no script runs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from compressor.errors import OutputError
from compressor.report.html import render_html
from compressor.results import Report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_LIMIT_S = 120
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-pdf-header-footer",
)


def find_browser() -> str | None:
    """The Chromium or Chrome on the path; ``None`` if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def render_pdf(report: Report) -> bytes:
    """Print a report's page.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        The PDF.

    Raises:
        OutputError: There is no Chromium, or it did not print.
    """
    browser = find_browser()
    if browser is None:
        raise OutputError(
            "needs Chromium or Chrome, and none is on the path",
            where="pdf",
            mend="install chromium, or open report.html and print it from any browser",
        )
    with tempfile.TemporaryDirectory(prefix="compressor-pdf-") as folder:
        page, target = Path(folder) / "report.html", Path(folder) / "report.pdf"
        page.write_text(render_html(report), encoding="utf-8", errors="backslashreplace")
        command = [browser, *_FLAGS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={target}", page.as_uri()]
        error = _run(command)
        if not target.is_file():
            # Chromium's sandbox needs rights that containers and root do not give it; the page has no scripts.
            error = _run([*command[:1], "--no-sandbox", *command[1:]])
        if not target.is_file():
            raise OutputError(
                f"{Path(browser).name} did not print ({error})", where="pdf", mend="print report.html instead"
            )
        return target.read_bytes()


def _run(command: list[str]) -> str:
    """Run it and return the last thing it complained of."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else f"exit code {done.returncode}"
