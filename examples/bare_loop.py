"""The adversaries and their loss in a training loop of your own, without the rest of the package.

python examples/bare_loop.py
"""

import torch
from torch import nn

from adco import Adversaries, adversarial_info_nce


def train(steps: int = 100, batch_size: int = 64) -> list[float]:
    """Train a small encoder on noisy copies of random vectors, and return the encoder's loss of each step."""
    torch.manual_seed(0)
    vectors = torch.randn(1024, 32)
    encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
    adversaries = Adversaries(num_adversaries=256, dim=16)
    optimizer = torch.optim.SGD(
        [
            {"params": encoder.parameters()},
            {"params": adversaries.parameters(), "lr": 0.3, "maximize": True},  # they ascend their loss
        ],
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )
    losses = []
    for _ in range(steps):
        batch = vectors[torch.randint(len(vectors), (batch_size,))]
        queries, keys = (
            nn.functional.normalize(encoder(batch + 0.3 * torch.randn_like(batch))) for _ in range(2)
        )  # [N, D] each
        loss = adversarial_info_nce(
            queries, keys.detach(), adversaries.weight, temperature=0.12, adversary_temperature=0.1
        )
        optimizer.zero_grad()
        (loss.encoder + loss.adversary).backward()  # neither loss has a gradient for the other player
        optimizer.step()
        losses.append(loss.encoder.item())
    return losses


if __name__ == "__main__":
    found = train()
    print(f"encoder's loss: {found[0]:.2f} at first, {sum(found[-10:]) / 10:.2f} at the end")
