"""`adco probe`: what accuracy a frozen backbone gives with few labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from adco.cli.arguments import run_and_settings
from adco.cli.imports import import_lightning


def probe(arguments: Sequence[str]) -> int:
    """Run `adco probe`."""
    from adco.config.commands import ProbeSettings

    purpose = "Fit linear probes of a frozen backbone to 1, 2, 5, ... labels per class, and show their accuracy."
    run, settings = run_and_settings(ProbeSettings, "probe", purpose, arguments)
    settings.check()
    import_lightning()
    from adco.evaluation.few_labels import probe as measure
    from adco.launcher import is_first_rank
    from adco.runs.directory import newest_run

    if not (run or settings.names_backbone):
        run = newest_run().path
    result = measure(run, settings)
    if is_first_rank():
        print_curves(result, str(run or settings.backbone or f"the backbone of {settings.weights}"))
        if result["file"]:
            print(f"all draws are in {result['file']}, with a picture beside it")
    return 0


def print_curves(result: Mapping[str, Any], of: str) -> None:
    """Print a table with a line per number of labels and a column per network."""
    from adco.cli.tables import print_table

    protocol = result["protocol"]
    print(
        f"probe of {of} on {result['data']}: {protocol['train_images']:,} training and "
        f"{protocol['test_images']:,} test images, {len(protocol['classes'])} classes"
    )
    print("top-1 in % of logistic regression on the features, mean over draws of the labels and its 95 % interval;")
    print("its L2 was chosen on the drawn labels; with one label per class it is fixed")
    columns = ["labels", "in all", "draws", *result["networks"]]
    rows = []
    for place, point in enumerate(result["points"]):
        found = [entries[place] for entries in result["networks"].values()]
        cells = [f"{one['mean']:.1f} ({one['interval'][0]:.1f} to {one['interval'][1]:.1f})" for one in found]
        rows.append([point["name"], str(point["labels"]), str(point["draws"]), *cells])
    print_table(columns, rows)
