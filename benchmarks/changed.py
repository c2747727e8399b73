"""List the results whose inputs have changed since they were measured: `make results`.

A result is as old as the commit that last changed its file. Its inputs are its script, and the modules that decide its
figures. A change of these need not change the figures: the list says what to look at, or to measure again.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

from measure import show

ROOT = Path(__file__).parents[1]
DATA, LOADER = "src/adco/data/sources", "src/adco/data/loader.py"
VIEWS = ("src/adco/data/pixels.py", "src/adco/data/views.py", "src/adco/data/augment.py")
LOSSES = ("src/adco/losses", "src/adco/adversaries.py")
STEP = (*LOSSES, "src/adco/methods", "src/adco/models", "src/adco/optim", "src/adco/training/module.py")
RUN = (*STEP, *VIEWS, "src/adco/config/defaults.py", "src/adco/evaluation")


class Result(NamedTuple):
    """A file of results, the command that makes it, and its inputs besides the script."""

    file: str
    command: str
    inputs: tuple[str, ...]


DEMO = "RUN, a run of adco demo"
RESULTS = (
    Result("adaptation.jsonl", "adaptation.py", RUN),
    Result("backbones.jsonl", "backbones.py", ("src/adco/models", "src/adco/methods")),
    Result("big_folders.json", "big_folders.py", (DATA, LOADER)),
    Result("cifar10_demo", "make demo", ("src/adco/config/recipes/cifar10_demo.yaml", "src/adco/demo.py", *RUN)),
    Result(
        "cifar10_table5/table.json",
        "adco compare cifar10_table5 --out benchmarks/results/cifar10_table5",
        ("src/adco/config/recipes/cifar10_table5.yaml", "src/adco/comparison", *RUN),
    ),
    Result(
        "cifar10_long/table.json",
        "adco compare benchmarks/cifar10_long.yaml --out benchmarks/results/cifar10_long",
        ("benchmarks/cifar10_long.yaml", "src/adco/comparison", *RUN),
    ),
    Result("cifar10_long/curves.png", "curves.py", ("benchmarks/results/cifar10_long",)),
    Result("cifar10_table5/trials.jsonl", "trials.py PLAN", ("src/adco/config/recipes/cifar10_table5.yaml", *RUN)),
    Result("costs.json", "costs.py", STEP),
    Result("duplicates.json", f"duplicates.py {DEMO}", ("src/adco/embeddings",)),
    Result("embed.json", f"embed.py {DEMO}", ("src/adco/embeddings", "src/adco/evaluation/extract.py", DATA)),
    Result("epoch.json", "epoch.py", (*STEP, LOADER, "src/adco/training")),
    Result("evaluation.json", "evaluation.py", ("src/adco/evaluation", "src/adco/ranks.py")),
    Result("factors.jsonl", "factors.py", RUN),
    Result("faults.jsonl", "make faults", ("tests/faults",)),
    Result("few_labels.jsonl", f"few_labels.py {DEMO}", ("src/adco/finetuning", "src/adco/evaluation")),
    Result("first_runs.jsonl", "first_runs.py", RUN),
    Result("long_runs.json", "long_runs.py", ("src/adco/training", "src/adco/runs", LOADER)),
    Result("loss.json", "loss.py", LOSSES),
    Result("peers.json", "peers.py", (*STEP, *VIEWS, LOADER)),
    Result("processes.json", "processes.py", (*STEP, "src/adco/ranks.py", "src/adco/distributed.py")),
    Result("search.jsonl", "search.py", RUN),
    Result("shards.json", "shards.py", ("src/adco/shards.py", "src/adco/training/dividing.py", *LOSSES)),
    Result("step.json", "step.py", STEP),
    Result("two_views.png", "two_views.py", VIEWS),
    Result("verdicts.json", "verdicts.py", ("src/adco/health",)),
    Result("views.json", "views.py", VIEWS),
    Result("vision_transformers.jsonl", "vision_transformers.py", RUN),
    Result("worth.jsonl", "worth.py", RUN),
)


def git(*arguments: str) -> list[str]:
    """Return the lines that git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def changes(result: Result) -> tuple[str, list[str]]:
    """Return the day of a result, and its inputs that have changed since; the day is empty if it is not measured.

    Raises:
        FileNotFoundError: an input is not there.
    """
    commits = git("log", "-1", "--format=%h %as", "--", f"benchmarks/results/{result.file}")
    if not commits:
        return "", []
    commit, day = commits[0].split()
    script = result.command.split()[0]
    inputs = [*([f"benchmarks/{script}"] if script.endswith(".py") else []), *result.inputs]
    for name in inputs:
        (ROOT / name).stat()
    return day, git("diff", "--name-only", commit, "HEAD", "--", *inputs)


def main() -> None:
    rows = []
    for result in RESULTS:
        day, changed = changes(result)
        shown = ", ".join(Path(name).name for name in changed[:3]) + (" …" if len(changed) > 3 else "")
        command = f"python benchmarks/{result.command}" if ".py" in result.command else result.command
        rows.append([result.file, day or "not measured", str(len(changed)), shown, command])
    show(
        "results, and their inputs that have changed since", ["result", "of", "changed", "for example", "command"], rows
    )


if __name__ == "__main__":
    main()
