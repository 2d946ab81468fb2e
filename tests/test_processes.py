"""What the launchers' environment variables say."""

from __future__ import annotations

import os

import pytest

from compressor import processes


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "x",
    }.items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")  # a variable of somebody else's
    assert (processes.count(), processes.count_here(), processes.follows()) == (1, 1, False)


def test_a_launchers_variables_tell_which_one_this_is(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (processes.count(), processes.count_here(), processes.rank(), processes.follows()) == (4, 2, 3, True)
    monkeypatch.setenv("RANK", "0")
    assert not processes.follows()


def test_whoever_parts_hands_nothing_of_it_on(launched: None) -> None:
    before = set(os.environ)
    processes.part()
    assert processes.count() == 1
    left = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_NAME", "TORCHELASTIC_RUN_ID"}
    assert before - set(os.environ) == left | {"MASTER_ADDR", "MASTER_PORT"}
