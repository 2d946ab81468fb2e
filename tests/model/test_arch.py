from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from compressor.errors import ModelError
from compressor.model.arch import build


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of architectures beside a helper that it imports, and a package, in the current folder."""
    (tmp_path / "helper_of_the_arch_test.py").write_text("WIDTH = 5\n")
    (tmp_path / "zoo.py").write_text(
        "import torch\nfrom helper_of_the_arch_test import WIDTH\n\n\n"
        "def linear():\n    return torch.nn.Linear(WIDTH, 2)\n\n\n"
        "def needs(width):\n    return torch.nn.Linear(width, 2)\n\n\n"
        "def wrong():\n    return {}\n\n\nINSTANCE = torch.nn.Linear(1, 1)\nNUMBER = 3\n"
    )
    package = tmp_path / "nets_of_the_arch_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "small.py").write_text("import torch\n\n\ndef tiny():\n    return torch.nn.Linear(3, 2)\n")
    (package / "broken.py").write_text("import no_such_library_at_all\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if "of_the_arch_test" in n or n == "compressor_arch_zoo"]:
        del sys.modules[name]


def test_from_a_file_with_a_neighbour(code):
    before = list(sys.path)
    assert build(f"{code}/zoo.py:linear").in_features == 5
    assert build("zoo.py:linear").in_features == 5
    assert sys.path == before


def test_from_a_package_in_the_current_folder(code):
    assert build("nets_of_the_arch_test.small:tiny").in_features == 3
    assert isinstance(build("torch.nn:Identity"), torch.nn.Identity)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("zoo.py", "--arch 'zoo.py' is not of the form package.module:callable or file.py:callable"),
        ("zoo.py:", "--arch 'zoo.py:' is not of the form package.module:callable or file.py:callable"),
        (
            "zoo.py:lineer",
            "--arch zoo.py:lineer: 'zoo.py' has no 'lineer'; did you mean 'linear'? known: linear, needs, wrong",
        ),
        (
            "zooo.py:linear",
            "--arch zooo.py:linear: there is no file 'zooo.py'; did you mean 'zoo.py'? known: "
            "helper_of_the_arch_test.py, zoo.py",
        ),
        ("no/such.py:f", "--arch no/such.py:f: there is no file 'no/such.py'; check the path"),
        (
            "nets_of_the_arch_test.smal:tiny",
            "--arch nets_of_the_arch_test.smal:tiny: there is no module 'nets_of_the_arch_test.smal'; did you mean "
            "'small'? known: broken, small",
        ),
        (
            "nets_of_the_arch_test.broken:f",
            "--arch nets_of_the_arch_test.broken:f: importing 'nets_of_the_arch_test.broken' needs "
            "'no_such_library_at_all'",
        ),
        (
            "zoo.py:needs",
            "--arch zoo.py:needs: calling needs() raised TypeError: needs() missing 1 required positional argument: "
            "'width'; name a callable that takes no arguments",
        ),
        ("zoo.py:wrong", "--arch zoo.py:wrong: wrong() returned a dict, not a torch.nn.Module"),
        (
            "zoo.py:INSTANCE",
            "--arch zoo.py:INSTANCE: 'INSTANCE' is a Linear, not a callable that returns a torch.nn.Module",
        ),
        ("zoo.py:NUMBER", "--arch zoo.py:NUMBER: 'NUMBER' is a int, not a callable that returns a torch.nn.Module"),
    ],
)
def test_mistakes(code, arch, message):
    with pytest.raises(ModelError) as caught:
        build(arch)
    assert str(caught.value) == message


def test_a_file_that_raises(code):
    (code / "bad.py").write_text("raise ValueError('no luck')\n")
    with pytest.raises(ModelError) as caught:
        build("bad.py:f")
    assert str(caught.value) == "--arch bad.py:f: running 'bad.py' raised ValueError: no luck"
    assert "compressor_arch_bad" not in sys.modules
