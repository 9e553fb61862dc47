"""A run as text is the same run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml, load_run


@pytest.mark.parametrize(
    "command, words",
    [
        ("unlearn", ["method=npo", "method.beta=0.3", "train.args.adam_beta2=0.95"]),
        ("unlearn", ["model=llama7b", "data=tofu", "method.retain=klr", "name=yes"]),
        ("unlearn", ["experiment=tofu_smollm2_cpu", "data.path=/some/where"]),
        ("finetune", ["data.limit=3"]),
        ("evaluate", ["model=llama1b", "data=tofu"]),
    ],
)
def test_a_run_survives_its_run_yaml(command: str, words: list[str], tmp_path: Path) -> None:
    run = compose_run(command, words)
    (tmp_path / "run.yaml").write_text(dump_run_yaml(run))
    again = load_run(tmp_path / "run.yaml")
    assert again == run
    assert type(again) is type(run)
    assert dump_run_yaml(again) == dump_run_yaml(run)
