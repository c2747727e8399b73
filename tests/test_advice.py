"""A bad word is followed by flags that a run of that method has, with other values than it has now."""

import re
from typing import Any, get_args

import pytest

from adco.config.load import pretrain_settings
from adco.config.pretrain import to_dict
from adco.config.registry import METHODS
from adco.health.adversary_note import Note
from adco.health.advice import ADVICE, advice
from adco.health.verdict import Word

OF_ADCO = ("adversaries identical", "adversaries asleep")
GOOD = ("too early to say", "learning", "plateau", "finished")
CHOSEN = ("adversaries fixed",)  # by the user


def settings_of(method: str, **settings: Any) -> dict[str, Any]:
    """As resolved for a long run."""
    chosen: dict[str, Any] = {"learning_rate": 0.3, "precision": "bf16-mixed", "optimizer": "sgd"}
    if method in ("adco", "moco"):
        chosen |= {"projector_norm": False, "ema_decay": 0.999}
    if method == "adco":
        chosen["adversary_learning_rate"] = 3.0
    return to_dict(pretrain_settings(method=method, **chosen | settings))


def test_every_bad_word_has_advice_and_no_good_one() -> None:
    assert set(ADVICE) | set(GOOD) == set(get_args(Word)) | set(OF_ADCO)
    assert set(get_args(Note.__annotations__["word"])) == {*OF_ADCO, *CHOSEN}
    assert not set(ADVICE) & {*GOOD, *CHOSEN}


@pytest.mark.parametrize("word", sorted(ADVICE))
@pytest.mark.parametrize("method", METHODS)
def test_flags_are_of_the_method_and_their_values_allowed(word: str, method: str) -> None:
    if word in OF_ADCO and method != "adco":
        return
    values = settings_of(method)
    flags = re.findall(r"--(\w+) (\S+) \(now (\S+)\)", advice(word, values))
    assert 1 <= len(flags) <= 2
    for name, value, now in flags:
        assert str(values[name]).lower() in (now, f"{float(values[name])}" if now[0].isdigit() else now)
        tried = value if not re.fullmatch(r"[-+.e0-9]+", value) else type(values[name])(float(value))
        assert tried != values[name]
        pretrain_settings(**{**values, name: tried == "true" if tried in ("true", "false") else tried}).check()


def test_values_are_said_as_they_are_typed() -> None:
    found = advice("diverging", {"learning_rate": 0.03, "ema_decay": 0.999})
    assert found == "try --learning_rate 0.01 (now 0.03) or --ema_decay 0.99 (now 0.999)"
    assert advice("diverging", {"learning_rate": 0.03, "ema_decay": 0.9}) == "try --learning_rate 0.01 (now 0.03)"


def test_what_is_tried_already_is_not_advised() -> None:
    assert "projector_norm" in advice("collapsed", {"projector_norm": False, "learning_rate": 0.03})
    assert "projector_norm" not in advice("collapsed", {"projector_norm": True, "learning_rate": 0.03})
    assert advice("learning", {"learning_rate": 0.03}) == ""
