from __future__ import annotations

import pytest
from powercap_simulator import run_in_namespace

from compressor.meters import pyrapl, rapl

# A package of 35 W that wraps in the middle of the window, and 4 W of DRAM.
WRAPPING = """
    import json
    from powercap_simulator import *
    from compressor.errors import MeterError
    from compressor.meters import pyrapl, rapl, registry
    from compressor.meters.base import MeterOptions, energy_between

    root = lay_over_sys()
    machine = desktop(root, start_uj=RANGE_UJ - 180_000_000)
"""


def test_agrees_with_rapl_on_one_tree_with_a_wrap_in_the_middle() -> None:
    answer = run_in_namespace(
        WRAPPING
        + """
    meters = [rapl.open_rapl(clock=machine.clock, guard=False), pyrapl.open_pyrapl(machine.clock, guard=False)]
    start, began = [m.read() for m in meters], machine.now
    machine.advance(10.0)
    end = [m.read() for m in meters]
    meters[1].close()
    print(json.dumps({
        "seconds": machine.now - began,
        "rapl": energy_between(start[0], end[0], "rapl"),
        "pyrapl": energy_between(start[1], end[1], "pyrapl"),
        "wrapped": int(machine.counter_file("intel-rapl:0").read_text()) < RANGE_UJ - 180_000_000,
        "domains": meters[1].info.domains,
        "total": meters[1].info.total,
        "period": meters[1].info.update_period_s,
    }))
    """
    )
    assert answer["wrapped"] is True
    assert answer["domains"] == answer["total"] == ["package-0", "dram-0"]
    assert answer["period"] == pytest.approx(0.001, rel=0.1)
    for name in ("rapl", "pyrapl"):
        energy = answer[name]
        assert energy[f"{name}/package-0"] == pytest.approx(35 * answer["seconds"], rel=5e-3)  # type: ignore
        assert energy[f"{name}/dram-0"] == pytest.approx(4 * answer["seconds"], rel=5e-3)  # type: ignore


def test_pyrapls_own_measurement_loses_the_wrapped_window() -> None:
    answer = run_in_namespace(
        WRAPPING
        + """
    pyrapl.open_pyrapl(machine.clock, guard=False).close()  # imports pyRAPL without its warnings
    import warnings
    import pyRAPL
    warnings.simplefilter("ignore", ResourceWarning)  # pyRAPL closes no file
    pyRAPL.setup()
    energies = []
    for seconds in (1.0, 10.0):
        window = pyRAPL.Measurement("window")
        window.begin()
        machine.advance(seconds)
        window.end()
        energies.append([window.result.pkg, window.result.dram])
    print(json.dumps({"before": energies[0], "across": energies[1]}))
    """
    )
    assert answer["before"][0] == pytest.approx([35e6], rel=5e-3)  # type: ignore[index]
    assert answer["across"][0] is None  # type: ignore[index]
    assert answer["across"][1] == pytest.approx([40e6], rel=5e-3)  # type: ignore[index]


def test_second_socket_beside_psys() -> None:
    answer = run_in_namespace("""
        import json
        from powercap_simulator import *
        from compressor.meters import pyrapl
        from compressor.meters.base import energy_between

        machine = SimulatedMachine(
            lay_over_sys(sockets=2),
            SimulatedZone("intel-rapl:0", "package-0", constant(30.0)),
            SimulatedZone("intel-rapl:0:0", "dram", constant(3.0)),
            SimulatedZone("intel-rapl:1", "psys", constant(150.0)),
            SimulatedZone("intel-rapl:2", "package-1", constant(50.0)),
            SimulatedZone("intel-rapl:2:0", "dram", constant(5.0)),
        )
        meter = pyrapl.open_pyrapl(machine.clock, guard=False)
        start = meter.read()
        machine.advance(10.0)
        energy = energy_between(start, meter.read(), "pyrapl")
        meter.close()
        print(json.dumps(energy))
    """)
    assert answer == pytest.approx(
        {"pyrapl/package-0": 300, "pyrapl/dram-0": 30, "pyrapl/package-1": 500, "pyrapl/dram-1": 50}, rel=5e-3
    )


def test_machine_without_dram_has_no_dram_domain() -> None:
    answer = run_in_namespace("""
        import json
        from powercap_simulator import *
        from compressor.meters import pyrapl

        machine = SimulatedMachine(lay_over_sys(), SimulatedZone("intel-rapl:0", "package-0", constant(30.0)))
        meter = pyrapl.open_pyrapl(machine.clock, guard=False)
        meter.close()
        print(json.dumps(meter.info.domains))
    """)
    assert answer == ["package-0"]


def test_two_dies_and_an_offline_cpu_are_refused_by_name_while_rapl_reads_on() -> None:
    answer = run_in_namespace("""
        import json
        from powercap_simulator import *
        from compressor.errors import MeterError
        from compressor.meters import pyrapl, rapl

        def refusal():
            try:
                pyrapl.open_pyrapl(machine.clock, guard=False)
            except MeterError as e:
                return [str(e), list(rapl.open_rapl(clock=machine.clock, guard=False).info.domains)]

        machine = SimulatedMachine(
            lay_over_sys(),
            SimulatedZone("intel-rapl:0", "package-0-die-0", constant(30.0)),
            SimulatedZone("intel-rapl:1", "package-0-die-1", constant(30.0)),
        )
        dies = refusal()
        machine = desktop(lay_over_sys(offline=(1,)))
        print(json.dumps({"dies": dies, "offline": refusal()}))
    """)
    assert answer["dies"] == [
        "pyrapl: pyRAPL 0.2.3.1 refuses packages of several dies (package-0-die-0); use the meter rapl",
        ["package-0-die-0", "package-0-die-1"],
    ]
    assert answer["offline"] == [
        "pyrapl: pyRAPL needs every CPU online and misses "
        "/sys/devices/system/cpu/cpu1/topology/physical_package_id; use the meter rapl",
        ["package-0", "core-0", "dram-0"],
    ]


def test_permission_is_a_named_error_with_the_rule_for_a_real_user() -> None:
    answer = run_in_namespace(
        WRAPPING
        + """
    import os, logging
    pyrapl.open_pyrapl(machine.clock, guard=False).close()  # import while root's Python is in reach
    machine.counter_file("intel-rapl:0").chmod(0o400)
    os.seteuid(NOBODY)
    status = registry.status("pyrapl")
    try:
        pyrapl.open_pyrapl(machine.clock, guard=False)
    except MeterError as e:
        print(json.dumps({"what": e.what, "mend": e.mend, "usable": status.usable, "why": status.why}))
    """
    )
    assert answer["what"] == "only root may read it (Linux 5.10 and later, CVE-2020-8694)"
    assert answer["mend"] == rapl.MEND
    assert answer["usable"] is False
    assert str(answer["why"]).endswith("only root may read it (Linux 5.10 and later, CVE-2020-8694)")


def test_import_is_quiet_and_sets_up_no_logging() -> None:
    # run_in_namespace itself turns warnings into errors and wants an empty stderr
    answer = run_in_namespace(
        WRAPPING
        + """
    import logging
    before = list(logging.getLogger().handlers), logging.getLogger().manager.disable
    pyrapl.open_pyrapl(machine.clock, guard=False).close()
    after = list(logging.getLogger().handlers), logging.getLogger().manager.disable
    print(json.dumps({"same": before == after}))
    """
    )
    assert answer["same"] is True


def test_probe_and_open_meter_agree_in_real_time() -> None:
    answer = run_in_namespace(
        WRAPPING
        + """
    import threading, time
    machine.tick_s = 0.001
    stop = threading.Event()
    def tick():
        while not stop.wait(0.0005):
            value = machine.zones["intel-rapl:0"].counter_uj(time.monotonic())
            # one write of fixed length: never half a number
            with machine.counter_file("intel-rapl:0").open("r+") as file:
                file.write(f"{value:<16d}")
    thread = threading.Thread(target=tick)
    thread.start()
    status = registry.status("pyrapl")
    meter = registry.open_meter("pyrapl", MeterOptions())
    meter.close()
    stop.set()
    thread.join()
    print(json.dumps({"usable": status.usable, "why": status.why, "same": status.info.domains == meter.info.domains}))
    """
    )
    assert answer == {"usable": True, "why": "", "same": True}


def test_nothing_is_imported_where_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import sys

    from compressor.errors import MeterError

    monkeypatch.setattr(rapl, "ROOT", tmp_path)
    monkeypatch.delitem(sys.modules, "pyRAPL", raising=False)
    with pytest.raises(MeterError, match="no RAPL counter here"):
        pyrapl.probe()
    assert "pyRAPL" not in sys.modules
