"""Few labels: what a backbone pretrained without labels gains, as a probe and fine-tuned, on CIFAR-10.

    python benchmarks/few_labels.py RUN              do everything that has no result yet
    python benchmarks/few_labels.py table            print the table in Markdown
    python benchmarks/few_labels.py picture FILE     draw accuracy against labels

RUN is a run of `adco demo`. The probe and its floors are those of `adco probe`. Fine-tuning (`adco finetune`, defaults)
starts from RUN and, with the same network, views, epochs and batch size, from random weights (`--from_scratch`). Both
use the same labels. All are scored on the 10 000 test images.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import adco
from adco.comparison.table import mean_and_std
from adco.evaluation.few_labels_picture import COLOURS, FLOOR_COLOURS
from adco.finetuning.result import read_scores
from adco.runs.directory import RunDirectory
from adco.untrusted import read_json
from measure import RESULTS, read_lines

PROBE, LINES = RESULTS / "few_labels_probe.json", RESULTS / "few_labels.jsonl"
DATA, CLASSES = "cifar10", 10
EPOCHS = {5000: 4}  # where the default would take an hour: as many images as the demo's pretraining saw
LABELS = {1: 3, 5: 3, 10: 3, 50: 3, 500: 3, 5000: 1}  # labels per class, with the draws of each fine-tuning
TUNED, SCRATCH = "fine-tuned", "supervised from scratch"
Line = dict[str, Any]


def measure(run: str) -> None:
    """Do everything that has no result yet."""
    if not PROBE.is_file():
        adco.probe(run, data=DATA, labels_per_class=list(LABELS), label_shares=[], out=PROBE)
    done = [(line["labels_per_class"], line["start"], line["seed"]) for line in read_lines(LINES)]
    for labels, start, seed in jobs():
        if (labels, start, seed) in done:
            continue
        with tempfile.TemporaryDirectory() as aside:
            out = Path(aside) / "run"
            scratch = start == SCRATCH
            length: Any = {"epochs": EPOCHS[labels]} if labels in EPOCHS else {}
            adco.finetune(run, data=DATA, labels_per_class=labels, seed=seed, from_scratch=scratch, out=out, **length)
            result = read_scores(RunDirectory(out))
        kept = {name: result["protocol"][name] for name in ("epoch", "epochs")}
        line = {"labels_per_class": labels, "start": start, "seed": seed, "top1": result["top1"], **kept}
        with LINES.open("a") as file:
            file.write(json.dumps(line) + "\n")


def jobs() -> Iterator[tuple[int, str, int]]:
    """Yield labels per class, start and seed of every fine-tuning."""
    for labels, draws in LABELS.items():
        yield from ((labels, start, seed) for seed in range(draws) for start in (TUNED, SCRATCH))


def curves() -> dict[str, dict[int, list[float]]]:
    """Return for each row the top-1 (%) of each draw, by the number of labels per class."""
    probe = read_json(PROBE)
    names = {"this backbone": "linear probe"}
    found: dict[str, dict[int, list[float]]] = {
        names.get(name, f"probe of {name}"): {
            point["labels"] // CLASSES: entry["top1"] for point, entry in zip(probe["points"], entries, strict=True)
        }
        for name, entries in probe["networks"].items()
    }
    for line in read_lines(LINES):
        found.setdefault(line["start"], {}).setdefault(line["labels_per_class"], []).append(line["top1"])
    return found


def table() -> str:
    """Return the table in Markdown: mean top-1 ± standard deviation over draws, and the number of draws."""
    found = curves()
    labels = sorted({number for row in found.values() for number in row})
    lines = [f"| labels per class | {' | '.join(map(str, labels))} |", "|---" * (len(labels) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | {' | '.join(_cell(row.get(number)) for number in labels)} |")
    return "\n".join(lines)


def _cell(values: list[float] | None) -> str:
    return f"{mean_and_std(values)} ({len(values)})" if values else ""


def picture(path: str) -> None:
    """Draw the mean of each row against the number of labels, and its draws as points."""
    figure = Figure(figsize=(7.2, 4.6), dpi=130, layout="constrained")  # inches
    axes = figure.add_subplot()
    colours = iter(COLOURS)
    grey: Mapping[str, str] = {f"probe of {name}": colour for name, colour in FLOOR_COLOURS.items()}
    for name, row in curves().items():
        labels = sorted(row)
        colour = grey.get(name) or next(colours)
        means = [statistics.mean(row[number]) for number in labels]
        axes.plot(labels, means, color=colour, linewidth=1.6, marker="o", markersize=4, label=name)
        for number in labels:
            axes.plot([number] * len(row[number]), row[number], ".", color=colour, alpha=0.4, markersize=4)
    axes.set_xscale("log")
    axes.set_xlabel("labels per class")
    axes.set_ylabel("top-1 on CIFAR-10's test images (%)")
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "table":
        print(table())
    elif command == "picture":
        picture(rest[0])
    else:
        measure(command)
