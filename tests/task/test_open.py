"""Opening data as the command line does: what is told apart, what comes out, and what each mistake says."""

import numpy as np
import pytest

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task import fashion_mnist
from compressor.task.open import open_task

KINDS = "give a .npy, .npz or .csv file, a folder of pictures by class, or file.py:callable"
PICTURE = (TensorSpec("input", "float32", (None, 1, 28, 28)),)
TEN = (TensorSpec("output", "float32", (None, 10)),)
ROWS = np.random.default_rng(3).standard_normal((40, 3)).astype(np.float32)
LABELS = np.arange(40) % 4
THREE = (TensorSpec("input", "float32", (None, 3)),)


def message_of(data, **options):
    with pytest.raises(DataError) as error:
        open_task(str(data), **options)
    return str(error.value)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


# --- built in ------------------------------------------------------------------------------------------------------


def test_demo_is_installed_and_fits_the_demo_model():
    task = open_task("demo", inputs=PICTURE, outputs=TEN)
    test = task.test()
    assert test.inputs[0].shape[1:] == (1, 28, 28)
    assert (test.inputs[0].dtype, test.inputs[0].max()) == (np.float32, 1.0)
    assert set(test.targets.tolist()) == set(range(10))
    assert len(task.calibration()) == min(512, task.summary.calibration_examples)
    assert task.training() is None
    assert (task.summary.name, task.summary.metric, task.summary.synthetic) == ("demo", "accuracy", False)
    assert "x: uint8 scaled by 1/255 to float32" in task.notes


def test_classes_have_names_where_the_data_tell_them(tmp_path):
    assert open_task("demo", inputs=PICTURE).class_names == fashion_mnist.CLASSES
    named = open_task(str(save(tmp_path / "d.npz", x=ROWS, y=np.array(["<script>", "b", "a", "c"])[LABELS])))
    assert named.class_names == ("<script>", "a", "b", "c")
    path = tmp_path / "d.csv"
    path.write_text("a,b,y\n" + "".join(f"{i},{i / 3},{['NA', 'None', 'cat'][i % 3]}\n" for i in range(20)))
    task = open_task(str(path))
    assert (task.class_names, task.columns) == (("NA", "None", "cat"), ("a", "b"))


def test_fashion_mnist_has_its_official_splits(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 1, 28, 28), np.uint8)
    parts = {"train": (pixels[:50], np.arange(50) % 10), "test": (pixels[50:], np.arange(20) % 10)}
    # Stands in for the real files, which are fetched.
    monkeypatch.setattr(fashion_mnist, "load_bytes", parts.__getitem__)
    task = open_task("fashion-mnist", inputs=PICTURE, outputs=TEN, calibration_limit=20)
    assert (len(task.training()), len(task.calibration()), len(task.test())) == (50, 20, 20)
    assert np.bincount(task.calibration().targets).tolist() == [2] * 10
    assert np.array_equal(task.test().inputs[0], pixels[50:].astype(np.float32) / np.float32(255))
    in_training = {row.tobytes() for row in task.training().inputs[0]}
    assert all(row.tobytes() in in_training for row in task.calibration().inputs[0])


def test_unknown_name():
    assert message_of("fashion-mnits") == (
        f"there is no data 'fashion-mnits'; did you mean 'fashion-mnist'? known: demo, fashion-mnist; or {KINDS}"
    )


@pytest.mark.parametrize("name", ["gone.npz", "folder/gone"])
def test_missing_file(name):
    assert message_of(name) == f"{name}: there is no such file or folder"


def test_unknown_kind_of_file(tmp_path):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1")
    assert message_of(path) == f"{path}: '.parquet' is no kind of data that can be read; {KINDS}"


# --- files ---------------------------------------------------------------------------------------------------------


def test_npz(tmp_path):
    task = open_task(str(save(tmp_path / "d.npz", x=ROWS, y=LABELS)), inputs=THREE)
    assert (len(task.calibration()), len(task.test()), task.training()) == (8, 32, None)
    assert task.summary.name == "d.npz"
    score = task.evaluate(lambda inputs: np.eye(4)[np.zeros(len(inputs[0]), int)])
    assert (score.name, score.value, len(score.per_example)) == ("accuracy", 0.25, 32)


def test_csv_says_which_column_is_the_target(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,label,b\n" + "".join(f"{i},{'xy'[i % 2]},{i * i}\n" for i in range(10)))
    task = open_task(str(path), inputs=(TensorSpec("i", "float32", (None, 2)),))
    assert task.summary.name == "d.csv (target: label)"
    assert task.test().inputs[0].dtype == np.float32
    assert "text labels numbered in sorted order: 0=x, 1=y" in task.notes


def test_a_csv_without_its_target_says_which_column_was_taken(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},{i * i},{i / 3}\n" for i in range(10)))
    assert message_of(path, inputs=THREE) == f"{path} (target: c): x is (N, 2), but the model's input 'input' is (N, 3)"


def test_target_is_for_csv_only():
    assert message_of("demo", target="y") == "demo: a target column can be named for a CSV file only"


def test_no_targets_asks_for_the_original(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    task = open_task(str(path), inputs=THREE)
    assert task.summary.metric == "agreement with the original"
    assert task.test().targets is None
    with pytest.raises(DataError) as error:
        task.evaluate(lambda inputs: inputs[0])
    assert str(error.value) == (
        "x.npy: has no targets, and the original model's outputs were not given to stand for them"
    )


def test_metric_without_targets(tmp_path):
    path = save(tmp_path / "d.npz", x=ROWS)
    assert message_of(path, metric="accuracy") == (
        f"{path}: has no targets, and accuracy needs them; add them, or leave the metric out to score agreement with "
        "the original model"
    )


# --- mistakes in the content ---------------------------------------------------------------------------------------


def spoilt(value):
    rows = ROWS.copy()
    rows[17, 1] = rows[30, 2] = value
    return rows


@pytest.mark.parametrize(
    ("arrays", "inputs", "what"),
    [
        ({"y": LABELS}, THREE, "d.npz: has no x; keys: y"),
        (
            {"x": ROWS, "y": LABELS},
            PICTURE,
            "{path}: x is (N, 3), but the model's input 'input' is (N, 1, 28, 28)",
        ),
        (
            {"x": np.zeros((40, 28, 28), np.float32), "y": LABELS},
            PICTURE,
            "{path}: x is (N, 28, 28), but the model's input 'input' is (N, 1, 28, 28); "
            "add the channel axis: x[:, None]",
        ),
        ({"x": ROWS.astype(str), "y": LABELS}, THREE, "{path}: x is text, not numbers"),
        (
            {"x": ROWS, "y": LABELS},
            (TensorSpec("ids", "int64", (None, 3)),),
            "{path}: x is float32, but the model's input 'ids' is int64",
        ),
        (
            {"x": spoilt(np.nan), "y": LABELS},
            THREE,
            "{path}: x holds NaN or infinity, first in row 17 (counted from 0)",
        ),
        (
            {"x": spoilt(np.inf), "y": LABELS},
            THREE,
            "{path}: x holds NaN or infinity, first in row 17 (counted from 0)",
        ),
        (
            {"x": ROWS, "y": np.where(LABELS == 3, np.nan, 1.0)},
            THREE,
            "{path}: y holds NaN or infinity, first in row 3 (counted from 0)",
        ),
        (
            {"x": ROWS, "y": LABELS[:39]},
            THREE,
            "{path}: one row per example is needed, and x has 40 rows, y has 39 rows",
        ),
        (
            {"x": ROWS[:3], "y": LABELS[:3]},
            THREE,
            "{path}: has 3 examples; at least 4 are needed to calibrate on and to score",
        ),
        (
            {"train_x": ROWS, "train_y": LABELS, "test_x": ROWS[:1], "test_y": LABELS[:1]},
            THREE,
            "{path}: has 1 example; at least 2 are needed in the test part",
        ),
        (
            {"x": ROWS, "y": LABELS + 8},
            THREE,
            "accuracy: labels go up to 11 but the model has 10 outputs; "
            "number the classes from 0, or check that the data belong to this model",
        ),
        (
            {"x": ROWS, "y": np.eye(10)[LABELS]},
            THREE,
            "{path}: its targets are one-hot rows; give class numbers, y.argmax(1), or name the metric if they are "
            "numbers",
        ),
        (
            {"x": ROWS},
            (*THREE, TensorSpec("mask", "int64", (None, 3))),
            "d.npz: lacks the model's input input, mask; keys: x",
        ),
        (
            {"train_x": ROWS, "train_y": LABELS, "test_x": ROWS.astype(float) + 1, "test_y": LABELS},
            THREE,
            "{path}: train_x is float32 and test_x is float64",
        ),
    ],
)
def test_content_that_does_not_fit(tmp_path, arrays, inputs, what):
    path = save(tmp_path / "d.npz", **arrays)
    assert message_of(path, inputs=inputs, outputs=TEN) == what.format(path=path)


@pytest.mark.parametrize(
    ("targets", "metric", "what"),
    [
        (
            LABELS,
            "r2",
            "r2: compares numbers, and the targets are class labels for a model with output (N, 10); "
            "score with accuracy, balanced-accuracy, f1, precision, recall, auc or top5",
        ),
        (LABELS.astype(str), "mse", "mse: compares numbers, and the targets are text; score with accuracy or f1"),
        (
            LABELS / 3,
            "f1",
            "f1: needs class labels (whole numbers or text), and the targets are float64; "
            "store class numbers as integers, or score with mse, mae, rmse or r2",
        ),
        (
            LABELS,
            "f2",
            "there is no metric 'f2'; did you mean 'r2'? known: accuracy, agreement, auc, balanced-accuracy, "
            "exact-positions, f1, mae, mse, precision, r2, recall, rmse, spearman, token-accuracy, top5",
        ),
    ],
)
def test_metric_that_does_not_fit(tmp_path, targets, metric, what):
    path = save(tmp_path / "d.npz", x=ROWS, y=targets)
    assert message_of(path, inputs=THREE, outputs=TEN, metric=metric) == what


@pytest.mark.parametrize("name", ["calibration_limit", "test_limit"])
def test_limits_too_small(name):
    assert message_of("demo", **{name: 1}) == f"{name}: is 1; at least 2 examples are needed"


# --- callables -----------------------------------------------------------------------------------------------------

SOURCE = """
import numpy as np
X = np.arange(60.0).reshape(20, 3)
def pair(): return X, np.arange(20) % 2
def keys(): return {"train_x": X, "train_y": X.sum(1), "test_x": X + 0.5, "test_y": X.sum(1)}
def bare(): return (X, None)
def fails(): raise ValueError("no disk")
def number(): return 7
def leaves(): raise SystemExit(3)
def ragged(): return [[1], [1, 2]], [0, 1]
def frame():
    import pandas
    return pandas.DataFrame(X), pandas.Series(["a", "b"] * 10)
class Hollow:
    summary = None
    def calibration(self): return 1
    training = test = evaluate = calibration
def task():
    from compressor.task.open import open_task
    return open_task(__file__ + ":pair")
table = [1]
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(SOURCE)
    return path


def test_callable_that_returns_a_pair(own):
    task = open_task(f"{own}:pair")
    assert (task.summary.name, task.summary.metric, len(task.test())) == (f"{own}:pair", "accuracy", 16)


def test_callable_that_returns_keys(own):
    task = open_task(f"{own}:keys")
    assert (task.summary.metric, len(task.training()), len(task.test())) == ("mse", 20, 20)


def test_callable_without_targets(own):
    assert open_task(f"{own}:bare").test().targets is None


def test_callable_that_returns_a_data_frame(own):
    assert open_task(f"{own}:frame").class_names == ("a", "b")


def test_callable_that_returns_a_task(own):
    assert open_task(f"{own}:task").summary.name == f"{own}:pair"
    assert message_of(f"{own}:task", metric="f1") == (
        f"{own}:task: returns a task, which brings its own metric; leave the metric out"
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fails", "{own}:fails: raised ValueError: no disk"),
        ("number", "{own}:number: returned an object of type int; return a Task, (x, y), or a dict with x and y"),
        ("leaves", "{own}:leaves: raised SystemExit: 3"),
        ("Hollow", "{own}:Hollow: returned a task without a TaskSummary as summary or Examples as test()"),
        (
            "pairs",
            "{own}: has no 'pairs'; did you mean 'pair'? known: Hollow, bare, fails, frame, keys, leaves, number, "
            "pair, ragged, task",
        ),
        ("table", "{own}: 'table' is a list, not a callable"),
    ],
)
def test_callable_that_does_not_serve(own, name, what):
    assert message_of(f"{own}:{name}") == what.format(own=own)


def test_callable_whose_rows_differ_in_length(own):
    assert message_of(f"{own}:ragged").startswith(f"{own}:ragged: returned x that is no array (")
