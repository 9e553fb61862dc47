"""Whether a model has forgotten, in a word, on both sides of every threshold."""

from __future__ import annotations

from typing import Any

import pytest

from undial_cli.config.suites import VerdictConfig
from undial_cli.evaluation.verdict import describe_damage, judge_forgetting
from undial_cli.reporting import notes

ROLES = {"forget": "forget", "retain": "retain"}


def make_results(
    ours: float, reach: float, n: int = 40, target: float = 0.9, retain: float = 0.4, **odd: Any
) -> dict[str, Any]:
    """A forget probability with an interval of `reach` to each side; a kept retain set."""
    gap = ours - retain
    return {
        "metrics": {"forget_probability": ours, "retain_probability": 0.9},
        "target": {"forget_probability": target, "retain_probability": 0.9},
        "reference": {"forget_probability": retain, "retain_probability": 0.9},
        "roles": ROLES,
        "statistics": {"forget_probability": {"n": n}, "retain_probability": {"n": n}},
        "differences": {
            "reference": {
                "forget_probability": {"interval": [gap - reach, gap + reach]},
                "retain_probability": {"interval": [-0.01, 0.01]},
            }
        },
        "damaged": [],
        **odd,
    }


@pytest.mark.parametrize(
    "ours, reach, word",
    [
        (0.9, 0.05, "not forgotten"),
        (0.52, 0.01, "not forgotten"),  # a share of 0.24, from 0.22 on; the margin is 0.2
        (0.52, 0.03, "undecided"),
        (0.48, 0.01, "forgotten"),
        (0.4, 0.09, "forgotten"),
        (0.4, 0.11, "undecided"),
        (0.32, 0.01, "forgotten"),
        (0.28, 0.03, "undecided"),
        (0.28, 0.01, "over-forgotten"),
        (0.0, 0.01, "over-forgotten"),
    ],
)
def test_the_word_follows_from_the_interval_of_the_share(
    ours: float, reach: float, word: str
) -> None:
    found = judge_forgetting(make_results(ours, reach), VerdictConfig())
    assert found["word"] == word
    share = found["shares"]["forget_probability"]
    assert share["share"] == pytest.approx((ours - 0.4) / 0.5)
    assert share["interval"] == pytest.approx(
        [(ours - reach - 0.4) / 0.5, (ours + reach - 0.4) / 0.5]
    )
    assert "forget_probability" in found["reason"]
    assert list(found["shares"]) == ["forget_probability"]  # not of what is to be kept


def test_another_margin_moves_the_line() -> None:
    results = make_results(0.52, 0.01)
    assert judge_forgetting(results, VerdictConfig(margin=0.3))["word"] == "forgotten"


def test_what_still_answers_is_not_forgotten_however_damaged_and_what_does_not_is_damaged() -> None:
    lost = ["retain_probability 0.100 is 11% of the target's 0.900"]
    for ours, word in ((0.9, "not forgotten"), (0.4, "damaged"), (0.0, "damaged")):
        found = judge_forgetting(make_results(ours, 0.01, damaged=lost), VerdictConfig())
        assert found["word"] == word
    assert found["reason"] == lost[0]


@pytest.mark.parametrize(
    "odd, word",
    [
        ({"n": 9}, "undecided"),
        ({"n": 10}, "forgotten"),
        ({"target": 0.49}, "undecided"),
        ({"target": 0.51, "reach": 0.001}, "forgotten"),
    ],
)
def test_figures_that_cannot_tell_tell_nothing(odd: dict[str, Any], word: str) -> None:
    results = make_results(0.4, **{"reach": 0.01, **odd})
    found = judge_forgetting(results, VerdictConfig())
    assert found["word"] == word
    if word == "undecided":
        assert found["reason"].startswith("in no figure of enough samples")


@pytest.mark.parametrize(
    "of, whose", [("reference", "the retain model's"), ("target", "the target's")]
)
def test_without_both_models_nothing_is_decided(of: str, whose: str) -> None:
    found = judge_forgetting(make_results(0.4, 0.01) | {of: {}}, VerdictConfig())
    assert found["word"] == "undecided"
    assert found["reason"] == f"{whose} figures are not known"
    assert not found["shares"]


def test_the_verdict_is_a_line() -> None:
    results = {"verdict": {"word": "forgotten", "reason": "as the retain model"}}
    assert notes.state_forgetting(results) == "forgotten: as the retain model"
    assert notes.state_forgetting({}) == ""


def test_a_destroyed_model_is_called_damaged_and_a_kept_one_is_not() -> None:
    target = {"model_utility": 0.85, "news_perplexity": 20.0, "forget_probability": 0.9}
    ours = {"model_utility": 0.12, "news_perplexity": 50.0, "forget_probability": 0.0}
    assert describe_damage(ours, target, {}, {}, {}) == [
        "model_utility 0.120 is 14% of the target's 0.850",
        "news_perplexity 50 is 2.5 times the target's 20",
    ]
    assert describe_damage({**target, "forget_probability": 0.0}, target, {}, {}, {}) == []
    roles = {"retain": "retain", "forget": "forget"}
    kept = {"retain_rouge": 0.9, "forget_rouge": 0.9}
    lost = describe_damage({"retain_rouge": 0.1, "forget_rouge": 0.1}, {}, kept, {}, roles)
    assert lost == ["retain_rouge 0.100 is 11% of the retain model's 0.900"]
    null = describe_damage(
        {"retain_rouge": None}, kept, {}, {"retain_rouge": "3 of 3 samples"}, roles
    )
    assert null == ["retain_rouge: 3 of 3 samples"]
    results = {"damaged": lost, "metrics": {"forget_quality": 0.5}}
    assert notes.state_damage(results).endswith("its forget_quality of 5.00e-01 is no success")
