"""What `undial alternatives` says at its end: how many answers were drawn, taken, refused and why.

Reads alternatives.json, so that it can be shown again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.system.files import parse_json

MOST_ROWS = 12


def show_alternatives(file: Path) -> None:
    """Print the counts of the run that left `file`."""
    for line in describe_alternatives(dict(parse_json(file.read_text(encoding="utf-8")))):
        ui.say(line)


def describe_alternatives(counts: Mapping[str, Any]) -> list[str]:
    """The counts of alternatives.json in words, a line each."""
    rows, enough, count = counts["rows"], counts["rows_with_enough"], counts["count"]
    refused = ", ".join(f"{number:,} {reason}" for reason, number in counts["refused"].items())
    lines = [
        f"{counts['drawn']:,} {counts['kind']} drawn for {rows:,} rows in {counts['rounds']} "
        f"rounds, {counts['taken']:,} taken; refused: {refused or 'none'}",
        f"{enough:,} of {rows:,} rows ({enough / rows:.0%}) have {count}",
    ]
    if counts["rows_with_fewer"]:
        fewer = [f"{row} ({size})" for row, size in counts["rows_with_fewer"].items()]
        lines.append(f"{len(fewer):,} have fewer: rows {list_rows(fewer)}")
    if counts["rows_with_none"]:
        none = counts["rows_with_none"]
        lines.append(
            f"{len(none):,} have none, and one line of data.refusals in its place: rows "
            f"{list_rows(none)}"
        )
    if counts["rows_without_facts"]:
        facts = counts["rows_without_facts"]
        lines.append(
            f"of {len(facts):,} true answers no word is a fact that the question does not hold, so "
            f"that another answer was only told from them as a whole: rows {list_rows(facts)}"
        )
    use = (
        "method=altpo" if counts["kind"] == "answers" else "method=idkdpo method.alternatives=data"
    )
    return [*lines, f"written: {counts['file']}; for {use} data.alternatives_file={counts['file']}"]


def list_rows(rows: Sequence[object]) -> str:
    """Numbers of rows, the first few."""
    more = f" and {len(rows) - MOST_ROWS:,} more" if len(rows) > MOST_ROWS else ""
    return ", ".join(map(str, rows[:MOST_ROWS])) + more
