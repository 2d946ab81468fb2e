from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from digits import context, digest, net, task

from compressor.errors import MethodError
from compressor.passes.augment import augmentations, augmenter
from compressor.passes.distill import Distill
from compressor.passes.qat import Qat
from compressor.passes.training import finetune

SHAPES = [(4, 1, 8, 16)]


def made(names: tuple[str, ...], x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    change = augmenter(names, [tuple(x.shape)], "here")
    assert change is not None
    return change((x,), torch.Generator().manual_seed(seed))[0]


def test_a_shift_moves_a_picture_by_up_to_an_eighth_and_fills_with_zeros() -> None:
    x = torch.zeros(500, 1, 8, 16)
    x[:, 0, 4, 8] = 1
    moved = made(("shift",), x)
    places = moved.flatten(1).argmax(1)
    down, right = places // 16 - 4, places % 16 - 8
    assert set(down.tolist()) == {-1, 0, 1}
    assert set(right.tolist()) == {-2, -1, 0, 1, 2}
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(500))
    full = made(("shift",), torch.ones(500, 1, 8, 16))
    assert set(full.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(full.sum((1, 2, 3)), (8 - down.abs()) * (16 - right.abs()))


def test_a_mirror_image_of_half_of_the_pictures() -> None:
    x = torch.arange(16.0).expand(400, 3, 8, 16)
    found = made(("mirror",), x)
    turned = (found == x.flip(3)).all(3).all(2).all(1)
    kept = (found == x).all(3).all(2).all(1)
    assert bool((turned ^ kept).all())
    assert 150 < int(turned.sum()) < 250


def test_both_in_order_by_the_seed_and_other_inputs_stay() -> None:
    x, y = torch.rand(6, 2, 8, 8), torch.rand(6, 5)
    change = augmenter(("shift", "mirror"), [tuple(x.shape), tuple(y.shape)], "here")
    assert change is not None
    one, other = (change((x, y), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert one[1] is y
    assert not torch.equal(one[0], change((x, y), torch.Generator().manual_seed(4))[0])
    assert augmenter((), SHAPES, "here") is None


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ()),
        ("shift, mirror", ("shift", "mirror")),
        (["mirror"], ("mirror",)),
        ("mine.py:noise", ("mine.py:noise",)),
        (["shift", "package.module:noise"], ("shift", "package.module:noise")),
    ],
)
def test_how_it_is_written(given: str | list[str] | None, found: tuple[str, ...]) -> None:
    assert augmentations(given, "here") == found


def test_pictures_are_needed() -> None:
    with pytest.raises(MethodError) as caught:
        augmenter(("shift",), [(4, 16)], "qat")
    assert str(caught.value) == (
        "qat: no input is a picture (N, C, H, W) that could be shifted or mirrored; leave out augment, or name a "
        "callable of your own"
    )


def test_every_method_that_trains_takes_it(tmp_path: Path) -> None:
    held = context(task(200), teacher=net(16, 1, seed=5))
    for augment in ((), ("shift", "mirror")):
        tuned = finetune(net(8), held, epochs=1, augment=augment)
        assert tuned.steps[-1].settings["augment"] == ", ".join(augment)
    plain, shifted, again = (
        Distill(epochs=1, augment=augment).apply(net(8), held) for augment in ((), ("shift",), ("shift",))
    )
    assert digest(shifted) == digest(again) != digest(plain)
    assert "The original runs beside the student in every step." in shifted.steps[-1].notes
    assert Qat(epochs=1, augment=("mirror",)).apply(net(8), held).steps[-1].settings["augment"] == "mirror"
