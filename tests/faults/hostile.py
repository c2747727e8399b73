"""A run with all its files, and what reads each of them: what damaged files are tried on."""

import hashlib
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml
from PIL import Image

import adco
import tiny
from adco.config.load import pretrain_settings
from adco.config.weights import known_backbone
from adco.data.sources.open import open_source
from adco.embeddings.formats import read_embeddings
from adco.evaluation.backbones import info_of, run_backbone
from adco.models.reading import read_tensors
from adco.reporting import tables
from adco.runs.directory import RunDirectory
from adco.runs.nearest_images import read_nearest
from faults.damage import TEXTS, damaged, edit_json, edited, outcome

PRETRAIN: dict[str, Any] = {
    **tiny.SETTINGS,
    **{"data": "few", "epochs": 1, "batch_size": 32, "adversaries": 32, "image_size": 8, "precision": "32-true"},
}
Read = Callable[[Path], Any]


def _resume(folder: Path) -> Any:
    return adco.pretrain(resume=folder / "run")


def _evaluate(folder: Path) -> Any:
    return adco.evaluate("knn", folder / "run", device="cpu")


def _open(data: str) -> Any:
    source = open_source(data)
    return [source.shorter_side, *source.load([0])]


def _checkpoint(folder: Path) -> Any:
    run = RunDirectory.open(folder / "run")
    return run_backbone(run, run.checkpoint), read_tensors(run.checkpoint), known_backbone(str(run.checkpoint))


def _weights(folder: Path) -> Any:
    file = folder / "run" / "backbone.safetensors"
    return known_backbone(str(file)), adco.load_backbone(file), read_tensors(file)


def _config(folder: Path) -> Any:
    run = RunDirectory.open(folder / "run")
    pretrain_settings(run.config).check()
    return info_of(run), run.white_level


def _facts(folder: Path) -> Any:
    run = RunDirectory.open(folder / "run")
    return run.read_environment(), run.is_finished, run.read_config()


# File → what reads it. Each is called with the folder of the run and the other files.
READERS: dict[str, tuple[Read, ...]] = {
    "run/checkpoints/last.ckpt": (_checkpoint, _resume),
    "run/backbone.safetensors": (_weights, _evaluate),
    "run/config.yaml": (_config, _resume, _evaluate),
    "run/metrics.jsonl": (lambda folder: RunDirectory(folder / "run").records(), _resume),
    "run/environment.json": (_facts, _resume),
    "run/unreadable.json": (lambda folder: RunDirectory(folder / "run").read_damaged(), _resume),
    "run/results/knn-few.json": (lambda folder: tables.results_in(folder / "run" / "results"), _evaluate),
    "run/adversaries/00000003.npz": (lambda folder: read_nearest(folder / "run" / "adversaries"),),
    "tuned/classifier.safetensors": (lambda folder: adco.load_classifier(folder / "tuned"),),
    "tuned/checkpoints/last.ckpt": (lambda folder: adco.finetune(resume=folder / "tuned"),),
    "tuned/config.yaml": (lambda folder: adco.finetune(resume=folder / "tuned"),),
    "recipe.yaml": (lambda folder: pretrain_settings(folder / "recipe.yaml"),),
    "e.npz": (lambda folder: read_embeddings(folder / "e.npz").directions,),
    "e.csv": (lambda folder: read_embeddings(folder / "e.csv").directions,),
    "e.parquet": (lambda folder: read_embeddings(folder / "e.parquet").directions,),
    "shards.tar": (lambda folder: _open(f"wds:{folder / 'shards.tar'}"),),
    "list.csv": (lambda folder: _open(f"list:{folder / 'list.csv'}"),),
}


def make_files(folder: Path) -> None:
    """Make a run, a fine-tuning, embeddings, a recipe, a shard and a list, all of which can be read."""
    run = adco.pretrain(**PRETRAIN, out=folder / "run")
    adco.evaluate("knn", run, device="cpu")
    tuned = adco.finetune(
        run, data="few", epochs=1, batch_size=16, device="cpu", precision="32-true", out=str(folder / "tuned")
    )
    for path in (run, tuned):
        RunDirectory(path).write_unfinished()  # so that the checkpoint is read again
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**tiny.SETTINGS, "data": "few", "crop_scale": [0.2, 1.0]}))
    embeddings = adco.embed(run, data="few", device="cpu")
    from adco.embeddings.formats import Table, writer_of

    table = Table(len(embeddings), embeddings.embeddings.shape[1], embeddings.classes, lambda: [embeddings])
    for suffix in (".npz", ".csv", ".parquet"):
        with (folder / f"e{suffix}").open("wb") as file:
            writer_of(Path(f"e{suffix}"))(file, table)
    draw = np.random.default_rng(0)
    with tarfile.open(folder / "shards.tar", "w") as tar:
        for number in range(4):
            path = folder / f"{number}.png"
            Image.fromarray(draw.integers(0, 255, (9, 9, 3), np.uint8)).save(path)
            (folder / f"{number}.json").write_text(f'{{"label": {number % 2}}}')
            for suffix in (".png", ".json"):
                tar.add(folder / f"{number}{suffix}", f"{number}{suffix}")
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(4)))


def try_damaged(folder: str, name: str, number: int) -> Counter[str]:
    """Damage a file, read it, and put it right again, so many times; return how often each line was read.

    Args:
        folder: with what `make_files` has made; it is copied.
        name: of the file, one of READERS; also the seed of the accidents.
        number: of accidents.

    Raises:
        Exception: something is no error of one line, was executed, or another file was changed.
    """
    lines: Counter[str] = Counter()
    copied = Path(folder).with_name("tried")
    with patch("adco.training.saving.plot_curves"), patch("adco.finetuning.saving.plot_curves"):
        for turn in range(number):
            draw = np.random.default_rng((turn, *name.encode()))
            shutil.copytree(folder, copied)
            harm(copied / name, draw)
            before = _digests(copied)
            with chdir(copied):  # something that is executed would leave a file there
                try:
                    for read in READERS[name]:
                        lines[_kind(outcome(read, copied), copied)] += 1
                except BaseException as error:
                    raise AssertionError(f"{name}, turn {turn}: {error!r}") from error
            written = {file for file, digest in _digests(copied).items() if before.get(file) != digest}
            others = {file for file in written if not file.startswith(("run/", "tuned/"))}
            assert not others, f"{name}, turn {turn}: {others} written"
            shutil.rmtree(copied)
    return lines


def harm(path: Path, draw: np.random.Generator) -> None:
    """Damage a file, or edit it if it is text of a known form."""
    kind = draw.random()
    if path.suffix == ".json" and kind < 0.5:
        edit_json(path, draw)
    elif path.suffix == ".yaml" and kind < 0.5:
        path.write_text(yaml.safe_dump(edited(yaml.safe_load(path.read_text()), draw)))
    elif path.suffix == ".jsonl" and kind < 0.5:
        lines = path.read_text().splitlines()
        place = int(draw.integers(len(lines)))
        (path.parent / "line").write_text(lines[place])
        edit_json(path.parent / "line", draw)
        lines[place] = (path.parent / "line").read_text()
        (path.parent / "line").unlink()
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix in (".json", ".yaml", ".jsonl") and kind < 0.65:
        path.write_text(TEXTS[int(draw.integers(len(TEXTS)))])
    else:
        path.write_bytes(damaged(path.read_bytes(), draw))


def _kind(line: str, folder: Path) -> str:
    return line.replace(f"{folder}/", "")


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
