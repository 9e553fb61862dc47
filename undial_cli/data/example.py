"""One sequence of token ids, and which of them a loss looks at. Knows no row and no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.losses.positions import IGNORE


@dataclass(frozen=True)
class Example:
    """One sequence: `labels[i]` is `input_ids[i]` where it is a target, else -100 (unshifted).

    `answer_end` is the position after the last answer's last token, before its end token. `focus`
    are the positions of the targets that lie in a span to focus on. `cut`: targets beyond
    `data.max_length`, which the sequence no longer holds. `end`: the end token of the last answer,
    whether cut or not; None where none belongs there.
    """

    input_ids: list[int]
    labels: list[int]
    answer_end: int
    focus: tuple[int, ...] = ()
    cut: int = 0
    end: int | None = None

    @property
    def num_targets(self) -> int:
        """Target tokens that a causal model can predict (the first position has no predictor)."""
        return count_targets(self.labels[1:])

    @property
    def answer_tokens(self) -> int:
        """Target tokens of answers, the end token of the last one left out."""
        return count_targets(self.labels[: self.answer_end])

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens before the first target, what generation starts from; [] without a target."""
        first = next((i for i, label in enumerate(self.labels) if label != IGNORE), 0)
        return self.input_ids[:first]


def count_targets(labels: list[int]) -> int:
    """How many labels are targets."""
    return len(labels) - labels.count(IGNORE)
