"""Two models that answer as one: what the memorised one says more likely is taken off the target.

Logits `s - coefficient * relu(s_memorised - s)`, before any sampling (the CD baseline of arXiv
2402.10052). To whoever scores or decodes it is one model with one head and one cache. Knows how it
lies on disk, not how its models are loaded. B sequences, T positions, N of all their positions,
D width, V vocabulary.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from undial_cli.errors import UserError
from undial_cli.losses.chunked import Projection
from undial_cli.models.adapters import make_position_argument
from undial_cli.models.head import TargetHead, find_output_head, head_job
from undial_cli.system.files import parse_json, write_whole_text
from undial_cli.system.source_paths import CONTRAST_FILE


@dataclass(frozen=True, kw_only=True)
class ContrastProjection(Projection):
    """From both models' hidden states [N, 2D], the target's first, to the combined logits.

    It is the target's projection, with that of the memorised model beside it.
    """

    memorised: Projection
    coefficient: float

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V], in float32 at least."""
        target_ND, memorised_ND = hidden_ND.chunk(2, -1)
        target_NV, memorised_NV = super().logits(target_ND), self.memorised.logits(memorised_ND)
        return target_NV - self.coefficient * F.relu(memorised_NV - target_NV)

    def to(self, target: torch.dtype | torch.device, copy: bool = False) -> ContrastProjection:
        moved = super().to(target, copy), self.memorised.to(target, copy)
        return contrast_projections(*moved, self.coefficient)

    def detach(self) -> ContrastProjection:
        return contrast_projections(super().detach(), self.memorised.detach(), self.coefficient)


def contrast_projections(
    target: Projection, memorised: Projection, coefficient: float
) -> ContrastProjection:
    return ContrastProjection(**vars(target), memorised=memorised, coefficient=coefficient)


class ContrastHead(TargetHead):
    """The heads of both models as one, which can be given a job; the weights stay theirs."""

    def __init__(self, target: TargetHead, memorised: TargetHead, coefficient: float) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight
        # In a tuple, not as attributes: torch would list their weights a second time.
        self.heads, self.coefficient = (target, memorised), coefficient

    def extra_repr(self) -> str:
        return f"coefficient={self.coefficient:g}"

    def projection(self) -> ContrastProjection:
        """From hidden states side by side to the combined logits."""
        target, memorised = self.heads
        return contrast_projections(target.projection(), memorised.projection(), self.coefficient)

    def forward(self, input: Tensor) -> Tensor:
        head = self.projection()
        return head.logits(input) if self.job is None else self.job(input, head)


class ContrastedModel(PreTrainedModel, GenerationMixin):
    """A target and its memorised copy as one frozen model, both on one device.

    Its output head is the `ContrastHead`: a job is given both models' hidden states and what
    makes combined logits of them. A cache holds the target's layers, then the other's.
    """

    def __init__(
        self, target: PreTrainedModel, memorised: PreTrainedModel, coefficient: float
    ) -> None:
        config = copy.deepcopy(target.config)
        config._attn_implementation = "eager"  # of this class, which has no attention of its own
        super().__init__(config)
        self.generation_config = target.generation_config
        self.head = ContrastHead(find_output_head(target), find_output_head(memorised), coefficient)
        self.target, self.memorised = target, memorised
        self.requires_grad_(False).eval()

    def get_input_embeddings(self) -> nn.Module:
        """The target's: both models have one tokenizer and one table of positions."""
        return self.target.get_input_embeddings()

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

        Keys and values are kept in the cache that is given, and nowhere else.
        """
        inputs: dict[str, Any] = {"attention_mask": attention_mask, **more}
        if position_ids is not None:
            inputs |= make_position_argument(self.target, position_ids)
        inputs["use_cache"] = past_key_values is not None
        caches = split_cache(past_key_values) if past_key_values is not None else ()
        models = zip((self.target, self.memorised), caches or (None, None), strict=True)
        hidden = [
            compute_head_input(model, input_ids, past_key_values=cache, **inputs)
            for model, cache in models
        ]
        if past_key_values is not None:
            # A first pass gave both caches layers of their own: one cache holds them from now on.
            past_key_values.layers = [layer for cache in caches for layer in cache.layers]
        logits = self.head(torch.cat(hidden, dim=-1))
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


def compute_head_input(model: PreTrainedModel, input_ids: Tensor, **inputs: Any) -> Tensor:
    """What the output head of a model is given, [B, T, D]."""
    with head_job(model, lambda hidden_BTD, head: hidden_BTD):
        return model(input_ids=input_ids, **inputs).logits


def split_cache(cache: Cache) -> tuple[Cache, Cache]:
    """The caches of both models in one: each has its own layers, or its own empty ones.

    Copies of the cache itself, since its kind and length are the caller's choice.
    """
    target, memorised = copy.copy(cache), copy.copy(cache)
    if cache.get_seq_length():
        half = len(cache.layers) // 2
        target.layers, memorised.layers = cache.layers[:half], cache.layers[half:]
    else:
        memorised.layers = copy.deepcopy(cache.layers)
    return target, memorised


# The folders of both models in a checkpoint; no target where the memorised one is an adapter on it.
TARGET_FOLDER, MEMORISED_FOLDER = "target", "memorised"


def store_contrast(checkpoint: Path, start: Path | None, coefficient: float) -> None:
    """Turn a folder of tuned weights or of an adapter into that of a contrasted model, in place.

    No weights are left at its top: `from_pretrained` fails there, and gives no model that
    remembers everything.

    Args:
        start: a folder of the target's whole weights, which is moved; not needed for an adapter.
    """
    tuned, memorised = list(checkpoint.iterdir()), checkpoint / MEMORISED_FOLDER
    memorised.mkdir()
    for file in tuned:
        file.rename(memorised / file.name)
    (memorised / "README.md").unlink(missing_ok=True)  # peft's, of a model by itself
    if start is not None:
        start.rename(checkpoint / TARGET_FOLDER)
    write_whole_text(checkpoint / CONTRAST_FILE, json.dumps({"coefficient": coefficient}) + "\n")


def read_contrast_coefficient(folder: Path) -> float | None:
    """The coefficient that `store_contrast` left in a folder; None where it was not there.

    Raises:
        UserError: contrastive.json is not what it wrote.
    """
    file = folder / CONTRAST_FILE
    if not file.is_file():
        return None
    try:
        return float(parse_json(file.read_text(encoding="utf-8"))["coefficient"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.path={folder}: {CONTRAST_FILE} holds no coefficient") from error
