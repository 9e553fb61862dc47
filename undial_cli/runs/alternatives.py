"""`undial alternatives`: which rows are asked, where draws are kept, the file that is written.

What was drawn stays in the cache by the model and the way of drawing: a command that was ended goes
on there, and one with other rules or more rounds begins there. Knows no decoding and no rule.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.identity import hash_json
from undial_cli.config.schema import AlternativesRun
from undial_cli.config.splits import cut_slice, list_splits, name_data_key
from undial_cli.data.alternatives import read_refusals
from undial_cli.data.encode import Encoder
from undial_cli.data.rows import Row
from undial_cli.data.tokens import fingerprint_tokenizer
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation.drawn_alternatives import (
    AskedRow,
    DrawnAnswers,
    ask_rows,
    draw_alternatives,
)
from undial_cli.evaluation.generation import GeneratingModel
from undial_cli.evaluation.sharding import Journal
from undial_cli.models import fingerprints
from undial_cli.models.capacity import ModelCapacity, check_sequences_fit
from undial_cli.models.load import load_run_model
from undial_cli.runs.run_folder import RunFolder, read_json_object
from undial_cli.system import processes
from undial_cli.system.files import format_json_line, locate_in_cache, write_whole_text
from undial_cli.system.hardware import choose_autocast_dtype

ENDING = ".jsonl"


def check_alternatives(run: AlternativesRun, folder: RunFolder) -> None:
    """Raise UserError for prompts that ask nothing, and for a file that cannot or must not be
    written.
    """
    for prompt in run.alternatives.list_prompts():
        if "{question}" not in prompt:
            raise bad_value("alternatives.prompts", prompt, "texts that hold {question}")
    if run.out is None or not run.out.endswith(ENDING):
        raise bad_value("out", run.out, f"the file to be written, as in answers{ENDING}")
    file = Path(run.out).expanduser()
    above = next(part for part in file.absolute().parents if part.exists())
    if file.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise bad_value("out", run.out, "a file in a folder that can be written to")
    data = run.data
    sources = [data.alternatives_file, data.refusals]
    for name in ("forget", "retain", "train"):
        sources += list_splits(getattr(data, f"{name}_file"))
    for source in filter(None, sources):
        if Path(cut_slice(source)[0]).expanduser().resolve() == file.resolve():
            raise UserError(f"out={run.out}: the data are read from it; take another name")
    if file.exists() and not run.overwrite and not is_file_of_run(file, folder):
        raise UserError(
            f"out={run.out}: it is there already, and not as this run left it; take another name, "
            "or overwrite=true"
        )


def is_file_of_run(file: Path, folder: RunFolder) -> bool:
    """Whether a file is what a run wrote, to the byte."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return read_json_object(folder.alternatives).get("sha256") == digest


def prepare_questions(
    run: AlternativesRun, rows: Sequence[Row], encoder: Encoder, capacity: ModelCapacity
) -> list[AskedRow]:
    """The rows of the forget set with what the model is asked.

    Raises:
        UserError: a row asks nothing, or its prompt is longer than the model takes.
    """
    key = name_data_key(run.data, "forget")
    asked = ask_rows(rows, encoder, run.alternatives, read_refusals(run.data), key)
    pairs = ((i, prompt) for i, row in enumerate(asked) for prompt in row.prompts)
    check_sequences_fit(capacity, "forget", "alternatives.prompts", pairs)
    return asked


def write_alternatives(
    run: AlternativesRun,
    folder: RunFolder,
    asked: list[AskedRow],
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    device: torch.device,
) -> None:
    """Draw other answers from the model at a path; write the rows with them, and the counts."""
    journal = Journal(
        locate_in_cache("alternatives", hash_json(list_draw_settings(run, tokenizer, path)))
    )
    model = load_run_model(run, path, device, rounds=False)
    generator = GeneratingModel(model, tokenizer, run.eval.backend, path)
    draws = draw_alternatives(
        generator, asked, run.alternatives, run.eval.batch_size, run.seed, journal
    )
    processes.run_on_main(lambda: save_alternatives(run, folder, asked, draws))


def list_draw_settings(
    run: AlternativesRun, tokenizer: PreTrainedTokenizerBase, path: str
) -> list[Any]:
    """What a drawn answer depends on besides the prompt and the seed, JSON-able."""
    config = run.alternatives
    return [
        processes.run_on_main(lambda: fingerprints.fingerprint_weights(run.model, path, run.seed)),
        [run.model.dtype, run.model.attn_implementation, choose_autocast_dtype(run)],
        fingerprint_tokenizer(tokenizer),
        [config.temperature, config.top_p, config.max_new_tokens, run.eval.backend],
    ]


def save_alternatives(
    run: AlternativesRun, folder: RunFolder, asked: list[AskedRow], draws: DrawnAnswers
) -> None:
    """Write the file, then alternatives.json (its presence means that the file was whole)."""
    refusals, key = read_refusals(run.data), run.data.alternative_key
    rows = []
    for number, (row, texts) in enumerate(zip(asked, draws.taken, strict=True)):
        # What has no answer to prefer cannot be trained on, and would not be forgotten.
        texts = texts or [random.Random(f"{run.seed}:{number}").choice(refusals)]
        rows.append({**row.row, key: texts})
    text = "".join(format_json_line(json.loads(json.dumps(row, default=str))) for row in rows)
    file = Path(str(run.out)).expanduser()
    write_whole_text(file, text, private=True)
    counts = count_alternatives(run, asked, draws)
    counts |= {"file": str(file.absolute()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_whole_text(folder.alternatives, json.dumps(counts, indent=2) + "\n")


def count_alternatives(
    run: AlternativesRun, asked: list[AskedRow], draws: DrawnAnswers
) -> dict[str, Any]:
    """What was asked, drawn, taken and refused; rows by their number in the set, from 1."""
    config, sizes = run.alternatives, [len(texts) for texts in draws.taken]
    return {
        **{name: getattr(config, name) for name in ("kind", "count")},
        "rows": len(asked),
        "rounds": draws.rounds,
        "drawn": draws.drawn,
        "taken": sum(sizes),
        "refused": dict(draws.refused.most_common()),
        "rows_with_enough": sum(size == config.count for size in sizes),
        "rows_with_fewer": {i: size for i, size in enumerate(sizes, 1) if 0 < size < config.count},
        "rows_with_none": [i for i, size in enumerate(sizes, 1) if not size],
        "rows_without_facts": [i for i, row in enumerate(asked, 1) if not row.rules.tells],
    }
