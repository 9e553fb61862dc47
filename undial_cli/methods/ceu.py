"""Cross-entropy unlearning: towards its own distribution without the target (arXiv 2503.01224)."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class CeuConfig(MethodConfig):
    """Cross-entropy unlearning (arXiv 2503.01224)."""

    skip: int = key(1, "first answer tokens of each sequence left out", minimum=0)


class Ceu(Method):
    """Mean over target tokens but the first `skip` of each sequence."""

    config: CeuConfig

    def weight(self, counts: list[int]) -> int:
        return sum(max(0, count - self.config.skip) for count in counts)

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.positions import count_targets_before
        from undial_cli.losses.tokens import ceu_per_position

        # What is skipped weighs 0 here and is not counted in `weight`.
        counts_B = targets.targets_N.new_tensor(targets.counts)
        counted_N = count_targets_before(targets.sequence_N, counts_B) >= self.config.skip

        def loss(logits_CV: Tensor, rows: slice) -> Tensor:
            return ceu_per_position(logits_CV, targets.targets_N[rows]) * counted_N[rows]

        return targets.logits_sum(loss)
