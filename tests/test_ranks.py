"""Several processes are one run: on one node or more, and when one of them ends, hangs or is started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._C._distributed_c10d import TCPStore

import program
import tiny
from adco.cli import main as cli
from adco.devices import count_processes, evaluation_device, placement
from adco.errors import InputError
from adco.launcher import Layout, agent, is_first_rank, launch, layout, local_rank, place
from adco.ranks import ProcessLost, fresh_store, together
from adco.runs.directory import RunDirectory
from adco.runs.nearest_images import read_nearest
from adco.runs.restart import run_begun_before
from program import descendants, end, free_port, said, torchrun

SETTINGS: dict[str, Any] = {
    **tiny.SETTINGS,
    "data": "few",
    "adversaries": 33,
    "epochs": 3,
    "batch_size": 24,
    "log_every": 1,
    "checkpoint_every": 2,
    "knn_images": 0,
    "seed": 3,
    "precision": "32-true",
}
NEGATIVES = {  # by method: the name of the weights, and the setting that is their number
    "adco": ("adversaries.weight", "adversaries"),
    "caco": ("bank.weight", "bank"),
    "moco": ("queue", "queue"),
}
KNOWN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK")


def flags(*more: str, **settings: Any) -> list[str]:
    values = {**SETTINGS, **settings}
    return ["pretrain", *(f"--{name}={value}" for name, value in values.items()), *more]


def processes(number: int, **more: str) -> list[dict[str, str]]:
    """The variables of so many processes on a node, of which one alone needs no launcher."""
    return [more] if number == 1 else torchrun(1, number, **more)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., list[BaseProcess]]:
    """Start the command once in each environment, all in the directory of the test."""
    return partial(program.start, tmp_path)


def assert_same(path: Path, other: Path, atol: float = 0) -> None:
    """The same backbone, checkpoint, numbers of the adversaries, losses, and images near the adversaries."""
    found, expected = (everything(RunDirectory(run)) for run in (path, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def everything(run: RunDirectory) -> list[Any]:
    checkpoint, settings = torch.load(run.checkpoint, weights_only=True), run.read_config()
    name, count = NEGATIVES[settings["method"]]
    assert checkpoint["state_dict"][name].shape == (settings[count], 128)
    numbers = ("adversary_norm_min", "adversary_norm_mean", "adversary_norm_max", "adversary_concentration")
    return [
        load_file(run.backbone),
        checkpoint["state_dict"],
        checkpoint["optimizer_states"],
        [[record[name] for name in numbers] for record in run.records() if numbers[0] in record],
        [value for record in run.records() for name, value in record.items() if name.startswith("loss")],
        [moment.nearest for moment in read_nearest(run.adversaries)],
    ]


# What launchers tell


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Set the variables of a launcher, and no others."""
    for name in list(os.environ):
        if name in KNOWN or name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")):
            monkeypatch.delenv(name)

    def add(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return add


SLURM = {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
SLURM |= {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}


def test_nodes_are_read_from_the_launcher(variables: Callable[[dict[str, str]], None]) -> None:
    assert (layout(), place(), local_rank(), agent()) == (None, (0, 1), 0, None)
    assert placement("auto") == ("auto", 1)
    variables(torchrun(2, 3)[4])
    assert (layout(), place(), local_rank()) == (Layout("torchrun", 2, 3), (4, 6), 1)
    assert placement("auto") == placement(3, 2) == placement("3") == (3, 2)
    assert placement("0,2,3") == ("0,2,3", 2)


def test_nodes_are_read_from_slurm(
    variables: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables(SLURM)
    assert (layout(), place(), local_rank()) == (Layout("SLURM", 2, 4), (5, 8), 1)
    assert placement("auto") == (4, 2)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # a shell in a job
    assert (layout(), placement("auto")) == (None, ("auto", 1))


@pytest.mark.parametrize("environment", [SLURM, torchrun(2, 4)[5]])
def test_each_process_of_a_node_evaluates_on_a_gpu_of_its_own(
    variables: Callable[[dict[str, str]], None], environment: dict[str, str]
) -> None:
    """SLURM and torchrun tell the number of the process by different variables. There is no GPU here."""
    variables(environment)
    with pytest.raises(InputError, match=r"^device cuda:1 is not available"):
        evaluation_device("cuda")


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # srun --pty bash
        {"SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # the script of sbatch, without srun
    ],
)
def test_in_a_shell_of_slurm_the_command_starts_its_processes_itself(
    variables: Callable[[dict[str, str]], None], environment: dict[str, str]
) -> None:
    variables(environment)
    assert count_processes("cpu", 2) == 2
    assert (launch(), place(), is_first_rank()) == (None, (0, 1), True)


@pytest.mark.fault("--devices or --num_nodes says something else than torchrun or SLURM")
@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message"),
    [
        (torchrun(2, 1)[0], "auto", 3, "num_nodes 3 does not fit torchrun, which has started 2 nodes"),
        (torchrun(1, 2)[0], 4, "auto", "devices 4 does not fit torchrun, which has started 2 processes on each node"),
        (SLURM, 8, "auto", "devices 8 does not fit SLURM, which has started 4 processes on each node"),
        (SLURM, "auto", 1, "num_nodes 1 does not fit SLURM, which has started 2 nodes"),
        ({**SLURM, "SLURM_NTASKS": "7"}, "auto", "auto", "SLURM has started 7 processes on 2 nodes, 4 of them on this"),
        (
            {"SLURM_NTASKS": "2"},
            "auto",
            "auto",
            "SLURM has started 2 tasks: give --ntasks-per-node instead of --ntasks",
        ),
        ({}, "auto", 2, "num_nodes 2 needs a launcher: start the command by torchrun or srun on each node"),
        (
            {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},  # as a call with devices=2 leaves them
            1,
            "auto",
            "devices 1 does not fit this program, which has started 2 processes before",
        ),
    ],
)
def test_a_contradiction_is_refused(
    variables: Callable[[dict[str, str]], None],
    environment: dict[str, str],
    devices: int | str,
    nodes: int | str,
    message: str,
    report: Callable[..., None],
) -> None:
    variables(environment)
    with pytest.raises(InputError, match=f"^{message}") as raised:
        placement(devices, nodes)
    report(says=raised.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("[pair.cc:547] Connection closed by peer [127.0.0.1]:4211", "was killed or has failed; start the command"),
        ("NCCL error: no socket\ninterface found", r"has failed \(NCCL error: no socket interface found\); start the"),
    ],
)
def test_the_reason_of_a_lost_connection_is_told(monkeypatch: pytest.MonkeyPatch, error: str, told: str) -> None:
    monkeypatch.setattr("adco.ranks._start_others", lambda processes: None)
    monkeypatch.setattr("adco.ranks._connect", lambda accelerator: None)
    with pytest.raises(ProcessLost, match=told), together(2, "cpu"):
        raise RuntimeError(error)


def test_a_damaged_run_does_not_hide_the_one_that_torchrun_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, environment in (("a", "{"), ("b", '{"launch": "x-1"}'), ("c", "[]")):
        run = RunDirectory.create(Path("runs") / name)
        run.write_config({})
        (run.path / "environment.json").write_text(environment)
    found = run_begun_before("x-1", None)
    assert found is not None
    assert found.path == Path("runs/b")
    assert run_begun_before("x-2", None) is None


def test_processes_that_are_started_again_share_a_store_of_their_own() -> None:
    """The store still has what earlier processes have written, and their answers."""
    from concurrent.futures import ThreadPoolExecutor

    server = TCPStore("127.0.0.1", free_port(), is_master=True)
    with ThreadPoolExecutor(3) as threads:
        for attempt in range(3):
            clients = [TCPStore("127.0.0.1", server.port, is_master=False) for _ in range(3)]
            # At the second attempt, those behind the first process come long before it, and find an old name.
            later = [threads.submit(fresh_store, clients[rank], rank, 3) for rank in (1, 2)]
            time.sleep(0.5 * attempt)
            stores = [fresh_store(clients[0], 0, 3), *(store.result(timeout=30) for store in later)]
            assert not stores[0].check(["rank"])
            stores[attempt].set("rank", str(attempt))
            assert [store.get("rank") for store in stores] == [str(attempt).encode()] * 3


# Runs


@pytest.mark.slow
@pytest.mark.fault("two nodes without --num_nodes and --out")
def test_nodes_need_not_be_told_and_all_processes_write_one_directory(
    tmp_path: Path, start: Callable[..., list[BaseProcess]]
) -> None:
    assert end(start(torchrun(1, 2), *flags(), "--out=one", said="one")) == [0, 0], said(tmp_path, 0, "one")
    assert end(start(torchrun(2, 1), *flags())) == [0, 0], said(tmp_path, 0)
    (run,) = (tmp_path / "runs").iterdir()
    assert RunDirectory(run).is_finished
    assert said(tmp_path, 0)[-1] == str(run.relative_to(tmp_path))
    assert said(tmp_path, 1) == []
    assert_same(run, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.fault("four processes are given a directory in use")
def test_a_directory_in_use_is_refused_in_one_line(
    tmp_path: Path, start: Callable[..., list[BaseProcess]], report: Callable[..., None]
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert end(start(torchrun(1, 4), *flags(), "--out=used")) == [2, 2, 2, 2]
    report(says=said(tmp_path, 0)[-1])
    assert said(tmp_path, 0)[-1] == "adco: out 'used' is not empty: choose another --out"
    assert [said(tmp_path, rank) for rank in (1, 2, 3)] == [[], [], []]


@pytest.mark.slow
@pytest.mark.fault("a mistake in the settings, under torchrun")
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--epoch=3", "unknown flag --epoch: did you mean --epochs?"),
        ("--epochs=many", "epochs many must be a whole number"),
        ("--epochs=0", "epochs 0 must be at least 1 and at most 1e+09"),
        ("--dry_run", "a dry run measures the share of one device: leave torchrun out, and give --devices 2"),
    ],
)
def test_a_mistake_in_the_settings_is_told_once(
    tmp_path: Path, start: Callable[..., list[BaseProcess]], flag: str, message: str, report: Callable[..., None]
) -> None:
    assert end(start(torchrun(1, 2), *flags(), flag)) == [2, 2]
    report(says=said(tmp_path, 0)[-1])
    assert said(tmp_path, 0) == ["adco: starting …", f"adco: {message}"]
    assert said(tmp_path, 1) == []


@pytest.mark.slow
@pytest.mark.fault("one of two processes is killed, and both start again, as under torchrun --max_restarts")
def test_when_a_process_is_killed_the_other_says_so_and_both_go_on(
    tmp_path: Path, start: Callable[..., list[BaseProcess]], report: Callable[..., None]
) -> None:
    """As torchrun does it: all start again, with the same parent. The same bits as of a run that was not killed."""
    kill = f"1,7,{int(signal.SIGKILL)}"
    whole = end(start(torchrun(1, 2), *flags(), "--out=whole", said="whole"))
    assert whole == [0, 0]
    processes = start(torchrun(1, 2, ADCO_TEST_SIGNAL=kill), *flags(), said="first")
    assert end(processes) == [1, -signal.SIGKILL]
    (run,) = map(RunDirectory, (tmp_path / "runs").iterdir())
    name = run.path.relative_to(tmp_path)
    line = "adco: process 0 of 2 ends: another process was killed or has failed; continue with: adco pretrain --resume"
    assert said(tmp_path, 0, "first")[-1] == f"{line} {name}"
    report(says=f"{line} {name}")
    assert not [text for text in said(tmp_path, 0, "first") if "Traceback" in text or "gloo" in text]
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == 6
    assert end(start(torchrun(1, 2, TORCHELASTIC_RESTART_COUNT="1"), *flags(), said="again")) == [0, 0]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.path.name]
    assert_same(run.path, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.fault("a run of one, two or four processes is stopped, and resumed by two or one")
@pytest.mark.parametrize(
    ("before", "after", "method"), [(1, 2, "adco"), (2, 1, "adco"), (4, 2, "adco"), (2, 1, "caco"), (2, 1, "moco")]
)
def test_a_run_goes_on_in_another_number_of_processes(
    tmp_path: Path,
    start: Callable[..., list[BaseProcess]],
    before: int,
    after: int,
    method: str,
    report: Callable[..., None],
) -> None:
    """A network without BatchNorm, which normalises the images of a process, gets the same weights."""
    network = {"backbone": "test_vit", "backbone_args": {"patch_size": 4}, "projector_norm": "false"}
    negatives = {NEGATIVES[method][1]: SETTINGS["adversaries"]}
    shared = {name: value for name, value in SETTINGS.items() if name != "adversaries"}
    own = {**shared, **network, **negatives, "precision": "64-true", "optimizer": "sgd", "learning_rate": 3e-4}
    settings = ["pretrain", f"--method={method}", *(f"--{name}={value}" for name, value in own.items())]
    assert end(start([{}], *settings, "--out=whole", said="whole")) == [0], said(tmp_path, 0, "whole")
    stop = {"ADCO_TEST_SIGNAL": f"0,7,{int(signal.SIGTERM)}"}
    first = start(processes(before, **stop), *settings, "--out=run", said="first")
    assert end(first) == [128 + signal.SIGTERM] * before
    report(says=said(tmp_path, 0, "first")[-1])
    assert end(start(processes(after), "pretrain", "--resume=run")) == [0] * after, said(tmp_path, 0)
    assert_same(tmp_path / "run", tmp_path / "whole", atol=1e-9)


@pytest.mark.slow
@pytest.mark.fault("one of two processes hangs")
def test_a_process_that_hangs_is_noticed(
    tmp_path: Path, start: Callable[..., list[BaseProcess]], report: Callable[..., None]
) -> None:
    stop = {"ADCO_TEST_SIGNAL": f"1,7,{int(signal.SIGSTOP)}", "ADCO_TEST_LIMIT": "6"}
    first, second = start(torchrun(1, 2, **stop), *flags(), "--out=run")
    first.join(120)
    assert first.exitcode == 1
    second.kill()
    line = "adco: process 0 of 2 ends: a batch was not finished in 0.1 minutes, so a process or a disk hangs; "
    assert said(tmp_path, 0)[-1] == f"{line}continue with: adco pretrain --resume run"
    report(says=said(tmp_path, 0)[-1])


@pytest.mark.slow
@pytest.mark.fault("one of the processes that --devices 2 has started is killed")
def test_the_command_starts_its_processes_itself(tmp_path: Path, report: Callable[..., None]) -> None:
    """And one of them is killed."""
    environment = {name: value for name, value in os.environ.items() if name not in KNOWN}
    environment["ADCO_TEST_SIGNAL"] = f"1,7,{int(signal.SIGKILL)}"
    command = [sys.executable, program.__file__, *flags("--devices=2")]
    killed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    (run,) = (tmp_path / "runs").iterdir()
    assert killed.returncode == 1
    line = "adco: process 0 of 2 ends: another process was killed or has failed; continue with: adco pretrain --resume"
    assert killed.stderr.splitlines()[-1] == f"{line} {run.relative_to(tmp_path)}"
    report(says=killed.stderr.splitlines()[-1])
    assert "Traceback" not in killed.stderr
    command = [sys.executable, program.__file__, "pretrain", f"--resume={run}"]
    del environment["ADCO_TEST_SIGNAL"]
    resumed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert (resumed.returncode, resumed.stdout) == (0, f"{run}\n"), resumed.stderr


@pytest.mark.slow
@pytest.mark.fault("SIGTERM or SIGINT, twice, to two processes and their 0 or 2 workers")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_all_processes_get_twice_saves(
    tmp_path: Path,
    start: Callable[..., list[BaseProcess]],
    number: signal.Signals,
    workers: int,
    report: Callable[..., None],
) -> None:
    """Once from the terminal or the scheduler, which tell the whole group, and once from torchrun."""
    processes = start(torchrun(1, 2), *flags(epochs=1000, workers=workers), "--out=run")
    run = RunDirectory(tmp_path / "run")
    wait_for(run, processes)
    children = [child for process in processes for child in descendants(process.pid or 0)]
    for _ in range(2):
        for pid in [*(process.pid for process in processes), *children]:
            assert pid is not None
            os.kill(pid, number)
    assert end(processes) == [128 + number] * 2
    assert said(tmp_path, 0)[-1] == "adco: stopped and saved; continue with: adco pretrain --resume run"
    report(says=said(tmp_path, 0)[-1])
    assert said(tmp_path, 1) == []
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == float(run.records()[-1]["step"]) > 2
    assert len(children) >= 2 * workers
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
@pytest.mark.fault("SIGUSR1 from SLURM, before the time limit, to two processes and their workers")
def test_the_signal_of_slurm_before_the_time_limit_saves(
    tmp_path: Path, start: Callable[..., list[BaseProcess]], report: Callable[..., None]
) -> None:
    """All processes of the job get it. Lightning would save elsewhere, and put the job into the queue again."""
    job = {"SLURM_JOB_NAME": "train", "SLURM_JOB_ID": str(free_port()), "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    tasks = [{**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    processes = start(tasks, *flags(epochs=1000, workers=2), "--out=run")
    wait_for(RunDirectory(tmp_path / "run"), processes)
    for process in processes:
        assert process.pid is not None
        for pid in [*descendants(process.pid), process.pid]:
            os.kill(pid, signal.SIGUSR1)
    assert end(processes) == [128 + signal.SIGUSR1] * 2
    assert said(tmp_path, 0)[-1] == "adco: stopped and saved; continue with: adco pretrain --resume run"
    report(says=said(tmp_path, 0)[-1])
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.fault("SIGTERM to one of two processes before the first step")
def test_a_signal_before_the_first_step_saves_after_it(
    tmp_path: Path, start: Callable[..., list[BaseProcess]], report: Callable[..., None]
) -> None:
    """One of the processes gets it, while they wait for each other."""
    signalled = torchrun(1, 2, ADCO_TEST_SIGNAL=f"1,0,{int(signal.SIGTERM)}")
    assert end(start(signalled, *flags(epochs=1000), "--out=run")) == [128 + signal.SIGTERM] * 2
    assert said(tmp_path, 0)[-1] == "adco: stopped and saved; continue with: adco pretrain --resume run"
    report(says=said(tmp_path, 0)[-1])
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1


def wait_for(run: RunDirectory, processes: Sequence[BaseProcess], records: int = 3) -> None:
    while len(run.records()) < records:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"])
def test_a_variable_of_a_launcher_that_is_no_number_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for known in (*KNOWN, "SLURM_NTASKS"):
        monkeypatch.delenv(known, raising=False)
    if name == "SLURM_PROCID":
        monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv(name, "many")
    assert cli.run(["recipes"]) == 2
    assert f"adco: the environment variable {name} is 'many', which is no number: unset it" in capsys.readouterr().err


@pytest.mark.parametrize("left", [{"NODE_RANK": "1"}, {"RANK": "3"}, {"LOCAL_RANK": "2"}])
def test_a_process_alone_is_the_first_whatever_a_shell_has_left(
    left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in KNOWN:
        monkeypatch.delenv(known, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not is_first_rank()
