"""The settings of a fine-tuning in its config.yaml, and what they are resolved to.

config.yaml has all settings, and what describes the backbone, under the names that it has in the config.yaml of a
pretraining run. So every command that takes a run takes the run of a fine-tuning, too. The start of the fine-tuning is
under `weights`, also if it was given as a run.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any, cast

from adco.config.agreement import require_same
from adco.config.defaults import choose_stem
from adco.config.load import Parser, build, recipe_for
from adco.devices import best_precision
from adco.errors import InputError
from adco.evaluation.subject import Subject
from adco.finetuning.images import Parts
from adco.finetuning.settings import FinetuneSettings, Given, Resolved, choose
from adco.models.backbone import BackboneInfo
from adco.runs.directory import RunDirectory

COMMAND = "finetune"


def finetune_parser() -> Parser:
    """Return the parser of the settings."""
    purpose = "Train a classifier, a backbone with a linear layer, on labelled images."
    return Parser([FinetuneSettings], "adco finetune", purpose, "[RUN]")


def finetune_settings(recipe: str | Path | None = None, **values: Any) -> Given:
    """Return the settings of a recipe, overridden by the given values. Types are checked, bounds are not.

    Raises:
        InputError: with one line, for an unknown recipe or setting, or a wrong type.
    """
    shared = {} if recipe is None else _settings_in(recipe_for(COMMAND, recipe))
    (settings,) = build(finetune_parser(), {**shared, **values})
    return cast(Given, settings)


def resolve(given: Given, subject: Subject, start: Path | None, parts: Parts) -> Resolved:
    """Resolve every unset setting.

    Args:
        given: the settings as the user gave them.
        subject: what is fine-tuned, and on what.
        start: the run directory, checkpoint or backbone file that was given; None for a network that the settings name.
        parts: the images for training and validation.

    Raises:
        InputError: if a batch would have more images than there are.
    """
    images = len(parts.train)
    settings = replace(
        given,
        data=subject.data,
        class_level=subject.class_level,
        max_unreadable=subject.max_unreadable,
        backbone=subject.info.name,
        weights=str(start) if start else given.weights,
        stem=choose_stem(subject.info.stem, subject.info.image_size),
        image_size=subject.image_size,
        from_scratch=given.starts_random,
        precision=best_precision("auto" if given.device is None else given.device.split(":")[0])
        if given.precision == "auto"
        else given.precision,
        **choose(given, images, len(parts.validation) if parts.validation else 0),
    )
    if settings.batch_size is not None and settings.batch_size > images:
        raise InputError(f"batch_size {settings.batch_size} must be at most {images}, the number of training images")
    return cast(Resolved, settings)


def to_config(settings: Resolved, info: BackboneInfo, white_level: int) -> dict[str, Any]:
    """Return the content of config.yaml."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    del values["out"]  # the folder of that file
    about = {"backbone_args": info.arguments, "mean": list(info.mean), "std": list(info.std)}
    return {"command": COMMAND, **values, **about, "test_image_size": info.image_size, "white_level": white_level}


def settings_of(run: RunDirectory) -> Resolved:
    """Return the settings of a run.

    Raises:
        InputError: if it is not a fine-tuning.
    """
    config = run.read_config()
    if config.get("command") != COMMAND:
        again = f"adco pretrain --resume {quote(str(run.path))}"
        raise InputError(f"{run.path} is not a run of adco finetune; a pretraining is continued with {again}")
    return cast(Resolved, finetune_settings(**_settings_in(config)))


def check_same(run: RunDirectory, recipe: str | Path | None, values: Mapping[str, Any]) -> None:
    """Raise an InputError unless the settings of a line are those of the run that it continues."""
    before, asked = settings_of(run), finetune_settings(recipe, **values)
    shared = {} if recipe is None else _settings_in(recipe_for(COMMAND, recipe))
    require_same(asked, before, [name for name in {**shared, **values} if name != "out"], run.path)


def _settings_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a recipe; of a config.yaml, without what describes the backbone."""
    names = {field.name for field in fields(FinetuneSettings)}
    if values.get("command") != COMMAND:
        return dict(values)
    return {name: value for name, value in values.items() if name in names and value is not None}
