"""Muon against NumPy and against its idea: U Vᵀ of the momentum."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from adco.models.vectors import vectors
from adco.optim.optimizers import MuonSGD, make_optimizer
from adco.optim.players import Player


def numpy_muon(weight: np.ndarray, gradients: list[np.ndarray], lr: float, decay: float, momentum: float) -> np.ndarray:
    """Jordan et al. 2024 with the step size of Liu et al. 2025, one matrix [out, in], in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    average = np.zeros_like(weight)
    for gradient in gradients:
        average = momentum * average + gradient
        x = gradient + momentum * average
        x = x / np.linalg.norm(x)
        for _ in range(5):
            square = x @ x.T
            x = a * x + (b * square + c * square @ square) @ x
        weight = weight - lr * (0.2 * np.sqrt(max(x.shape)) * x + decay * weight)
    return weight


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (8, 3, 3, 3)])
def test_three_steps_equal_numpys(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    start = weight.detach().clone()
    gradients = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    optimizer = MuonSGD([{"params": [weight], "orthogonal": True, "weight_decay": 0.1}], lr=0.05, momentum=0.8)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    expected = numpy_muon(start.flatten(1).numpy(), [g.flatten(1).numpy() for g in gradients], 0.05, 0.1, 0.8)
    np.testing.assert_allclose(weight.detach().flatten(1).numpy(), expected, atol=1e-12)


def test_all_directions_move_about_equally_far() -> None:
    """However unequal the gradient's are: singular values of the step are within 0.7 to 1.2 of its scale."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(40, 16, generator=generator, dtype=torch.float64))
    weight = nn.Parameter(torch.zeros(16, 40, dtype=torch.float64))
    weight.grad = left @ torch.logspace(0, -1.5, 16, dtype=torch.float64).diag() @ right.T
    MuonSGD([{"params": [weight], "orthogonal": True}], lr=1.0).step()
    step = -(left.T @ weight.detach() @ right) / (0.2 * 40**0.5)
    assert torch.allclose(step, step.diag().diag(), atol=1e-9)  # the gradient's own directions
    assert step.diag().min() > 0.65
    assert step.diag().max() < 1.25


def test_other_groups_are_sgds() -> None:
    """Also one that ascends beside an orthogonal group."""
    parameters = [nn.Parameter(torch.randn(5, 3)) for _ in range(2)]
    twins = copy.deepcopy(parameters)
    matrix = nn.Parameter(torch.randn(4, 4))

    def groups(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
        return [
            {"params": parameters[:1], "lr": 0.1, "weight_decay": 0.01},
            {"params": parameters[1:], "lr": 3.0, "maximize": True},
        ]

    muon = MuonSGD([*groups(parameters), {"params": [matrix], "orthogonal": True}], lr=1.0, momentum=0.9)
    sgd = torch.optim.SGD(groups(twins), lr=1.0, momentum=0.9)
    for _ in range(4):
        for mine, its in zip(parameters, twins, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        matrix.grad = torch.randn_like(matrix)
        muon.step()
        sgd.step()
    for mine, its in zip(parameters, twins, strict=True):
        assert torch.equal(mine, its)


def test_a_closure_gives_the_gradients() -> None:
    weight = nn.Parameter(torch.eye(4))
    optimizer = MuonSGD([{"params": [weight], "orthogonal": True}], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert weight.diag().lt(1).all()


@pytest.mark.parametrize("group", [{"params": [nn.Parameter(torch.ones(3))]}, {"params": [], "maximize": True}])
def test_what_cannot_be_orthogonal_is_refused(group: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="two or more dimensions"):
        MuonSGD([{**group, "orthogonal": True}], lr=0.1)


def test_lars_equals_numpy_and_spares_biases_and_norms() -> None:
    """Three steps of matrix and vector: the trust ratio and the decay are the matrix's alone (arXiv 1708.03888)."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    start = {name: parameter.detach().numpy().copy() for name, parameter in layer.named_parameters()}
    rate, decay, trust = 0.7, 0.1, 0.001
    player = Player(parameters=layer.parameters(), learning_rate=lambda step: rate, weight_decay=decay)
    optimizer, rates = make_optimizer("lars", [player])
    torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
    expected, velocity = dict(start), {name: np.zeros_like(value) for name, value in start.items()}
    for _ in range(3):
        for name, parameter in layer.named_parameters():
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient.clone()
            step = gradient.numpy()
            if step.ndim > 1:
                weight = expected[name]
                norms = np.linalg.norm(weight), np.linalg.norm(step)
                step = trust * norms[0] / (norms[1] + decay * norms[0] + 1e-8) * (step + decay * weight)
            velocity[name] = 0.9 * velocity[name] + step
            expected[name] = expected[name] - rate * velocity[name]
        optimizer.step()
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], atol=1e-12, err_msg=name)


def test_an_ascending_player_is_sgds_beside_muon_and_refused_by_lars() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    player = Player(parameters=[weight], learning_rate=lambda step: 1.0, weight_decay=0.0, maximize=True)
    optimizer, _ = make_optimizer("muon", [player])
    weight.grad = torch.full((2, 2), 0.25)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((2, 2), 1.25))
    with pytest.raises(ValueError, match="lars cannot maximize a loss: use sgd, muon or adamw"):
        make_optimizer("lars", [player])


def test_adamw_is_torchs_beside_an_ascending_player_of_sgd() -> None:
    """Vectors have no weight decay: biases, and those that the player names."""
    torch.manual_seed(0)
    layer, embedding = nn.Linear(4, 3).double(), nn.Parameter(torch.randn(1, 5, 4, dtype=torch.float64))
    adversaries = nn.Parameter(torch.randn(6, 2, dtype=torch.float64))
    theirs, theirs_embedding, theirs_adversaries = copy.deepcopy((layer, embedding, adversaries))
    players = [
        Player(
            parameters=[*layer.parameters(), embedding],
            learning_rate=lambda step: 0.01,
            weight_decay=0.1,
            vectors=frozenset([embedding]),
        ),
        Player(parameters=[adversaries], learning_rate=lambda step: 3.0, weight_decay=0.2, maximize=True),
    ]
    optimizer, rates = make_optimizer("adamw", players)
    torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
    references = [
        torch.optim.AdamW([theirs.weight], lr=0.01, weight_decay=0.1),
        torch.optim.AdamW([theirs.bias, theirs_embedding], lr=0.01, weight_decay=0.0),
        torch.optim.SGD([theirs_adversaries], lr=3.0, momentum=0.9, weight_decay=0.2, maximize=True),
    ]
    ours = [layer.weight, layer.bias, embedding, adversaries]
    others = [theirs.weight, theirs.bias, theirs_embedding, theirs_adversaries]
    for step in range(6):
        for mine, its in zip(ours, others, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        optimizer.step()
        for reference in references:
            reference.step()
        if step == 2:  # the state of a checkpoint is whole
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer, _ = make_optimizer("adamw", players)
            optimizer.load_state_dict(saved)
    for mine, its in zip(ours, others, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["muon", "lars", "adamw"])
def test_position_embeddings_and_tokens_are_no_matrices(name: str) -> None:
    """Nor are Swin's tables of relative positions, which are matrices by shape."""
    names = {"vit_tiny_patch16_224": ("pos_embed", "cls_token"), "swin_tiny_patch4_window7_224": ("bias_table",)}
    for network, embeddings in names.items():
        backbone = timm.create_model(network, num_classes=0)
        player = Player(
            parameters=backbone.parameters(),
            learning_rate=lambda step: 1.0,
            weight_decay=0.1,
            vectors=vectors(backbone),
        )
        optimizer, _ = make_optimizer(name, [player])
        special = {"muon": "orthogonal", "lars": "always_adapt", "adamw": "weight_decay"}[name]
        matrices = {id(weight) for group in optimizer.param_groups if group[special] for weight in group["params"]}
        for path, parameter in backbone.named_parameters():
            is_vector = parameter.ndim == 1 or path.endswith(embeddings)
            assert (id(parameter) in matrices) != is_vector, path


def test_the_vectors_of_a_cnn_are_its_biases_and_norms() -> None:
    backbone = timm.create_model("resnet18", num_classes=0)
    assert vectors(backbone) == {parameter for parameter in backbone.parameters() if parameter.ndim == 1}
