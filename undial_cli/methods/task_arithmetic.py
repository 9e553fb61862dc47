"""Task arithmetic: learn the forget set, then go the other way (Ilharco et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from undial_cli.losses.fused import cross_entropy_sum
from undial_cli.methods import weights
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import TaskArithmeticConfig


class TaskArithmetic(Method):
    """Cross entropy on the forget set; `theta - coefficient (theta_tuned - theta)` is saved."""

    from_start: ClassVar[bool] = True
    config: TaskArithmeticConfig

    def sum(self, targets: Targets) -> Tensor:
        return cross_entropy_sum(targets.hidden_ND, targets.head, targets.targets_N)

    def finish(self, checkpoint: Path, start: Path | None) -> None:
        weights.step_back(checkpoint, start, self.config.coefficient)
