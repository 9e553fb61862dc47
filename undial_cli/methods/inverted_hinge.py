"""LoKU's inverted hinge: the target token gives way to the likeliest other one (arXiv 2408.06621).

Of LoKU, Fisher-weighted initial values of the LoRA weights (FILA) are not here: the loss alone.
"""

from __future__ import annotations

from undial_cli.methods.base import Method, Targets, Tensor


class InvertedHinge(Method):
    """Mean over target tokens of `1 + q_y - max_{k != y} q_k`."""

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.divergences import inverted_hinge_per_position

        return targets.logits_sum(
            lambda logits_NV, rows: inverted_hinge_per_position(logits_NV, targets.targets_N[rows])
        )
