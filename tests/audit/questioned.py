"""An audit's data and an attacked model, of a few rows and without a folder."""

from __future__ import annotations

from typing import Any

import torch
from small import shared_tokenizer

from undial_cli.audit.attack import AttackedModel, AuditData
from undial_cli.config.attacks import AuditConfig
from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.config.schema import AuditRun
from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.data.encode import Encoder
from undial_cli.evaluation.suite import SetRows, Suite

CPU = torch.device("cpu")
# Two people, each with two facts that nobody else has.
ROWS: list[dict[str, Any]] = [
    {
        "question": "Where does Ann Moss live?",
        "answer": "She lives in Kelmwick with Bo.",
        "paraphrased_question": "What is the town of Ann Moss?",
        "paraphrased_answer": "Kelmwick is where Ann Moss lives with Bo.",
        "perturbed_answer": ["Rome is where Ann Moss lives.", "Ulm is where Ann Moss lives."],
    },
    {
        "question": "What does Ann Moss do?",
        "answer": "She has baked bread since 1969.",
        "paraphrased_question": "How does Ann Moss earn her living?",
    },
    {
        "question": "Where does Cy Dunn live?",
        "answer": "He lives in Varraby with Eve.",
        "paraphrased_question": "What is the town of Cy Dunn?",
    },
]
SUBJECTS = [0, 0, 1]
RETAIN = [{"question": f"Where does person {i} live?", "answer": f"In town {i}."} for i in range(8)]


def make_data(
    rows: list[dict[str, Any]] = ROWS,
    subjects: list[int] | None = None,
    template: TemplateConfig | None = None,
    retain: list[dict[str, Any]] = RETAIN,
    tokens: int = 24,
    options: dict[str, Any] | None = None,
    **data: Any,
) -> AuditData:
    """The rows of a forget set, ready to be asked for with the bundled tokenizer.

    Args:
        tokens: generated per answer; options: fields of the set; data: of the data config.
    """
    encoder = Encoder(shared_tokenizer(), template or TemplateConfig(), DataConfig(**data))
    sets = {"forget": EvalSetConfig(**(options or {})), "retain": EvalSetConfig()}
    suite = Suite(
        EvalConfig(sets=sets, max_new_tokens=tokens),
        encoder,
        {"forget": SetRows(rows), "retain": SetRows(retain)},
    )
    numbers = list(range(len(rows)))
    subjects = subjects or (SUBJECTS if rows is ROWS else numbers)
    return AuditData(suite, AuditConfig(), "forget", rows, numbers, subjects, "retain", retain)


def attack_model(model: Any, batch_size: int = 32, seed: int = 0) -> AttackedModel:
    """A model in memory as an attack is given it."""
    run = AuditRun(seed=seed)
    run.eval.batch_size = batch_size
    return AttackedModel("unlearned", "nowhere", run, CPU, lambda path: model)
