"""Export a backbone or a classifier to a file or folder that other programs load, and check what was written."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from timm.models import get_pretrained_cfg

from adco.config.commands import ExportSettings
from adco.errors import InputError
from adco.evaluation.backbones import named_backbone, run_backbone, run_of
from adco.exporting.check import measure_difference, silence
from adco.exporting.format import Format
from adco.exporting.network import Network
from adco.exporting.registry import format_of
from adco.models.backbone import feature_width
from adco.models.classifier import CLASSIFIER, load_classifier
from adco.runs.directory import RunDirectory, newest_run


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Args:
        path: the file or folder.
        line: a line of Python that loads it and maps `images` to `features`, or to `logits` if it is a classifier; it
            does not need adco.
        images: the images that it takes, in words.
        classes: of a classifier, in the order of its logits; none if it is a backbone.
        difference: the largest difference of its output from that of the network that was exported, of noise images, as
            a share of the largest value.
    """

    path: Path
    line: str
    images: str
    classes: tuple[str, ...]
    difference: float


def export(settings: ExportSettings, run: Path | None) -> Exported:
    """Export a backbone, or the classifier of a fine-tuned run, and check that what was written gives the same output.

    Args:
        settings: the format, where to write, and the backbone if it is not that of a run.
        run: run directory, checkpoint or backbone.safetensors; of the last two, only the backbone is exported. If None,
            the network named by the settings is used or, if they name none, the newest run.

    Raises:
        InputError: a setting is impossible, the format cannot hold this network, a package is missing, or `out` exists.
        AdcoError: what was written gives another output; it is deleted.
    """
    settings.check()
    kind = format_of(settings.to)
    _check_options(kind, settings)
    directory = None if settings.names_backbone and not run else newest_run() if run is None else run_of(run)
    network = _network(settings, directory, run)
    kind.check(network)
    path = _path(settings, kind, network, directory)
    with _replacing(path) as part:
        with silence():
            kind.write(network, part)
        difference = measure_difference(kind, network, part)
    line = kind.line(network, path.absolute())  # works in any directory
    return Exported(path, line, network.preprocessing()["images"], network.classes, difference)


def _check_options(kind: Format, settings: ExportSettings) -> None:
    for option in ("normalize", "half"):
        if getattr(settings, option) and option not in kind.OPTIONS:
            raise InputError(f"{option} is not for --to {settings.to}: leave it out")
    missing = [package for package in kind.PACKAGES if find_spec(package) is None]
    if missing:
        raise InputError(f"to {settings.to} needs {', '.join(missing)}: {kind.INSTALL}")


def _network(settings: ExportSettings, run: RunDirectory | None, path: Path | None) -> Network:
    """Return the network to export."""
    head, classes = None, tuple[str, ...]()
    if run is None:
        backbone, info = named_backbone(settings, lambda: _usual_size(settings.backbone))
    elif settings.names_backbone:
        raise InputError(f"take either the run {path} or backbone and weights by name, not both")
    elif _is_classifier(run, path):
        classifier = load_classifier(run.path)
        backbone, info, head, classes = classifier.backbone, classifier.info, classifier.head, classifier.classes
    else:
        backbone, info = run_backbone(run, path)
    image_size = settings.image_size or info.image_size
    feature_width(backbone, info, image_size)  # only a check that the network takes images of this size
    return Network(
        backbone=backbone.eval(),
        info=info,
        image_size=image_size,
        head=head,
        classes=classes,
        normalize=settings.normalize,
        half=settings.half,
    )


def _is_classifier(run: RunDirectory, path: Path | None) -> bool:
    """Return whether `path` means the classifier of a fine-tuned run, and not only its backbone."""
    named = path is None or path.is_dir() or path.name == CLASSIFIER
    return named and run.read_config().get("command") == "finetune"


def _usual_size(name: str | None) -> int:
    """Return the side in pixels of the images that a timm network was published with."""
    config = get_pretrained_cfg(name) if name else None
    return config.input_size[-1] if config is not None else 224


def _path(settings: ExportSettings, kind: Format, network: Network, run: RunDirectory | None) -> Path:
    """Return where to write; only what an earlier export has written there, into a run's own folder, is replaced."""
    if run is not None and settings.out is None:
        return run.exports / _file_name(kind, network)
    path = Path(settings.out or _file_name(kind, network))
    if kind.SUFFIX.startswith(".") and path.suffix != kind.SUFFIX:
        raise InputError(f"out {str(path)!r} must end with {kind.SUFFIX}")
    if path.exists():
        raise InputError(f"out {str(path)!r} exists: delete it, or choose another --out")
    return path


def _file_name(kind: Format, network: Network) -> str:
    options = [name for name in ("normalize", "half") if getattr(network, name)]
    return "-".join([network.architecture, *(["classifier"] if network.head else []), *options]) + kind.SUFFIX


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        yield Path(folder) / path.name
        if path.is_dir():
            shutil.rmtree(path)
        (Path(folder) / path.name).replace(path)
