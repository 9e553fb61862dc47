"""JensUn: Jensen-Shannon divergences to a refusal and to the target (arXiv 2509.02820)."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class JensunConfig(MethodConfig):
    """JensUn (Singh et al. 2025)."""

    retain: str = key(
        "js",
        "retain term: js = Jensen-Shannon divergence to the target, gdr or klr",
        allowed=("none", "gdr", "klr", "js"),
    )


class Jensun(Method):
    """Mean over the true answers' target positions of `JS(q, onehot(r_t))`, r a refusal's tokens.

    The refusal's token of the same place is wanted after the true answer's beginning, from the
    first again where the refusal is at its end. The authors' refusal is "No idea" without an end
    token (data.refusals), the formula that of the paper as others render it: its own text could not
    be read, and the authors' code differs (`jensun_loss`).
    """

    alternatives = "refusals"

    def is_answered(self, counts: list[int]) -> list[bool]:
        """Which sequences are true answers whose refusal has a token."""
        return [i % 2 == 0 and counts[i + 1] > 0 for i in range(len(counts))]

    def weight(self, counts: list[int]) -> int:
        pairs = zip(counts[0::2], counts[1::2], strict=True)
        return sum(count for count, other_count in pairs if other_count)

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.divergences import cycle_tokens, js_to_token

        refusals = targets.select_sequences([bool(i % 2) for i in range(len(targets.counts))])
        answers = targets.select_sequences(self.is_answered(targets.counts))
        indices = cycle_tokens(targets.counts[0::2], targets.counts[1::2])
        answers.targets_N = refusals.targets_N[targets.targets_N.new_tensor(indices)]
        return answers.token_sum(js_to_token)
