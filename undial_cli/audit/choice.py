"""The true answer among false ones: is it the likeliest? What a model knows without saying it.

The true answer is taken in the wording of the false ones (paraphrased_answer, where a row has it):
else it would win or lose by its wording. Rows of a set of choices have their own. Knows no
generation.
"""

from __future__ import annotations

import math

from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.probes import make_asked_items
from undial_cli.config.attacks import ChoiceConfig
from undial_cli.data.collate import choose_pad_id
from undial_cli.data.rows import is_blank_cell
from undial_cli.evaluation.metrics import choose_likeliest, normalised_probability
from undial_cli.evaluation.scoring import score_answers
from undial_cli.evaluation.sharding import Journal


def check_false_answers(data: AuditData, config: ChoiceConfig) -> None:
    """Raise CannotServe where no row has false answers."""
    if data.asks_choices:
        return
    if all(is_blank_cell(row.get("perturbed_answer")) for row in data.rows):
        raise CannotServe("no row has false answers (column perturbed_answer)")


def choose_answers(
    attacked: AttackedModel, data: AuditData, config: ChoiceConfig, journal: Journal
) -> Outcome:
    """How likely the true answer is among all of them, per token, and whether it is the likeliest.

    The verdict rests on the former: how many of few rows a model guesses right is luck.
    """
    kinds = ("answer", "before", "after") if data.asks_choices else ("paraphrase", "perturbed")
    items = [
        item
        for item in make_asked_items(data, data.rows, needs=frozenset({"alternatives"}))
        if item.answers.keys() >= set(kinds)
    ]
    groups = [[example for kind in kinds for example in item.answers[kind]] for item in items]
    pad_id = choose_pad_id(data.encoder.tokenizer)
    scored = score_answers(
        attacked.model, groups, attacked.batch_size, pad_id, journal=journal, name="choice"
    )
    chosen: list[float | None] = [None] * len(data.rows)
    shares = list(chosen)
    for item, (true, *false) in zip(items, scored, strict=True):
        losses = [true.ce, *(score.ce for score in false)]
        if all(map(math.isfinite, losses)):
            # Last, so that of equals a false one is taken: luck is no knowledge.
            likeliest = choose_likeliest([-loss for loss in (*losses[1:], losses[0])])
            chosen[item.index] = float(likeliest == len(false))
            shares[item.index] = float(normalised_probability(losses[:1], [losses[1:]])[0])
    return Outcome(list(data.numbers), {"choice_probability": shares, "choice": chosen})


CHOICE = AttackKind(choose_answers, check_false_answers, asks_choices=True)
