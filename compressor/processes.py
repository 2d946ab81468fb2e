"""The processes that a launcher started together to train, as its environment variables tell them.

``torchrun`` and ``accelerate launch`` set the variables; PyTorch's documentation of ``torchrun`` defines them.
"""

from __future__ import annotations

import os

_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK")
_SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")
_OTHERS = ("ROLE_NAME", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """How many there are, on all machines; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def count_here() -> int:
    """How many of them share this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def rank() -> int:
    """Which one this is, from 0."""
    return _number("RANK", 0)


def follows() -> bool:
    """Whether this is not the first of several, and so only helps to train."""
    return count() > 1 and rank() > 0


def part() -> None:
    """Be a process of its own from now on, and let those that it starts be none of the group."""
    if count() > 1:
        for name in [*os.environ]:
            if name in (*_RANKS, *_SIZES, *_OTHERS) or name.startswith("TORCHELASTIC_"):
                del os.environ[name]


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise
