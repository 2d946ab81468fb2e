"""Metrics against scikit-learn on the decisions they must take, and what each of them refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.metrics import default_metric, metric, show_shape

RANDOM = np.random.default_rng(7)
LABELS = RANDOM.integers(0, 7, 80)
SCORES = RANDOM.standard_normal((80, 7)).astype(np.float32)
DECIDED = SCORES.argmax(axis=1)
SOFTMAX = np.exp(SCORES.astype(float)) / np.exp(SCORES.astype(float)).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("accuracy", sk.accuracy_score(LABELS, DECIDED)),
        ("balanced-accuracy", sk.balanced_accuracy_score(LABELS, DECIDED)),
        ("f1", sk.f1_score(LABELS, DECIDED, average="macro")),
        ("precision", sk.precision_score(LABELS, DECIDED, average="macro")),
        ("recall", sk.recall_score(LABELS, DECIDED, average="macro")),
        ("top5", sk.top_k_accuracy_score(LABELS, SCORES, k=5)),
        ("auc", sk.roc_auc_score(LABELS, SOFTMAX, multi_class="ovr")),
    ],
)
def test_class_metrics_are_scikit_learns(name, wanted):
    score = metric(name).score(LABELS, SCORES)
    assert score.value == pytest.approx(wanted, abs=1e-12)
    assert (score.name, score.unit, score.higher_is_better) == (name, "fraction", True)


@pytest.mark.parametrize(
    ("name", "wanted", "unit", "higher"),
    [
        ("mse", 5 / 4, "target²", False),
        ("mae", 3 / 4, "target", False),
        ("rmse", (5 / 4) ** 0.5, "target", False),
        ("r2", 1 - 5 / 5, "", True),
    ],
)
def test_number_metrics_by_hand(name, wanted, unit, higher):
    score = metric(name).score(np.array([0.0, 1.0, 2.0, 3.0]), np.array([[0.0], [0.0], [0.0], [3.0]]))
    assert score.value == pytest.approx(wanted, abs=1e-12)
    assert (score.unit, score.higher_is_better) == (unit, higher)


@pytest.mark.parametrize("name", ["accuracy", "top5"])
def test_class_averages_come_with_their_parts(name):
    score = metric(name).score(LABELS, SCORES)
    assert set(score.per_example) == {0.0, 1.0}
    assert np.mean(score.per_example) == pytest.approx(score.value, abs=1e-12)


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_number_averages_come_with_their_parts(name):
    targets, outputs = RANDOM.standard_normal((2, 30, 3))
    score = metric(name).score(targets, outputs)
    assert len(score.per_example) == 30
    assert np.mean(score.per_example) == pytest.approx(score.value, abs=1e-12)


@pytest.mark.parametrize("name", ["balanced-accuracy", "f1", "precision", "recall", "auc"])
def test_class_metrics_that_are_no_average_say_nothing_per_example(name):
    assert metric(name).score(LABELS, SCORES).per_example is None


@pytest.mark.parametrize("name", ["rmse", "r2"])
def test_number_metrics_that_are_no_average_say_nothing_per_example(name):
    assert metric(name).score(np.array([1.0, 2.0]), np.array([1.0, 2.5])).per_example is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 2**16))
def test_accuracy_is_the_average_of_its_parts(labels, seed):
    outputs = np.random.default_rng(seed).standard_normal((len(labels), 4))
    score = metric("accuracy").score(np.array(labels), outputs)
    assert score.value == pytest.approx(np.mean(score.per_example), abs=1e-12)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize(
    ("outputs", "decided"),
    [
        ([0.1, 0.6, 0.4, 0.9], [0, 1, 0, 1]),  # probabilities: above 0.5
        ([-3.0, 0.2, 0.4, 5.0], [0, 1, 1, 1]),  # logits: above 0
        ([0.1, 0.6, 0.4, 1.004], [0, 1, 0, 1]),  # a quantized sigmoid a step past its end
    ],
)
def test_one_output_is_decided_by_a_threshold(outputs, decided, shape):
    right = metric("accuracy").score(np.array([1, 1, 1, 1]), np.array(outputs).reshape(shape))
    assert right.per_example == tuple(map(float, decided))


def test_whole_numbers_are_class_numbers_already():
    assert metric("accuracy").score(np.array([3, 4]), np.array([3, 5])).per_example == (1.0, 0.0)


@pytest.mark.parametrize("columns", [1, 2])
def test_binary_auc_from_logits(columns):
    labels, logits = np.array([0, 0, 1, 1]), np.array([-2.0, 0.5, 0.1, 3.0])
    outputs = logits[:, None] if columns == 1 else np.stack([-logits, logits], axis=1)
    assert metric("auc").score(labels, outputs).value == sk.roc_auc_score(labels, logits)


def test_auc_takes_probabilities_as_they_are():
    assert metric("auc").score(LABELS, SOFTMAX).value == pytest.approx(
        sk.roc_auc_score(LABELS, SOFTMAX, multi_class="ovr"), abs=1e-12
    )


def test_default_metric():
    assert default_metric(np.array([1, 2])).name == "accuracy"
    assert default_metric(np.array([1.0, 2.0])).name == "mse"
    assert default_metric(None).name == "agreement with the original"


# --- agreement -----------------------------------------------------------------------------------------------------


def test_agreement_of_class_scores_is_the_same_arg_max():
    original = np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0]])
    score = metric("agreement").score(original, np.array([[0.0, 9.0], [0.0, 1.0], [3.0, 4.0]]))
    assert score.per_example == (1.0, 0.0, 1.0)
    assert score.value == pytest.approx(2 / 3)
    assert score.name == "agreement with the original"


def test_agreement_of_other_outputs_is_one_minus_the_error_over_the_originals_size():
    original = np.array([[3.0], [4.0]])  # root mean square: sqrt(12.5)
    score = metric("agreement").score(original, np.array([[3.0], [2.0]]))
    assert score.per_example == pytest.approx((1.0, 1 - 2 / 12.5**0.5))
    assert score.value == pytest.approx(np.mean(score.per_example))


def test_agreement_with_itself_is_one():
    for original in (SCORES, SCORES[:, :1], SCORES.reshape(80, 7, 1), LABELS):
        assert metric("agreement").score(original, original).value == 1.0


def test_agreement_of_class_numbers():
    assert metric("agreement").score(np.array([1, 2]), np.array([1, 3])).per_example == (1.0, 0.0)


def test_agreement_with_nothing():
    with pytest.raises(DataError) as error:
        metric("agreement").score(np.zeros((2, 1)), np.ones((2, 1)))
    assert str(error.value) == "agreement: the original's outputs are all 0: nothing to agree with"


# --- what is refused -----------------------------------------------------------------------------------------------


def spec(*shape, dtype="float32"):
    return TensorSpec("output", dtype, shape)


FLOATS = np.array([0.5, 1.5])
TEN = np.arange(12)
ONE_HOT = np.eye(3, dtype=np.int64)
SCORE_NUMBERS = "score with accuracy, balanced-accuracy, f1, precision, recall, auc or top5"


@pytest.mark.parametrize(
    ("name", "targets", "output", "message"),
    [
        (
            "f1",
            FLOATS,
            None,
            "f1: needs class labels (whole numbers or text), and the targets are float64; "
            "store class numbers as integers, or score with mse, mae, rmse or r2",
        ),
        (
            "accuracy",
            ONE_HOT,
            None,
            "accuracy: needs one class label per example, and the targets are (N, 3); "
            "give class numbers (N,), not one-hot rows",
        ),
        ("accuracy", np.array([0, -1]), None, "accuracy: labels go down to -1; number the classes from 0"),
        (
            "accuracy",
            TEN,
            spec(None, 10),
            "accuracy: labels go up to 11 but the model has 10 outputs; "
            "number the classes from 0, or check that the data belong to this model",
        ),
        (
            "accuracy",
            TEN,
            spec(None, 1),
            "accuracy: labels go up to 11 but the model has 1 output; "
            "number the classes from 0, or check that the data belong to this model",
        ),
        (
            "accuracy",
            TEN,
            spec(None, 10, 4, 4),
            "accuracy: needs one score per class, (N, C), and the model's output is (N, 10, 4, 4); "
            "score it with a metric of your own: --metric file.py:callable",
        ),
        ("top5", np.array([0, 1]), spec(None, 5), "top5: needs more than 5 classes, and the model has 5 outputs"),
        (
            "auc",
            np.array([0, 1]),
            spec(None, dtype="int64"),
            "auc: needs a score per class, and the model gives class numbers (int64)",
        ),
        (
            "r2",
            TEN,
            spec(None, 12),
            f"r2: compares numbers, and the targets are class labels for a model with output (N, 12); {SCORE_NUMBERS}",
        ),
        (
            "mse",
            FLOATS,
            spec(None, 3),
            "mse: the model's output is (N, 3), the targets are (N,); "
            "if they are class numbers, store them as integers",
        ),
        ("mse", np.zeros((2, 4)), spec(None, 3), "mse: the model's output is (N, 3), the targets are (N, 4)"),
        ("mse", np.array(["a", "b"]), None, "mse: needs numbers, and the targets are <U1"),
        (
            "agreement",
            np.zeros((2, 3)),
            spec(2, 4),
            "agreement with the original: the model's output is (N, 4), the original's is (N, 3)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(name, targets, output, message):
    with pytest.raises(DataError) as error:
        metric(name).check(targets, output)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "targets", "output"),
    [
        ("accuracy", np.array([0, 9]), spec(None, 10)),
        ("accuracy", np.array([0, 1]), spec(None)),
        ("accuracy", np.array([0, 1]), spec(None, 1)),
        ("accuracy", np.array([0, 99]), spec(None, None)),
        ("mse", np.array([3, 99]), spec(None, 1)),
        ("mse", FLOATS, spec(None, None)),
        ("mse", np.zeros((2, 3)), spec(None, 1, 3)),
    ],
)
def test_what_fits_is_let_through(name, targets, output):
    metric(name).check(targets, output)
    metric(name).check(targets, None)


@pytest.mark.parametrize(("high", "columns"), [(10, 10), (2, 1), (2, 2)])
def test_the_first_label_out_of_range(high, columns):
    metric("accuracy").check(np.array([0, high - 1]), spec(None, columns))
    with pytest.raises(DataError, match=f"^accuracy: labels go up to {high} but the model has {columns} output"):
        metric("accuracy").check(np.array([0, high]), spec(None, columns))


def test_one_class_has_no_auc():
    with pytest.raises(DataError) as error:
        metric("auc").score(np.array([1, 1]), np.array([0.1, 0.2]))
    assert str(error.value) == "auc: needs at least two classes among the test labels, and all of them are 1"


def test_a_missing_class_has_no_auc():
    with pytest.raises(DataError) as error:
        metric("auc").score(np.array([0, 1, 1]), SCORES[:3, :4])
    assert str(error.value) == (
        "auc: needs every class among the test labels; missing: 2, 3; score with accuracy or f1, or give more test "
        "examples"
    )


def test_constant_targets_have_no_r2():
    with pytest.raises(DataError) as error:
        metric("r2").score(np.array([2.0, 2.0]), np.array([1.0, 2.0]))
    assert str(error.value) == "r2: is not defined for test targets that are all the same; score with mse"


def test_unknown_metric_names_the_nearest():
    with pytest.raises(DataError) as error:
        metric("acuracy")
    assert str(error.value) == (
        "there is no metric 'acuracy'; did you mean 'accuracy'? known: accuracy, agreement, auc, balanced-accuracy, "
        "exact-positions, f1, mae, mse, precision, r2, recall, rmse, spearman, token-accuracy, top5"
    )


# --- the user's own ------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import numpy as np\n"
        "def worst(y_true, y_pred):\n    return np.abs(y_true - y_pred).max()\n"
        "worst.higher_is_better = False\n"
        "def hits(y_true, y_pred):\n    return (y_pred.argmax(1) == y_true).sum()\n"
        "def fails(y_true, y_pred):\n    raise KeyError('no')\n"
        "def vague(y_true, y_pred):\n    return None\n"
    )
    return path


def test_own_metric(own):
    score = metric(f"{own}:worst").score(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    assert (score.name, score.value, score.higher_is_better, score.per_example) == (f"{own}:worst", 3.0, False, None)
    assert metric(f"{own}:hits").score(np.array([0, 1]), np.eye(2)).value == 2.0


def test_own_metric_from_a_module():
    score = metric("sklearn.metrics:max_error").score(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    assert (score.value, score.higher_is_better) == (3.0, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "raised KeyError: 'no'; it is given the targets and the model's raw outputs"),
        ("vague", "returned None, not a finite number"),
    ],
)
def test_own_metric_that_fails(own, name, message):
    with pytest.raises(DataError) as error:
        metric(f"{own}:{name}").score(np.array([1.0]), np.array([1.0]))
    assert str(error.value) == f"{own}:{name}: {message}"


def test_show_shape():
    assert show_shape((5, None, 3)) == "(N, ?, 3)"
    assert show_shape((5,)) == "(N,)"
