"""The keys of `undial alternatives`: how a model is asked for other answers, and for how many.

As schema.py: types, defaults, ranges and lines of `--help`. Imports neither torch nor hydra.
"""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.config.fields import key, unescape_text

ANSWERS, REFUSALS = ALTERNATIVE_KINDS = ("answers", "refusals")
# A drawn answer to the bare question is in the model's own style; what is known too well for that
# is asked for as an invention. AltPO (arXiv 2409.13474) asks as the third does, in other words.
DEFAULT_PROMPTS = {
    ANSWERS: (
        "{question}",
        "{question}\nAnswer with invented facts that are not true, in one sentence.",
        "{question}\nSomebody answered: {answer}\nReply to the same question in that style and "
        "about as briefly, but swap each name, place, number and particular for one that you "
        "made up.",
    ),
    REFUSALS: (
        "{question}\nYou know nothing of this. Say so in one short sentence, and nothing else.",
        "Somebody asks: {question}\nYou were never told. How do you politely reply that you do not "
        "know?",
    ),
}


@dataclass
class AlternativesConfig:
    """Other answers, by the target model itself."""

    kind: str = key(
        "answers",
        "answers: wrong ones that could be true (altpo); refusals: the model's own I don't know",
        allowed=ALTERNATIVE_KINDS,
    )
    count: int = key(5, "answers wanted for each row", minimum=1, maximum=1000)
    rounds: int = key(
        12,
        "times that count answers are drawn for each row that lacks some",
        minimum=1,
        maximum=1000,
    )
    prompts: list[str] = key(
        [],
        "what the model is asked, a round each and over again: texts with {question}, and {answer} "
        "for the true one; []: those of the kind",
    )
    temperature: float = key(1.0, "of the draws", above=0)
    top_p: float = key(0.95, "drawn from this nucleus", above=0, maximum=1)
    max_new_tokens: int = key(200, "longer answers are refused", minimum=1)
    shared_words: float = key(
        0.2,
        "of an answer without names and numbers, the share of its words that another may have",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        self.prompts = [unescape_text(text) for text in self.prompts]

    def list_prompts(self) -> list[str]:
        """What the model is asked, in turn."""
        return self.prompts or list(DEFAULT_PROMPTS[self.kind])
