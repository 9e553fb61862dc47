"""Task arithmetic: learn the forget set, then go the other way (Ilharco et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class TaskArithmeticConfig(MethodConfig):
    """Negated task vector (Ilharco et al. 2023)."""

    coefficient: float = key(1.0, "how much of the task vector is taken off", minimum=0)


class TaskArithmetic(Method):
    """Cross entropy on the forget set; `theta - coefficient (theta_tuned - theta)` is saved."""

    from_start: ClassVar[bool] = True
    config: TaskArithmeticConfig

    def sum(self, targets: Targets) -> Tensor:
        return targets.token_sum(lambda logps_N: -logps_N)

    def finish(self, checkpoint: Path, start: Path | None) -> None:
        from undial_cli.system.weight_files import negate_task_vector

        negate_task_vector(checkpoint, start, self.config.coefficient)
