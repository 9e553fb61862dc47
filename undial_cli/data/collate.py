"""From examples to tensors: padded rows for evaluation, micro-batches for training.

Padding is right of a sequence, where a causal model's own tokens never look; it needs no mask and
is marked by label -100 only. B sequences, T positions, N target positions of all sequences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from undial_cli.data.example import Example
from undial_cli.losses.positions import IGNORE

# Fills a micro-batch up: a token that is predicted by nothing and that nothing is predicted from.
EMPTY_EXAMPLE = Example([0], [IGNORE], 0)
# Fewer shared tokens than this do not pay for a pass or an attention call of their own.
LEAST_SHARED_TOKENS = 8


def pad_examples(examples: list[Example], pad_id: int) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask and labels: [B, T] int64."""
    return {
        "input_ids": stack_token_ids([e.input_ids for e in examples], pad_id),
        "attention_mask": stack_token_ids([[1] * len(e.input_ids) for e in examples], 0),
        "labels": stack_token_ids([e.labels for e in examples], IGNORE),
    }


def stack_token_ids(rows: list[list[int]], fill: int, side: str = "right") -> Tensor:
    """Rows of token ids, filled up at one side: [B, T] int64."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side=side)


@dataclass
class Batch:
    """One micro-batch of B sequences with N target tokens in all.

    `positions_N`: where each target is predicted, in the flattened `input_ids`; `sequence_N`: its
    row; `focus_N`: whether it is a focus word's; `counts`: targets of each row; `index`: each row's
    position in its set, -1 for an empty row; `tokens`: of the sequences, padding left out;
    `layout`: what the model's forward is given besides `input_ids`.
    """

    input_ids: Tensor
    positions_N: Tensor
    targets_N: Tensor
    sequence_N: Tensor
    focus_N: Tensor
    counts: list[int]
    index: list[int]
    tokens: int
    layout: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking)

        moved = {name: move(value) for name, value in vars(self).items() if hasattr(value, "to")}
        layout = {name: move(value) for name, value in self.layout.items()}
        return dataclasses.replace(self, **moved, layout=layout)


def make_padded_batch(examples: list[Example], indices: list[int]) -> Batch:
    """A micro-batch as right-padded rows [B, T]; causal attention needs no mask for it."""
    input_ids = stack_token_ids([e.input_ids for e in examples], 0)
    starts = [row * input_ids.shape[1] for row in range(len(examples))]
    return build_batch(input_ids, examples, indices, starts)


def build_batch(
    input_ids: Tensor,
    examples: list[Example],
    indices: list[int],
    starts: list[int],
    layout: dict[str, Any] | None = None,
) -> Batch:
    """A batch whose sequences begin at `starts` of the flattened input (were each whole)."""
    positions, targets, sequence, focus, counts = [], [], [], [], []
    for row, (example, start) in enumerate(zip(examples, starts, strict=True)):
        focused = set(example.focus)
        scored = [i for i, label in enumerate(example.labels) if i and label != IGNORE]
        counts.append(len(scored))
        positions += [start + i - 1 for i in scored]  # a token is predicted one position earlier
        targets += [example.labels[i] for i in scored]
        sequence += [row] * len(scored)
        focus += [i in focused for i in scored]
    return Batch(
        input_ids,
        torch.tensor(positions, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(sequence, dtype=torch.long),
        torch.tensor(focus, dtype=torch.bool),
        counts,
        indices,
        sum(len(e.input_ids) for e, i in zip(examples, indices, strict=True) if i >= 0),
        layout or {},
    )


def order_by_length(lengths: Sequence[int]) -> list[int]:
    """Indices, longest first."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def count_shared_tokens(examples: list[Example]) -> int:
    """Tokens that all examples begin with and that predict none of their targets."""
    if len(examples) < 2:
        return 0
    ids = [e.input_ids for e in examples]
    # Of lists in order the first and the last differ soonest.
    apart = enumerate(zip(min(ids), max(ids), strict=False))
    length = min(map(len, ids)) - 1  # each has a token left to be asked for
    length = next((i for i, (a, b) in apart if a != b and i < length), length)
    for example in examples:
        target = next((i for i, y in enumerate(example.labels) if i and y != IGNORE), None)
        length = length if target is None else min(length, target - 1)
    return length if length >= LEAST_SHARED_TOKENS else 0


def pad_prompts(prompts: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Left-padded prompts for generation: input_ids and attention_mask, [B, T]."""
    return {
        "input_ids": stack_token_ids(prompts, pad_id, "left"),
        "attention_mask": stack_token_ids([[1] * len(prompt) for prompt in prompts], 0, "left"),
    }


def choose_pad_id(tokenizer: object) -> int:
    """An id to fill padding with; which one is without effect, since padding is masked."""
    pad_id = getattr(tokenizer, "pad_token_id", None)
    return pad_id if pad_id is not None else 0
