"""Where a claim of the paper holds in a table's figures, and where it does not, in words.

A place is a section, column group and column; it counts where all rows of the claim have a figure
there. Knows cells and thresholds only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from undial_cli.tables.config import ClaimConfig
from undial_cli.tables.figures import Filled
from undial_cli.tables.runs import Line


@dataclass
class Verdict:
    """A claim with the places where it holds, where not and why, and where figures are missing."""

    claim: ClaimConfig
    holds: list[str] = field(default_factory=list)
    fails: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def judge(filled: Filled) -> list[Verdict]:
    """The verdict on each claim of the table."""
    return [of_claim(filled, claim) for claim in filled.table.claims]


def of_claim(filled: Filled, claim: ClaimConfig) -> Verdict:
    """Look at every place of a claim."""
    verdict = Verdict(claim)
    named = [line for line in filled.lines if not line.row.of]
    sections = list(dict.fromkeys(line.section for line in named))
    for section in sections:
        rows = {line.row.label: line for line in named if line.section == section}
        for across in filled.groups:
            for number, column in enumerate(claim.columns):
                place = called(filled, section, across, column)
                asked = [name for name in (*claim.keeps, *claim.loses) if name in rows]
                if len(asked) < len(claim.keeps) + len(claim.loses):
                    continue
                reasons = against(filled, claim, rows, across, number)
                if reasons is None:
                    verdict.unknown.append(place)
                elif reasons:
                    verdict.fails.append((place, "; ".join(reasons)))
                else:
                    verdict.holds.append(place)
    return verdict


def against(
    filled: Filled, claim: ClaimConfig, rows: dict[str, Line], across: str, number: int
) -> list[str] | None:
    """What speaks against a claim in a place; None where a figure is missing."""
    column = claim.columns[number]
    gone = claim.forget[number] if claim.forget else None
    found: list[str] = []
    for name in (*claim.keeps, *claim.loses):
        ours = filled.cell(rows[name], across, column).mean
        start = filled.mark("target", rows[name], across, column)
        if ours is None or start is None:
            return None
        kept = ours >= claim.kept * start
        if kept != (name in claim.keeps):
            found.append(f"{name} {'keeps' if kept else 'loses'} it ({share(ours, start)})")
        elif kept and gone is not None:
            left = filled.cell(rows[name], across, gone).mean
            first = filled.mark("target", rows[name], across, gone)
            if left is None or first is None:
                return None
            if left > claim.forgotten * first:
                found.append(f"{name} has hardly forgotten ({share(left, first)} left)")
    return found


def share(ours: float, start: float) -> str:
    """A figure as a share of the target's."""
    return f"{ours / start:.0%}" if start else f"{ours:.2g}"


def called(filled: Filled, section: str, across: str, column: str) -> str:
    """A place in words."""
    config = next(c for c in filled.table.columns if c.name == column)
    where = config.title if config.step is None else f"{config.step} steps"
    return ", ".join(part for part in (section, across, where) if part)


def words(verdict: Verdict) -> str:
    """The verdict as a few sentences for a caption."""
    claim = verdict.claim
    bounds = f"kept: at least {claim.kept:.0%} of the target's figure"
    if claim.forget:
        bounds += f", and forgotten: at most {claim.forgotten:.0%} of it left"
    total = len(verdict.holds) + len(verdict.fails) + len(verdict.unknown)
    text = f"Claim: {claim.text} ({bounds})."
    if verdict.holds:
        text += f" It holds in {len(verdict.holds)} of {total} places: {listed(verdict.holds)}."
    if verdict.fails:
        places = [f"{place} ({reason})" for place, reason in verdict.fails]
        text += f" It does not hold in {len(places)} of {total}: {listed(places)}."
    if verdict.unknown:
        text += f" Figures are missing in {len(verdict.unknown)} of {total}."
    return text if total else f"{text} No row of the table that is shown bears on it."


def listed(places: list[str]) -> str:
    """Places in a row; the separator is not one that a place holds."""
    return " | ".join(places)
