"""Claims of the paper against figures: where they hold, where not, and in which words."""

from __future__ import annotations

from pathlib import Path

from made_tables import asked_of, finish, made

from undial_cli.tables.claims import judge_claim
from undial_cli.tables.runs import TableRun

TABLE = """
title: t
overrides: [train.max_steps=4]
sections: {slow: [train.epochs=1], fast: [train.epochs=3], gone: [train.epochs=2]}
columns:
  - {name: forget, metric: [forget_rouge], better: lower}
  - {name: retain, metric: [retain_rouge], title: utility, better: higher}
rows:
  - {label: target, of: target}
  - {label: undial, overrides: [method=undial]}
  - {label: ga, overrides: [method=ga]}
claims:
  - text: one keeps it and the other does not
    columns: [retain]
    forget: [forget]
    keeps: [undial]
    loses: [ga]
    kept: 0.8
    forgotten: 0.5
"""


def verdict_of(folder: Path, figures: dict[tuple[str, str], tuple[float, float]]) -> str:
    """Words on the claim, given (forget, retain) by (section, row); the target's are (0.9, 1)."""

    def act(entry: TableRun) -> None:
        found = figures.get((entry.line.section, entry.line.row.label))
        if found is not None:
            metrics = {"forget_rouge": found[0], "retain_rouge": found[1]}
            finish(entry, metrics, target={"forget_rouge": 0.9, "retain_rouge": 1.0})

    filled = made(asked_of(TABLE, folder), act)
    (claim,) = filled.table.claims
    return judge_claim(filled, claim)


def test_holds_fails_and_is_unknown(tmp_path: Path) -> None:
    text = verdict_of(
        tmp_path,
        {
            ("slow", "undial"): (0.45, 0.80),  # on both bounds
            ("slow", "ga"): (0.0, 0.79),
            ("fast", "undial"): (0.1, 0.7),
            ("fast", "ga"): (0.0, 0.85),
            ("gone", "undial"): (0.1, 0.9),
        },
    )
    assert text.startswith("Claim: one keeps it and the other does not (kept: at least 80% of the")
    assert "It holds in 1 of 3 places: slow, utility." in text
    assert (
        "It does not hold in 1 of 3: fast, utility (undial loses it (70%); ga keeps it (85%))"
        in (text)
    )
    assert "Figures are missing in 1 of 3." in text


def test_what_has_not_forgotten_keeps_nothing(tmp_path: Path) -> None:
    text = verdict_of(tmp_path, {("slow", "undial"): (0.88, 1.0), ("slow", "ga"): (0.0, 0.1)})
    assert "It holds in" not in text
    assert "undial has hardly forgotten (98% left)" in text
