"""A table from configs/table/ (or a folder of the user's), typed and checked, with what was asked.

`table`, `plan`, `rows`, `seeds` and `output_dir` are this command's own; all other words are left
for the runs. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from undial_cli.config.fields import check_field_value, walk_fields
from undial_cli.config.tables import ColumnConfig, PlotConfig, ReproduceConfig, TableConfig
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.evaluation.figures import find_better_direction, find_figure_title
from undial_cli.runs.command_words import split_run_words
from undial_cli.runs.compose import compose_command_keys
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.system.files import is_plain_name

KEYS_NOT_FOR_RUNS = {
    "seed": "say seeds=[0,1,2]",
    "name": "the runs of a table are named by their settings",
    "resume": "an unfinished run of a table always goes on",
    "overwrite": "a finished run of a table stays; delete its folder to have it run again",
}


def split_table_words(words: list[str]) -> tuple[list[str], list[str], str | None]:
    """Words for this command, words for the runs, and the folder after --config-dir."""
    command_keys = [field.name for field in dataclasses.fields(ReproduceConfig)]
    return split_run_words(
        words, command_keys, KEYS_NOT_FOR_RUNS, "a table", "table=demo_robustness"
    )


def load_table(words: list[str], folder: str | None) -> ReproduceConfig:
    """The table and the command's own keys."""
    if not any(word.startswith("table=") for word in words):
        names = ", ".join(list_table_names(folder))
        raise UserError(f"table: say which one, table=NAME; allowed is one of {names}")
    asked = compose_command_keys(ReproduceConfig, "reproduce", words, folder)
    complete_table(asked.table)
    return asked


def list_table_names(folder: str | None) -> list[str]:
    """The tables of undial and of the user's folder."""
    folders = [find_config_folder(), *([Path(folder)] if folder else [])]
    return sorted({file.stem for path in folders for file in (path / "table").glob("*.yaml")})


def complete_table(table: TableConfig) -> None:
    """Fill in what follows from the metrics of a table, and refuse one that is not sound."""
    for column in table.columns:
        complete_column(column)
    for name, value, field in walk_fields(table, "table."):
        check_field_value(name, value, field)
    for kind in ("columns", "rows", "across", "claims", "plots"):
        for number, item in enumerate(getattr(table, kind)):
            for name, value, field in walk_fields(item, f"table.{kind}[{number}]."):
                check_field_value(name, value, field)
    unique = {
        "columns": [column.name for column in table.columns],
        "across": [group.label for group in table.across],
        "rows": [f"{row.section}/{row.label}".strip("/") for row in table.rows],
    }
    for kind, names in unique.items():
        for name in (name for name in names if names.count(name) > 1):
            raise UserError(f"table.{kind}: {name} is there twice")
    if not (table.columns and table.rows and table.seeds):
        raise UserError("table: it needs columns, rows and seeds")
    for column in table.columns:
        if not column.name or not column.metric:
            raise UserError("table.columns: each needs a name and a metric")
        try:
            if re.search(r"\d{3}", column.format):  # a width of millions is written out
                raise ValueError
            format(0.5, column.format)
        except ValueError as error:
            where = f"table.columns[{column.name}].format"
            raise bad_value(where, column.format, "a format such as .3f or .2e") from error
    for number, plot in enumerate(table.plots):
        if not is_plain_name(name_plot_file(plot)):
            raise bad_value(f"table.plots[{number}].name", plot.name, "a file's name, without '/'")
    for where, name, allowed in list_references(table):
        if name not in allowed:
            nearest = suggest_nearest(name, allowed)
            raise UserError(f"{where}: {name}: no such one in this table{nearest}")
    if any(claim.forget and len(claim.forget) != len(claim.columns) for claim in table.claims):
        raise UserError("table.claims.forget: as many as table.claims.columns, or none")


def name_plot_file(plot: PlotConfig) -> str:
    """The name of a picture's files, without an ending."""
    return plot.name or f"{plot.kind}_{plot.x}_{plot.y}"


def complete_column(column: ColumnConfig) -> None:
    """Name, title and direction of a column, where its config leaves them to its metric."""
    metric = column.metric[0] if column.metric else ""
    column.title = column.title or column.name or find_figure_title(metric)
    column.name = column.name or metric
    column.better = column.better or find_better_direction(metric) or "none"


def list_references(table: TableConfig) -> Iterator[tuple[str, str, Collection[str]]]:
    """(key, name, the names that there are) wherever a table speaks of one of its parts."""
    columns = [column.name for column in table.columns]
    groups = [group.label for group in table.across]
    labels = [row.label for row in table.rows]
    for row in table.rows:
        key = f"table.rows[{row.label}]"
        if row.section:
            yield f"{key}.section", row.section, table.sections
        yield from ((f"{key}.across", label, groups) for label in row.across)
        cells = {
            "/".join(part for part in (section, group, name) if part)
            for section in ("", *([row.section] if row.section else table.sections))
            for group in ("", *groups)
            for name in columns
        }
        yield from ((f"{key}.reference", name, cells) for name in row.reference)
    for claim in table.claims:
        names = (*claim.columns, *claim.forget)
        yield from (("table.claims.columns", name, columns) for name in names)
        yield from (("table.claims.keeps", n, labels) for n in (*claim.keeps, *claim.loses))
    for plot in table.plots:
        metrics = {metric for column in table.columns for metric in column.metric}
        x_names: Collection[str] = ("step", "request", "across", "row", "section")
        y_names: Collection[str] = metrics
        if plot.kind == "trade_off":
            x_names = y_names = columns if plot.x in columns else metrics
        yield "table.plots.x", plot.x, x_names
        yield "table.plots.y", plot.y, y_names
        yield from (("table.plots.rows", label, labels) for label in plot.rows)
