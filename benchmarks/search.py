"""Are the defaults good? The bare command against random settings of the same cost, on the folders of first runs.

    python benchmarks/search.py                do all runs that have no result yet
    python benchmarks/search.py again          repeat AdCo's default and its best random settings with other seeds
    python benchmarks/search.py table          print each method's default and its best random settings

All runs see about the same number of images, except symmetric ones, which see fewer because each image costs half as
much again. Linear and kNN top-1 are measured by four-fold cross-validation on the training images, so nothing is chosen
on test images. The best of twelve is partly the luckiest, hence the other seeds. Each run appends a line to
results/search.jsonl.
"""

import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adco
from adco.config import defaults
from adco.data.sources.open import open_source, open_splits
from adco.evaluation.extract import extract_features
from adco.evaluation.features import Features
from adco.evaluation.knn import KNN
from adco.evaluation.linear import fit_linear_probe
from adco.models.backbone import load_backbone
from adco.runs.directory import RunDirectory
from folders import data_of
from measure import RESULTS, read_lines, run_all

LINES = RESULTS / "search.jsonl"
IMAGES, EPOCHS = 12_000, 3  # approximate number of images a run sees, and the least number of epochs
SYMMETRIC_COSTS = 1.5
SETTINGS = 12  # random settings per method, besides its default
FOLDS = 4
OTHER_SEEDS = (1, 2)
SOURCES = ("cifar10-1000", "icons", "photographs", "cifar10-5000")
METHODS = ("adco", "simclr", "moco", "byol", "simsiam")
Settings = dict[str, Any]
Job = tuple[str, str, int, int]  # source, method, index of the settings (0 for the defaults), seed


def draw(method: str, number: int) -> Settings:
    """Return the random settings of this index: those with data-dependent defaults, and the augmentations."""
    if number == 0:
        return {}
    random = np.random.default_rng([METHODS.index(method), number])

    def between(low: float, high: float) -> float:
        return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.3g}")

    def one(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    jitter = one(0.5, 1.0)
    settings: Settings = {
        "optimizer": one("muon", "muon", "muon", "sgd"),
        "crop_scale": (one(0.08, 0.2, 0.4), 1.0),
        "blur_probability": one(0.0, 0.5),
        **dict.fromkeys(("brightness", "contrast", "saturation"), 0.4 * jitter),
        "hue": 0.1 * jitter,
        "batch_factor": one(0.5, 1, 2),
    }
    rates = {
        "adco": (0.02, 0.4),
        "moco": (0.02, 0.4),
        "simclr": (0.02, 0.8),
        "byol": (0.02, 0.4),
        "simsiam": (0.01, 0.2),
    }
    settings["learning_rate"] = between(*(rates[method] if settings["optimizer"] == "muon" else (0.01, 0.3)))
    if method in ("adco", "moco", "byol"):
        settings["ema_decay"] = one(0.9, 0.95, 0.98, 0.99, 0.996)
    if method in ("adco", "moco"):
        settings |= {"projector_norm": one(True, True, True, False), "symmetric": one(False, False, True)}
    if method in ("adco", "moco", "simclr"):
        settings["temperature"] = between(0.07, 0.3)
    if method == "adco":
        settings |= {
            "adversaries": one(256, 512, 1024, 2048, 4096),
            "adversary_temperature": between(0.02, 0.2),
            "adversary_learning_rate": between(0.01, 10),
            "warm_start_trains": one(True, True, False),
        }
    if method == "moco":
        settings["queue"] = one(256, 512, 1024, 2048, 4096)
    return settings


def jobs() -> Iterator[Job]:
    """Yield all runs, ordered by index, so that the results are balanced over methods and sources at any time."""
    for number in range(SETTINGS + 1):
        for method in METHODS:
            yield from ((source, method, number, 0) for source in SOURCES)


def again() -> Iterator[Job]:
    """Yield AdCo's default and its best random settings with other seeds."""
    lines = read_lines(LINES)
    for seed in OTHER_SEEDS:
        for source in SOURCES:
            yield source, "adco", 0, seed
            yield source, "adco", best(lines, source, "adco")["number"], seed


def best(lines: list[Settings], source: str, method: str) -> Settings:
    """Return the result of the random settings with the highest linear top-1."""
    mine = [line for line in lines if (line["source"], line["method"], line["seed"]) == (source, method, 0)]
    return max((line for line in mine if line["number"]), key=lambda line: float(line.get("linear", 0)))


def run(job: Job) -> Settings:
    """Train and evaluate one run; return its line of results."""
    source, method, number, seed = job
    data = data_of(source)
    images = len(open_source(data))
    settings = draw(method, number)
    flags = {name: value for name, value in settings.items() if name != "batch_factor"}
    if "batch_factor" in settings:
        flags["batch_size"] = round(settings["batch_factor"] * defaults.batch_size(images))
    cost = SYMMETRIC_COSTS if settings.get("symmetric") else 1
    flags |= {"method": method, "seed": seed, "epochs": round(max(EPOCHS, IMAGES / images) / cost), "knn_images": 0}
    flags["workers"] = 0  # batches do not depend on it, and this process has one core
    line = dict(zip(("source", "method", "number", "seed"), job, strict=True)) | {
        "settings": settings,
        "images": images,
    }
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        try:
            adco.pretrain(data=data, out=str(out), checkpoint_every=1_000_000, **flags)
        except Exception as error:  # a collapse or a NaN loss is also a result
            return line | {"error": f"{type(error).__name__}: {error}"}
        records = RunDirectory(out).records()
        last = [record for record in records if "effective_rank" in record][-1]
        kept = ("effective_rank", "positive_cosine", "adversary_share_in_loss_adversary", "step")
        return line | {name: last[name] for name in kept if name in last} | folds(out / "backbone.safetensors", data)


def folds(weights: Path, data: str) -> dict[str, float]:
    """Return linear and kNN top-1 (%) on all training images, by cross-validation over FOLDS folds."""
    backbone, info = load_backbone(weights)
    train, _ = open_splits(data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    all_of = extract_features(
        backbone, train, image_size=info.image_size, mean=info.mean, std=info.std, device=device, progress=False
    )
    fold = np.random.default_rng(0).permutation(len(train)) % FOLDS
    linear = knn = 0
    for number in range(FOLDS):
        rest, part = (Features(all_of.features[mask], all_of.labels[mask]) for mask in (fold != number, fold == number))
        probe = fit_linear_probe(rest.features, rest.labels, len(train.classes), candidates=(0.1, 0.01))
        linear += int((probe.scores(part.features).argmax(dim=1) == part.labels).sum())
        top1 = KNN(k=20).score_features(rest, part, train.classes).top1
        knn += round(top1 / 100 * len(part.labels))
    return {"linear": 100 * linear / len(train), "knn": 100 * knn / len(train)}


def table() -> str:
    """Return the table in Markdown: default, and best, median and worst random settings, per source and method."""
    rows = [
        "| folder | method | default | best | the same with other seeds | median | worst | the best's settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines = read_lines(LINES)
    for source, method in dict.fromkeys((line["source"], line["method"]) for line in lines if line["number"]):
        mine = [line for line in lines if (line["source"], line["method"]) == (source, method)]
        found = best(lines, source, method)
        accuracies = sorted(line.get("linear", 0.0) for line in mine if line["number"] and line["seed"] == 0)
        figures = (
            mean(line for line in mine if line["number"] == 0),
            f"{accuracies[-1]:.1f}",
            mean(line for line in mine if line["number"] == found["number"] and line["seed"]),
            f"{np.median(accuracies):.1f}",
            f"{accuracies[0]:.1f}",
            ", ".join(f"{name} {value}" for name, value in found["settings"].items()),
        )
        rows.append(f"| {source} | {method} | {' | '.join(figures)} |")
    return "\n".join(rows)


def mean(lines: Iterable[Settings]) -> str:
    """Return the mean linear top-1 over seeds and, in brackets, the number of seeds."""
    accuracies = [line["linear"] for line in lines]
    return f"{np.mean(accuracies):.1f} ({len(accuracies)})" if accuracies else ""


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    for source in SOURCES:
        data_of(source)  # create the folder here, before several processes would at once
    done = {(line["source"], line["method"], line["number"], line["seed"]) for line in read_lines(LINES)}
    wanted = again() if sys.argv[1:] == ["again"] else jobs()
    run_all(run, (job for job in wanted if job not in done), LINES)


if __name__ == "__main__":
    main()
