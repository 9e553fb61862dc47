"""Metrics in words, their directions, and figures as text."""

from __future__ import annotations

import math

import pytest

from undial_cli.evaluation.figures import (
    find_better_direction,
    find_figure_title,
    is_logarithmic_figure,
)
from undial_cli.reporting.text import (
    format_figure,
    format_gap,
    format_run_time,
    format_setting_value,
)


@pytest.mark.parametrize(
    ("name", "words", "better"),
    [
        ("forget_rouge", "forget ROUGE-L", "lower"),
        ("retain_probability", "retain answer probability", "higher"),
        ("forget_knowmem_rouge", "forget KnowMem ROUGE-L", "lower"),
        ("forget_el_10", "forget extraction likelihood EL_10", "lower"),
        ("forget_paraphrased_rouge", "forget paraphrased ROUGE-L", "lower"),
        ("world_facts_truth_ratio", "world facts truth ratio", ""),
        ("request_12_rouge", "request 12 ROUGE-L", "lower"),
        ("forget_quality", "forget quality (KS p-value)", "higher"),
        ("model_utility", "model utility", "higher"),
        ("holdout_rouge", "holdout ROUGE-L", ""),
        ("wikitext_perplexity", "wikitext perplexity", "lower"),
        ("retain_rep_3", "retain rep_3", "lower"),
        ("forget_rep_4", "forget rep_4", "lower"),
        ("news_distinct_2", "news distinct_2", "higher"),
        ("forget_distinct_2", "forget distinct_2", "higher"),
        ("forget_perplexity", "forget perplexity", "lower"),
        ("forget_similarity", "forget similarity", "lower"),
        ("news_similarity", "news similarity", "higher"),
        ("forget_gibberish", "forget gibberish", "higher"),
        ("harness_wmdp_acc", "harness wmdp acc", "lower"),
        ("harness_wmdp_bio_acc_norm", "harness wmdp bio acc norm", "lower"),
        ("harness_mmlu_acc", "harness mmlu acc", "higher"),
        ("harness_wikitext_word_perplexity", "harness wikitext word perplexity", "lower"),
        ("harness_wikitext_bits_per_byte", "harness wikitext bits per byte", "lower"),
        ("seconds", "time (s)", "lower"),
        ("retain_ma", "retain memorisation accuracy", "higher"),
        ("privleak", "PrivLeak (%)", ""),
        ("loss", "loss", ""),
        ("something_new", "something new", "higher"),
    ],
)
def test_metrics_in_words(name: str, words: str, better: str) -> None:
    assert find_figure_title(name) == words
    assert find_better_direction(name) == better


def test_a_direction_follows_the_role_that_results_state_and_not_the_sets_name() -> None:
    roles = {"people": "forget", "forgettable": "retain", "others": "holdout"}
    found = [find_better_direction(f"{name}_rouge", roles) for name in roles]
    assert found == ["lower", "higher", ""]
    assert [find_better_direction(f"{name}_rouge") for name in roles] == [
        "higher",
        "lower",
        "higher",
    ]
    assert find_better_direction("people_perplexity", roles) == "lower"
    assert is_logarithmic_figure("people_perplexity")
    assert not is_logarithmic_figure("people_rouge")


def test_figures_as_text() -> None:
    shown = [0.12345, 1.13e-8, -100.0, 0, None, math.nan, "nan", True, "0.5"]
    found = ["0.123", "1.13e-08", "−100.0", "0.000", "–", "–", "–", "–", "0.500"]
    assert list(map(format_figure, shown)) == found
    assert [format_gap(v) for v in (0.1, -0.25, 0.0, None)] == [
        "+0.100",
        "−0.250",
        "0.000",
        "–",
    ]
    assert [format_setting_value(v) for v in (1e-4, 3e-4, 0.1, 30.0, 1e6, 2.5e-5)] == [
        "1e-4", "3e-4", "0.1", "30", "1e6", "2.5e-5",
    ]  # fmt: skip
    assert [format_setting_value(v) for v in (None, True, ["a", 1], "x")] == [
        "null",
        "true",
        "[a, 1]",
        "x",
    ]
    assert [format_run_time(v) for v in (3.21, 45, 600, 9000, None)] == [
        "3.2 s", "45 s", "10 min", "2.5 h", "–",
    ]  # fmt: skip
