"""Where a forget gradient is taken: at the weights moved up its own slope (SAM), or at random.

Fan et al. 2025, arXiv 2502.05374. The moves are over all trained weights as one vector, and alike
on every process. Knows no trainer and no loss.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

# A gradient that is shorter points nowhere.
SHORTEST = 1e-30


@contextlib.contextmanager
def displace_weights(
    parameters: Sequence[nn.Parameter], moves: Iterable[Tensor | None]
) -> Iterator[None]:
    """While open, each weight is moved; afterwards it is what it was, bit for bit."""
    before: list[Tensor] = []
    try:
        with torch.no_grad():
            for parameter, move in zip(parameters, moves, strict=True):
                before.append(parameter.clone())
                if move is not None:
                    parameter.add_(move)
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in zip(parameters, before, strict=False):
                parameter.copy_(weight)


def make_ascent(gradients: list[Tensor | None], radius: float) -> Iterator[Tensor | None]:
    """SAM's moves, `radius * g / |g|`, |g| the length of all together; the list is emptied."""
    length = sum_products(gradients, gradients).sqrt().clamp(min=SHORTEST)
    for i, gradient in enumerate(gradients):
        gradients[i] = None  # or it would lie beside the weights that are kept
        yield None if gradient is None else gradient * (radius / length).to(gradient.dtype)


def draw_moves(
    parameters: Sequence[nn.Parameter], deviation: float, seed: int, step: int, sample: int
) -> Iterator[Tensor]:
    """Normal moves, fixed by what is given: alike on every process and in a resumed run."""
    generators: dict[torch.device, torch.Generator] = {}
    for parameter in parameters:
        device = parameter.device
        if device not in generators:
            drawn = random.Random(f"{seed} {step} {sample}").getrandbits(63)
            generators[device] = torch.Generator(device).manual_seed(drawn)
        noise = torch.randn(
            parameter.shape, dtype=parameter.dtype, device=device, generator=generators[device]
        )
        yield noise.mul_(deviation)


def sum_products(ones: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> Tensor:
    """The inner product of two vectors in parts, summed in float64: a scalar."""
    total: Tensor | None = None
    for one, other in zip(ones, others, strict=True):
        if one is None or other is None:
            continue
        wide = torch.promote_types(one.dtype, torch.float32)
        product = (one.to(wide) * other.to(wide)).sum().double()
        total = product if total is None else total + product
    return torch.zeros((), dtype=torch.float64) if total is None else total
