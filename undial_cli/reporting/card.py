"""The model card beside a checkpoint: how it was made. Never a text of the forget set."""

from __future__ import annotations

from pathlib import Path

from undial_cli.cache import write_text
from undial_cli.contrastive import stored
from undial_cli.schema import TrainingRun, UnlearnRun

CONTRAST = (
    "Not a model of its own: undial alone decodes its two models together (`undial evaluate "
    "model.path=...`), and each of them alone remembers the forget set."
)


def write(run: TrainingRun, folder: Path) -> None:
    """README.md in a checkpoint folder."""
    how = run.method.name if isinstance(run, UnlearnRun) else "fine-tuning"
    source = run.model.path or run.model.base or run.model.name
    if source.startswith(("/", "~", ".")):
        source = run.model.name
    settings = {
        "method": how,
        "data": run.data.name,
        "adapter": run.adapter.name,
        "learning rate": run.train.learning_rate,
        "batch size": run.train.batch_size,
        "epochs": run.train.epochs,
        "seed": run.seed,
    }
    if isinstance(run, UnlearnRun) and hasattr(run.method, "strength"):
        settings["strength"] = run.method.strength
    contrast = stored(folder)
    library = "transformers" if contrast is None else "undial"
    lines = ["---", f"library_name: {library}", "tags: [unlearning, undial]", "---", ""]
    lines += [f"# {run.model.name}, {how} on {run.data.name}", ""]
    lines += [f"Made from `{source}` with [undial](https://arxiv.org/abs/2402.10052).", ""]
    lines += [f"- {name}: {value}" for name, value in settings.items()]
    if contrast is not None:
        lines += ["", CONTRAST]
    lines += ["", "Unlearning lowers what the model says of the forget set; it proves no deletion."]
    write_text(folder / "README.md", "\n".join(lines) + "\n")
