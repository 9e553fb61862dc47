"""Representation misdirection: a layer's activations towards a random vector (Li et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import TEACHER_LAYER, Loss, Method, MethodConfig, Targets, Tensor, key


@dataclass
class RmuConfig(MethodConfig):
    """Representation misdirection (Li et al. 2024)."""

    layer: int = key(7, "layer whose activations are steered, counted from 0", minimum=0)
    steering_coeff: float = key(
        2.0, "length of the control vector; adaptive_rmu: in lengths of the activations", above=0
    )
    retain: str = key(
        "mse",
        "retain term: mse = distance to the target's activations",
        allowed=("none", "mse"),
    )


class Rmu(Method):
    """Mean over sequences of the mean squared distance to the control vector."""

    per: ClassVar[str] = "sequence"
    config: RmuConfig

    def __init__(self, config: RmuConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.layer, self.seed = config.layer, seed
        self.control_D: Tensor | None = None

    def retain(self) -> Loss | None:
        return ActivationDistance(self.config.layer) if self.config.retain == "mse" else None

    def control(self, hidden_ND: Tensor) -> Tensor:
        """Uniform in [0, 1), normalised, times the coefficient; fixed by the seed. [D]"""
        import torch

        if self.control_D is None or self.control_D.device != hidden_ND.device:
            # Drawn on the CPU: alike on every device and process, and in a resumed run.
            generator = torch.Generator().manual_seed(self.seed)
            control_D = torch.rand(hidden_ND.shape[1], generator=generator)
            control_D = control_D / control_D.norm() * self.config.steering_coeff
            self.control_D = control_D.to(hidden_ND.device)  # once, not at each step
        return self.control_D

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.activations import squared_error_sum

        hidden_ND = targets.hidden_ND
        control_D = self.control(hidden_ND)
        return squared_error_sum(hidden_ND, control_D, targets.sequence_N, targets.counts)


class ActivationDistance(Loss):
    """Mean over sequences of the mean squared distance to the frozen model's activations."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LAYER})
    per: ClassVar[str] = "sequence"

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.activations import squared_error_sum

        frozen_ND = targets.signal.layer_ND
        assert frozen_ND is not None
        return squared_error_sum(targets.hidden_ND, frozen_ND, targets.sequence_N, targets.counts)
