"""A forget gradient that does the retain set no harm: projected off its gradient where it would.

GRU, Wang et al. 2025, arXiv 2503.09117. Over all trained weights as one vector. Knows no trainer
and no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from undial_cli.training.sharpness import SHORTEST, sum_products


class GradientRectifier:
    """The moving average of the retain gradient, and the projection off it.

    `mean`: by trained parameter, from the first step on; None for one without a gradient.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing
        self.mean: list[Tensor | None] = []

    def average_retain(self, retain: Sequence[Tensor | None]) -> list[Tensor | None]:
        """`m = smoothing g_r + (1 - smoothing) m`, m at first 0: only its direction matters."""
        if self.smoothing == 1:
            return list(retain)
        if not self.mean:
            self.mean = [None if g is None else torch.zeros_like(g) for g in retain]
        for mean, gradient in zip(self.mean, retain, strict=True):
            if mean is not None and gradient is not None:
                mean.mul_(1 - self.smoothing).add_(gradient, alpha=self.smoothing)
        return self.mean

    def rectify(self, forget: Sequence[Tensor | None], retain: Sequence[Tensor | None]) -> None:
        """In place, `g_f - min(0, <g_f, m>) / |m|^2 m`: the nearest vector with `<., m> >= 0`."""
        mean = self.average_retain(retain)
        against = sum_products(forget, mean).clamp(max=0)
        share = against / sum_products(mean, mean).clamp(min=SHORTEST)
        for gradient, direction in zip(forget, mean, strict=True):
            if gradient is not None and direction is not None:
                gradient.sub_(direction * share.to(direction.dtype))

    def list_tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The moving average by the names of the trained parameters."""
        return {
            name: mean.contiguous()
            for name, mean in zip(names, self.mean, strict=bool(self.mean))
            if mean is not None
        }

    def load_tensors(self, tensors: dict[str, Tensor], names: Sequence[str]) -> None:
        """Go on from a moving average that was saved."""
        self.mean = [tensors.get(name) for name in names]
