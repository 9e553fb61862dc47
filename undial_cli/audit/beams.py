"""Beam search: of the answers that a model can give, one likelier than the greedy one.

By transformers' `generate`, whose search is the field's. Knows token ids and a model.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import GenerationConfig

from undial_cli.evaluation.decoding import Decoding, without_generation_defaults
from undial_cli.evaluation.sharding import Journal, KeepResult, shard_work
from undial_cli.models.capacity import count_table_positions


@torch.no_grad()
def search_beams(
    model: Any,
    name: str,
    prompts: list[list[int]],
    how: Decoding,
    beams: int,
    batch_size: int,
    journal: Journal,
) -> list[list[int]]:
    """The best answer to each prompt as token ids without their end token.

    Only prompts of one length share a batch, so that no padding enters.

    Args:
        how: most new tokens, and what ends an answer.
        beams: answers followed at a time.
        batch_size: sequences per forward pass, each beam one.
    """
    how = dataclasses.replace(how, positions=count_table_positions(model))

    def run(numbers: list[int], keep: KeepResult) -> None:
        while numbers:
            length = len(prompts[numbers[0]])
            alike = [n for n in numbers if len(prompts[n]) == length]
            chosen = alike[: max(1, batch_size // beams)]
            numbers = [n for n in numbers if n not in chosen]
            config = GenerationConfig(
                num_beams=beams,
                do_sample=False,
                max_new_tokens=how.room(length),
                eos_token_id=sorted(how.ends) or None,
                pad_token_id=min(how.ends, default=0),  # what follows an answer is cut with it
            )
            ids_BT = torch.tensor([prompts[n] for n in chosen], device=model.device)
            with without_generation_defaults(model):
                output_BT = model.generate(
                    input_ids=ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    generation_config=config,
                )
            for n, new in zip(chosen, output_BT[:, length:].tolist(), strict=True):
                size = next((i for i, token in enumerate(new) if token in how.ends), len(new))
                keep(n, new[:size])

    return shard_work(f"beams-{name}", [len(ids) for ids in prompts], run, journal)
