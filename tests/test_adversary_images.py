"""What the adversaries stand next to: the nearest images, those of the training data, at moments of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import adco
import tiny
from adco.data.sources.open import open_source
from adco.errors import InputError
from adco.evaluation.extract import batches_of, embed_batches
from adco.models.encoder import mlp
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory
from adco.runs.nearest_images import NearestImages, read_nearest, write_nearest
from adco.training.adversary_images import KEPT, MOMENTS, SAMPLE, nearest_images


def test_nearest_and_used_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    embeddings, directions = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(20, 5)),) * 2)
    directions = rng.permutation(directions)[:7]
    nearest, used = nearest_images(torch.tensor(embeddings), torch.tensor(directions))
    for number, direction in enumerate(directions):
        order = sorted(range(20), key=lambda image: -float(embeddings[image] @ direction))
        assert nearest[number].tolist() == order[:KEPT]
        hardest = [int(np.argmax([image @ other for other in directions])) for image in embeddings]
        assert int(used[number]) == hardest.count(number)


def test_moments_are_read_as_written_and_damage_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    moments = [NearestImages(step, rng.integers(0, 99, (4, 6)), rng.integers(0, 9, 4)) for step in (5, 12_345)]
    for moment in reversed(moments):
        write_nearest(tmp_path, moment)
    for found, moment in zip(read_nearest(tmp_path), moments, strict=True):
        assert found.step == moment.step
        np.testing.assert_array_equal(found.nearest, moment.nearest)
        np.testing.assert_array_equal(found.used, moment.used)
    content = (tmp_path / "00000005.npz").read_bytes()
    for kept in (0, 2, len(content) // 2, len(content) - 3):
        (tmp_path / "00000005.npz").write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"00000005\.npz is damaged"):
            read_nearest(tmp_path)
    assert read_nearest(tmp_path / "none") == []


@pytest.mark.slow
def test_the_last_moment_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    """Computed again from the weights that were saved, for the sample that is most of these hundred images."""
    run = RunDirectory(
        adco.pretrain(data="few", epochs=2, batch_size=20, seed=3, out=tmp_path / "run", **tiny.SETTINGS)
    )
    moments = read_nearest(run.adversaries)
    assert [moment.step for moment in moments] == sorted({max(1, round(10 * part / MOMENTS)) for part in range(7)})
    source = open_source("few")
    assert len(source) < SAMPLE
    state = read_checkpoint(run.checkpoint)["state_dict"]
    backbone, info = adco.load_backbone(run.backbone)
    batches = embed_batches(
        backbone,
        source,
        batches_of(len(source), 512),
        image_size=info.image_size,
        mean=info.mean,
        std=info.std,
        damaged={},
        progress=False,
    )
    features = torch.cat([values for _, values in batches])
    part = "encoder.projector."
    config = run.read_config()
    projector = mlp(features.shape[1], config["hidden"], config["dim"], batch_norm=True, output_norm=True).eval()
    projector.load_state_dict({key.removeprefix(part): x for key, x in state.items() if key.startswith(part)})
    with torch.no_grad():
        embeddings = F.normalize(projector(features))
    nearest, used = nearest_images(embeddings, F.normalize(state["adversaries.weight"]))
    last = moments[-1]
    np.testing.assert_array_equal(last.used, used.numpy())
    np.testing.assert_array_equal(last.nearest[:, 0], nearest[:, 0].numpy())
    assert last.step == 10
    assert last.used.sum() == len(source)
    assert last.nearest.shape == (len(state["adversaries.weight"]), KEPT)
    assert all(len(set(row)) == KEPT for row in last.nearest.tolist())


def test_methods_without_adversaries_write_nothing(tmp_path: Path) -> None:
    run = adco.pretrain(data="few", method="simclr", epochs=1, batch_size=20, out=tmp_path / "run", **tiny.SETTINGS)
    assert not (run / "adversaries").exists()
