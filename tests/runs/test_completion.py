"""`undial completion SHELL`: what the tab key offers, asked of the shells themselves."""

from __future__ import annotations

import functools
import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import list_options

from undial_cli.cli import COMMAND_NAMES, run_command
from undial_cli.runs.commands.completion import (
    SHELLS,
    list_command_words,
    list_key_values,
    make_script,
)
from undial_cli.runs.help import CONFIG_GROUPS
from undial_cli.runs.known_keys import list_known_keys

BASH = """
{script}
{breaks}
while IFS= read -r line; do
  COMP_LINE=$line COMP_POINT=${{#line}} COMPREPLY=()
  _undial
  (IFS=$'\\t'; echo "${{COMPREPLY[*]}}")
done
"""
FISH = """
source script
while read -l line
  echo (complete -C $line | string join \\t)
end
"""
# What fits of each set that is offered is noted; nothing is shown, as a long list asks back.
ZSH = """
PS1= ; setopt no_auto_list no_auto_menu no_beep
autoload -Uz compinit && compinit -u -D
zstyle ':completion:*' insert-tab false
source script
compadd() {
  local -a fitting
  builtin compadd -O fitting "$@"
  printf '%s\\t' "$IPREFIX"$^fitting >> offered
  builtin compadd "$@"
}
end_line() { print >> offered; BUFFER= }
zle -N end_line; bindkey '^X^E' end_line
"""

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
in_each_shell = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            shell,
            marks=pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not here"),
        )
        for shell in SHELLS
    ],
)


@functools.cache
def ask_shell(
    shell: str, lines: tuple[str, ...], folder: Path, breaks: str = 'COMP_WORDBREAKS=" "'
) -> list[set[str]]:
    """What is offered behind each line, in a folder; whole words, folders without a slash.

    Args:
        breaks: for bash, which replaces only what stands behind the last of COMP_WORDBREAKS.
    """
    (folder / "script").write_text(make_script(shell))
    if shell == "zsh":
        said = ask_zsh(lines, folder)
    else:
        program = BASH.format(script=make_script(shell), breaks=breaks)
        done = subprocess.run(
            [shell, "-c", program if shell == "bash" else FISH], input="\n".join(lines) + "\n",
            capture_output=True, text=True, timeout=60, cwd=folder, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        said = done.stdout.split("\n")[:-1]
    return [{word.rstrip("/") for word in line.split("\t")} - {""} for line in said]


def ask_zsh(lines: tuple[str, ...], folder: Path) -> list[str]:
    """The same of zsh, which completes nowhere but on a terminal: the words, with tabs between."""
    (folder / "setup").write_text(ZSH)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvp("zsh", ["zsh", "-f", "-i"])
    offered = folder / "offered"
    offered.touch()
    # Tab, then keys that end the line; to a terminal that zsh has not taken yet they mean nothing.
    keys = "".join(f"{line}\t\x18\x05" for line in lines)
    for typed, ends in ((". ./setup; print >> offered\n", 1), (keys, 1 + len(lines))):
        os.write(terminal, typed.encode())
        until = time.monotonic() + 60
        while offered.read_text().count("\n") < ends:
            assert time.monotonic() < until, offered.read_text()
            if select.select([terminal], [], [], 0.05)[0]:
                os.read(terminal, 65536)  # or it waits to be read
    os.close(terminal)
    os.waitpid(child, 0)
    return offered.read_text().split("\n")[1:-1]


@in_each_shell
def test_commands_groups_keys_and_values_are_offered(shell: str, tmp_path: Path) -> None:
    asked = {
        "undial ": set(COMMAND_NAMES),
        "undial un": {"unlearn"},
        "undial unlearn method=": {f"method={name}" for name in list_options("method")},
        "undial unlearn model=tiny method=np": {"method=npo"},
        "undial unlearn meth": {"method=", "method."},
        "undial unlearn method.stre": {"method.strength="},
        "undial unlearn train.packing=": {
            f"train.packing={word}" for word in ("auto", "on", "off")
        },
        "undial unlearn overwrite=": {"overwrite=true", "overwrite=false"},
        "undial unlearn --multirun method=undial,np": {"method=undial,npo"},
        "undial evaluate method": set(),
        "undial copy method/und": {"method/undial"},
        "undial reproduce table=demo_fo": {"table=demo_focus"},
        "undial tune rule=": {"rule=nearest_retain", "rule=most_forgotten"},
        "undial export x format=": {"format=gguf", "format=ollama"},
        "undial purge --te": {"--text"},
        "undial ask x web=": {"web=true", "web=false"},
        "undial serve x engine=v": {"engine=vllm"},
        "undial validate kind=att": {"kind=attack"},
        "undial completion z": {"zsh"},
        "undial doctor --": {"--json"},
        "undial nosuch x": set(),
    }
    for line, offered in zip(asked, ask_shell(shell, tuple(asked), tmp_path), strict=True):
        assert offered == asked[line], line


@needs_bash
def test_bash_is_offered_what_stands_behind_its_word_break(tmp_path: Path) -> None:
    lines = ("undial unlearn method=np", "undial unlearn data=* ;x")
    assert ask_shell("bash", lines, tmp_path, breaks="") == [{"npo"}, set()]


@in_each_shell
def test_a_folder_of_configs_and_run_folders_are_offered(shell: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "npo_soft.yaml").touch()
    (tmp_path / "mine" / "method" / "npo$(touch run).yaml").touch()  # no program is run by a name
    lines = ("undial unlearn --config-dir mine method=npo", "undial report mi")
    configs, folders = ask_shell(shell, lines, tmp_path)
    assert configs - {"method=npo$(touch run)"} == {"method=npo", "method=npo_soft"}
    assert folders == {"mine"}
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
