"""The command, in this process; `test_resume.py` has it in processes of its own."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import adco
from adco import api
from adco.cli import main as cli
from adco.config import recipes
from adco.config.commands import EvaluateSettings
from adco.config.load import Parser, pretrain_parser, pretrain_settings
from adco.config.pretrain import to_dict
from adco.config.registry import METHODS
from adco.config.resolve import resolve
from adco.data.sources.open import open_source
from adco.evaluation.knn import KNN
from adco.methods.adco import AdCoSettings
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted, NotFiniteError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_shows_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in ("demo", "pretrain", "evaluate", "probe", "finetune", "recipes"))


@pytest.mark.parametrize("command", [command for command in cli.COMMANDS if command not in ("check", "recipes")])
def test_a_commands_help_shows_its_settings(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adco", command, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    flags = {"pretrain": "--temperature", "evaluate": "--floors", "probe": "--against", "finetune": "--patience"}
    flags["cost"] = "--images"
    assert flags.get(command, "--out") in out


WRONG = [
    (["pretrain", "--data", "digits", "--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
    (["pretrain"], "data is missing: give a folder of images (adco pretrain photos/) or one of cifar10, "),
    (["pretrain", "--epochs", "3"], "data is missing"),
    (["pretrain", "", "--epochs", "3"], "data is missing"),
    (
        ["evaluate", "knn", "mine.safetensors"],
        "mine.safetensors is not a file: give a run directory, or --weights FILE",
    ),
    (
        ["evaluate", "knn", "--backbone", "resnet18", "--data", "digits", "--device", "abacus"],
        "device abacus is not av",
    ),
    (
        ["evaluate", "knn", "--backbone", "vit_tiny_patch16_224", "--data", "digits"],
        "image_size 8 does not suit backbone vit_tiny",
    ),
    (["pretrain", "digits", "--backbone_args", "{layers: [1, 1]}"], "takes images of no size that was tried"),
    (["pretrain", "--print-config"], "data is missing"),
    (["pretrain", "digits", "--batch_norm", "shuffle"], "batch_norm shuffle needs more than one device"),
    (["pretrain", "digits", "--data=cifar10"], "data is given twice, digits and --data cifar10: leave one out"),
    (["pretrain", "digits", "photos"], "unrecognized arguments: photos"),
    (["pretrain", "cifar10_demo"], "data 'cifar10_demo' is a recipe: try adco pretrain --recipe cifar10_demo"),
    (["pretrain", "digits", "--lr", "0.1"], "unknown flag --lr: it is called --learning_rate here"),
    (["pretrain", "digits", "--output-dir=a"], "unknown flag --output-dir: it is called --out here"),
    (
        ["pretrain", "digits", "--precision", "32-true", "--weights", "a.pth"],
        "weights 'a.pth' is neither a file nor a run directory",
    ),
    (["evaluate", "knn", "--arch", "resnet18"], "unknown flag --arch: it is called --backbone here"),
    (["compare", "cifar10_table5", "--output", "a"], "unknown flag --output: it is called --out here"),
    (["demo", "--lr", "3"], "unknown flag --lr; see --help"),
    (["pretrain", "--data", "digits", "--temperature", "-1"], "temperature -1.0 must be at least 0.0016"),
    (["pretrain", "--data", "digits", "--adversaries", "0"], "adversaries 0 must be at least 1"),
    (["pretrain", "--data", "nowhere"], "data 'nowhere' is neither a folder nor one of cifar10, fashion-mnist, digits"),
    (["pretrain", "--data", "digits", "--backbone", "resnet19"], "backbone 'resnet19' is not a timm model: try"),
    (
        ["pretrain", "--data", "digits", "--batch_size", "9999"],
        "batch_size 9999 is more than the 1442 images",
    ),
    (["pretrain", "--precision", "8"], "precision"),
    (["pretrain", "--method", "mocov9"], "method 'mocov9' must be one of adco"),
    (["pretrain", "--recipe", "cifar10_dmo"], "recipe 'cifar10_dmo' is neither a file nor a recipe"),
    (["pretrain", "--resume", "nowhere"], "'nowhere' is not a run directory: it has no config.yaml"),
    (["pretrain", "digits", "--method="], "method '' must be one of adco, caco, moco"),
    (["pretrain", "digits", "--recipe", ""], "recipe '' is neither a file nor a recipe"),  # of an unset shell variable
    (["pretrain", "--resume", ""], "'' is not a run directory: it has no config.yaml"),
    (["pretrain", "--resume", "nowhere", "--seed", "3"], "resume takes its settings from the run directory"),
    (["pretrain", "--seed", "3", "--resume=nowhere"], "resume takes its settings from the run directory"),
    (["pretrain", "--dry-run", "--resume=nowhere"], "--resume continues a run: leave out --dry_run"),
    (["pretrain", "digits", "--minutes", ""], "minutes '' must be a number"),
    (["pretrain", "digits", "--backbone_args", "[1]"], "backbone_args [1] must be a mapping, {name: value}"),
    (["pretrain", "digits", "--momentum=0.9", "--ema-decay=0.9"], "momentum is the old name of ema_decay, and both"),
    (["pretrain", "--data", "digits", "--minutes", "0"], "minutes 0.0 must be above 0"),
    (["pretrain", "--data", "digits", "--minutes", "9", "--epochs=3"], "minutes 9.0 chooses the epochs, but epochs 3"),
    (["pretrain", "--print_config", "--resume=nowhere"], "--resume continues a run: leave out --dry_run"),
    (["pretrain", "photos"], "data 'photos' is neither a folder nor one of cifar10, fashion-mnist, digits"),
    (["pretrian"], "unknown command pretrian: did you mean pretrain?"),
    (["zzzzzz"], "unknown command zzzzzz: there are pretrain, evaluate, "),
    (["evaluate"], "kind"),
    (["evaluate", "svm"], "svm"),
    (["evaluate", "knn"], "no run directory under runs/: give the path of one, or pretrain first"),
    (["evaluate", "knn", "nowhere"], "'nowhere' is not a run directory"),
    (["evaluate", "knn", "--k", "0"], "k 0 must be at least 1"),
    (["evaluate", "knn", "--bakcbone", "resnet18"], "unknown flag --bakcbone: did you mean --backbone?"),
    (["neighbors", "--data", "digits"], "give --out FILE.csv or --sheet FILE.jpg, or both"),
    (["neighbors", "--data", "digits", "--k", "0", "--out", "a.csv"], "k 0 must be at least 1"),
    (["duplicates", "--data", "digits", "--out", "a.txt"], "out a.txt must end with .csv, .parquet"),
    (["duplicates", "--data", "digits", "--sheet", "a.pdf"], "sheet a.pdf must end with .jpg, .jpeg, .png, .webp"),
    (["duplicates", "--data", "digits", "--out", "a.csv", "--threshold", "1.5"], "threshold 1.5 must be above 0 and"),
    (["duplicates", "--data", "digits", "--embeddings", "a.npz", "--out", "a.csv"], "take the images either from"),
    (["duplicates", "--embeddings", "a.npz", "--out", "a.csv"], "there is no file a.npz: make it with adco embed"),
    (["recipes", "cifar10_dmo"], "recipe 'cifar10_dmo' is neither a file nor a recipe"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    *before, line = captured.err.splitlines()
    announced = ("adco: starting", "adco: reading ", "adco: training images: ")
    assert [said for said in before if not said.startswith(announced)] == []
    assert line.startswith("adco: ")
    assert message in line
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipes.names()
    assert all(len(line.split()) > 3 for line in lines)
    assert cli.run(["recipes", "cifar10_demo"]) == 0
    assert capsys.readouterr().out == recipes.find("cifar10_demo").read_text()


def test_print_config_is_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--epochs=7", "--temperature", "0.3", "--symmetric", "--accelerator", "cpu", "--print-config"]
    assert cli.run(["pretrain", "digits", *flags]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    given = pretrain_settings(data="digits", epochs=7, temperature=0.3, symmetric=True, accelerator="cpu")
    expected = resolve(given, open_source("digits"))
    assert values == to_dict(expected)
    assert (values["image_size"], values["adversaries"]) == (8, 1024)  # of 1 442 images of 8 px
    assert pretrain_settings(**values) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["knn", "run", "--k", "3"],
        ["knn", "--k", "3", "run"],
        ["--k=3", "--floors", "knn", "run"],
        ["--data", "linear", "--floors", "false", "knn", "--k", "3", "run"],
    ],
)
def test_flags_may_stand_anywhere(arguments: list[str]) -> None:
    parser = Parser([EvaluateSettings, KNN], "adco evaluate", "")
    parser.add_argument("kind")
    parser.add_argument("run", nargs="?")
    flags = parser.read_flags(arguments)
    assert (flags.kind, flags.run, flags.k) == ("knn", "run", 3)
    assert flags.floors is ("--floors" in arguments and "false" not in arguments)


@pytest.mark.parametrize("data", ["imagenet", "cifar10"])
def test_print_config_without_the_data_is_the_settings_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    monkeypatch.setenv("ADCO_DATA", str(tmp_path / "empty"))
    assert cli.run(["pretrain", "--recipe", "cifar10_demo", "--data", data, "--epochs=7", "--print_config"]) == 0
    captured = capsys.readouterr()
    expected = pretrain_settings("cifar10_demo", epochs=7, data=data)
    assert yaml.safe_load(captured.out) == to_dict(expected)
    assert captured.err == f"# data {data} is not on this machine: null and auto are chosen where it is\n"
    assert list(tmp_path.iterdir()) == []


def test_a_flag_goes_over_the_recipe_even_with_the_defaults_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: 3\nseed: 5\ndata: cifar10\n")
    epochs = AdCoSettings().epochs
    assert cli.run(["pretrain", "digits", "--recipe=mine.yaml", f"--epochs={epochs}", "--print_config"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["epochs"], values["seed"], values["data"]) == (epochs, 5, "digits")


def test_flags_are_spelled_with_hyphens_or_underscores(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for flags in (["--batch-size", "32", "--image-size=6"], ["--batch_size", "32", "--image_size=6"]):
        assert cli.run(["pretrain", "digits", *flags, "--print-config"]) == 0
        found.append(yaml.safe_load(capsys.readouterr().out))
    assert found[0] == found[1]
    assert (found[0]["batch_size"], found[0]["image_size"]) == (32, 6)


@pytest.mark.parametrize("method", METHODS)
def test_help_of_pretrain_names_every_method_and_setting(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pretrain", "--method", method, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in METHODS)
    assert all(f"\n  --{name} " in out for name in pretrain_parser(method).names)
    for flag, of_method in (("--adversaries N", "adco"), ("--queue N", "moco"), ("--predictor_hidden N", "simsiam")):
        assert (flag in out) == (method == of_method)


def test_help_says_what_is_chosen_for_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pretrain", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    words = out[out.index("--batch_size") : out.index("--accumulate")]
    assert words.endswith("(default: chosen for your data) ")
    assert out.index("--minutes") < out.index("at least one --batch_size")  # nothing is chosen for it
    assert "--seed N seed of all random numbers: weights, order of the images, views (default: 0)" in out
    assert not any(word in out for word in ("null", "None", "SUPPRESS", "Literal"))


def test_help_with_data_says_what_is_chosen_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pretrain", "digits", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert cli.run(["pretrain", "digits", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in ("batch_size", "optimizer", "learning_rate", "adversaries"):
        words = out[out.index(f" --{name} ") :]
        assert words.index(f"(default: chosen for your data, now: {config[name]})") < words.index(" --", 1)
    assert f"(default: auto, now: {config['precision']})" in out
    assert f"(default: chosen for your data, now: {config['image_size']})" in out
    for other in (["no/such/folder"], ["digits", "--batch_size", "9999"], ["--resume", "no/such/run"]):
        assert cli.run(["pretrain", *other, "--help"]) == 0
        assert "now:" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m adco pretrain --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("141", "")


def test_a_closed_output_is_no_error() -> None:
    command = f"{sys.executable} -m adco --version >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_that_of_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "adco", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"adco {version('adco')}\n")
    assert adco.__version__ == version("adco")


@pytest.mark.slow
def test_the_commands_do_what_python_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", "digits", "--epochs", "1", "--hidden", "16", "--adversaries", "64", "--knn_images", "0"]
    small = ["--backbone_args", "{layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}", "--batch_size", "360"]
    assert cli.run(["pretrain", *flags, *small, "--accelerator", "cpu"]) == 0
    captured = capsys.readouterr()
    path = Path(captured.out.strip())
    assert path.parent == Path("runs")
    assert RunDirectory.open(path).backbone.is_file()
    assert any(line.startswith("epoch 1/1  loss ") for line in captured.err.splitlines())
    assert cli.run(["evaluate", "knn", "--floors"]) == 0  # of the newest run
    out = capsys.readouterr().out
    result = json.loads((path / "results" / "knn-digits.json").read_text())
    assert all(f"{scores['top1']:.1f}" in out for scores in (result, *result["floors"].values()))
    assert result == adco.evaluate("knn", path, floors=True)


def test_a_stop_and_a_loss_that_is_no_number_have_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code, words in [
        (Interrupted(15, RunDirectory(Path("runs/a"))), 143, "continue with: adco pretrain --resume runs/a"),
        (Interrupted(2, RunDirectory(Path("runs/a"))), 130, "continue with: adco pretrain --resume runs/a"),
        (KeyboardInterrupt(), 130, "adco: stopped"),
        (NotFiniteError(7, {"loss": 0.0}), 1, "the last good checkpoint, if there was one, is kept"),
    ]:

        def stopped(error: BaseException = error, **settings: object) -> None:
            raise error

        monkeypatch.setattr(api, "pretrain", stopped)
        assert cli.run(["pretrain", "--data", "digits"]) == code
        starting, line = capsys.readouterr().err.splitlines()
        assert starting == "adco: starting …"
        assert line.startswith("adco: ")
        assert line.endswith(words)


def test_what_an_interrupt_leaves_half_made_says_nothing() -> None:
    code = """
from adco import api
from adco.cli import main as cli
class HalfMade:
    def __del__(self):
        self.missing
def stopped(**settings):
    half_made = HalfMade()
    raise KeyboardInterrupt
api.pretrain = stopped
cli.run(["pretrain", "--data", "digits"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "adco: starting …\nadco: stopped\n"


@pytest.mark.slow
def test_the_start_is_announced_before_torch_is_imported() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "adco", "pretrain"]
    err = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert err.index("adco: starting …") < err.index("torch")
    assert err.count("adco: starting …") == 1


def test_a_dry_run_prints_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--backbone_args", "{layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}", "--hidden", "16"]
    assert cli.run(["pretrain", "--data", "digits", "--dry-run", "--accelerator=cpu", *small]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["images", "steps", "method", "backbone", "device", "time", "memory"]
    assert list(tmp_path.iterdir()) == []


def test_lines_go_to_stderr_as_it_is_when_they_are_logged() -> None:
    code = """
import contextlib, io, logging
from adco.cli import main as cli
cli._configure_output()
logging.getLogger("adco").info("first")
logging.getLogger("adco.progress").info("epoch 1/2")
with contextlib.redirect_stderr(io.StringIO()) as other:
    logging.getLogger("adco").info("second")
print(other.getvalue(), end="")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("adco: second\n", "adco: first\nepoch 1/2\n")


@pytest.mark.slow
def test_the_installed_command_exits_with_the_code(tmp_path: Path) -> None:
    code = "from adco.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "pretrain", "--epoch", "3"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "adco: starting …\nadco: unknown flag --epoch: did you mean --epochs?\n"
    assert list(tmp_path.iterdir()) == []


def test_the_same_warning_from_two_places_is_printed_once() -> None:
    code = """
import warnings
from adco.cli import main as cli
cli._configure_output()
warnings.warn("images are enlarged")
warnings.warn("images are enlarged")
warnings.warn("another")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["adco: warning: images are enlarged", "adco: warning: another"]
