"""The keys of an audit and of its attacks: types, defaults, ranges and lines of help.

An attack is a file of configs/attack/: its `kind` says what is done, its other keys how. Imports
neither torch nor hydra, and does not know how any attack is carried out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import group, key
from undial_cli.errors import bad_value

# Whose answers an audit compares.
TARGET, RETAIN, UNLEARNED = MODEL_ROLES = ("target", "retain", "unlearned")
# Names the file of a kind of attack that the command line named, for all processes of a run.
ATTACK_FILE_VARIABLE = "UNDIAL_ATTACK_FILE"
BUDGETS = ("none", "quick", "standard", "full")
MEMBERSHIP_ATTACKS = (
    "mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference", "mia_gradnorm",
)  # fmt: skip


@dataclass
class AttackConfig:
    """What every attack has."""

    kind: str = key("", "what is done")
    title: str = key("", "the attack in words")
    score: str = key("extraction_strength", "the score that its verdict rests on")
    models: list[str] = key(list(MODEL_ROLES), "the models that are attacked")
    rows: int | None = key(
        None, "forget rows that are attacked, spread over the subjects; null: all", minimum=1
    )
    budgets: dict[str, Any] = key(
        {}, "the budgets that hold this attack, each with keys that it sets otherwise"
    )


@dataclass
class AskConfig(AttackConfig):
    """The question put to the model: in other words, after examples, with the answer begun.

    What has several ways is asked in each of them; the best one counts.
    """

    max_new_tokens: int | None = key(None, "tokens generated; null: the suite's", minimum=1)
    asked: bool = key(True, "put the question as it is")
    paraphrased: bool = key(
        False, "put it in other words: the row's paraphrased_question, else `rewrites`"
    )
    rewrites: list[str] = key([], "texts with {question}, for rows without a paraphrase")
    templates: list[str] = key([], "texts with {question} that it is wrapped in; []: none")
    prefills: list[str] = key([], "beginnings of an answer that are put into the prompt")
    answer_tokens: list[int] = key(
        [],
        "first tokens of the true answer that are put into the prompt, at most half of it",
        minimum=1,
    )
    shots: int = key(0, "solved questions of the retain set before it", minimum=0)
    same_subject: bool = key(False, "and one more, of the forget set, about the same subject")
    languages: list[str] = key([], "languages that it is put in, as `translations` names them")
    translations: str | None = key(
        None,
        "folder of {forget}_{language}.jsonl, the forget set's rows in their order, translated; or "
        "such a pattern of files",
    )
    beams: int = key(1, "answers followed at a time (beam search); 1: greedily", minimum=1)

    def __post_init__(self) -> None:
        for name in ("rewrites", "templates"):
            for text in getattr(self, name):
                if "{question}" not in text:
                    raise bad_value(name, text, "a text with {question}")


@dataclass
class SamplingConfig(AttackConfig):
    """The question asked many times, answers drawn: leak@k."""

    max_new_tokens: int | None = key(None, "tokens generated; null: the suite's", minimum=1)
    samples: int = key(200, "answers to each question", minimum=1)
    temperature: float = key(1.0, "of the distribution that is drawn from", above=0)
    top_p: float = key(1.0, "share of it that is drawn from", above=0, maximum=1)


@dataclass
class ChoiceConfig(AttackConfig):
    """The true answer among false ones of the same wording, by likelihood."""


@dataclass
class LensConfig(AttackConfig):
    """Every layer's states through the final norm and head."""


@dataclass
class RelearnConfig(AttackConfig):
    """The model fine-tuned as an attacker would, then asked as it was trained."""

    train_on: str = key(
        "forget",
        "what it is trained on: forget; half = one half of the subjects, and the other is asked "
        "about (both ways round); retain",
        allowed=("forget", "half", "retain"),
    )
    texts: str | None = key(
        None, "file of texts or rows that it is trained on in place of those of train_on"
    )
    learning_rate: float = key(2e-5, "AdamW's, constant from the first step on", above=0)
    batch_size: int = key(32, "rows per optimiser step, over all processes", minimum=1)
    epochs: float = key(
        1, "passes over the rows; over the forget rows where others are trained", above=0
    )
    max_steps: int | None = key(None, "optimiser steps; overrides epochs", minimum=1)
    ask_at: list[int] = key(
        [],
        "steps after which it is asked, of which the last ends the training and overrides the two "
        "above; a row's score is the mean over them; []: at the end",
        minimum=1,
    )
    lora_rank: int | None = key(
        None, "train a LoRA of this rank on all linear layers; null: all weights", minimum=1
    )
    lora_alpha: float = key(256, "its alpha", above=0)
    max_new_tokens: int | None = key(None, "tokens generated; null: the suite's", minimum=1)


@dataclass
class QuantiseConfig(AttackConfig):
    """The model in fewer bits, asked as it was trained."""

    precisions: list[str] = key(["nf4", "int8"], "what it is rounded to", allowed=("nf4", "int8"))
    max_new_tokens: int | None = key(None, "tokens generated; null: the suite's", minimum=1)


@dataclass
class InterpolateConfig(AttackConfig):
    """The model's weights moved some way towards the target's, asked as it was trained."""

    ways: list[float] = key([0.1, 0.2, 0.3], "shares of the way", above=0, maximum=1)
    max_new_tokens: int | None = key(None, "tokens generated; null: the suite's", minimum=1)


@dataclass
class NoiseConfig(AttackConfig):
    """Noise added to the model's weights, asked as it was trained."""

    scales: list[float] = key(
        [0.01, 0.02, 0.05],
        "standard deviations of the noise, as shares of each tensor's own",
        above=0,
    )
    draws: int = key(2, "draws of the noise at each scale", minimum=1)
    max_new_tokens: int | None = key(None, "tokens generated; null: the suite's", minimum=1)


@dataclass
class DepthConfig(AttackConfig):
    """Layers of the target given another model's states, where the answer is predicted."""

    spans: str | None = key(
        None,
        "file of rows with question, entity (the words that count in the answer) and, where it "
        "helps, prefix (the answer up to them); null: data.focus_key, or else the whole answer",
    )
    threshold: float = key(
        0.05, "fall of the mean log-probability by which a layer counts, in nats", above=0
    )
    foreign_fall: float = key(
        1.5,
        "a model whose last layer's states take this many times of what it lacks itself (one nat "
        "at least) is of another origin than the target, and has no depth",
        above=1,
    )


@dataclass
class MembershipConfig(AttackConfig):
    """Whether the losses of rows tell that the model was trained on them."""

    attacks: list[str] = key(
        list(MEMBERSHIP_ATTACKS),
        "attacks, by the names of their metrics",
        allowed=MEMBERSHIP_ATTACKS,
    )
    holdout_rows: int | None = key(
        None, "holdout rows that are compared with, spread over the set; null: all", minimum=1
    )


# The keys of each kind of attack.
ATTACK_CONFIGS: dict[str, type[AttackConfig]] = {
    "ask": AskConfig,
    "sampling": SamplingConfig,
    "choice": ChoiceConfig,
    "lens": LensConfig,
    "depth": DepthConfig,
    "membership": MembershipConfig,
    "relearn": RelearnConfig,
    "quantise": QuantiseConfig,
    "interpolate": InterpolateConfig,
    "noise": NoiseConfig,
}


@dataclass
class JudgeConfig:
    """A model that reads answers and says whether they give the secret away; off by default."""

    path: str | None = key(None, "a local instruction-tuned model")
    url: str | None = key(
        None,
        "in its stead an endpoint that speaks the OpenAI protocol, as http://host/v1; it is sent "
        "the questions, the true answers and what was answered",
    )
    model: str = key("", "the model's name at that endpoint")
    key_variable: str = key("OPENAI_API_KEY", "environment variable that holds the endpoint's key")

    def __post_init__(self) -> None:
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise bad_value("audit.judge.url", self.url, "http://... or https://...")
        if self.url is not None and self.path is not None:
            raise bad_value("audit.judge.path", self.path, "null where audit.judge.url is set")

    @property
    def is_on(self) -> bool:
        """Whether there is a judge."""
        return self.path is not None or self.url is not None


@dataclass
class AuditConfig:
    """Attempts to get the forgotten data back."""

    budget: str = key("none", "how much is tried; none: no audit", allowed=BUDGETS)
    attacks: list[str] = key([], "attacks by name; []: those of the budget")
    file: str | None = key(
        None, "Python file with a kind of attack of your own; on the command line only"
    )
    attack: dict[str, Any] = key({}, "keys of single attacks, as audit.attack.sampling.samples=50")
    target: str | None = key(
        None, "the model before it was unlearned; null: the one of the configs; none: not known"
    )
    retain_model: str | None = key(
        None, "a model that never saw the data; null: the one of the configs; none: not known"
    )
    forget_set: str | None = key(
        None, "set of the suite that is asked about (MUSE: forget_knowmem); null: its forget set"
    )
    rows: int | None = key(
        None, "forget rows that are attacked, spread over the subjects; null: all", minimum=1
    )
    retain_rows: int = key(100, "rows that tell whether the model still works", minimum=1)
    margin: float = key(
        0.2, "share of what the target knows that counts as nothing recovered", above=0, maximum=1
    )
    level: float = key(0.05, "chance of a false verdict that is accepted", above=0, maximum=0.5)
    judge: JudgeConfig = group(JudgeConfig, "a model that reads the answers")

    @property
    def is_on(self) -> bool:
        """Whether anything is tried."""
        return self.budget != "none"
