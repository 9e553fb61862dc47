"""What an audit found, in sentences: its verdict, its statistics, its paragraph of a model card.

No sentence holds text of the data or a path. Knows no page and no screen.
"""

from __future__ import annotations

from undial_cli.evaluation.figures import find_figure_title
from undial_cli.reporting.audit_record import AttackFigures, AuditRecord
from undial_cli.reporting.collect import to_single_line
from undial_cli.reporting.sheet import escape_markdown
from undial_cli.reporting.text import capitalise_first, format_figure, format_gap

# What the verdicts stand for, and how rich shows them.
VERDICT_MEANINGS = {
    "leaking": "asked directly, the model answers as it did before",
    "suppressed": "quiet when asked directly, and back under some attack",
    "as if never seen": "no attack gets more from it, beyond the margin, than from a model that "
    "never saw the data",
    "destroyed": "fluency or the retain set is lost: what the model does not say is not forgotten "
    "but broken",
    "over-forgotten": "nothing comes back, yet the model can be told from one that never saw the "
    "data",
    "undecided": "the rows asked for are too few to carry a verdict",
    "withheld": "without the models that it is compared with, no verdict can be given",
}
SCORE_TITLES = {
    "hit": "all key facts said",
    "choice": "true answer likeliest",
    "choice_probability": "true answer's probability among false ones",
    "intact": "share that is intact",
}
VERDICT_STYLES = {"leaking": "red", "destroyed": "red", "as if never seen": "green"}


def name_score(score: str) -> str:
    """A score of an audit in words."""
    return SCORE_TITLES.get(score) or find_figure_title(score)


def format_recovered(attack: AttackFigures) -> str:
    """What an attack recovered, with its interval."""
    return (
        f"{format_recovered_share(attack.recovered)} {format_bounds(attack.interval)}".removesuffix(
            " –"
        )
    )


def format_recovered_share(value: float | None) -> str:
    """A share as text, with a minus sign; "–" where it is not known."""
    return format_gap(value).removeprefix("+")


def format_bounds(interval: tuple[float, float] | None) -> str:
    """An interval as text; "–" where there is none."""
    return f"[{', '.join(map(format_recovered_share, interval))}]" if interval else "–"


def state_verdict(record: AuditRecord) -> str:
    """The line at the top: verdict, strongest attack, and what it recovered.

    A broken model is known by what it lost.
    """
    strongest = record.strongest()
    if strongest is None or record.word == "destroyed":
        return f"{record.word}: {state_reason(record)}".removesuffix(": ")
    return f"{record.word}: {state_strongest(strongest)}"


def state_strongest(attack: AttackFigures) -> str:
    """The strongest attack and what it recovered."""
    name = attack.name if attack.name == attack.title else f"{attack.name} ({attack.title})"
    if attack.recovered is None:
        score = format_figure(attack.attacked.get("unlearned"))
        return f"the strongest attack, {name}, scores {score} in {name_score(attack.score)}"
    return (
        f"the strongest attack, {name}, recovered {format_recovered(attack)} of what the target "
        f"knows and the retain model does not ({name_score(attack.score)})"
    )


def state_reason(record: AuditRecord) -> str:
    """Why the verdict is what it is, and what it would take where it is undecided."""
    parts = [to_single_line(record.verdict.get("reason"))]
    more = record.verdict.get("more_rows")
    if more:
        subjects = record.verdict.get("more_subjects")
        of_subjects = f" about {subjects} more subjects" if subjects else ""
        parts.append(f"some {more} more rows{of_subjects} would decide")
    return "; ".join(filter(None, parts))


def list_withheld(record: AuditRecord) -> list[str]:
    """Why verdicts were withheld, a line each."""
    withheld = record.verdict.get("withheld")
    return list(map(to_single_line, withheld)) if isinstance(withheld, list) else []


def list_missing_attacks(record: AuditRecord) -> list[str]:
    """Attacks that were not carried out, each with its reason."""
    return [f"{name}: {to_single_line(reason)}" for name, reason in record.missing.items()]


def list_attack_notes(record: AuditRecord) -> list[str]:
    """What attacks have to say of themselves, withheld verdicts, and files that cannot be read."""
    notes = [f"{attack.name}: {note}" for attack in record.attacks() for note in attack.notes]
    return [*map(capitalise_first, list_withheld(record)), *notes, *record.problems]


def list_statistics_sentences(record: AuditRecord) -> list[str]:
    """How figures and verdict came about, for readers who do not know the code."""
    content, attacks = record.content, record.attacks()
    margin = f"{record.margin:g}"
    methods = ", ".join(dict.fromkeys(a.method for a in attacks if a.method)) or "none was made"
    return [
        f"{content.get('rows', '–')} rows of the forget set were attacked; they are about "
        f"{content.get('subjects', '–')} subjects.",
        "Recovered is the share of what the target knows and the retain model does not that comes "
        "back under an attack: (unlearned under attack − retain model under attack) / (target − "
        "retain model, both asked plainly). 0 is the retain model, 1 the target; noise can put it "
        "below 0, and an attack that finds more than the plain question above 1.",
        f"Up to {margin} of what the target knows counts as nothing recovered (audit.margin).",
        f"Intervals hold at {record.confidence} ({methods}). Answers about one subject are not "
        "independent, so where there are enough subjects these are resampled, the same for all "
        "models.",
        f"p is the chance of so much if no more than {margin} were recovered, corrected by Holm's "
        f"method for {len(attacks)} attacks: the best of many is better than chance.",
        *(f"{capitalise_first(word)}: {text}." for word, text in VERDICT_MEANINGS.items()),
    ]


def list_audit_facts(record: AuditRecord) -> list[str]:
    """What was audited, for the line below a title."""
    content = record.content
    known = {key: content[key] for key in ("budget", "rows", "subjects", "seed") if key in content}
    titles = {"rows": "{} rows", "subjects": "{} subjects"}
    return [titles.get(key, f"{key} {{}}").format(value) for key, value in known.items()]


def describe_audit(record: AuditRecord) -> str:
    """The paragraph of a model card, in Markdown."""
    reason = escape_markdown(state_reason(record))
    facts = escape_markdown(", ".join(list_audit_facts(record)))
    parts = [
        f"`undial audit` tried {len(record.attacks())} attacks to get the forget set back "
        f"({facts}). Verdict: **{escape_markdown(record.word)}** "
        f"({VERDICT_MEANINGS.get(record.word, '')})".removesuffix(" ()")
        + ".",
        capitalise_first(reason) + "." if reason else "",
    ]
    strongest = record.strongest()
    if strongest is not None:
        parts.append(escape_markdown(capitalise_first(state_strongest(strongest))) + ".")
    if record.missing:
        parts.append(f"Not tried: {escape_markdown(', '.join(record.missing))}.")
    return " ".join(filter(None, parts))
