"""Gradient ascent: raise the cross entropy of the forget set (Jang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.methods.base import Method, MethodConfig, MethodEntry, Targets, Tensor, key


class GradientAscent(Method):
    """Minus the mean cross entropy over target tokens."""

    def sum(self, targets: Targets) -> Tensor:
        return targets.token_sum(lambda logps_N: logps_N)


@dataclass
class GradDiffConfig(MethodConfig):
    """Gradient difference: ga with gdr."""

    retain: str = key("gdr", "retain term: gdr or klr", allowed=("gdr", "klr"))


METHODS = {
    "ga": MethodEntry(MethodConfig, GradientAscent),
    "grad_diff": MethodEntry(GradDiffConfig, GradientAscent),
}
