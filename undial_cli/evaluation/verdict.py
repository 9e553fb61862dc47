"""Whether a model has forgotten, in a word, by stated rules; and whether it was damaged.

Of every figure that shows whether the forget set is known (probability, ROUGE, ...) the share is
taken that is left of what the target has beyond the retain model: 1 is the target, 0 the retain
model. m is eval.verdict.margin. The first rule that holds:

- not forgotten: the share of some figure lies above m, interval and all.
- damaged: of utility or fluency less than eval.verdict.least_utility is left.
- undecided: the interval of some share reaches across m or -m, or no figure can tell: too few
  samples, target and retain model too near, or one of them not known.
- over-forgotten: some share lies below -m: further from the target than the retain model is.
- forgotten: the intervals of all shares lie between -m and m.

Nothing is corrected for the number of figures: what is called forgotten has to pass all of them.
Reads figures by name; knows no model and no sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from undial_cli.config.suites import FORGET, RETAIN, VerdictConfig
from undial_cli.evaluation.catalog import KNOWLEDGE
from undial_cli.evaluation.figures import split_figure_name

NOT_FORGOTTEN, FORGOTTEN, OVER_FORGOTTEN = "not forgotten", "forgotten", "over-forgotten"
DAMAGED, UNDECIDED = "damaged", "undecided"
LEAST_SHARE_LEFT = VerdictConfig().least_utility
UTILITY_METRICS, FLUENCY_METRICS = ("probability", "rouge"), ("gibberish", "perplexity")
FiguresByName = Mapping[str, "float | None"]


@dataclass(frozen=True)
class Share:
    """What is left, in one figure, of what the target has beyond the retain model."""

    name: str
    share: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.name} {self.share:.2f} [{low:.2f}, {high:.2f}]"


def judge_forgetting(results: Mapping[str, Any], config: VerdictConfig) -> dict[str, Any]:
    """The word, why, and the shares it rests on, from what results.json holds.

    Args:
        results: `metrics`, `target`, `reference`, `roles`, `statistics`, `differences`, `damaged`.
    """
    shares = list_shares(results, config)
    word, reason = choose_word(shares, results, config)
    return {
        "word": word,
        "reason": reason,
        "margin": config.margin,
        "shares": {s.name: {"share": s.share, "interval": list(s.interval)} for s in shares},
    }


def choose_word(
    shares: list[Share], results: Mapping[str, Any], config: VerdictConfig
) -> tuple[str, str]:
    """The first rule that holds, and the figures that make it hold."""
    margin = config.margin
    left = [share for share in shares if share.interval[0] > margin]
    if left:
        return NOT_FORGOTTEN, f"of what the target knows is left: {join_shares(left)}"
    if results["damaged"]:
        return DAMAGED, "; ".join(results["damaged"])
    if not shares:
        return UNDECIDED, explain_no_share(results)
    wide = [
        share
        for share in shares
        if any(share.interval[0] < bound < share.interval[1] for bound in (margin, -margin))
    ]
    if wide:
        return UNDECIDED, f"the interval is too wide: {join_shares(wide)}"
    below = [share for share in shares if share.interval[1] <= -margin]
    if below:
        reason = f"further from the target than the retain model: {join_shares(below)}"
        return OVER_FORGOTTEN, reason
    return FORGOTTEN, f"as the retain model, within {margin:g}: {join_shares(shares)}"


def list_shares(results: Mapping[str, Any], config: VerdictConfig) -> list[Share]:
    """The shares of all figures that can tell, the furthest from the retain model first."""
    target, retain = results["target"], results["reference"]
    differences = results["differences"].get("reference", {})
    shares = []
    for name, ours in results["metrics"].items():
        set_name, metric = split_figure_name(name)
        known = (ours, target.get(name), retain.get(name))
        if metric is None or metric.better != KNOWLEDGE or None in known:
            continue
        bounds = differences.get(name, {}).get("interval")
        n = results["statistics"].get(name, {}).get("n", 0)
        gap = known[1] - known[2]
        is_of_forget = results["roles"].get(set_name) == FORGET
        if not is_of_forget or bounds is None or n < config.least_samples or gap < config.least_gap:
            continue
        low, high = (bound / gap for bound in bounds)
        shares.append(Share(name, (known[0] - known[2]) / gap, (low, high)))
    return sorted(shares, key=lambda share: -abs(share.share))


def explain_no_share(results: Mapping[str, Any]) -> str:
    """Why no figure tells whether the forget set is known."""
    for name, of in (("the retain model's", "reference"), ("the target's", "target")):
        if not results[of]:
            return f"{name} figures are not known"
    return "in no figure of enough samples are target and retain model far enough apart"


def join_shares(shares: list[Share]) -> str:
    return ", ".join(map(str, shares))


def describe_damage(
    ours: FiguresByName, target: FiguresByName, retain: FiguresByName, missing: Mapping[str, str],
    roles: Mapping[str, str], least_share: float = LEAST_SHARE_LEFT,
) -> list[str]:  # fmt: skip
    """What was lost, a sentence each; empty where nothing was, or nothing is known.

    Args:
        target: the figures before; where there are none, `retain`, the retain model's, stand in.
        missing: why a figure of ours is null.
        roles: of the sets, by name.
        least_share: less of the figure before is damage; of a perplexity, more than its inverse.
    """
    before, whose = (target, "the target's") if target else (retain, "the retain model's")
    sentences = []
    for name in list_watched_figures(before, roles):
        known, left = before[name], ours.get(name)
        if known is None or known <= 0:
            continue
        if left is None:
            sentences += [f"{name}: {missing[name]}"] if name in missing else []
        elif name.endswith("perplexity"):
            if left > known / least_share:
                times = f"{left / known:.1f} times"
                sentences.append(f"{name} {left:.3g} is {times} {whose} {known:.3g}")
        elif left < least_share * known:
            sentences.append(f"{name} {left:.3f} is {left / known:.0%} of {whose} {known:.3f}")
    return sentences


def list_watched_figures(before: FiguresByName, roles: Mapping[str, str]) -> list[str]:
    """The figures of utility (the joint one, else those of what is to be kept) and of fluency."""
    retained = [
        f"{name}_{key}" for name, role in roles.items() if role == RETAIN for key in UTILITY_METRICS
    ]
    utility = ["model_utility"] if "model_utility" in before else retained
    fluency = [name for name in before if name.endswith(FLUENCY_METRICS)]
    return [name for name in (*utility, *fluency) if name in before]
