"""Time and memory of the two-player loss and both gradients: one pass over blocks against the published formulation.

    python benchmarks/loss.py

The benchmark compares, for N = 256 queries of width D = 128 in float32:

- published: the authors' formulation: the logits of keys and adversaries in one [N, N + K] matrix, its softmax at each
  temperature, three products, and the adversaries' gradient written out by hand
- autograd: the same formula with both gradients by autograd
- ours: `adversarial_info_nce` and one backward
- ours, bf16: the same under bf16 autocast, where the processor multiplies bf16
- products: only its three matrix products, without any softmax

Times are medians of calls in turns. Memory is the peak growth of the resident set beyond the inputs and their two
gradients, in a separate process for each formulation (Linux only).
"""

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from adco.adversaries import adversarial_info_nce
from adco.comparison.timing import relative_time
from adco.losses.contrastive import info_nce
from measure import in_turns, save, show

N, D, TAU, TAU_ADV = 256, 128, 0.12, 0.02
ROUNDS = 9


def inputs(k: int) -> list[Tensor]:
    """Return random queries, keys and adversaries."""
    torch.manual_seed(0)
    queries, keys, adversaries = (F.normalize(torch.randn(number, D)) for number in (N, N, k))
    return [queries.requires_grad_(), keys, adversaries.requires_grad_()]


def published(queries: Tensor, keys: Tensor, adversaries: Tensor) -> None:
    """Compute the encoder's gradient by autograd and the adversaries' by hand, as the authors' release does."""
    with torch.no_grad():
        norms = adversaries.norm(dim=1, keepdim=True)
        unit = adversaries / norms
    logits = torch.cat([queries @ keys.T, queries @ unit.T], dim=1)  # [N, N + K]
    encoder = F.cross_entropy(logits / TAU, torch.arange(N))
    queries.grad = torch.autograd.grad(encoder, queries, retain_graph=True)[0]
    adversaries.grad = published_gradient(logits, queries, unit, norms, TAU_ADV)


@torch.no_grad()
def published_gradient(logits: Tensor, queries: Tensor, unit: Tensor, norms: Tensor, temperature: float) -> Tensor:
    """Return Σ p (q − (q·â) â) / (N τ ‖A‖) from the logits [N, N + K] of keys and adversaries."""
    number = len(queries)
    p = (logits / temperature).softmax(dim=1)[:, number:]  # [N, K]
    gradient = p.T @ queries - (p * logits[:, number:]).sum(0)[:, None] * unit
    return gradient / norms / (number * temperature)


def autograd(queries: Tensor, keys: Tensor, adversaries: Tensor) -> None:
    """Compute both gradients of the plain formula by autograd."""
    unit = F.normalize(adversaries)
    encoder = info_nce(queries, keys, unit.detach(), temperature=TAU)
    adversary = info_nce(queries.detach(), keys, unit, temperature=TAU_ADV)
    queries.grad, adversaries.grad = torch.autograd.grad(encoder + adversary, (queries, adversaries))


def ours(queries: Tensor, keys: Tensor, adversaries: Tensor) -> None:
    """Compute both gradients in one pass over blocks."""
    loss = adversarial_info_nce(queries, keys, adversaries, temperature=TAU, adversary_temperature=TAU_ADV)
    queries.grad, adversaries.grad = torch.autograd.grad(loss.encoder + loss.adversary, (queries, adversaries))


def ours_bf16(queries: Tensor, keys: Tensor, adversaries: Tensor) -> None:
    """Compute the same with products of bf16 values."""
    with torch.autocast("cpu", torch.bfloat16):
        ours(queries, keys, adversaries)


@torch.no_grad()
def products(queries: Tensor, keys: Tensor, adversaries: Tensor) -> None:
    """Compute the three matrix products: the cosines, and the products that give each player's gradient."""
    cosines = queries @ adversaries.T
    queries.grad, adversaries.grad = cosines @ adversaries, cosines.T @ queries


CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {
    "published": published,
    "autograd": autograd,
    "ours": ours,
    "ours, bf16": ours_bf16,
    "products": products,
}


def extra_memory(name: str, k: int) -> float:
    """Return the MB used beyond inputs and gradients, measured in a separate process."""
    gradients = 4 * D * (N + k) / 2**20
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grown, (name, k)) - gradients


def _grown(name: str, k: int) -> float:
    CALLS[name](*inputs(64))  # warm up, so that torch's own allocations do not count
    rows = inputs(k)
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    before = _highest_resident_kilobytes()
    CALLS[name](*rows)
    return (_highest_resident_kilobytes() - before) / 1024


def _highest_resident_kilobytes() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def main() -> None:
    figures = {}
    for k in (8192, 65536):
        rows = inputs(k)
        seconds = in_turns({name: partial(call, *rows) for name, call in CALLS.items()}, ROUNDS)
        memory = {name: extra_memory(name, k) for name in CALLS}
        table = []
        for name, times in seconds.items():
            figure = {
                "milliseconds": 1e3 * sorted(times)[len(times) // 2],
                "published_over_this": relative_time(seconds["published"], times),
                "this_over_products": relative_time(times, seconds["products"]),
                "extra_megabytes": memory[name],
            }
            figures[f"{name}, K {k}"] = figure
            table.append([name, *(f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in figure.values())])
        show(f"K = {k}", ["", "ms", "published / this", "this / products", "extra MB"], table)
    save("loss", {"N": N, "D": D, "figures": figures})


if __name__ == "__main__":
    main()
