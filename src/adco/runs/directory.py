"""The run directory: the only interface between training and all later commands.

config.yaml            all settings, resolved; can be used as a recipe
environment.json       versions, seed, machine, start and end time
images.gz              the names of the training images, if they are files of a folder
unreadable.json        files that cannot be read, with reasons
metrics.jsonl          records of steps and epochs, one per line
checkpoints/last.ckpt  full training state
checkpoints/epoch-N.ckpt  full training state after N epochs, if `keep_every` is set
backbone.safetensors   weights of the backbone, with name, input size, mean and std as metadata
curves.png             plots of the records
results/               results of evaluations
adversaries/           the training images next to each adversary, at some moments
export/                the backbone in the formats of other programs
"""

import gzip
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from filelock import FileLock, Timeout

from adco.config.versions import of_earlier_versions
from adco.data.sources.address import full_name, is_here
from adco.data.sources.protocol import Unreadable
from adco.errors import InputError
from adco.files import PARTS, link, naming, remove_parts, write_bytes, write_json, write_text
from adco.launcher import is_first_rank
from adco.runs.environment import environment
from adco.runs.records import History, length_until, read_records
from adco.untrusted import read_json, read_yaml, reading

RUNS = Path("runs")
BEFORE_CONFIG = ("checkpoints", ".lock", "environment.json", "unreadable.json", "images.gz")
MOST_NAMES = 2**32  # bytes; the names of a hundred million files fit
WHITE = 65_535  # of 16 bits, which older runs do not record
# What is read of environment.json, and its types.
ENVIRONMENT: dict[str, type] = {
    **dict.fromkeys(("directory", "augment", "started", "finished"), str),
    **dict.fromkeys(("packages", "machine"), dict),
    "images": int,
    "classes": list,
}


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run's files, and functions to read and write them.

    Files are replaced atomically, except metrics.jsonl, which is appended to.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, write: Callable[["RunDirectory"], None] = lambda run: None) -> "RunDirectory":
        """Create a run directory.

        Args:
            path: of the directory. It may be what a process has left that was killed in this function.
            write: writes the first files. The last one is config.yaml, which makes the directory a run: of several
                processes that call this with the same path, one gets there.

        Raises:
            InputError: if the directory is not empty, or cannot be created.
        """
        run = cls(path)
        run._require_free()
        try:
            run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out {str(path)!r} cannot be created: {error.strerror}") from error
        with run._only_process(f"out {str(path)!r} is not empty: choose another --out"):
            run._require_free()  # another process may have been here since
            write(run)
        return run

    @classmethod
    def create_named(cls, name: str, write: Callable[["RunDirectory"], None] = lambda run: None) -> "RunDirectory":
        """Create a run directory under runs/, whose name is `name` and the time.

        Of several that are created in the same second, all but one get a number behind it.

        Args:
            name: the beginning of its name.
            write: as for `create`.

        Raises:
            InputError: if it cannot be created.
        """
        first = RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for path in chain([first], (first.with_name(f"{first.name}-{number}") for number in count(2))):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(f"{str(path)!r} cannot be created: {error.strerror}") from error
            return cls.create(path, write)
        raise AssertionError

    def _require_free(self) -> None:
        """Raise an InputError unless the directory is not there, is empty, or was left before it became a run."""
        path = self.path
        if not path.exists():
            return
        if path.is_dir():
            is_ours = (path / "checkpoints").is_dir()
            there = (file for file in path.rglob("*") if not (is_ours and _is_before_config(file)))
            if next(there, None) is None:
                return
        resume = f"continue with --resume {quote(str(path))}, or " if self.config.is_file() else ""
        raise InputError(f"out {str(path)!r} is not empty: {resume}choose another --out")

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Open an existing run directory.

        Raises:
            InputError: if it does not exist, or has no config.yaml.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise InputError(f"{str(path)!r} is not a run directory: it has no config.yaml")
        return run

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    def kept_checkpoint(self, epoch: int) -> Path:
        """Return the path of the checkpoint that was kept after so many epochs."""
        return self.path / "checkpoints" / f"epoch-{epoch}.ckpt"

    def checkpoints(self) -> list[Path]:
        """Return all checkpoints, the oldest first."""
        return [*self._kept(), *([self.checkpoint] if self.checkpoint.is_file() else [])]

    def _kept(self) -> list[Path]:
        """Return the checkpoints that were kept, the oldest first; a user may have put other files beside them."""
        files = self.checkpoint.parent.glob("epoch-*.ckpt")
        return sorted((file for file in files if file.stem.removeprefix("epoch-").isdecimal()), key=_epoch_of)

    def keep_checkpoint(self, epoch: int) -> None:
        """Keep the last checkpoint, which is of the end of this epoch, when the next one takes its place."""
        link(self.checkpoint, self.kept_checkpoint(epoch))

    def go_back_to(self, checkpoint: Path) -> None:
        """Make a checkpoint the last one, and delete those that were kept after it."""
        if checkpoint.resolve() == self.checkpoint.resolve():
            return
        link(checkpoint, self.checkpoint)
        for kept in self._kept():
            if _epoch_of(kept) > _epoch_of(checkpoint):
                kept.unlink()

    @property
    def backbone(self) -> Path:
        return self.path / "backbone.safetensors"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def adversaries(self) -> Path:
        return self.path / "adversaries"

    @property
    def exports(self) -> Path:
        return self.path / "export"

    def read_config(self) -> dict[str, Any]:
        """Return all settings of the run, also if an earlier version wrote them.

        `data` is as it was given, or, if it is not in the current directory, its full path in the directory in which
        the run was started.

        Raises:
            InputError: if config.yaml does not contain settings.
        """
        damaged = {"says": "does not contain the settings of a run", "advice": "it is damaged or was edited"}
        values = read_yaml(self.config, **damaged)
        with reading(self.config, **damaged):
            if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
                raise ValueError("it must have lines of the form name: value")
            values = of_earlier_versions(values)
        data, began_in = values.get("data"), self.read_environment().get("directory")
        if isinstance(data, str) and began_in is not None and not is_here(data):
            there = full_name(data, Path(began_in))
            values["data"] = there if is_here(there) else data
        return values

    @property
    def white_level(self) -> int:
        """The value that is white in the run's images of more than 8 bits.

        Raises:
            InputError: if config.yaml has an impossible one.
        """
        level = self.read_config().get("white_level", WHITE)
        if type(level) is not int or not 1 <= level <= WHITE:
            raise InputError(f"{self.config}: white_level {level!r} must be a whole number from 1 to {WHITE}")
        return level

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory, so that no other process trains in it at the same time.

        Raises:
            InputError: if another process has locked it.
        """
        if not is_first_rank():
            yield
            return
        folder = self.checkpoint.parent
        folder.mkdir(exist_ok=True)
        with self._only_process(f"another process is already training in {self.path}"):
            for written_by_training in (self.path, folder):
                remove_parts(written_by_training)
            yield

    @contextmanager
    def _only_process(self, problem: str) -> Iterator[None]:
        """Run the block in one process at a time; raise an InputError with this text in any other."""
        lock = FileLock(self.checkpoint.parent / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(problem) from error
        except NotImplementedError:  # the file system does not support locks
            pass
        try:
            yield
        finally:
            lock.release()

    def write_config(self, values: Mapping[str, Any]) -> None:
        write_text(self.config, yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None))

    def read_environment(self) -> dict[str, Any]:
        """Return environment.json; empty if there is none."""
        path = self.path / "environment.json"
        if not path.is_file():
            return {}
        with reading(path, advice="delete it: a run can do without it"):
            values: dict[str, Any] = read_json(path)
            for name, kind in ENVIRONMENT.items():
                if name in values and not isinstance(values[name], kind):
                    raise ValueError(f"its {name} is {values[name]!r}")
        return values

    def write_environment(self, **facts: Any) -> None:
        directory = str(Path.cwd())
        write_json(
            self.path / "environment.json", {"started": _now(), "directory": directory, **environment(), **facts}
        )

    @property
    def is_finished(self) -> bool:
        """True if all epochs are trained."""
        return "finished" in self.read_environment()

    def write_finished(self) -> None:
        write_json(self.path / "environment.json", {**self.read_environment(), "finished": _now()})

    def write_unfinished(self) -> None:
        """Mark the run as not finished, because it will be made longer."""
        facts = self.read_environment()
        facts.pop("finished", None)
        write_json(self.path / "environment.json", facts)

    def discard_if_empty(self) -> None:
        """Delete the directory if the run failed before it had a checkpoint or a step with a finite loss."""
        if not self.checkpoint.is_file() and not any(isinstance(r.get("loss"), float) for r in self.records()):
            shutil.rmtree(self.path, ignore_errors=True)

    def write_unreadable(self, left_out: Iterable[Unreadable], damaged: Mapping[int, Unreadable] | None = None) -> None:
        """Write unreadable.json.

        Args:
            left_out: the files that are not among the run's images.
            damaged: the images that could not be read in training, by their index in the source.
        """
        entries: list[dict[str, str | int]] = [{"file": str(file.path), "reason": file.reason} for file in left_out]
        entries += [
            {"file": str(file.path), "reason": file.reason, "image": index}
            for index, file in sorted((damaged or {}).items())
        ]
        write_json(self.path / "unreadable.json", entries)

    def read_left_out(self) -> list[str]:
        """Return the files that were not among the run's images because they could not be read."""
        path = self.path / "unreadable.json"
        if not path.is_file():
            return []
        with reading(path, advice="delete it: it is written again"):
            return [str(entry["file"]) for entry in read_json(path, list) if "image" not in entry]

    def read_damaged(self) -> list[int]:
        """Return the indices of the images that could not be read in training so far."""
        path = self.path / "unreadable.json"
        if not path.is_file():
            return []
        with reading(path, advice="delete it: it is written again"):
            found = [entry["image"] for entry in read_json(path, list) if "image" in entry]
            if not all(type(image) is int and image >= 0 for image in found):
                raise ValueError("an image is not a whole number of at least 0")
        return found

    def write_file_names(self, names: bytes) -> None:
        """Write the names of the image files, each followed by a zero byte."""
        write_bytes(self.path / "images.gz", gzip.compress(names, 1))

    def read_file_names(self) -> bytes | None:
        """Return the names of the image files; None if they are not known.

        Raises:
            InputError: if images.gz is damaged.
        """
        path = self.path / "images.gz"
        if not path.is_file():
            return None
        with reading(path, advice="delete it, and only the number of images is compared"), gzip.open(path) as file:
            return file.read(MOST_NAMES)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl."""
        with naming(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> History:
        return read_records(self.metrics) if self.metrics.is_file() else History()

    def forget_after(self, step: int) -> None:
        """Delete the records after `step`, because a resumed run repeats these steps."""
        if self.metrics.is_file():
            os.truncate(self.metrics, length_until(self.metrics, step))


def _is_before_config(file: Path) -> bool:
    return file.name in BEFORE_CONFIG or file.match(PARTS)


def _epoch_of(kept: Path) -> int:
    return int(kept.stem.removeprefix("epoch-"))


def newest_run() -> RunDirectory:
    """Return the run directory under runs/ that was started last, and log which it is.

    Raises:
        InputError: if runs/ has no run directory.
    """
    configs = sorted(RUNS.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise InputError(f"no run directory under {RUNS}/: give the path of one, or pretrain first")
    run = RunDirectory(configs[-1].parent)
    if is_first_rank():
        logging.getLogger("adco").info(f"with the newest run, {run.path}")
    return run


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
