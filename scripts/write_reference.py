"""Write the site's reference: commands, keys, groups, methods and metrics, as `--help` knows them.

    python scripts/write_reference.py FOLDER

Every line comes from the schema, the methods, the catalogue of metrics and the first comments of
configs/, so that nothing of it can grow old. The pages are for the site (write_site_pages.py), to
whose other pages they link, and are not committed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from undial_cli.cli import COMMAND_NAMES
from undial_cli.config.asking import ASK_FIELDS
from undial_cli.config.attacks import ATTACK_CONFIGS, AttackConfig
from undial_cli.config.fields import spell_range, walk_fields
from undial_cli.config.methods import MethodConfig
from undial_cli.config.schema import RUN_TYPES
from undial_cli.config.suites import EvalSetConfig
from undial_cli.config.tables import (
    AcrossConfig,
    ClaimConfig,
    ColumnConfig,
    PlotConfig,
    ReproduceConfig,
    RowConfig,
)
from undial_cli.config.tuning import TuneConfig
from undial_cli.evaluation import catalog
from undial_cli.methods import METHODS
from undial_cli.runs.help import (
    COMMAND_SUMMARIES,
    COMMAND_WORDS,
    CONFIG_GROUPS,
    HELP_FLAGS,
    USAGE_LINES,
    read_first_comment,
)
from undial_cli.runs.hydra_configs import find_config_folder

Rows = Iterable[tuple[str, ...]]
TYPE_WORDS = {
    "str": "text", "bool": "true or false", "int": "whole number", "float": "number",
    "list[str]": "list of texts", "list[int]": "list of whole numbers",
    "list[float]": "list of numbers", "dict[str, Any]": "mapping", "None": "null",
}  # fmt: skip
KEY_COLUMNS = ("key", "type", "default", "allowed", "what it is")
OTHER_GROUPS = ("attack", "table", "tune", "hydra/launcher", "hydra/sweeper")
TABLE_PARTS = {
    "columns": ColumnConfig, "rows": RowConfig, "across": AcrossConfig, "claims": ClaimConfig,
    "plots": PlotConfig,
}  # fmt: skip


def escape_cell(text: str) -> str:
    """A text as it stands in a cell of a Markdown table."""
    for sign, safe in (("<", "&lt;"), ("*", r"\*"), ("|", r"\|"), ("\n", " ")):
        text = text.replace(sign, safe)
    return text


def quote_code(text: str) -> str:
    """A text as code, in a cell."""
    return f"`{text}`".replace("|", r"\|").replace("\n", r"\n") if text else ""


def write_table(columns: tuple[str, ...], rows: Rows) -> str:
    """A Markdown table; its cells are escaped already."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spell_type(f: dataclasses.Field) -> str:
    """What kind of value a key holds, in words."""
    rule = f.metadata
    if rule.get("word"):
        return f"number, or `{rule['word']}`"
    if rule.get("several"):
        return "text, or list of texts"
    kind = str(f.type).replace(" | None", "")
    null = " or null" if kind != str(f.type) else ""
    return TYPE_WORDS.get(kind, "mapping" if kind.startswith("dict") else "list of mappings") + null


def spell_value(value: Any) -> str:
    """A default as a command line would have it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return '""' if value == "" else str(value)


def spell_allowed(f: dataclasses.Field) -> str:
    """The words or the range of a key."""
    rule = f.metadata
    if rule.get("allowed"):
        return ", ".join(quote_code(str(word)) for word in rule["allowed"])
    return escape_cell(spell_range("", {**rule, "word": None})) if "minimum" in rule else ""


def describe_key(
    name: str, value: Any, f: dataclasses.Field, others: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """A key's line of a table; `others`: what commands have in place of the default."""
    default = quote_code(spell_value(value))
    for command, other in (others or {}).items():
        default += f"; {command}: {quote_code(spell_value(other))}"
    meaning = escape_cell(f.metadata.get("help", ""))
    return quote_code(name), spell_type(f), default, spell_allowed(f), meaning


def describe_config(config: Any, prefix: str = "") -> list[tuple[str, ...]]:
    """The lines of all keys of a config."""
    return [describe_key(*leaf) for leaf in walk_fields(config, prefix)]


def read_command_defaults(command: str) -> dict[str, Any]:
    """The keys that a command's own file sets, in dotted form."""
    content: Any = OmegaConf.load(find_config_folder() / f"{command}.yaml")
    values: dict[str, Any] = {}

    def collect(node: dict[str, Any], prefix: str) -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{name}.")
            elif prefix + name not in ("defaults", "command"):
                values[prefix + name] = value

    collect(OmegaConf.to_container(content), "")  # pyright: ignore[reportArgumentType]
    return values


def list_group_options(group: str) -> list[tuple[str, str]]:
    """The options of a config group and the first comment of each."""
    files = sorted((find_config_folder() / group).glob("*.yaml"))
    return [(quote_code(file.stem), escape_cell(read_first_comment(file))) for file in files]


def write_commands() -> str:
    """Every command: what it does, how it is typed, the words of its own, the groups it takes."""
    parts = ["# Commands", "`undial COMMAND --help` prints the same."]
    for command in COMMAND_NAMES:
        usage = USAGE_LINES.get(command, f"undial {command} [group=option] [key=value ...] [flags]")
        parts += [f"## {command}", f"{COMMAND_SUMMARIES[command].capitalize()}.", f"    {usage}"]
        if command in COMMAND_WORDS:
            words = COMMAND_WORDS[command].items()
            rows = [(quote_code(word), escape_cell(text)) for word, text in words]
            parts.append(write_table(("word", "what it is"), rows))
        elif command in RUN_TYPES:
            primary = (find_config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
            groups = [f"[`{g}`](groups.md#{g})" for g in CONFIG_GROUPS if f"- {g}:" in primary]
            parts.append(f"Groups: {', '.join(groups)}. Keys: [Keys](keys.md).")
    parts += ["## Flags", "Of the commands that take groups."]
    rows = [(quote_code(flag), escape_cell(text)) for flag, text in HELP_FLAGS.items()]
    return "\n\n".join([*parts, write_table(("flag", "what it does"), rows)])


def write_groups() -> str:
    """The options of every config group."""
    parts = [
        "# Groups",
        "`group=option` takes the file `configs/group/option.yaml`; `--config-dir DIR` adds your "
        "own ([extending](../extending.md)).",
    ]
    for group in (*CONFIG_GROUPS, *OTHER_GROUPS):
        rows = list_group_options(group)
        if rows:
            parts += [f"## {group}", write_table(("option", "what it is"), rows)]
    return "\n\n".join(parts)


def write_keys() -> str:
    """Every key of every command by its first part, with type, default, range and meaning."""
    leaves: dict[str, tuple[Any, dataclasses.Field]] = {}
    owners: dict[str, list[str]] = {}
    for command, run in RUN_TYPES.items():
        for name, value, f in walk_fields(run()):
            if name not in ("command", "method"):
                leaves[name] = value, f
                owners.setdefault(name, []).append(command)
    set_by = {command: read_command_defaults(command) for command in RUN_TYPES}
    sections: dict[str, list[str]] = {"": []}
    for name in leaves:
        sections.setdefault(name.partition(".")[0] if "." in name else "", []).append(name)
    parts = [
        "# Keys",
        "The default is the schema's, or what a command's own file has in its place. An option of "
        "a group (`model=llama1b`) sets others: `undial unlearn ... --cfg job` prints what holds. "
        "A value outside what is allowed is refused before anything runs. Keys of a method: "
        "[Methods](methods.md).",
    ]
    for section, names in sections.items():
        alike = len({tuple(owners[name]) for name in names}) == 1
        rows = []
        for name in names:
            others = {c: set_by[c][name] for c in owners[name] if name in set_by[c]}
            row = describe_key(name, *leaves[name], others)
            whose = "all" if len(owners[name]) == len(RUN_TYPES) else ", ".join(owners[name])
            rows.append(row if alike else (*row, whose))
        parts += [f"## {section or 'Of the run'}"]
        parts += [f"Of {', '.join(owners[names[0]])}."] if alike else []
        parts += [write_table(KEY_COLUMNS if alike else (*KEY_COLUMNS, "commands"), rows)]
        if section == "eval":
            parts += ["### eval.sets", "Of each set of a suite."]
            parts += [write_table(KEY_COLUMNS, describe_config(EvalSetConfig(), "eval.sets.NAME."))]
        if section == "audit":
            parts += list_attack_tables()
    parts += ["## ask", "Of `undial ask`."]
    asked = [describe_key(name, f.default, f) for name, f in ASK_FIELDS.items()]
    parts += [write_table(KEY_COLUMNS, asked)]
    for command, config in (("tune", TuneConfig()), ("reproduce", ReproduceConfig())):
        parts += [f"## {command}", f"Of `undial {command}`."]
        parts += [write_table(KEY_COLUMNS, describe_config(config))]
    for name, part in TABLE_PARTS.items():
        parts += [
            f"### table.{name}",
            f"Of each item of `table.{name}`, in a file of configs/table/.",
        ]
        parts += [write_table(KEY_COLUMNS, describe_config(part()))]
    return "\n\n".join(parts)


def list_attack_tables() -> list[str]:
    """The keys of all attacks, then those of each kind alone."""
    shared = {f.name for f in dataclasses.fields(AttackConfig)}
    prefix = "audit.attack.NAME."
    parts = ["### audit.attack", "Of every attack."]
    parts += [write_table(KEY_COLUMNS, describe_config(AttackConfig(), prefix))]
    for kind, config in ATTACK_CONFIGS.items():
        own = [leaf for leaf in walk_fields(config()) if leaf[0] not in shared]
        if own:
            rows = [describe_key(prefix + name, value, f) for name, value, f in own]
            parts += [f"Of kind `{kind}`:", write_table(KEY_COLUMNS, rows)]
    return parts


def write_methods() -> str:
    """Every method: what it is, its own keys, and what its file sets; then the keys of all."""
    shared = {name for name, *_ in walk_fields(MethodConfig())}
    parts = [
        "# Methods",
        "`method=NAME`. What each needs and how they compare: [methods](../methods.md), "
        "[results](../results.md). Last column: what `configs/method/NAME.yaml` sets, its authors' "
        "settings where they gave any.",
    ]
    for name, entry in METHODS.items():
        file = find_config_folder() / "method" / f"{name}.yaml"
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
        parts += [f"## {name}", escape_cell(read_first_comment(file))]
        rows = []
        for key, value, f in walk_fields(entry.config()):
            if key not in shared or (key in content and key != "name"):
                given = quote_code(spell_value(content[key])) if key in content else ""
                rows.append((*describe_key(f"method.{key}", value, f), given))
        if rows:
            parts.append(write_table((*KEY_COLUMNS, "set to"), rows))
    parts += ["## Keys of all methods"]
    return "\n\n".join(
        [*parts, write_table(KEY_COLUMNS, describe_config(MethodConfig(), "method."))]
    )


def write_metrics() -> str:
    """Every metric of the catalogue: of what, which way is better, what it needs."""
    numbered = [
        dataclasses.replace(make(1), name=f"{word}_N", title=make(1).title.replace("1", "N"))
        for word, make in catalog.NUMBERED.items()
    ]
    rows = []
    for metric in (*catalog.ENTRIES, *numbered):
        kinds = ["a set"] * bool(metric.sample) + ["several sets"] * bool(metric.joint)
        needs = list(metric.needs) if metric.sample else list(metric.reads)
        needs += ["target or retain model"] * metric.relative
        link = f"[`{metric.name}`](../metrics.md#{metric.name.lower()})"
        better = [word or "neither" for word in metric.better]
        rows.append((link, escape_cell(metric.title), ", ".join(kinds), *better, ", ".join(needs)))
    columns = ("metric", "title", "of", "better on a forget set", "better elsewhere", "needs")
    return "\n\n".join(
        [
            "# Metrics",
            "Names of results.json have the set in front: `forget_probability`. Each is explained "
            "with an example in [Metrics by example](../metrics.md).",
            write_table(columns, rows),
        ]
    )


PAGES = {
    "commands": write_commands, "keys": write_keys, "groups": write_groups,
    "methods": write_methods, "metrics": write_metrics,
}  # fmt: skip


def write_reference(folder: Path) -> None:
    """Write all pages into a folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        (folder / f"{name}.md").write_text(write() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
