"""A table from configs/table/ (or a folder of the user's), typed and checked, with what was asked.

`table`, `plan`, `rows`, `seeds` and `output_dir` are this command's own; all other words are left
for the runs. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from undial_cli.config.fields import check_field_value, walk_fields
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.runs import config_errors
from undial_cli.runs.compose import COMPOSITION_ERRORS, compose_config, find_config_folder
from undial_cli.tables.config import TABLE_COMMAND_KEYS, ReproduceConfig, TableConfig, list_labels

KEYS_NOT_FOR_RUNS = {
    "seed": "say seeds=[0,1,2]",
    "name": "the runs of a table are named by their settings",
    "resume": "an unfinished run of a table always goes on",
    "overwrite": "a finished run of a table stays; delete its folder to have it run again",
}


def split_table_words(words: list[str]) -> tuple[list[str], list[str], str | None]:
    """Words for this command, words for the runs, and the folder after --config-dir."""
    own: list[str] = []
    others: list[str] = []
    folder: str | None = None
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, given, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            if not given and not rest:
                raise UserError(f"{flag}: expected a folder after it")
            folder = value if given else rest.pop(0)
            if not Path(folder).is_dir():
                raise UserError(f"{flag} {folder}: no such folder")
        elif word.startswith("-"):
            raise bad_value("flag", flag, ["--config-dir"])
        elif not given:
            raise UserError(f"{word}: expected key=value, as in table=demo_robustness")
        elif flag.lstrip("+~") in KEYS_NOT_FOR_RUNS:
            raise UserError(f"{word}: not with a table: {KEYS_NOT_FOR_RUNS[flag.lstrip('+~')]}")
        else:
            (own if flag in TABLE_COMMAND_KEYS else others).append(word)
    return own, others, folder


def load_table(words: list[str], folder: str | None) -> ReproduceConfig:
    """The table and the command's own keys.

    Raises:
        UserError: no such table, a value of the wrong kind, or a table that is not sound.
    """
    if not any(word.startswith("table=") for word in words):
        names = ", ".join(list_table_names(folder))
        raise UserError(f"table: say which one, table=NAME; allowed is one of {names}")
    ConfigStore.instance().store(name="reproduce_schema", node=ReproduceConfig)
    try:
        asked: Any = OmegaConf.to_object(compose_config("reproduce", words, folder))
    except COMPOSITION_ERRORS as error:
        keys = {name: f for name, _, f in walk_fields(ReproduceConfig())}
        raise config_errors.explain_composition_error(error, "reproduce", words, keys) from error
    assert isinstance(asked, ReproduceConfig)
    check_table(asked.table)
    return asked


def list_table_names(folder: str | None) -> list[str]:
    """The tables that there are."""
    folders = [find_config_folder(), *([Path(folder)] if folder else [])]
    return sorted({f.stem for place in folders for f in (place / "table").glob("*.yaml")})


def check_table(table: TableConfig) -> None:
    """Raise UserError for what does not fit together in a table."""
    for name, value, f in walk_fields(table, "table."):
        check_field_value(name, value, f)
    for kind in ("columns", "rows", "across", "claims", "plots"):
        for number, item in enumerate(getattr(table, kind)):
            for name, value, f in walk_fields(item, f"table.{kind}[{number}]."):
                check_field_value(name, value, f)
    columns = [c.name for c in table.columns]
    for kind, names in (("columns", columns), ("across", list_labels(table.across))):
        check_no_duplicates(f"table.{kind}", names)
    check_no_duplicates("table.rows", [f"{r.section}/{r.label}" for r in table.rows])
    if not (table.columns and table.rows and table.seeds):
        raise UserError("table: it needs columns, rows and seeds")
    for column in table.columns:
        check_table_column(column)
    for row in table.rows:
        where = f"table.rows[{row.label}]"
        if row.section:
            check_known_name(f"{where}.section", row.section, table.sections)
        for label in row.across:
            check_known_name(f"{where}.across", label, list_labels(table.across))
        allowed = {
            "/".join(p for p in (section, across, name) if p)
            for section in ("", *(table.sections if not row.section else [row.section]))
            for across in ("", *list_labels(table.across))
            for name in columns
        }
        for name in row.reference:
            check_known_name(f"{where}.reference", name, allowed)
    for claim in table.claims:
        for name in (*claim.columns, *claim.forget):
            check_known_name("table.claims.columns", name, columns)
        for name in (*claim.keeps, *claim.loses):
            check_known_name("table.claims.keeps", name, list_labels(table.rows))
        if claim.forget and len(claim.forget) != len(claim.columns):
            raise UserError("table.claims.forget: as many as table.claims.columns, or none")
    for plot in table.plots:
        if plot.kind == "trade_off":
            check_known_name("table.plots.x", plot.x, columns)
            check_known_name("table.plots.y", plot.y, columns)
        else:
            check_known_name(
                "table.plots.x", plot.x, ("step", "request", "across", "row", "section")
            )
            check_known_name("table.plots.y", plot.y, {m for c in table.columns for m in c.metric})
        for name in plot.rows:
            check_known_name("table.plots.rows", name, list_labels(table.rows))


def check_table_column(column: Any) -> None:
    """Raise UserError for a column without a name or metric, or with a wrong format."""
    if not column.name or not column.metric:
        raise UserError("table.columns: each needs a name and a metric")
    try:
        format(0.5, column.format)
    except ValueError as error:
        raise bad_value(
            f"table.columns[{column.name}].format", column.format, "a format such as .3f or .2e"
        ) from error


def check_no_duplicates(where: str, names: list[str]) -> None:
    """Raise UserError for a name that is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: {name.strip('/')} is there twice")


def check_known_name(where: str, name: str, allowed: Iterable[str]) -> None:
    """Raise UserError for a name that is not in the table."""
    if name not in allowed:
        raise UserError(
            f"{where}: {name}: no such one in this table{suggest_nearest(name, allowed)}"
        )
