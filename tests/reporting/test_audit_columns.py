"""The figures of audits where many runs stand side by side, and the paragraph of a model card."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited import make_audit

from undial_cli.evaluation.figures import find_better_direction, find_figure_title
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.summary import make_sweep_table
from undial_cli.runs.compose import compose_run
from undial_cli.runs.model_card import write_model_card


@pytest.mark.parametrize(
    ("name", "title", "better"),
    [
        ("audit_recovered", "audit recovered", "lower"),
        ("audit_few_shot", "audit few shot", "lower"),
        ("audit_rouge", "audit rouge", "lower"),  # an attack of that name is no metric
        ("audit_verdict", "audit verdict", ""),
    ],
)
def test_titles_and_directions(name: str, title: str, better: str) -> None:
    assert find_figure_title(name) == title
    assert find_better_direction(name) == better


def test_the_table_of_a_sweep_has_what_was_recovered() -> None:
    results = {"metrics": {"forget_rouge": 0.3, "audit_recovered": 0.75, "audit_direct": 0.1}}
    table = make_sweep_table([RunRecord(Path("a"), "done", label="a", results=results)], "t")
    assert [str(column.header).strip() for column in table.columns] == [
        "run", "status", "forget rouge", "audit recovered",
    ]  # fmt: skip


def test_the_card_of_an_audited_run_has_a_paragraph_and_no_columns_of_it(tmp_path: Path) -> None:
    results = {"metrics": {"forget_rouge": 0.25, "audit_recovered": 0.75}, "target": {}}
    run = compose_run("unlearn", [])
    write_model_card(run, tmp_path, results)
    assert "## Audit" not in (tmp_path / "README.md").read_text()
    write_model_card(run, tmp_path, results, make_audit())
    text = (tmp_path / "README.md").read_text()
    assert "## Audit\n\n`undial audit` tried 4 attacks" in text
    assert "**suppressed**" in text
    assert "audit_recovered" not in text
    assert "models/unlearned" not in text
