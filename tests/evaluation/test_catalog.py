"""Metrics of one sample, by their entries."""

from __future__ import annotations

import zlib

import pytest

from undial_cli.config.suites import EvalSetConfig
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evidence import Evidence
from undial_cli.evaluation.prompts import PromptItem
from undial_cli.evaluation.scoring import Score


def test_a_documents_zlib_score_is_of_all_its_text() -> None:
    document = PromptItem("forget", 0, "the old ", "river", [1], document=[1, 2])
    answer = PromptItem("forget", 0, "who?", "river", [1])
    assert (document.scored, answer.scored) == ("the old river", "river")
    found = Evidence(EvalSetConfig("a"), "river", document.scored, {"answer": [Score([2.0], [])]})
    expected = 2.0 / len(zlib.compress(b"the old river"))
    assert METRICS["mia_zlib"].sample(found) == pytest.approx(expected)
