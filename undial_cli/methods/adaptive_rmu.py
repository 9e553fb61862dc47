"""Adaptive RMU: the control vector is a multiple of the activations' length (Dang et al. 2025).

The paper's own text could not be read; the formula is that of the authors' code.
"""

from __future__ import annotations

from typing import ClassVar

from undial_cli.methods.base import TEACHER_LAYER, MethodEntry, Targets, Tensor
from undial_cli.methods.rmu import Rmu, RmuConfig


class AdaptiveRmu(Rmu):
    """RMU towards a vector of `steering_coeff` times the sequence's mean frozen activation."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LAYER})

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.activations import scale_control, squared_error_sum

        hidden_ND, frozen_ND = targets.hidden_ND, targets.signal.layer_ND
        assert frozen_ND is not None
        sequence_N, counts = targets.sequence_N, targets.counts
        wanted_ND = scale_control(self.control(hidden_ND), frozen_ND, sequence_N, counts)
        return squared_error_sum(hidden_ND, wanted_ND, sequence_N, counts)


METHODS = {"adaptive_rmu": MethodEntry(RmuConfig, AdaptiveRmu)}
