"""Optimizers of a vision transformer in a short run of AdCo: Muon, and AdamW at several learning rates.

    python benchmarks/vision_transformers.py          do all runs that have no result yet
    python benchmarks/vision_transformers.py table    print the table in Markdown

The network is a ViT of three blocks of width 96, with patches of 4 px on views of 24 px, and a projector of width 256.
All figures are from training images, by cross-validation (`search.folds`): test images are not used, so that defaults
can be chosen here. Results are appended to results/vision_transformers.jsonl, one line per run.
"""

import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import adco
from adco.comparison.table import mean_and_std
from adco.data.sources.open import open_source
from folders import data_of
from measure import RESULTS, read_lines, run_all
from search import folds

LINES = RESULTS / "vision_transformers.jsonl"
SOURCES = ("cifar10-1000", "fashion-mnist-1000")
SEEDS = (0, 1)
IMAGES = 10_000  # images that a run sees
NETWORK: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"patch_size": 4, "embed_dim": 96, "depth": 3, "num_heads": 3},
}
ADAMW: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.1}
PUBLISHED = 1.5e-4 * 64 / 256  # MoCo v3's rate for batches of 64, the default for a thousand images
EMBEDDINGS = "muon 0.02, also for position embeddings"
ROWS: dict[str, dict[str, Any]] = {
    **{f"muon {rate:g}": {"optimizer": "muon", "learning_rate": rate} for rate in (0.02, 0.01, 0.03, 0.1)},
    EMBEDDINGS: {"optimizer": "muon", "learning_rate": 0.02},
    "adamw 0.002": ADAMW | {"learning_rate": 2e-3},
    "adamw 0.0005": ADAMW | {"learning_rate": 5e-4},
    "adamw 0.0000375 (MoCo v3)": ADAMW | {"learning_rate": PUBLISHED},
}
Line = dict[str, Any]


def run(job: tuple[str, str, int]) -> Line:
    """Train and evaluate one run; return its line of results."""
    source, row, seed = job
    data = data_of(source)
    epochs = round(IMAGES / len(open_source(data)))
    settings = NETWORK | ROWS[row] | {"image_size": 24, "hidden": 256, "batch_size": 64, "warmup_epochs": 1.0}
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        with (
            mock.patch("adco.methods.method.vectors", return_value=frozenset()) if row == EMBEDDINGS else nullcontext()
        ):
            adco.pretrain(data=data, out=out, seed=seed, epochs=epochs, knn_images=0, workers=0, **settings)
        return {"source": source, "row": row, "seed": seed, **folds(out / "backbone.safetensors", data)}


def table() -> str:
    """Return the table in Markdown: kNN and linear top-1 of each row, mean ± standard deviation over seeds."""
    lines = read_lines(LINES)
    rows = ["| folder | optimizer | seeds | kNN | linear |", "|---|---|---|---|---|"]
    for source in SOURCES:
        for row in ROWS:
            mine = [line for line in lines if (line["source"], line["row"]) == (source, row)]
            if mine:
                figures = " | ".join(mean_and_std([line[kind] for line in mine]) for kind in ("knn", "linear"))
                rows.append(f"| {source} | {row} | {len(mine)} | {figures} |")
    return "\n".join(rows)


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    done = {(line["source"], line["row"], line["seed"]) for line in read_lines(LINES)}
    jobs = [(source, row, seed) for seed in SEEDS for source in SOURCES for row in ROWS]
    for source in SOURCES:
        data_of(source)  # create the folder here, before several processes would at once
    run_all(run, (job for job in jobs if job not in done), LINES)


if __name__ == "__main__":
    main()
