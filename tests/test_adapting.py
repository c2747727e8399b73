"""Training from weights: which parts are taken over, which are not trained, and with which learning rate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import adco
from adco.adversaries import Adversaries
from adco.errors import InputError
from adco.methods.adco import AdCo
from adco.methods.method import Method, MethodArguments
from adco.methods.moco import MoCo
from adco.models.backbone import BackboneInfo, build_backbone
from adco.models.continuing import copy_method
from adco.models.encoder import Encoder, mlp
from adco.models.freezing import freeze
from adco.models.reading import read_tensors
from adco.optim.optimizers import make_optimizer
from adco.optim.players import Schedule
from adco.runs.directory import RunDirectory
from tiny import SETTINGS

FEW: dict[str, Any] = {**SETTINGS, "data": "few", "epochs": 2, "batch_size": 32, "knn_images": 0}
INFO = BackboneInfo("resnet18", 16, (0.5,) * 3, (0.2,) * 3, SETTINGS["backbone_args"])


def method_of(kind: type[AdCo] | type[MoCo], seed: int, rate: float = 1.0, count: int = 24) -> Method:
    torch.manual_seed(seed)
    common = MethodArguments(schedule=Schedule(peak=0.1, final=0.0, warmup_steps=0, steps=10), backbone_rate=rate)
    encoder = Encoder(build_backbone(INFO), mlp(16, 32, 8))
    negatives: Any = Adversaries(count, 8) if kind is AdCo else torch.randn(count, 8)
    method = kind(encoder, negatives, common)
    for parameter in method.momentum_encoder.parameters():  # it lags behind the encoder
        nn.init.normal_(parameter)
    return method


def published(method: Method) -> dict[str, Any]:
    """Return a checkpoint as the published code of MoCo and AdCo saves it."""
    names = {
        "encoder.backbone.": "module.encoder_q.",
        "encoder.projector.": "module.encoder_q.fc.",
        "momentum_encoder.encoder.backbone.": "module.encoder_k.",
        "momentum_encoder.encoder.projector.": "module.encoder_k.fc.",
    }
    state = method.state_dict()
    network = {
        theirs + name.removeprefix(ours): tensor
        for ours, theirs in names.items()
        for name, tensor in state.items()
        if name.startswith(ours)
    }
    if isinstance(method, MoCo):
        queue = {"module.queue": state["queue"].T, "module.queue_ptr": state["oldest"][None]}
        return {"state_dict": network | queue, "arch": "resnet18"}
    return {"state_dict": network, "Memory_Bank": {"W": state["adversaries.weight"].T}, "best_acc": 0.0}


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {prefix[:-1]: content} if isinstance(content, torch.Tensor) else {}
    return {name: tensor for key, part in content.items() for name, tensor in flat(part, f"{prefix}{key}.").items()}


@pytest.mark.parametrize("count", [24, 8])  # also as many negatives as dimensions
@pytest.mark.parametrize("layout", [published, lambda method: {"state_dict": method.state_dict()}])
@pytest.mark.parametrize("kind", [AdCo, MoCo])
def test_a_checkpoint_is_taken_over_whole(
    kind: type[AdCo] | type[MoCo], layout: Callable[[Method], dict[str, Any]], count: int
) -> None:
    theirs, ours = method_of(kind, seed=1, count=count), method_of(kind, seed=2, count=count)
    if isinstance(theirs, MoCo):
        theirs.oldest += 5
    copy_method(ours, flat(layout(theirs)), "file")
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


def test_what_cannot_be_continued_is_one_line() -> None:
    ours = method_of(AdCo, seed=2)
    with pytest.raises(
        InputError, match=r"weights file cannot be continued by AdCo: they have no adversaries.weight; give"
    ):
        copy_method(ours, flat(published(method_of(MoCo, seed=1))), "file")
    checkpoint = published(method_of(AdCo, seed=1))
    checkpoint["Memory_Bank"]["W"] = torch.randn(8, 25)
    with pytest.raises(
        InputError, match=r"adversaries.weight is \[25, 8\] in them and \[24, 8\].*set --adversaries and"
    ):
        copy_method(ours, flat(checkpoint), "file")
    checkpoint["Memory_Bank"]["W"] = torch.full((8, 24), torch.nan)
    with pytest.raises(InputError, match=r"weights file are unusable: adversaries.weight has values that are not fin"):
        copy_method(ours, flat(checkpoint), "file")


@pytest.mark.slow
def test_a_continued_run_starts_where_the_other_ended_and_does_not_fill_its_adversaries_again(tmp_path: Path) -> None:
    first = RunDirectory(adco.pretrain(**FEW, out=tmp_path / "first"))
    ended = torch.load(first.checkpoint, weights_only=True)["state_dict"]
    second = RunDirectory(
        adco.pretrain(
            **FEW,
            weights=first.path,
            continue_method=True,
            learning_rate=1e-20,
            adversary_learning_rate=1e-20,
            weight_decay=0,
            out=tmp_path / "second",
        )
    )
    after = torch.load(second.checkpoint, weights_only=True)["state_dict"]
    for name in ("adversaries.weight", "encoder.backbone.conv1.weight", "encoder.projector.0.weight"):
        torch.testing.assert_close(after[name], ended[name], atol=1e-7, rtol=0)
    assert second.read_config()["backbone_rate"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("given", [{}, {"freeze": 1}, {"continue_method": True}])
def test_weights_are_read_once(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RunDirectory(adco.pretrain(**FEW, out=tmp_path / "first"))
    read = []

    def counted(path: Path) -> dict[str, torch.Tensor]:
        read.append(path)
        return read_tensors(path)

    for module in ("models.pretrained", "training.build"):
        monkeypatch.setattr(f"adco.{module}.read_tensors", counted)
    adco.pretrain(**FEW, weights=first.path, **given, out=tmp_path / "second")
    assert read == [first.checkpoint if "continue_method" in given else first.backbone]


@pytest.mark.slow
def test_frozen_stages_do_not_change_and_the_others_do(tmp_path: Path) -> None:
    first = adco.pretrain(**FEW, out=tmp_path / "first")
    second = adco.pretrain(**FEW, weights=first, freeze=2, out=tmp_path / "second")
    before, after = (adco.load_backbone(run / "backbone.safetensors")[0].state_dict() for run in (first, second))
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    named = {name for name in after if not name.endswith("num_batches_tracked")}
    frozen = {name for name in named if name.startswith(("conv1.", "bn1.", "layer1."))}
    assert frozen
    assert same & named == frozen
    momentum = torch.load(RunDirectory(second).checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(momentum[f"momentum_encoder.encoder.backbone.{name}"], before[name]) for name in frozen)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "regnety_002"])
def test_the_first_stages_of_other_networks_get_no_gradient(name: str) -> None:
    network = timm.create_model(name, num_classes=0)
    images = torch.randn(2, 3, 224, 224)
    freeze(network, 2, name)
    network(images).square().sum().backward()
    firsts = {
        "vit": ("patch_embed", "cls_token", "pos_embed", "blocks.0."),
        "con": ("stem.", "stages.0."),
        "reg": ("stem.", "s1."),
    }
    for parameter, weights in network.named_parameters():
        assert (weights.grad is None) == parameter.startswith(firsts[name[:3]]), parameter


def test_only_some_stages_can_be_frozen() -> None:
    with pytest.raises(InputError, match="freeze 5 must be at most 4: backbone resnet18 has 5 stages"):
        freeze(build_backbone(INFO), 5, "resnet18")


def test_stages_with_batch_norm_of_vectors_are_not_frozen() -> None:
    network = timm.create_model("levit_128s", num_classes=0)
    with pytest.raises(InputError, match="freeze 3 is not possible: backbone levit_128s has BatchNorm1d"):
        freeze(network, 3, "levit_128s")
    assert all(weights.requires_grad for weights in network.parameters())


def test_the_backbone_has_a_rate_of_its_own() -> None:
    """After one step of SGD without momentum so far, each weight has moved by its rate times its gradient."""
    method = method_of(AdCo, seed=0, rate=0.25)
    optimizer, rates = make_optimizer("sgd", method.players())
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group |= {"lr": rate(0), "weight_decay": 0.0}
    before = {name: weights.detach().clone() for name, weights in method.named_parameters()}
    for weights in method.encoder.parameters():
        weights.grad = torch.ones_like(weights)
    optimizer.step()
    for name, weights in method.encoder.named_parameters():
        moved = 0.1 * (0.25 if name.startswith("backbone.") else 1)
        torch.testing.assert_close(before[f"encoder.{name}"] - weights, torch.full_like(weights, moved))
