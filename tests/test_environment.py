from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from compressor import cpuinfo, environment
from compressor.errors import MeasurementError

X86 = """processor\t: 0
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 amx_int8 hypervisor

processor\t: 1
model name\t: something else
"""


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    def set_to(text: str | None, machine: str = "x86_64") -> None:
        file = tmp_path / f"cpuinfo{len(list(tmp_path.iterdir()))}"
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(cpuinfo, "PROC", file)
        monkeypatch.setattr("platform.machine", lambda: machine)

    return set_to


def test_features_are_named_and_sorted(cpu) -> None:  # type: ignore[no-untyped-def]
    cpu(X86)
    assert environment.cpu_features() == (
        *("amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "fma"),
    )
    cpu("Features : fp asimd asimddp i8mm bf16 sve\n", "aarch64")
    assert environment.cpu_features() == ("asimddp", "bf16", "i8mm", "neon", "sve")
    cpu(None)
    assert environment.cpu_features() == ()


def sys_tree(root: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    monkeypatch.setattr(environment, "SYS", root)
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_governor_turbo_and_hypervisor(cpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cpu(X86)
    sys_tree(
        tmp_path / "sys",
        monkeypatch,
        devices__system__cpu__cpu0__cpufreq__scaling_governor="performance\n",
        devices__system__cpu__intel_pstate__no_turbo="1\n",
        devices__system__clocksource__clocksource0__available_clocksource="tsc kvm-clock\n",
    )
    found = environment.describe_environment(0.0)
    assert (found.governor, found.turbo, found.virtual) == ("performance", False, "KVM")
    sys_tree(tmp_path / "bare", monkeypatch, devices__system__cpu__cpufreq__boost="1\n")
    found = environment.describe_environment(0.0)
    assert (found.governor, found.turbo, found.virtual) == (None, True, "unnamed")
    cpu(X86.replace(" hypervisor", ""))
    assert environment.describe_environment(0.0).virtual is None


def test_this_machine() -> None:
    found = environment.describe_environment(0.05)
    assert found.cpu == cpuinfo.cpu_model()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes == psutil.virtual_memory().total
    assert 0.0 <= found.foreign_load <= 1.0
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found.versions["psutil"] == psutil.__version__
    assert "openvino-that-is-not-installed" not in found.versions


def test_gpus_of_the_nvidia_driver(tmp_path: Path) -> None:
    assert environment._gpus(tmp_path) == ()
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 12\n")
    assert environment._gpus(tmp_path) == ("NVIDIA H100",)


def test_temperature_is_the_hottest_cpu_sensor_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = {
        "acpitz": [SimpleNamespace(current=90.0)],
        "k10temp": [SimpleNamespace(current=55.0), SimpleNamespace(current=61.5)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    assert environment.temperature_c() == 61.5
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"acpitz": sensors["acpitz"]}, raising=False)
    assert environment.temperature_c() is None
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert environment.temperature_c() is None


def scripted(monkeypatch: pytest.MonkeyPatch, *moments: tuple[float, float, float]) -> None:
    """Wall clock, system's busy time and own CPU time at each look."""
    looks = iter(moments)
    now: list[float] = []

    def monotonic() -> float:
        now[:] = next(looks)
        return now[0]

    def cpu_times() -> SimpleNamespace:
        # half of it stolen by the hypervisor's other guests; idle, iowait and guest must not count
        half = now[1] / 2
        return SimpleNamespace(user=half, steal=half, idle=1e6 * now[0], iowait=77 * now[0], guest=half)

    monkeypatch.setattr(environment.time, "monotonic", monotonic)
    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(
        psutil, "Process", lambda pid: SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=now[2], system=0.0))
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [(10.0, 10.0, 0.0), (10.0, 2.0, 0.2), (40.0, 0.0, 1.0), (41.0, 0.0, 1.0), (9.9, 10.0, 0.0)],
)
def test_foreign_load(monkeypatch: pytest.MonkeyPatch, busy: float, own: float, share: float) -> None:
    scripted(monkeypatch, (100.0, 500.0, 50.0), (110.0, 500.0 + busy, 50.0 + own))
    monitor = environment.LoadMonitor()
    monitor.start([1])
    found = monitor.stop()
    assert (found.load, found.pinned_load, found.throttled) == (pytest.approx(share), 0.0, False)


STAT = """cpu  999 999 999 0 0 999 999 999 0 0
cpu0 900 900 900 5 5 900 900 900 0 0
cpu3 {busy} 10 20 4000 400 30 40 50 60 70
intr 1 2 3
"""


def test_load_of_the_pinned_cores_is_told_apart_though_some_are_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat = tmp_path / "stat"
    real = environment._busy_s_of
    monkeypatch.setattr(environment, "_busy_s_of", lambda cores: real(cores, stat))
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    scripted(monkeypatch, (100.0, 500.0, 50.0), (110.0, 510.0, 57.0))
    stat.write_text(STAT.format(busy=1000))
    assert environment._busy_s_of([3]) == 11.5
    assert environment._busy_s_of([1]) == 0.0
    monitor = environment.LoadMonitor([3])
    monitor.start([1])
    stat.write_text(STAT.format(busy=2000))
    found = monitor.stop()
    # 10 s of the core, 7 of them ours; of the machine's four cores 3 s in 40.
    assert (found.load, found.pinned_load) == (pytest.approx(0.075), pytest.approx(0.3))
    assert found.why_unsound(0.15) == "other processes kept the arms' own cores busy for 30% of the time"
    assert found.why_unsound(0.30) == ""
    assert found.why_unsound(0.05) == "other processes kept 8% of the cores busy"
    stat.unlink()
    assert environment._busy_s_of([3]) == 0.0


def test_slowing_down_for_heat_is_seen_on_the_pinned_cores_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def heat(**counts: str) -> None:
        cpus = "devices__system__cpu__cpu"
        files = {f"{cpus}{name[1:]}__thermal_throttle__{name[0]}": count for name, count in counts.items()}
        names = {"c": "core_throttle_count", "p": "package_throttle_count"}
        sys_tree(tmp_path, monkeypatch, **{f"{k[:-1]}{names[k[-1]]}": f"{v}\n" for k, v in files.items()})

    monitor = environment.LoadMonitor([2])
    for before, after, hot in (
        ({"c2": "5", "p2": "7"}, {"c2": "6"}, True),
        ({}, {"p2": "8"}, True),
        ({"c1": "3"}, {"c1": "4"}, False),
        ({"c2": "?"}, {}, False),
    ):
        heat(**before)
        monitor.start([os.getpid()])
        heat(**after)
        found = monitor.stop()
        assert found.throttled is hot
        assert ("heat" in found.why_unsound(2.0)) is hot


def test_foreign_load_sees_a_real_process_unless_it_is_ours() -> None:
    code = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            foreign, ours = environment.LoadMonitor(), environment.LoadMonitor()
            foreign.start([os.getpid()])
            ours.start([os.getpid(), process.pid])
            used = psutil.Process(process.pid).cpu_times().user
            time.sleep(1.0)
            used = psutil.Process(process.pid).cpu_times().user - used
            seen = foreign.stop().load - ours.stop().load
        finally:
            process.kill()
    assert seen == pytest.approx(used / (os.cpu_count() or 1), abs=0.1)


def test_process_that_is_gone_is_an_error_not_idle() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        monitor = environment.LoadMonitor()
        monitor.start([process.pid])
        process.communicate(b"\n")
    with pytest.raises(MeasurementError) as caught:
        monitor.stop()
    assert str(caught.value) == f"foreign load: the CPU time of process {process.pid} cannot be read"
    with pytest.raises(MeasurementError) as caught:
        monitor.start([process.pid])
    assert str(caught.value) == f"foreign load: process {process.pid} is gone"
