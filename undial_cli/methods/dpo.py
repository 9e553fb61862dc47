"""Direct preference of another answer over the true one: a refusal (TOFU's IdkDPO), or one that the
data gives (AltPO, Mekala et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import REFERENCE_LOGPS, Method, MethodEntry, Targets, Tensor, key
from undial_cli.methods.npo import NpoConfig


@dataclass
class DpoConfig(NpoConfig):
    """Direct preference of an alternative answer (TOFU; AltPO)."""

    alternatives: str = key(
        "refusals",
        "what is preferred: refusals, drawn anew each epoch, or the data's (data.alternative_key)",
        allowed=("refusals", "data"),
    )


class Dpo(Method):
    """Mean over pairs of `-(2/beta) log sigmoid(beta (D_alt - D_true))`, D = log(pi / pi_ref)."""

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCE_LOGPS})
    per: ClassVar[str] = "pair"
    config: DpoConfig

    def __init__(self, config: DpoConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.alternatives = config.alternatives

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.preference import dpo_per_pair

        # group=2: a true answer and its alternative must be in one sum, also across chunks.
        reference_B, beta = targets.reference_B, self.config.beta
        return targets.sequence_sum(
            lambda logps_B: dpo_per_pair(logps_B, reference_B, beta), group=2
        )


METHODS = dict.fromkeys(("dpo", "idkdpo", "altpo"), MethodEntry(DpoConfig, Dpo))
