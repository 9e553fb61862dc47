"""Unilogit: reverse KL to its own distribution with the target at 1/V (arXiv 2505.06027)."""

from __future__ import annotations

from undial_cli.methods.base import Method, Targets, Tensor


class Unilogit(Method):
    """Mean over target tokens of `KL(q || p)`, which depends on the target's probability alone."""

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.tokens import unilogit_per_token

        vocabulary = len(targets.head.weight_VD)
        return targets.token_sum(lambda logps_N: unilogit_per_token(logps_N, vocabulary))
