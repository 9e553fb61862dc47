"""Primal-dual unlearning: flat logits on the forget set under a bound on the retain loss (Entesari
et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.fused import pdu_forget_sum
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import PduConfig


class Pdu(Method):
    """`gamma L_f + multiplier (L_r - eps)`; the multiplier follows the retain loss of each step."""

    adapts: ClassVar[bool] = True
    config: PduConfig

    def __init__(self, config: PduConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.multiplier = config.alpha

    def coefficient(self, term: str) -> float:
        return self.config.gamma if term == "forget" else self.multiplier

    def after_step(self, losses: dict[str, float], epoch: float) -> None:
        if epoch > self.config.dual_warmup_epochs:
            violation = losses["retain"] - self.config.eps
            self.multiplier = max(0.0, self.multiplier + self.config.dual_step * violation)

    def state_dict(self) -> dict[str, float]:
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.multiplier = state["multiplier"]

    def sum(self, targets: Targets) -> Tensor:
        return pdu_forget_sum(targets.hidden_ND, targets.head)
