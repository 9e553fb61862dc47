"""What is shown of an audit, as Sheets: its attacks, what still works, what leaked.

Page, Markdown, CSV and screen show the same cells. Knows no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undial_cli.reporting.audit_leaks import Leak
from undial_cli.reporting.audit_record import (
    AUDITED_ROLES,
    AttackFigures,
    AuditRecord,
    read_attack,
    read_interval,
)
from undial_cli.reporting.audit_words import format_bounds, format_recovered_share, name_score
from undial_cli.reporting.cells import MOST_LETTERS_OF_EXAMPLE, shorten_text
from undial_cli.reporting.collect import RunRecord, get_part
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_text_sheet
from undial_cli.reporting.text import format_figure, parse_number

WORK_TITLES = {
    "retain_rouge": "ROUGE-L on the retain set",
    "fluency": "share of answers that are text",
}
AUDIT_CSV_HEADER = (
    "attack", "kind", "score", "is_verdict_score", "n",
    *(f"{role}_{when}" for role in AUDITED_ROLES for when in ("plain", "attacked")),
    "recovered", "interval_low", "interval_high", "p", "p_holm",
)  # fmt: skip


def make_attack_sheet(record: AuditRecord, every_score: bool = False) -> Sheet:
    """A row per attack, the strongest first: each model without and under it, what it recovered.

    Args:
        every_score: a row for each score of each attack, grouped by attack.
    """
    columns = [Column("attack", numeric=False), Column("score", numeric=False)]
    columns += [Column(AUDITED_ROLES[role]) for role in record.roles]
    # without a retain model nothing is known of it
    known = any(attack.recovered is not None for attack in record.attacks())
    if known:
        columns += [Column("recovered"), Column(f"{record.confidence} interval")]
        columns += [Column("p (Holm)")]
    rows = []
    for attack in record.attacks():
        scores = list_scores(record, attack) if every_score else [attack]
        for figures in scores:
            cells = [Cell(attack.name), Cell(name_score(figures.score))]
            cells += [make_role_cell(figures, role) for role in record.roles]
            if known:
                cells += [
                    Cell(format_recovered_share(figures.recovered), figures.recovered),
                    Cell(format_bounds(figures.interval)),
                    Cell(format_figure(figures.p_holm), figures.p_holm),
                ]
            rows.append(SheetRow(cells, note=attack.title, hint=attack.title))
    return Sheet("", columns, rows)


def list_scores(record: AuditRecord, attack: AttackFigures) -> list[AttackFigures]:
    """An attack by all of its scores, that of its verdict first."""
    content = record.content["attacks"][attack.name]
    scores = sorted(get_part(content, "scores"), key=lambda name: name != attack.score)
    return [read_attack(attack.name, content, name) for name in scores]


def make_role_cell(attack: AttackFigures, role: str) -> Cell:
    """A model's score without and under an attack; sorted by the latter."""
    plain, attacked = attack.plain.get(role), attack.attacked.get(role)
    if plain is None or plain == attacked:
        return Cell(format_figure(attacked), attacked)
    return Cell(f"{format_figure(plain)} → {format_figure(attacked)}", attacked)


def make_audits_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """A row per run that was audited: the verdict, and what its strongest attack recovered."""
    columns = [Column(title, numeric=False) for title in ("run", "verdict", "strongest attack")]
    columns += [Column("recovered"), Column("interval")]
    rows = []
    for run in runs:
        if run.audit:
            record = AuditRecord(run.audit)
            strongest = record.strongest()
            name = f"{strongest.name} ({strongest.title})" if strongest else "–"
            recovered = strongest.recovered if strongest else None
            cells = [Cell(run.label), Cell(record.word), Cell(name)]
            cells += [Cell(format_recovered_share(recovered), recovered)]
            cells += [Cell(format_bounds(strongest.interval if strongest else None))]
            rows.append(SheetRow(cells, hint=run.label))
    return Sheet("", columns, rows)


def make_works_sheet(record: AuditRecord) -> Sheet:
    """What must not be lost, of each model, and the share that the unlearned one has left."""
    columns = [Column("what must stay", numeric=False)]
    columns += [Column(AUDITED_ROLES[role]) for role in record.roles]
    columns += [Column("share left"), Column("", numeric=False)]
    rows = []
    for name, stated in get_part(record.content, "works").items():
        known = stated if isinstance(stated, dict) else {}
        figures = [parse_number(known.get(role)) for role in record.roles]
        if any(figure is not None for figure in figures):
            cells = [Cell(format_figure(figure), figure) for figure in figures]
            left = parse_number(known.get("share_left"))
            bounds = read_interval(known.get("share_interval"))
            text = f"{format_recovered_share(left)} {format_bounds(bounds)}".removesuffix(" –")
            cells += [Cell(text, left), Cell("lost" if known.get("lost") else "", style="red")]
            rows.append(SheetRow([Cell(WORK_TITLES.get(name, name)), *cells], hint=name))
    return Sheet("", columns, rows)


def make_leak_sheet(leaks: Sequence[Leak]) -> Sheet:
    """A few leaks as text, for Markdown."""
    rows = []
    for leak in leaks:
        texts = [leak.prompt, leak.answer, leak.text]
        texts = [shorten_text(text, MOST_LETTERS_OF_EXAMPLE) for text in texts]
        score = f"{format_figure(leak.score)} ({format_figure(leak.retain_score)})"
        rows.append([str(leak.row), leak.attack, *texts, "yes" if leak.full else "", score])
    heads = ["row", "attack", "prompt", "true answer", "said", "all key facts"]
    return make_text_sheet([*heads, "score (retain model)"], rows)


def list_csv_rows(record: AuditRecord) -> list[Sequence[Any]]:
    """One line for each attack and score, unrounded, for audit.csv."""
    rows: list[Sequence[Any]] = [AUDIT_CSV_HEADER]
    for attack in record.attacks():
        content = record.content["attacks"][attack.name]
        for figures in list_scores(record, attack):
            stated = get_part(get_part(content, "scores"), figures.score)
            means = [
                known.get(role)
                for role in AUDITED_ROLES
                for known in (figures.plain, figures.attacked)
            ]
            bounds = figures.interval or (None, None)
            is_verdict = str(figures.score == attack.score).lower()
            head = (attack.name, content.get("kind"), figures.score, is_verdict, figures.n)
            p_values = (parse_number(stated.get("p")), figures.p_holm)
            rows.append((*head, *means, figures.recovered, *bounds, *p_values))
    return rows
