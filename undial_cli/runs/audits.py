"""The audit of a run: its models, its rows and its attacks put together, and audit/ written.

Joins the attacks with what a run knows of its models. Knows no attack.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

from undial_cli.audit.attack import AttackedModel, AuditData
from undial_cli.audit.carry_out import carry_out_attacks
from undial_cli.audit.judge import score_answers_by_helpers
from undial_cli.audit.results import (
    AUDIT_PREFIX,
    list_answers,
    list_audit_figures,
    make_audit,
    save_audit,
)
from undial_cli.config.attacks import MODEL_ROLES, RETAIN, TARGET, UNLEARNED
from undial_cli.config.schema import AuditRun, UnlearnRun
from undial_cli.config.suites import FORGET, HOLDOUT, find_set_of_role
from undial_cli.config.suites import RETAIN as RETAIN_SET
from undial_cli.errors import UserError
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.resampling_units import number_subjects
from undial_cli.evaluation.results import load_evaluation, read_results_json, save_evaluation
from undial_cli.models import fingerprints, load
from undial_cli.runs.attacks import find_forget_set, list_attacks
from undial_cli.runs.inputs import RunInputs
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.system import hardware, processes
from undial_cli.system.files import hash_files

AuditedRun = AuditRun | UnlearnRun


def audit_model_at(
    resolved: ResolvedRun, inputs: RunInputs, path: str, device: torch.device
) -> None:
    """Attack the model at a path beside its target and its retain model, where they are known.

    A run that asks for no audit has none.
    """
    run = resolved.run
    if not isinstance(run, AuditedRun) or not run.audit.is_on:
        return
    data = collect_audit_data(run, inputs)
    models = make_attacked_models(resolved, inputs, path, device)
    describe = functools.partial(describe_model, run, inputs)
    attacks = list_attacks(run.audit)
    results = carry_out_attacks(attacks, models, data, describe)
    score_answers_by_helpers(results, data, device, run.seed)
    if processes.get_process_rank() != 0:
        return
    paths = {role: models[role].path if role in models else None for role in MODEL_ROLES}
    head = {"model": run.model.name, "data": run.data.name, "seed": run.seed}
    audit = make_audit(results, attacks, data, run.audit, paths, head)
    save_audit(resolved.folder.audit, audit, list_answers(results.outcomes, data))
    add_audit_figures(resolved.folder.evaluation, run, list_audit_figures(audit))


def add_audit_figures(folder: Path, run: AuditedRun, figures: dict[str, float]) -> None:
    """Put an audit's figures among the metrics of results.json; the one of an audit has no other.

    Args:
        folder: of the evaluation.
    """
    known = read_results_json(folder)
    evaluation = load_evaluation(folder) if known else None
    if evaluation is None:
        known = {"suite": "audit", "model": run.model.name, "data": run.data.name}
        known |= {"target": {}, "reference": {}}
        evaluation = Evaluation({}, [])
    # Of an earlier audit of this folder, which may have had other attacks.
    others = {k: v for k, v in evaluation.metrics.items() if not k.startswith(AUDIT_PREFIX)}
    evaluation.metrics = others | figures
    save_evaluation(folder, evaluation, known)


def collect_audit_data(run: AuditedRun, inputs: RunInputs) -> AuditData:
    """The rows that are attacked, and the other sets of the suite that attacks read.

    Raises:
        UserError: the suite has no forget set with rows.
    """
    suite, config = inputs.suite, run.audit
    names = {role: find_set_of_role(suite.config, role) for role in (RETAIN_SET, HOLDOUT)}
    names[FORGET] = find_forget_set(run)
    sets = {role: name for role, name in names.items() if name in suite.set_names}
    if FORGET not in sets:
        raise UserError(
            f"eval={suite.config.name}: this suite has no forget set with rows, and an audit "
            "needs one; choose another with eval=NAME, or name the rows with data.forget_split or "
            "data.forget_file"
        )
    forget = str(sets[FORGET])
    rows = suite.rows[forget].rows
    known = number_subjects(rows, suite.config.sets[forget], run.data.subject_key)
    first_free = max(known.values(), default=-1) + 1
    data = AuditData(
        suite,
        config,
        forget,
        rows,
        list(range(len(rows))),
        [known.get(i, first_free + i) for i in range(len(rows))],
        sets.get(RETAIN_SET),
        suite.rows[str(sets[RETAIN_SET])].list_asked() if RETAIN_SET in sets else [],
        sets.get(HOLDOUT),
        suite.rows[str(sets[HOLDOUT])].list_asked() if HOLDOUT in sets else [],
    )
    asked = suite.rows[forget].asked
    data = data if asked is None else data.take_rows(sorted(asked))
    data = dataclasses.replace(data, retain_rows=data.retain_rows[: config.retain_rows])
    return data.select_rows(config.rows)


def make_attacked_models(
    resolved: ResolvedRun, inputs: RunInputs, path: str, device: torch.device
) -> dict[str, AttackedModel]:
    """The audited model and those that it is compared with, by role, none of them loaded."""
    run = resolved.run
    assert isinstance(run, AuditedRun)
    paths = {TARGET: inputs.published_target, RETAIN: None, UNLEARNED: path}
    if isinstance(run, UnlearnRun):
        paths[TARGET] = resolved.find_path(resolved.target_model)
    if inputs.reference.location is not None:
        paths[RETAIN] = resolved.find_path(inputs.reference.location)

    def load_at(path: str, **arguments: Any) -> Any:
        model: Any = load.load_model(run.model, path, seed=run.seed, finite=False, **arguments)
        return model if getattr(model, "is_quantized", False) else model.to(device)

    models = {
        role: AttackedModel(role, path_of_role, run, device, load_at)
        for role, path_of_role in paths.items()
        if path_of_role is not None
    }
    for model in models.values():
        model.others = models
    return models


def describe_model(run: AuditedRun, inputs: RunInputs, path: str) -> Any:
    """All that an answer of the model at a path depends on besides what it is asked."""
    return [
        processes.run_on_main(lambda: fingerprints.fingerprint_weights(run.model, path, run.seed)),
        dataclasses.asdict(run.model.template),
        [run.model.dtype, run.model.attn_implementation, hardware.choose_autocast_dtype(run)],
        inputs.tokenizer_fingerprint,
        [run.data.max_length, run.data.turns],
        [run.data.question_key, run.data.answer_key, run.data.text_key],
        run.eval.max_new_tokens,
        run.audit.file and hash_files(Path(run.audit.file)),
        dataclasses.asdict(run.eval.sets[str(find_forget_set(run))]),
        run.seed,
    ]
