from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from digits import Digits, accuracy, arrays, context, digest, exported, net, task, wrap
from torch import nn

from compressor.model.base import TorchModel
from compressor.passes.batch_norms import LEAST, adapted, measure
from compressor.passes.prune import Prune
from compressor.passes.prune_masks import PruneUnstructured
from compressor.passes.training import finetune
from compressor.results import TaskSummary
from compressor.task.base import Examples


class Drawn(Digits):
    @property
    def summary(self) -> TaskSummary:
        return TaskSummary("synthetic", "agreement", True, len(self.calibrate), 0)


@pytest.fixture(scope="module")
def trained() -> TorchModel:
    return finetune(net(16), context(task()), epochs=5, learning_rate=1e-2)


def test_statistics_are_those_that_training_would_have_found() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Conv2d(4, 4, 3),
                           nn.BatchNorm2d(4, momentum=None)).eval()  # fmt: skip
    model = exported(wrap(module))
    batches = [(torch.from_numpy(arrays()[0][i : i + 32].copy()),) for i in (0, 32, 64)]
    measure(model.module, batches)  # type: ignore[arg-type]
    module.train()
    for batch in batches:
        module(*batch)
    found = dict(model.module.named_buffers())
    for name, wanted in module.named_buffers():
        if "running" in name:
            torch.testing.assert_close(found[name], wanted)


@pytest.mark.parametrize("method", [Prune(flops=0.5, round_to=4), PruneUnstructured(fraction=0.7)])
def test_what_is_left_keeps_more_of_its_accuracy(method: Prune | PruneUnstructured, trained: TorchModel) -> None:
    before = digest(trained)
    worse = method.apply(trained, context(Digits(None, Examples((arrays()[0][: LEAST - 1],), None))))
    better = method.apply(trained, context(task()))
    assert digest(trained) == before
    assert accuracy(better.module) > accuracy(worse.module) + 0.05
    assert "The statistics of the batch norms were measured anew on 100 calibration examples." in better.steps[-1].notes
    assert (
        "The batch norms keep the statistics of the whole model: 15 real examples are too few to measure them anew."
        in worse.steps[-1].notes
    )


def test_drawn_inputs_and_small_fixed_batches_measure_nothing() -> None:
    model = exported(net())
    before = digest(model)
    drawn = Drawn(None, Examples((np.zeros((64, 1, 8, 8), np.float32),), None))
    said = "The batch norms keep the statistics of the whole model: {} too few to measure them anew."
    assert adapted(model, context(drawn)) == (said.format("0 real examples are"),)
    fixed = replace(model, inputs=(replace(model.inputs[0], shape=(2, 1, 8, 8)),))
    assert adapted(fixed, context(task())) == (said.format("a fixed batch of 2 is"),)
    assert digest(model) == before


def test_a_fixed_batch_is_filled_up() -> None:
    model = exported(wrap(net().module, batch=32))
    before = digest(model)
    assert adapted(model, context(task())) == (
        "The statistics of the batch norms were measured anew on 100 calibration examples.",
    )
    assert digest(model) != before


def test_models_without_batch_norms_are_not_mentioned() -> None:
    assert adapted(exported(wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))), context(task())) == ()
    assert adapted(net(), context(task())) == ()
