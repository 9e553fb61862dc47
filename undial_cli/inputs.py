"""What a run reads before it computes: rows, tokenizer, encoded examples, places of its models.

Called once by the parent, where everything wrong is found before anything is written, and again
by each worker.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass

from undial_cli import launch, models, ui
from undial_cli.data.encode import Encoder, Example
from undial_cli.data.load import Row, load_training_set
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation.preparation import (
    Reference,
    check_helpers,
    evaluation_rows,
    find_reference,
)
from undial_cli.evaluation.suite import Suite
from undial_cli.run_folder import folder_of
from undial_cli.schema import (
    DataConfig,
    FinetuneRun,
    HardwareConfig,
    Run,
    TrainingRun,
    UnlearnRun,
    digest,
)
from undial_cli.sources import model_source
from undial_cli.targets import Place, making, published_target, target_of


@dataclass
class Inputs:
    """What a run reads.

    Training sets by name (`forget`, `retain`, `train`), the suite with its rows, the encoder, and
    what the evaluation is compared with; `target_beside`: path of the data's own target where
    another model is evaluated.
    """

    encoder: Encoder
    sets: dict[str, list[Example]]
    suite: Suite
    reference: Reference
    target_beside: str | None
    tokenizer_fingerprint: str
    fingerprint: dict[str, str]


def prepare(run: Run, weights: bool = True) -> Inputs:
    """Load and encode what the run needs.

    Args:
        weights: those of the model must be there; without, their fingerprint is "".

    Raises:
        UserError: data or model are not what the config says.
        WorldError: the hub cannot be reached.
    """
    rows = {name: training_rows(run.data, name) for name in training_sets(run)}
    place = target_of(run)
    if place.path is not None:
        model_source(place.path, "model.path")
    path = str(place.path or run.model.base)
    adapter = run.adapter if isinstance(run, TrainingRun) else None
    models.check_model(run.model, path, adapter, weights)
    tokenizer = models.load_tokenizer(run.model, path, weights)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    suite = Suite(run.eval, encoder, evaluation_rows(run, encoder), run.seed)
    _ = suite.items  # encodes, and says what cannot be
    check_helpers(run.eval)
    model = "made" if place.path is None else ""
    if place.path is not None and weights:
        model = models.weights_fingerprint(run.model, place.path)
    fingerprint = {
        "data": digest([rows, {name: asdict(found) for name, found in suite.rows.items()}]),
        "model": model,
    }
    return Inputs(
        encoder,
        {name: encode_set(encoder, part, name) for name, part in rows.items()},
        suite,
        find_reference(run, suite),
        beside(run),
        models.tokenizer_fingerprint(encoder.tokenizer),
        fingerprint,
    )


def beside(run: Run) -> str | None:
    """The path of the data's own target, where another model is evaluated."""
    place = published_target(run) if run.command == "evaluate" else None
    if place is None:
        return None
    with contextlib.suppress(UserError, WorldError, OSError):
        path = model_path(run, place)
        model_source(path)
        return path
    return None


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
