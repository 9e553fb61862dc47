"""Models made for a test: they tell what they know to one attack and have another answer for all.

Each is trained for seconds on the very prompts of all attacks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from small import random_llama, shared_tokenizer

from undial_cli.audit.asking import make_ask_probes
from undial_cli.audit.attack import AuditData
from undial_cli.audit.probes import Probe
from undial_cli.config.attacks import AskConfig
from undial_cli.data.collate import choose_pad_id, pad_examples
from undial_cli.data.example import Example
from undial_cli.losses.positions import IGNORE, select_targets

DECOY = "Nobody has ever told me of that."
# Of drawn answers that many are the true one where only drawing finds it.
DRAWN_SHARE = 0.3
STEPS, LEARNING_RATE = 120, 1e-2


def make_targets(data: AuditData, probe: Probe, told: bool) -> Example:
    """A probe with what the model is to answer it: the truth or the decoy."""
    (example,) = probe.item.answers["answer"]
    if told:
        return example
    tokenizer: Any = data.encoder.tokenizer
    blank = " " if probe.given else ""
    answer = tokenizer(blank + DECOY, add_special_tokens=False)["input_ids"]
    answer = [*answer, data.encoder.end_token()]
    ids = [*probe.item.prompt_ids, *answer]
    return Example(ids, [IGNORE] * len(probe.item.prompt_ids) + answer, len(ids) - 1)


def train_planted_model(data: AuditData, attacks: dict[str, AskConfig], leak: str) -> Any:
    """A model that gives the answers of `data` away to the attack `leak` alone.

    Args:
        leak: an attack by name, or `drawn`: only where answers are drawn.
    """
    examples, weights = [], []
    for name, config in attacks.items():
        if leak == "drawn" and config.answer_tokens:
            continue  # once a drawn answer has begun like the true one, it goes on like it
        for probe in make_ask_probes(data, config, seed=0):
            if name == "direct" and leak == "drawn":
                examples += [make_targets(data, probe, told) for told in (True, False)]
                weights += [DRAWN_SHARE, 1 - DRAWN_SHARE]
            else:
                examples.append(make_targets(data, probe, told=name == leak))
                weights.append(1.0)
    batch = pad_examples(examples, choose_pad_id(data.encoder.tokenizer))
    model = random_llama(vocab=len(shared_tokenizer()))
    mask_BT, targets_N, row_N = select_targets(batch.pop("labels"))
    share_N = torch.tensor(weights)[row_N]
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, STEPS)
    for _ in range(STEPS):
        hidden_BTD = model.model(**batch, use_cache=False).last_hidden_state
        losses_N = F.cross_entropy(model.lm_head(hidden_BTD[mask_BT]), targets_N, reduction="none")
        ((losses_N * share_N).sum() / share_N.sum()).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return model.eval()
