"""First runs: the bare command, `adco pretrain --data FOLDER`, on folders as people have them, beside both floors.

    python benchmarks/first_runs.py            every run that has no line yet
    python benchmarks/first_runs.py before     the same with the defaults of version 0.0, the paper's for any data
    python benchmarks/first_runs.py table      the table, as Markdown

The command gets a time limit, as a number of epochs that see about so many images on every folder, and nothing else.
Each run is a process of its own, on one thread; its line lands in results/first_runs.jsonl as soon as it ends.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from adco.data.sources import open_source
from adco.evaluation.runs import evaluate_kinds
from adco.settings import EvaluateSettings
from folders import FOLDERS, folder
from measure import RESULTS

LINES = RESULTS / "first_runs.jsonl"
IMAGES = 3000  # that a run sees, about, and at least one epoch
SMALL = 16  # epochs at most
SEEDS = (0, 1, 2)
SOURCES = (*FOLDERS, "digits")
PLAIN: dict[str, Any] = {}
SYMMETRIC = {"symmetric": True}
MULTI_CROP = {"small_crops": "chosen for the size"}
OTHERS = ("simclr", "moco", "byol", "simsiam")
# What every folder got before defaults depended on it.
BEFORE: dict[str, Any] = {
    "batch_size": 256,
    "optimizer": "sgd",
    "learning_rate": 0.03,
    "warmup_epochs": 0,
    "momentum": 0.999,
    "projector_norm": False,
    "adversary_learning_rate": 3.0,
    "warm_start_trains": False,
}
Job = tuple[str, str, int, dict[str, Any]]  # source, method, seed, further flags


def jobs() -> Iterator[Job]:
    """AdCo with every seed first, then its variants, then the other methods."""
    for seed in SEEDS:
        yield from ((source, "adco", seed, PLAIN) for source in SOURCES)
    for variant in (SYMMETRIC, MULTI_CROP):
        yield from ((source, "adco", 0, variant) for source in SOURCES)
    for method in OTHERS:
        yield from ((source, method, 0, PLAIN) for source in SOURCES)


def jobs_before() -> Iterator[Job]:
    """The same command as it was."""
    yield from ((source, "adco", 0, BEFORE) for source in SOURCES)


def run(job: Job) -> None:
    """Train and evaluate one, and add its line."""
    source, method, seed, further = job
    data = source if source == "digits" else str(folder(source))
    images = len(open_source(data))
    flags = {"method": method, "seed": seed, "epochs": max(1, min(SMALL, IMAGES // images)), **further}
    if "small_crops" in further:
        flags["small_crops"] = json.dumps(small_crops(open_source(data).shorter_side))
    if further is BEFORE:
        flags["batch_size"] = min(256, 1 << (images.bit_length() - 1))
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        command = [sys.executable, "-m", "adco.cli", "pretrain", "--data", data, "--out", str(out)]
        command += [f"--{name}={value}" for name, value in flags.items()]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        line: dict[str, Any] = {"source": source, "method": method, "seed": seed, "further": further}
        line |= {"flags": flags, "images": images, "exit": done.returncode, "words": done.stderr.splitlines()[-3:]}
        line |= _figures(out)
    with LINES.open("a") as file:
        file.write(json.dumps(line) + "\n")


def small_crops(side: int) -> list[tuple[int, float, float]]:
    """The paper's shares of the image, at its shares of the views' side of 224 px."""
    size = side if side <= 64 else min(224, side // 32 * 32)
    paper = ((192, 0.172, 0.86), (160, 0.143, 0.715), (128, 0.114, 0.571), (96, 0.086, 0.429))
    return [(round(size * crop / 224), smallest, largest) for crop, smallest, largest in paper]


def _figures(out: Path) -> dict[str, Any]:
    """What the run's records and evaluations say."""
    records = [json.loads(record) for record in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "effective_rank" in record and record["step"] > 0]
    words = [record["word"] for record in records if "word" in record]
    torch.set_num_threads(1)
    found = evaluate_kinds(["knn", "linear"], out, EvaluateSettings(floors=True, k=20))
    kept = ("effective_rank", "positive_cosine", "adversary_share_in_loss_adversary", "adversary_norm_max")
    return {
        "steps": steps[-1]["step"],
        "config": (out / "config.yaml").read_text(),
        "lowest_rank": min(record["effective_rank"] for record in steps),
        **{name: steps[-1][name] for name in kept if name in steps[-1]},
        "verdict": words[-1] if words else "none",
        "top1": {kind: result["top1"] for kind, result in found.items()},
        "floors": {
            kind: {name: floor["top1"] for name, floor in result["floors"].items()} for kind, result in found.items()
        },
        "test_images": found["knn"]["images"],
    }


def missing(wanted: Iterator[Job]) -> list[Job]:
    """Those without a line."""
    done = [(line["source"], line["method"], line["seed"], line["further"]) for line in read()]
    return [job for job in wanted if job not in done]


def read() -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.is_file() else []


def table() -> str:
    """A row a source and kind of run: means over the seeds."""
    columns = "folder, run, steps, effective rank, share at τ_adv, kNN, random, pixels, linear, random, pixels, verdict"
    names = columns.split(", ")
    rows = [names, ["---"] * len(names)]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in read():
        groups.setdefault((line["source"], line["method"], json.dumps(line["further"])), []).append(line)
    for (source, method, further), lines in groups.items():
        variant = {json.dumps(SYMMETRIC): " symmetric", json.dumps(MULTI_CROP): " multi-crop"}
        name = method + variant.get(further, " before" if further == json.dumps(BEFORE) else "")
        shares = [line.get("adversary_share_in_loss_adversary") for line in lines]
        rows.append(
            [
                source,
                name,
                str(lines[0]["steps"]),
                f"{statistics.fmean(line['effective_rank'] for line in lines):.0f}",
                "" if shares[0] is None else f"{statistics.fmean(s for s in shares if s is not None):.1g}",
                *_accuracies(lines, "knn"),
                *_accuracies(lines, "linear"),
                ", ".join(sorted({line["verdict"] for line in lines})),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _accuracies(lines: list[dict[str, Any]], kind: str) -> list[str]:
    """Top-1 in % of the run, with its standard deviation over seeds, of random weights and of raw pixels."""
    top1 = [line["top1"][kind] for line in lines]
    spread = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
    floors = lines[0]["floors"][kind]
    return [f"{statistics.fmean(top1):.1f}{spread}", f"{floors['random weights']:.1f}", f"{floors['raw pixels']:.1f}"]


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    for name in FOLDERS:
        folder(name)
    wanted = missing(jobs_before() if sys.argv[1:] == ["before"] else jobs())
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(run, wanted):
            pass


if __name__ == "__main__":
    main()
