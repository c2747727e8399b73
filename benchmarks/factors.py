"""The effect of eleven settings in a short run of AdCo: each at two values, in 24 runs on each of four folders.

    python benchmarks/factors.py               do all runs that have no result yet
    python benchmarks/factors.py table         print the effect of each setting

Each setting has its first value in half of the runs, in an independent random order, so each effect is estimated from
all runs. Length and evaluation of the runs are those of `search.py`. Results are appended to results/factors.jsonl, one
line per run.
"""

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import adco
from adco.config import defaults
from adco.data.sources.open import open_source
from adco.runs.directory import RunDirectory
from folders import data_of
from measure import RESULTS, read_lines, run_all
from search import IMAGES, SYMMETRIC_COSTS, folds

LINES = RESULTS / "factors.jsonl"
SOURCES = ("cifar10-1000", "icons", "photographs", "fashion-mnist-1000")
RUNS = 24
FACTORS: dict[str, tuple[Any, Any]] = {
    "symmetric": (False, True),
    "batch, times the default": (1, 0.5),
    "smallest crop": (0.2, 0.4),
    "temperature": (0.12, 0.2),
    "adversary_temperature": (0.05, 0.1),
    "adversary_learning_rate, times 3 K / 8192": (1, 4),
    "jitter, times the default": (1.0, 0.5),
    "blur_probability": (0.5, 0.0),
    "learning_rate, times 0.1 (SGD: for 256 images)": (1, 0.5),
    "ema_decay": (0.9, 0.97),
    "optimizer": ("muon", "sgd"),
}
Line = dict[str, Any]


def design() -> list[list[int]]:
    """Return which of its two values (0 or 1) each setting has in each run, [RUNS][settings]."""
    random = np.random.default_rng(7)
    columns = [random.permutation([0, 1] * (RUNS // 2)) for _ in FACTORS]
    return [[int(column[number]) for column in columns] for number in range(RUNS)]


def run(job: tuple[str, int]) -> Line:
    """Train and evaluate one run, given by its folder and its row of the design; return its line of results."""
    source, number = job
    data = data_of(source)
    images = len(open_source(data))
    chosen = {name: FACTORS[name][level] for name, level in zip(FACTORS, design()[number], strict=True)}
    symmetric, batch_factor, crop, tau, tau_adv, rate, jitter, blur, speed, ema_decay, optimizer = chosen.values()
    batch = round(defaults.batch_size(images) * batch_factor)
    epochs = round(IMAGES / images / (SYMMETRIC_COSTS if symmetric else 1))
    count = defaults.adversaries(images, batch, images * epochs)
    flags = {
        "symmetric": symmetric,
        "batch_size": batch,
        "crop_scale": (crop, 1.0),
        "temperature": tau,
        "adversary_temperature": tau_adv,
        "adversary_learning_rate": rate * 3 * count / 8192,
        **dict.fromkeys(("brightness", "contrast", "saturation"), 0.4 * jitter),
        "hue": 0.1 * jitter,
        "blur_probability": blur,
        "learning_rate": speed * 0.1 * (1 if optimizer == "muon" else batch / 256),
        "ema_decay": ema_decay,
        "optimizer": optimizer,
        "epochs": epochs,
    }
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        adco.pretrain(data=data, out=str(out), checkpoint_every=1_000_000, knn_images=0, workers=0, **flags)
        records = RunDirectory(out).records()
        share = [record["adversary_share_in_loss_adversary"] for record in records if "effective_rank" in record][-1]
        return {"source": source, "number": number, "share": share, **folds(out / "backbone.safetensors", data)}


def effects(lines: list[Line], figure: str) -> tuple[list[float], list[float]]:
    """Return the effect of each setting's second value, and its standard error, by least squares.

    The model has one intercept per folder and one effect per setting.

    Args:
        lines: the results of runs.
        figure: linear, knn, or share (its decimal logarithm).
    """
    where = [[float(line["source"] == source) for source in SOURCES] for line in lines]
    levels = [[level - 0.5 for level in design()[line["number"]]] for line in lines]
    terms = np.hstack([np.array(where), np.array(levels)])
    values = np.array([math.log10(line["share"]) if figure == "share" else line[figure] for line in lines])
    found, residuals, *_ = np.linalg.lstsq(terms, values, rcond=None)
    variance = float(residuals[0]) / (len(lines) - terms.shape[1])
    errors = np.sqrt(variance * np.diag(np.linalg.inv(terms.T @ terms)))
    return list(found[len(SOURCES) :]), list(errors[len(SOURCES) :])


def table() -> str:
    """Return the table in Markdown, one row per setting: its two values and the effect of the second."""
    rows = ["| setting | from | to | linear | kNN | decades of the share at τ_adv |", "|---|---|---|---|---|---|"]
    columns = [zip(*effects(read_lines(LINES), figure), strict=True) for figure in ("linear", "knn", "share")]
    for (name, (first, second)), *figures in zip(FACTORS.items(), *columns, strict=True):
        added = [f"{effect:+.1f} ± {error:.1f}" for effect, error in figures]
        rows.append(f"| {name} | {first} | {second} | {' | '.join(added)} |")
    return "\n".join(rows)


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    for source in SOURCES:
        data_of(source)  # create the folder here, before several processes would at once
    done = {(line["source"], line["number"]) for line in read_lines(LINES)}
    wanted = [(source, number) for number in range(RUNS) for source in SOURCES if (source, number) not in done]
    run_all(run, wanted, LINES)


if __name__ == "__main__":
    main()
