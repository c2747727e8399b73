"""Several processes evaluate and embed as one does: the same files, each image read once, one line at an early end.

The processes are started as torchrun does it, or by `--devices`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import in_order
import program
import tiny
from adco.config.commands import EmbedSettings
from adco.embeddings.embed import embed_to_file
from adco.embeddings.parts import Parts
from program import end, forkserver, said, start, torchrun

pytestmark = pytest.mark.slow

TRAIN, TEST = 2103, 517  # images; their batches of 512 are five, the last of 55, and two, the last of 5
# Of more than 2 000 files, some are not read when a folder is opened: this one, of the second batch, is found later.
DAMAGED = np.setdiff1d(np.arange(512, 1024), np.random.default_rng(0).permutation(TRAIN)[:2000])[0]
ALONE = [{"CUDA_VISIBLE_DEVICES": ""}]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 8 px in three classes, one of them damaged."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", TEST)):
        for number in range(count):
            kind = 3 * number // count  # in the order in which the folder is listed
            pixels = rng.integers(0, 216, (8, 8, 3), np.uint8)
            pixels[..., kind] += np.uint8(40)
            file = root / split / "abc"[kind] / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, compress_level=0)
            if (split, number) == ("train", DAMAGED):
                file.write_bytes(b"no image")
    return root


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    """A directory with a run."""
    tiny.untrained_run(tmp_path / "run", data=str(photos))
    return tmp_path


def results(folder: Path) -> dict[str, bytes]:
    """The files of results, which are taken away."""
    found = {path.name: path.read_bytes() for path in sorted((folder / "run" / "results").iterdir())}
    shutil.rmtree(folder / "run" / "results")
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "knn", "run", "--floors"],
        ["evaluate", "linear", "run"],
        ["probe", "run", "--labels_per_class=[3]", "--label_shares=[1.0]", "--draws=2"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_results_are_those_of_one_process(folder: Path, command: list[str]) -> None:
    """The second of two processes finds the damaged image. Of three, the third has no test images."""
    assert end(start(folder, ALONE, *command, said="one")) == [0], said(folder, 0, "one")
    expected = results(folder)
    told = said(folder, 0, "one")
    assert f"1 of {TRAIN} files in" in "\n".join(told)
    for size in (2, 3):
        name = f"of {size}"
        codes = end(start(folder, torchrun(1, size, ADCO_TEST_READS=str(folder / name)), *command, said=f"said {name}"))
        assert codes == [0] * size, said(folder, 0, f"said {name}")
        assert results(folder) == expected
        assert said(folder, 0, f"said {name}") == told
        assert [said(folder, rank, f"said {name}") for rank in range(1, size)] == [[]] * (size - 1)
        reads = [Counter((folder / f"{name}-{rank}").read_text().splitlines()) for rank in range(size)]
        networks = 1 if command[-1] == "run" else 3  # with the floors
        assert sum(reads, Counter()) == {image: networks for part in reads for image in part}
        assert sum(map(len, reads)) == TRAIN + TEST
        assert len(reads[1]) == (512 * 2 + 5 if size == 2 else 512 + 55 + 5)


def test_more_processes_than_batches(folder: Path) -> None:
    """A hundred images are one batch, which the first process takes."""
    command = ["evaluate", "linear", "run", "--data=few"]
    assert end(start(folder, ALONE, *command, said="one")) == [0]
    expected = results(folder)
    assert end(start(folder, torchrun(1, 2), *command)) == [0, 0]
    assert results(folder) == expected


def test_the_papers_probe_is_that_of_its_devices(folder: Path) -> None:
    """Gradients are added up in another order: an image may change sides."""
    command = ["evaluate", "linear_sgd", "run", "--data=few", "--epochs=3", "--batch_size=20", "--floors"]
    found = []
    for environments in (ALONE, torchrun(1, 2)):
        assert set(end(start(folder, environments, *command))) == {0}, said(folder, 0)
        found.append(json.loads(results(folder)["linear_sgd-few.json"]))
    one, two = found
    assert one["top1"] == pytest.approx(two["top1"], abs=1)
    assert one["floors"]["raw pixels"] == two["floors"]["raw pixels"]
    assert one["evaluation"] == two["evaluation"]


def test_a_comparison_evaluates_a_run_in_the_processes_that_trained_it(tmp_path: Path) -> None:
    shared = {"data": "few", "epochs": 1, "batch_size": 20, "image_size": 8, "adversaries": 32, **tiny.SETTINGS}
    plan = {"shared": {**shared, "knn_images": 0}, "seeds": [0], "rows": {"A": {"method": "adco"}}}
    (tmp_path / "plan.yaml").write_text(json.dumps({**plan, "evaluations": {"knn": {}, "linear": {}}}))
    command = ["compare", "plan.yaml", "--out=out", "--only=a-0"]
    for stage in ("trained", "evaluated"):
        assert end(start(tmp_path, torchrun(1, 2), *command, said=stage)) == [0, 0], said(tmp_path, 0, stage)
    found = tmp_path / "out" / "a-0" / "results"
    assert sorted(path.name for path in found.glob("*.json")) == ["knn-few.json", "linear-few.json"]


def command_line(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, program.__file__, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


def test_the_command_starts_its_processes_itself(folder: Path) -> None:
    assert end(start(folder, ALONE, "evaluate", "knn", "run", said="one")) == [0]
    expected = results(folder)
    done = command_line(folder, "evaluate", "knn", "run", "--devices=2")
    assert done.returncode == 0, done.stderr
    assert results(folder) == expected
    told = said(folder, 0, "one")
    assert sorted([*done.stdout.splitlines(), *done.stderr.splitlines()]) == sorted(told)


def test_an_embedding_goes_on_with_another_number_of_processes(
    folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first of three blocks."""
    command = ["embed", "run", "--split=train", f"--data={photos}"]
    assert end(start(folder, ALONE, *command, "--out=one.npz", said="one")) == [0], said(folder, 0, "one")
    assert end(start(folder, torchrun(1, 2), *command, "--out=two.npz")) == [0, 0]
    assert (folder / "two.npz").read_bytes() == (folder / "one.npz").read_bytes()
    assert [line.replace("one.npz", "two.npz") for line in said(folder, 0, "one")] == said(folder, 0)
    assert said(folder, 1) == []
    write = Parts.write

    def stopped(self: Parts, block: object) -> None:
        if self.has(0):
            raise KeyboardInterrupt
        write(self, block)  # type: ignore[arg-type]

    monkeypatch.setattr(Parts, "write", stopped)
    monkeypatch.chdir(folder)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(Path("run"), EmbedSettings(split="train", data=str(photos), out="three.npz"))
    assert end(start(folder, torchrun(1, 2), *command, "--out=three.npz", said="rest")) == [0, 0]
    assert any(f"1,024 of {TRAIN:,} images are done" in line for line in said(folder, 0, "rest"))
    assert (folder / "three.npz").read_bytes() == (folder / "one.npz").read_bytes()


# Ends


@pytest.mark.fault("a process of adco evaluate is killed")
def test_when_a_process_is_killed_the_other_says_so(folder: Path, report: Callable[..., None]) -> None:
    """While it reads the second batch."""
    kill = torchrun(1, 2, ADCO_TEST_READ=f"1,{DAMAGED:04}.png,{int(signal.SIGKILL)}")
    assert end(start(folder, kill, "evaluate", "knn", "run")) == [1, -signal.SIGKILL]
    line = "adco: process 0 of 2 ends: another process was killed or has failed; start the command again"
    assert said(folder, 0)[-1] == line
    report(says=line)
    assert "Traceback" not in "\n".join(said(folder, 0))
    assert not (folder / "run" / "results").exists()


@pytest.mark.fault("SIGTERM or SIGINT to all processes of adco evaluate")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_ends_them(folder: Path, number: signal.Signals, report: Callable[..., None]) -> None:
    """The first one waits for the second, which reads an image."""
    processes = start(folder, torchrun(1, 2, ADCO_TEST_READ=f"1,{DAMAGED:04}.png,0"), "evaluate", "knn", "run")
    while not (folder / "reached").exists():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.05)
    for process in processes:
        os.kill(process.pid or 0, number)
    (folder / "go").touch()
    assert end(processes, 60) == [128 + number] * 2, said(folder, 0)
    assert said(folder, 0)[-1] == "adco: stopped"
    report(says=said(folder, 0)[-1])
    assert said(folder, 1) == []


@pytest.mark.fault("too many damaged images in the part of the second process")
def test_damaged_images_are_told_once(folder: Path, photos: Path, report: Callable[..., None]) -> None:
    codes = end(start(folder, torchrun(1, 2), "evaluate", "knn", "run", "--max_unreadable=0.0001"))
    assert codes == [2, 2]
    line = said(folder, 0)[-1]
    assert line.startswith(f"adco: 1 of {TRAIN} files in ")
    assert line.endswith(f"{DAMAGED:04}.png (not an image). Repair or remove these files, or raise --max_unreadable")
    report(says=line.replace(str(photos), "photos"))
    assert said(folder, 1) == []


@pytest.mark.parametrize("command", ["report", "neighbors", "duplicates"])
def test_a_command_of_one_process_is_refused(folder: Path, command: str) -> None:
    assert end(start(folder, torchrun(1, 2), command, "run")) == [2, 2]
    line = f"adco: adco {command} works in one process: start it without torchrun or srun"
    assert [said(folder, rank) for rank in (0, 1)] == [[line], []]


# In order


@pytest.mark.parametrize("size", [2, 3])
def test_results_come_in_order_and_a_failure_ends_all(tmp_path: Path, size: int) -> None:
    context = forkserver()
    files = [str(tmp_path / str(rank)) for rank in range(size)]
    processes = [
        context.Process(target=in_order.pass_on, args=(environment, file))
        for environment, file in zip(torchrun(1, size), files, strict=True)
    ]
    for process in processes:
        process.start()
    assert end(processes) == [0] * size
    all_items = [list(range(count)) for count in range(9)]
    until = [[*range(fails // size * size), (f"item {fails}", True)] for fails in range(7)]
    last: list[object] = [list(range(size)), "by 0"]
    assert Path(files[0]).read_text() == repr([*all_items, *until, *last])
    of_others = [[]] * 9 + [failed[-1:] for failed in until] + last
    assert [Path(file).read_text() for file in files[1:]] == [repr(of_others)] * (size - 1)
