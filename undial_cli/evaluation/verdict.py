"""Whether a model was damaged, in words: what is left of its utility and fluency.

A destroyed model forgets everything, and forget metrics alone cannot tell. Reads figures by name;
knows no model and no sample.
"""

from __future__ import annotations

from collections.abc import Mapping

from undial_cli.config.suites import RETAIN

# Less than this share of the figure before is damage; of a perplexity, more than its inverse.
LEAST_SHARE_LEFT = 0.5
UTILITY_METRICS, FLUENCY_METRICS = ("probability", "rouge"), ("gibberish", "perplexity")
FiguresByName = Mapping[str, "float | None"]


def describe_damage(
    ours: FiguresByName, target: FiguresByName, retain: FiguresByName, missing: Mapping[str, str],
    roles: Mapping[str, str],
) -> list[str]:  # fmt: skip
    """What was lost, a sentence each; empty where nothing was, or nothing is known.

    Args:
        target: the figures before; where there are none, `retain`, the retain model's, stand in.
        missing: why a figure of ours is null.
        roles: of the sets, by name.
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
            if left > known / LEAST_SHARE_LEFT:
                times = f"{left / known:.1f} times"
                sentences.append(f"{name} {left:.3g} is {times} {whose} {known:.3g}")
        elif left < LEAST_SHARE_LEFT * known:
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
