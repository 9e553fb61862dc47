"""Resolved configs as they are to stay: of every pair of options, every experiment and table.

`PYTHONPATH=tests python tests/runs/resolved.py` writes resolved.json.xz anew from what is composed
now: words of the command line -> the run, as dotted keys and values. test_resolved.py compares.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import list_options

from undial_cli.config.schema import Run
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import find_config_folder

FILE = Path(__file__).with_suffix(".json.xz")


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dataclasses and dictionaries; an empty one is a value."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def settings_of(run: Run) -> dict[str, Any]:
    """A run as JSON holds it, by dotted key."""
    return json.loads(json.dumps(dict(flatten(run))))


def list_commands() -> list[str]:
    """What is compared: command and overrides, one line each."""
    from test_compose import covering_set

    lines = [
        " ".join(["unlearn", *(f"{g}={o}" for g, o in config.items())]) for config in covering_set()
    ]
    lines += [
        f"{command} model={model} data={data}"
        for command in ("finetune", "evaluate")
        for model, data in itertools.product(list_options("model"), list_options("data"))
    ]
    lines += [
        f"unlearn experiment={name}{end}"
        for name in list_options("experiment")
        for end in ("", " method=npo", " method=npo method.retain=gdr", " adapter=lora")
    ]
    lines += [
        f"unlearn model={model} data={data} method={method} adapter={adapter}"
        for model, data in (
            ("llama7b", "tofu"), ("phi1_5", "tofu"), ("llama7b_base", "muse_news"),
            ("llama7b_base", "muse_books"), ("tiny", "demo"),
        )
        for method in list_options("method")
        for adapter in ("none", "lora", "auto")
    ]  # fmt: skip
    return [line for line in dict.fromkeys(lines) if not is_refused(line)]


def is_refused(line: str) -> bool:
    """Whether a line does not compose."""
    from undial_cli.errors import UserError

    command, *words = line.split()
    try:
        compose_run(command, words)
    except UserError:
        return True
    return False


def compose_tables() -> dict[str, dict[str, Any]]:
    """The runs of every shipped table, by table and label."""
    from undial_cli.tables import load, runs

    found = {}
    for name in sorted(file.stem for file in (find_config_folder() / "table").glob("*.yaml")):
        asked = load.load_table([f"table={name}"], None)
        for entry in runs.compose_table_runs(
            asked, runs.list_table_lines(asked.table, []), [], None
        ):
            found[f"table {name}: {entry.label}"] = settings_of(entry.run)
    return found


@functools.cache
def read() -> dict[str, dict[str, Any]]:
    """What is kept: a run's settings by the words that compose it."""
    return json.loads(lzma.decompress(FILE.read_bytes()))


def main() -> None:
    """Write the file anew."""
    content: dict[str, dict[str, Any]] = {}
    for line in list_commands():
        command, *words = line.split()
        content[line] = settings_of(compose_run(command, words))
    content |= compose_tables()
    FILE.write_bytes(lzma.compress(json.dumps(content, sort_keys=True).encode(), preset=9))
    print(f"{len(content)} runs, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
