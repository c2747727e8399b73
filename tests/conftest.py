"""What tests of several files use; `tiny.py` has what is no fixture."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

import program
import tiny as tiny  # makes `few` a data set
from adco.runs.directory import RunDirectory

pytest_plugins = ["faults.rows"]

# For the tests and the processes they start. Matplotlib need not make its list of fonts again where the cache is empty.
os.environ.setdefault("MPLCONFIGDIR", matplotlib.get_cachedir())
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # on images this small, threads cost more than they give
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it
if not os.environ.get("ADCO_GPU"):  # which `make gpu` sets
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # most tests compare bits or float64, which a GPU would not reproduce


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache: tests neither see nor change the user's."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("ADCO_DATA", raising=False)
    return cache


@pytest.fixture(autouse=True)
def _loggers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every test can read what the package logs, even after one in which the command has attached its handlers."""
    caplog.set_level(logging.INFO, "adco")
    yield
    for name in ("adco", "adco.progress"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


@pytest.fixture(scope="module")
def quick_processes() -> Iterator[None]:
    """Processes that train the runs of a comparison, or measure its rows, start in a moment; see `program.forkserver`.

    Each imports in vain otherwise, for longer than it works. The tests of signals and of several devices start them as
    they are.
    """
    with pytest.MonkeyPatch.context() as patch:
        context = SimpleNamespace(get_context=lambda _: program.forkserver())
        patch.setattr("adco.training.own_process.multiprocessing", context)
        patch.setattr("adco.comparison.run.subprocess", SimpleNamespace(Popen=program.Started))
        yield


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no curves, which takes longer than a tiny run itself."""
    monkeypatch.setattr("adco.training.saving.plot_curves", lambda records, path: None)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A new run directory."""
    return RunDirectory.create(tmp_path / "run")
