"""Resuming a run: from its last checkpoint, or an earlier one, also on other devices or with its images elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from adco.config.agreement import require_same
from adco.config.load import given_values, pretrain_settings
from adco.config.pretrain import to_dict
from adco.config.resolve import as_resolved, for_devices, processes_of
from adco.data.augment import Augment, name_of
from adco.data.sources.address import scheme_of
from adco.data.sources.objects import SCHEME
from adco.data.sources.protocol import Source, read_as
from adco.data.sources.reading import Reading
from adco.errors import InputError
from adco.ranks import together
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory
from adco.training.build import check_fits_memory, make_first_method, make_method
from adco.training.console import rank_zero_info
from adco.training.opening import log_and_open_training_images
from adco.training.same_images import same_images
from adco.training.train import train
from adco.words import counted

# Settings that a run may be resumed with, because they do not change what a step computes, but for the length of the
# run and, with BatchNorm, the number of images that are normalised together.
CHANGEABLE = ("epochs", "data", "max_unreadable", "accumulate", "workers", "accelerator", "devices", "num_nodes")


AUTO = "auto"  # in place of a run: continue the run in `out`, or begin it


def run_to_resume(out: str | Path | None) -> RunDirectory | None:
    """Return the run that `resume="auto"` continues: the one in `out`; None if none has begun there.

    Raises:
        InputError: if no `out` is given.
    """
    if out is None:
        raise InputError("resume auto needs --out: the run directory to continue or to begin")
    run = RunDirectory(Path(out))
    return run if run.config.is_file() else None


def changes_of(run: RunDirectory, recipe: str | Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings to change in a run that is continued by the line that began it.

    Args:
        run: the run.
        recipe, settings: of the line.

    Raises:
        InputError: if another setting than those in `CHANGEABLE` is not that of the run.
    """
    given = given_values(recipe, **settings)
    before, asked = pretrain_settings(**run.read_config()), pretrain_settings(recipe, **settings)
    limited = before.limited_by_devices(to_dict(before))
    free = {*CHANGEABLE, *limited, "out", "minutes"}
    require_same(asked, before, [name for name in given if name not in free], run.path)
    return {name: getattr(asked, name) for name in given if name in CHANGEABLE}


def resume_run(
    resume: str | Path,
    changes: Mapping[str, Any],
    images: Source | None = None,
    augment: Augment | None = None,
    *,
    changed_data: bool = False,
) -> RunDirectory:
    """Continue a run from a checkpoint, or from the start if it was stopped before the first.

    Args:
        resume: the run directory, to continue from its last checkpoint, or an earlier checkpoint that was kept.
        changes: settings that are to change, of those in `CHANGEABLE`.
        images: the training images, if they were given from Python; by default those that the settings name.
        augment: the user's function that makes the views, if the run began with one.
        changed_data: go on although images are gone or were added since the run began.

    Raises:
        InputError: if another setting is given; if the images cannot be read, or are not those that the run began with;
            if the run is already past the number of epochs; if the checkpoint cannot be read or does not fit the
            settings; if another process is training in the directory.
        Interrupted, NotFiniteError, CollapsedError, NotWrittenError: as `pretrain_run`.
    """
    refused = [name for name in changes if name not in CHANGEABLE]
    if refused:
        raise InputError(
            f"resume takes its settings from the run directory, except {', '.join(CHANGEABLE)}: "
            f"leave out {', '.join(refused)}"
        )
    path = Path(resume)
    run = RunDirectory.open(path.parent.parent if path.suffix == ".ckpt" else resume)
    there = run.checkpoints()
    if path.suffix == ".ckpt" and path.resolve() not in [file.resolve() for file in there]:
        names = ", ".join(file.name for file in there)
        raise InputError(f"{path} is no checkpoint of {run.path}, which has {names or 'none'} in checkpoints/")
    config = _config_of(run, images, augment)
    if images is None and "data" in changes and scheme_of(str(config["data"])) == SCHEME:
        raise InputError(f"the images of {run.path} were given from Python: give them again, not {changes['data']}")
    before = as_resolved(pretrain_settings(**config))
    settings = as_resolved(pretrain_settings(**{**config, **changes}))
    settings.check()
    if run.is_finished and settings.epochs == before.epochs and path.suffix != ".ckpt":
        epochs = counted(before.epochs, "epoch")
        longer = f"adco pretrain --resume {quote(str(run.path))} --epochs {2 * before.epochs}"
        rank_zero_info(f"{run.path} is finished, with {epochs}; train it for longer with: {longer}")
        return run
    if images is None:
        source = log_and_open_training_images(settings)
    else:
        source = read_as(images, Reading(settings.channels, settings.white_level))
    source = same_images(run, source, changed_data)
    settings = for_devices(settings, source)
    with together(processes_of(settings), settings.accelerator) as group, run.locked():
        steps_per_epoch = len(source) // settings.batch_size
        checkpoint = path if path.suffix == ".ckpt" else run.checkpoint
        if checkpoint.is_file():
            read_checkpoint(checkpoint)  # so that a damaged one does not replace a good one
        _check_length(before.epochs, settings.epochs, checkpoint, steps_per_epoch)

        def begin_again() -> None:
            run.go_back_to(checkpoint)
            run.write_unfinished()
            run.write_config(to_dict(settings))

        group.decided_by_first(begin_again)
        torch.manual_seed(settings.seed)
        if checkpoint.is_file():  # it has the weights
            check_fits_memory(settings)
            method = make_method(settings, steps_per_epoch)
        else:
            method, _ = make_first_method(settings, steps_per_epoch)
        return train(method, settings, source, run, augment, group)


def _config_of(run: RunDirectory, images: Source | None, augment: Augment | None) -> dict[str, Any]:
    """Return the content of a run's config.yaml, after a check that what it does not hold was given as it was."""
    config = run.read_config()
    if config.get("command") == "finetune":
        raise InputError(f"{run.path} is a run of adco finetune: continue with adco finetune --resume {run.path}")
    was_given = scheme_of(str(config.get("data"))) == SCHEME
    if images is not None and not was_given:
        raise InputError(f"the images of {run.path} are read from {config.get('data')}: leave out data")
    if name_of(augment) != (began_with := run.read_environment().get("augment")):
        given, wanted = name_of(augment) or "none", began_with or "none"
        raise InputError(
            f"augment is {given}, but the run began with {wanted}: give the same, as in "
            "adco.pretrain(resume=RUN, augment=FUNCTION)"
        )
    return config


def _check_length(before: int, epochs: int, checkpoint: Path, steps_per_epoch: int) -> None:
    """Raise an InputError if the run is already past its new number of epochs; log what a change of it means."""
    if epochs == before:
        return
    done = read_checkpoint(checkpoint)["global_step"] if checkpoint.is_file() else 0
    least = max(1, -(-done // steps_per_epoch))
    if epochs < least:
        raise InputError(
            f"epochs {epochs} must be at least {least}: the run has done {done} steps, {steps_per_epoch} per epoch"
        )
    rank_zero_info(
        f"{counted(epochs, 'epoch')} instead of {before}: from step {done} on, the learning rate follows "
        f"the schedule of a run of {counted(epochs * steps_per_epoch, 'step')}"
    )
