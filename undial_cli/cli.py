"""The command line: `undial COMMAND [group=option] [key=value ...]`. The only file that knows argv.

Exit codes: 0 done, 2 the input is wrong, 1 anything else; 130, 143, 129 and 138 ended by SIGINT
(Ctrl-C), SIGTERM, SIGHUP and SIGUSR1. Modules are imported where they are used: `--help` is to
answer at once, and torch takes seconds.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from undial_cli.errors import Interrupted, UserError, WorldError, bad_value
from undial_cli.system import launcher_environment, signals
from undial_cli.system.garbage import spare_imports

if TYPE_CHECKING:
    from undial_cli.config.schema import Run

COMMAND_NAMES = (
    "unlearn", "finetune", "evaluate", "audit", "tune", "alternatives", "data", "reproduce",
    "report", "ask", "serve", "merge", "export", "show", "validate", "copy", "schema",
    "list", "compare", "purge", "doctor", "completion",
)  # fmt: skip
# Those that read their words themselves, and the function that does each.
WORD_COMMANDS = {
    "tune": "undial_cli.sweeps.tune:run_tune_command",
    "reproduce": "undial_cli.tables.command:run_reproduce_command",
    "ask": "undial_cli.asking.command:run_ask_command",
    "serve": "undial_cli.asking.serve_command:run_serve_command",
    "merge": "undial_cli.runs.commands.merge:run_merge_command",
    "export": "undial_cli.runs.commands.export:run_export_command",
    "show": "undial_cli.runs.commands.show:run_show_command",
    "validate": "undial_cli.tables.validate_command:run_validate_command",
    "copy": "undial_cli.runs.commands.copy_config:run_copy_command",
    "schema": "undial_cli.runs.commands.json_schema:run_schema_command",
    "list": "undial_cli.runs.commands.run_list:run_list_command",
    "compare": "undial_cli.runs.commands.compare:run_compare_command",
    "purge": "undial_cli.runs.commands.purge:run_purge_command",
    "completion": "undial_cli.runs.commands.completion:run_completion_command",
    "doctor": "undial_cli.runs.commands.doctor:examine_machine",
}
HELP_WORDS = ("--help", "-h", "help")
# The familiar name of plan=true, and the commands that have a plan; purge has it of its own.
DRY_RUN, PLANNED_COMMANDS = "--dry-run", ("unlearn", "finetune", "tune", "reproduce")
# A process of a run: runs/launch.py starts it, through torch, which leaves a name.
WORKER, STARTED_BY_TORCH = "worker", "TORCHELASTIC_RUN_ID"
# Flags and what must follow them; all but --from are those of Hydra.
FLAG_ARGUMENTS = {
    "--from": "a run.yaml or a run folder",
    "--multirun": "",
    "-m": "",
    "--cfg": "job, hydra or all",
    "-c": "job, hydra or all",
    DRY_RUN: "",
    "--resolve": "",
    "--package": "a package",
    "-p": "a package",
    "--config-dir": "a folder",
    "-cd": "a folder",
    "--info": "",
    "-i": "",
    "--hydra-help": "",
    "--shell-completion": "",
    "-sc": "",
}
# Flags that have Hydra print something in place of a run, and those that say how.
PRINTING_FLAGS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}
PRINT_MODIFIERS = {"--resolve", "--package", "-p"}


def main() -> None:
    """The console script."""
    open_standard_streams()
    signals.install_signal_handlers(quiet=sys.argv[1:2] == [WORKER])
    if STARTED_BY_TORCH in os.environ:  # a worker, or a process of torchrun
        from undial_cli.system.supervision import end_with_parent

        # What started it may be killed outright, tells nobody, and this would hold its GPU.
        end_with_parent()
    code = run_command(sys.argv[1:])
    signals.exit_on_signals()
    if "torch.distributed" in sys.modules:
        from undial_cli.system import processes

        if processes.has_process_group():  # joined by torchrun or accelerate
            processes.exit_process(code)
    sys.exit(code)


def open_standard_streams() -> None:
    """Have all three, closed ones to nowhere, and show what an encoding lacks as `?`."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # or the next file that is opened would be the screen
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as this runs
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    from undial_cli import ui

    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises kernels on import
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # by torch: large memory pages
    try:
        launcher_environment.adopt_slurm_step()
        return dispatch_command(argv)
    except UserError as error:
        ui.print_error(str(error))
        return 2
    except WorldError as error:
        ui.print_error(str(error), any_process=not error.is_said)
        return 1
    except KeyboardInterrupt as stop:
        interrupted = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT)
        reason = interrupted.reason or interrupted.sign.name
        ui.print_error(f"interrupted by {reason}; the same command goes on")
        return interrupted.exit_code
    except BrokenPipeError:  # as of `undial ... | head`
        sys.stderr.close()  # or Python complains of stdout when it exits
        return 1
    except Exception as error:
        from undial_cli.system import faults

        if fault := faults.explain_fault(error):
            ui.print_error(str(fault), any_process=True)
            return 1
        reason = str(error).strip().splitlines()
        ui.print_error(f"{type(error).__name__}: {reason[0] if reason else ''}", any_process=True)
        if os.environ.get("UNDIAL_TRACEBACK"):
            raise
        return 1


def dispatch_command(argv: list[str]) -> int:
    from undial_cli import __version__
    from undial_cli.runs import help

    if not argv or argv[0] in HELP_WORDS:
        help.show_top_help()
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"undial {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command == WORKER and STARTED_BY_TORCH in os.environ:
        with spare_imports():
            from undial_cli.pipeline import do_work
            from undial_cli.runs.worker import work_and_leave

        work_and_leave(Path(rest[0]), do_work)
    if command not in COMMAND_NAMES:
        raise bad_value("command", command, COMMAND_NAMES)
    if sys.flags.optimize > 1:
        raise bad_value(
            "PYTHONOPTIMIZE", sys.flags.optimize, "0 or 1: transformers reads its docstrings"
        )
    if any(word in HELP_WORDS for word in rest):
        help.show_command_help(command)
        return 0
    if command != "purge":
        rest = translate_dry_run(command, rest)
    if command in WORD_COMMANDS:
        module, function = WORD_COMMANDS[command].split(":")
        return getattr(importlib.import_module(module), function)(rest)
    if command == "report":
        from undial_cli.reporting.report import parse_report_words
        from undial_cli.reporting.report import run_report_command as report
        from undial_cli.runs.evidence import settle_ledgers

        code = report(rest)
        settle_ledgers(parse_report_words(rest)[0])
        return code
    flags, words = split_flags(rest)
    if command == "data":
        return show_training_data(flags, words)
    if "--from" in flags:
        return repeat_run(command, flags, words)
    from undial_cli.runs.run_folder import FOLLOW_UPS

    if command in FOLLOW_UPS and words and "=" not in words[0]:
        return follow_up_run(command, words[0], flags, words[1:])
    return compose_and_execute(command, flags, words)


def translate_dry_run(command: str, words: list[str]) -> list[str]:
    """The words with plan=true in place of --dry-run.

    Raises:
        UserError: the command has no plan, or the flag has a value.
    """
    given = [word for word in words if word.partition("=")[0] == DRY_RUN]
    if given and command not in PLANNED_COMMANDS:
        plans = ", ".join((*PLANNED_COMMANDS, "purge"))
        raise UserError(
            f"{DRY_RUN}: undial {command} has no plan to show; those that have: {plans}"
        )
    if any(word != DRY_RUN for word in given):
        raise UserError(f"{given[0]}: {DRY_RUN} takes no value; it stands for plan=true")
    return [word for word in words if word not in given] + ["plan=true"] * bool(given)


def split_flags(rest: list[str]) -> tuple[dict[str, str], list[str]]:
    """Flags with what follows them, and overrides.

    Raises:
        UserError: a flag that nobody knows, or one without its value.
    """
    flags: dict[str, str] = {}
    words: list[str] = []
    left = list(rest)
    while left:
        word = left.pop(0)
        name, given, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
            continue
        if name not in FLAG_ARGUMENTS:
            raise bad_value("flag", name, FLAG_ARGUMENTS)
        is_followed = bool(left) and not left[0].startswith("-")
        if FLAG_ARGUMENTS[name] and not given and not is_followed:
            raise UserError(f"{name}: expected {FLAG_ARGUMENTS[name]} after it")
        may_follow = FLAG_ARGUMENTS[name] or (
            name in ("--info", "-i") and is_followed and "=" not in left[0]
        )
        flags[name] = left.pop(0) if may_follow and not given else value
    return flags, words


def repeat_run(command: str, flags: dict[str, str], overrides: list[str]) -> int:
    """`undial COMMAND --from run.yaml [key=value ...]`."""
    from undial_cli.runs.run_yaml import load_run
    from undial_cli.runs.trust import check_command_line_keys

    file = flags.pop("--from")
    if flags:
        raise UserError(f"{next(iter(flags))}: not possible together with --from")
    run = load_run(file, overrides)
    check_command_line_keys(run, overrides, f"--from {file}")
    if run.command != command:
        raise UserError(f"--from {file}: it is a run of 'undial {run.command}'")
    carry_out_run(run)
    return 0


def follow_up_run(command: str, path: str, flags: dict[str, str], words: list[str]) -> int:
    """`undial audit|evaluate RUN_FOLDER [key=value ...]`."""
    from undial_cli.runs.follow_up import compose_follow_up

    for flag in flags:
        if flag not in ("--config-dir", "-cd"):
            raise UserError(f"{flag}: not possible together with a run folder")
    run = compose_follow_up(command, path, words, find_user_configs(flags))
    carry_out_run(run)
    return 0


def show_training_data(flags: dict[str, str], words: list[str]) -> int:
    """`undial data [group=option] [key=value ...]`: what a run would train on."""
    folder = find_user_configs(flags)
    if PRINTING_FLAGS & set(flags):
        return show_config("data", flags, words, folder)
    for flag in flags:
        if flag not in ("--config-dir", "-cd"):
            raise UserError(f"{flag}: not possible with undial data")
    from undial_cli.config.schema import DataRun
    from undial_cli.runs.compose import compose_run

    run = compose_run("data", words, folder)
    with spare_imports():
        from undial_cli.runs.commands.data_view import show_data
    assert isinstance(run, DataRun)
    show_data(run)
    return 0


def carry_out_run(run: Run) -> None:
    """Do a run, with all that it needs."""
    with spare_imports():
        from undial_cli.pipeline import execute_run

    execute_run(run)


def find_user_configs(flags: dict[str, str]) -> str | None:
    """The folder with the user's own configs; raises UserError where it is not there."""
    folder = flags.get("--config-dir", flags.get("-cd"))
    if folder is not None and not os.path.isdir(folder):
        raise UserError(f"--config-dir {folder}: no such folder")
    return folder


def compose_and_execute(command: str, flags: dict[str, str], words: list[str]) -> int:
    """`undial COMMAND [group=option] [key=value ...] [flags]`: one run, or with --multirun many."""
    folder = find_user_configs(flags)
    if PRINTING_FLAGS & set(flags):
        return show_config(command, flags, words, folder)
    for name in PRINT_MODIFIERS & set(flags):
        raise UserError(f"{name}: only together with --cfg")
    if {"--multirun", "-m"} & set(flags):
        from undial_cli.sweeps.launchers import run_sweep

        return run_sweep(command, words, folder)
    from undial_cli.runs.compose import compose_run

    run = compose_run(command, words, folder)
    carry_out_run(run)
    return 0


def show_config(command: str, flags: dict[str, str], words: list[str], folder: str | None) -> int:
    """Let Hydra print what it composes, or what it knows (`--cfg job`, `--info`, ...)."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from undial_cli.runs import config_errors
    from undial_cli.runs.compose import translate_words
    from undial_cli.runs.hydra_configs import (
        COMPOSITION_ERRORS,
        compose_config,
        find_config_folder,
        register_schemas,
    )
    from undial_cli.runs.trust import refuse_variables

    register_schemas()
    overrides = translate_words(command, words, folder)
    first = str(find_config_folder())
    if folder is not None:  # Hydra looks into the folder of --config-dir last, ours wins over it
        flags = {f: v for f, v in flags.items() if f not in ("--config-dir", "-cd")}
        flags["--config-dir"], first = first, str(Path(folder).resolve())
    show = hydra.main(version_base="1.3", config_path=first, config_name=command)
    if "job" in (flags.get("--cfg"), flags.get("-c")):
        flags = {**flags, "--resolve": ""}  # values, not where they come from
    flag_words = [word for flag in flags.items() for word in flag if word]
    sys.argv = [f"undial {command}", *overrides, *flag_words]  # hydra.main reads nothing else
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised here, not printed by Hydra
    try:
        with refuse_variables():
            if folder is not None:  # before Hydra acts on its own settings
                compose_config(command, overrides, folder, mode=RunMode.MULTIRUN)
            GlobalHydra.instance().clear()
            show(lambda config: None)()
    except COMPOSITION_ERRORS as error:
        raise config_errors.explain_composition_error(error, command, overrides) from error
    except SystemExit as stop:
        return 2 if stop.code else 0
    return 0


if __name__ == "__main__":
    main()
