"""Which checkpoint a run works on, and which retain model is its reference.

`model.path` wins; then what the model's config says of the data set: a published checkpoint, or
one to be made by `finetune` on first use and kept in the cache. Loads nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import hash_json, make_default_name
from undial_cli.config.models import TargetConfig
from undial_cli.config.schema import (
    AlternativesRun,
    AuditRun,
    EvaluateRun,
    FinetuneRun,
    HardwareConfig,
    Run,
    UnlearnRun,
)
from undial_cli.config.splits import cut_slice
from undial_cli.config.suites import EvalConfig
from undial_cli.config.training import AdapterConfig, TrainConfig
from undial_cli.errors import UserError
from undial_cli.system.files import locate_in_cache


@dataclass(frozen=True)
class ModelLocation:
    """A model that a run needs: a path, or the splits that it is to be fine-tuned on."""

    path: str | None
    splits: tuple[str, ...] = ()


def resolve_target(run: Run) -> ModelLocation:
    """The model that a run works on.

    Raises:
        UserError: no target is known for this model and data.
    """
    model, data = run.model, run.data
    if run.command == "finetune":
        path = model.path or model.base
        if path is None:
            raise UserError(f"model={model.name}: it has no base; set model.path")
        return ModelLocation(path)
    if model.path is not None:
        return ModelLocation(model.path)
    config = model.targets.get(data.name)
    if config is not None and (config.path is not None or config.make):
        return locate_own_target(config, data)
    if run.command == "data" and model.base is not None:
        return ModelLocation(model.base)  # a target to be made has its tokenizer
    rows = "" if data.train_split else " data.train_file=..."
    raise UserError(
        f"model={model.name} data={data.name}: no target model is known for this data; name one: "
        f"model.path=..., or make one: undial finetune model={model.name} data={data.name}{rows}"
    )


def resolve_published_target(run: Run) -> ModelLocation | None:
    """The data's own target, where another model is evaluated or audited in its place."""
    if isinstance(run, AuditRun) and run.audit.target is not None:
        return None if run.audit.target == "none" else ModelLocation(run.audit.target)
    config = run.model.targets.get(run.data.name)
    if run.model.path is None or config is None or not (config.path or config.make):
        return None
    return locate_own_target(config, run.data)


def locate_own_target(config: TargetConfig, data: DataConfig) -> ModelLocation:
    """The target that belongs to a data set: published, or to be made."""
    return ModelLocation(config.path, () if config.path else tuple(data.train_split))


def find_results_file(run: Run) -> str | None:
    """The results file that stands for the retain model, if one is given."""
    given = run.eval.retain_model
    return given if given is not None and given.endswith(".json") else None


def resolve_retain_model(run: Run) -> ModelLocation | None:
    """The retain model of a run, or None where none is known or needed."""
    if run.eval.name == "none" or find_results_file(run) is not None:
        return None
    if run.eval.retain_model is not None:
        return None if run.eval.retain_model == "none" else ModelLocation(run.eval.retain_model)
    config = run.model.targets.get(run.data.name)
    if config is None:
        return None
    if config.retain is not None and "{retain_split}" not in config.retain:
        return ModelLocation(config.retain)
    if config.retain is not None:
        split = run.data.retain_of.get(cut_slice(run.data.forget_split or "")[0])
        return ModelLocation(config.retain.replace("{retain_split}", split)) if split else None
    if isinstance(run, FinetuneRun) or not config.make:  # what makes a model needs no other made
        return None
    return ModelLocation(None, tuple(run.data.reference_split or [run.data.retain_split or ""]))


def build_finetune_run(
    run: Run, splits: tuple[str, ...], hardware: HardwareConfig, depends_on: object
) -> FinetuneRun:
    """The finetune run that makes a target or retain model; its folder lies in the cache.

    Args:
        splits: what it is trained on.
        depends_on: what else its weights depend on (the rows, the base's weights), JSON-able.
    """
    assert isinstance(run, UnlearnRun | EvaluateRun | AuditRun | AlternativesRun)
    recipe = run.target
    made = FinetuneRun(
        command="finetune",
        model=dataclasses.replace(run.model, path=None, targets={}, adapter="none"),
        data=dataclasses.replace(
            run.data,
            train_split=list(splits),
            reference_split=[],
            retain_of={},
            limit=None,
            forget_split=None,
            retain_split=None,
            requests=[],
            alternatives_file=None,
            anchor="forget",
        ),
        hardware=hardware,
        report=False,
        eval=EvalConfig(),
        seed=run.seed,
        output_dir=str(locate_in_cache("models")),
        adapter=AdapterConfig(),
        train=TrainConfig(**vars(recipe), learning_rate=recipe.learning_rates.none),
    )
    made.name = f"{make_default_name(made)}-{hash_json(depends_on)}"
    return made
