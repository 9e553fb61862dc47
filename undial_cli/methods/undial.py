"""UnDIAL: distil the model into itself with the target token's logit lowered (arXiv 2402.10052)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import (
    TEACHER_LOGITS,
    FocusSource,
    Method,
    MethodConfig,
    MethodEntry,
    Targets,
    Tensor,
    key,
)


@dataclass
class UndialConfig(MethodConfig):
    """UnDIAL (Dong et al., NAACL 2025)."""

    strength: float = key(10.0, "lowers the target token's teacher logit by this much", minimum=0)


class Undial(Method):
    """Mean over target tokens of the cross entropy against the lowered teacher."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def weights(self, targets: Targets) -> Tensor | None:
        """The weight of each target [N]; None: all 1."""
        return None

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.undial import undial_sum

        return undial_sum(targets, self.config.strength, self.weights(targets))


@dataclass
class FundialConfig(UndialConfig):
    """Focused UnDIAL (the same paper)."""

    focus: str = key(
        "column",
        "what the loss sits on: words in data.focus_key, or what a spaCy pipeline finds",
        allowed=("column", "entities", "noun_chunks"),
    )
    spacy_model: str | None = key(None, "spaCy pipeline: en_core_web_sm, or a folder")
    focus_mode: str = key("soft", "hard: other tokens weigh 0; soft: 1", allowed=("hard", "soft"))
    focus_coeff: float = key(10.0, "weight of a focus token, soft", above=0)


class Fundial(Undial):
    """Focused: weighted sum over the target tokens, divided by their number, not by the weights."""

    def __init__(self, config: FundialConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.focus = FocusSource(config.focus, config.spacy_model)

    def weights(self, targets: Targets) -> Tensor:
        import torch

        hard = self.config.focus_mode == "hard"
        inside, outside = (1.0, 0.0) if hard else (self.config.focus_coeff, 1.0)
        return torch.where(targets.focus_N, inside, outside)


METHODS = {
    "undial": MethodEntry(UndialConfig, Undial),
    "fundial": MethodEntry(FundialConfig, Fundial),
}
