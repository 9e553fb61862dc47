"""The forget and retain sets, and how their rows are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import key


@dataclass
class DataConfig:
    """Forget and retain sets. A split may carry a slice: `forget05_perturbed[:160]`."""

    name: str = key("", "short name of the data set; selects model.targets")
    path: str | None = key(None, "hub id, or a folder of the same layout")
    forget_split: str | None = key(None, "what is to be forgotten")
    retain_split: str | None = key(None, "what is to be kept; null: what retain_of says")
    retain_of: dict[str, str] = key({}, "the retain split that belongs to each forget split")
    holdout_of: dict[str, str] = key({}, "the holdout split that belongs to each forget split")
    train_split: list[str] = key([], "what a target model is fine-tuned on")
    reference_split: list[str] = key([], "what a retain model is tuned on; []: retain_split")
    where: dict[str, Any] = key(
        {},
        "by column: the value, or the values, of the forget rows that are taken, or {not: these}; "
        "* stands for any text; null: any row",
    )
    forget_file: Any = key(
        None, "JSONL, JSON, CSV, Parquet or text file, as a split; or a list of them", several=True
    )
    retain_file: Any = key(None, "as forget_file", several=True)
    train_file: Any = key(None, "as forget_file; for finetune", several=True)
    retrain_auc: float | None = key(
        None, "published P(holdout > forget) of a retrained model", above=0, maximum=1
    )
    max_length: int = key(512, "tokens per sequence; longer ones are cut", minimum=2)
    max_pieces: int | None = key(
        4096, "pieces that one document may be cut into; more are refused; null: any", minimum=1
    )
    turns: str = key("all", "assistant turns of messages that are answers", allowed=("all", "last"))
    joined: bool = key(False, "documents of a set are joined by a blank line before they are cut")
    limit: int | None = key(None, "first rows of each training set only", minimum=1)
    anchor: str = key("forget", "set that an epoch counts", allowed=("forget", "retain"))
    question_key: str = key("question", "column of the question")
    answer_key: str = key("answer", "column of the answer")
    text_key: str = key("text", "column of a plain document, cut into max_length pieces")
    subject_key: str = key(
        "subject", "column that says whom a row is about: intervals resample persons, not rows"
    )
    focus_key: str = key("focus", "column of the words to focus on, for method.focus=column")
    alternative_key: str = key("alternative_answers", "column of answers to prefer (altpo)")
    alternatives_file: str | None = key(
        None, "file of the forget rows with that column (undial alternatives); null: they have it"
    )
    refusals: str | None = key(None, "file of answers like 'I don't know'; null: the shipped ones")
    requests: list[str] = key([], "forget splits unlearned one after the other, see experiment")
