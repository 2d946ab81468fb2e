"""Lends the fictional reports of ``tests/report`` to these tests."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[1] / "report" / "conftest.py"


@pytest.fixture(scope="session")
def fictional():
    spec = importlib.util.spec_from_file_location("fictional_reports", _SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
