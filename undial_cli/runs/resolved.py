"""A run and what follows from its config, each worked out once: what the pipeline hands around.

Knows where models, folders and requests are; loads no weights and computes nothing.
"""

from __future__ import annotations

from functools import cached_property

from undial_cli.config.schema import FinetuneRun, HardwareConfig, Run, UnlearnRun
from undial_cli.config.training import TeacherConfig
from undial_cli.data.load import load_rows
from undial_cli.methods import make_method
from undial_cli.methods.base import Method
from undial_cli.methods.finetune import Supervised
from undial_cli.models import fingerprints
from undial_cli.runs.requests import build_request_runs
from undial_cli.runs.run_folder import RunFolder, locate_run_folder
from undial_cli.runs.targets import (
    ModelLocation,
    build_finetune_run,
    resolve_published_target,
    resolve_retain_model,
    resolve_target,
)
from undial_cli.system import hardware


class ResolvedRun:
    """A run, its models, its method, its requests and its processes.

    Each is worked out when it is first asked for, and raises UserError then if the config is wrong.
    """

    def __init__(self, run: Run, folder: RunFolder | None = None) -> None:
        self.run = run
        self.folder = folder or locate_run_folder(run)
        self._finetune_runs: dict[ModelLocation, ResolvedRun] = {}

    @cached_property
    def target_model(self) -> ModelLocation:
        """The model that the run works on."""
        return resolve_target(self.run)

    @cached_property
    def retain_model(self) -> ModelLocation | None:
        """The retain model, or None where none is known or needed."""
        return resolve_retain_model(self.run)

    @cached_property
    def method(self) -> Method | None:
        """What the run minimises; a run that trains nothing has none."""
        if isinstance(self.run, UnlearnRun):
            return make_method(self.run.method, self.run.seed)
        return Supervised() if isinstance(self.run, FinetuneRun) else None

    @property
    def trained_method(self) -> Method:
        """The method of a run that trains."""
        assert self.method is not None
        return self.method

    @property
    def anchor(self) -> str:
        """The training set that the epochs count."""
        if isinstance(self.run, UnlearnRun):
            return self.run.data.anchor if self.run.method.gamma else "retain"
        return "train"

    @property
    def teacher(self) -> TeacherConfig:
        """Where the teacher's signal lives; nothing is asked of one in fine-tuning."""
        return self.run.teacher if isinstance(self.run, UnlearnRun) else TeacherConfig()

    @cached_property
    def requests(self) -> list[ResolvedRun]:
        """The runs that serve sequential requests, in order; none for a run of one request."""
        return [ResolvedRun(part) for part in build_request_runs(self.run)]

    @cached_property
    def processes(self) -> int:
        """How many processes share the run, where it starts them itself."""
        return hardware.choose_process_count(self.run)

    @property
    def base(self) -> str:
        """The model whose shape and tokenizer the run has, made or not."""
        return str(self.target_model.path or self.run.model.base)

    def make_finetune_run(self, location: ModelLocation) -> ResolvedRun:
        """The run that trains a model without a path; the same on every hardware of a kind.

        Its name says what it reads and on what it computes, so that runs share what they make.
        """
        if location not in self._finetune_runs:
            run = self.run
            rows = load_rows(run.data, list(location.splits), "data.train_split")
            base = fingerprints.fingerprint_weights(run.model, str(run.model.base))
            machine = HardwareConfig(
                name="cpu" if hardware.is_cpu_run(run) else "auto",
                precision=hardware.choose_autocast_dtype(run),
            )
            finetune = build_finetune_run(run, location.splits, machine, [rows, base])
            self._finetune_runs[location] = ResolvedRun(finetune)
        return self._finetune_runs[location]

    def missing_models(self) -> dict[str, ResolvedRun]:
        """The runs that make the target and the retain model, where no path is known of them."""
        if isinstance(self.run, FinetuneRun):
            return {}
        compared = resolve_published_target(self.run) if self.run.command == "audit" else None
        locations = {"target": compared or self.target_model, "retain": self.retain_model}
        return {
            role: self.make_finetune_run(location)
            for role, location in locations.items()
            if location is not None and location.path is None
        }

    def find_path(self, location: ModelLocation) -> str:
        """Where a model lies: as configured, or where it is made."""
        return location.path or str(self.make_finetune_run(location).folder.checkpoint)
