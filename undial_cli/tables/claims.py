"""Where a claim of the paper holds in a table's figures, and where it does not, in words.

A place is a section, column group and column; it counts where all rows of the claim have a figure
there. Knows cells and thresholds only.
"""

from __future__ import annotations

from undial_cli.config.tables import ClaimConfig
from undial_cli.tables.figures import FilledTable
from undial_cli.tables.runs import TableLine


def judge_claims(filled: FilledTable) -> list[str]:
    """The verdict on each claim of the table, in a few sentences for a caption."""
    return [judge_claim(filled, claim) for claim in filled.table.claims]


def judge_claim(filled: FilledTable, claim: ClaimConfig) -> str:
    """Look at every place of a claim, and say where it holds, where not and why."""
    holds: list[str] = []
    fails: list[str] = []
    unknown = 0
    named = [line for line in filled.lines if not line.row.of]
    for section in dict.fromkeys(line.section for line in named):
        rows = {line.row.label: line for line in named if line.section == section}
        if not {*claim.keeps, *claim.loses} <= set(rows):
            continue
        for across in filled.groups:
            for number, name in enumerate(claim.columns):
                column = filled.column(name)
                title = column.title if column.step is None else f"{column.step} steps"
                where = ", ".join(filter(None, (section, across, title)))
                reasons = list_counter_evidence(filled, claim, rows, across, number)
                if reasons is None:
                    unknown += 1
                elif reasons:
                    fails.append(f"{where} ({'; '.join(reasons)})")
                else:
                    holds.append(where)
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
    filled: FilledTable, claim: ClaimConfig, rows: dict[str, TableLine], across: str, number: int
) -> list[str] | None:
    """What speaks against a claim in a place; None where a figure is missing."""
    reasons: list[str] = []
    for name in (*claim.keeps, *claim.loses):
        ours, start = pair_with_target(filled, rows[name], across, claim.columns[number])
        if ours is None or start is None:
            return None
        kept = ours >= claim.kept * start
        if kept != (name in claim.keeps):
            reasons.append(
                f"{name} {'keeps' if kept else 'loses'} it ({format_share(ours, start)})"
            )
        elif kept and claim.forget:
            left, first = pair_with_target(filled, rows[name], across, claim.forget[number])
            if left is None or first is None:
                return None
            if left > claim.forgotten * first:
                reasons.append(f"{name} has hardly forgotten ({format_share(left, first)} left)")
    return reasons


def pair_with_target(
    filled: FilledTable, line: TableLine, across: str, column: str
) -> tuple[float | None, float | None]:
    """Our figure and the target's."""
    mean = filled.cell(line, across, column).mean
    return mean, filled.mark("target", line, across, filled.column(column))


def format_share(ours: float, start: float) -> str:
    """A figure as a share of the target's."""
    return f"{ours / start:.0%}" if start else f"{ours:.2g}"
