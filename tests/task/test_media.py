"""Pictures and sounds through the processor of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from tiny_transformers import save_tiny

from compressor.errors import DataError
from compressor.model.hf_load import load_folder
from compressor.results import TensorSpec
from compressor.task.media import read_media
from compressor.task.open import open_task, reading_for

PICTURE = (TensorSpec("pixel_values", "float32", (None, 3, 32, 32)),)
SOUND = (TensorSpec("input_values", "float32", (None, None)),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    for name in ("vit", "wav2vec2"):
        save_tiny(name, root / name)
    return root


def save_picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 40, 3), level, np.uint8)).save(path)


def save_sound(path: Path, count: int, rate: int = 8000, dtype: type = np.int16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.sin(np.arange(count) / rate * 2 * np.pi * 440)
    data = wave.astype(np.float32) if dtype is np.float32 else (wave * 30000).astype(dtype)
    wavfile.write(path, rate, data)


def test_pictures_are_processed_and_numbered_by_the_model(folders, tmp_path):
    for index in range(6):
        save_picture(tmp_path / "pos" / f"{index}.png", 255 - index)
        save_picture(tmp_path / "neg" / f"{index}.png", index)
    (tmp_path / "pos" / "note.txt").write_text("x")
    found = read_media(tmp_path, folders / "vit", "image-classification", PICTURE, "d")
    x, y = found.examples["all"].inputs[0], found.examples["all"].targets
    assert (x.shape, x.dtype) == ((12, 3, 32, 32), np.float32)
    # (level / 255 - 0.5) / 0.5
    assert [round(float(row.mean()), 3) for row in x[:2]] == [-1.0, round(1 / 127.5 - 1, 3)]
    assert y.tolist() == [0] * 6 + [1] * 6
    assert found.class_names == ("neg", "pos")
    assert found.notes == (
        "classes numbered by the model's label2id",
        "1 files of other kinds were left out, e.g. note.txt",
    )
    reading = reading_for(folders / "vit", hf_task=None, text=None, target=None, max_length=None)
    task = open_task(str(tmp_path), inputs=load_folder(folders / "vit").inputs, reading=reading)
    assert task.summary.metric == "accuracy"


def test_classes_that_the_model_does_not_name_are_sorted(folders, tmp_path):
    for name in ("cat", "ant"):
        save_picture(tmp_path / name / "1.png", 1)
    found = read_media(tmp_path, folders / "vit", "image-classification", PICTURE, "d")
    assert found.notes == ("classes in sorted order: 0=ant, 1=cat",)
    assert found.class_names == ("ant", "cat")


def test_sounds_get_one_rate_one_channel_and_one_length(folders, tmp_path):
    save_sound(tmp_path / "train" / "neg" / "a.wav", 8000)
    save_sound(tmp_path / "train" / "pos" / "b.wav", 4000, dtype=np.float32)
    save_sound(tmp_path / "test" / "neg" / "c.wav", 6000, rate=16000)
    stereo = np.zeros((2000, 2), np.int16)
    (tmp_path / "test" / "pos").mkdir()
    wavfile.write(tmp_path / "test" / "pos" / "d.wav", 8000, stereo + 100)
    found = read_media(tmp_path, folders / "wav2vec2", "audio-classification", SOUND, "d")
    train, test = found.examples["train"], found.examples["test"]
    assert train.inputs[0].shape == test.inputs[0].shape == (2, 8000)
    assert (train.targets.tolist(), test.targets.tolist()) == ([0, 1], [0, 1])
    assert abs(float(train.inputs[0][0].mean())) < 1e-3
    assert float(train.inputs[0][0].std()) == pytest.approx(1, abs=1e-3)
    assert np.abs(train.inputs[0][1, 4000:]).max() < 1e-6
    assert np.abs(test.inputs[0][0, 3000:]).max() < 1e-3 < np.abs(test.inputs[0][0, :3000]).max()
    assert "sounds of 16000 Hz were resampled" in found.notes
    assert "sounds of 8000 Hz, padded to 1 s" in found.notes


def error_of(path: Path, folder: Path, task: str, inputs: tuple[TensorSpec, ...]) -> str:
    with pytest.raises(DataError) as caught:
        read_media(path, folder, task, inputs, "d")
    return str(caught.value)


def test_bad_files(folders, tmp_path):
    assert error_of(tmp_path, folders / "vit", "image-classification", PICTURE) == (
        f"{tmp_path}: has no subfolders; one per class is needed"
    )
    (tmp_path / "pos").mkdir()
    assert error_of(tmp_path, folders / "wav2vec2", "audio-classification", SOUND) == (
        f"{tmp_path / 'pos'}: has no sounds (.wav); known: .wav"
    )
    (tmp_path / "pos" / "a.wav").write_bytes(b"RIFFno")
    assert error_of(tmp_path, folders / "wav2vec2", "audio-classification", SOUND).startswith(
        f"{tmp_path / 'pos' / 'a.wav'}: is not a readable .wav file ("
    )
    wavfile.write(tmp_path / "pos" / "a.wav", 8000, np.zeros(0, np.int16))
    assert error_of(tmp_path, folders / "wav2vec2", "audio-classification", SOUND) == (
        f"{tmp_path / 'pos' / 'a.wav'}: holds no sound"
    )


def test_folder_without_a_processor(folders, tmp_path):
    save_picture(tmp_path / "d" / "pos" / "1.png", 1)
    save_tiny("vit", tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    assert error_of(tmp_path / "d", tmp_path / "vit", "image-classification", PICTURE) == (
        f"{tmp_path / 'vit'}: holds no processor (preprocessor_config.json), so files cannot be read for it; save it "
        "there with processor.save_pretrained(), or give arrays as .npz"
    )
