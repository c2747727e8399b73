"""The last sections: results of evaluations, settings, and versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adco.reporting.material import Material, Section, data_uri
from adco.untrusted import read_json, reading


def results(material: Material) -> Section | None:
    """Return the results of the run's evaluations, and their pictures; None if there are none."""
    run = material.subject.run
    return None if run is None else results_in(run.results)


def results_in(folder: Path) -> Section | None:
    """Return the section of the results in a folder.

    Raises:
        InputError: if one of them is damaged.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        return None
    rows, few_labels, pictures = [], [], []
    for file in files:
        with reading(file, advice="delete it, and evaluate again"):
            result = read_json(file)
            if "top1" in result:  # that of adco probe has one accuracy per number of labels instead
                rows.append(_row(result))
            if "networks" in result:
                few_labels.append(_few_labels(result))
            pictures += _pictures(file, result)
    columns = ["evaluation", "data", "top-1 (%)", "95 % interval", "random weights", "raw pixels"]
    tables = [{"title": "Accuracy on test images", "columns": columns, "rows": rows, "open": True}] if rows else []
    text = "How well the frozen features tell the classes of labelled images apart, and where they confuse them."
    return Section("Results with labels", text, "tables.html", {"tables": [*tables, *few_labels], "pictures": pictures})


def _row(result: Mapping[str, Any]) -> list[str]:
    floors = {name: f"{scores['top1']:.1f}" for name, scores in result.get("floors", {}).items()}
    random, pixels = (floors.get(name, "–") for name in ("random weights", "raw pixels"))
    interval = "{:.1f} to {:.1f}".format(*result["top1_interval"])
    return [_kind(result), str(result["data"]), f"{result['top1']:.1f}", interval, random, pixels]


def _few_labels(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a result of adco probe, with a row per number of labels."""
    networks = {name: list(map(_cell, entries)) for name, entries in result["networks"].items()}
    points = [[str(point["name"]), f"{point['labels']:,}", str(point["draws"])] for point in result["points"]]
    rows = [[*point, *cells] for point, *cells in zip(points, *networks.values(), strict=True)]
    title = f"Accuracy with few labels, on {result['data']}: mean top-1 (%) over the draws, and its 95 % interval"
    return {"title": title, "columns": ["amount", "labels", "draws", *networks], "rows": rows, "open": True}


def _cell(entry: Mapping[str, Any]) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(entry["mean"], *entry["interval"])


def _kind(result: Mapping[str, Any]) -> str:
    return str((result.get("evaluation") or result["protocol"])["kind"])


def _pictures(file: Path, result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the pictures that were written with a result."""
    of = f"{_kind(result)} on {result['data']}"
    named = {"_confusion.png": f"Confusion matrix: {of}", ".png": f"Accuracy by number of labels: {of}"}
    paths = {file.with_name(file.stem + suffix): title for suffix, title in named.items()}
    return [
        {"title": title, "uri": data_uri(path.read_bytes(), "image/png")}
        for path, title in paths.items()
        if path.is_file()
    ]


def settings(material: Material) -> Section:
    """Return the settings of the run, and the versions of the programs."""
    run, info = material.subject.run, material.subject.info
    values: dict[str, Any] = vars(info) if run is None else run.read_config()
    tables = [{"title": "Settings", "rows": sorted(values.items()), "open": False}]
    if run is not None and (known := run.read_environment()):
        flat = {**known, **known.pop("packages", {}), **known.pop("machine", {})}
        rows = sorted((name, value) for name, value in flat.items() if not isinstance(value, dict))
        tables.append({"title": "Versions and machine", "rows": rows, "open": False})
    return Section("Settings and versions", "What is needed to repeat this.", "tables.html", {"tables": tables})
