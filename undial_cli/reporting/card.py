"""The model card beside a checkpoint: how it was made, what was measured, what it does not prove.

Never a text of the data, nor a path of the machine that it was made on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undial_cli import __version__
from undial_cli.cache import write_text
from undial_cli.contrastive import stored
from undial_cli.reporting.cells import models_of
from undial_cli.reporting.sheet import Cell, Column, Row, Sheet, markdown
from undial_cli.reporting.summary import text_of
from undial_cli.schema import TrainingRun, UnlearnRun

CONTRAST = (
    "Not a model of its own: undial alone decodes its two models together (`undial evaluate "
    "model.path=...`), and each of them alone remembers the forget set."
)
LIMITS = (
    "Unlearning lowers what the model says of the forget set; it proves no deletion. Other "
    "wordings, languages, further training or quantisation may bring parts of it back, and the "
    "figures above hold for the questions that were asked."
)
NO_RETAIN = (
    "No retain model was evaluated: a low score on the forget set may also mean that the model was "
    "damaged."
)


def write(run: TrainingRun, folder: Path, results: dict[str, Any] | None = None) -> None:
    """README.md in a checkpoint folder.

    Args:
        results: the run's results.json, once it was evaluated.
    """
    how = run.method.name if isinstance(run, UnlearnRun) else "fine-tuning"
    contrast = stored(folder)
    base = name_of(run.model.path or run.model.base)
    front = [f"library_name: {'transformers' if contrast is None else 'undial'}"]
    front += [f"base_model: {base}"] if base and "/" in base and "://" not in base else []
    front += ["tags: [unlearning, undial]"] if how != "fine-tuning" else ["tags: [undial]"]
    lines = ["---", *front, "---", "", f"# {run.model.name}, {how} on {run.data.name}", ""]
    lines += [
        f"Made from `{base or run.model.name}` with undial {__version__} "
        "([UnDIAL, arXiv 2402.10052](https://arxiv.org/abs/2402.10052)).",
        "", "## Data, method and settings", "",
    ]  # fmt: skip
    lines += [f"- {name}: {value}" for name, value in settings(run, how).items()]
    if results and results.get("metrics"):
        lines += ["", "## Evaluation", "", figures(run, results)]
        if not results.get("reference") and isinstance(run, UnlearnRun):
            lines += ["", NO_RETAIN]
    lines += ["", "## Limits", ""] + ([CONTRAST, ""] if contrast is not None else [])
    lines += [LIMITS if isinstance(run, UnlearnRun) else "As its base model's."]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def name_of(source: str | None) -> str | None:
    """A model's hub id; None for a path of this machine."""
    if source is None or source.startswith(("/", "~", ".")) or Path(source).expanduser().exists():
        return None
    return source


def settings(run: TrainingRun, how: str) -> dict[str, Any]:
    """What a reader needs to judge how the checkpoint was made."""
    data, method = run.data, run.method if isinstance(run, UnlearnRun) else None
    found: dict[str, Any] = {"data": data.name}
    if method is not None:
        source = data.path if data.path and name_of(data.path) else None
        found |= {"data source": source, "forget set": data.forget_split if source else None}
        found |= {"retain set": data.retain_split if source else None}
        found |= {"requests": len(data.requests) or None}
    found["method"] = how
    if method is not None:
        own = {k: v for k, v in vars(method).items() if k not in ("name", "file")}
        found |= {k.replace("_", " "): v for k, v in own.items() if not isinstance(v, str) or v}
    found |= {
        "adapter": f"{run.adapter.name}, rank {run.adapter.rank}"
        if run.adapter.name != "none"
        else "none (full fine-tuning)",
        "learning rate": run.train.learning_rate,
        "batch size": run.train.batch_size,
        "steps": run.train.max_steps,
        "epochs": run.train.epochs if run.train.max_steps is None else None,
        "schedule": run.train.scheduler,
        "weights": run.model.dtype,
        "seed": run.seed,
    }
    return {name: value for name, value in found.items() if value is not None}


def figures(run: TrainingRun, results: dict[str, Any]) -> str:
    """The metrics of the checkpoint beside those of the target and the retain model."""
    models = [model for model in models_of(run.command, results) if model.figures]
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in models)]
    rows = [
        Row([Cell(name, style="code"), *(Cell(text_of(name, model)) for model in models)])
        for name in results["metrics"]
    ]
    return markdown(Sheet("", columns, rows))
