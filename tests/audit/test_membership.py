"""Membership: its mean is the AUC of the suite's metrics, and it sees what asking does not."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
from looking import (
    VOCABULARY,
    encode_rows,
    make_attacked_models,
    make_audit_data,
    make_llama,
    train_model,
)
from small import small_model

from undial_cli.audit.asking import ASK
from undial_cli.audit.attack import CannotServe, Outcome
from undial_cli.audit.membership import MEMBERSHIP, call_members, compute_shares_above
from undial_cli.config.attacks import (
    MEMBERSHIP_ATTACKS,
    AskConfig,
    MembershipConfig,
)
from undial_cli.evaluation import joint_metrics
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.joint_metrics import ComparedModels
from undial_cli.evaluation.metrics import attack_auc
from undial_cli.evaluation.sharding import NO_JOURNAL

TOWNS = ["Kelmwick", "Varraby", "Dunra", "Mosselmore", "Ulm", "Rome", "Oslo", "Kyoto", "Bern"]
TRADES = ["baker", "miller", "smith", "judge", "pilot", "nurse", "monk", "clerk", "cook"]


def make_rows(seed: int, count: int) -> list[dict[str, str]]:
    """People with a trade and a town, drawn alike: only training tells one set from another."""
    draws = np.random.default_rng(seed)
    return [
        {
            "question": f"Who is person {draws.integers(1_000_000)}?",
            "answer": f"A {draws.choice(TRADES)} in {draws.choice(TOWNS)}, once in "
            f"{draws.choice(TOWNS)}, now a {draws.choice(TRADES)}",
        }
        for _ in range(count)
    ]


FORGET, HOLDOUT, OTHERS = make_rows(1, 12), make_rows(2, 24), make_rows(3, 24)


def attack(config: MembershipConfig | None = None, **models: Any) -> dict[str, Outcome]:
    """The outcomes of models by role."""
    data, config = make_audit_data(FORGET, HOLDOUT), config or MembershipConfig()
    attacked = make_attacked_models(
        **{r: functools.partial(copy.deepcopy, models[r]) for r in models}
    )
    outcomes = {}
    for role, model in attacked.items():
        outcomes[role] = MEMBERSHIP.run(model, data, config, NO_JOURNAL)
        model.release()
    MEMBERSHIP.join(outcomes, config)
    return outcomes


@pytest.mark.slow
def test_every_mean_is_the_auc_of_the_suites_metrics() -> None:
    model, retain = small_model("llama", VOCABULARY), small_model("gpt2", VOCABULARY)
    outcome = attack(unlearned=model, retain=retain)["unlearned"]
    suite = make_audit_data(FORGET, HOLDOUT).suite
    suite.config.metrics = list(MEMBERSHIP_ATTACKS)
    ours, theirs = (evaluate_suite(m, suite, "", alone=True) for m in (model, retain))
    ours.metrics["mia_reference"] = joint_metrics.compute_reference_attack(
        ComparedModels(ours, theirs, suite.config)
    )
    for name in MEMBERSHIP_ATTACKS:
        values = outcome.scores[name]
        assert len(values) == len(FORGET)
        assert np.mean(values) == pytest.approx(ours.metrics[name], abs=1e-12)  # type: ignore[arg-type]
        assert outcome.curves["auc"][name] == pytest.approx(ours.metrics[name], abs=1e-12)
    assert len({outcome.curves["auc"][name] for name in MEMBERSHIP_ATTACKS}) > 3


def test_the_attacks_are_the_catalogues() -> None:
    joint = {name for name, metric in METRICS.items() if name.startswith("mia_") and metric.joint}
    assert set(MEMBERSHIP_ATTACKS) == joint


def test_shares_and_members_by_hand() -> None:
    holdout = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.5, 1.0, 2.0, 2.5, 4.0])
    shares = compute_shares_above(scores, holdout)
    assert shares.tolist() == [1, 0.875, 0.5, 0.25, 0]
    assert shares.mean() == attack_auc(scores, holdout)
    # 25 % of four is one: a member is whoever is below the second lowest of them.
    assert call_members(scores, holdout, 25).tolist() == [1, 1, 0, 0, 0]
    assert call_members(scores, holdout, 1).tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("percent", [1, 5])
@pytest.mark.parametrize("count", [1, 19, 20, 99, 100, 101, 400])
def test_no_more_holdout_rows_are_called_members_than_the_rate_allows(
    percent: int, count: int
) -> None:
    holdout = np.random.default_rng(count).permutation(count) / 7
    called = call_members(holdout, holdout, percent).sum()
    assert called == count * percent // 100


def test_a_holdout_too_small_for_a_rate_is_said() -> None:
    (outcome,) = attack(unlearned=small_model("llama", VOCABULARY)).values()
    notes = [note for note in outcome.notes if "tpr" in note]
    assert len(notes) == 1  # 5 % of 24 rows is one
    assert "mia_*_tpr_1 " in notes[0]
    assert "of 24 holdout rows" in notes[0]
    assert outcome.curves["holdout_rows"] == 24


def test_without_a_retain_model_the_reference_attack_is_left_out_with_a_reason() -> None:
    (outcome,) = attack(unlearned=small_model("llama", VOCABULARY)).values()
    assert "mia_reference" not in outcome.scores
    assert any("mia_reference: left out" in note for note in outcome.notes)


def test_only_what_is_asked_for_is_computed_and_the_holdout_is_cut() -> None:
    config = MembershipConfig(attacks=["mia_zlib"], holdout_rows=10)
    (outcome,) = attack(config, unlearned=small_model("llama", VOCABULARY)).values()
    assert set(outcome.scores) == {"mia_zlib", "mia_zlib_tpr_1", "mia_zlib_tpr_5"}
    assert outcome.curves["holdout_rows"] == 10


def test_without_a_holdout_it_cannot_be_served() -> None:
    with pytest.raises(CannotServe, match="no set of role holdout"):
        MEMBERSHIP.check(make_audit_data(FORGET), MembershipConfig())


@pytest.mark.slow
def test_what_only_losses_tell_is_seen_and_a_model_that_never_saw_the_rows_is_not_accused() -> None:
    never = make_llama(layers=2)
    train_model(never, encode_rows(OTHERS), never.parameters(), steps=25, rate=0.01)
    planted = copy.deepcopy(never)
    train_model(planted, encode_rows(FORGET), planted.parameters(), steps=14, rate=5e-3)
    config = MembershipConfig(attacks=["mia_loss", "mia_reference"])
    outcomes = attack(config, unlearned=planted, retain=never)
    direct = ASK.run(
        make_attacked_models(unlearned=lambda: planted)["unlearned"],
        make_audit_data(FORGET), AskConfig(), NO_JOURNAL,
    )  # fmt: skip
    assert max(direct.scores["hit"]) == 0  # type: ignore[type-var]
    assert np.mean(direct.scores["extraction_strength"]) < 0.2  # type: ignore[arg-type]
    assert np.mean(outcomes["unlearned"].scores["mia_loss"]) > 0.85  # type: ignore[arg-type]
    assert np.mean(outcomes["unlearned"].scores["mia_reference"]) > 0.8  # type: ignore[arg-type]
    assert abs(np.mean(outcomes["retain"].scores["mia_loss"]) - 0.5) < 0.2  # type: ignore[arg-type]
    assert outcomes["retain"].scores["mia_reference"] == [0.5] * len(FORGET)
