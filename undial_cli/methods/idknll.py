"""IdkNLL: cross entropy on "I don't know" in place of the answer (TOFU, arXiv 2401.06121)."""

from __future__ import annotations

from undial_cli.methods.base import Method, Targets, Tensor


class IdkNll(Method):
    """Mean negative log-likelihood of the refusals' tokens; the true answers are not looked at."""

    alternatives = "refusals"

    def weight(self, counts: list[int]) -> int:
        return sum(counts[1::2])

    def sum(self, targets: Targets) -> Tensor:
        refusals = targets.select_sequences([bool(i % 2) for i in range(len(targets.counts))])
        return refusals.token_sum(lambda logps_n: -logps_n)
