"""UnDIAL: distil the model into itself with the target token's logit lowered (arXiv 2402.10052).

`strength=auto` is this project's own: each target token is lowered just so far that the teacher
gives it what it gives it under other questions, which is what language alone says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import as_float
from undial_cli.config.methods import AUTO_STRENGTH
from undial_cli.methods.base import (
    PRIOR_LOGPS,
    TEACHER_LOGITS,
    FocusSource,
    Method,
    MethodConfig,
    MethodEntry,
    OtherQuestions,
    Targets,
    Tensor,
    key,
)


@dataclass
class UndialConfig(MethodConfig):
    """UnDIAL (Dong et al., NAACL 2025)."""

    strength: Any = key(
        10.0,
        "lowers the target token's teacher logit by this much; auto: to what other questions give",
        minimum=0,
        word=AUTO_STRENGTH,
    )
    auto_questions: int = key(16, "of strength=auto: other questions asked per answer", minimum=1)
    auto_limit: float = key(10.0, "of strength=auto: lowers no logit by more than this", above=0)

    def __post_init__(self) -> None:
        self.strength = as_float(self.strength)


class Undial(Method):
    """Mean over target tokens of the cross entropy against the lowered teacher."""

    def __init__(self, config: UndialConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        if config.strength == AUTO_STRENGTH:
            self.other_questions = OtherQuestions("method.strength=auto", config.auto_questions)

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset({TEACHER_LOGITS, *([PRIOR_LOGPS] if self.other_questions else [])})

    def weights(self, targets: Targets) -> Tensor | None:
        """The weight of each target [N]; None: all 1."""
        return None

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.undial import undial_sum

        lowers_to_prior = self.other_questions is not None
        strength = self.config.auto_limit if lowers_to_prior else self.config.strength
        return undial_sum(targets, strength, self.weights(targets), lowers_to_prior)


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
