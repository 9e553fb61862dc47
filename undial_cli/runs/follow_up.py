"""`undial audit|evaluate RUN_FOLDER`: from the run that made a checkpoint to what looks at it."""

from __future__ import annotations

import dataclasses

from undial_cli.config.schema import AuditRun, EvaluateRun, Run, UnlearnRun
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import find_trained_run
from undial_cli.runs.run_yaml import dump_run_yaml, load_run, parse_run_yaml
from undial_cli.runs.trust import check_command_line_keys

# Words that are composed anew; model and data are those of the run.
CHOSEN_GROUPS = ("audit=", "audit.budget=", "eval=", "hardware=")


def compose_follow_up(
    command: str, path: str, words: list[str], extra_configs: str | None = None
) -> Run:
    """The audit or evaluation of a run's checkpoint, with its model, data, sets, target and seed.

    Args:
        path: of the run's folder.
        words: overrides; of groups only `eval`, `hardware` and, of an audit, `audit`.

    Raises:
        UserError: no run folder, no checkpoint in it, or a wrong override.
    """
    folder = find_trained_run(command, path)
    source = load_run(folder.path)
    chosen = [word for word in words if word.startswith(CHOSEN_GROUPS)]
    run = compose_run(command, chosen, extra_configs)
    assert isinstance(run, AuditRun | EvaluateRun)
    run.model = dataclasses.replace(source.model, path=str(folder.checkpoint.absolute()))
    run.data = dataclasses.replace(source.data, requests=[])
    run.seed = source.seed
    if not any(word.startswith("eval=") for word in chosen):
        run.eval = source.eval
    if isinstance(source, UnlearnRun):
        run.target = source.target
        if isinstance(run, AuditRun):
            run.audit.target = source.model.path  # None: the data's own
    rest = [word for word in words if word not in chosen]
    followed = parse_run_yaml(dump_run_yaml(run), rest, path)
    check_command_line_keys(followed, words, f"{command} {path}")
    return followed
