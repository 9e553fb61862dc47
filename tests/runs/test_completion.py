"""`undial completion bash`: what the tab key offers, asked of bash itself."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import list_options

from undial_cli.cli import COMMAND_NAMES, run_command
from undial_cli.runs.commands.completion import (
    list_command_words,
    list_key_values,
    make_bash_script,
)
from undial_cli.runs.help import CONFIG_GROUPS
from undial_cli.runs.known_keys import list_known_keys

ASK = """
{script}
{breaks}
while IFS= read -r line; do
  COMP_LINE=$line COMP_POINT=${{#line}} COMPREPLY=()
  _undial
  (IFS=$'\\t'; echo "${{COMPREPLY[*]}}")
done
"""

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")


@functools.cache
def ask_bash(lines: tuple[str, ...], folder: Path | None = None, breaks: str = "") -> list[set]:
    """What is offered behind each line."""
    program = ASK.format(script=make_bash_script(), breaks=breaks)
    done = subprocess.run(
        ["bash", "-c", program], input="\n".join(lines) + "\n", capture_output=True, text=True,
        timeout=60, cwd=folder, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [set(line.split("\t")) - {""} for line in done.stdout.split("\n")[:-1]]


@needs_bash
def test_commands_groups_keys_and_values_are_offered() -> None:
    asked = {
        "undial ": set(COMMAND_NAMES),
        "undial un": {"unlearn"},
        "undial unlearn method=": set(list_options("method")),
        "undial unlearn model=tiny method=np": {"npo"},
        "undial unlearn meth": {"method=", "method."},
        "undial unlearn method.stre": {"method.strength="},
        "undial unlearn train.packing=": {"auto", "on", "off"},
        "undial unlearn overwrite=": {"true", "false"},
        "undial unlearn --multirun method=undial,np": {"undial,npo"},
        "undial evaluate method": set(),
        "undial copy method/und": {"method/undial"},
        "undial reproduce table=demo_fo": {"demo_focus"},
        "undial tune rule=": {"nearest_retain", "most_forgotten"},
        "undial export x format=": {"gguf", "ollama"},
        "undial purge --te": {"--text"},
        "undial ask x web=": {"true", "false"},
        "undial serve x engine=v": {"vllm"},
        "undial validate kind=att": {"attack"},
        "undial doctor --": {"--json"},
        "undial nosuch x": set(),
        "undial unlearn data=* ;x": set(),
    }
    for line, offered in zip(asked, ask_bash(tuple(asked)), strict=True):
        assert offered == asked[line], line
    (whole,) = ask_bash(("undial unlearn method=np",), breaks='COMP_WORDBREAKS=" "')
    assert whole == {"method=npo"}


@needs_bash
def test_a_folder_of_configs_and_run_folders_are_offered(tmp_path: Path) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "npo_soft.yaml").touch()
    (tmp_path / "mine" / "method" / "npo$(touch run).yaml").touch()  # no program is run by a name
    lines = ("undial unlearn --config-dir mine method=npo", "undial report mi")
    assert ask_bash(lines, tmp_path) == [{"npo", "npo_soft"}, {"mine/"}]
    assert not (tmp_path / "run").exists()


def test_every_key_and_option_is_in_the_script() -> None:
    words, values = list_command_words("unlearn"), list_key_values()
    assert {f"{key}=" for key in list_known_keys("unlearn")} - {"command="} <= set(words)
    for group in CONFIG_GROUPS:
        assert values[group] == list_options(group)


@pytest.mark.parametrize(
    ("words", "says"), [([], "expected a shell"), (["bsh"], "did you mean 'bash'?")]
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["completion", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
