"""Primal-dual unlearning: flat logits on the forget set under a bound on the retain loss (Entesari
et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class PduConfig(MethodConfig):
    """Primal-dual unlearning (Entesari et al. 2025)."""

    retain: str = key("gdr", "retain term that is constrained", allowed=("gdr", "klr"))
    alpha: float = key(100.0, "the multiplier's start", above=0)
    dual_step: float = key(1.0, "step of the multiplier", minimum=0)
    eps: float = key(0.3, "retain loss that is tolerated, nats", minimum=0)
    dual_warmup_epochs: float = key(5.0, "epochs before the multiplier moves", minimum=0)


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
        # Dual ascent on `L_r <= eps`: the multiplier rises while the retain loss is above eps, and
        # stays at 0 or above: a negative one would reward forgetting the retain set.
        if epoch > self.config.dual_warmup_epochs:
            violation = losses["retain"] - self.config.eps
            self.multiplier = max(0.0, self.multiplier + self.config.dual_step * violation)

    def state_dict(self) -> dict[str, float]:
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.multiplier = state["multiplier"]

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.tokens import pdu_forget_per_position

        return targets.logits_sum(lambda logits_NV, _: pdu_forget_per_position(logits_NV))
