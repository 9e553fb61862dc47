"""Whether a claim of the paper holds in a table's figures: where it does, where not, in words.

A claim is judged in each section, column group and column whose lines all have a figure. Knows
cells and thresholds only.
"""

from __future__ import annotations

from undial_cli.config.tables import ClaimConfig
from undial_cli.tables.figures import FilledTable
from undial_cli.tables.runs import TableLine


def judge_claim(filled: FilledTable, claim: ClaimConfig) -> str:
    """The verdict on a claim, in a few sentences for a caption."""
    holds: list[str] = []
    fails: list[str] = []
    unknown = 0
    named = [line for line in filled.lines if not line.row.of]
    for section in dict.fromkeys(line.section for line in named):
        lines = {line.row.label: line for line in named if line.section == section}
        if not {*claim.keeps, *claim.loses} <= set(lines):
            continue
        for group in filled.groups:
            for number, name in enumerate(claim.columns):
                column = filled.column(name)
                title = column.title if column.step is None else f"{column.step} steps"
                position = ", ".join(filter(None, (section, group, title)))
                reasons = list_counter_evidence(filled, claim, lines, group, number)
                if reasons is None:
                    unknown += 1
                elif reasons:
                    fails.append(f"{position} ({'; '.join(reasons)})")
                else:
                    holds.append(position)
    bounds = f"kept: at least {claim.kept:.0%} of the target's figure"
    if claim.forget:
        bounds += f", and forgotten: at most {claim.forgotten:.0%} of it left"
    text = f"Claim: {claim.text} ({bounds})."
    total = len(holds) + len(fails) + unknown
    if holds:
        text += f" It holds in {len(holds)} of {total} places: {' | '.join(holds)}."
    if fails:
        text += f" It does not hold in {len(fails)} of {total}: {' | '.join(fails)}."
    if unknown:
        text += f" Figures are missing in {unknown} of {total}."
    return text if total else f"{text} No row of the table that is shown bears on it."


def list_counter_evidence(
    filled: FilledTable, claim: ClaimConfig, lines: dict[str, TableLine], group: str, number: int
) -> list[str] | None:
    """What speaks against a claim in one of its columns; None where a figure is missing."""

    def pair_with_target(label: str, column: str) -> tuple[float | None, float | None]:
        mean = filled.cell(lines[label], group, column).mean
        return mean, filled.mark("target", lines[label], group, filled.column(column))

    reasons: list[str] = []
    for label in (*claim.keeps, *claim.loses):
        ours, start = pair_with_target(label, claim.columns[number])
        if ours is None or start is None:
            return None
        keeps = ours >= claim.kept * start
        if keeps != (label in claim.keeps):
            verb = "keeps" if keeps else "loses"
            reasons.append(f"{label} {verb} it ({format_share(ours, start)})")
        elif keeps and claim.forget:
            # who forgets nothing keeps everything: that is no merit
            left, first = pair_with_target(label, claim.forget[number])
            if left is None or first is None:
                return None
            if left > claim.forgotten * first:
                reasons.append(f"{label} has hardly forgotten ({format_share(left, first)} left)")
    return reasons


def format_share(ours: float, start: float) -> str:
    """A figure as a share of the target's; of a target's 0 the figure itself."""
    return f"{ours / start:.0%}" if start else f"{ours:.2g}"
