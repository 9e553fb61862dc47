"""Which learning rate and length the demo has by default, by rule from the robustness table.

    undial reproduce table=demo_robustness
    python scripts/choose_demo_default.py outputs/reproduce/demo_robustness/table.csv

The rule, for a row without retain data: of the settings that leave a forget ROUGE of at most the
retain model's, the greatest retain ROUGE; one that is nearer to it than the standard error of their
difference over the seeds is as good, and of those the fewest steps. Ends with 1 where
`undial unlearn` does not have what it chooses.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from undial_cli.config.schema import UnlearnRun
from undial_cli.data.load import load_rows
from undial_cli.runs.compose import compose_run
from undial_cli.system.quiet import silence_libraries

ROW = "undial"


@dataclass(frozen=True)
class Setting:
    """One cell of the table: forget and retain ROUGE, the latter's spread over `seeds` runs."""

    rate: float
    steps: int
    forget: float
    retain: float
    spread: float
    seeds: int
    retain_model: float


def read_settings(file: Path) -> list[Setting]:
    """The settings of `ROW` in a table.csv of demo_robustness."""
    with open(file, newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    figures = {(one["section"], one["row"], one["column"]): one for one in lines}
    settings = []
    for section, row, column in figures:
        name, _, steps = column.partition("_")
        if row != ROW or name != "forget":
            continue
        retain = figures[section, row, f"retain_{steps}"]
        settings.append(
            Setting(
                float(section.removeprefix("lr ")),
                int(steps),
                float(figures[section, row, column]["mean"]),
                float(retain["mean"]),
                float(retain["spread"]),
                int(retain["n"]),
                float(figures["", "retain model", column]["mean"]),
            )
        )
    return settings


def choose_setting(settings: Sequence[Setting]) -> tuple[Setting, Setting]:
    """What the rule chooses, and the setting of the greatest retain ROUGE that it is as good as."""
    forgotten = [one for one in settings if one.forget <= one.retain_model]
    best = max(forgotten, key=lambda one: one.retain)
    as_good = [one for one in forgotten if best.retain - one.retain <= measure_error(best, one)]
    return min(as_good, key=lambda one: (one.steps, -one.retain)), best


def measure_error(one: Setting, other: Setting) -> float:
    """Standard error of the difference of two settings' retain ROUGE."""
    return math.sqrt(one.spread**2 / one.seeds + other.spread**2 / other.seeds)


def find_default() -> tuple[float, int]:
    """Learning rate and steps of `undial unlearn` as it is."""
    run = compose_run("unlearn", [])
    assert isinstance(run, UnlearnRun)
    assert run.data.forget_split is not None
    rows = len(load_rows(run.data, [run.data.forget_split], "forget"))
    steps = run.train.epochs * math.ceil(rows / run.train.batch_size)
    return run.train.learning_rate, round(steps)


def main() -> None:
    """Print the settings, the choice, and whether it is the default."""
    silence_libraries()
    settings = read_settings(Path(sys.argv[1]))
    chosen, best = choose_setting(settings)
    for one in settings:
        marks = "chosen" if one == chosen else "greatest retain ROUGE" if one == best else ""
        print(
            f"lr {one.rate:g}  {one.steps:3} steps  forget ROUGE {one.forget:.3f} "
            f"(retain model {one.retain_model:.3f})  retain ROUGE {one.retain:.3f} ± "
            f"{one.spread:.3f}  {marks}".rstrip()
        )
    print(
        f"{best.retain - chosen.retain:.3f} apart, standard error of the difference "
        f"{measure_error(best, chosen):.3f}"
    )
    rate, steps = find_default()
    print(f"default: lr {rate:g}, {steps} steps")
    sys.exit(0 if (rate, steps) == (chosen.rate, chosen.steps) else 1)


if __name__ == "__main__":
    main()
