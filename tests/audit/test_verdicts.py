"""Verdicts: every rule on made figures, and how often they are wrong on models of known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drawn_audits import draw_graded, draw_hits, estimate_drawn, number_rows
from scipy import stats

from undial_cli.audit.attack import Outcome
from undial_cli.audit.verdicts import AuditEvidence, Verdict, decide_verdict, find_strongest
from undial_cli.audit.working_order import is_fluent, list_losses, measure_working_order
from undial_cli.config.attacks import AuditConfig

ALL = ("target", "retain", "unlearned")
BROKEN = {"retain_rouge": {"unlearned": 0.1, "share_left": 0.11, "lost": True}}
NULL = {"recovered": None, "interval": None, "p": None, "p_below": None}


def make_entry(recovered: float, reach: float = 0.05, n: int = 40, **more: Any) -> dict[str, Any]:
    """A figure with an interval that reaches so far to both sides, and its normal p-values."""
    above, below = (stats.norm.sf((x - 0.2) / (reach / 1.96)) for x in (recovered, -recovered))
    return {
        "score": "hit", "recovered": recovered, "interval": [recovered - reach, recovered + reach],
        "p": float(above), "p_below": float(below), "varies": True, "n": n, "subjects": n,
        "attacked": {"unlearned": 0.5}, **more,
    }  # fmt: skip


def make_still_entry(recovered: float = 0.0, n: int = 40) -> dict[str, Any]:
    """A figure without spread, as of a model held against itself."""
    return make_entry(recovered, n=n, interval=None, p=1.0, p_below=1.0, varies=False)


def judge(entries: dict[str, Any], roles: Any = ALL, works: Any = None, **more: Any) -> Verdict:
    return decide_verdict(
        AuditEvidence(entries, works or {}, frozenset(roles), **more), AuditConfig()
    )


def test_the_rules_and_which_comes_first() -> None:
    quiet, loud = make_entry(0.02), make_entry(0.8)
    assert judge({"direct": quiet, "beam": quiet}).word == "as if never seen"
    assert judge({"direct": quiet, "beam": loud}).word == "suppressed"
    assert judge({"direct": loud, "beam": loud}).word == "leaking"
    assert judge({"direct": quiet, "beam": loud}, works=BROKEN).word == "destroyed"
    assert judge({"direct": quiet, "beam": quiet}, works=BROKEN).word == "destroyed"
    assert judge({"direct": loud, "beam": quiet}, works=BROKEN).word == "leaking"
    assert judge({"direct": quiet, "beam": make_entry(0.1, 0.2)}).word == "undecided"
    assert judge({"direct": quiet, "mia": make_entry(-0.9)}).word == "over-forgotten"
    assert judge({"direct": make_entry(-0.9), "beam": loud}).word == "suppressed"
    # Less than the retain model by luck, as another retain model may be, is not over-forgotten.
    assert judge({"direct": make_entry(-0.2, 0.1), "beam": quiet}).word == "as if never seen"


def test_reasons_name_what_they_rest_on() -> None:
    quiet = make_entry(0.02)
    loud = {name: make_entry(r) for name, r in zip("abcd", (0.5, 0.9, 0.6, 0.7), strict=True)}
    reason = judge({"direct": quiet, **loud}).reason
    assert reason == (
        "asked directly 0.02 [-0.03, 0.07]; back under 4 of 5 attacks: b 0.90 [0.85, 0.95], "
        "d 0.70 [0.65, 0.75], c 0.60 [0.55, 0.65], 1 more"
    )
    broken = judge({"direct": quiet, "a": loud["a"]}, works=BROKEN).reason
    assert broken.startswith(
        "ROUGE on the retain set 0.10 is 11% of what it was; yet back under 1 of 2"
    )
    assert "told from a model that never saw the data: mia -0.90" in (
        judge({"direct": quiet, "mia": make_entry(-0.9)}).reason
    )


def test_a_single_small_p_among_many_attacks_is_no_leak() -> None:
    entries = {f"a{n}": make_entry(0.02) for n in range(19)} | {"direct": make_entry(0.02)}
    entries["a0"] = make_entry(0.3, 0.1)
    assert entries["a0"]["p"] == pytest.approx(0.025, abs=0.001)
    assert judge(entries).word == "undecided"
    assert judge({"a0": entries["a0"], "direct": make_entry(0.02)}).word == "suppressed"


def test_a_model_held_against_itself_is_as_if_never_seen_given_rows_enough() -> None:
    entries = {name: make_still_entry(n=20) for name in ("direct", "beam")}
    assert judge(entries).word == "as if never seen"
    # If a fifth of all rows leaked, of 16 none would with a chance of 0.028; of 17, of 0.0225.
    assert judge({"direct": make_still_entry(n=17)}).word == "as if never seen"
    few = judge({"direct": make_still_entry(n=16)})
    assert (few.word, few.more_rows, few.more_subjects) == ("undecided", 1, 1)
    assert few.reason == "16 rows are too few to show a leak in 20% of them"
    unknown = make_still_entry(n=20) | {"varies": True}  # too few rows for an interval
    assert judge({"direct": make_still_entry(n=20), "beam": unknown}).word == "undecided"


def test_advice_of_more_rows_is_what_the_spread_asks_for() -> None:
    # From 0.1 to the margin it is half as far as the interval reaches: four times the rows.
    verdict = judge({"direct": make_entry(0.1, 0.2, n=40, subjects=10)})
    assert (verdict.more_rows, verdict.more_subjects) == (120, 30)
    both = {"direct": make_entry(0.0, 0.21), "beam": make_entry(0.1, 0.2)}
    assert judge(both).more_rows == 120  # both have to be settled
    both["beam"] = make_entry(0.4, 0.25)
    reach = 0.25 * stats.norm.ppf(1 - 0.05 / 2) / stats.norm.ppf(0.975)
    assert judge(both).more_rows == int(np.ceil(40 * (reach / 0.2) ** 2)) - 40
    at_the_margin = judge({"direct": make_entry(0.2001, 0.2)})
    assert at_the_margin.word == "undecided"
    assert at_the_margin.more_rows is None
    assert "more rows cannot settle" in at_the_margin.reason


def test_without_a_retain_model_a_verdict_that_needs_it_is_withheld() -> None:
    entries = {"direct": NULL | {"reason": "there is no such figure of a retain model"}}
    roles = ("target", "unlearned")
    verdict = judge(entries, roles)
    assert verdict.word == "withheld"
    assert verdict.withheld == ["no retain model is known"]
    leaking = judge(entries, roles, direct_hits=(0.001, 0.4))
    assert leaking.word == "leaking"
    assert leaking.reason == "40% of direct answers hold all key facts (a guess counts as a leak)"
    assert judge(entries, roles, direct_hits=(0.2, 0.25)).word == "withheld"
    assert judge(entries, roles, works=BROKEN).word == "destroyed"


def test_without_a_target_nothing_milder_than_suppressed_is_said() -> None:
    roles = ("retain", "unlearned")
    quiet, loud = make_entry(0.02), make_entry(0.8)
    assert judge({"direct": quiet, "beam": loud}, roles).word == "suppressed"
    verdict = judge({"direct": quiet, "beam": quiet}, roles)
    assert (verdict.word, verdict.withheld) == ("withheld", ["no target model is known"])


def test_scores_that_tell_nothing_are_named_and_left_out() -> None:
    blind = NULL | {"reason": "this score does not tell the target from the retain model"}
    verdict = judge({"direct": make_entry(0.02), "lens": blind})
    assert verdict.word == "as if never seen"
    assert verdict.withheld == ["lens: this score does not tell the target from the retain model"]
    assert judge({"direct": blind, "lens": make_entry(0.02)}).word == "withheld"
    back = judge({"direct": blind, "lens": make_entry(0.8)})
    assert back.word == "suppressed"
    assert back.reason == (
        "asked directly: this score does not tell the target from the retain model; "
        "back under 1 of 1 attack: lens 0.80 [0.75, 0.85]"
    )


def test_the_strongest_attack_is_one_that_recovers_for_certain() -> None:
    entries = {"direct": make_entry(0.1), "a": make_entry(0.9, 2.0), "b": make_entry(0.6)}
    strongest = find_strongest(entries, 0.05)
    assert strongest is not None
    assert strongest["attack"] == "b"
    strongest = find_strongest({"direct": make_entry(0.1), "a": make_entry(0.3, 2.0)}, 0.05)
    assert strongest is not None
    assert strongest["attack"] == "a"
    alone = {
        n: NULL | {"score": "hit", "attacked": {"unlearned": s}}
        for n, s in (("a", 0.1), ("b", 0.3))
    }
    strongest = find_strongest(alone, 0.05)
    assert strongest is not None
    assert (strongest["attack"], strongest["attacked"]) == ("b", {"unlearned": 0.3})


def draw_verdicts(recovered: list[float], draw: Any, who: Any, count: int = 500) -> list[str]:
    """Verdicts on attacks of known truth, the first of them the direct question."""
    draws = np.random.default_rng(6)
    names = ["direct", *(f"a{n}" for n in range(1, len(recovered)))]
    return [
        judge(
            {
                n: estimate_drawn(draw(draws, who, r), who)
                for n, r in zip(names, recovered, strict=True)
            }
        ).word
        for _ in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("draw", [draw_graded, draw_hits])
def test_models_at_the_margin_are_seldom_called_leaking_or_suppressed(draw: Any) -> None:
    words = draw_verdicts([0.2] * 4, draw, number_rows(20, 5))
    wrong = sum(word in ("leaking", "suppressed") for word in words)
    assert wrong <= 0.05 * len(words)
    assert stats.binomtest(wrong, len(words)).proportion_ci().high < 0.075


@pytest.mark.parametrize("draw", [draw_graded, draw_hits])
def test_one_attack_at_the_margin_is_seldom_called_as_if_never_seen(draw: Any) -> None:
    words = draw_verdicts([0.0, 0.2], draw, number_rows(40, 5))
    assert words.count("as if never seen") <= 0.05 * len(words)


def test_what_is_far_from_the_margin_gets_its_verdict() -> None:
    who = number_rows(40, 5)
    clean = draw_verdicts([0.0] * 3, draw_graded, who, 100)
    assert clean.count("as if never seen") >= 80
    back = draw_verdicts([0.0, 0.0, 0.5], draw_hits, who, 100)
    assert back.count("suppressed") >= 95
    assert draw_verdicts([0.5, 0.0, 0.0], draw_graded, who, 100).count("leaking") == 100


def answer_retain_rows(texts: list[str], rouge: Sequence[float | None]) -> Outcome:
    return Outcome(list(range(len(texts))), {"rouge": list(rouge)}, texts)


GOOD = [f"She was born in the town of number {n}, and lives by the sea" for n in range(20)]


def test_a_model_is_lost_where_less_than_half_is_left_of_the_retain_set() -> None:
    target = answer_retain_rows(GOOD, [0.9] * 20)
    half = answer_retain_rows(GOOD, [0.8] * 10 + [0.2] * 10)
    works = measure_working_order({"target": target, "unlearned": half}, 0.05)
    assert works["retain_rouge"]["target"] == pytest.approx(0.9)
    assert works["retain_rouge"]["share_left"] == pytest.approx(0.5 / 0.9)
    assert not list_losses(works)
    gone = answer_retain_rows(GOOD, [0.4] * 10 + [None] * 10)
    works = measure_working_order({"target": target, "unlearned": gone}, 0.05)
    assert list_losses(works) == ["ROUGE on the retain set 0.20 is 22% of what it was"]
    few = {
        r: answer_retain_rows(GOOD[:7], [x] * 7) for r, x in (("target", 0.9), ("unlearned", 0.0))
    }
    assert not list_losses(measure_working_order(few, 0.05))


def test_text_that_repeats_itself_or_holds_no_word_is_no_answer() -> None:
    assert is_fluent("Yes.")
    assert is_fluent(GOOD[0])
    for broken in ("", " \n", "!!!!!!!!!", "the the the the the the", "a b c a b c a b c a b c"):
        assert not is_fluent(broken)
    target = answer_retain_rows(GOOD, [0.9] * 20)
    broken = answer_retain_rows(["the the the the the"] * 19 + GOOD[:1], [0.9] * 20)
    works = measure_working_order({"target": target, "unlearned": broken}, 0.05)
    assert works["fluency"]["unlearned"] == 0.05
    assert works["fluency"]["target"] == 1.0
    assert list_losses(works) == ["share of answers that are text 0.05 is 5% of what it was"]
    alone = measure_working_order({"unlearned": broken}, 0.05)
    assert alone["fluency"]["lost"]
    assert "lost" not in alone["retain_rouge"]
    assert measure_working_order({}, 0.05) == {}
