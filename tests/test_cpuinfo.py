from __future__ import annotations

from pathlib import Path

import pytest

from compressor import cpuinfo


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(cpuinfo, "PROC", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_x86(proc: Path) -> None:
    proc.write_text(
        "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\nflags\t\t: fpu avx2\n\n"
        "processor\t: 1\nmodel name\t: another\n"
    )
    assert cpuinfo.cpu_model() == "AMD EPYC 7763 64-Core Processor"
    assert cpuinfo.cpu_flags() == {"fpu", "avx2"}


def test_arm_is_named_by_its_part_number(proc: Path) -> None:
    proc.write_text("Features\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    assert cpuinfo.cpu_model() == "ARM Neoverse-N1"
    assert cpuinfo.cpu_flags() == {"fp", "asimd"}


def test_system_that_tells_nothing(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert cpuinfo.cpu_model() == "riscv64"
    assert cpuinfo.cpu_flags() == frozenset()


def test_macos_asks_sysctl(proc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "sysctl"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && echo Apple M2\n')
    tool.chmod(0o755)
    monkeypatch.setattr(cpuinfo.sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tool.parent))
    assert cpuinfo.cpu_model() == "Apple M2"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert cpuinfo.cpu_model() == "arm"
