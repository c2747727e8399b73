"""The last sections: results of evaluations, settings, and versions."""

from pathlib import Path
from typing import Any

from adco.reporting.material import Material, Section, data_uri
from adco.untrusted import read_json, reading


def results(material: Material) -> Section | None:
    """Return the results of the run's evaluations, and their pictures; None if there are none."""
    run = material.subject.run
    files = sorted(run.results.glob("*.json")) if run is not None else []
    if not files:
        return None
    assert run is not None
    rows = [row for file in files for row in rows_of(file)]
    columns = ["evaluation", "images", "top-1 (%)", "95 % interval", "random weights", "raw pixels"]
    tables = [{"title": "Accuracy on test images", "columns": columns, "rows": rows, "open": True}] if rows else []
    pictures = [
        {"title": path.stem, "uri": data_uri(path.read_bytes(), "image/png")}
        for path in sorted(run.results.glob("*.png"))
    ]
    text = "How well the frozen features tell the classes of labelled images apart, and where they confuse them."
    return Section("Results with labels", text, "tables.html", {"tables": tables, "pictures": pictures})


def rows_of(file: Path) -> list[list[str]]:
    """Return the row of a result; none for a result without one accuracy, such as that of adco probe."""
    with reading(file, advice="delete it, and evaluate again"):
        result = read_json(file)
        if "top1" not in result:
            return []
        low, high = result["top1_interval"]
        floors = {name: f"{scores['top1']:.1f}" for name, scores in result.get("floors", {}).items()}
        random, pixels = (floors.get(name, "–") for name in ("random weights", "raw pixels"))
        kind = result.get("evaluation", result["protocol"])["kind"]
        top1, interval = f"{result['top1']:.1f}", f"{low:.1f} to {high:.1f}"
        return [[str(kind), str(result["data"]), top1, interval, random, pixels]]


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
