"""Any text as an experiment or a table of the user's: composed, or refused in one line.

Texts are drawn by Hypothesis from fixed seeds; many of them with the slow tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from test_any_text import KEYS, MANY, TREES, VALUES, drawn, expect_an_answer, write_any_text

from undial_cli.config.tables import TableConfig
from undial_cli.errors import UserError
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import compose_groups
from undial_cli.tables.command import run_reproduce_command
from undial_cli.tables.load import load_table

HEAD = "# @package _global_\n"
# What Hydra itself reads of a file, beside the keys of a run.
WORDS = ["seed", "data", "method", "train", "model", "eval", "hydra", "defaults", "_target_"]
DEFAULTS = st.lists(
    st.one_of(
        st.sampled_from(["_self_", "/method: npo", "override /data: tofu", "nosuch", "/nosuch: a"]),
        st.dictionaries(st.sampled_from(["override /method", "/data", "method", "x"]), TREES),
        TREES,
    ),
    max_size=3,
)
EXPERIMENTS = st.one_of(
    st.text(max_size=30),
    TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)),
    st.builds("# @package _global_\n{}: {}\n".format, st.sampled_from([*KEYS, *WORDS]), VALUES),
    st.dictionaries(st.sampled_from(WORDS), TREES).map(lambda tree: HEAD + yaml.safe_dump(tree)),
    DEFAULTS.map(lambda items: HEAD + yaml.safe_dump({"defaults": items})),
)
# A table that is sound, of which a part is another.
SOUND: dict[str, Any] = {
    "title": "t",
    "columns": [{"metric": ["forget_rouge"]}],
    "rows": [{"label": "a", "overrides": ["method=undial"]}],
    "seeds": [0],
}
PARTS = sorted(vars(TableConfig()))
FIELDS = ["label", "metric", "name", "overrides", "format", "kind", "x", "y", "section", "values"]
ITEMS = st.lists(st.dictionaries(st.sampled_from(FIELDS), TREES, max_size=3), max_size=2)
TABLES = st.one_of(
    st.text(max_size=30),
    st.dictionaries(st.sampled_from(PARTS), st.one_of(TREES, ITEMS), max_size=2).map(
        lambda part: yaml.safe_dump({**SOUND, **part}, allow_unicode=True)
    ),
    st.builds("{}: {}\n".format, st.sampled_from(PARTS), VALUES),
)


def compose_any_experiment(folder: Path, text: str) -> None:
    write_any_text(folder / "configs" / "experiment" / "any.yaml", text)
    compose_groups.cache_clear()
    expect_an_answer(lambda: compose_run("unlearn", ["experiment=any"], str(folder / "configs")))


def read_any_table(folder: Path, text: str) -> None:
    write_any_text(folder / "configs" / "table" / "any.yaml", text)
    compose_groups.cache_clear()
    words = ["table=any", "plan=true", f"output_dir={folder}/out", "--config-dir"]
    expect_an_answer(lambda: run_reproduce_command([*words, str(folder / "configs")]))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that each text is written to in turn."""
    return tmp_path_factory.mktemp("texts")


# Each drew an exception once.
@pytest.mark.parametrize(
    "text",
    [
        "", "- a", "3.5", "a\x1d", "{", "a: [", "defaults: 3", "defaults: [{}]", "defaults: [null]",
        "defaults: [{1: a}]", "defaults: [{/data: {a: b}}]", "seed: &a [*a]", "1: 2", "{a: b}: c",
    ],
)  # fmt: skip
def test_an_odd_experiment_is_composed_or_refused(scratch: Path, text: str) -> None:
    compose_any_experiment(scratch, text)


@pytest.mark.parametrize(
    "part",
    [
        {"columns": [{"metric": ["a"], "format": "999999999f"}]}, {"plots": [{"name": "../x"}]},
        {"rows": 3}, {"columns": [{"metric": []}]}, {"seeds": []}, {"nosuch": 1},
        {"overrides": [{"": None}]},
    ],
)  # fmt: skip
def test_a_table_of_an_odd_part_is_refused(scratch: Path, part: dict[str, Any]) -> None:
    write_any_text(scratch / "configs" / "table" / "any.yaml", yaml.safe_dump({**SOUND, **part}))
    with pytest.raises(UserError):
        load_table(["table=any"], str(scratch / "configs"))


@pytest.mark.parametrize("text", ["", "- a", "claims: \x18", "a: [", "3"])
def test_an_odd_table_is_refused(scratch: Path, text: str) -> None:
    write_any_text(scratch / "configs" / "table" / "any.yaml", text)
    with pytest.raises(UserError):
        load_table(["table=any"], str(scratch / "configs"))


@pytest.mark.slow
@drawn(EXPERIMENTS, MANY // 10)
def test_many_experiments_are_composed_or_refused(scratch: Path, text: str) -> None:
    compose_any_experiment(scratch, text)


@pytest.mark.slow
@drawn(TABLES, MANY // 10)
def test_many_tables_are_read_or_refused(scratch: Path, text: str) -> None:
    read_any_table(scratch, text)
