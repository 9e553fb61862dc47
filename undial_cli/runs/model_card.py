"""The model card beside a checkpoint: how it was made, what was measured, what it does not prove.

Never a text of the data, nor a path of the machine that it was made on. Its words are those of
reporting/templates/card.md.jinja.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from undial_cli import __version__
from undial_cli.audit.results import load_audit
from undial_cli.config.schema import TrainingRun, UnlearnRun
from undial_cli.evaluation.figures import AUDIT_FIGURES
from undial_cli.evaluation.results import read_results_json
from undial_cli.models.contrastive import read_contrast_coefficient
from undial_cli.reporting.audit_record import AuditRecord
from undial_cli.reporting.audit_words import describe_audit
from undial_cli.reporting.cells import format_marked_figure, list_model_figures
from undial_cli.reporting.notes import state_forgetting, state_selection
from undial_cli.reporting.page import fill_template
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, format_markdown
from undial_cli.reporting.text import capitalise_first
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import write_whole_text
from undial_cli.training.best_weights import read_selection

NO_RETAIN_WARNING = (
    "No retain model was evaluated: a low score on the forget set may also mean that the model was "
    "damaged."
)


def write_model_card(
    run: TrainingRun,
    folder: Path,
    results: dict[str, Any] | None = None,
    audit: dict[str, Any] | None = None,
) -> None:
    """README.md in a checkpoint folder.

    Args:
        results: the run's results.json, once it was evaluated.
        audit: its audit.json, once it was audited.
    """
    results = results or {}
    how = run.method.name if isinstance(run, UnlearnRun) else "fine-tuning"
    unlearned = how != "fine-tuning"
    view = {
        "run": run,
        "how": how,
        "unlearned": unlearned,
        "base": find_hub_id(run.model.path or run.model.base),
        "contrast": read_contrast_coefficient(folder) is not None,
        "version": __version__,
        "settings": collect_card_settings(run, how),
        "figures": Markup(render_card_metrics(run, results)) if results.get("metrics") else "",
        "verdict": state_forgetting(results),
        "selection": capitalise_first(state_selection({"selection": read_selection(folder)})),
        "audit": Markup(describe_audit(AuditRecord(audit))) if audit else "",
        "no_retain": NO_RETAIN_WARNING if unlearned and not results.get("reference") else "",
    }
    write_whole_text(folder / "README.md", fill_template("card.md.jinja", view))


def complete_model_card(
    run: TrainingRun, folder: RunFolder, checkpoint: Path | None = None
) -> None:
    """The card of a run's checkpoint again, now with what was measured and audited.

    Args:
        checkpoint: another folder that holds the same model.
    """
    results = read_results_json(folder.evaluation)
    write_model_card(run, checkpoint or folder.checkpoint, results, load_audit(folder.audit))


def find_hub_id(source: str | None) -> str | None:
    """A model's hub id; None for a path of this machine."""
    if source is None or source.startswith(("/", "~", ".")) or Path(source).expanduser().exists():
        return None
    return source


def collect_card_settings(run: TrainingRun, how: str) -> dict[str, Any]:
    """What a reader needs to judge how the checkpoint was made."""
    data, adapter = run.data, run.adapter
    bits = f", {adapter.bits} bits" if adapter.name == "qlora" else ""
    lora = f"{adapter.name}{bits}, rank {adapter.rank}"
    stated: dict[str, Any] = {"data": data.name, "method": how}
    if isinstance(run, UnlearnRun):
        if data.path and find_hub_id(data.path):
            stated |= {"data source": data.path, "forget set": data.forget_split}
            stated |= {"retain set": data.retain_split}
        stated["requests"] = len(data.requests) or None
        method = {key.replace("_", " "): v for key, v in vars(run.method).items() if v != ""}
        stated |= {**method, "name": None, "file": None}  # `method` has it; a path is nobody's
    stated |= {
        "adapter": lora if adapter.name != "none" else "none (full fine-tuning)",
        "learning rate": run.train.learning_rate,
        "batch size": run.train.batch_size,
        "steps": run.train.max_steps,
        "epochs": run.train.epochs if run.train.max_steps is None else None,
        "schedule": run.train.scheduler,
        "weights": run.model.dtype,
        "seed": run.seed,
    }
    return {name: value for name, value in stated.items() if value is not None}


def render_card_metrics(run: TrainingRun, results: dict[str, Any]) -> str:
    """The metrics of the checkpoint beside those of the target and the retain model."""
    models = [model for model in list_model_figures(run.command, results) if model.figures]
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in models)]
    rows = [
        SheetRow(
            [
                Cell(name, style="code"),
                *(Cell(format_marked_figure(name, model)) for model in models),
            ]
        )
        for name in results["metrics"]
        if not name.startswith(AUDIT_FIGURES)  # the audit has a paragraph of its own
    ]
    return format_markdown(Sheet("", columns, rows))
