"""What a run reads before it computes: rows, tokenizer, encoded examples, places of its models.

Called once by the parent, where everything wrong is found before anything is written, and again
by each worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli import launch, models, ui
from undial_cli.data.encode import Encoder, Example
from undial_cli.data.load import Row, check_columns, load_split, load_training_set
from undial_cli.errors import UserError
from undial_cli.run_folder import folder_of
from undial_cli.schema import (
    DataConfig,
    EvalConfig,
    FinetuneRun,
    HardwareConfig,
    Run,
    TrainingRun,
    UnlearnRun,
    digest,
)
from undial_cli.sources import model_source
from undial_cli.targets import Place, making, retain_of, target_of


@dataclass
class Inputs:
    """Training sets by name (`forget`, `retain`, `train`), evaluation rows by set, the encoder."""

    encoder: Encoder
    sets: dict[str, list[Example]]
    eval_rows: dict[str, list[Row]]
    fingerprint: dict[str, str]


def prepare(run: Run) -> Inputs:
    """Load and encode what the run needs.

    Raises:
        UserError: data or model are not what the config says.
        WorldError: the hub cannot be reached.
    """
    rows = {name: training_rows(run.data, name) for name in training_sets(run)}
    eval_rows = evaluation_rows(run.data, run.eval)
    place, retain = target_of(run), retain_of(run)
    for known, key in ((place, "model.path"), (retain, "eval.retain_model")):
        if known is not None and known.path is not None:
            model_source(known.path, key)
    adapter = run.adapter if isinstance(run, TrainingRun) else None
    models.check_model(run.model, str(place.path or run.model.base), adapter)
    tokenizer = models.load_tokenizer(run.model, str(place.path or run.model.base))
    encoder = Encoder(tokenizer, run.model.template, run.data)
    sets = {name: encode_set(encoder, part, name) for name, part in rows.items()}
    fingerprint = {
        "data": digest([rows, eval_rows]),
        "model": models.weights_fingerprint(run.model, place.path) if place.path else "made",
    }
    return Inputs(encoder, sets, eval_rows, fingerprint)


def training_sets(run: Run) -> list[str]:
    """The names of the sets that a run trains on."""
    if isinstance(run, FinetuneRun):
        return ["train"]
    if not isinstance(run, UnlearnRun):
        return []
    method = run.method
    retain = ["retain"] if method.retain != "none" and method.alpha else []
    return (["forget"] if method.gamma else []) + retain


def training_rows(data: DataConfig, name: str) -> list[Row]:
    """The rows of a training set: `data.NAME_split`, or `data.NAME_file` where there is no path."""
    key = f"data.{name}_split" if data.path is not None else f"data.{name}_file"
    given = getattr(data, key.removeprefix("data."))
    splits = given if isinstance(given, list) else [given] if given else []
    if not splits:
        raise UserError(f"{key}: not set, and this run needs it")
    return load_training_set(data, splits, key)


def evaluation_rows(data: DataConfig, config: EvalConfig) -> dict[str, list[Row]]:
    """The rows of every set of the suite that has a split."""
    found = {}
    for name, chosen in config.sets.items() if config.name != "none" else ():
        if chosen.split:
            key = f"eval.sets.{name}.split"
            rows = load_split(data, chosen.split, key)
            check_columns(rows, data, f"{key}={chosen.split}")
            found[name] = rows[: config.limit]
    return found


def encode_set(encoder: Encoder, rows: list[Row], name: str) -> list[Example]:
    """Encode a training set; rows that keep no target token are left out and counted."""
    examples = encoder.encode(rows)
    kept = [e for e in examples if e.num_targets]
    if not kept:
        raise UserError(
            f"data.max_length={encoder.data.max_length}: no answer token of the {name} set is left "
            "within it (or its answers are empty)"
        )
    if len(kept) < len(examples):
        ui.say(
            f"{name}: {len(examples) - len(kept)} of {len(examples)} rows hold no answer token "
            f"within data.max_length={encoder.data.max_length} and are left out",
            "yellow",
        )
    return kept


def made_run(run: Run, place: Place) -> FinetuneRun:
    """The finetune run behind a place that has no path; the same on every hardware of a kind."""
    rows = load_training_set(run.data, list(place.splits), "data.train_split")
    base = models.weights_fingerprint(run.model, str(run.model.base))
    hardware = HardwareConfig(
        name="cpu" if launch.on_cpu(run) else "auto", precision=launch.autocast_dtype(run)
    )
    return making(run, place.splits, hardware, [rows, base])


def model_path(run: Run, place: Place) -> str:
    """The path of a place: as configured, or where it was made."""
    return place.path or str(folder_of(made_run(run, place)).checkpoint)
