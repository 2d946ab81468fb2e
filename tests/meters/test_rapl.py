from __future__ import annotations

import math
import random
import shlex
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from powercap_simulator import (
    RANGE_UJ,
    SimulatedMachine,
    SimulatedZone,
    constant,
    desktop,
    run_in_namespace,
)

from compressor.errors import MeterError
from compressor.meters import rapl
from compressor.meters.base import energy_between
from compressor.meters.counter import CounterMeter


def open_on(machine: SimulatedMachine) -> CounterMeter:
    return rapl.open_rapl(machine.root, clock=machine.clock, guard=False)


def test_reads_every_zone_with_its_period_and_what_adds_up(tmp_path: Path) -> None:
    meter = open_on(desktop(tmp_path))
    assert meter.info.domains == ("package-0", "core-0", "dram-0")
    assert meter.info.total == ("package-0", "dram-0")
    assert (meter.info.name, meter.info.provenance, meter.info.scope) == ("rapl", "measured", "package")
    assert meter.info.update_period_s == pytest.approx(0.001, rel=0.1)
    assert meter.info.resolution_j == pytest.approx(0.035, rel=0.01)


@pytest.mark.parametrize("phase", range(8))
def test_wrap_at_every_phase(tmp_path: Path, phase: int) -> None:
    window_s, joules = 8.0, 35.0 * 8
    before_wrap = int(joules * 1e6 * phase / 7)
    machine = desktop(tmp_path, start_uj=RANGE_UJ - before_wrap - 2_000_000)
    meter = open_on(machine)
    start = meter.read()
    machine.advance(window_s)
    assert energy_between(start, meter.read(), "rapl") == pytest.approx(
        {"rapl/package-0": joules, "rapl/core-0": 160.0, "rapl/dram-0": 32.0}, rel=1e-3
    )


def test_trap_both_dies_and_sockets_are_counted_once_each_beside_psys_and_mmio(tmp_path: Path) -> None:
    machine = SimulatedMachine(
        tmp_path,
        SimulatedZone("intel-rapl:0", "package-0-die-0", constant(40.0)),
        SimulatedZone("intel-rapl:0:0", "dram", constant(3.0)),
        SimulatedZone("intel-rapl:1", "package-0-die-1", constant(41.0)),
        SimulatedZone("intel-rapl:1:0", "dram", constant(5.0)),
        SimulatedZone("intel-rapl:2", "package-1-die-0", constant(42.0)),
        SimulatedZone("intel-rapl:3", "psys", constant(200.0)),
        SimulatedZone("intel-rapl-mmio:0", "package-0-die-0", constant(40.0)),
    )
    meter = open_on(machine)
    assert meter.info.domains == (
        *("package-0-die-0", "dram-0-die-0", "package-0-die-1", "dram-0-die-1", "package-1-die-0", "psys"),
    )
    assert "psys" not in meter.info.total
    assert meter.info.source == "Linux powercap energy counters; intel-rapl-mmio:0 left out: package-0-die-0 again"
    start = meter.read()
    machine.advance(10.0)
    energy = energy_between(start, meter.read(), "rapl")
    assert sum(energy[f"rapl/{domain}"] for domain in meter.info.total) == pytest.approx(1310.0, rel=1e-3)


def test_trap_psys_is_not_another_cpu_and_dram_is_counted(tmp_path: Path) -> None:
    machine = desktop(tmp_path / "a")
    assert open_on(machine).info.total == ("package-0", "dram-0")
    alone = SimulatedMachine(tmp_path / "b", SimulatedZone("intel-rapl:0", "psys", constant(60.0)))
    assert open_on(alone).info.total == ("psys",)


def test_trap_failed_read_is_no_zero_and_costs_no_joules(tmp_path: Path) -> None:
    machine = desktop(tmp_path)
    meter = open_on(machine)
    start = meter.read()
    file = machine.counter_file("intel-rapl:0")
    machine.advance(1.0)
    file.write_text("")
    with pytest.raises(MeterError, match="holds '' instead of a number"):
        meter.read()
    machine.advance(1.0)
    energy = energy_between(start, meter.read(), "rapl")
    assert energy["rapl/package-0"] == pytest.approx(70.0, rel=1e-3)


def test_trap_counter_read_as_zero_is_an_error_not_262_122_joules(tmp_path: Path) -> None:
    machine = desktop(tmp_path, start_uj=21_000_000)
    meter = open_on(machine)
    start = meter.read()
    machine.advance(1.0)
    machine.counter_file("intel-rapl:0").write_text("0\n")
    with pytest.raises(
        MeterError, match=r"^rapl: the counter package-0 jumped by 2621\d\d J in 1 s, more than 1000 W: "
    ):
        meter.read()
    machine.advance(1.0)  # the true value is back: another jump, and still no joules out of nowhere
    after = meter.read()
    with pytest.raises(MeterError, match=r"^rapl: lost count between two readings$"):
        energy_between(start, after, "rapl")


def test_trap_wrap_race_gives_neither_negative_nor_huge_joules(tmp_path: Path) -> None:
    machine = desktop(tmp_path, start_uj=RANGE_UJ - 3_500_000)
    meter = open_on(machine)
    last = meter.read()
    for _ in range(400):
        machine.advance(0.001)
        now = meter.read()
        assert 0 < energy_between(last, now, "rapl")["rapl/package-0"] < 1
        last = now


def test_window_longer_than_a_wrap_is_refused(tmp_path: Path) -> None:
    machine = desktop(tmp_path)
    meter = open_on(machine)
    start = meter.read()
    machine.advance(300.0)
    message = (
        "rapl: the counter package-0 was not read for 300 s and may have wrapped more than once: "
        "at 1000 W it comes round in 262 s"
    )
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert str(caught.value) == message
    with pytest.raises(MeterError, match="lost count"):
        energy_between(start, meter.read(), "rapl")


def test_guard_interval_follows_the_power_limit(tmp_path: Path) -> None:
    small = desktop(tmp_path / "small", range_uj=65_532_610_987)  # AMD Zen 5
    assert open_on(small).guard_interval_s == pytest.approx(65.5 / 4, rel=0.01)
    large = desktop(tmp_path / "large", limit_w=2000.0)
    assert open_on(large).guard_interval_s == pytest.approx(262.1 / 4 / 4, rel=0.01)


def test_the_bound_is_twice_the_largest_limit_and_never_small(tmp_path: Path) -> None:
    assert rapl._bound_w(tmp_path) == 1000.0
    for name, microwatts in (("0_power_limit", "700000000"), ("1_max_power", "1500000000"), ("2_power_limit", "?")):
        (tmp_path / f"constraint_{name}_uw").write_text(f"{microwatts}\n")
    assert rapl._bound_w(tmp_path) == 3000.0


def test_zone_without_a_range_is_left_out(tmp_path: Path) -> None:
    machine = desktop(tmp_path)
    (machine.root / "intel-rapl:0:0" / "max_energy_range_uj").unlink()
    zones, notes = rapl.find_zones(machine.root)
    assert [zone.domain for zone in zones] == ["package-0", "dram-0"]
    assert notes == ("intel-rapl:0:0 left out: no name or no range",)


def test_counter_that_stands_still_is_an_error_when_opened(tmp_path: Path) -> None:
    machine = SimulatedMachine(tmp_path, SimulatedZone("intel-rapl:0", "package-0", constant(0.0)))
    with pytest.raises(MeterError) as caught:
        open_on(machine)
    assert str(caught.value) == f"rapl: {tmp_path}/intel-rapl:0: the counter package-0 stands still"


def test_counter_that_stops_in_mid_run_is_an_error_not_zero(tmp_path: Path) -> None:
    machine = SimulatedMachine(tmp_path, SimulatedZone("intel-rapl:0", "package-0", lambda t: 35.0 * min(t, 1.0)))
    meter = open_on(machine)
    machine.advance(1.0)
    meter.read()
    machine.advance(2.0)
    with pytest.raises(MeterError, match=r"^rapl: the counter package-0 stands still for 2 s$"):
        meter.read()


def test_resting_part_is_left_out_with_a_note(tmp_path: Path) -> None:
    machine = SimulatedMachine(
        tmp_path,
        SimulatedZone("intel-rapl:0", "package-0", constant(35.0)),
        SimulatedZone("intel-rapl:0:0", "uncore", constant(0.0)),
    )
    info = open_on(machine).info
    assert info.domains == ("package-0",)
    assert info.source == "Linux powercap energy counters; uncore-0 stands still and is left out"


def test_zone_that_vanishes_is_named(tmp_path: Path) -> None:
    machine = desktop(tmp_path)
    meter = open_on(machine)
    file = machine.counter_file("intel-rapl:0")
    file.unlink()
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert str(caught.value) == (
        f"rapl: {tmp_path}/intel-rapl:0/energy_uj: the counter package-0 vanished (No such file or directory): "
        "are its CPUs offline?"
    )


def test_no_counters_at_all(tmp_path: Path) -> None:
    with pytest.raises(MeterError) as caught:
        rapl.open_rapl(tmp_path)
    assert str(caught.value) == (
        f"rapl: {tmp_path}: no RAPL counter here (no Intel or AMD processor, or a virtual machine or container hides "
        "it); on bare metal try: sudo modprobe intel_rapl_msr"
    )


def test_closed_meter_cannot_be_read(tmp_path: Path) -> None:
    meter = open_on(desktop(tmp_path))
    meter.close()
    with pytest.raises(MeterError, match=r"^rapl: is closed$"):
        meter.read()


def test_soak_thousand_windows_across_many_wraps(tmp_path: Path) -> None:
    def energy(t: float) -> float:  # 250 W, swinging by 150 W every 97 s
        return 250.0 * t + 150.0 * 97 / math.tau * (1 - math.cos(math.tau * t / 97))

    zone = SimulatedZone("intel-rapl:0", "package-0", energy, start_uj=RANGE_UJ - 5_000_000)
    machine = SimulatedMachine(tmp_path, zone)
    meter = open_on(machine)
    order = random.Random(7)
    windows = []
    last = first = meter.read()
    began = machine.now
    for _ in range(1000):
        machine.advance(order.uniform(0.2, 180.0))
        now = meter.read()
        windows.append(energy_between(last, now, "rapl")["rapl/package-0"])
        last = now
    truth = energy(machine.now) - energy(began)
    assert truth > 50 * RANGE_UJ * 1e-6
    assert min(windows) > 0
    assert sum(windows) == pytest.approx(truth, rel=1e-3)
    assert sum(windows) == pytest.approx(energy_between(first, last, "rapl")["rapl/package-0"], rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, RANGE_UJ - 1),
    watts=st.floats(1.0, 900.0),
    lengths=st.lists(st.floats(0.005, 250.0), min_size=1, max_size=8),
)
def test_windows_are_additive_and_never_negative_or_silently_zero(
    tmp_path_factory: pytest.TempPathFactory, start: int, watts: float, lengths: list[float]
) -> None:
    zone = SimulatedZone("intel-rapl:0", "package-0", constant(watts), start_uj=start)
    machine = SimulatedMachine(tmp_path_factory.mktemp("machine"), zone)
    meter = open_on(machine)
    readings = [meter.read()]
    for length in lengths:
        machine.advance(length)
        readings.append(meter.read())
    parts = [energy_between(a, b, "rapl")["rapl/package-0"] for a, b in pairwise(readings)]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(energy_between(readings[0], readings[-1], "rapl")["rapl/package-0"])
    assert sum(parts) == pytest.approx(watts * sum(lengths), abs=watts * 0.003 * (1 + len(lengths)))


def test_guard_thread_carries_a_long_window_over_many_wraps(tmp_path: Path) -> None:
    # A range that lasts 30 ms at the bound of 1000 W, so that the real thread has to read every 7.5 ms.
    zone = SimulatedZone("intel-rapl:0", "package-0", constant(900.0), range_uj=30_000_000)
    machine = SimulatedMachine(tmp_path, zone)
    meter = rapl.open_rapl(tmp_path, clock=machine.clock)
    try:
        start = meter.read()
        for _ in range(100):
            before = machine.now
            machine.advance(0.01)
            while machine.now == before + 0.01:  # until the guard has looked at the clock
                time.sleep(0.0005)
        energy = energy_between(start, meter.read(), "rapl")["rapl/package-0"]
    finally:
        meter.close()
    assert energy == pytest.approx(900.0, rel=0.02)
    assert energy > 29 * 30.0


def test_without_its_guard_the_same_window_is_refused(tmp_path: Path) -> None:
    zone = SimulatedZone("intel-rapl:0", "package-0", constant(900.0), range_uj=30_000_000)
    machine = SimulatedMachine(tmp_path, zone)
    meter = open_on(machine)
    machine.advance(1.0)
    with pytest.raises(MeterError, match="may have wrapped more than once"):
        meter.read()


def test_unreadable_counter_names_the_udev_rule_to_a_real_user() -> None:
    answer = run_in_namespace("""
        import json, os
        from powercap_simulator import NOBODY, desktop, lay_over_sys
        from compressor.errors import MeterError
        from compressor.meters import rapl, registry  # before the files of a root's Python are out of reach
        from compressor.meters.base import MeterOptions

        machine = desktop(lay_over_sys())
        for name in machine.zones:
            machine.counter_file(name).chmod(0o400)
        os.seteuid(NOBODY)
        status = registry.status("rapl")
        try:
            registry.open_meter("rapl", MeterOptions())
        except MeterError as e:
            print(json.dumps({"error": str(e), "why": status.why, "mend": status.mend, "usable": status.usable}))
    """)
    assert answer["usable"] is False
    assert answer["why"] == (
        "rapl: /sys/class/powercap/intel-rapl:0/energy_uj: only root may read it (Linux 5.10 and later, CVE-2020-8694)"
    )
    assert answer["mend"] == rapl.MEND
    assert str(answer["error"]).startswith(f"{answer['why']}; sudo groupadd -f rapl")
    assert 'SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*"' in rapl.MEND


def test_mend_is_shell_also_on_one_line() -> None:
    for text in (rapl.MEND, " ".join(rapl.MEND.split())):
        assert subprocess.run(["sh", "-n", "-c", text], check=False).returncode == 0
        words = shlex.split(text, comments=True)
        assert words[words.index("echo") + 1].count('"') == 10


def test_one_unreadable_zone_is_absent_and_named() -> None:
    answer = run_in_namespace("""
        import json, os
        from powercap_simulator import NOBODY, desktop, lay_over_sys
        from compressor.meters import rapl

        machine = desktop(lay_over_sys())
        machine.counter_file("intel-rapl:0:1").chmod(0o400)
        os.seteuid(NOBODY)
        seen = machine.clock
        def clock():
            os.seteuid(0)
            now = seen()
            os.seteuid(NOBODY)
            return now
        meter = rapl.open_rapl(clock=clock, guard=False)
        print(json.dumps({"domains": list(meter.read().energy_j), "source": meter.info.source}))
    """)
    assert answer["domains"] == ["package-0", "core-0"]
    assert answer["source"] == "Linux powercap energy counters; dram-0 cannot be read"


def test_permission_lost_in_mid_window_is_an_error_and_no_joules_are_lost() -> None:
    answer = run_in_namespace("""
        import json, os
        from powercap_simulator import NOBODY, desktop, lay_over_sys
        from compressor.errors import MeterError
        from compressor.meters import rapl
        from compressor.meters.base import energy_between

        machine = desktop(lay_over_sys())
        meter = rapl.open_rapl(clock=machine.clock, guard=False)
        def read():
            os.seteuid(NOBODY)
            try:
                return meter.read()
            finally:
                os.seteuid(0)
        start = read()
        machine.advance(5.0)
        machine.counter_file("intel-rapl:0").chmod(0o400)
        try:
            read()
            failed = ""
        except MeterError as e:
            failed = e.what
        machine.counter_file("intel-rapl:0").chmod(0o444)
        machine.advance(5.0)
        print(json.dumps({"failed": failed, "joules": energy_between(start, read(), "rapl")}))
    """)
    assert answer["failed"] == "only root may read it (Linux 5.10 and later, CVE-2020-8694)"
    assert answer["joules"]["rapl/package-0"] == pytest.approx(350.0, rel=1e-3)  # type: ignore[index]
