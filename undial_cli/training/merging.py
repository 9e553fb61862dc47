"""An adapter trained on rounded layers, merged into the whole weights, and what that loses.

The adapter has learned what the rounded layers lack as well; on whole weights it says something
else. How much is measured on the run's own samples. Knows no run folder.

Shapes: T tokens of a sample, N its target positions, V vocabulary.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undial_cli.config.training import AdapterConfig
from undial_cli.data.example import Example
from undial_cli.losses.positions import IGNORE
from undial_cli.models import adapters, lora
from undial_cli.models.head import evaluation_mode
from undial_cli.system.files import write_whole_text

# Tokens of all samples on which the two models are compared: the merged one is in the host's
# memory, where a large model is slow.
COMPARED_TOKENS = 512
MERGE_FILE = "merge.json"


@dataclass(frozen=True)
class MergeLoss:
    """The merged model against the one that was trained, at target positions of the run's samples.

    `logit_change_mean`, `logit_change_max`: of the absolute changes of all logits;
    `probability_trained`, `probability_merged`: mean probabilities of the targets.
    """

    bits: int
    targets: int
    logit_change_mean: float
    logit_change_max: float
    probability_trained: float
    probability_merged: float

    def describe(self) -> str:
        """The loss in one line."""
        return (
            f"merged into the whole weights, which loses what was trained against {self.bits} "
            f"bits: at {self.targets} targets of the run's samples logits change by "
            f"{self.logit_change_mean:.3g} (mean) and {self.logit_change_max:.3g} (most), the mean "
            f"probability from {self.probability_trained:.3f} to {self.probability_merged:.3f}"
        )


def merge_into_whole(
    trained: Any, whole: Any, config: AdapterConfig, seed: int, sets: Iterable[Iterable[Example]]
) -> tuple[Any, MergeLoss]:
    """The whole model with the adapter of a trained one merged into it, and what is lost.

    Args:
        trained: a peft model on rounded layers.
        whole: the model that it was rounded from; its weights are changed.
        sets: of which the first samples are compared.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    examples = choose_compared_examples(sets)
    before = [compute_target_logits(trained, example) for example in examples]
    adapted = lora.adapt_model(whole, config, seed)
    state = get_peft_model_state_dict(trained, save_embedding_layers=False)
    set_peft_model_state_dict(adapted, state)
    merged = adapters.merge_adapter(adapted)
    after = [compute_target_logits(merged, example) for example in examples]
    return merged, compare_logits(config.bits, examples, before, after)


def choose_compared_examples(sets: Iterable[Iterable[Example]]) -> list[Example]:
    """The first samples of each set in turn, as many as have `COMPARED_TOKENS`, at least one."""
    chosen: list[Example] = []
    tokens = 0
    for example in itertools.chain.from_iterable(itertools.zip_longest(*sets)):
        if example is None or not example.num_targets:
            continue
        tokens += len(example.input_ids)
        if chosen and tokens > COMPARED_TOKENS:
            break
        chosen.append(example)
    return chosen


def find_targets(example: Example) -> tuple[Tensor, Tensor]:
    """Where the targets of a sample are predicted, and which they are. [N], [N]"""
    labels_T = torch.tensor(example.labels)
    positions_N = (labels_T[1:] != IGNORE).nonzero()[:, 0]
    return positions_N, labels_T[positions_N + 1]


def compute_target_logits(model: Any, example: Example) -> Tensor:
    """A model's logits at the positions that predict a sample's targets, on the CPU. [N, V]"""
    device = next(model.parameters()).device
    with evaluation_mode(model):
        ids_1T = torch.tensor([example.input_ids], device=device)
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0]
    return logits_TV[find_targets(example)[0].to(device)].float().cpu()


def compare_logits(
    bits: int, examples: list[Example], before: list[Tensor], after: list[Tensor]
) -> MergeLoss:
    """What is lost, from the logits at the targets of each sample before and after. [N, V] each"""
    changes = [(b - a).abs() for a, b in zip(before, after, strict=True)]
    targets = [find_targets(example)[1] for example in examples]

    def mean_probability(logits: list[Tensor]) -> float:
        pairs = zip(logits, targets, strict=True)
        return torch.cat([x.softmax(-1).gather(1, y[:, None]) for x, y in pairs]).mean().item()

    return MergeLoss(
        bits,
        sum(map(len, targets)),
        sum(c.sum().item() for c in changes) / sum(c.numel() for c in changes),
        max(c.max().item() for c in changes),
        mean_probability(before),
        mean_probability(after),
    )


def write_merge_loss(folder: Path, loss: MergeLoss) -> None:
    """Beside a checkpoint's weights, as JSON."""
    write_whole_text(folder / MERGE_FILE, json.dumps(asdict(loss), indent=2) + "\n")


def read_merge_loss(folder: Path) -> dict[str, Any]:
    """What `write_merge_loss` wrote; empty where it wrote nothing."""
    file = folder / MERGE_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
