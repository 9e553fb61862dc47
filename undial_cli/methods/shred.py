"""SHRED: self-distillation without a retain set, the unlikeliest tokens lowered (arXiv 2605.07482).

Read were the abstract, and the authors' page with the grids that they searched; neither the paper's
formulas nor code. Taken from there: the choice of tokens, the K largest logits, the leading tokens
that are never lowered. Not verified: how far a logit is demoted (here as in UnDIAL), how the share
is rounded (here up), that demotion comes before the choice of K, and the divergence's direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import TEACHER_LOGITS, Method, MethodConfig, Targets, Tensor, key


@dataclass
class ShredConfig(MethodConfig):
    """SHRED (Hu et al. 2026)."""

    strength: float = key(10.0, "lowers the target token's teacher logit by this much", minimum=0)
    share: float = key(
        0.5, "of a sequence's targets, the unlikeliest, that are lowered", minimum=0, maximum=1
    )
    top_k: int = key(64, "largest logits of the teacher that are learnt", minimum=1)
    skip: int = key(0, "first targets of each sequence that are never lowered", minimum=0)


class Shred(Method):
    """Mean over target tokens of the KL divergence from the teacher's K largest logits."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})
    config: ShredConfig

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.shred import shred_sum

        config = self.config
        return shred_sum(targets, config.strength, config.share, config.top_k, config.skip)
