"""Image representations without labels, by adversarial contrast (AdCo, CVPR 2021).

    import adco
    run = adco.pretrain(data="photos/", epochs=20)
    adco.evaluate("knn", run, data="labelled/")

Names are imported when first used, so that the command answers at once.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adco.adversaries import Adversaries, adversarial_info_nce
    from adco.api import duplicates, embed, evaluate, export, finetune, neighbors, pretrain, probe, report
    from adco.models.backbone import load_backbone
    from adco.models.classifier import load_classifier

__all__ = [
    "Adversaries",
    "adversarial_info_nce",
    "duplicates",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "load_backbone",
    "load_classifier",
    "neighbors",
    "pretrain",
    "probe",
    "report",
]

_HOMES = {
    "Adversaries": "adco.adversaries",
    "adversarial_info_nce": "adco.adversaries",
    "duplicates": "adco.api",
    "embed": "adco.api",
    "evaluate": "adco.api",
    "finetune": "adco.api",
    "export": "adco.api",
    "load_backbone": "adco.models.backbone",
    "load_classifier": "adco.models.classifier",
    "neighbors": "adco.api",
    "pretrain": "adco.api",
    "probe": "adco.api",
    "report": "adco.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("adco")
    if name not in _HOMES:
        raise AttributeError(f"module 'adco' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
