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
from typing import Any

from undial_cli.config.schema import Run, UnlearnRun, make_default_name
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
    known = run.data.forget_split if run.data.path is not None else run.data.forget_file
    known, split, request = known or FORGET_SET, config.split, run.data.requests[number - 1]
    if split == known:
        split = request
    elif isinstance(split, str) and isinstance(known, str) and split.startswith(known):
        split = request + split.removeprefix(known)
    return dataclasses.replace(config, split=split)


def rename_request_set(by_name: dict[str, Any], asked: str, number: int) -> dict[str, Any]:
    """What one request's run says by metric (or set), its own set `asked` under its number."""
    lead = re.compile(rf"{re.escape(asked)}(?=_|$)")
    return {
        lead.sub(f"request_{number}", name) if lead.match(name) else name: value
        for name, value in by_name.items()
        if name != "forget_quality"
    }


def combine_requests(run: UnlearnRun, folder: RunFolder, folders: list[RunFolder]) -> None:
    """Write the run's own evaluation/ and report/, and link its checkpoint to the last one.

    Args:
        folders: of the requests, in order.
    """
    found = [results.read_results_json(part.evaluation) for part in folders]
    last, count = results.load_evaluation(folders[-1].evaluation), len(folders)
    if last is not None:
        asked = find_set_of_role(run.eval, FORGET) or FORGET
        figures = [rename_request_set(f["metrics"], asked, n) for n, f in enumerate(found, 1)]
        at_start, at_end = found[0], found[-1]
        extra = {
            "suite": run.eval.name,
            "model": run.model.name,
            "data": run.data.name,
            "roles": rename_request_set(at_end.get("roles", {}), asked, count),
            "target": rename_request_set(at_start["target"], asked, 1),
            "target_statistics": rename_request_set(
                at_start.get("target_statistics", {}), asked, 1
            ),
            "reference": rename_request_set(at_end["reference"], asked, count),
            "reference_statistics": rename_request_set(
                at_end.get("reference_statistics", {}), asked, count
            ),
            "requests": [
                {"request": request, "metrics": metrics}
                for request, metrics in zip(run.data.requests, figures, strict=True)
            ],
        }
        whole = Evaluation(
            order_request_metrics(figures[-1]),
            [{**s, "set": f"request_{count}"} if s["set"] == asked else s for s in last.samples],
            rename_request_set(last.missing, asked, count),
            statistics=rename_request_set(last.statistics, asked, count),
            notes=rename_request_set(last.notes, asked, count),
            rows=rename_request_set(last.rows, asked, count),
        )
        results.save_evaluation(folder.evaluation, whole, extra)
        summary.write_summary(run, folder.path)
    link = folder.checkpoint
    if link.is_symlink() or link.exists():
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    link.symlink_to(os.path.relpath(folders[-1].checkpoint, folder.path), target_is_directory=True)


def order_request_metrics(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures with those of the requests first, in their order."""
    first = sorted(name for name in figures if name.startswith("request_"))
    return {name: figures[name] for name in [*first, *figures]}
