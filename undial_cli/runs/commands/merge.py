"""`undial merge RUN`: a run's adapter and its base as one checkpoint of whole weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from undial_cli import ui
from undial_cli.config.schema import TrainingRun
from undial_cli.errors import UserError
from undial_cli.runs.command_words import parse_run_words
from undial_cli.runs.made_folder import MadeFolder
from undial_cli.runs.run_folder import RunFolder, find_trained_run
from undial_cli.runs.run_yaml import load_run
from undial_cli.runs.trust import check_command_line_keys
from undial_cli.system.quiet import silence_libraries
from undial_cli.system.source_paths import CONTRAST_FILE

MERGE_KEYS = {"overwrite": ("false", "true"), "out": None}
MERGED_FOLDER, MERGED_RECORD = "merged", "merged.json"


def run_merge_command(words: Sequence[str]) -> int:
    """Do `undial merge WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, no such run, or one without an adapter; nothing is written.
        WorldError: there is no room, or the merged model says something else.
    """
    path, asked, overrides = parse_run_words("merge", words, MERGE_KEYS)
    folder = find_trained_run("merge", path)
    run = load_trained_run("merge", folder, overrides)
    if not (folder.checkpoint / "adapter_config.json").is_file():
        raise UserError(
            f"merge {path}: its checkpoint holds whole weights already, no adapter: "
            f"{folder.checkpoint}"
        )
    out = Path(asked.get("out", folder.path / MERGED_FOLDER)).expanduser()
    made = MadeFolder(out, MERGED_RECORD, asked["overwrite"] == "true")
    made.check_path()
    merge_run(run, folder, made)
    return 0


def load_trained_run(command: str, folder: RunFolder, overrides: list[str]) -> TrainingRun:
    """The run that made a checkpoint.

    Args:
        overrides: of its keys, from the command line.

    Raises:
        UserError: a wrong override, code that the command line does not allow, or a checkpoint of
            two models that only undial decodes together.
    """
    run = load_run(folder.path, overrides)
    check_command_line_keys(run, overrides, f"{command} {folder.path}")
    if not isinstance(run, TrainingRun):
        raise UserError(f"{command} {folder.path}: a run of 'undial {run.command}' trains nothing")
    if (folder.checkpoint / CONTRAST_FILE).is_file():
        raise UserError(
            f"{command} {folder.path}: its checkpoint is two models that undial alone decodes "
            "together; allowed is a run that ends in one model"
        )
    return run


def merge_run(run: TrainingRun, folder: RunFolder, made: MadeFolder) -> None:
    """Write a run's checkpoint with its adapter merged into the base."""
    from undial_cli.models import inspection, load
    from undial_cli.runs.model_card import complete_model_card
    from undial_cli.training.best_weights import read_selection, write_selection

    silence_libraries()
    checkpoint = str(folder.checkpoint.absolute())
    made.check_room(inspection.check_model(run.model, checkpoint).weight_bytes)
    tokenizer = load.load_tokenizer(run.model, checkpoint)
    model = load.load_model(run.model, checkpoint, seed=run.seed)
    with made.fill({"run": folder.path.absolute().name, "dtype": run.model.dtype}) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        if selection := read_selection(folder.checkpoint):
            write_selection(unfinished, selection)
        complete_model_card(run, folder, unfinished)
    if run.adapter.name == "qlora":
        ui.say(
            f"the adapter was trained on layers of {run.adapter.bits} bits and now lies on whole "
            "ones: it says something else there; undial evaluate model.path="
            f"{made.path} measures what",
            "yellow",
        )
