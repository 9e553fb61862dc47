"""One pass of a frozen model over a batch: the signal that losses need of it.

A pass runs in eval mode without gradients and with the model's own head in its place, so it takes
far less memory than a training step. Knows what a loss can need, and neither cache nor trainer.

Shapes: B sequences, T tokens, N target positions of all B, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from undial_cli.data.collate import Batch, order_by_length
from undial_cli.data.example import Example
from undial_cli.data.stored_examples import measure_lengths
from undial_cli.losses.chunked import Projection, head_compute_dtype
from undial_cli.losses.targets import Targets, TeacherSignal
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LAYER, TEACHER_LOGITS, Loss
from undial_cli.models.head import evaluation_mode, head_job
from undial_cli.training.layers import capture_layer_states

# Tokens of one teacher pass, which keeps no activations: what keeps the device busy.
TEACHER_PASS_TOKENS = {"cpu": 2048, "cuda": 16384}


def run_teacher(model: nn.Module, batch: Batch, loss: Loss) -> TeacherSignal:
    """What a model, as it is, says of a batch: as much of it as a loss needs."""
    signal = TeacherSignal()

    def read_signal(final_BTD: Tensor, head: Projection) -> Tensor:
        hidden_ND = final_BTD.flatten(0, 1).index_select(0, batch.positions_N)
        if REFERENCE_LOGPS in loss.needs:
            targets = Targets(
                hidden_ND, head, batch.targets_N, batch.sequence_N, batch.counts, batch.focus_N
            )
            signal.logps_B = targets.sequence_logps()
        if TEACHER_LAYER in loss.needs:
            # At the tokens' own positions, as the student's (training/trainer.py).
            layer_ND = layer_states.pop().flatten(0, 1).index_select(0, batch.positions_N + 1)
            signal.layer_ND = layer_ND.to(head.weight_VD.dtype)
        if TEACHER_LOGITS in loss.needs:
            # The dtype in which a head's products are computed anyway; less to cache.
            signal.hidden_ND = hidden_ND.to(head_compute_dtype(hidden_ND, head))
        return hidden_ND

    layers = capture_layer_states(model, loss.layer)
    with evaluation_mode(model), layers as layer_states, head_job(model, read_signal):
        model(input_ids=batch.input_ids, use_cache=False, **batch.layout)
    return signal


def compute_target_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities of a batch's targets under a model as it is, [N] of float32 at least."""
    logps: list[Tensor] = []

    def read_logps(final_BTD: Tensor, head: Projection) -> Tensor:
        hidden_ND = final_BTD.flatten(0, 1).index_select(0, batch.positions_N)
        targets = Targets(
            hidden_ND, head, batch.targets_N, batch.sequence_N, batch.counts, batch.focus_N
        )
        logps.append(targets.own_logps())
        return hidden_ND

    with evaluation_mode(model), head_job(model, read_logps):
        model(input_ids=batch.input_ids, use_cache=False, **batch.layout)
    return logps[0]


def batch_by_tokens(
    examples: Sequence[Example], samples: list[int], tokens: int
) -> list[list[int]]:
    """Samples in batches of similar length and at most `tokens` tokens, padding counted."""
    batches: list[list[int]] = []
    every = measure_lengths(examples)
    lengths = [int(every[i]) for i in samples]
    longest = tokens + 1
    for i in order_by_length(lengths):  # the first of a batch is its longest
        if batches and (len(batches[-1]) + 1) * longest <= tokens:
            batches[-1].append(samples[i])
        else:
            batches.append([samples[i]])
            longest = lengths[i]
    return batches
