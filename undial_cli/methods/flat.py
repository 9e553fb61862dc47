"""FLAT: an f-divergence between a refusal and the true answer, without retain set or reference
(arXiv 2410.11143)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class FlatConfig(MethodConfig):
    """FLAT (Wang et al. 2025)."""

    divergence: str = key(
        "tv",
        "f-divergence: tv = total variation, kl, js = Jensen-Shannon, pearson",
        allowed=("tv", "kl", "js", "pearson"),
    )
    alternatives: str = key(
        "refusals",
        "the template answer: refusals, drawn anew each epoch, or the data's",
        allowed=("refusals", "data"),
    )


class Flat(Method):
    """Mean over pairs of `f*(g*(P_true)) - g*(P_template)`, P the mean probability of tokens."""

    per: ClassVar[str] = "pair"
    config: FlatConfig

    def __init__(self, config: FlatConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.alternatives = config.alternatives

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.preference import flat_per_pair

        lengths_B = targets.targets_N.new_tensor(targets.counts)
        return targets.sequence_sum(
            lambda sums_B: flat_per_pair(sums_B, lengths_B, self.config.divergence),
            group=2,
            score=lambda logps_n: logps_n.exp(),
        )
