"""Cross-entropy unlearning: towards its own distribution without the target (arXiv 2503.01224)."""

from __future__ import annotations

from torch import Tensor

from undial_cli.losses.fused import ceu_sum
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import CeuConfig


class Ceu(Method):
    """Mean over target tokens but the first `skip` of each sequence."""

    config: CeuConfig

    def weight(self, counts: list[int]) -> int:
        return sum(max(0, count - self.config.skip) for count in counts)

    def sum(self, targets: Targets) -> Tensor:
        return ceu_sum(
            targets.hidden_ND,
            targets.head,
            targets.targets_N,
            targets.sequence_N,
            targets.counts,
            self.config.skip,
        )
