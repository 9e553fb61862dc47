"""What train.select reads, which way is better, and what it refuses before anything is loaded."""

from __future__ import annotations

import pytest
from conftest import refused

from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.evaluation.evidence import MissingFigure
from undial_cli.evaluation.selection_rule import (
    NAMED_RULES,
    compute_utility_share,
    parse_selection,
    score_choice,
)

SUITE = EvalConfig(
    name="own",
    sets={
        "forget": EvalSetConfig(split="f", metrics=["probability", "rouge", "truth_ratio"]),
        "retain": EvalSetConfig(split="r", metrics=["probability", "rouge"]),
        "texts": EvalSetConfig(split="t", role="other", metrics=["perplexity"]),
        "a-b": EvalSetConfig(split="s", metrics=["probability"]),
        "gone": EvalSetConfig(metrics=["probability"]),
    },
    utility=["retain"],
    metrics=["model_utility", "forget_quality", "privleak"],
)


def test_a_metric_has_its_own_direction_and_an_expression_is_maximised() -> None:
    for text, direction in {
        "forget_probability": "minimize",
        "(forget_rouge)": "minimize",
        "retain_probability": "maximize",
        "model_utility": "maximize",
        "forget_quality": "maximize",
        "a-b_probability": "maximize",
        "-forget_probability": "maximize",
        "(forget_quality + model_utility) / 2": "maximize",
        "nearest_retain": "minimize",
        "most_forgotten": "minimize",
    }.items():
        assert parse_selection(text, SUITE).direction == direction, text


def test_what_is_read_is_what_is_named() -> None:
    rule = parse_selection("(forget_quality + model_utility) / 2", SUITE)
    assert rule.names == ("forget_quality", "model_utility")
    assert rule.is_relative
    figures = {"forget_quality": 0.5, "model_utility": 0.7, "forget_rouge": 9.0}
    assert rule.compute(figures, {}) == pytest.approx(0.6)
    assert not parse_selection("forget_rouge", SUITE).is_relative
    with pytest.raises(MissingFigure, match="model_utility is null"):
        rule.compute({**figures, "model_utility": None}, {})
    with pytest.raises(MissingFigure, match="forget_quality is not there"):
        rule.compute({"model_utility": 0.5}, {})


def test_nearest_retain_is_the_mean_distance_of_the_forget_figures() -> None:
    """Of those that say how well it is known: a truth ratio has no better side."""
    rule = parse_selection("nearest_retain", SUITE)
    assert rule.names == ("forget_probability", "forget_rouge")
    ours = {"forget_probability": 0.2, "forget_rouge": 0.5, "forget_truth_ratio": 0.1}
    retain = {"forget_probability": 0.3, "forget_rouge": 0.1, "forget_truth_ratio": 0.9}
    assert rule.compute(ours, retain) == pytest.approx((0.1 + 0.4) / 2)
    assert rule.compute(ours, {"forget_rouge": 0.1}) == pytest.approx(0.4)
    with pytest.raises(MissingFigure):
        rule.compute(ours, {})


def test_most_forgotten_is_the_mean_of_the_same_figures_and_needs_no_retain_model() -> None:
    rule = parse_selection("most_forgotten", SUITE)
    assert rule.names == parse_selection("nearest_retain", SUITE).names
    ours = {"forget_probability": 0.2, "forget_rouge": 0.5, "forget_truth_ratio": 0.1}
    assert rule.compute(ours, {}) == rule.compute(ours, dict.fromkeys(ours, 0.9)) == 0.35
    assert rule.keeps_utility
    assert rule.is_relative  # to the target
    assert not rule.is_nearest


def test_choices_are_compared_by_their_figure_and_behind_all_by_their_utility() -> None:
    kept = [
        {"figure": figure, "keeps_utility": True, "utility": 0.91} for figure in (0.0, 0.4, 1.0)
    ]
    lost = [{"figure": 0.0, "keeps_utility": False, "utility": u} for u in (0.899, 0.5, None)]
    scores = [score_choice(chosen) for chosen in (*kept, *lost)]
    assert scores[:3] == [0.0, 0.4, 1.0]
    assert None not in scores
    assert scores == sorted(scores)  # type: ignore[type-var]
    assert len(set(scores)) == len(scores)
    assert score_choice({"figure": -3.5}) == -3.5  # of a rule that asks for no utility
    for figure in (None, float("nan"), float("inf"), True, "0.1"):
        assert score_choice({"figure": figure, "keeps_utility": True}) is None
    assert score_choice({}) is None


def test_nearest_retain_is_of_the_request_at_hand() -> None:
    other = EvalSetConfig(split="f2", role="forget", metrics=["rouge"])
    several = EvalConfig(name="own", sets={**SUITE.sets, "request_2": other})
    assert parse_selection("nearest_retain", several).names == (
        "forget_probability",
        "forget_rouge",
    )


def test_the_share_of_the_utility_is_of_model_utility_or_of_the_worst_retained_figure() -> None:
    roles = {"forget": "forget", "retain": "retain"}
    target = {"retain_probability": 0.8, "retain_rouge": 0.5, "forget_rouge": 1.0}
    ours = {"retain_probability": 0.72, "retain_rouge": 0.4, "forget_rouge": 0.0}
    assert compute_utility_share(ours, target, roles) == pytest.approx(0.8)
    whole = {**target, "model_utility": 0.6}
    assert compute_utility_share({**ours, "model_utility": 0.54}, whole, roles) == pytest.approx(
        0.9
    )
    assert compute_utility_share(ours, {}, roles) is None


@pytest.mark.parametrize(
    "text, parts",
    {
        "forget_qualty": ["no metric 'forget_qualty' of eval=own; did you mean 'forget_quality'?"],
        "forget_rouge + holdout_rouge": ["no metric 'holdout_rouge'"],
        "gone_probability": ["no metric 'gone_probability'"],
        "mia_loss": ["eval=own does not compute it", "eval.metrics does not name 'mia_loss'"],
        "texts_perplexity": ["of a helper model", "not asked in training"],
        "harness_piqa_acc": ["another library"],
        "privleak": ["neither higher nor lower is better", "expression"],
        "forget_truth_ratio": ["neither higher nor lower is better"],
        "nearest_retain - forget_rouge": ["nearest_retain stands alone"],
        "most_forgoten": ["no metric 'most_forgoten' of eval=own; did you mean 'most_forgotten'?"],
        "-most_forgotten": ["most_forgotten stands alone"],
        "forget_rouge +": ["no expression"],
    }.items(),
)  # fmt: skip
def test_what_cannot_be_chosen_by_is_refused_in_a_line(text: str, parts: list[str]) -> None:
    refused(lambda: parse_selection(text, SUITE), f"train.select={text}: ", *parts)


@pytest.mark.parametrize("rule", list(NAMED_RULES))
def test_a_named_rule_needs_a_forget_set_and_something_to_be_kept(rule: str) -> None:
    sets = {"retain": SUITE.sets["retain"]}
    alone = EvalConfig(name="x", sets=sets)
    refused(lambda: parse_selection(rule, alone), "eval=x has no forget set")
    without = EvalConfig(name="x", sets={"forget": SUITE.sets["forget"]})
    refused(lambda: parse_selection(rule, without), "whether utility is kept")


def test_a_composite_score_with_fluency_is_not_computed_in_training() -> None:
    names = ["model_utility", "privacy_score", "utility_score", "aggregate_score"]
    fields = {"name": "x", "sets": SUITE.sets, "utility": ["retain"], "metrics": names}
    for name in ("utility_score", "aggregate_score"):
        assert parse_selection(name, EvalConfig(**fields)).names == (name,)
        with_fluency = EvalConfig(**fields, gibberish_model="m")
        refused(lambda name=name, e=with_fluency: parse_selection(name, e), "helper model")
    assert parse_selection("privacy_score", EvalConfig(**fields, gibberish_model="m"))
