"""Sequential requests: each an ordinary run that starts from the checkpoint of the one before.

The teacher of a request is therefore the model at its start. Every request is scored after every
other one: sets `request_1`, `request_2`, ... beside `forget`, which is the request at hand.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import shutil
from functools import partial
from typing import Any

from undial_cli.config.identity import make_default_name
from undial_cli.config.schema import Run, UnlearnRun
from undial_cli.config.suites import (
    FORGET,
    FORGET_SET,
    EvalSetConfig,
    find_set_of_role,
    resolve_role,
)
from undial_cli.errors import UserError
from undial_cli.evaluation import results
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.reporting import summary
from undial_cli.runs.run_folder import RunFolder, locate_run_folder


def build_request_runs(run: Run) -> list[UnlearnRun]:
    """The runs that serve the requests of a run, in order; none for a run without requests.

    Raises:
        UserError: a request is given twice.
    """
    if not isinstance(run, UnlearnRun) or not run.data.requests:
        return []
    if len(set(run.data.requests)) < len(run.data.requests):
        raise UserError(f"data.requests=[{','.join(run.data.requests)}]: one is there twice")
    parts: list[UnlearnRun] = []
    for number, request in enumerate(run.data.requests, 1):
        part = copy.deepcopy(run)
        part.name = f"{run.name or make_default_name(run)}/request_{number}"
        part.data.requests = []
        part.report, part.push_to_hub = False, None  # the whole run has one report, one upload
        if run.data.path is None:
            part.data.forget_file = request
        else:
            part.data.forget_split = request
        part.eval.sets = build_request_sets(run, number)
        if parts:
            part.model.path = str(locate_run_folder(parts[-1]).checkpoint)
        parts.append(part)
    return parts


def build_request_sets(run: UnlearnRun, number: int) -> dict[str, EvalSetConfig]:
    """The evaluation's sets at one request: its own as `forget`, and those of all others.

    All of them are to be forgotten, and scored alike: their roles are stated.
    """
    sets = {
        name: dataclasses.replace(
            replace_forget_split(run, config, number), role=resolve_role(name, config)
        )
        for name, config in run.eval.sets.items()
    }
    asked = find_set_of_role(run.eval, FORGET)
    if asked is not None:
        others = (n for n in range(1, len(run.data.requests) + 1) if n != number)
        config = dataclasses.replace(run.eval.sets[asked], role=FORGET)
        sets |= {f"request_{n}": replace_forget_split(run, config, n) for n in others}
    return sets


def replace_forget_split(run: UnlearnRun, config: EvalSetConfig, number: int) -> EvalSetConfig:
    """A set's config, with a request in place of the forget split it was written for."""
    forget = run.data.forget_split if run.data.path is not None else run.data.forget_file
    forget, split, request = forget or FORGET_SET, config.split, run.data.requests[number - 1]
    if split == forget:
        split = request
    elif isinstance(split, str) and isinstance(forget, str) and split.startswith(forget):
        split = request + split.removeprefix(forget)  # as of forget10_perturbed
    return dataclasses.replace(config, split=split)


def combine_requests(run: UnlearnRun, folder: RunFolder, folders: list[RunFolder]) -> None:
    """Write the run's own evaluation/ and report/, and link its checkpoint to the last one.

    Args:
        folders: of the requests, in order.
    """
    last = results.load_evaluation(folders[-1].evaluation)
    if last is not None:
        extra = combine_results(run, [results.read_results_json(f.evaluation) for f in folders])
        asked, count = find_set_of_role(run.eval, FORGET) or FORGET, len(folders)
        at_end = partial(rename_request_set, asked=asked, number=count)
        whole = Evaluation(
            order_request_metrics(at_end(last.metrics)),
            [{**s, "set": f"request_{count}"} if s["set"] == asked else s for s in last.samples],
            at_end(last.missing),
            statistics=at_end(last.statistics),
            notes=at_end(last.notes),
            rows=at_end(last.rows),
        )
        results.save_evaluation(folder.evaluation, whole, extra)
        summary.write_summary(run, folder.path)
    link = folder.checkpoint
    if link.is_symlink() or link.exists():
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    # Relative, so that the run's folder can be moved as a whole.
    link.symlink_to(os.path.relpath(folders[-1].checkpoint, folder.path), target_is_directory=True)


def combine_results(run: UnlearnRun, served: list[dict[str, Any]]) -> dict[str, Any]:
    """What results.json says beside the metrics: the target as it was at the first request.

    Args:
        served: the results of each request, in order.
    """
    asked = find_set_of_role(run.eval, FORGET) or FORGET
    at_start = partial(rename_request_set, asked=asked, number=1)
    at_end = partial(rename_request_set, asked=asked, number=len(served))
    first, last = served[0], served[-1]
    return {
        "suite": run.eval.name,
        "model": run.model.name,
        "data": run.data.name,
        "roles": at_end(last.get("roles", {})),
        "target": at_start(first["target"]),
        "target_statistics": at_start(first.get("target_statistics", {})),
        "reference": at_end(last["reference"]),
        "reference_statistics": at_end(last.get("reference_statistics", {})),
        "requests": [
            {
                "request": request,
                "metrics": rename_request_set(part["metrics"], asked, number),
                **({"selection": part["selection"]} if "selection" in part else {}),
            }
            for number, (request, part) in enumerate(zip(run.data.requests, served, strict=True), 1)
        ],
    }


def rename_request_set(by_name: dict[str, Any], asked: str, number: int) -> dict[str, Any]:
    """What one request's run says by metric (or set), its own set `asked` under its number.

    Forget quality is left out: it compares one request with a model that never saw it.
    """
    lead = re.compile(rf"{re.escape(asked)}(?=_|$)")
    return {
        lead.sub(f"request_{number}", name) if lead.match(name) else name: value
        for name, value in by_name.items()
        if name != "forget_quality"
    }


def order_request_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with those of the requests first, in their order."""
    first = sorted(name for name in metrics if name.startswith("request_"))
    return {name: metrics[name] for name in [*first, *metrics]}
