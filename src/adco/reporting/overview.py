"""The first section: the verdict, the main figures and the curves of the run."""

import math
from typing import Any

from adco.health.trends import latest
from adco.health.verdict import verdict
from adco.reporting.material import Material, Section, data_uri
from adco.runs.curves import draw_panels


def overview(material: Material) -> Section:
    """Return the section; without a run, it has the facts about the network alone."""
    subject, run = material.subject, material.subject.run
    facts: dict[str, Any] = {"backbone": subject.info.name, "image size for embeddings": f"{subject.image_size} px"}
    if run is None:
        return Section(
            "Backbone", "This network is not that of a run.", "overview.html", {"facts": facts, "panels": []}
        )
    config, records = run.read_config(), material.records
    judged = [record for record in records if "word" in record]
    word, reason = (str(judged[-1].get(name, "")) for name in ("word", "reason")) if judged else verdict(records)
    shown = ("method", "adversaries", "epochs", "batch_size")
    facts = {name.replace("_", " "): config[name] for name in shown if config.get(name) is not None} | facts
    if config.get("image_size") is not None:
        facts["image size in training"] = f"{config['image_size']} px"
    names = {
        "knn_top1": "kNN at the end",
        "knn_top1_start": "kNN of the initial weights",
        "knn_top1_random": "kNN of random weights",
    }
    accuracies = {words: latest(records, name) for name, words in names.items()}
    facts |= {words: f"{value:.1f} %" for words, value in accuracies.items() if not math.isnan(value)}
    panels = [
        {"title": panel.title, "text": panel.explanation, "uri": data_uri(svg.encode(), "image/svg+xml")}
        for panel, svg in draw_panels(records)
    ]
    text = f"The last verdict is “{word}”: {reason}."
    if not math.isnan(accuracies["kNN at the end"]):
        text += (
            " The kNN is measured on training images that the run holds out for it; labels are used for nothing else."
        )
    return Section("Training", text, "overview.html", {"facts": facts, "panels": panels})
