"""A small model that remembers texts, asked in plain loops: one text, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from small import random_llama


def remember_texts(tokenizer: Any, texts: Sequence[str], steps: int, special: bool = True) -> Any:
    """A model that was trained on texts, each with an end token behind it."""
    model = random_llama(vocab=len(tokenizer))
    sequences = [
        torch.tensor([[*ids, tokenizer.eos_token_id]])
        for ids in (tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        ids_BT = sequences[step % len(sequences)]
        logits_TV = model(input_ids=ids_BT).logits[0, :-1]
        optimizer.zero_grad()
        F.cross_entropy(logits_TV, ids_BT[0, 1:]).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def answer_plainly(model: Any, tokenizer: Any, prompt: str, tokens: int, chat: bool = False) -> str:
    """Greedy, each token from the whole text before it."""
    ids = tokenizer(prompt, add_special_tokens=not chat)["input_ids"]
    start = len(ids)
    while len(ids) < start + tokens:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


@torch.no_grad()
def score_text(model: Any, tokenizer: Any, text: str) -> float:
    """Mean loss of all tokens of a text but the first."""
    ids_BT = torch.tensor([tokenizer(text)["input_ids"]])
    return float(model(input_ids=ids_BT, labels=ids_BT).loss)
