"""UnDIAL: distil the model into itself with the target token's logit lowered (arXiv 2402.10052)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from undial_cli.losses.fused import undial_sum
from undial_cli.methods.base import TEACHER_LOGITS, Focus, Method, Targets
from undial_cli.methods.configs import FundialConfig


class Undial(Method):
    """Mean over target tokens of the cross entropy against the lowered teacher."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def weights(self, targets: Targets) -> Tensor | None:
        """The weight of each target [N]; None: all 1."""
        return None

    def sum(self, targets: Targets) -> Tensor:
        return undial_sum(
            targets.hidden_ND,
            targets.head,
            *targets.teacher,
            targets.targets_N,
            self.config.strength,
            self.weights(targets),
        )


class Fundial(Undial):
    """Focused: weighted sum over the target tokens, divided by their number, not by the weights."""

    def __init__(self, config: FundialConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.focus = Focus(config.focus, config.spacy_model)

    def weights(self, targets: Targets) -> Tensor:
        hard = self.config.focus_mode == "hard"
        inside, outside = (1.0, 0.0) if hard else (self.config.focus_coeff, 1.0)
        return torch.where(targets.focus_N, inside, outside)
