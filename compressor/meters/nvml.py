"""NVIDIA GPUs through NVML: the energy counter where there is one (Volta and later), else integrated power.

Source: NVIDIA, NVML API reference (nvmlDeviceGetTotalEnergyConsumption, mJ since the driver was loaded;
nvmlDeviceGetPowerUsage, mW; nvmlDeviceGetUtilizationRates, per cent of the last 1/6 to 1 s in which any kernel ran,
sampled beside the joules). Power is the second choice: on A100 and H100 it samples about a quarter of the run time
only (Yang, Adamek, Armour 2024, "Accurate and Convenient Energy Measurements for GPUs").

Work that is queued on the GPU is not done: whoever measures a window has to synchronise the device at both its edges.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.meters.counter import Counter, CounterMeter, Ticks, watch_ticks
from compressor.meters.sampling import CombinedMeter, SampledMeter
from compressor.results import MeterInfo, MeterStatus

_PERIOD_S = 0.1  # the longest update period seen of the counter and of the power sensor
_SAMPLE_S = 0.05
_LOAD_SAMPLE_S = 0.1
_OPEN_PROBE_S = 0.5
_STATUS_PROBE_S = 0.1  # four times that if need be, which the slowest counter fits in
_BOUND_W = 2000.0  # power no GPU exceeds, where it does not tell its limit


def _library() -> Any:
    """NVML, initialised.

    Raises:
        MeterError: It is not here or refuses.
    """
    try:
        with warnings.catch_warnings():
            # The deprecated PyPI package pynvml, if that is what is installed, warns on import (FutureWarning).
            warnings.simplefilter("ignore")
            import pynvml
    except ImportError as e:
        raise MeterError("nvidia-ml-py is not installed", where="nvml", mend="pip install nvidia-ml-py") from e
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        if e.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            raise MeterError("no NVIDIA driver here (libnvidia-ml is missing)", where="nvml") from e
        raise _named(pynvml, e, "nvml") from e
    return pynvml


def _named(nvml: Any, error: Any, where: str) -> MeterError:
    """NVML's error in our words."""
    if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
        return MeterError(
            "the GPU is lost: it fell off the bus", where=where, mend="restart the machine; dmesg (Xid) says why"
        )
    if error.value == nvml.NVML_ERROR_NO_PERMISSION:
        return MeterError(
            "no permission to read it", where=where, mend="ask whoever runs this machine for access to /dev/nvidia*"
        )
    return MeterError(f"NVML: {error}", where=where)


class _Gpu:
    """One GPU and which of its two sources can be read."""

    def __init__(self, nvml: Any, index: int) -> None:
        self.nvml, self.domain = nvml, f"gpu-{index}"
        self.handle = self.call(nvml.nvmlDeviceGetHandleByIndex, index)
        if self._mig():
            raise MeterError(
                "MIG is on: NVML tells the energy of the whole GPU only, not of an instance",
                where=f"nvml/{self.domain}",
                mend=f"with nobody on the GPU: sudo nvidia-smi -i {index} -mig 0",
            )
        self.name = str(self.call(nvml.nvmlDeviceGetName, self.handle))
        self.has_counter = self._supports(nvml.nvmlDeviceGetTotalEnergyConsumption)
        self.has_power = self.has_counter or self._supports(nvml.nvmlDeviceGetPowerUsage)
        self.no_load = self._why_no_load()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self.nvml.NVMLError as e:
            raise _named(self.nvml, e, f"nvml/{self.domain}") from e

    def _supports(self, function: Callable[..., Any]) -> bool:
        try:
            function(self.handle)
        except self.nvml.NVMLError as e:
            # What an old driver lacks is not there at all.
            if e.value in (self.nvml.NVML_ERROR_NOT_SUPPORTED, self.nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                return False
            raise _named(self.nvml, e, f"nvml/{self.domain}") from e
        return True

    def _mig(self) -> bool:
        mode = self.nvml.nvmlDeviceGetMigMode
        return self._supports(mode) and bool(self.call(mode, self.handle)[0])

    def _why_no_load(self) -> str:
        """Why its utilisation cannot be read; empty if it can. Whatever it is, the joules stand."""
        try:
            self.load()
        except MeterError as e:
            return e.what
        return ""

    def load(self) -> float:
        return 1e-2 * float(self.call(self.nvml.nvmlDeviceGetUtilizationRates, self.handle).gpu)

    def bound_w(self) -> float:
        """Power it cannot exceed: twice its limit, since short peaks pass it."""
        if not self._supports(self.nvml.nvmlDeviceGetEnforcedPowerLimit):
            return _BOUND_W
        return 2e-3 * float(self.call(self.nvml.nvmlDeviceGetEnforcedPowerLimit, self.handle))

    def millijoules(self) -> int:
        return int(self.call(self.nvml.nvmlDeviceGetTotalEnergyConsumption, self.handle))

    def watts(self) -> float:
        return 1e-3 * float(self.call(self.nvml.nvmlDeviceGetPowerUsage, self.handle))


def open_nvml(
    probe_s: float = _OPEN_PROBE_S, clock: Callable[[], float] = time.monotonic, thread: bool = True
) -> CombinedMeter:
    """Open every GPU.

    Args:
        probe_s: How long to watch the counters to learn their period.
        clock: Monotonic seconds.
        thread: Whether utilisation, and power where there is no counter, are sampled between reads.

    Raises:
        MeterError: No driver, no GPU, no permission, MIG, or a counter that stands still.
    """
    nvml = _library()
    try:
        return _open(nvml, probe_s, clock, thread)
    except BaseException:
        nvml.nvmlShutdown()
        raise


def _open(nvml: Any, probe_s: float, clock: Callable[[], float], thread: bool) -> CombinedMeter:
    gpus = [_Gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    if not gpus:
        raise MeterError("the NVIDIA driver shows no GPU", where="nvml")
    counted = [gpu for gpu in gpus if gpu.has_counter]
    sampled = [gpu for gpu in gpus if gpu.has_power and not gpu.has_counter]
    if not counted and not sampled:
        raise MeterError(f"{gpus[0].name} tells neither energy nor power", where=f"nvml/{gpus[0].domain}")
    ticks: Ticks | None = None
    for gpu in counted:
        seen = watch_ticks(gpu.millijoules, probe_s, clock, enough=6 if ticks is None else 1)
        if seen is None:
            raise MeterError("the energy counter stands still", where=f"nvml/{gpu.domain}")
        ticks = ticks or seen
    period = max(ticks.period_s if ticks else 0.0, _PERIOD_S if sampled else 0.0)
    info = MeterInfo(
        name="nvml",
        domains=tuple(gpu.domain for gpu in counted + sampled),
        provenance="measured",
        scope="device",
        update_period_s=period,
        resolution_j=ticks.step * 1e-3 if ticks else 1e-3 * _PERIOD_S,
        source=_source(gpus, counted, sampled),
    )
    parts: list[CounterMeter | SampledMeter] = []
    if counted:
        counters = [Counter(gpu.domain, 1e-3, None, gpu.bound_w()) for gpu in counted]
        parts.append(CounterMeter(info, counters, lambda: _millijoules(counted), clock=clock))
    if sampled:
        parts.append(SampledMeter(info, lambda: _watts(sampled), _SAMPLE_S, clock=clock, thread=thread))
    told = [gpu for gpu in counted + sampled if not gpu.no_load]
    load = SampledMeter(info, lambda: _loads(told), _LOAD_SAMPLE_S, clock=clock, thread=thread) if told else None
    return CombinedMeter(info, tuple(parts), nvml.nvmlShutdown, load)


def _millijoules(gpus: list[_Gpu]) -> Mapping[str, int]:
    return {gpu.domain: gpu.millijoules() for gpu in gpus}


def _watts(gpus: list[_Gpu]) -> Mapping[str, float]:
    return {gpu.domain: gpu.watts() for gpu in gpus}


def _loads(gpus: list[_Gpu]) -> Mapping[str, float]:
    return {gpu.domain: gpu.load() for gpu in gpus}


def _source(gpus: list[_Gpu], counted: list[_Gpu], sampled: list[_Gpu]) -> str:
    said = [f"NVML energy counter of {gpu.domain} ({gpu.name})" for gpu in counted]
    said += [f"NVML power of {gpu.domain} ({gpu.name}), integrated: it has no energy counter" for gpu in sampled]
    said += [f"{gpu.domain} ({gpu.name}) left out: neither energy nor power" for gpu in gpus if not gpu.has_power]
    said += [f"utilisation of {gpu.domain} not read: {gpu.no_load}" for gpu in counted + sampled if gpu.no_load]
    return "; ".join(said)


def probe() -> MeterStatus:
    """Whether GPUs can be read here. Raises :class:`MeterError` where not."""
    meter = open_nvml(_STATUS_PROBE_S, thread=False)
    meter.close()
    return MeterStatus("nvml", True, meter.info)


def open_meter(argument: str | None, options: MeterOptions) -> CombinedMeter:
    """Open the meter; see :func:`open_nvml`."""
    return open_nvml()
