"""The run directory: the only interface between training and everything after it.

config.yaml            every setting resolved; runs again as it is
environment.json       versions, seed, machine, when it began and when it was finished
unreadable.json        files that were left out, and why
metrics.jsonl          one record a line: steps and epochs
checkpoints/last.ckpt  full state
backbone.safetensors   weights alone, with name, input size, mean and std as metadata
curves.png             the records, drawn
results/               what evaluations found
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from filelock import FileLock, Timeout

from adco.curves import read_records
from adco.distributed import is_first_rank
from adco.settings import of_earlier_versions

RUNS = Path("runs")
_PACKAGES = ("adco", "torch", "torchvision", "timm", "lightning", "numpy", "Pillow")


@dataclass(frozen=True)
class RunDirectory:
    """Names and writes the files of a run. Every file is whole at any moment: written aside, then renamed."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """A new run directory.

        Raises:
            ValueError: if there is something in it already, or it cannot be made.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            go_on = f"go on with --resume {quote(str(path))}, or " if cls(path).config.is_file() else ""
            raise ValueError(f"out {str(path)!r} is not empty: {go_on}choose another --out")
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"out {str(path)!r} cannot be made: {error.strerror}") from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """An existing run directory.

        Raises:
            ValueError: if it is not there, or has no config.yaml.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise ValueError(f"{str(path)!r} is no run directory: it has no config.yaml")
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

    @property
    def backbone(self) -> Path:
        return self.path / "backbone.safetensors"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def results(self) -> Path:
        return self.path / "results"

    def read_config(self) -> dict[str, Any]:
        """Every setting of the run, also where an earlier version wrote it.

        Raises:
            ValueError: if config.yaml does not hold settings.
        """
        try:
            return of_earlier_versions(yaml.safe_load(self.config.read_text()))
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.config} does not hold the settings of a run: it is damaged or was edited"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from training here at the same time.

        Raises:
            ValueError: if another process does.
        """
        folder = self.checkpoint.parent
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / ".lock")
        if is_first_rank():
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(f"another process is training in {self.path}") from error
            except NotImplementedError:  # a file system without locks
                pass
        try:
            yield
        finally:
            lock.release()

    def write_config(self, values: Mapping[str, Any]) -> None:
        write_whole(self.config, yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None))

    def read_environment(self) -> dict[str, Any]:
        """What is known of where the run began; nothing where it was killed before that was written."""
        path = self.path / "environment.json"
        values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return values

    def write_environment(self, **facts: Any) -> None:
        write_json(self.path / "environment.json", {"started": _now(), **environment(), **facts})

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are trained."""
        return "finished" in self.read_environment()

    def write_finished(self) -> None:
        write_json(self.path / "environment.json", {**self.read_environment(), "finished": _now()})

    def write_unfinished(self) -> None:
        """Take back that the run is finished: it is to become longer."""
        facts = self.read_environment()
        facts.pop("finished", None)
        write_json(self.path / "environment.json", facts)

    def discard_if_empty(self) -> None:
        """Remove the directory of a run that failed before there was a checkpoint or a step with a finite loss."""
        if not self.checkpoint.is_file() and not any(isinstance(r.get("loss"), float) for r in self.records()):
            shutil.rmtree(self.path, ignore_errors=True)

    def write_unreadable(self, files: Iterable[tuple[str, str]]) -> None:
        write_json(self.path / "unreadable.json", [{"file": file, "reason": reason} for file, reason in files])

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, float | str]]:
        return read_records(self.metrics) if self.metrics.is_file() else []

    def forget_after(self, step: int) -> None:
        """Drop the records of steps that a resumed run will do again."""
        kept = [record for record in self.records() if float(record["step"]) <= step]
        write_whole(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))


def environment() -> dict[str, Any]:
    """Versions of what a run is made with, and its machine."""
    machine = {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "packages": packages, "machine": machine}


def _processor() -> str:
    """Its model, which the standard library does not tell on Linux."""
    known = Path("/proc/cpuinfo")
    for line in known.read_text().splitlines() if known.is_file() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def newest_run() -> RunDirectory:
    """The run directory under runs/ that was started last.

    Raises:
        ValueError: if there is none.
    """
    configs = sorted(RUNS.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise ValueError(f"no run directory under {RUNS}/: name one, or pretrain first")
    return RunDirectory(configs[-1].parent)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
