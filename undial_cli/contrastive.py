"""Two models that answer as one: what the memorised model says more likely is taken off the target.

Logits `s - coefficient * relu(s_memorised - s)`, before any sampling (the CD baseline of arXiv
2402.10052). To whoever scores or decodes, the pair is one model with one head and one cache. Knows
how a pair lies on disk, not how its models are loaded.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from undial_cli.head import TargetHead, head_job, output_head
from undial_cli.losses.chunked import Projection

TARGET, MEMORISED = "target", "memorised"


@dataclass(frozen=True, kw_only=True)
class Contrast(Projection):
    """From both models' hidden states [N, 2D], the target's first, to the combined logits.

    It is the target's projection, with that of the memorised model beside it.
    """

    memorised: Projection
    coefficient: float

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V], in float32 at least."""
        own_ND, memorised_ND = hidden_ND.chunk(2, -1)
        own_NV, memorised_NV = super().logits(own_ND), self.memorised.logits(memorised_ND)
        return own_NV - self.coefficient * F.relu(memorised_NV - own_NV)

    def to(self, where: torch.dtype | torch.device) -> Contrast:
        """The same projection in another dtype or on another device."""
        return self.beside(super().to(where), self.memorised.to(where))

    def detach(self) -> Contrast:
        """The same projection, without gradient."""
        return self.beside(super().detach(), self.memorised.detach())

    def beside(self, target: Projection, memorised: Projection) -> Contrast:
        """The same contrast of other projections."""
        return Contrast(**vars(target), memorised=memorised, coefficient=self.coefficient)


class ContrastHead(TargetHead):
    """The heads of both models as one, which can be given a job; it holds no weights itself."""

    def __init__(self, target: TargetHead, memorised: TargetHead, coefficient: float) -> None:
        nn.Module.__init__(self)
        self.heads, self.coefficient = (target, memorised), coefficient

    def extra_repr(self) -> str:
        return f"coefficient={self.coefficient:g}"

    def projection(self) -> Contrast:
        """From hidden states side by side to the combined logits."""
        target, memorised = (head.projection() for head in self.heads)
        return Contrast(**vars(target), memorised=memorised, coefficient=self.coefficient)

    def forward(self, input: Tensor) -> Tensor:
        head = self.projection()
        return head.logits(input) if self.job is None else self.job(input, head)


class Pair(nn.Module, GenerationMixin):
    """A target and its memorised copy as one frozen model, on one device, in eval mode.

    `output_head` of the pair is the `ContrastHead`: a head job is given both models' hidden states
    and what makes combined logits of them. A cache holds the target's layers, then the others.
    """

    def __init__(
        self, target: PreTrainedModel, memorised: PreTrainedModel, coefficient: float
    ) -> None:
        super().__init__()
        self.config, self.generation_config = target.config, target.generation_config
        self.head = ContrastHead(output_head(target), output_head(memorised), coefficient)
        self.target, self.memorised = target, memorised
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where both models are."""
        return self.target.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the target's weights."""
        return self.target.dtype

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Combined logits [B, T, V], or what the head's job makes of the hidden states.

        Keys and values are kept in a cache that is given, and nowhere else.
        """
        inputs: dict[str, Any] = {"attention_mask": attention_mask, **more}
        if "position_ids" in inspect.signature(self.target.forward).parameters:
            inputs["position_ids"] = position_ids
        parts = split(past_key_values) if past_key_values is not None else (None, None)
        hidden_BTD = torch.cat(
            [
                hidden_states(
                    model, input_ids, past_key_values=part, use_cache=part is not None, **inputs
                )
                for model, part in zip((self.target, self.memorised), parts, strict=True)
            ],
            dim=-1,
        )
        if past_key_values is not None:
            past_key_values.layers = [layer for part in parts for layer in part.layers]
        return CausalLMOutputWithPast(logits=self.head(hidden_BTD), past_key_values=past_key_values)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, **inputs: Any) -> Tensor:
    """What the output head of a model is given, [B, T, D]."""
    with head_job(model, lambda hidden_BTD, head: hidden_BTD):
        return model(input_ids=input_ids, **inputs).logits


def split(cache: Cache) -> tuple[Cache, Cache]:
    """The two models' caches in one: they hold its own layers, or each new ones of its kind."""
    target, memorised = copy.copy(cache), copy.copy(cache)
    if cache.get_seq_length():
        half = len(cache.layers) // 2
        target.layers, memorised.layers = cache.layers[:half], cache.layers[half:]
    else:
        target.layers, memorised.layers = cache.layers, copy.deepcopy(cache.layers)
    return target, memorised
