"""The keys of an evaluation suite: its sets, their metrics, the models and tasks behind them.

As schema.py: types, defaults, ranges and lines of `--help`. Imports neither torch nor hydra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import group, key, unescape_text

# As a set's split: the forget set itself, wherever it comes from.
FORGET_SET = "{forget}"
# The kind of a set whose questions come with choices.
MULTIPLE_CHOICE = "choice"
FORGET, RETAIN, HOLDOUT, OTHER = SET_ROLES = ("forget", "retain", "holdout", "other")


@dataclass
class EvalSetConfig:
    """One named set: where its rows come from, how they are asked, and the metrics on it."""

    split: Any = key(
        None,
        "split of the data set, or CONFIG/SPLIT, or a file, or a list of them; null, and no path: "
        "left out",
        several=True,
    )
    metrics: list[str] = key(
        ["probability", "rouge", "truth_ratio", "exact_memorization"], "metrics on this set"
    )
    role: str | None = key(
        None,
        "what the set is for, which decides how its figures are read; null: forget and holdout by "
        "these very names, retain for all others",
        allowed=SET_ROLES,
    )
    path: str | None = key(None, "hub id, folder or file of this set; null: data.path")
    optional: bool = key(False, "where it is not there: reported as missing, not refused")
    where: dict[str, Any] = key(
        {},
        "by column: the value, or the values, of the rows that are taken, or {not: these}; * "
        "stands for any text; null: any row",
    )
    kind: str = key(
        "auto",
        "how a row is asked: question (model's template), few_shot, continuation, document, choice "
        "(multiple choice, by likelihood); auto: by its columns",
        allowed=("auto", "question", "few_shot", "continuation", "document", MULTIPLE_CHOICE),
    )
    question_key: str | None = key(None, "column of the question or prompt; null: the data's")
    answer_key: str | None = key(None, "column of the reference answer; null: the data's")
    text_key: str | None = key(None, "column of a document; null: the data's")
    prompt: str | None = key(
        None,
        "text around a question or a text to be continued: holds {question}, and may hold other "
        "columns in braces; null: nothing. Of a choice: it is asked in the model's format, "
        "{choices} stands for the lettered ones, and a column of solved questions is written out",
    )
    answer_prefix: str | None = key(
        None,
        "text that every answer to a question (or choice with a prompt) begins with, given and "
        "not scored",
    )
    stop: list[str] = key([], "texts that end a generation")
    group_by: str | None = key(
        None, "column by whose values the figures are given as well (SET_VALUE_METRIC)"
    )
    shots: str | None = key(None, "split of the solved examples, for few_shot and choice")
    match: str = key(
        "verbatim",
        "what exact_match compares: verbatim, case and outer blanks aside (LUME); words, without "
        "case, punctuation and articles (SQuAD)",
        allowed=("verbatim", "words"),
    )
    answer_pattern: str | None = key(
        None,
        "regular expression: of a generation the part in its parentheses is compared; where it is "
        "not found, all",
    )
    choices: Any = key(
        "choices",
        "of a choice: the column that lists the choices, or the columns that hold one each; the "
        "answer's column has the right one's index (from 0) or letter, unless the cell itself has "
        "choices and labels, 1 for the right one",
        several=True,
    )
    lettered: bool = key(
        True,
        "of a choice: the choices stand in the prompt as A, B, ..., and the letters are scored; "
        "false: the choices themselves are",
    )
    instruction: str | None = key(
        None, "of a choice: text before all questions; {subject}: the row's data.subject_key"
    )
    max_new_tokens: int | None = key(None, "null: eval.max_new_tokens", minimum=1)
    top_p: float | None = key(None, "sample with this nucleus; null: greedy", above=0, maximum=1)
    top_k: int | None = key(
        None, "sample from that many likeliest tokens, before top_p; null: from all", minimum=1
    )
    rouge: str = key(
        "recall",
        "recall, stemmed (TOFU); f1, not stemmed (MUSE); union_recall, sentence by sentence (RWKU)",
        allowed=("recall", "f1", "union_recall"),
    )
    normalise_probability: bool = key(False, "probability as p / (p + sum of the perturbed p)")
    max_tokens: int | None = key(
        None,
        "a document counts up to this, a choice from its end; null: all of it, a document in "
        "pieces of data.max_length",
        minimum=2,
    )
    min_tokens: int | None = key(None, "shorter documents are left out", minimum=2)
    exclude: str | None = key(None, "documents that hold this text are left out")
    prompt_tokens: int = key(32, "tokens of a document that a generation starts from", minimum=1)
    prefixes: str = key(
        "all",
        "prefixes of el_N: all (Jang et al.), or authors: 40, 80, 120 and 160, sampled with top_p "
        "(null: 0.95) and top_k (null: 50)",
        allowed=("all", "authors"),
    )
    stride: int = key(1, "distance of the prefixes of el_N, in tokens", minimum=1)
    rows_per_subject: int | None = key(
        None,
        "rows of one person, which follow each other, where no column data.subject_key says who; "
        "null: every row is a subject of its own",
        minimum=1,
    )

    def __post_init__(self) -> None:
        self.instruction = self.instruction and unescape_text(self.instruction)
        self.prompt = self.prompt and unescape_text(self.prompt)
        self.answer_prefix = self.answer_prefix and unescape_text(self.answer_prefix)
        self.stop = [unescape_text(text) for text in self.stop]


@dataclass
class CombinedFigureConfig:
    """A figure made of others."""

    figures: list[str] = key(
        [], "figures by their names in results.json, or expressions: 1 - forget_rouge"
    )
    mean: str = key(
        "arithmetic",
        "mean of them; pooled: of the samples behind figures of single sets",
        allowed=("arithmetic", "harmonic", "pooled"),
    )


@dataclass
class HarnessConfig:
    """General ability, by lm-evaluation-harness (extra `harness`)."""

    tasks: list[str] = key([], "tasks of lm-evaluation-harness")
    include_path: str | None = key(None, "folder with task YAML files of your own")
    num_fewshot: int | None = key(
        None, "solved examples in the prompt; null: the task's", minimum=0
    )


@dataclass
class VerdictConfig:
    """When a model has forgotten, in a word."""

    margin: float = key(
        0.2, "share of what the target knows that counts as nothing left", above=0, maximum=1
    )
    least_gap: float = key(
        0.1, "figures in which target and retain model differ by less tell nothing", above=0
    )
    least_samples: int = key(10, "figures of fewer samples tell nothing", minimum=2)
    least_utility: float = key(
        0.5, "a smaller share left of utility or fluency is damage", above=0, maximum=1
    )


@dataclass
class EvalConfig:
    """The evaluation suite."""

    name: str = key("none", "name of the suite")
    data: list[str] = key([], "data sets it belongs to; []: any")
    sets: dict[str, EvalSetConfig] = key({}, "named sets, each with its metrics")
    metric_file: str | None = key(
        None, "metrics of your own: a Python file (on the command line only)"
    )
    metrics: list[str] = key([], "metrics that join sets (model_utility, forget_quality, ...)")
    joint_sets: dict[str, Any] = key(
        {}, "by such a metric, the sets that it reads by role: mia_loss: {forget: SET, ...}"
    )
    combine: dict[str, CombinedFigureConfig] = key(
        {}, "figures made of others, by name; later ones may be made of earlier ones"
    )
    translations: str | None = key(
        None, "folder of translated sets, of which eval=tofu_languages has one a language"
    )
    utility: list[str] = key([], "sets whose figures model_utility averages")
    retain_model: str | None = key(
        None,
        "retain model, or its results (results.json, TOFU_EVAL.json); null: the one that belongs "
        "to the data; none: none",
    )
    compare_target: bool = key(
        False,
        "evaluate: also the data's own target where its figures are not in the cache yet, for "
        "scores that are relative to it",
    )
    intervals: bool = key(False, "n and intervals in the table on the screen")
    retrain_auc: float | None = key(
        None,
        "for privleak without a retain model: a published P(holdout > forget) of Min-40%",
        above=0,
        maximum=1,
    )
    backend: str = key(
        "transformers", "what generates: transformers, or vllm", allowed=("transformers", "vllm")
    )
    limit: int | None = key(None, "first rows of each set only", minimum=1)
    batch_size: int = key(32, "sequences per forward pass", minimum=1)
    max_new_tokens: int = key(200, "tokens generated per answer", minimum=1)
    oracle_model: str | None = key(None, "language model behind `perplexity`")
    oracle_tokens: int | None = key(None, "a text counts up to this; null: all of it", minimum=2)
    similarity_model: str | None = key(None, "sentence embedder behind `similarity`")
    coherence_model: str | None = key(None, "sentence embedder behind `coherence`")
    coherence_tokens: int | None = key(
        None, "a text counts up to this; null: what the model can see", minimum=2
    )
    mauve_model: str | None = key(None, "language model whose features `mauve` compares")
    gibberish_model: str | None = key(None, "text classifier behind `gibberish`")
    gibberish_tokens: int | None = key(
        32, "a generation counts up to this; null: what the model can see", minimum=2
    )
    allow_pickle: bool = key(False, "read pickled weights of these models; runs no code")
    verdict: VerdictConfig = group(VerdictConfig, "when a model has forgotten")
    harness: HarnessConfig = group(HarnessConfig, "general ability")
    store_text: str = key("full", "text in samples.jsonl", allowed=("full", "none"))


def resolve_role(name: str, options: EvalSetConfig) -> str:
    """What a set is for: stated, or by default."""
    return options.role or (name if name in (FORGET, HOLDOUT) else RETAIN)


def find_set_of_role(config: EvalConfig, role: str, metric: str = "") -> str | None:
    """The set that joint metrics read for a role: the one named after it, or the only one.

    Args:
        metric: of which one, where it may read others (eval.joint_sets).
    """
    stated = config.joint_sets.get(metric, {}).get(role)
    if stated is not None:
        return stated
    names = [name for name, options in config.sets.items() if resolve_role(name, options) == role]
    if role in names:
        return role
    return names[0] if len(names) == 1 else None


def guess_role(set_name: str) -> str:
    """What a set was for by its name alone, of results that do not state it."""
    if set_name.startswith((FORGET, "request")):
        return FORGET
    return HOLDOUT if set_name.startswith(HOLDOUT) else RETAIN
