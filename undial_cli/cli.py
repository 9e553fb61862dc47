"""The command line: `undial COMMAND [group=option] [key=value ...]`. The only file that knows argv.

Exit codes: 0 done, 2 the input is wrong, 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

from undial_cli.errors import UserError, WorldError, bad_value

if TYPE_CHECKING:
    from undial_cli.schema import Run

COMMANDS = ("unlearn", "finetune", "evaluate", "reproduce", "report", "doctor")
HELP = ("--help", "-h", "help")
# Flags and what must follow them; all but --from are Hydra's.
FLAGS = {
    "--from": "a run.yaml or a run folder",
    "--multirun": "",
    "-m": "",
    "--cfg": "job, hydra or all",
    "-c": "job, hydra or all",
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


def main() -> None:
    """The console script."""
    code = run_command(sys.argv[1:])
    if "torch.distributed" in sys.modules:
        from undial_cli import distributed

        if distributed.active():  # joined by torchrun or accelerate
            distributed.leave(code)
    sys.exit(code)


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    from undial_cli import ui

    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # by torch: large memory pages
    try:
        return dispatch(argv)
    except UserError as error:
        ui.error(str(error))
        return 2
    except WorldError as error:
        ui.error(str(error))
        return 1
    except KeyboardInterrupt:
        ui.error("interrupted; the same command goes on from the last saved step")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        reason = str(error).strip().splitlines()
        ui.error(f"{type(error).__name__}: {reason[0] if reason else ''}", any_process=True)
        if os.environ.get("UNDIAL_TRACEBACK"):
            raise
        return 1


def dispatch(argv: list[str]) -> int:
    """Choose the command."""
    from undial_cli import __version__, usage

    if not argv or argv[0] in HELP:
        usage.show_top()
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"undial {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        raise bad_value("command", command, COMMANDS)
    if any(word in HELP for word in rest):
        usage.show_command(command)
        return 0
    if command == "doctor":
        from undial_cli.doctor import examine

        return examine(rest)
    if command == "report":
        from undial_cli.reporting.report import run as report

        return report(rest)
    check_flags(rest)
    if command == "reproduce":
        from undial_cli.tables.command import run as reproduce

        return reproduce(rest)
    if "--from" in rest or any(word.startswith("--from=") for word in rest):
        return repeat(command, rest)
    return through_hydra(command, rest)


def check_flags(rest: list[str]) -> None:
    """Raise UserError for a flag that nobody knows, or one without its value."""
    for place, word in enumerate(rest):
        name, given, _ = word.partition("=")
        if not word.startswith("-"):
            continue
        if name not in FLAGS:
            raise bad_value("flag", name, FLAGS)
        if FLAGS[name] and not given and (place + 1 == len(rest) or rest[place + 1][0] == "-"):
            raise UserError(f"{name}: expected {FLAGS[name]} after it")


def parted(rest: list[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides: Hydra takes these in one row only."""
    flags: list[str] = []
    words: list[str] = []
    before = ""
    for word in rest:
        is_value = bool(FLAGS.get(before)) or (before in ("--info", "-i") and "=" not in word)
        (flags if is_value or word.startswith("-") else words).append(word)
        before = word
    return flags, words


def repeat(command: str, rest: list[str]) -> int:
    """`undial COMMAND --from run.yaml [key=value ...]`."""
    from undial_cli.compose import load_run

    words = [
        w for word in rest for w in (word.split("=", 1) if word.startswith("--from=") else [word])
    ]
    place = words.index("--from")
    if place + 1 >= len(words):
        raise UserError("--from: expected a run.yaml or a run folder after it")
    overrides = words[:place] + words[place + 2 :]
    flags = [word for word in overrides if word.startswith("-")]
    if flags:
        raise UserError(f"{flags[0]}: not possible together with --from")
    run = load_run(words[place + 1], overrides)
    if run.model.trust_remote_code and "model.trust_remote_code=true" not in overrides:
        raise UserError(
            f"--from {words[place + 1]}: model.trust_remote_code=true runs code that comes with "
            "the model and is not taken from a file; say it on the command line as well"
        )
    folder = run.eval.harness.include_path
    if folder is not None and f"eval.harness.include_path={folder}" not in overrides:
        raise UserError(
            f"--from {words[place + 1]}: eval.harness.include_path={folder} may run code that its "
            "tasks name and is not taken from a file; say it on the command line as well"
        )
    if run.command != command:
        raise UserError(f"--from {words[place + 1]}: it is a run of 'undial {run.command}'")
    from undial_cli.pipeline import execute

    execute(run)
    return 0


def through_hydra(command: str, rest: list[str]) -> int:
    """Let Hydra parse and compose; carry out the run, or with --multirun all of them."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from undial_cli import config_errors
    from undial_cli.compose import (
        config_dir,
        normalise,
        register_schemas,
        to_run,
        with_own_method,
    )

    register_schemas()
    flags, words = parted(rest)
    overrides = normalise(with_own_method(words))
    composed: list[DictConfig] = []
    runs: list[Run] = []
    sweep = None
    if {"--multirun", "-m"} & set(flags):
        from undial_cli.sweeping.plugins import begin

        sweep = begin(command, overrides)
    main = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)
    with tempfile.TemporaryDirectory(prefix="undial-") as scratch:
        told = [word for word in overrides if not word.startswith("hydra.sweep.dir=")]
        told += [f"hydra.sweep.dir={scratch}"] if sweep else []  # Hydra's own notes are not kept
        sys.argv = [f"undial {command}", *told, *flags]
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            main(composed.append)()
            runs = [to_run(config) for config in composed]
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise config_errors.explain(error, command, overrides) from error
        except SystemExit as stop:
            return 2 if stop.code else 0
    if sweep is not None:
        return sweep.conclude()
    for run in runs:
        from undial_cli.pipeline import execute

        execute(run)
    return 0


if __name__ == "__main__":
    main()
