"""What a command line means stays what it was: 1400 runs composed before, kept, and compared.

A key that is renamed or gone is listed here, with what became of it; all others hold their value.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
from omegaconf import OmegaConf
from resolved import compose_tables, read, settings_of

from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import MOVED_RESOURCES, parse_run_yaml

RATES = [f"learning_rate.{adapter}" for adapter in ("none", "lora", "qlora")]
RECIPE = [
    *RATES, "batch_size", "epochs", "warmup_steps", "warmup_epochs", "scheduler", "weight_decay",
]  # fmt: skip
# Old key -> new key, or None where nothing took its place: recipes set train.* themselves, and
# target.* of a target that is made.
RENAMED: dict[str, str | None] = {
    **{f"model.unlearn.{key}": None for key in RECIPE},
    **{f"model.finetune.{key}": f"target.{key}" for key in RECIPE},
    **{f"model.finetune.{key}": f"target.{key.replace('rate.', 'rates.')}" for key in RATES},
}


def renamed(key: str, command: str) -> str | None:
    """The key by its name of now; what is fine-tuned has no target that is made."""
    new = RENAMED.get(key, key)
    return new.replace("target.", "train.") if new and command == "finetune" else new


def moved(value: Any) -> Any:
    """The value, with the bundled files where they are now."""
    return MOVED_RESOURCES.get(value, value) if isinstance(value, str) else value


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys whose value is no longer what it was; keys that are new do not count."""
    wanted = {renamed(key, before["command"]): moved(value) for key, value in before.items()}
    return [
        f"{key}: {value!r} -> {now.get(key)!r}"
        for key, value in wanted.items()
        if key is not None and (key not in now or now[key] != value)
    ]


@pytest.mark.parametrize("command", ["unlearn", "finetune", "evaluate"])
@pytest.mark.parametrize("words", ["model=llama7b data=tofu", "model=tiny data=demo"])
def test_a_run_yaml_of_before_is_the_same_run(command: str, words: str) -> None:
    for line, before in read().items():
        if line.startswith(f"{command} {words}"):
            content: dict[str, Any] = {}
            for key, value in before.items():
                *folders, name = key.split(".")
                inner = functools.reduce(lambda d, k: d.setdefault(k, {}), folders, content)
                inner[name] = value
            again = parse_run_yaml(OmegaConf.to_yaml(content))
            assert again == compose_run(command, line.split()[1:])
            return
    raise AssertionError(f"no {command} is kept")


@pytest.mark.slow
def test_every_option_and_every_experiment_means_what_it_meant() -> None:
    """One line in eight holds every option; `UNDIAL_REPEATS=1` takes them all."""
    runs = {line: run for line, run in read().items() if not line.startswith("table ")}
    step = 1 if os.environ.get("UNDIAL_REPEATS") else 8
    drawn = [*runs][::step] + [line for line in runs if "experiment=" in line]
    options = {word for line in runs for word in line.split()[1:]}
    assert options == {word for line in drawn for word in line.split()[1:]}
    wrong = []
    for line in dict.fromkeys(drawn):
        command, *words = line.split()
        now = settings_of(compose_run(command, words))
        wrong += [f"{line}: {text}" for text in differences(runs[line], now)]
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.slow
def test_every_run_of_every_table_means_what_it_meant() -> None:
    before = {line: run for line, run in read().items() if line.startswith("table ")}
    now = compose_tables()
    assert before.keys() <= now.keys()
    wrong = [f"{line}: {t}" for line in before for t in differences(before[line], now[line])]
    assert not wrong, "\n".join(wrong[:20])
