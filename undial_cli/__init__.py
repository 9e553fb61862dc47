"""undial: unlearn chosen data from a causal language model (UnDIAL and its baselines).

`run` is what the commands do, as a call. Losses and metrics are plain functions in
`undial_cli.losses` and `undial_cli.evaluation.metrics`. Importing this module loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undial_cli.pipeline import RunResult

__version__ = "0.1.0"


def run(overrides: list[str], command: str = "unlearn") -> RunResult:
    """Execute one run in this process, as `undial COMMAND OVERRIDES...` would.

    Args:
        overrides: Hydra overrides, for example `["model=tiny", "method=npo", "seed=1"]`.
        command: `unlearn`, `finetune`, `evaluate` or `audit`.

    Returns:
        The run folder, the status and the metrics of the finished run.

    Raises:
        UserError: the input is wrong; nothing was written.
    """
    from undial_cli.pipeline import execute_run
    from undial_cli.runs.compose import compose_run

    return execute_run(compose_run(command, overrides), show=False)
