"""The closing sentence of a run: what is gone, what it cost, what to try next."""

from __future__ import annotations

from typing import Any

import pytest

from undial_cli.config.methods import MethodConfig
from undial_cli.config.schema import UnlearnRun
from undial_cli.evaluation.verdict import FORGOTTEN, NOT_FORGOTTEN, OVER_FORGOTTEN, UNDECIDED
from undial_cli.reporting.outcome import describe_outcome

ROLES = {"forget": "forget", "retain": "retain"}
AUDIT = "`undial audit F` tries to get it back"
GDR, BEST = "`method.retain=gdr` keeps more", "`train.select=nearest_retain` keeps the best step"
LONGER = "a larger `train.epochs`"


def make_results(word: str, utility: float, shares: dict[str, float]) -> dict[str, Any]:
    return {
        "metrics": {"model_utility": utility, "forget_rouge": 0.3},
        "target": {"model_utility": 0.8, "forget_rouge": 1.0},
        "roles": ROLES,
        "verdict": {"word": word, "shares": {k: {"share": v} for k, v in shares.items()}},
    }


@pytest.mark.parametrize(
    "word, utility, retain, advised",
    [
        (NOT_FORGOTTEN, 0.7, "none", [GDR, AUDIT]),
        (NOT_FORGOTTEN, 0.7, "gdr", [BEST, AUDIT]),
        (NOT_FORGOTTEN, 0.79, "none", [LONGER, AUDIT]),
        (OVER_FORGOTTEN, 0.79, "none", [BEST, AUDIT]),
        (FORGOTTEN, 0.79, "gdr", [AUDIT]),
        (UNDECIDED, 0.79, "gdr", [AUDIT]),
    ],
)
def test_what_is_advised(word: str, utility: float, retain: str, advised: list[str]) -> None:
    run = UnlearnRun(method=MethodConfig(retain=retain))
    text = describe_outcome(run, make_results(word, utility, {"forget_rouge": 0.25}), "F")
    said, _, advice = text.partition(". Next: ")
    left = f"{utility / 0.8:.0%} of model_utility is left"
    gone = "75% of what only the target knew is gone, by forget_rouge, which shows most"
    assert said == f"{gone}; {left}"
    assert len(advice.split("; ")) == len(advised)
    assert all(part in advice for part in advised)


def test_the_figure_that_shows_most_counts_and_an_audited_run_is_not_sent_to_the_audit() -> None:
    results = make_results(FORGOTTEN, 0.8, {"forget_rouge": -0.4, "forget_probability": 0.1})
    results["metrics"]["audit_recovered"] = 0.5
    text = describe_outcome(UnlearnRun(method=MethodConfig()), results, "F")
    assert text.startswith("90% of what only the target knew is gone, by forget_probability")
    assert "Next" not in text
    over = make_results(OVER_FORGOTTEN, 0.8, {"forget_rouge": -0.4})
    assert describe_outcome(UnlearnRun(method=MethodConfig()), over, "F").startswith("100% of")
    nothing = {"metrics": {"forget_rouge": 0.1}, "target": {}, "roles": ROLES, "verdict": {}}
    assert describe_outcome(UnlearnRun(method=MethodConfig()), nothing, "F") == ""
