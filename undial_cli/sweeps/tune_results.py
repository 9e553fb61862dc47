"""What `undial tune` found: its trials, the one that the rule chooses, the command that uses it.

Figures are of the rows held apart, on which trials and weights are chosen; those of the other rows,
which the chosen run reports, are given beside them. Runs nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from undial_cli import ui
from undial_cli.config.schema import UnlearnRun
from undial_cli.config.tuning import TuneConfig
from undial_cli.evaluation.figures import find_figure_title
from undial_cli.evaluation.selection_rule import (
    RULE_WORDS,
    SELECTION,
    SelectionRule,
    score_choice,
)
from undial_cli.evaluation.verdict import list_watched_figures
from undial_cli.reporting.collect import get_part, read_jsonl_objects, read_object
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_screen_table
from undial_cli.reporting.text import format_figure, name_setting, parse_number
from undial_cli.runs.run_folder import RunFolder
from undial_cli.sweeps.jobs import EXIT_CODES
from undial_cli.sweeps.search_space import spell_sweep
from undial_cli.sweeps.sweep import SweepRun
from undial_cli.system.files import write_whole_text

TUNE_FILE = "tune.json"
# Of those that the rule reads, for which a screen has room; tune.json has all.
SHOWN_FIGURES = 4


@dataclass(frozen=True)
class TuneTrial:
    """A trial that has ended.

    `values`: what was drawn for it. `chosen`: its `selection` of results.json. `apart`: figures at
    the chosen step, and `target` those before the first, of the rows held apart; `reported` and
    `before`: those of the checkpoint and of the target on the other rows.
    """

    number: int
    values: dict[str, str]
    folder: Path
    status: str
    reason: str
    seconds: float | None
    chosen: dict[str, Any]
    apart: dict[str, Any]
    target: dict[str, Any]
    reported: dict[str, Any]
    before: dict[str, Any]
    roles: dict[str, str]

    @property
    def score(self) -> float | None:
        """What trials are compared by; None where there is no figure."""
        return score_choice(self.chosen) if self.status == "done" else None

    @property
    def keeps_utility(self) -> bool:
        """Whether its weights keep as much utility as the rule asks for."""
        return self.chosen.get("keeps_utility") is True

    def describe_status(self, is_chosen: bool) -> str:
        """How it ended, in words."""
        if self.status != "done":
            return f"{self.status}: {self.reason}"
        if self.score is None:
            return "no figure"
        words = [
            *(["chosen"] if is_chosen else []),
            *([] if self.keeps_utility else ["below"]),
        ]
        return ", ".join(words)

    def record(self) -> dict[str, Any]:
        """As tune.json holds it."""
        keys = ("step", "figure", "utility", "keeps_utility")
        return {
            "trial": self.number,
            "values": self.values,
            "status": self.status,
            "reason": self.reason,
            "seconds": self.seconds,
            **{key: self.chosen.get(key) for key in keys},
            "apart": self.apart,
            "reported": self.reported,
        }


def collect_trials(runs: Iterable[SweepRun]) -> list[TuneTrial]:
    """The trials of a sweep in their order, with what their folders hold."""
    trials = []
    for number, run in enumerate(runs, 1):
        record, folder = run.record, run.job.folder
        chosen = get_part(record.results, SELECTION)
        steps = read_jsonl_objects(folder / "metrics.jsonl", [])
        rows = {row["step"]: row for row in steps if SELECTION in row and "step" in row}
        trials.append(
            TuneTrial(
                number,
                run.job.values,
                folder,
                record.status,
                record.reason,
                # that of the whole run, also where it was done before
                parse_number(read_object(folder / "status.json").get("seconds")) or record.seconds,
                chosen,
                rows.get(chosen.get("step"), {}),
                rows.get(0, {}),
                record.figures(),
                record.figures("target"),
                {str(name): str(role) for name, role in get_part(record.results, "roles").items()},
            )
        )
    return trials


@dataclass(frozen=True)
class TuneResults:
    """Trials, and the rule that chooses among them.

    `least`: the share of the target's utility that it asks for. `keys`: what was searched.
    """

    rule: SelectionRule
    least: float
    keys: list[str]
    trials: list[TuneTrial]

    @property
    def best(self) -> TuneTrial | None:
        """The trial with the best score, of equal ones the first; None where none has any."""
        sign = 1 if self.rule.is_minimised else -1
        known = [(sign * trial.score, trial) for trial in self.trials if trial.score is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    @property
    def kept_names(self) -> list[str]:
        """The figures of which enough is to be left."""
        names: list[str] = []
        for trial in self.trials:
            names = names or list_watched_figures(trial.target, trial.roles)
        return names

    def find_exit_code(self) -> int:
        """0 where a trial was chosen, else that of the worst."""
        codes = [EXIT_CODES.get(trial.status, 1) for trial in self.trials]
        return 0 if self.best is not None else max([1, *codes])

    def state_choice(self) -> str:
        """Which trial was chosen and by what, in a sentence."""
        best, rule = self.best, self.rule.text
        if best is None:
            return f"no trial has a figure of {rule}: nothing is chosen"
        apart = sum(len(part["apart"]) for part in get_part(best.chosen, "rows").values())
        share = f"{parse_number(best.chosen.get('utility')) or 0:.0%}"
        figure = f"{rule} {format_figure(best.chosen.get('figure'))}"
        useful = sum(trial.score is not None and trial.keeps_utility for trial in self.trials)
        text = f"trial {best.number} of {len(self.trials)} chosen, its weights of step "
        text += f"{best.chosen.get('step')}: {figure}, "
        if best.keeps_utility:
            text += f"the lowest of {useful} trials that keep {self.least:.0%} of the target's "
            text += f"utility (it keeps {share})"
        else:
            text += f"but none keeps {self.least:.0%} of the target's utility, it keeps most "
            text += f"({share})"
        return f"{text}; chosen on {apart} rows held apart"

    def list_failures(self) -> list[str]:
        """A line for each trial that gave nothing to choose."""
        failed = [trial for trial in self.trials if trial.score is None]
        return [f"trial {t.number}: {t.describe_status(False)}; {t.folder}" for t in failed]

    def make_sheet(self) -> Sheet:
        """The trials as a table, the figures those of the rows held apart."""
        names = self.rule.names[:SHOWN_FIGURES]
        titles = [*map(name_setting, self.keys), "step", self.rule.text.replace("_", " ")]
        columns = [Column("trial"), *map(Column, titles)]
        columns += [Column("utility kept"), *(Column(find_figure_title(name)) for name in names)]
        columns += [Column("time"), Column("", numeric=False)]
        rows = []
        for trial in self.trials:
            is_best = trial is self.best
            figures = [trial.chosen.get("figure"), *map(trial.apart.get, names)]
            texts = [format_figure(figure) if trial.apart else "–" for figure in figures]
            utility = parse_number(trial.chosen.get("utility"))
            texts.insert(1, "–" if utility is None else f"{utility:.0%}")
            step = trial.chosen.get("step")
            seconds = "–" if trial.seconds is None else ui.format_duration(trial.seconds)
            drawn = [trial.values.get(key, "–") for key in self.keys]
            numbers = [parse_number(value) for value in drawn]
            pairs = zip(drawn, numbers, strict=True)
            # To three digits here; the command and tune.json have all.
            cells = [str(trial.number), *(v if n is None else f"{n:.3g}" for v, n in pairs)]
            cells += ["–" if step is None else str(step), *texts, seconds]
            style = "bold" if is_best else "dim" if trial.score is None else ""
            ended = trial.status if trial.status != "done" else trial.describe_status(is_best)
            rows.append(SheetRow([Cell(text, style=style) for text in (*cells, ended)]))
        known = next((trial.target for trial in self.trials if trial.target), {})
        blank = [""] * len(self.keys)
        figures = [format_figure(known.get(name)) for name in (SELECTION, *names)]
        figures.insert(1, "100%")
        above = [SheetRow([Cell(t) for t in ("target", *blank, "0", *figures, "", "")])]
        return Sheet(
            f"{len(self.trials)} trials, on the rows held apart", columns, rows, above=above
        )

    def write(self, folder: Path, words: Sequence[str]) -> None:
        """Write tune.json: rule, trials, choice and the command that uses it."""
        best = self.best
        trials = [
            {**trial.record(), "folder": os.path.relpath(trial.folder, folder)}
            for trial in self.trials
        ]
        content = {
            "rule": self.rule.text,
            "least_utility": self.least,
            "reads": list(self.rule.names),
            "searched": self.keys,
            "chosen": best.number if best else None,
            "statement": self.state_choice(),
            "command": format_command(words, best.values) if best else None,
            "rows": best.chosen.get("rows") if best else None,
            "trials": trials,
        }
        write_whole_text(folder / TUNE_FILE, json.dumps(content, indent=2) + "\n")


def format_command(words: Sequence[str], values: dict[str, str]) -> str:
    """The command whose run a trial is, ready to be typed."""
    flags = [word for word in words if word.startswith("--")]
    settings = [word for word in words if not word.startswith("--")]
    drawn = [f"{key}={value}" for key, value in values.items()]
    return shlex.join(["undial", "unlearn", *settings, *drawn, *flags])


def show_results(results: TuneResults, words: Sequence[str]) -> None:
    """Print the trials, the choice, its figures on the other rows, and the command to use."""
    ui.say(make_screen_table(results.make_sheet()))
    if results.trials:
        least = f"below: keeps less than {results.least:.0%} of the target's utility"
        ui.say(f"{least}; all figures are in {TUNE_FILE}", "dim")
    for line in results.list_failures():
        ui.say(line, "yellow")
    best = results.best
    ui.say(results.state_choice(), "green" if best and best.keeps_utility else "yellow")
    if best is None:
        return
    names = (*results.rule.names, *results.kept_names)
    pairs = [[format_figure(part.get(n)) for part in (best.reported, best.before)] for n in names]
    figures = (f"{n} {now} (of {before})" for n, (now, before) in zip(names, pairs, strict=True))
    ui.say(f"on all other rows, on which nothing was chosen (of the target): {', '.join(figures)}")
    ui.say("the command to use; its run is there already, with its checkpoint:")
    ui.say(format_command(words, best.values), "bold")
    ui.say(f"{best.folder / 'checkpoint'}", "dim")


def show_plan(
    run: UnlearnRun, asked: TuneConfig, space: Sequence[Override], start: dict[str, Any], path: Path
) -> None:
    """Print what is searched, what is done of it and what a trial takes; nothing is run."""
    from undial_cli.pipeline import plan_run
    from undial_cli.runs.resolved import ResolvedRun

    columns = [Column("key", numeric=False), Column("drawn from", numeric=False), Column("first")]
    rows = []
    for override in space:
        key = override.get_key_element()
        first = start.get(key, "drawn")
        texts = (key, spell_sweep(override), f"{first}")
        rows.append(SheetRow([Cell(text) for text in texts]))
    title = f"plan: {asked.budget} trials of {run.method.name}"
    ui.say(make_screen_table(Sheet(title, columns, rows)))
    ui.say(
        f"rule={asked.rule}: {RULE_WORDS[asked.rule]}, of weights that keep "
        f"{run.train.select_utility:.0%} of the target's utility; evaluated every "
        f"{run.train.eval_steps} steps and at the last one, on {run.train.select_share:.0%} of the "
        "rows, which are held apart"
    )
    plan_run(ResolvedRun(run))
    entries = read_object(path / "sweep.json").get("runs", [])
    folders = dict.fromkeys(path / str(entry["folder"]) for entry in entries)
    done = [folder for folder in folders if RunFolder(folder).status() == "done"]
    left = max(0, asked.budget - len(done))
    known = [parse_number(read_object(folder / "status.json").get("seconds")) for folder in done]
    seconds = [value for value in known if value is not None]
    line = f"{len(done)} of {asked.budget} trials done, {left} to be run"
    if seconds and left:
        each = statistics.fmean(seconds)
        line += f": {ui.format_duration(left * each)} at {ui.format_duration(each)} each, as those"
    ui.say(f"{line}; in {path}")
