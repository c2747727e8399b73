"""Search for the constants of the CIFAR-10 comparison: short runs of its rows, scored on held-out training images.

    python benchmarks/trials.py momenta    ema_decay, for the methods with a momentum encoder
    python benchmarks/trials.py rates      each method with each learning rate: the same budget for all
    python benchmarks/trials.py edges      further values where the best was the highest or the lowest
    python benchmarks/trials.py target     BYOL with a faster target network, ten epochs each
    python benchmarks/trials.py gap        MoCo v2 with AdCo's constants, and AdCo with MoCo's
    python benchmarks/trials.py causes     AdCo with one setting changed at a time, ten epochs each
    python benchmarks/trials.py sharper    lower temperatures, ten epochs each
    python benchmarks/trials.py tau        temperatures of SimCLR and MoCo v2, ten epochs each
    python benchmarks/trials.py awake      adversaries that receive gradient, at a lower temperature, ten epochs each
    python benchmarks/trials.py seeds      published, awake and fixed adversaries with other seeds

A trial has one seed and two epochs unless stated otherwise. It appends a line to results/cifar10_table5/trials.jsonl as
soon as it ends; trials that have a line there are skipped.
"""

import sys
import tempfile
from typing import Any

import adco
from adco.comparison.plan import read_plan
from adco.runs.directory import RunDirectory
from measure import RESULTS, read_lines, run_all

RECIPE = "cifar10_table5"
TRIALS = RESULTS / RECIPE / "trials.jsonl"
SHORT: dict[str, Any] = {"data": "cifar10-validation", "epochs": 2, "knn_images": 0}
RATES, MIDDLE = (0.02, 0.05, 0.1), 0.05
# The better value for each method in "momenta"
MOMENTA = {"BYOL": 0.9, "MoCo v2": 0.99, "AdCo 8192": 0.9, "CaCo 8192 symmetric": 0.9}
PUBLISHED: dict[str, Any] = {}
AWAKE = {"adversary_learning_rate": 30.0}
FIXED = {"adversary_learning_rate": 0.0}
Job = tuple[str, dict[str, Any]]


def at(row: str, rate: float, **changed: Any) -> Job:
    """Return a row at a learning rate, with the ema_decay found for it if it has a momentum encoder."""
    momentum = {"ema_decay": MOMENTA[row]} if row in MOMENTA else {}
    return row, {"learning_rate": rate} | momentum | changed


PLANS: dict[str, list[Job]] = {
    "momenta": [(row, {"learning_rate": MIDDLE, "ema_decay": momentum}) for momentum in (0.9, 0.99) for row in MOMENTA],
    "rates": [at(row, rate) for rate in RATES for row in ("SimCLR", "SimSiam", *MOMENTA)],
    # Further out where the best of three was the highest or lowest, as long as that gains half a point.
    "edges": [
        *(at("BYOL", 0.2), at("SimCLR", 0.2), at("SimCLR", 0.4), at("AdCo 8192", 0.2)),
        at("CaCo 8192 symmetric", 0.01),
        *(at("MoCo v2", MIDDLE, ema_decay=momentum) for momentum in (0.995, 0.999)),
        *(at(row, MIDDLE, ema_decay=0.8) for row in ("BYOL", "AdCo 8192")),
    ],
    "target": [at("BYOL", 0.1, epochs=10, ema_decay=momentum) for momentum in (0.9, 0.8)],
    "gap": [
        at("MoCo v2", 0.05, temperature=0.12),
        at("MoCo v2", 0.1, temperature=0.12),
        at("AdCo 8192", 0.05, ema_decay=0.99, temperature=0.2),
    ],
    # At the comparison's length. With the paper's constants, weight decay shortens adversaries without gradient to 1/e
    # in (1 − 0.9) / (3.0 · 1e-4) = 333 steps, and a small gradient turns only short ones. 200 epochs of ImageNet are a
    # million steps, ten of CIFAR two thousand. Ten times the learning rate or decay makes this ten times faster.
    "causes": [
        at("AdCo 8192", 0.1, epochs=10, **changed)
        for changed in (
            PUBLISHED,
            AWAKE,
            {"adversary_weight_decay": 1e-3},
            {"adversary_temperature": 0.05},
            FIXED,
            {"warm_start": False},
            {"in_batch_negatives": False},
            {"adversary_temperature": 0.1},
        )
    ],
    "sharper": [
        at("AdCo 8192", 0.1, epochs=10, temperature=0.07),
        at("AdCo 8192", 0.1, epochs=10, temperature=0.07, projector_norm=True, warm_start_trains=True),
        *(at("MoCo v2", 0.05, epochs=10, temperature=temperature) for temperature in (0.1, 0.2)),
    ],
    "tau": [
        at(row, rate, epochs=10, temperature=temperature)
        for temperature in (0.07, 0.1, 0.2)
        for row, rate in (("SimCLR", 0.2), ("MoCo v2", 0.05))
    ],
    "awake": [
        at(
            "AdCo 8192",
            0.1,
            epochs=10,
            temperature=0.07,
            adversaries=1024,
            adversary_learning_rate=rate,
            adversary_temperature=temperature,
        )
        for rate, temperature in ((1.5, 0.1), (0.375, 0.2), (0.19, 0.1), (0.09, 0.2))
    ],
    "seeds": [
        at("AdCo 8192", 0.1, epochs=10, seed=seed, **changed)
        for seed in (1, 2)
        for changed in (PUBLISHED, AWAKE, FIXED)
    ],
}


def trial(job: Job) -> dict[str, Any]:
    """Train and evaluate one trial; return its line of results."""
    name, changed = job
    (row,) = (row for row in read_plan(RECIPE).rows if row.name == name)
    with tempfile.TemporaryDirectory() as folder:
        run = adco.pretrain(**row.settings.__dict__ | SHORT | changed | {"out": f"{folder}/run"})
        found = {kind: adco.evaluate(kind, run)["top1"] for kind in ("knn", "linear")}
        last = [record for record in RunDirectory(run).records() if "loss" in record][-1]
    kept = {key: value for key, value in last.items() if key.startswith(("adversary_share", "hardest", "effective"))}
    return {"row": name, "changed": changed, **found, **kept}


def missing(jobs: list[Job]) -> list[Job]:
    """Return the jobs that have no result yet."""
    done = [(line["row"], line["changed"]) for line in read_lines(TRIALS)]
    return [job for job in jobs if job not in done]


def main() -> None:
    TRIALS.parent.mkdir(exist_ok=True)
    run_all(trial, missing(PLANS[sys.argv[1]]), TRIALS)


if __name__ == "__main__":
    main()
