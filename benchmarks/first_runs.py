"""First runs: accuracy of the bare command, `adco pretrain FOLDER`, on typical folders, with both floors.

    python benchmarks/first_runs.py            do all runs that have no result yet
    python benchmarks/first_runs.py table      print the table in Markdown

The only setting of a run is its length: as many epochs as see about 12 000 images. The rows are AdCo with three seeds,
symmetric and multi-crop AdCo, the other methods, and AdCo with the defaults of version 0.0, which were the paper's for
any data. The floors are raw pixels and random weights. Test images are those of `adco evaluate`. Each run appends a
line to results/first_runs.jsonl as soon as it ends.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import adco
from adco.comparison.table import mean_and_std
from adco.config import defaults
from adco.config.commands import EvaluateSettings
from adco.config.resolve import default_image_size
from adco.data.sources.open import open_source
from adco.evaluation.evaluate import evaluate
from adco.evaluation.knn import KNN
from adco.evaluation.linear import Linear
from adco.health.adversary_note import ASLEEP
from adco.runs.directory import RunDirectory
from folders import FOLDERS, data_of
from measure import RESULTS, read_lines, run_all

LINES = RESULTS / "first_runs.jsonl"
IMAGES = 12_000  # approximate number of images a run sees; it has at least one epoch
SEEDS = (0, 1, 2)
SOURCES = (*FOLDERS, "digits", "cifar10")
OTHERS = ("simclr", "moco", "byol", "simsiam")
Line = dict[str, Any]
Job = tuple[str, str, int]  # source, row, seed


def jobs() -> Iterator[Job]:
    """Yield all runs: AdCo with every seed first, then the other rows with one seed."""
    for seed in SEEDS:
        yield from ((source, "adco", seed) for source in SOURCES)
    for row in ("adco before", *OTHERS, "adco symmetric", "adco multi-crop"):
        yield from ((source, row, 0) for source in SOURCES)


def settings_of(row: str, images: int, image_size: int) -> dict[str, Any]:
    """Return the settings of a row of the table."""
    method, _, kind = row.partition(" ")
    settings: dict[str, Any] = {"method": method, "epochs": max(1, round(IMAGES / images))}
    if kind == "symmetric":
        settings["symmetric"] = True
    if kind == "multi-crop":
        settings["small_crops"] = small_crops(image_size)
    if kind == "before":
        settings |= before(images)
    return settings


def before(images: int) -> dict[str, Any]:
    """Return the defaults of version 0.0, which did not depend on the length of the run."""
    return {
        "batch_size": min(256, defaults.power_of_two(images)),
        "optimizer": "sgd",
        "learning_rate": 0.03,
        "warmup_epochs": 0,
        "ema_decay": 0.999,
        "projector_norm": False,
        "adversaries": min(8192, defaults.power_of_two(images)),
        "temperature": 0.12,
        "adversary_learning_rate": 3.0,
        "adversary_temperature": 0.02,
        "warm_start_trains": False,
    }


def small_crops(image_size: int) -> list[tuple[int, float, float]]:
    """Return the paper's small crops: its shares of the image area, with sizes scaled from its views of 224 px."""
    paper = ((192, 0.172, 0.86), (160, 0.143, 0.715), (128, 0.114, 0.571), (96, 0.086, 0.429))
    return [(round(image_size * crop / 224), smallest, largest) for crop, smallest, largest in paper]


def run(job: Job) -> Line:
    """Train and evaluate one run; return its line of results."""
    source, row, seed = job
    data = data_of(source)
    images = open_source(data)
    settings = settings_of(row, len(images), default_image_size(images))
    line: Line = {"source": source, "row": row, "seed": seed, "images": len(images), "settings": settings}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        try:
            # Neither setting changes the result: batches do not depend on workers, and no run is resumed.
            adco.pretrain(data=data, out=str(out), seed=seed, workers=0, checkpoint_every=1_000_000, **settings)
        except Exception as error:  # a collapse is also a result
            line["error"] = f"{type(error).__name__}: {error}"
        line["seconds"] = round(time.monotonic() - start, 1)
        return line | _figures(out, floors=row.startswith("adco") and seed == 0)


def _figures(out: Path, floors: bool) -> Line:
    """Return the figures of a run from its records and evaluations."""
    records: list[dict[str, Any]] = list(RunDirectory(out).records())
    steps = [record for record in records if "effective_rank" in record and record["step"] > 0]
    words = [record["word"] for record in records if "word" in record]
    shares = [record["adversary_share_in_loss_adversary"] for record in steps if "adversary_concentration" in record]
    kept = ("effective_rank", "positive_cosine")
    figures: Line = {
        "device": str(torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"),
        "steps": steps[-1]["step"],
        "lowest_rank": min(record["effective_rank"] for record in steps),
        **{name: steps[-1][name] for name in kept},
        "verdict": words[-1] if words else "none",
    }
    if shares:
        figures["awake"] = sum(share >= ASLEEP for share in shares) / len(shares)  # fraction of the records
        figures["share"] = statistics.median(shares[-5:])
    if not (out / "backbone.safetensors").is_file():
        return figures
    found = evaluate([KNN(k=20), Linear()], out, EvaluateSettings(floors=floors))
    figures |= {"test_images": found["knn"]["images"], "top1": {kind: one["top1"] for kind, one in found.items()}}
    if floors:
        figures["floors"] = {
            kind: {name: floor["top1"] for name, floor in one["floors"].items()} for kind, one in found.items()
        }
    return figures


def table() -> str:
    """Return the table in Markdown, one row per source and kind of run, with means over the seeds."""
    columns = "folder, run, steps, effective rank, share at τ_adv, kNN, random, pixels, linear, random, pixels, verdict"
    names = columns.split(", ")
    rows = [names, ["---"] * len(names)]
    lines = read_lines(LINES)
    floors = {line["source"]: line["floors"] for line in lines if "floors" in line}
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["source"], line["row"]), []).append(line)
    order = [(source, row) for source in SOURCES for row in dict.fromkeys(job[1] for job in jobs())]
    for source, row in (key for key in order if key in groups):
        group = groups[source, row]
        shares = [line["share"] for line in group if "share" in line]
        rows.append(
            [
                source,
                row,
                str(group[0]["steps"]),
                f"{statistics.fmean(line['effective_rank'] for line in group):.0f}",
                f"{statistics.fmean(shares):.1g}" if shares else "",
                *_accuracies(group, "knn", floors.get(source, {})),
                *_accuracies(group, "linear", floors.get(source, {})),
                ", ".join(sorted({"collapsed" if "error" in line else line["verdict"] for line in group})),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _accuracies(group: list[Line], kind: str, floors: Line) -> list[str]:
    """Return the cells of one evaluation: top-1 (%), mean ± standard deviation over seeds, and that of both floors."""
    top1 = [line["top1"][kind] for line in group if "top1" in line]
    of_floors = [f"{floors[kind][name]:.1f}" if floors else "" for name in ("random weights", "raw pixels")]
    return [mean_and_std(top1) if top1 else "none", *of_floors]


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    for source in SOURCES:
        data_of(source)  # create the folder here, before several processes would at once
    done = {(line["source"], line["row"], line["seed"]) for line in read_lines(LINES)}
    run_all(run, (job for job in jobs() if job not in done), LINES)


if __name__ == "__main__":
    main()
