"""ATWU: gradient ascent on the tokens that a scorer, learnt in turn, picks (Yuce et al. 2026).

Read was the working repository of one of the authors, not the paper's text: which of its variants
the paper calls ATWU is not verified. This is SelfBalancingGradDiff with the scorer objective of
ScorerTrainerGradDiff. Here the scorer sees the state that predicts a token (there, at last, the
token's own), and moves after the model's step, from that step's global batch, not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class AtwuConfig(MethodConfig):
    """Alternating token-weighted unlearning (Yuce et al. 2026)."""

    beta: float = key(5.0, "how much less a token counts that is unlikely already", minimum=0)
    budget: float = key(
        0.2, "share of a sequence's tokens to score above 1/2", minimum=0, maximum=1
    )
    every: int = key(10, "steps of the model to one of the scorer", minimum=1)
    scorer_learning_rate: float = key(0.05, "of the scorer's SGD, momentum 0.9", above=0)
    entropy: float = key(1.0, "weight of the scores' entropy", minimum=0)
    population: float = key(1.0, "weight of the distance to the budget", minimum=0)
    ridge: float = key(0.01, "weight of the scorer's squared length", minimum=0)


class Atwu(Method):
    """Mean over target tokens of `exp(beta g log q_y) g log q_y`; g starts at 1/2 everywhere.

    The scorer's parameters, and its momentum, are one row of D + 1 numbers each: the weights of a
    hidden state, and the bias.
    """

    adapts: ClassVar[bool] = True
    config: AtwuConfig

    def __init__(self, config: AtwuConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.steps = 0
        self.scorer_E: Tensor | None = None
        self.momentum_E: Tensor | None = None

    def sum(self, targets: Targets) -> Tensor:
        import torch

        from undial_cli.losses.atwu import atwu_per_token, score_tokens

        hidden_ND = targets.hidden_ND.detach()
        if self.scorer_E is None:
            self.scorer_E = hidden_ND.new_zeros(hidden_ND.shape[1] + 1, dtype=torch.float64)
        self.scorer_E = self.scorer_E.to(hidden_ND.device)
        scores_N = score_tokens(hidden_ND, self.scorer_E)
        logps_N = torch.zeros_like(scores_N)

        def loss(logps_n: Tensor, rows: slice) -> Tensor:
            logps_N[rows] = logps_n.detach()
            return atwu_per_token(logps_n, scores_N[rows], self.config.beta)

        total = targets.blocks_sum(loss, [[rows] for rows in targets.chunks])
        if (self.steps + 1) % self.config.every == 0:
            self.add_scorer_gradients(targets, hidden_ND, logps_N)
        return total

    def add_scorer_gradients(self, targets: Targets, hidden_ND: Tensor, logps_N: Tensor) -> None:
        """Add up the gradients of both parts of the scorer's loss, and what they are divided by."""
        import torch

        from undial_cli.losses.atwu import (
            score_tokens,
            scorer_sequence_losses,
            scorer_token_losses,
        )

        assert self.scorer_E is not None
        scorer_E, counts = self.scorer_E.clone().requires_grad_(), targets.counts
        with torch.enable_grad():
            scores_N = score_tokens(hidden_ND, scorer_E)
            parts = [
                scorer_token_losses(scores_N, logps_N, self.config.entropy).sum(),
                scorer_sequence_losses(
                    scores_N, targets.sequence_N, counts, self.config.budget
                ).sum(),
            ]
            gradients = [
                torch.autograd.grad(part, scorer_E, retain_graph=True)[0] for part in parts
            ]
        weights = scorer_E.new_tensor([sum(counts), sum(count > 0 for count in counts)])
        added = torch.cat([*gradients, weights]).detach()
        self.statistics = added if self.statistics is None else self.statistics + added

    def after_step(self, losses: dict[str, float], epoch: float) -> None:
        self.steps += 1
        if self.statistics is None or self.scorer_E is None:
            return
        width = len(self.scorer_E)
        of_tokens, of_sequences, weights = self.statistics.split([width, width, 2])
        tokens, sequences = weights.clamp(min=1)
        self.statistics = None
        gradient_E = of_tokens / tokens + self.config.population * of_sequences / sequences
        gradient_E = gradient_E + 2 * self.config.ridge * self.scorer_E
        # torch's SGD: a gradient of length 1 at most, a weight decay of 1e-4, a momentum of 0.9.
        gradient_E = gradient_E / gradient_E.norm().clamp(min=1) + 1e-4 * self.scorer_E
        if self.momentum_E is not None:
            gradient_E = gradient_E + 0.9 * self.momentum_E.to(gradient_E.device)
        self.momentum_E = gradient_E
        self.scorer_E = self.scorer_E - self.config.scorer_learning_rate * self.momentum_E

    def state_dict(self) -> dict[str, Any]:
        rows = {"scorer": self.scorer_E, "momentum": self.momentum_E}
        return {
            "steps": self.steps,
            **{name: None if row is None else row.tolist() for name, row in rows.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import torch

        self.steps = state["steps"]
        self.scorer_E, self.momentum_E = (
            None if state[name] is None else torch.tensor(state[name], dtype=torch.float64)
            for name in ("scorer", "momentum")
        )
