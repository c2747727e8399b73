import math
import re
from dataclasses import fields, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

import adco
from adco.config import recipes, versions
from adco.config.commands import (
    DuplicatesSettings,
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    NeighborsSettings,
    ProbeSettings,
    ReportSettings,
)
from adco.config.keywords import (
    DuplicatesKeywords,
    EmbedKeywords,
    EvaluateKeywords,
    ExportKeywords,
    FinetuneKeywords,
    NeighborsKeywords,
    PretrainKeywords,
    ProbeKeywords,
    ReportKeywords,
)
from adco.config.load import NAMES_ELSEWHERE, Parser, build, pretrain_parser, pretrain_settings, read_recipe
from adco.config.pretrain import Crop, to_dict
from adco.config.registry import METHODS
from adco.evaluation.registry import EVALUATIONS, evaluation_of
from adco.finetuning.config import finetune_parser, finetune_settings
from adco.methods.adco import AdCoSettings
from adco.methods.query_key import BatchNorm
from adco.runs.directory import RunDirectory

OF_OTHER_COMMANDS = [name for name in recipes.names() if name.endswith("_table5") or name.startswith("finetune_")]


def test_nothing_given_is_the_defaults() -> None:
    assert pretrain_settings() == AdCoSettings()
    assert build(Parser([EvaluateSettings], "adco evaluate", ""), {}) == [EvaluateSettings()]


def test_the_keywords_of_python_are_the_settings_and_their_types() -> None:
    evaluations = [Parser([EvaluateSettings, evaluation_of(name)], "adco evaluate", "") for name in EVALUATIONS]
    cases: list[tuple[Any, list[Parser]]] = [
        (PretrainKeywords, [pretrain_parser(method) for method in METHODS]),
        (EvaluateKeywords, evaluations),
        (EmbedKeywords, [Parser([EmbedSettings], "adco embed", "")]),
        (ProbeKeywords, [Parser([ProbeSettings], "adco probe", "")]),
        (FinetuneKeywords, [finetune_parser()]),
        (ReportKeywords, [Parser([ReportSettings], "adco report", "")]),
        (NeighborsKeywords, [Parser([NeighborsSettings], "adco neighbors", "")]),
        (DuplicatesKeywords, [Parser([DuplicatesSettings], "adco duplicates", "")]),
        (ExportKeywords, [Parser([ExportSettings], "adco export", "")]),
    ]
    for keywords, parsers in cases:
        types: dict[str, set[Any]] = {}
        for parser in parsers:
            for name, kind in parser.types.items():
                types.setdefault(name, set()).add(str if name == "method" else kind)
        for name in {"data", "out", "weights", "sheet", "embeddings", "query", "against"} & types.keys():
            types[name].add(Path)
        expected = {name: reduce(or_, kinds) for name, kinds in types.items()}
        hints = get_type_hints(keywords, localns={"BatchNorm": BatchNorm, "Crop": Crop})
        hints.pop("protocol", None)  # of earlier versions
        if keywords is PretrainKeywords:
            assert hints.pop("data") is Any  # images from Python, too
            del expected["data"]
        if keywords is EmbedKeywords:  # data is an argument of its own; the others are for files
            for name in ("data", "out", "devices"):
                del expected[name]
        if keywords in (NeighborsKeywords, DuplicatesKeywords):
            del expected["data"]  # an argument of its own
        assert hints == expected


@pytest.mark.parametrize("name", [name for name in recipes.names() if name not in OF_OTHER_COMMANDS])
def test_every_recipe_of_the_package_holds(name: str) -> None:
    settings = pretrain_settings(name)
    settings.check()
    for key, value in read_recipe(name).items():
        assert to_dict(settings)[key] == value
    assert recipes.find(name).read_text().startswith("# ")
    assert recipes.summary(name)


@pytest.mark.parametrize(
    ("name", "share", "rates"),
    [("finetune_imagenet_1pct", 0.01, (5, 0.02)), ("finetune_imagenet_10pct", 0.1, (0.2, 0.01))],
)
def test_the_recipes_of_fine_tuning_have_the_published_constants(
    name: str, share: float, rates: tuple[float, float]
) -> None:
    """Those of SwAV's eval_semisup.py and its README."""
    settings = finetune_settings(name)
    settings.check()
    assert settings.learning_rate is not None
    assert (settings.learning_rate, settings.learning_rate * settings.backbone_rate) == pytest.approx(rates)
    assert (settings.label_share, settings.epochs, settings.batch_size, settings.weight_decay) == (share, 20, 8 * 32, 0)
    assert (settings.optimizer, settings.schedule, settings.head) == ("sgd", "steps", "random")
    assert (settings.crop_scale, settings.jitter, settings.flip_probability) == ((0.08, 1.0), 0, 0.5)
    assert recipes.summary(name)


def test_values_go_over_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("# Mine\nepochs: 7\ntemperature: 0.3\nsmall_crops: [[96, 0.1, 0.2]]\ncrop_scale: [0.1, 0.9]\n")
    expected = AdCoSettings(epochs=7, temperature=0.5, small_crops=[(96, 0.1, 0.2)], crop_scale=(0.1, 0.9))
    for given in (recipe, str(recipe)):
        assert pretrain_settings(given, temperature=0.5) == expected
    assert recipes.summary(str(recipe)) == "Mine"


def test_the_length_of_a_run_replaces_that_of_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    for text, given in (("minutes: 2", {"epochs": 3}), ("epochs: 7", {"minutes": 2.0})):
        recipe.write_text(text)
        settings = pretrain_settings(recipe, **given)
        assert (settings.epochs, settings.minutes) == (given.get("epochs", 200), given.get("minutes", math.inf))
    recipe.write_text("epochs: 7\nminutes: 2")
    with pytest.raises(ValueError, match="minutes 2 chooses the epochs, but epochs 7 is given: leave one out"):
        pretrain_settings(recipe)


def test_a_configuration_of_an_earlier_version_is_a_recipe_of_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: adco\ndata: digits")
    assert to_dict(pretrain_settings(tmp_path / "config.yaml"))["projector_norm"] is None
    (tmp_path / "environment.json").write_text("{}")
    assert to_dict(pretrain_settings(tmp_path / "config.yaml"))["projector_norm"] is False


def test_python_types_are_as_good_as_text() -> None:
    settings = pretrain_settings(
        data=Path("photos"), crop_scale=(0.3, 1), backbone_args={"layers": [1, 1, 1, 1]}, small_crops=[[96, 0.1, 0.2]]
    )
    assert (settings.data, settings.crop_scale) == ("photos", (0.3, 1.0))
    assert settings.backbone_args == {"layers": [1, 1, 1, 1]}
    assert isinstance(settings, AdCoSettings)
    assert settings.small_crops == [(96, 0.1, 0.2)]


def test_a_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    settings = AdCoSettings(
        data="photos",
        backbone_args={"channels": [16, 64], "act_layer": "gelu"},
        small_crops=[(96, 0.086, 0.429)],
        final_learning_rate=6e-4,
        learning_rate=1e-7,
        devices=2,
        workers=None,
        channels_last=False,
        precision="bf16-mixed",
    )
    run = RunDirectory.create(tmp_path / "run")
    run.write_config(to_dict(settings))
    assert pretrain_settings(**run.read_config()) == settings
    assert pretrain_settings(run.config) == settings
    assert pretrain_settings(run.config, out="other") == replace(settings, out="other")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown setting epoch: did you mean epochs?"),
        ({"temprature": 3}, "unknown setting temprature: did you mean temperature?"),
        ({"zzzz": 3}, "unknown setting zzzz; see --help"),
        ({"lr": 0.1}, "unknown setting lr: it is called learning_rate here"),
        ({"pretrained": True}, "unknown setting pretrained: give --weights pretrained"),
        ({"method": "mocov9"}, "method 'mocov9' must be one of adco"),
    ],
)
def test_an_unknown_word_names_the_nearest(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        pretrain_settings(**values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"),
        ("epochs", 1.5),
        ("epochs", None),
        ("learning_rate", "fast"),
        ("precision", "8-bit"),
        ("batch_norm", "layer"),
        ("symmetric", 3),
        ("crop_scale", [0.5]),
        ("crop_scale", [0.1, 0.2, 0.3]),
        ("mean", 0.5),
        ("small_crops", [[96, 0.1]]),
        ("small_crops", 96),
        ("backbone_args", [1]),
        ("data", 3.5),
    ],
)
def test_a_wrong_type_is_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as raised:
        pretrain_settings(**{name: value})
    assert not any(word in str(raised.value) for word in ("\n", "<class", "Union", "NoneType", "typing"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", "many", "batch_size many must be a whole number$"),
        ("minutes", "long", "minutes long must be a number$"),
        ("minutes", "", "minutes '' must be a number$"),
        ("batch_size", "", "batch_size '' must be a whole number$"),
        ("optimizer", "adam", "optimizer adam must be one of sgd, muon, adamw, lars$"),
        ("mean", 0.5, "mean 0.5 must be a list as --help shows it$"),
    ],
)
def test_what_a_type_allows_is_said_in_words(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain_settings(**{name: value})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'cifar10_dmo' is neither a file nor a recipe .*: did you mean cifar10_demo"):
        pretrain_settings("cifar10_dmo")
    with pytest.raises(ValueError, match=r"recipe '\?' is neither a file nor a recipe .*: there are .*cifar10_demo"):
        pretrain_settings("?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- epochs\n- 3", "must contain settings, one per line"),
        ("epochs 3", "must contain settings, one per line"),
        ("", "must contain settings, one per line"),
        ("epohcs: 3", "unknown setting epohcs: did you mean epochs"),
        ("3: 4", "recipe .*recipe.yaml must contain settings, one per line: name: value; 3 is not a name"),
        ("method: [a]", "method \\['a'\\] must be one of adco"),
        ("momentum: 0.9\nema_decay: 0.99", "momentum is the old name of ema_decay, and both are given"),
        ("method: simclr\nmomentum: 0.9", "unknown setting momentum"),
        ("command: finetune\nepochs: 3", "recipe .*recipe.yaml is for adco finetune, not for adco pretrain"),
        ("head: random", "recipe .*recipe.yaml is for adco finetune, not for adco pretrain"),
        ("rows: {a: {}}", "recipe .*recipe.yaml is for adco compare, not for adco pretrain"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_broken_recipe_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        pretrain_settings(path)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="is not valid YAML"):
        pretrain_settings(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--epoch=3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--qqqqqqqq"], "unknown flag --qqqqqqqq; see --help"),
        (["--epochs"], "expected one argument"),
        (["--epochs", "x"], "epochs"),
        (["photos"], "photos"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        pretrain_parser("adco").read_flags(flags)
    assert "\n" not in str(raised.value)


def test_every_setting_is_a_flag() -> None:
    parser = pretrain_parser("adco")
    assert parser.names == [field.name for field in fields(AdCoSettings)]
    flags = parser.read_flags(["--epochs", "3", "--crop_scale", "[0.1, 0.5]", "--symmetric", "--warm_start", "false"])
    assert (flags.epochs, flags.crop_scale, flags.symmetric, flags.warm_start) == (3, (0.1, 0.5), True, False)
    assert parser.read_flags(["--workers", "null"]).workers is None
    assert parser.read_flags(["--learning_rate", "1e-3"]).learning_rate == 0.001


def test_a_file_is_a_recipe_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text(yaml.safe_dump({"epochs": 3}))
    assert pretrain_settings("mine").epochs == 3


def test_no_data_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"^data is missing: give a folder of images \(adco pretrain photos/\) or one of"
    ):
        adco.pretrain(epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES_ELSEWHERE)
def test_foreign_names_lead_to_flags_of_the_command(name: str) -> None:
    parser = pretrain_parser("adco")
    extra = {"resume", "recipe"}  # of the command, not settings
    assert NAMES_ELSEWHERE[name] in {*parser.names, *extra}
    assert name not in parser.names


def test_a_broken_configuration_of_a_run_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{}")
    path = tmp_path / "config.yaml"
    for text, message in (
        ("method: [a]", "method ['a'] must be one of adco"),
        ("3: 4", "3 is not a name"),
        ("test_image_size: 32\ntest_size: 64", "test_size is the old name of test_image_size, and both are given"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            pretrain_settings(path)


@pytest.fixture
def _not_yet_warned() -> None:
    versions._warn_of_old_name.cache_clear()


@pytest.mark.usefixtures("_not_yet_warned")
def test_names_of_earlier_versions_are_accepted_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="setting momentum is now called ema_decay"):
        by_keyword = pretrain_settings(momentum=0.5)
    with pytest.warns(FutureWarning, match="setting test_size is now called test_image_size"):
        by_flag = pretrain_parser("adco").read_flags(["--test-size", "24"])
    assert (vars(by_keyword)["ema_decay"], by_flag.test_image_size) == (0.5, 24)
    with pytest.raises(ValueError, match="unknown setting ema_decay"):
        pretrain_settings(method="simclr", ema_decay=0.5)


@pytest.mark.usefixtures("_not_yet_warned")
def test_an_old_name_is_warned_of_once_where_the_caller_wrote_it() -> None:
    with pytest.warns(FutureWarning) as caught, pytest.raises(ValueError, match="data is missing"):
        adco.pretrain(momentum=0.5)  # type: ignore[call-arg]
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(ValueError, match="data is missing"):  # a second warning would be an error
        adco.pretrain(momentum=0.5)  # type: ignore[call-arg]


def test_a_setting_is_not_given_under_both_its_names() -> None:
    message = "momentum is the old name of ema_decay, and both are given: leave momentum out"
    with pytest.raises(ValueError, match=message):
        pretrain_settings(momentum=0.5, ema_decay=0.6)
    with pytest.raises(ValueError, match=message):
        pretrain_parser("adco").read_flags(["--ema-decay=0.6", "--momentum", "0.5"])


@pytest.mark.filterwarnings("ignore:setting momentum is now called ema_decay")
@pytest.mark.parametrize(("in_recipe", "given"), [("momentum", "ema_decay"), ("ema_decay", "momentum")])
def test_a_value_goes_over_the_recipe_under_either_name(tmp_path: Path, in_recipe: str, given: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"{in_recipe}: 0.5")
    assert vars(pretrain_settings(recipe, **{given: 0.6}))["ema_decay"] == 0.6


def test_a_setting_that_the_method_lacks_is_named_as_it_was_given() -> None:
    with pytest.raises(ValueError, match="unknown setting momentum"):
        pretrain_settings(method="simclr", momentum=0.5)
    with pytest.raises(ValueError, match="unknown flag --momentum"):
        pretrain_parser("simclr").read_flags(["--momentum", "0.5"])


def test_none_is_the_default_where_it_was_in_earlier_versions() -> None:
    assert pretrain_settings(class_level=None, minutes=None, out=None, epochs=7) == AdCoSettings(epochs=7)
