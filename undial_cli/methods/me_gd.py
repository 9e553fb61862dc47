"""ME+GD: maximum entropy on the forget set, cross entropy on the retain set (Yuan et al. 2024)."""

from __future__ import annotations

from undial_cli.methods.base import Method, Targets, Tensor


class MeGd(Method):
    """Mean over target positions of `KL(uniform || q)`, which is blind to the target tokens.

    The authors' scripts for ME+GD score the question's tokens as well; here, as everywhere, the
    answer's alone.
    """

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.divergences import max_entropy_per_position

        return targets.logits_sum(lambda logits_NV, _: max_entropy_per_position(logits_NV))
