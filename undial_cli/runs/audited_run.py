"""`undial audit RUN_FOLDER`: from the run that made a checkpoint to the run that audits it."""

from __future__ import annotations

import dataclasses

from undial_cli.config.schema import AuditRun, Run, UnlearnRun
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import find_trained_run
from undial_cli.runs.run_yaml import dump_run_yaml, load_run, parse_run_yaml
from undial_cli.runs.trust import check_command_line_keys

# Groups that are chosen anew; model, data and evaluation are those of the run.
CHOSEN_GROUPS = ("audit=", "audit.budget=", "hardware=")


def compose_audit_of(path: str, words: list[str], extra_configs: str | None = None) -> Run:
    """The audit of a run's checkpoint, with the run's own model, data, sets, target and seed.

    Args:
        path: of the run's folder.
        words: overrides; of groups only `audit` and `hardware`.

    Raises:
        UserError: no run folder, no checkpoint in it, or a wrong override.
    """
    folder = find_trained_run("audit", path)
    source = load_run(folder.path)
    chosen = [word for word in words if word.startswith(CHOSEN_GROUPS)]
    audit = compose_run("audit", chosen, extra_configs)
    assert isinstance(audit, AuditRun)
    audit.model = dataclasses.replace(source.model, path=str(folder.checkpoint.absolute()))
    audit.data = dataclasses.replace(source.data, requests=[])
    audit.eval, audit.seed = source.eval, source.seed
    if isinstance(source, UnlearnRun):
        audit.target = source.target
        audit.audit.target = source.model.path  # None: the data's own
    rest = [word for word in words if word not in chosen]
    run = parse_run_yaml(dump_run_yaml(audit), rest, path)
    check_command_line_keys(run, words, f"audit {path}")
    return run
