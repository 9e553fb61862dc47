"""Contrastive decoding: nothing is unlearned in weights; what a model that memorised the forget set
says more likely is taken off the target's logits (the CD baseline of arXiv 2402.10052)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class ContrastiveDecodingConfig(MethodConfig):
    """Contrastive decoding (the UnDIAL paper's CD)."""

    coefficient: float = key(
        1.0, "how much of the memorised model's surplus is taken off", minimum=0
    )


class ContrastiveDecoding(Method):
    """Cross entropy on the forget set makes the memorised model, saved along with the target."""

    from_start: ClassVar[bool] = True
    contrasts: ClassVar[bool] = True
    config: ContrastiveDecodingConfig

    def sum(self, targets: Targets) -> Tensor:
        return targets.token_sum(lambda logps_N: -logps_N)

    def finish(self, checkpoint: Path, start: Path | None) -> None:
        from undial_cli.models import contrastive

        contrastive.store_contrast(checkpoint, start, self.config.coefficient)
