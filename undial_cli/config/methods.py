"""What all unlearning methods share; each adds its own keys in methods/."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.config.fields import key


@dataclass(frozen=True)
class FocusSource:
    """Where focus words come from: `column`, `entities` or `noun_chunks` of a spaCy pipeline."""

    source: str
    pipeline: str | None = None


# method.strength that sets itself, token by token.
AUTO_STRENGTH = "auto"


@dataclass(frozen=True)
class OtherQuestions:
    """That the teacher is asked `count` other questions before each answer; `key` asks for it."""

    key: str
    count: int


@dataclass
class MethodConfig:
    """What all methods share: gamma * forget + alpha * retain."""

    name: str = key("", "name of the method")
    file: str | None = key(None, "your own method: a Python file (on the command line only)")
    retain: str = key(
        "none",
        "retain term: gdr = cross entropy, klr = KL to target",
        allowed=("none", "gdr", "klr"),
    )
    alpha: float = key(1.0, "weight of the retain term", minimum=0)
    gamma: float = key(1.0, "weight of the forget term", minimum=0)
    parameters: str | None = key(
        None, "regular expression of the parameters that are trained; null: all that a loss reaches"
    )
    saliency: float | None = key(
        None,
        "share of the modules that are trained, those of the greatest forget gradient (SURE); "
        "null: all",
        above=0,
        maximum=1,
    )
    sharpness: str | None = key(
        None,
        "forget gradient where the weights are moved: sam = up its slope, smooth = at random",
        allowed=("sam", "smooth"),
    )
    sharpness_radius: float = key(
        0.01, "of sam: how far; of smooth: each weight's standard deviation", above=0
    )
    sharpness_samples: int = key(
        3, "of smooth: random moves that the gradient is a mean of", minimum=1
    )
    rectify: str | None = key(
        None,
        "gru: forget gradient projected off the retain gradient it is against",
        allowed=("gru",),
    )
    rectify_smoothing: float = key(
        0.8, "a step's share in gru's moving average of the retain gradient", above=0, maximum=1
    )
