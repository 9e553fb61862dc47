"""From examples to padded tensors. Padding is marked by the attention mask and label -100 only."""

from __future__ import annotations

import torch
from torch import Tensor

from undial_cli.data.encode import IGNORE, Example

EMPTY = Example([0], [IGNORE], 0)


def pad(
    examples: list[Example], pad_id: int, indices: list[int] | None = None
) -> dict[str, Tensor]:
    """Right-padded batch.

    Returns:
        input_ids, attention_mask, labels: [B, T] int64; index: [B], the place of each example in
        its set (-1 for an empty row).
    """
    length = max(len(e.input_ids) for e in examples)
    shape = (len(examples), length)
    input_ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORE)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size] = torch.tensor(example.input_ids)
        labels[row, :size] = torch.tensor(example.labels)
        mask[row, :size] = 1
    index = torch.tensor(indices if indices is not None else list(range(len(examples))))
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "index": index}


def pad_left(prompts: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Left-padded prompts for generation: input_ids and attention_mask, [B, T]."""
    length = max(map(len, prompts))
    input_ids = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def pad_token(tokenizer: object) -> int:
    """An id to fill padding with; which one is without effect, since padding is masked."""
    pad_id = getattr(tokenizer, "pad_token_id", None)
    return pad_id if pad_id is not None else 0
