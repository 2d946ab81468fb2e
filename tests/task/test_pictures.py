import numpy as np
import pytest
from PIL import Image

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.open import open_task
from compressor.task.pictures import read_pictures

SUFFIXES = ".bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"


def spec(channels=1, height=4, width=6):
    return (TensorSpec("input", "float32", (None, channels, height, width)),)


def picture(path, level=0, size=(6, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode in ("L", "I;16") else (level,) * len(mode)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "pets"
    for number, name in enumerate(["dog", "cat"]):
        for i in range(5):
            picture(top / name / f"{i}.png", level=100 * number + i)
    return top


def message_of(folder, inputs=None):
    with pytest.raises(DataError) as error:
        read_pictures(folder, inputs, "pets")
    return str(error.value)


def test_subfolders_are_classes_in_sorted_order(folder):
    parts = read_pictures(folder, spec(), "pets")
    some = parts.examples["all"]
    assert (some.inputs[0].shape, some.inputs[0].dtype) == ((10, 1, 4, 6), np.uint8)
    assert some.targets.tolist() == [0] * 5 + [1] * 5
    assert some.inputs[0][:, 0, 0, 0].tolist() == [100, 101, 102, 103, 104, 0, 1, 2, 3, 4]
    assert parts.notes == ("classes in sorted order: 0=cat, 1=dog",)


def test_as_a_task_they_are_floats_up_to_one(folder):
    task = open_task(str(folder), inputs=spec())
    levels = np.unique(np.concatenate([task.test().inputs[0].ravel(), task.calibration().inputs[0].ravel()]))
    wanted = np.array([0, 1, 2, 3, 4, 100, 101, 102, 103, 104], np.float32) / np.float32(255)
    assert np.array_equal(levels, wanted)
    assert (task.summary.name, task.summary.metric) == ("pets", "accuracy")


def test_train_and_test_on_top(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for i in range(count):
            for name in "ab":
                picture(tmp_path / part / name / f"{i}.png", level=i + 10 * (part == "test"))
    parts = read_pictures(tmp_path, spec(), "d")
    assert {part: len(some) for part, some in parts.examples.items()} == {"train": 6, "test": 4}


def test_the_validation_part_is_the_test_where_there_is_none(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for name in "ab":
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png")
    found = {part: len(some) for part, some in read_pictures(tmp_path, spec(), "d").examples.items()}
    assert found == {"train": 6, "test": 4}
    picture(tmp_path / "test" / "a" / "1.png")
    found = {part: len(some) for part, some in read_pictures(tmp_path, spec(), "d").examples.items()}
    assert found == {"train": 6, "calibration": 4, "test": 1}
    assert list(read_pictures(tmp_path / "train", spec(), "d").examples) == ["all"]


def test_a_class_may_be_called_test(tmp_path):
    picture(tmp_path / "test" / "1.png")
    picture(tmp_path / "control" / "1.png")
    parts = read_pictures(tmp_path, spec(), "d")
    assert (parts.class_names, list(parts.examples)) == (("control", "test"), ["all"])


def test_hidden_files_are_no_examples_and_dead_links_are_named(folder):
    picture(folder / "cat" / ".ipynb_checkpoints" / "0.png")
    picture(folder / "cat" / ".0.png")
    picture(folder / "__MACOSX" / "cat" / "._0.png")
    assert len(read_pictures(folder, spec(), "d").examples["all"]) == 10
    (folder / "cat" / "dead.png").symlink_to(folder / "gone.png")
    assert message_of(folder, spec()).startswith(f"{folder / 'cat' / 'dead.png'}: is not a readable picture (")


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a quarter turn clockwise is needed
    levels = np.zeros((6, 4), np.uint8)
    levels[:, 0] = 200
    Image.fromarray(levels).save(tmp_path / "a" / "1.png", exif=exif)
    free = (TensorSpec("input", "float32", (None, 1, None, None)),)
    pixels = read_pictures(tmp_path, free, "d").examples["all"].inputs[0]
    assert pixels.shape == (1, 1, 4, 6)
    assert pixels[0, 0].mean(axis=1).tolist() == [200, 0, 0, 0]


def test_colours_that_cannot_be_converted(folder):
    path = folder / "cat" / "lab.tif"
    Image.new("LAB", (6, 4)).save(path)
    assert message_of(folder, spec()).startswith(f"{path}: cannot become L (")


def test_class_that_only_the_test_part_has(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png")
    picture(tmp_path / "test" / "b" / "1.png")
    assert message_of(tmp_path) == f"{tmp_path / 'test'}: has a class that train/ has not: b"


def test_channels_and_size_are_the_models(tmp_path):
    picture(tmp_path / "a" / "1.png", level=10, mode="RGB")
    picture(tmp_path / "a" / "2.png", level=20, size=(12, 8))
    parts = read_pictures(tmp_path, spec(channels=3), "d")
    pixels = parts.examples["all"].inputs[0]
    assert pixels.shape == (2, 3, 4, 6)
    assert [pixels[0].min(), pixels[0].max(), pixels[1].min(), pixels[1].max()] == [10, 10, 20, 20]
    assert "1 pictures resized to 4x6 (bilinear)" in parts.notes


def test_axes_are_not_mixed_up(tmp_path):
    levels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    (tmp_path / "a").mkdir()
    Image.fromarray(levels).save(tmp_path / "a" / "1.png")
    pixels = read_pictures(tmp_path, spec(channels=3), "d").examples["all"].inputs[0]
    assert np.array_equal(pixels[0], levels.transpose(2, 0, 1))


def test_without_a_model_grey_stays_grey(folder):
    assert read_pictures(folder, None, "d").examples["all"].inputs[0].shape == (10, 1, 4, 6)
    picture(folder / "cat" / "colour.png", mode="RGB")
    assert read_pictures(folder, None, "d").examples["all"].inputs[0].shape == (11, 3, 4, 6)


def test_without_a_model_sizes_must_agree(folder):
    odd = picture(folder / "dog" / "9.png", size=(3, 3))
    assert message_of(folder) == (
        f"{odd}: is 3x3 pixels, others are 4x6; bring them to one size, or give a model whose input size is fixed"
    )


def test_other_files_are_counted(folder):
    (folder / "cat" / "notes.txt").write_text("hello")
    assert "1 files that are not pictures were left out, e.g. notes.txt" in read_pictures(folder, spec(), "d").notes


def test_empty_folder(tmp_path):
    assert message_of(tmp_path) == f"{tmp_path}: has no subfolders; one per class is needed"


def test_empty_class(folder):
    (folder / "eel").mkdir()
    assert message_of(folder) == f"{folder / 'eel'}: has no pictures; known: {SUFFIXES}"


@pytest.mark.parametrize("content", [b"not a picture", b"\x89PNG\r\n\x1a\n", b""])
def test_corrupt_picture_is_named(folder, content):
    bad = folder / "cat" / "2.png"
    bad.write_bytes(content)
    assert message_of(folder, spec()) == f"{bad}: is not a readable picture (cannot identify image file '{bad}')"


def test_truncated_picture_is_named(tmp_path):
    whole = picture(tmp_path / "a" / "1.bmp", size=(60, 40))
    whole.write_bytes(whole.read_bytes()[:-500])
    message = message_of(tmp_path, spec(height=40, width=60))
    assert message.startswith(f"{whole}: is not a readable picture (")


def test_a_bomb_is_named(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    message = message_of(folder, spec())
    assert message.startswith(f"{folder / 'cat' / '0.png'}: is not a readable picture (Image size (24 pixels) exceeds")


def test_deep_grey_is_not_clipped(folder):
    deep = picture(folder / "cat" / "deep.png", level=40000, mode="I;16")
    assert message_of(folder, spec()) == (
        f"{deep}: has more than 8 bits per channel (mode I;16); save it with 8 bits, or give the data as .npy"
    )


def test_palette_with_transparency(tmp_path):
    (tmp_path / "a").mkdir()
    palette = Image.new("RGB", (6, 4), (200, 10, 10)).quantize(4)
    palette.save(tmp_path / "a" / "1.png", transparency=b"\x80\x00")
    pixels = read_pictures(tmp_path, spec(channels=3), "d").examples["all"].inputs[0]
    assert pixels[0, :, 0, 0].tolist() == [200, 10, 10]


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (
            (TensorSpec("input", "float32", (None, 28, 28, 3)),),
            "pictures have 1, 3 or 4 channels, and the model's input is (N, 28, 28, 3); "
            "give other data as .npy or .npz",
        ),
        (
            (TensorSpec("input", "float32", (None, 10)),),
            "pictures need one input (N, C, H, W), and the model has (N, 10)",
        ),
    ],
)
def test_model_that_takes_no_pictures(folder, inputs, what):
    assert message_of(folder, inputs) == f"{folder / 'cat'}: {what}"
