"""Does the verdict use figures that track accuracy? Does it stop the runs that collapse, and only those?

    python benchmarks/verdicts.py [RUN ...]             check the runs of results/cifar10_table5 and the given runs
    python benchmarks/verdicts.py provoke OUT [DATA]    train the provoked runs below into OUT, without early stopping

Each run is a directory with a metrics.jsonl. Runs with a results/linear.json count for the correlation with accuracy.
Every run is replayed record by record, as if the verdict could have stopped it. The true end of a run is determined
without the verdict: "collapsed" if effective rank or spread were below the alarm level in all of its last ten records,
"below random weights" if its kNN was, else "healthy".
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

import adco
from adco.health.floor import accuracy_and_floor
from adco.health.trends import Record, curve, latest, separation
from adco.health.verdict import LOW_SPREAD, low_rank, verdict
from adco.runs.records import read_records
from measure import RESULTS, save, show

Values = NDArray[np.float64]
LAST, DRAWS = 10, 2000  # last records of a run that are averaged; bootstrap draws
TABLE5 = RESULTS / "cifar10_table5"
CANDIDATES = (
    "knn_top1",
    "instance_top1",
    "separation",
    "alignment",
    "uniformity",
    "alignment+uniformity",
    "effective_rank",
    "spread",
    "loss",
)
FALLS = ("alignment", "uniformity", "alignment+uniformity", "loss")  # lower is better

NET: dict[str, Any] = {
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
    "hidden": 512,
    "log_every": 1,
    "stop_when_collapsed": False,
    "accelerator": "cpu",
}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.05}
PROVOKED: dict[str, dict[str, Any]] = {
    "adco-old": {},
    "adco-rate10": {"learning_rate": 0.3},
    "adco-rate100": {"learning_rate": 3.0},
    "adco-momentum1": {"ema_decay": 1.0},
    "adco-noinbatch": {"in_batch_negatives": False},
    "adco-noinbatch-fixed": {"in_batch_negatives": False, "adversary_learning_rate": 0.0, "adversaries": 1},
    "adco-tau1": {"temperature": 1.0},
    "adco-muon": {**MUON, "ema_decay": 0.9},
    "adco-muon100": {"optimizer": "muon", "learning_rate": 5.0, "ema_decay": 0.9},
    "adco-muon-awake": {**MUON, "ema_decay": 0.9, "adversary_temperature": 0.1},
    "simclr": {"method": "simclr"},
    "simclr100": {"method": "simclr", "learning_rate": 30.0},
    "simclr-muon": {"method": "simclr", **MUON},
    "moco": {"method": "moco"},
    "moco100": {"method": "moco", "learning_rate": 3.0},
    "moco-momentum1": {"method": "moco", "ema_decay": 1.0},
    "moco-queue1": {"method": "moco", "queue": 1},
    "moco-muon": {"method": "moco", **MUON, "ema_decay": 0.9},
    "byol": {"method": "byol"},
    "byol100": {"method": "byol", "learning_rate": 20.0},
    "byol-momentum1": {"method": "byol", "ema_decay": 1.0},
    "byol-momentum0": {"method": "byol", "ema_decay": 0.0},
    "byol-muon": {"method": "byol", **MUON, "ema_decay": 0.9},
    "simsiam": {"method": "simsiam", "dim": 256},
    "simsiam100": {"method": "simsiam", "dim": 256, "learning_rate": 5.0},
    "simsiam-muon": {"method": "simsiam", "dim": 256, **MUON},
}


def provoke(out: Path, data: str) -> None:
    """Train every provoked run for 120 steps; finished runs are skipped."""
    epochs = {"digits": {"epochs": 24}}.get(data, {"epochs": 40, "image_size": 16})
    for name, settings in PROVOKED.items():
        run = out / f"{Path(data).name}-{name}"
        if not (run / "backbone.safetensors").is_file():
            adco.pretrain(data=data, out=str(run), **{**NET, **epochs, **settings})


def at_end(records: Sequence[Record], name: str) -> float:
    """Return a candidate's mean over a run's last records, or NaN if it was not recorded."""
    if name == "alignment+uniformity":
        return at_end(records, "alignment") + at_end(records, "uniformity")
    values = separation(records) if name == "separation" else curve(records, name)
    last = values[-1:] if name == "knn_top1" else values[-LAST:]
    return float(last.mean()) if len(last) else float("nan")


def correlation(rows: list[dict[str, Any]], name: str, within: bool) -> float:
    """Return Spearman's rank correlation with linear top-1, over all runs or within each method and data set."""
    x, y = (np.array([row[key] for row in rows]) for key in (name, "linear"))
    x = -x if name in FALLS else x
    if not within:
        return float(spearmanr(x, y)[0])
    groups = np.array([row["group"] for row in rows])
    ranks = [(_centred(x[groups == g]), _centred(y[groups == g])) for g in set(groups) if (groups == g).sum() > 2]
    first, second = (np.concatenate(parts) for parts in zip(*ranks, strict=True))
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def _centred(values: Values) -> Values:
    ranks: Values = rankdata(values)
    centred: Values = (ranks - ranks.mean()) / len(ranks)
    return centred


def interval(rows: list[dict[str, Any]], name: str, within: bool) -> tuple[float, float]:
    """Return the 95 % bootstrap interval. Rows are drawn with all their seeds, which are not independent."""
    random, names = np.random.default_rng(0), sorted({row["row"] for row in rows})
    by_name = {one: [row for row in rows if row["row"] == one] for one in names}
    draws = []
    for _ in range(DRAWS):
        drawn = [row for one in random.choice(names, len(names)) for row in by_name[one]]
        if len({row[name] for row in drawn}) > 1 and any(
            sum(row["group"] == group for row in drawn) > 2 for group in {row["group"] for row in drawn}
        ):
            draws.append(correlation(drawn, name, within))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def end_of(records: Sequence[Record]) -> str:
    """Return how the run ended, without using the verdict."""
    rank, spread, floor = (
        curve(records, "effective_rank")[-LAST:],
        curve(records, "spread")[-LAST:],
        accuracy_and_floor(records),
    )
    if rank.max() <= low_rank(latest(records, "max_rank")) or spread.max() <= LOW_SPREAD:
        return "collapsed"
    return "below random weights" if floor and floor.measure == "kNN" and floor.is_below_floor else "healthy"


def stops_at(records: Sequence[Record]) -> float | None:
    """Return the fraction of the run after which the verdict would have stopped it, or None."""
    steps = int(latest(records, "step"))
    for known in range(1, len(records) + 1):
        if verdict(records[:known], steps).word == "collapsed":
            return float(records[known - 1]["step"]) / steps
    return None


def replay(run: Path) -> dict[str, Any]:
    """Return the figures of a run, its end, and when the verdict would have stopped it."""
    records = read_records(run / "metrics.jsonl")
    steps = int(latest(records, "step"))
    found = verdict(records, steps)
    early = next((r["step"] for i, r in enumerate(records) if verdict(records[: i + 1], steps).word[:3] != "too"), None)
    linear = run / "results" / "linear.json"
    method = next((name for name in ("adco", "moco", "simclr", "byol", "simsiam") if name in run.name), "adco")
    return {
        "run": run.name,
        "row": run.name.rsplit("-", 1)[0] if run.parent == TABLE5 else run.name,
        "group": f"{run.parent.name}-{method}",
        "linear": json.loads(linear.read_text())["top1"] if linear.is_file() else None,
        "first_verdict_at_step": early,
        "steps": steps,
        "word": found.word,
        "reason": found.reason,
        "end": end_of(records),
        "stops_at": stops_at(records),
        **{name: at_end(records, name) for name in CANDIDATES},
    }


def correlations(rows: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """Return and print each candidate's correlation with linear top-1, over all runs and within methods."""
    found: list[dict[str, Any]] = []
    for name in CANDIDATES:
        known = [row for row in rows if row["linear"] is not None and np.isfinite(row[name])]
        if len(known) > 5:
            both = {
                key: [correlation(known, name, within), *interval(known, name, within)]
                for key, within in (("all", False), ("within", True))
            }
            found.append({"candidate": name, "runs": len(known), **both})
    cells = [[str(one["candidate"]), str(one["runs"]), _shown(one["all"]), _shown(one["within"])] for one in found]
    show(title, ["at the end of the run", "runs", "across methods", "within a method"], cells)
    return found


def _shown(figures: list[float]) -> str:
    value, low, high = figures
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def count(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of runs, of stopped runs, and of runs stopped in the first fifth."""
    stopped = [row for row in rows if row["stops_at"]]
    early = [row for row in stopped if row["stops_at"] <= 0.2]
    return {"runs": len(rows), "stopped": len(stopped), "in the first fifth": len(early)}


def main(runs: list[Path]) -> None:
    committed = [replay(path.parent) for path in sorted(TABLE5.glob("*/metrics.jsonl"))]
    others = [replay(path) for path in runs]
    demo = replay(RESULTS / "cifar10_demo")
    every = [*committed, demo, *others]
    counts = {end: count([row for row in every if row["end"] == end]) for end in sorted({row["end"] for row in every})}
    print(json.dumps(counts, indent=2))
    show(
        "stopped, or not healthy at the end",
        ["run", "stopped after", "end", "last word"],
        [
            [row["run"], f"{row['stops_at']:.2f}" if row["stops_at"] else "–", row["end"], row["word"]]
            for row in every
            if row["stops_at"] or row["end"] != "healthy"
        ],
    )
    save(
        "verdicts",
        {
            "counts": counts,
            "cifar10_table5": correlations(committed, "rank correlation with linear top-1, cifar10_table5"),
            "others": correlations(others, "the same, other runs"),
            "runs": every,
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["provoke"]:
        provoke(Path(sys.argv[2]), *(sys.argv[3:] or ["digits"]))
    else:
        main([Path(argument) for argument in sys.argv[1:]])
