"""The way of a run, top to bottom: check, prepare, models, train, checkpoint, evaluate, report.

`execute_run` runs in the parent (or in every process of an outer launch): first the runs that make
the models needed, then the requests, then the run itself, each in its folder. `do_work` runs in
each process of a run. Each step is one call into the file that knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from undial_cli import ui
from undial_cli.config.schema import (
    AlternativesRun,
    AuditRun,
    EvaluateRun,
    Run,
    TrainingRun,
    UnlearnRun,
)
from undial_cli.evaluation.results import read_results_json
from undial_cli.planning.plan import TrainingPlan
from undial_cli.planning.plan_table import show_training_plan
from undial_cli.reporting.report import try_write_report
from undial_cli.reporting.summary import show_summary
from undial_cli.runs.alternatives import write_alternatives
from undial_cli.runs.audits import audit_model_at
from undial_cli.runs.checks import check_run
from undial_cli.runs.evaluations import (
    evaluate_model_at,
    evaluate_retain_model,
    find_target_evaluation,
    write_evaluation,
)
from undial_cli.runs.hub import push_checkpoint
from undial_cli.runs.inputs import RunInputs, prepare_inputs
from undial_cli.runs.launch import join_launched_processes, needs_workers, start_workers
from undial_cli.runs.model_card import complete_model_card
from undial_cli.runs.plans import plan_training
from undial_cli.runs.requests import combine_requests
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.running import is_done, open_run, track_status
from undial_cli.runs.sessions import make_session
from undial_cli.system.hardware import join_process_group
from undial_cli.system.launcher_environment import is_launched
from undial_cli.system.processes import get_process_rank, run_on_main
from undial_cli.system.quiet import silence_libraries
from undial_cli.training.session import train_and_save


@dataclass
class RunResult:
    """What a run left: its folder, its status, its metrics (those of results.json)."""

    folder: Path
    status: str
    metrics: dict[str, float | None] = field(default_factory=dict)


def execute_run(run: Run, show: bool = True) -> RunResult:
    """Do a run from its config to its folder, after all that it needs; a finished one is left.

    Args:
        run: the resolved run.
        show: print the summary at the end.

    Raises:
        UserError: the input is wrong; no folder is left.
        WorldError: something else is; status.json says what.
    """
    silence_libraries()
    resolved = ResolvedRun(run)
    check_run(resolved)
    if is_launched():
        join_launched_processes(run)
    if isinstance(run, TrainingRun) and run.plan:
        return plan_run(resolved)
    folder = resolved.folder
    with open_run(resolved) as inputs:
        if inputs is not None:
            make_missing_models(resolved)
            with track_status(resolved):
                serve_requests(resolved)
                share_work(resolved, inputs)
        elif show:
            ui.say(f"already done: {folder.path} (overwrite=true runs it again)", "dim")
        is_reported = inputs is None and (folder.report / "report.md").is_file()
        if run.report and get_process_rank() == 0 and not is_reported:
            try_write_report([folder.path], folder.report)
        if show:
            show_summary(run, folder.path)
    if isinstance(run, TrainingRun) and run.push_to_hub:
        run_on_main(lambda: push_checkpoint(run, folder))
    return RunResult(folder.path, "done", read_results_json(folder.evaluation).get("metrics", {}))


def plan_run(resolved: ResolvedRun) -> RunResult:
    """Say what the training would take; nothing is made and nothing written."""
    first = (resolved.requests or [resolved])[0]  # requests are planned alike
    if ui.is_speaker():
        inputs = prepare_inputs(first, weights=False)

        def plan_variant(run: TrainingRun) -> TrainingPlan:
            return plan_training(run, first.base, inputs)

        assert isinstance(first.run, TrainingRun)
        show_training_plan(first.run, plan_variant(first.run), plan_variant)
    return RunResult(first.folder.path, "planned")


def make_missing_models(resolved: ResolvedRun) -> None:
    """Train the target and the retain model where no path is known of them."""
    for role, needed in resolved.missing_models().items():
        if not is_done(needed.folder):
            ui.say(f"the {role} model is trained first, once; it is kept in the cache")
        execute_needed_run(needed)


def serve_requests(resolved: ResolvedRun) -> None:
    """Run the sequential requests, each from the checkpoint of the one before."""
    for number, request in enumerate(resolved.requests):
        ui.say(f"request {number + 1}: {resolved.run.data.requests[number]}", "bold")
        execute_needed_run(request)


def execute_needed_run(needed: ResolvedRun) -> None:
    """Do a run that another one needs, and that itself needs nothing any more."""
    check_run(needed)
    with open_run(needed) as inputs:
        if inputs is not None:
            with track_status(needed):
                share_work(needed, inputs)


def share_work(resolved: ResolvedRun, inputs: RunInputs) -> None:
    """Do the work of a run that needs nothing any more: here, or in processes of its own."""
    run, folder = resolved.run, resolved.folder
    if resolved.requests:
        assert isinstance(run, UnlearnRun)
        served = [request.folder for request in resolved.requests]
        run_on_main(lambda: combine_requests(run, folder, served))
    elif needs_workers(run, resolved.processes):
        start_workers(resolved.processes, folder.path, run.hardware.timeout)
    else:
        do_work(resolved, inputs)


def do_work(resolved: ResolvedRun, inputs: RunInputs | None = None) -> None:
    """One process's part of a run; a worker prepares its inputs itself."""
    device = join_process_group(resolved.run)
    inputs = inputs or prepare_inputs(resolved)
    run, folder = resolved.run, resolved.folder
    if isinstance(run, AuditRun):
        audit_model_at(resolved, inputs, resolved.find_path(resolved.target_model), device)
    elif isinstance(run, AlternativesRun):
        path, tokenizer = resolved.find_path(resolved.target_model), inputs.encoder.tokenizer
        write_alternatives(run, folder, inputs.asked, tokenizer, path, device)
    elif isinstance(run, EvaluateRun):
        evaluate_as_is(resolved, inputs, device)
    else:
        train_and_evaluate(resolved, inputs, device)


def train_and_evaluate(resolved: ResolvedRun, inputs: RunInputs, device: torch.device) -> None:
    """Reference and target evaluation, training, checkpoint, evaluation of the checkpoint."""
    run, folder = resolved.run, resolved.folder
    assert isinstance(run, TrainingRun)
    path, compared = resolved.find_path(resolved.target_model), {}
    if isinstance(run, UnlearnRun):
        retain = evaluate_retain_model(resolved, inputs, device)
        target = evaluate_model_at(run, inputs, path, "target", device)
        compared = {"target": target, "retain": retain}
    if not folder.has_checkpoint():
        train_and_save(make_session(resolved, inputs, path, device), device)
    after = evaluate_model_at(run, inputs, str(folder.checkpoint), "checkpoint", device)
    write_evaluation(run, folder, inputs, after, compared)
    audit_model_at(resolved, inputs, str(folder.checkpoint), device)
    run_on_main(lambda: complete_model_card(run, folder))


def evaluate_as_is(resolved: ResolvedRun, inputs: RunInputs, device: torch.device) -> None:
    """Evaluate a model, beside the retain model and the target where these are known."""
    run, path = resolved.run, resolved.find_path(resolved.target_model)
    retain = evaluate_retain_model(resolved, inputs, device)
    evaluation = evaluate_model_at(run, inputs, path, "model", device)
    compared = {"target": find_target_evaluation(run, inputs, device), "retain": retain}
    write_evaluation(run, resolved.folder, inputs, evaluation, compared)
