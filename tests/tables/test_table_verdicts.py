"""Tables of audited runs: a column of words beside those of figures."""

from __future__ import annotations

import json
from pathlib import Path

from made_tables import asked_of, finish, long_rows, made

from undial_cli.tables.render import format_table_markdown
from undial_cli.tables.runs import TableRun

TABLE = """
title: Audited
overrides: [train.max_steps=4]
columns:
  - {metric: [audit_verdict], title: verdict}
  - {metric: [audit_recovered], format: .2f}
rows:
  - {label: target, of: target}
  - {label: undial, overrides: [method=undial]}
  - {label: ga, overrides: [method=ga]}
seeds: [0, 1, 2]
"""


def test_a_table_shows_the_verdicts_of_all_seeds_and_means_of_what_was_recovered(
    tmp_path: Path,
) -> None:
    def act(entry: TableRun) -> None:
        finish(entry, {"audit_recovered": 0.1 * entry.seed})
        word = "leaking" if entry.run.method.name == "ga" and entry.seed == 1 else "suppressed"
        entry.folder.audit.mkdir()
        (entry.folder.audit / "audit.json").write_text(json.dumps({"verdict": {"word": word}}))

    filled = made(asked_of(TABLE, tmp_path), act)
    text = format_table_markdown(filled)
    assert "|  | verdict | audit recovered ↓ |" in text
    assert "| target | - | - |" in text
    assert "| undial | suppressed | 0.10 ± 0.10 |" in text
    assert "| ga | suppressed 2, leaking 1 | 0.10 ± 0.10 |" in text
    rows = long_rows(filled)
    assert [row["mean"] for row in rows if row["column"] == "audit_verdict"] == [
        "", "suppressed", "suppressed 2, leaking 1",
    ]  # fmt: skip


def test_a_table_of_runs_that_were_not_audited_has_gaps(tmp_path: Path) -> None:
    filled = made(asked_of(TABLE, tmp_path), lambda entry: finish(entry, {"forget_rouge": 1.0}))
    assert "| undial | - | - |" in format_table_markdown(filled)
