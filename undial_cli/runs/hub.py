"""`push_to_hub=org/name`: the checkpoint of a finished run to the Hugging Face hub, and only that.

Neither evaluation/ nor report/ goes there: they hold text of the forget set.
"""

from __future__ import annotations

from undial_cli import ui
from undial_cli.config.schema import TrainingRun
from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.runs.run_folder import RunFolder


def check_hub_access(run: TrainingRun) -> None:
    """Before anything is computed.

    Raises:
        UserError: not the name of a repository, or nobody is logged in.
    """
    if run.push_to_hub is None:
        return
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(run.push_to_hub)
    except HFValidationError as error:
        raise UserError(
            f"push_to_hub={run.push_to_hub}: allowed is the name of a repository, as in org/name"
        ) from error
    if get_token() is None:
        raise UserError(
            f"push_to_hub={run.push_to_hub}: nobody is logged in to the hub; run 'hf auth login' "
            "or set HF_TOKEN"
        )


def push_checkpoint(run: TrainingRun, folder: RunFolder) -> None:
    """Make the repository, unless it is there, and upload checkpoint/.

    Raises:
        WorldError: the hub did not take it; the run stays done.
    """
    from huggingface_hub import HfApi

    name = run.push_to_hub
    assert name is not None
    try:
        api = HfApi()
        api.create_repo(name, private=run.push_private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder.checkpoint.resolve(),
            commit_message=f"{run.command}: {run.model.name} on {run.data.name}",
        )
    except Exception as error:
        raise WorldError(
            f"push_to_hub={name}: the hub did not take it "
            f"({type(error).__name__}: {first_line(error)}); the run is done, and the "
            "same command tries again"
        ) from error
    ui.say(f"uploaded to {commit}")
