import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import adco

ROOT = Path(__file__).parents[1]
README, REFERENCE = ROOT / "README.md", ROOT / "docs" / "reference.md"


def blocks() -> list[str]:
    """The README's pieces of Python."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_public_names_are_these() -> None:
    functions = """
        duplicates embed evaluate export finetune load_backbone load_classifier neighbors pretrain probe report
    """
    assert adco.__all__ == ["Adversaries", "adversarial_info_nce", *functions.split()]
    assert dir(adco) == adco.__all__


@pytest.mark.parametrize("name", adco.__all__)
def test_a_public_name_is_there_and_explained(name: str) -> None:
    thing = getattr(adco, name)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)


def test_the_reference_has_the_keys_of_the_records_and_the_extras() -> None:
    records = (ROOT / "benchmarks" / "results" / "cifar10_demo" / "metrics.jsonl").read_text().splitlines()
    keys = {key for record in records for key in json.loads(record)}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"`(\w+)`", REFERENCE.read_text()))
    assert keys - named == {"adversary_norm_mean", "adversary_norm_max"}  # named by their endings
    assert extras.keys() - named == {"dev", "docs"}


def test_another_name_is_missed_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'adco' has no attribute 'nothing'"):
        adco.nothing  # noqa: B018


def test_a_training_loop_of_ones_own() -> None:
    """The encoder descends and the adversaries ascend, with one backward and any optimizer."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(12, 8)
    adversaries = adco.Adversaries(64, dim=8)
    before = adversaries.weight.detach().clone()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9)
    ascent = torch.optim.SGD(adversaries.parameters(), lr=3.0, momentum=0.9, weight_decay=1e-4, maximize=True)
    images = torch.randn(32, 12)
    history = []
    for _ in range(30):
        first, second = (images + 0.1 * torch.randn_like(images) for _ in range(2))
        queries, keys = F.normalize(encoder(first)), F.normalize(encoder(second).detach())
        loss = adco.adversarial_info_nce(
            queries, keys, adversaries.weight, temperature=0.12, adversary_temperature=0.02
        )
        for player in (optimizer, ascent):
            player.zero_grad()
        torch.autograd.backward(loss.encoder + loss.adversary)
        for player in (optimizer, ascent):
            player.step()
        history.append(float(loss.encoder.detach()))
    assert min(history[-5:]) < history[0]
    assert (adversaries.weight.detach() != before).all()


def test_python_in_the_readme_is_python_and_names_what_is_there() -> None:
    assert blocks()
    for block in blocks():
        compile(block, "README.md", "exec")
        assert set(re.findall(r"\badco\.(\w+)", block)) <= set(adco.__all__)


def test_the_readmes_training_step_trains_both_players() -> None:
    (snippet,) = (block for block in blocks() if "adversarial_info_nce" in block)
    torch.manual_seed(0)
    encoder = torch.nn.Linear(12, 128)
    before = encoder.weight.detach().clone()
    names: dict[str, Any] = {
        "torch": torch,
        "encoder": encoder,
        "queries": F.normalize(encoder(torch.randn(16, 12))),
        "keys": F.normalize(torch.randn(16, 128)),
    }
    exec(snippet, names)
    adversaries = names["adversaries"].weight
    assert (encoder.weight != before).all()
    with torch.no_grad():
        harder = adco.adversarial_info_nce(
            names["queries"], names["keys"], adversaries, temperature=0.12, adversary_temperature=0.02
        )
    assert harder.adversary > names["loss"].adversary  # they ascend
