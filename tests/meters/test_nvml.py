"""No GPU is here: a fake of the pynvml module with the calls that are used stands in for the driver."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest

from compressor.errors import MeterError
from compressor.meters import nvml
from compressor.meters.base import energy_between


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value

    def __str__(self) -> str:
        return {3: "Not Supported", 4: "Insufficient Permissions", 12: "NVML Shared Library Not Found"}.get(
            self.value, "Unknown Error"
        )


@dataclass
class Gpu:
    """One simulated GPU: constant watts, a counter that ticks every ``tick_s``."""

    watts: float = 300.0
    tick_s: float = 0.02
    counter: bool = True
    power: bool = True
    mig: int | None = None
    load: int | None = 50
    error: int | None = None
    counted_before: int = 5_000_000


class FakeNvml(types.ModuleType):
    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_FUNCTION_NOT_FOUND = 13
    NVML_ERROR_GPU_IS_LOST = 15

    def __init__(self, *gpus: Gpu, init_error: int | None = None) -> None:
        super().__init__("pynvml")
        self.gpus, self.init_error, self.now, self.opened = gpus, init_error, 0.0, 0

    def clock(self) -> float:
        self.now += 5e-4
        return self.now

    def nvmlInit(self) -> None:  # noqa: N802 — the names are NVML's
        if self.init_error is not None:
            raise NVMLError(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:  # noqa: N802
        return self._there(self.gpus[index])

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:  # noqa: N802
        return "Simulated GPU"

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:  # noqa: N802
        if gpu.mig is None:
            raise NVMLError(3)
        return [gpu.mig, gpu.mig]

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: Gpu) -> int:  # noqa: N802
        return 350_000

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Gpu) -> int:  # noqa: N802
        self._there(gpu)
        if not gpu.counter:
            raise NVMLError(3)
        return gpu.counted_before + int(int(self.now / gpu.tick_s) * gpu.tick_s * gpu.watts * 1000)

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:  # noqa: N802
        self._there(gpu)
        if not gpu.power:
            raise NVMLError(3)
        return int(gpu.watts * 1000)

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> types.SimpleNamespace:  # noqa: N802
        self._there(gpu)
        if gpu.load is None:
            raise NVMLError(3)
        return types.SimpleNamespace(gpu=gpu.load, memory=0)

    @staticmethod
    def _there(gpu: Gpu) -> Gpu:
        if gpu.error is not None:
            raise NVMLError(gpu.error)
        return gpu


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(*gpus: Gpu, **more: Any) -> FakeNvml:
        fake = FakeNvml(*gpus, **more)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


def test_counter_of_several_gpus_with_probed_period(install: Any) -> None:
    fake = install(Gpu(300.0), Gpu(100.0))
    meter = nvml.open_nvml(clock=fake.clock)
    assert meter.info.domains == ("gpu-0", "gpu-1")
    assert meter.info.update_period_s == pytest.approx(0.02, rel=0.1)
    assert meter.info.resolution_j == pytest.approx(6.0, rel=0.01)
    assert meter.info.scope == "device"
    assert meter.info.source == (
        "NVML energy counter of gpu-0 (Simulated GPU); NVML energy counter of gpu-1 (Simulated GPU)"
    )
    start = meter.read()
    fake.now += 10.0
    assert energy_between(start, meter.read(), "nvml") == pytest.approx(
        {"nvml/gpu-0": 3000, "nvml/gpu-1": 1000}, rel=0.01
    )
    meter.close()
    assert fake.opened == 0


def test_power_is_the_named_fall_back_of_one_gpu_only(install: Any) -> None:
    fake = install(Gpu(300.0), Gpu(50.0, counter=False))
    meter = nvml.open_nvml(clock=fake.clock, thread=False)
    assert meter.info.source.endswith("NVML power of gpu-1 (Simulated GPU), integrated: it has no energy counter")
    assert meter.info.update_period_s == 0.1
    start = meter.read()
    for _ in range(20):
        fake.now += 0.5
        end = meter.read()
    assert energy_between(start, end, "nvml") == pytest.approx({"nvml/gpu-0": 3000, "nvml/gpu-1": 500}, rel=0.01)
    meter.close()


def test_utilisation_adds_up_to_busy_seconds_of_the_gpus_that_tell_it(install: Any) -> None:
    fake = install(busy := Gpu(load=80), Gpu(load=None))
    meter = nvml.open_nvml(clock=fake.clock, thread=False)
    assert meter.info.source.endswith("; utilisation of gpu-1 not read: NVML: Not Supported")
    start = meter.read()
    for _ in range(20):
        fake.now += 0.5
        end = meter.read()
    assert set(end.busy_s) == {"gpu-0"}
    assert (end.busy_s["gpu-0"] - start.busy_s["gpu-0"]) / (end.time_s - start.time_s) == pytest.approx(0.8, rel=0.01)
    # It fails where the joules do not: the reading has no busy seconds, and its joules stand.
    busy.load = None
    fake.now += 10.0
    failed = meter.read()
    assert failed.busy_s == {}
    assert energy_between(end, failed, "nvml") == pytest.approx({"nvml/gpu-0": 3000, "nvml/gpu-1": 3000}, rel=0.01)
    meter.close()


def test_driver_too_old_for_a_call_is_one_that_cannot_do_it(install: Any) -> None:
    fake = install(Gpu())

    def missing(*_: Any) -> Any:
        raise NVMLError(13)

    fake.nvmlDeviceGetMigMode = fake.nvmlDeviceGetUtilizationRates = missing  # type: ignore[method-assign]
    meter = nvml.open_nvml(clock=fake.clock)
    assert meter.info.domains == ("gpu-0",)
    assert meter.read().busy_s == {}
    meter.close()


def test_gpu_that_tells_nothing_is_absent_and_named(install: Any) -> None:
    fake = install(Gpu(), Gpu(counter=False, power=False))
    meter = nvml.open_nvml(clock=fake.clock)
    assert meter.info.domains == ("gpu-0",)
    assert meter.info.source.endswith("gpu-1 (Simulated GPU) left out: neither energy nor power")
    meter.close()


def test_trap_machine_without_gpu_is_an_error_not_zero_joules(install: Any) -> None:
    fake = install()
    with pytest.raises(MeterError, match=r"^nvml: the NVIDIA driver shows no GPU$"):
        nvml.open_nvml(clock=fake.clock)
    assert fake.opened == 0


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (
            Gpu(mig=1),
            "nvml/gpu-0: MIG is on: NVML tells the energy of the whole GPU only, not of an instance; "
            "with nobody on the GPU: sudo nvidia-smi -i 0 -mig 0",
        ),
        (
            Gpu(error=15),
            "nvml/gpu-0: the GPU is lost: it fell off the bus; restart the machine; dmesg (Xid) says why",
        ),
        (
            Gpu(error=4),
            "nvml/gpu-0: no permission to read it; ask whoever runs this machine for access to /dev/nvidia*",
        ),
        (Gpu(error=999), "nvml/gpu-0: NVML: Unknown Error"),
        (Gpu(counter=False, power=False), "nvml/gpu-0: Simulated GPU tells neither energy nor power"),
        (Gpu(watts=0.0), "nvml/gpu-0: the energy counter stands still"),
    ],
)
def test_unreadable_gpu_is_a_named_error(install: Any, gpu: Gpu, message: str) -> None:
    fake = install(gpu)
    with pytest.raises(MeterError) as caught:
        nvml.open_nvml(clock=fake.clock)
    assert str(caught.value) == message
    assert fake.opened == 0


def test_gpu_lost_in_mid_run(install: Any) -> None:
    fake = install(gpu := Gpu(mig=0))
    meter = nvml.open_nvml(clock=fake.clock)
    meter.read()
    gpu.error = 15
    with pytest.raises(MeterError, match=r"^nvml/gpu-0: the GPU is lost: it fell off the bus; restart the machine"):
        meter.read()
    meter.close()


def test_counter_that_is_reset_in_mid_run_is_an_error(install: Any) -> None:
    fake = install(gpu := Gpu(counted_before=5_000_000))
    meter = nvml.open_nvml(clock=fake.clock)
    start = meter.read()
    gpu.counted_before = 0  # the driver was loaded anew
    with pytest.raises(MeterError, match=r"^nvml: the counter gpu-0 fell by \d+ J: it was reset$"):
        meter.read()
    with pytest.raises(MeterError, match="lost count"):
        energy_between(start, meter.read(), "nvml")
    meter.close()


def test_no_driver(install: Any) -> None:
    install(init_error=12)
    with pytest.raises(MeterError) as caught:
        nvml.probe()
    assert str(caught.value) == "nvml: no NVIDIA driver here (libnvidia-ml is missing)"


def test_deprecated_shell_package_is_imported_without_its_warning(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(
        "import warnings\nwarnings.warn('use nvidia-ml-py', FutureWarning)\n"
        "NVML_ERROR_LIBRARY_NOT_FOUND = 12\n"
        "class NVMLError(Exception):\n    value = 12\n"
        "def nvmlInit():\n    raise NVMLError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    try:
        with pytest.raises(MeterError, match="no NVIDIA driver here"):  # and not FutureWarning
            nvml.probe()
    finally:
        sys.modules.pop("pynvml", None)


def test_probe_gives_the_library_back(install: Any) -> None:
    fake = install(Gpu(tick_s=1e-9))
    monkey = fake.nvmlDeviceGetTotalEnergyConsumption

    def moving(gpu: Gpu) -> int:
        fake.now += 1e-3
        return monkey(gpu)

    fake.nvmlDeviceGetTotalEnergyConsumption = moving  # type: ignore[method-assign]
    status = nvml.probe()
    assert status.usable
    assert fake.opened == 0
