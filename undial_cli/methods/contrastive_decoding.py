"""Contrastive decoding: nothing is unlearned in weights; what a model that memorised the forget set
says more likely is taken off the target's logits (the CD baseline of arXiv 2402.10052)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from undial_cli import contrastive
from undial_cli.losses.fused import cross_entropy_sum
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import ContrastiveDecodingConfig


class ContrastiveDecoding(Method):
    """Cross entropy on the forget set makes the memorised model; it is saved beside the target."""

    from_start: ClassVar[bool] = True
    contrasts: ClassVar[bool] = True
    config: ContrastiveDecodingConfig

    def sum(self, targets: Targets) -> Tensor:
        return cross_entropy_sum(targets.hidden_ND, targets.head, targets.targets_N)

    def finish(self, checkpoint: Path, start: Path | None) -> None:
        contrastive.store(checkpoint, start, self.config.coefficient)
