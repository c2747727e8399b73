"""Fine-tuning: what is trained equals a plain loop, what is kept is the best epoch, and a stop changes nothing."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import adco
import tiny
from adco.cli import main as cli
from adco.data.damage import DamagedImage
from adco.data.loader import Order
from adco.data.sources.arrays import ArraySource
from adco.data.sources.folder import FolderSource
from adco.data.sources.open import open_splits
from adco.data.views import View, views_of
from adco.errors import InputError
from adco.evaluation.extract import extract_features
from adco.evaluation.linear import fit_linear_probe
from adco.finetuning.config import finetune_settings, settings_of
from adco.finetuning.images import divide
from adco.finetuning.module import Finetuning
from adco.finetuning.records import Records
from adco.finetuning.result import read_scores
from adco.finetuning.trainer import make_trainer
from adco.models.classifier import Classifier
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted, NotEnoughMemoryError, NotFiniteError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:only 60 test images")]

FLIPLESS: dict[str, Any] = {"flip_probability": 0.0}  # mirrored diagonal stripes would be of another kind
ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "32-true", "optimizer": "sgd"}
SHORT: dict[str, Any] = {**FLIPLESS, **ON_CPU, "epochs": 3, "batch_size": 24, "validation_share": 0.2}
STEPS = 4  # per epoch: 96 images for training


def interrupt(*_: Any) -> None:
    """What Ctrl-C does to Python code."""
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("adco.finetuning.saving.plot_curves", lambda records, path: path.touch())


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return tiny.untrained_run(tmp_path / "start", data="stripes", seed=9).path


def records(run: Path, key: str) -> list[float]:
    return [float(record[key]) for record in RunDirectory(run).records() if key in record]


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results" / "finetune-stripes.json").read_text())
    return found


def same(first: Path, second: Path) -> bool:
    """Whether two files of weights have the same bits."""
    weights, others = load_file(first), load_file(second)
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def test_toy_images_are_learned(start: Path) -> None:
    run = adco.finetune(start, **{**SHORT, "epochs": 40, "batch_size": 16}, learning_rate=0.2)
    assert result(run)["top1"] > 80  # chance is 33
    assert result(run)["protocol"]["train_images"] == 96
    assert result(run)["protocol"]["validation_images"] == 24
    picture = run / "results" / "finetune-stripes_confusion.png"
    assert picture.is_file()
    assert run.parent == Path("runs")
    assert run.name.startswith("finetune-stripes-")


def plain_loop(
    model: nn.Module, source: ArraySource, view: View, rates: list[tuple[list[nn.Parameter], float]], **settings: Any
) -> None:
    """Train by PyTorch's SGD, with the order and the views that the loader is tested to give."""
    optimizer = torch.optim.SGD([{"params": part, "lr": 1.0} for part, _ in rates], momentum=0.9, weight_decay=0.1)
    labels, order = torch.as_tensor(source.labels), Order(len(source), batch_size=24, seed=settings["seed"])
    steps = settings["epochs"] * len(order)
    for epoch in range(settings["epochs"]):
        for ((position, _, indices),) in order:
            (views,) = views_of(source.load(indices), [view], settings["seed"], np.full(24, epoch), indices)
            images = ((views / 255 - 0.5) / 0.25).to(memory_format=torch.channels_last)
            for group, (_, rate) in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * position / steps))
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels[torch.from_numpy(indices)]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@pytest.mark.parametrize("backbone_rate", [0.0, 0.3])
def test_training_equals_a_plain_loop(start: Path, backbone_rate: float) -> None:
    """Also with a frozen backbone, whose BatchNorm statistics then stay as they are."""
    settings = {**SHORT, "validation_share": 0, "learning_rate": 0.01, "weight_decay": 0.1}
    run = adco.finetune(start, **settings, backbone_rate=backbone_rate, seed=3)
    backbone, info = adco.load_backbone(start / "backbone.safetensors")
    train = open_splits("stripes")[0]
    features = extract_features(backbone, train, image_size=8, mean=info.mean, std=info.std)
    probe = fit_linear_probe(features.features, features.labels, 3)
    head = nn.Linear(16, 3)
    with torch.no_grad():
        head.weight.copy_(probe.weight / probe.std)
        head.bias.copy_(probe.bias - (probe.weight * probe.mean / probe.std).sum(1))
    model = Classifier(backbone, head, train.classes, info).to(memory_format=torch.channels_last)
    (model.backbone.train() if backbone_rate else model.backbone.requires_grad_(False).eval())
    view = View(
        size=8,
        scale=(0.5, 1.0),
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0,
        jitter_probability=1,
        grayscale_probability=0,
        blur_probability=0,
        flip_probability=0,
    )
    rates = [(list(head.parameters()), 0.01)]
    rates += [(list(backbone.parameters()), 0.01 * backbone_rate)] if backbone_rate else []
    assert isinstance(train, ArraySource)
    plain_loop(model, train, view, rates, epochs=3, seed=3)
    found = load_file(run / "classifier.safetensors")
    for name, expected in model.state_dict().items():
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=2e-4), name
    assert same(run / "backbone.safetensors", start / "backbone.safetensors") == (backbone_rate == 0)
    assert result(run)["protocol"]["epoch"] == 3  # the last one, without images for validation


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send a signal to this process at a step, before any callback has seen the step."""
    receive = Records.on_train_batch_end

    def hook(records: Records, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        receive(records, trainer, *rest)

    monkeypatch.setattr(Records, "on_train_batch_end", hook)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    begun = tiny.untrained_run(folder / "start", data="stripes", seed=9).path
    return adco.finetune(begun, **SHORT, out=folder / "run")


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 2, 3 * STEPS])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    start: Path, whole: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, step)
        with pytest.raises(Interrupted) as stopped:
            adco.finetune(start, **SHORT, out="run")
    assert str(stopped.value) == "stopped and saved; continue with: adco finetune --resume run"
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    run = adco.finetune(resume="run")
    for file in ("classifier.safetensors", "backbone.safetensors"):
        assert same(run / file, whole / file)
    for key in ("loss", "validation_top1", "validation_loss"):
        assert records(run, key) == records(whole, key)
    ends = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for path in (run, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    assert result(run)["top1"] == result(whole)["top1"]


def test_a_run_in_double_precision_goes_on_with_the_same_bits(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = {**SHORT, "epochs": 2, "precision": "64-true"}
    whole = adco.finetune(start, **doubled, out="whole")
    with monkeypatch.context() as patched:
        stop_at(patched, STEPS)
        with pytest.raises(Interrupted):
            adco.finetune(start, **doubled, out="run")
    run = adco.finetune(resume="run")
    assert records(run, "validation_loss") == records(whole, "validation_loss")
    assert same(run / "classifier.safetensors", whole / "classifier.safetensors")


def test_a_result_that_is_gone_is_named(start: Path) -> None:
    with pytest.raises(InputError, match="results has no result of the fine-tuning"):
        read_scores(RunDirectory(start))


KILLED = """
import os, signal, sys
import tiny, adco
from adco.finetuning import records, saving
saving.plot_curves = lambda records, path: None
receive = records.Records.on_train_batch_end
def hook(self, trainer, *rest):
    if trainer.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    receive(self, trainer, *rest)
records.Records.on_train_batch_end = hook
adco.finetune("start", out="run", **{settings!r})
"""


def in_process(program: str) -> "subprocess.CompletedProcess[str]":
    paths = [str(Path(tiny.__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.fault("adco finetune is killed")
def test_a_run_that_was_killed_ends_with_the_same_bits(start: Path, whole: Path) -> None:
    assert in_process(KILLED.replace("{settings!r}", repr(SHORT))).returncode == -signal.SIGKILL
    assert not (Path("run") / "results").exists()
    run = adco.finetune(resume="run")
    assert same(run / "classifier.safetensors", whole / "classifier.safetensors")
    assert records(run, "validation_loss") == records(whole, "validation_loss")


def test_a_run_that_was_stopped_before_its_first_step_starts_again(
    start: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("adco.finetuning.run.start_head", interrupt)
        with pytest.raises(KeyboardInterrupt):
            adco.finetune(start, **SHORT, out="run")
    (Path("run") / "checkpoints").mkdir(parents=True, exist_ok=True)
    run = adco.finetune(resume="run")
    assert same(run / "classifier.safetensors", whole / "classifier.safetensors")


def test_the_same_line_begins_a_run_and_goes_on_with_it(
    start: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(Interrupted):
            adco.finetune(start, **SHORT, out="run", resume="auto")
    with pytest.raises(ValueError, match=r"^seed is 7, but the run in run began with 0: choose another --out"):
        adco.finetune(start, **{**SHORT, "seed": 7}, out="run", resume="auto")
    for _ in range(2):  # the second time, it is finished
        run = adco.finetune(start, **SHORT, out="run", resume="auto")
    assert same(run / "classifier.safetensors", whole / "classifier.safetensors")


def test_the_newest_run_is_fine_tuned_unless_it_is_one_of_fine_tuning() -> None:
    tiny.untrained_run(Path("runs") / "pretrained", data="stripes", seed=9)
    run = adco.finetune(**SHORT, out="elsewhere")
    assert settings_of(RunDirectory(run)).weights == "runs/pretrained"
    adco.finetune(**SHORT)
    with pytest.raises(ValueError, match="is of adco finetune itself: give the run to start from"):
        adco.finetune(**SHORT)


def save_colours() -> None:
    """Twenty images of each of three colours."""
    draw = np.random.default_rng(0)
    for channel, name in enumerate(["red", "green", "blue"]):
        Path("colours", name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 60, (12, 12, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(Path("colours", name, f"{number:02}.png"))


def test_the_labels_of_images_after_a_damaged_one_are_theirs(start: Path) -> None:
    """Three colours are learned without an error, although a file in the middle cannot be read."""
    save_colours()
    Path("colours", "green", "07.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="07.png"):
        run = adco.finetune(start, **{**SHORT, "epochs": 10}, data="colours", max_unreadable=0.1, learning_rate=0.05)
    scores = json.loads((run / "results" / "finetune-colours.json").read_text())
    assert scores["top1"] == 100


@pytest.mark.fault("damaged images are met in fine-tuning")
def test_images_that_turn_bad_later_are_counted(
    start: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, report: Callable[..., None]
) -> None:
    load = FolderSource.load

    def damaged(self: FolderSource, indices: Any) -> Any:
        for index in indices:
            if self.paths[index].name in ("03.png", "04.png"):
                raise DamagedImage(self.paths[index], "made so")
            yield from load(self, [index])

    save_colours()
    monkeypatch.setattr(FolderSource, "load", damaged)
    given: dict[str, Any] = {**SHORT, "data": "colours", "head": "random", "validation_share": 0.0, "epochs": 2}
    with pytest.warns(UserWarning, match="2 of 12 files .* left out of the evaluation: "):  # of the test images
        run = RunDirectory(adco.finetune(start, **given, max_unreadable=0.5))
    entries = json.loads((run.path / "unreadable.json").read_text())
    assert {Path(entry["file"]).name for entry in entries} == {"03.png", "04.png"}
    assert len(entries) == len(run.read_damaged()) == 4
    assert re.search(r"4 of 48 files in .*colours cannot be read; replaced by the next image: ", caplog.text)
    stops = r"^[1-4] of 48 files in .* above max_unreadable 0\.01: .*continue with adco finetune --resume run, or start"
    with pytest.raises(InputError, match=stops) as raised:
        adco.finetune(start, **given, max_unreadable=0.01, out="run")
    report(says=raised.value)


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = (whole / "classifier.safetensors").stat().st_mtime_ns
    assert adco.finetune(resume=whole) == whole
    assert (whole / "classifier.safetensors").stat().st_mtime_ns == before


def test_the_best_epoch_is_kept_and_training_stops_when_none_is_better(start: Path) -> None:
    run = adco.finetune(start, **{**SHORT, "epochs": 40}, learning_rate=0.3, patience=3, seed=1)
    top1, losses = records(run, "validation_top1"), records(run, "validation_loss")
    best = max(range(len(top1)), key=lambda epoch: (top1[epoch], -losses[epoch]))
    assert result(run)["protocol"]["epoch"] == best
    assert len(top1) == best + 3 + 1 < 41  # the start is epoch 0
    train, test = open_splits("stripes")
    validation = divide(train, test, settings_of(RunDirectory(run))).validation
    assert validation is not None
    classifier = adco.load_classifier(run)
    hits = classifier.predict(validation.load(range(len(validation)))).argmax(1).numpy() == validation.labels
    assert 100 * hits.mean() == pytest.approx(top1[best])
    assert top1[-1] <= top1[best]


def test_a_run_that_stopped_early_stays_so_when_it_is_resumed(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill while the test images are scored."""
    early = {**SHORT, "epochs": 40, "learning_rate": 0.3, "patience": 3, "seed": 1}
    with monkeypatch.context() as patched:
        patched.setattr("adco.finetuning.run.save_scores", interrupt)
        with pytest.raises(KeyboardInterrupt):
            adco.finetune(start, **early, out="run")
    before = records(Path("run"), "validation_loss")
    run = adco.finetune(resume="run")
    assert records(run, "validation_loss") == before
    assert RunDirectory(run).is_finished


def test_a_classifier_predicts_the_same_in_another_process(whole: Path) -> None:
    program = f"""
import json, tiny, adco
from adco.data.sources.open import open_splits
test = open_splits("stripes")[1]
classifier = adco.load_classifier({str(whole)!r})
print(json.dumps([classifier.classes, classifier.predict(test.load(range(len(test)))).tolist()]))
"""
    done = in_process(program)
    assert done.returncode == 0, done.stderr
    classes, probabilities = json.loads(done.stdout)
    test = open_splits("stripes")[1]
    classifier = adco.load_classifier(whole / "classifier.safetensors")
    assert classes == list(test.classes) == list(classifier.classes)
    assert torch.equal(torch.tensor(probabilities), classifier.predict(test.load(range(len(test)))))
    hits = np.array(probabilities).argmax(1) == test.labels
    assert 100 * hits.mean() == pytest.approx(result(whole)["top1"])


def test_predictions_are_softmax_of_normalised_images(whole: Path) -> None:
    classifier = adco.load_classifier(whole)
    images = open_splits("stripes")[1].load(range(5))
    assert isinstance(images, np.ndarray)
    inputs = torch.from_numpy((images / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected: Tensor = classifier(inputs).softmax(1)
    torch.testing.assert_close(classifier.predict(images), expected)
    assert not classifier.training


def test_the_linear_layer_starts_as_the_linear_probe(start: Path) -> None:
    """The classifier of epoch 0, at a learning rate that changes nothing."""
    run = adco.finetune(start, **{**SHORT, "epochs": 1}, learning_rate=1e-30)
    train, test = open_splits("stripes")
    parts = divide(train, test, settings_of(RunDirectory(run)))
    backbone, info = adco.load_backbone(start / "backbone.safetensors")
    found = extract_features(backbone, parts.train, image_size=8, mean=info.mean, std=info.std)
    unseen = extract_features(backbone, test, image_size=8, mean=info.mean, std=info.std).features
    expected = fit_linear_probe(found.features, found.labels, 3).scores(unseen).softmax(1)
    torch.testing.assert_close(
        adco.load_classifier(run).predict(test.load(range(len(test)))), expected, rtol=1e-4, atol=1e-5
    )


def test_few_labels_are_those_of_the_probe_and_the_rest_is_stratified(start: Path) -> None:
    train, test = open_splits("stripes")
    settings = finetune_settings(labels_per_class=10, seed=4, validation_share=0.2)
    parts = divide(train, test, settings)
    assert parts.validation is not None
    found = []
    for part, count in ((parts.train, 8), (parts.validation, 2)):
        assert part.labels is not None
        assert np.bincount(part.labels).tolist() == [count] * 3
        found.append({image.tobytes() for image in part.load(range(len(part)))})
    drawn = set()
    for label in range(3):
        members = np.flatnonzero(train.labels == label)
        key = np.random.SeedSequence((4, 0, label))
        chosen = members[np.random.Generator(np.random.Philox(key)).permutation(40)[:10]]
        drawn |= {image.tobytes() for image in train.load(chosen)}
    assert found[0] | found[1] == drawn
    assert not found[0] & found[1]


@pytest.mark.parametrize(("images", "held_out"), [(498, 0), (501, 99)])
def test_few_images_are_not_held_out(images: int, held_out: int) -> None:
    """With fewer than a hundred, the best epoch on them is chosen by chance."""
    source = ArraySource("grey", np.zeros((images, 8, 8, 3), np.uint8), np.arange(images) % 3, ("a", "b", "c"))
    parts = divide(source, source, finetune_settings())
    assert len(parts.validation or ()) == held_out
    assert len(parts.train) == images - held_out


def test_from_scratch_has_the_same_network_and_other_weights(start: Path) -> None:
    run = adco.finetune(start, **{**SHORT, "epochs": 1}, from_scratch=True, learning_rate=1e-30)
    again = adco.finetune(start, **{**SHORT, "epochs": 1}, from_scratch=True, learning_rate=1e-30, out="again")
    other = adco.finetune(start, **{**SHORT, "epochs": 1}, from_scratch=True, learning_rate=1e-30, out="other", seed=1)
    first = load_file(start / "backbone.safetensors")
    assert {name: x.shape for name, x in load_file(run / "backbone.safetensors").items()} == {
        name: x.shape for name, x in first.items()
    }
    assert same(run / "classifier.safetensors", again / "classifier.safetensors")
    weights = [load_file(path / "backbone.safetensors")["conv1.weight"] for path in (start, run, other)]
    assert not any(torch.equal(a, b) for a, b in ((weights[0], weights[1]), (weights[1], weights[2])))
    assert settings_of(RunDirectory(run)).head == "random"


def test_other_commands_take_the_fine_tuned_run(start: Path, whole: Path) -> None:
    scores = adco.evaluate("linear", whole)
    assert scores["images"] == 60
    by_file = adco.evaluate("linear", weights=whole / "backbone.safetensors", data="stripes", image_size=8)
    by_classifier = adco.evaluate("linear", weights=whole / "classifier.safetensors", data="stripes", image_size=8)
    assert scores["top1"] == by_file["top1"] == by_classifier["top1"]
    by_checkpoint = adco.evaluate("linear", whole / "checkpoints" / "last.ckpt")
    assert by_checkpoint["images"] == 60
    again = adco.finetune(recipe=whole / "config.yaml", out="again")
    assert same(again / "classifier.safetensors", whole / "classifier.safetensors")


def test_a_loss_that_is_no_number_ends_the_run(start: Path) -> None:
    with pytest.raises(NotFiniteError):
        adco.finetune(start, **SHORT, learning_rate=1e30, out="run")
    assert (Path("run") / "classifier.safetensors").is_file()  # of epoch 0


def test_a_full_memory_is_one_line(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSecond line")

    monkeypatch.setattr(Finetuning, "training_step", full)
    message = r"^the GPU's memory is full: 24 images of 8 px at once are too many: take a smaller --batch_size or --im"
    with pytest.raises(NotEnoughMemoryError, match=message):
        adco.finetune(start, **SHORT, out="run")


def test_the_gpu_that_is_named_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here: it shows in what Lightning is asked for."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr("adco.finetuning.trainer.evaluation_device", lambda device: device)
    monkeypatch.setattr("adco.training.trainer.make_trainer", lambda run, callbacks, **given: asked.update(given))
    settings: Any = finetune_settings(device="cuda:1", epochs=1)
    make_trainer(settings, RunDirectory(Path("run")), [], processes=1)
    assert (asked["accelerator"], asked["devices"]) == ("gpu", "1,")


def test_the_steps_are_those_of_swav() -> None:
    from adco.models.backbone import BackboneInfo

    settings = finetune_settings("finetune_imagenet_1pct")
    info = BackboneInfo("resnet18", 8, (0.5,) * 3, (0.25,) * 3)
    classifier = Classifier(nn.Linear(2, 2), nn.Linear(2, 2), ("a", "b"), info)
    module = Finetuning(classifier, torch.zeros(1), settings, steps=200)  # type: ignore[arg-type]  # resolved enough
    configured = module.configure_optimizers()
    rates = []
    for _ in range(200):
        rates.append([group["lr"] for group in configured["optimizer"].param_groups])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    expected = [5.0] * 120 + [1.0] * 40 + [0.2] * 40
    assert [head for head, _ in rates] == pytest.approx(expected)
    assert [backbone for _, backbone in rates] == pytest.approx([0.004 * rate for rate in expected])


WRONG: list[tuple[list[str], str]] = [
    (["--epochs", "0"], "epochs 0 must be at least 1"),
    (["--labels_per_class", "5", "--label_share", "0.1"], "labels_per_class 5 and label_share 0.1 both choose"),
    (["--from_scratch", "--head", "probe"], "head probe is of no use with from_scratch"),
    (["--batch_size", "500"], "batch_size 500 must be at most 120, the number of training images"),
    (["--data", "unlabelled"], "has no labels"),
    (["--data", "one"], "has no labels"),
    (["--device", "abacus"], "device abacus is not available"),
    (
        ["--device", "cpu:0", "--devices", "2"],
        "device cpu:0 is one device for 2 processes: leave --device out, or give",
    ),
    (["--image_size", "4", "--precision", "bf16-mixed"], "image_size 4 px: the network reduces them to one pixel"),
    (["--out", "start"], "out 'start' is not empty"),
    (["--optimizer", "adam"], "optimizer adam must be one of sgd, muon, adamw, lars"),
    (["--recipe", "start/config.yaml"], "recipe start/config.yaml is for adco pretrain, not for adco finetune"),
    (["--resume", "start"], "resume takes its settings from the run directory: leave out run"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line_and_leaves_nothing(
    start: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    for name in ("unlabelled/0.png", "unlabelled/1.png", "one/cat/0.png", "one/cat/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(name)
    assert cli.run(["finetune", str(start), *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert not Path("runs").exists()
    assert captured.out == ""


def test_a_run_is_resumed_by_its_own_command(start: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["finetune", "--resume", str(start)]) == 2
    assert f"{start} is not a run of adco finetune" in capsys.readouterr().err
    assert cli.run(["pretrain", "--resume", str(whole)]) == 2
    assert f"continue with adco finetune --resume {whole}" in capsys.readouterr().err


def test_a_resumed_run_needs_the_same_images(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 5)
        with pytest.raises(Interrupted):
            adco.finetune(start, **SHORT, out="run")
    config = (Path("run") / "config.yaml").read_text()
    (Path("run") / "config.yaml").write_text(config.replace("data: stripes", "data: few"))
    with pytest.raises(ValueError, match="data few has other images or classes than when run began: start a new run"):
        adco.finetune(resume="run")


def test_a_classifier_is_not_loaded_as_a_backbone(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a classifier: use adco\.load_classifier"):
        adco.load_backbone(whole / "classifier.safetensors")
    with pytest.raises(ValueError, match="has no class names: it is not a classifier of adco finetune"):
        adco.load_classifier(whole / "backbone.safetensors")
    with pytest.raises(ValueError, match=f"no classifier at {tmp_path}/nothing"):
        adco.load_classifier(tmp_path / "nothing")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        adco.load_classifier(tmp_path / "text")


def test_the_command_prints_the_scores(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--epochs", "1", "--batch-size", "24", "--device", "cpu", "--out", "run", "--labels_per_class", "10"]
    assert cli.run(["finetune", str(start), *flags, "--batch_size=24"]) == 0
    captured = capsys.readouterr()
    assert "finetune on stripes: 30 training and 60 test images, 3 classes" in captured.out
    assert f"{result(Path('run'))['top1']:.1f}" in captured.out
    assert "epoch 1/1  loss " in captured.err
