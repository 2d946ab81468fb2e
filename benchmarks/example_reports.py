"""The committed examples of reports: ``python -m benchmarks.example_reports``, about 4 min on a quiet machine.

Three real runs on different tasks, all offline: pictures (the ResNet that the package carries), a table with classes
(breast cancer) and a table with a number to predict (diabetes), the latter two with data that scikit-learn ships and a
small network trained here. Writes ``examples/reports/NAME/report.json``; the pages are rendered from those.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, chdir
from importlib import resources
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from benchmarks.cases import ROOT
from compressor.pipeline import compress

TARGET = ROOT / "examples" / "reports"
STEPS = 400


def network(inputs: int, outputs: int) -> nn.Module:
    hidden = 512
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def table(name: str, folder: Path) -> tuple[Path, Path]:
    """Train on one part of a table; leave the model and the data, scaled, as files."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    classes = name == "breast-cancer"
    loaded = datasets.load_breast_cancer() if classes else datasets.load_diabetes()
    x, y = loaded.data.astype(np.float32), loaded.target
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.4, random_state=0)
    mean, spread = train_x.mean(0), train_x.std(0)
    train_x, test_x = (train_x - mean) / spread, (test_x - mean) / spread
    if not classes:
        # In units of the training part's own spread, so that a loss of 0.01 means something.
        train_y, test_y = ((part - train_y.mean()) / train_y.std() for part in (train_y, test_y))
    torch.manual_seed(0)
    model = network(x.shape[1], 2 if classes else 1)
    inputs = torch.from_numpy(train_x)
    wanted = torch.from_numpy(train_y if classes else train_y.astype(np.float32)[:, None])
    loss = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(STEPS if classes else STEPS // 10):
        optimizer.zero_grad()
        loss(model(inputs), wanted).backward()
        optimizer.step()
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(model.eval(), (inputs[:2],), dynamic_shapes=(batch,)), folder / f"{name}.pt2")
    half = len(train_x) // 2
    np.savez(
        folder / f"{name}.npz",
        train_x=train_x[half:],
        train_y=train_y[half:] if classes else train_y[half:, None].astype(np.float32),
        calibration_x=train_x[:half],
        calibration_y=train_y[:half] if classes else train_y[:half, None].astype(np.float32),
        test_x=test_x,
        test_y=test_y if classes else test_y[:, None].astype(np.float32),
    )
    return folder / f"{name}.pt2", folder / f"{name}.npz"


@click.command(help=__doc__)
@click.option("--preset", default="quick", show_default=True)
@click.option("--only", type=click.Choice(["pictures", "breast-cancer", "diabetes"]), help="One of the three.")
def main(preset: str, only: str | None) -> None:
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        demo = stack.enter_context(resources.as_file(resources.files("compressor.demo")))
        # From inside: a record names its files as they were given.
        stack.enter_context(chdir(scratch))
        folder = Path()
        shutil.copy(demo / "resnet8.pt2", "resnet8.pt2")
        runs = {"pictures": (Path("resnet8.pt2"), "demo", ("int8",))}
        for name, methods in (("breast-cancer", ("prune", "distill", "int8")), ("diabetes", ("int8",))):
            model, data = table(name, folder)
            runs[name] = (model, str(data), methods)
        for name, (model, data, methods) in runs.items():
            if only not in (None, name):
                continue
            outcome = compress(model, method=methods, data=data, preset=preset, out=folder / name, overwrite=True)
            place = TARGET / name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(outcome.folder / "report.json", place / "report.json")
            print(f"{name}: {outcome.report.headline}")


if __name__ == "__main__":
    main()
