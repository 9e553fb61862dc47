"""Tells by a model's losses which rows it was trained on: six attacks, forget rows against holdout.

Of each row the share of holdout rows that the model knows less well, whose mean is the AUC as the
metrics of a suite have it (1: memorised, 0.5: not to be told apart), and whether the row would be
called a member at a false positive rate of 1 % and of 5 %. The holdout rows are taken as they are:
what other ones would have given is in no interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.audit.answers import score_probes
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.probes import Probe, make_direct_probes
from undial_cli.config.attacks import RETAIN, MembershipConfig
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evidence import Evidence
from undial_cli.evaluation.prompts import make_prompt_items
from undial_cli.evaluation.scoring import compute_gradient_norms
from undial_cli.evaluation.sharding import Journal

LOSS, REFERENCE, GRADIENT = "mia_loss", "mia_reference", "mia_gradnorm"
# False positive rates in percent at which members are called.
RATES = (1, 5)
SIDES = ("forget", "holdout")
Vector = NDArray[np.float64]
# Loss-like scores by attack, [N] each, None where there is none.
AttackScores = dict[str, list[float | None]]


def check_holdout(data: AuditData, config: MembershipConfig) -> None:
    """Raise CannotServe where there are no rows that no model saw."""
    if not data.holdout_rows:
        raise CannotServe(
            "this suite has no set of role holdout with rows: rows like the forget set's that no "
            "model was trained on"
        )


def attack_membership(
    attacked: AttackedModel, data: AuditData, config: MembershipConfig, journal: Journal
) -> Outcome:
    """Loss-like scores of forget and holdout rows, in `curves`; `compare_with_holdout` ends it."""
    forget = make_direct_probes(data)
    probes = dict(zip(SIDES, (forget, make_holdout_probes(data, config.holdout_rows)), strict=True))
    raw: dict[str, Any] = {"row": [probe.row for probe in forget]}
    for side, of_side in probes.items():
        raw[side] = score_members(attacked, data, of_side, config, journal, side)
    return Outcome(list(data.numbers), {}, curves=raw)


def make_holdout_probes(data: AuditData, limit: int | None) -> list[Probe]:
    """The holdout rows as the suite asks them; at most so many, spread over the set."""
    name, suite = str(data.holdout_set), data.suite
    count = len(data.holdout_rows)
    chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    items = make_prompt_items(
        data.encoder,
        name,
        suite.config.sets[name],
        [data.holdout_rows[i] for i in chosen],
        suite.rows[name].shots,
        {"answer"},
        suite.config.max_new_tokens,
    )
    return [Probe(item.index, item) for item in items]


def score_members(
    attacked: AttackedModel,
    data: AuditData,
    probes: list[Probe],
    config: MembershipConfig,
    journal: Journal,
    side: str,
) -> AttackScores:
    """The loss-like scores of answers, by all attacks but the one that needs another model."""
    model, name = attacked.model, f"membership-{side}"
    scores = score_probes(model, data, probes, attacked.batch_size, journal, name, True)
    norms: list[float | None] = [None] * len(probes)
    if GRADIENT in config.attacks:
        examples = [probe.item.answers["answer"][0] for probe in probes]
        norms = compute_gradient_norms(model, examples, journal, name)
    options = data.suite.config.sets[data.forget_set]
    evidence = [
        Evidence(options, "", probe.item.scored, {"answer": [score]}, figures={GRADIENT: norm})
        for probe, score, norm in zip(probes, scores, norms, strict=True)
    ]
    samples = {name: METRICS[name].sample for name in dict.fromkeys([LOSS, *config.attacks])}
    return {
        name: [None if e.broken else sample(e) for e in evidence]
        for name, sample in samples.items()
        if sample is not None
    }


def compare_with_holdout(outcomes: dict[str, Outcome], config: MembershipConfig) -> None:
    """The scores of all rows; the reference attack takes the retain model's losses off."""
    raw = {role: outcome.curves for role, outcome in outcomes.items()}
    for role, outcome in outcomes.items():
        outcome.curves = {"auc": {}}
        for name in config.attacks:
            if name != REFERENCE:
                forget, held = (raw[role][side][name] for side in SIDES)
            elif RETAIN in raw:
                forget, held = (
                    subtract_scores(raw[role][side][LOSS], raw[RETAIN][side][LOSS])
                    for side in SIDES
                )
            else:
                outcome.notes.append(f"{name}: left out, since no retain model is attacked")
                continue
            add_attack_scores(outcome, name, raw[role]["row"], forget, held)
        count = len(raw[role][SIDES[1]][LOSS])
        outcome.curves["holdout_rows"] = count
        outcome.notes += [
            f"mia_*_tpr_{rate} counts rows that the model knows better than every holdout row: of "
            f"{count} holdout rows none can be false and the rate still be {rate} %"
            for rate in RATES
            if count * rate < 100
        ]


def subtract_scores(ours: list[float | None], theirs: list[float | None]) -> list[float | None]:
    """The difference of two models' scores of the same answers, None where one has none."""
    return [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)]


def add_attack_scores(
    outcome: Outcome,
    name: str,
    row_of: list[int],
    forget: list[float | None],
    holdout: list[float | None],
) -> None:
    """What an attack says of each row; of one in several pieces the mean over them.

    Args:
        row_of: the position of the row that each forget score is of.
    """
    scored = [(row, score) for row, score in zip(row_of, forget, strict=True) if score is not None]
    held = [score for score in holdout if score is not None]
    if not scored or not held:
        outcome.notes.append(f"{name}: no finite score of the {'holdout' if scored else 'forget'} "
                             "rows")  # fmt: skip
        return
    rows, scores = np.array([row for row, _ in scored]), np.array([score for _, score in scored])
    shares = compute_shares_above(scores, np.array(held))
    outcome.curves["auc"][name] = float(shares.mean())
    figures = {f"{name}_tpr_{rate}": call_members(scores, np.array(held), rate) for rate in RATES}
    for key, values in {name: shares, **figures}.items():
        outcome.scores[key] = [
            float(values[rows == row].mean()) if (rows == row).any() else None
            for row in range(len(outcome.numbers))
        ]


def compute_shares_above(scores_N: Vector, holdout_M: Vector) -> Vector:
    """The share of holdout scores above each score, equal ones by half: [N], mean `attack_auc`."""
    held = np.sort(holdout_M)
    not_above = np.searchsorted(held, scores_N, side="right")
    below = np.searchsorted(held, scores_N, side="left")
    return 1 - (not_above + below) / (2 * len(held))


def call_members(scores_N: Vector, holdout_M: Vector, percent: int) -> Vector:
    """1 where a score is so low that at most this share of the holdout is lower, else 0: [N]."""
    held = np.sort(holdout_M)
    return (scores_N < held[len(held) * percent // 100]).astype(np.float64)


MEMBERSHIP = AttackKind(attack_membership, check_holdout, compare_with_holdout)
