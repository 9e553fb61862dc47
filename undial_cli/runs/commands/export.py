"""`undial export RUN`: a run's model as a GGUF file, for llama.cpp, or for Ollama with a Modelfile.

The file is loaded back and held against the checkpoint before it takes its place.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import TrainingRun, UnlearnRun
from undial_cli.errors import UserError, WorldError, bad_value
from undial_cli.models.gguf_kinds import LOGIT_BOUNDS, ROUNDED
from undial_cli.runs.command_words import parse_run_words
from undial_cli.runs.commands.merge import load_trained_run
from undial_cli.runs.made_folder import MadeFolder
from undial_cli.runs.run_folder import RunFolder, find_trained_run
from undial_cli.system.faults import spell_size
from undial_cli.system.files import write_whole_text
from undial_cli.system.quiet import silence_libraries

QUANTISATIONS = ("f16", *(name for name in LOGIT_BOUNDS if name != "f16"))
EXPORT_KEYS = {
    "format": ("gguf", "ollama"), "quantise": None, "overwrite": ("false", "true"), "out": None,
}  # fmt: skip
EXPORT_FOLDER, EXPORT_RECORD, MODELFILE = "export", "export.json", "Modelfile"
# Ways of rounding that llama.cpp knows besides.
OTHER_QUANTISATION = re.compile(r"q\d_k(_[sml])?|iq\d_\w+|tq\d_\d|mxfp4\w*", re.IGNORECASE)


def run_export_command(words: Sequence[str]) -> int:
    """Do `undial export WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, no such run, or a model that no file of ours can state; nothing is
            loaded or written.
        WorldError: there is no room, or the file says something else than the checkpoint.
    """
    path, asked, overrides = parse_run_words("export", words, EXPORT_KEYS)
    quantise = asked.get("quantise", QUANTISATIONS[0])
    check_quantisation(quantise)
    folder = find_trained_run("export", path)
    run = load_trained_run("export", folder, overrides)
    default = folder.path / EXPORT_FOLDER / f"{asked['format']}-{quantise}"
    out = Path(asked.get("out", default)).expanduser()
    made = MadeFolder(out, EXPORT_RECORD, asked["overwrite"] == "true")
    made.check_path()
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"format={asked['format']}: needs the Python package gguf: pip install 'undial[gguf]'"
        )
    export_run(run, folder, made, asked["format"], quantise)
    return 0


def check_quantisation(quantise: str) -> None:
    """Raise UserError for one that is not written here; llama.cpp's own with its command."""
    if quantise in QUANTISATIONS:
        return
    if not OTHER_QUANTISATION.fullmatch(quantise):
        raise bad_value("quantise", quantise, QUANTISATIONS)
    raise UserError(
        f"quantise={quantise}: allowed is one of {', '.join(sorted(QUANTISATIONS))}; llama.cpp "
        "makes others of an f16 file: llama-quantize MODEL-f16.gguf "
        f"MODEL-{quantise.lower()}.gguf {quantise.upper()}"
    )


def name_model_file(run: TrainingRun, quantise: str) -> str:
    """A file's name without its ending: model, method, data and rounding."""
    method = run.method.name if isinstance(run, UnlearnRun) else "finetune"
    name = f"{run.model.name}-{method}-{run.data.name}-{quantise}"
    return re.sub(r"[^\w.-]+", "_", name)


def export_run(
    run: TrainingRun, folder: RunFolder, made: MadeFolder, kind: str, quantise: str
) -> None:
    """Write a run's model as a GGUF file, whole or not at all."""
    from undial_cli.models import gguf_fields, gguf_file, inspection, load
    from undial_cli.models.gguf_vocabulary import describe_vocabulary, skips_merges
    from undial_cli.runs.model_card import complete_model_card

    silence_libraries()
    checkpoint = str(folder.checkpoint.absolute())
    config = replace(run.model, dtype="float32")  # rounded once, from all that the weights hold
    capacity = inspection.check_model(config, checkpoint)
    blank = make_shape(config, checkpoint)
    gguf_fields.find_gguf_family(blank.config)
    tokenizer = load.load_tokenizer(config, checkpoint)
    vocabulary = describe_vocabulary(tokenizer, capacity.rows)
    weights = gguf_file.measure_gguf_weights(blank, quantise)
    made.check_room(weights.bytes)
    ui.say(f"{kind}, {quantise}: {spell_size(weights.bytes)} of weights", "dim")
    model = load.load_model(config, checkpoint, seed=run.seed)
    shape, name = model.config, name_model_file(run, quantise)
    longest = gguf_fields.find_context_length(shape)
    rows = gguf_file.encode_fixed_texts(tokenizer, longest)
    before = gguf_file.compute_text_logits(model, rows)
    record: dict[str, Any] = {
        "run": folder.path.absolute().name, "format": kind, "quantise": quantise
    }  # fmt: skip
    with made.fill(record) as unfinished:
        file = unfinished / f"{name}.gguf"
        gguf_file.write_gguf(file, model, tokenizer, quantise, name)
        rounded = gguf_file.compute_text_logits(model, rows)
        del model  # the file's own is loaded in its place
        loaded, loaded_tokenizer, unread = gguf_file.load_gguf_back(file, shape)
        after = gguf_file.compute_text_logits(loaded, rows)
        comparison = gguf_file.compare_text_logits(quantise, before, rounded, after)
        if fault := comparison.find_fault():
            raise WorldError(f"{file.name}, loaded back by transformers: {fault}; nothing is left")
        reads_same = gguf_file.encode_fixed_texts(loaded_tokenizer, longest) == rows
        if not reads_same and vocabulary.is_read_back(skips_merges(tokenizer)):
            raise WorldError(
                f"{file.name}, loaded back by transformers: it cuts the fixed texts into other "
                "tokens than the checkpoint; nothing is left"
            )
        record |= {
            "weights": weights.kinds, "comparison": asdict(comparison), "same_tokens": reads_same,
            "unread": unread,
        }  # fmt: skip
        ui.say(comparison.describe())
        if not reads_same:
            ui.say(
                f"transformers knows no pieces '{vocabulary.split}' and cuts some texts into other "
                "tokens; llama.cpp knows them",
                "yellow",
            )
        if unread:
            ui.say(f"transformers reads of such a file no {', '.join(unread)}; the checkpoint's "
                   "are taken", "dim")  # fmt: skip
        if kind == "ollama":
            add_modelfile(run, unfinished, file.name, tokenizer, vocabulary.begins, longest)
        complete_model_card(run, folder, unfinished)
    if quantise in ROUNDED and isinstance(run, UnlearnRun):
        ui.say(
            "rounding may bring back what was unlearned; undial audit "
            f"{folder.path} audit.attacks=[quantise] tries it",
            "yellow",
        )
    if kind == "ollama":
        ui.say(f"ollama create {name} -f {made.path / MODELFILE}", "bold")


def make_shape(config: ModelConfig, checkpoint: str) -> Any:
    """A model of a checkpoint's shape that takes no memory."""
    import torch

    from undial_cli.models.inspection import make_blank_model

    with torch.device("meta"):
        return make_blank_model(config, checkpoint)


def add_modelfile(
    run: TrainingRun, folder: Path, model: str, tokenizer: Any, begins: bool, context: int
) -> None:
    """Put a Modelfile beside a GGUF file."""
    from undial_cli.runs.commands.ollama import read_chat_form, write_modelfile

    form = read_chat_form(tokenizer, run.model.template, begins)
    if form is None:
        ui.say(
            f"{MODELFILE}: no TEMPLATE, since Go's form cannot say what this chat template does; "
            "Ollama reads the one in the file (tokenizer.chat_template)",
            "yellow",
        )
    text = write_modelfile(model, form, tokenizer.eos_token, context)
    write_whole_text(folder / MODELFILE, text)
