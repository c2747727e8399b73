"""Of the processes of a node, one lists a folder, and the others take its listing over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from adco.launcher import announce_launch, launch

# Opens a folder and prints how often it was listed, the images and their classes. Like the processes of a run, all
# start and end together.
PROGRAM = """
import json, os, sys, time, warnings
from pathlib import Path
from adco.data.sources import listing
from adco.data.sources.open import open_source
walk, walks = os.walk, []
def counting(*args, **kwargs):
    walks.append(args)
    time.sleep(0.2)
    return walk(*args, **kwargs)
listing.os.walk = counting
def together(stage):
    Path(sys.argv[2], f"{stage} {os.getpid()}").touch()
    while sum(name.startswith(stage) for name in os.listdir(sys.argv[2])) < int(sys.argv[3]):
        time.sleep(0.01)
together("start")
found = []
for _ in range(int(sys.argv[4])):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(sys.argv[1])
    said = [str(warning.message) for warning in caught]
    found.append([[str(path) for path in source.paths], source.labels.tolist(), source.description, said])
together("end")
print(json.dumps([len(walks), found]))
"""
Result = list[list[object]]


def start(photos: Path, ready: Path, environments: list[dict[str, str]], times: int = 1) -> list[tuple[int, Result]]:
    """Run the program once in each environment, all at the same time."""
    ready.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(photos), str(ready), str(len(environments)), str(times)]
    own = {name: value for name, value in os.environ.items() if name not in ("ADCO_LAUNCH", "LOCAL_RANK")}
    processes = [
        subprocess.Popen(command, env={**own, **environment}, stdout=subprocess.PIPE, text=True)
        for environment in environments
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [tuple(json.loads(output)) for output in outputs]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/ü.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(root / name)
    for name in ("notes.txt", "drawing.svg"):
        (root / name).touch()
    return root


@pytest.mark.slow
def test_one_of_two_processes_lists(photos: Path, tmp_path: Path) -> None:
    ranks = [{"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}]
    (walks, first), (others, second) = start(photos, tmp_path / "ready", ranks, times=2)
    assert walks + others == 2  # each of the two openings was listed once
    assert first == second
    (alone, expected), (also, _) = start(photos, tmp_path / "again", [{}, {}], times=2)
    assert (alone, also) == (2, 2)
    assert first == expected


@pytest.mark.slow
def test_a_later_launch_lists_again(photos: Path, tmp_path: Path, own_cache: Path) -> None:
    """The processes of both have the same parent, this one: what the first launch has written is deleted at its end."""
    start(photos, tmp_path / "first", [{"LOCAL_RANK": "0"}])
    assert not list(own_cache.rglob("*.npz"))
    Image.new("RGB", (4, 3)).save(photos / "dog" / "new.png")
    ((walks, ((paths, *_),)),) = start(photos, tmp_path / "second", [{"LOCAL_RANK": "0"}])
    assert walks == 1
    assert str(photos / "dog" / "new.png") in paths  # type: ignore[operator]


def test_processes_of_one_launch_agree_on_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "ADCO_LAUNCH", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert launch() is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    started = launch()
    assert started is not None
    assert str(os.getppid()) in started
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert launch() not in (None, started)
    announce_launch()  # torchrun has started this process, so its siblings could not know
    assert "ADCO_LAUNCH" not in os.environ
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("ADCO_LAUNCH", "")  # monkeypatch removes it after the test
    monkeypatch.delenv("ADCO_LAUNCH")
    announce_launch()
    assert launch() == str(os.getpid())
