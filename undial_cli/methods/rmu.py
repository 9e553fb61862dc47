"""Representation misdirection: a layer's activations towards a random vector (Li et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from undial_cli.losses.activations import rmu_forget_sum, rmu_retain_sum
from undial_cli.methods.base import TEACHER_LAYER, Loss, Method, Targets
from undial_cli.methods.configs import RmuConfig


class Rmu(Method):
    """Mean over sequences of the mean squared distance to the control vector."""

    per: ClassVar[str] = "sequence"
    config: RmuConfig

    def __init__(self, config: RmuConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.layer, self.parameters, self.seed = config.layer, config.parameters, seed

    def retain(self) -> Loss | None:
        return KeepActivations(self.config.layer) if self.config.retain == "mse" else None

    def control(self, width: int) -> Tensor:
        """Uniform in [0, 1), normalised, times the coefficient; fixed by the seed. [D]"""
        generator = torch.Generator().manual_seed(self.seed)
        control_D = torch.rand(width, generator=generator)
        return control_D / control_D.norm() * self.config.steering_coeff

    def sum(self, targets: Targets) -> Tensor:
        control_D = self.control(targets.hidden_ND.shape[1]).to(targets.hidden_ND.device)
        return rmu_forget_sum(targets.hidden_ND, targets.sequence_N, targets.counts, control_D)


class KeepActivations(Loss):
    """Mean over sequences of the mean squared distance to the frozen model's activations."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LAYER})
    per: ClassVar[str] = "sequence"

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def sum(self, targets: Targets) -> Tensor:
        frozen_ND = targets.signal.layer_ND
        assert frozen_ND is not None
        return rmu_retain_sum(targets.hidden_ND, frozen_ND, targets.sequence_N, targets.counts)
