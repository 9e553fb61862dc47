"""Sequential requests: each an ordinary run that starts from the checkpoint of the one before.

The teacher of a request is therefore the model at its start. Every request is scored after every
other one: sets `request_1`, `request_2`, ... beside `forget`, which is the request at hand.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil

from undial_cli.errors import UserError
from undial_cli.evaluation import store
from undial_cli.evaluation.catalog import Evaluation
from undial_cli.evaluation.config import FORGET_SET, EvalSetConfig
from undial_cli.reporting import summary
from undial_cli.run_folder import RunFolder, folder_of
from undial_cli.schema import Run, UnlearnRun, default_name


def parts_of(run: Run) -> list[UnlearnRun]:
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
        part.name = f"{run.name or default_name(run)}/request_{number}"
        part.data.requests = []
        part.report, part.push_to_hub = False, None  # the whole run has one report, one upload
        if run.data.path is None:
            part.data.forget_file = request
        else:
            part.data.forget_split = request
        part.eval.sets = sets_of(run, number)
        if parts:
            part.model.path = str(folder_of(parts[-1]).checkpoint)
        parts.append(part)
    return parts


def sets_of(run: UnlearnRun, number: int) -> dict[str, EvalSetConfig]:
    """The evaluation's sets at one request: its own as `forget`, and those of all others."""
    sets = {name: about(run, config, number) for name, config in run.eval.sets.items()}
    if "forget" in sets:
        others = (n for n in range(1, len(run.data.requests) + 1) if n != number)
        sets |= {f"request_{n}": about(run, run.eval.sets["forget"], n) for n in others}
    return sets


def about(run: UnlearnRun, config: EvalSetConfig, number: int) -> EvalSetConfig:
    """A set's config, with a request in place of the forget split it was written for."""
    known = run.data.forget_split if run.data.path is not None else run.data.forget_file
    known, split, request = known or FORGET_SET, config.split, run.data.requests[number - 1]
    if split == known:
        split = request
    elif isinstance(split, str) and isinstance(known, str) and split.startswith(known):
        split = request + split.removeprefix(known)
    return dataclasses.replace(config, split=split)


def renamed(figures: dict[str, float], number: int) -> dict[str, float]:
    """Figures of one request's run, its own set under its number."""
    return {
        f"request_{number}_{name.removeprefix('forget_')}"
        if name.startswith("forget_")
        else name: v
        for name, v in figures.items()
        if name != "forget_quality"
    }


def conclude(run: UnlearnRun, folder: RunFolder) -> None:
    """Write the run's own evaluation/ and report/, and link its checkpoint to the last one."""
    folders = [folder_of(part) for part in parts_of(run)]
    found = [store.read_results(part.evaluation) for part in folders]
    last, count = store.load(folders[-1].evaluation), len(folders)
    if last is not None:
        figures = [renamed(f["metrics"], n) for n, f in enumerate(found, 1)]
        extra = {
            "suite": run.eval.name,
            "model": run.model.name,
            "data": run.data.name,
            "target": renamed(found[0]["target"], 1),
            "reference": renamed(found[-1]["reference"], count),
            "requests": [
                {"request": request, "metrics": metrics}
                for request, metrics in zip(run.data.requests, figures, strict=True)
            ],
        }
        samples = [
            {**s, "set": f"request_{count}"} if s["set"] == "forget" else s for s in last.samples
        ]
        asked = sorted(name for name in figures[-1] if name.startswith("request_"))
        ordered = {name: figures[-1][name] for name in [*asked, *figures[-1]]}
        missing = {k: v for k, v in last.missing.items() if k != "forget_quality"}
        store.save(folder.evaluation, Evaluation(ordered, samples, missing), extra)
        summary.write(run, folder)
    link = folder.checkpoint
    if link.is_symlink() or link.exists():
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    link.symlink_to(os.path.relpath(folders[-1].checkpoint, folder.path), target_is_directory=True)
