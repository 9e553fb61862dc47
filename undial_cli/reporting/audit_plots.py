"""Pictures of an audit: a bar per attack, and what its attacks measured along an axis.

Draws AttackFigures in the style of all reports. Knows no files of an audit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from undial_cli.reporting import plot_lines, plot_style
from undial_cli.reporting.audit_record import AUDITED_ROLES, AttackFigures, AuditCurve, AuditRecord
from undial_cli.reporting.audit_words import name_score
from undial_cli.reporting.plot_choice import ReportPlot
from undial_cli.reporting.plot_style import COLOURS, FAINT, INK, PAPER, escape_label, to_float_array
from undial_cli.reporting.text import capitalise_first, format_setting_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The models in the order in which lines take their colours.
DRAWN_ROLES = ("unlearned", "retain", "target")
# What curves run along, in words.
AXIS_TITLES = {"step": "training steps", "k": "answers sampled (k)", "scale": "scale of the noise"}
# Scores whose curves are shown beside that of the attack's verdict, and how many panels there are.
SHOWN_CURVES = ("hit", "rouge", "probability", "rank")
MOST_PANELS = 3
# More values on an axis than are labelled one by one.
MOST_TICKS = 12
# Beyond these a bar of what was recovered is cut: a small gap of target and retain model.
LOWEST_RECOVERED, HIGHEST_RECOVERED = -0.5, 1.5


def choose_audit_plots(record: AuditRecord) -> Iterator[ReportPlot]:
    """The pictures of an audit, in the order in which they are shown."""
    attacks = record.attacks()
    if attacks:
        yield ReportPlot(
            "audit_attacks",
            "What each attack got, the strongest first. Left: the score of the unlearned model "
            "under the attack, with the retain model's and the target's under the same attack. "
            f"Right: the share that was recovered, with its {record.confidence} interval; the "
            "shaded band is what counts as nothing recovered.",
            partial(draw_attack_bars, attacks, record.margin),
        )
    for attack in attacks:
        curves = choose_curves(attack)
        if curves:
            yield ReportPlot(
                f"audit_{attack.name}",
                f"{capitalise_first(attack.title)} ({attack.name}): each model's score by "
                f"{AXIS_TITLES.get(curves[0].axis, curves[0].axis)}.",
                partial(draw_audit_curves, curves),
            )


def draw_attack_bars(attacks: Sequence[AttackFigures], margin: float) -> Figure:
    """A bar per attack: the score beside that of the other models, and what was recovered."""
    with plot_style.use_plot_style():
        known = any(attack.recovered is not None for attack in attacks)
        figure, panels = plot_style.make_blank_figure(
            plot_style.PAGE_WIDTH, 0.8 + 0.24 * len(attacks), ncols=2 if known else 1, sharey=True
        )
        ys = np.arange(len(attacks))
        labels = [f"{attack.name.replace('_', ' ')}" for attack in attacks]
        handles = draw_score_bars(panels[0], attacks, ys)
        if known:
            handles |= draw_recovered_bars(panels[1], attacks, ys, margin)
        panels[0].set_yticks(ys, list(map(escape_label, labels)))
        panels[0].set_ylim(len(attacks) - 0.4, -0.6)  # the first on top
        for axes in panels:
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        plot_style.add_legend(figure, handles)
        return figure


def draw_score_bars(axes: Axes, attacks: Sequence[AttackFigures], ys: np.ndarray) -> dict[str, Any]:
    """The score of each model under each attack; handles by label."""
    scores = {role: to_float_array([a.attacked.get(role) for a in attacks]) for role in DRAWN_ROLES}
    plain = to_float_array([attack.plain.get("unlearned") for attack in attacks])
    handles: dict[str, Any] = {
        "unlearned, attacked": axes.barh(ys, scores["unlearned"], height=0.62, color=COLOURS[0])
    }
    if np.isfinite(plain).any():
        (handles["unlearned, asked plainly"],) = axes.plot(plain, ys, "|", color=INK, mew=0.8, ms=9)
    for role, marker, colour in (("retain", "X", COLOURS[1]), ("target", "*", INK)):
        if np.isfinite(scores[role]).any():
            label = f"{AUDITED_ROLES[role]}, attacked"
            (handles[label],) = axes.plot(
                scores[role], ys, marker, color=colour, mec=PAPER, mew=0.6, ms=8
            )
    names = list(dict.fromkeys(name_score(attack.score) for attack in attacks))
    axes.set_xlabel(escape_label(names[0] if len(names) == 1 else "score of its verdict"))
    axes.set_xlim(-0.03, 1.06)
    return handles


def draw_recovered_bars(
    axes: Axes, attacks: Sequence[AttackFigures], ys: np.ndarray, margin: float
) -> dict[str, Any]:
    """What each attack recovered, its interval, and where nothing and all of it would be."""
    recovered = to_float_array([attack.recovered for attack in attacks])
    bounds = np.array([a.interval or (math.nan, math.nan) for a in attacks], dtype=float).T
    lengths = np.clip(np.stack([recovered - bounds[0], bounds[1] - recovered]), 0, None)
    axes.barh(ys, recovered, height=0.62, color=COLOURS[0])
    axes.errorbar(
        recovered, ys, xerr=np.nan_to_num(lengths), fmt="none", ecolor=INK, elinewidth=1, capsize=2
    )
    handles: dict[str, Any] = {}
    if margin:
        axes.axvspan(-margin, margin, color=FAINT, alpha=0.18, lw=0, zorder=0)
    for level, dash, label in ((0, "-", "retain model"), (1, plot_style.MARK_DASHES[0], "target")):
        handles[f"level of the {label}"] = axes.axvline(level, color=INK, lw=0.9, ls=dash)
    shown = [*bounds[np.isfinite(bounds)], *recovered[np.isfinite(recovered)], -0.1, 1.1]
    low, high = max(min(shown), LOWEST_RECOVERED), min(max(shown), HIGHEST_RECOVERED)
    axes.set_xlim(low - 0.05, high + 0.05)
    axes.set_xlabel("recovered")
    return handles


def choose_curves(attack: AttackFigures) -> list[AuditCurve]:
    """The curves that are shown: of one axis, that of the verdict's score first."""
    ranked = [attack.score, *SHOWN_CURVES]
    known = [curve for curve in attack.curves if curve.score in ranked]
    known.sort(key=lambda curve: ranked.index(curve.score))
    return [curve for curve in known if curve.axis == known[0].axis][:MOST_PANELS]


def draw_audit_curves(curves: Sequence[AuditCurve]) -> Figure:
    """A panel per score, a line per model."""
    panels = []
    for curve in curves:
        panel = plot_lines.LinePanel(escape_label(name_score(curve.score)), curve.score)
        for role in DRAWN_ROLES:
            if role in curve.by_role:
                line = {x: (y, None) for x, y in curve.by_role[role].items()}
                panel.lines[AUDITED_ROLES[role]] = {**line}
        panels.append(panel)
    xs = sorted({x for curve in curves for line in curve.by_role.values() for x in line})
    ticks = {x: format_setting_value(x) for x in xs} if len(xs) <= MOST_TICKS else None
    x = AXIS_TITLES.get(curves[0].axis, curves[0].axis)
    return plot_lines.draw_lines(panels, x, "", {}, ticks)
