"""Weights rounded to NF4 as a model is trained, and held where NF4 rounds them alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# The 16 levels of NF4: Dettmers et al., arXiv 2305.14314, appendix E.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])  # fmt: skip
BLOCK = 64


def list_linears(model: nn.Module) -> list[Any]:
    """The layers that are rounded: all linear ones but the head."""
    return [module for module in model.modules() if type(module) is nn.Linear]


def split_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in blocks of 64, each as shares of its largest; and those largest."""
    blocks = weight.detach().flatten().view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    return blocks / largest, largest


def find_levels(shares: Tensor) -> Tensor:
    """The nearest level of each."""
    return torch.bucketize(shares, (NF4[1:] + NF4[:-1]) / 2)


class Rounding(nn.Module):
    """A weight as NF4 has it, with the gradient of the weight itself."""

    def forward(self, weight: Tensor) -> Tensor:
        shares, largest = split_blocks(weight)
        rounded = (NF4[find_levels(shares)] * largest).view_as(weight)
        return weight + (rounded - weight).detach()


@contextlib.contextmanager
def round_linears(model: nn.Module) -> Iterator[None]:
    """A model that computes with rounded weights, and has them when it is done."""
    linear = list_linears(model)
    for layer in linear:
        parametrize.register_parametrization(layer, "weight", Rounding())
    yield
    for layer in linear:
        parametrize.remove_parametrizations(layer, "weight")  # leaves it rounded


def find_bounds(weight: Tensor) -> tuple[Tensor, Tensor]:
    """How far a weight may go without NF4 having it otherwise; a block's largest may not."""
    shares, largest = split_blocks(weight)
    level = find_levels(shares)
    middles = (NF4[1:] + NF4[:-1]) / 2
    low, high = torch.cat([NF4[:1], middles])[level], torch.cat([middles, NF4[-1:]])[level]
    room = 0.02 * (high - low)
    fixed = shares.abs() > 1 - 1e-6
    low, high = (torch.where(fixed, shares, b) for b in (low + room, high - room))
    return (low * largest).view_as(weight), (high * largest).view_as(weight)


def hold_rounding(model: nn.Module) -> tuple[list[Tensor], Callable[[], None]]:
    """The rounded weights, and what brings them back into the intervals that are rounded alike."""
    weights = [layer.weight for layer in list_linears(model)]
    bounds = [find_bounds(weight) for weight in weights]

    def stay() -> None:
        for weight, (low, high) in zip(weights, bounds, strict=True):
            weight.clamp_(low, high)

    return weights, stay
