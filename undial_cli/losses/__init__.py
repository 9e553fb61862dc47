"""Losses as pure functions of tensors, with stable names.

A dense function takes logits [B, T, V] and unshifted labels [B, T] with -100 as ignore index (as
in transformers) and shifts them itself. A `fused_` one takes hidden states [N, D] of the positions
that predict a target, the head and the targets [N], and never holds more logits than a chunk's: its
products may be of half precision, its reductions are of float32 at least, and the chunk size
changes no more than rounding. Both are the same formulas, which training uses as well. Without
`num_items_in_batch` the result is the mean over target tokens (or sequences); with it, the sum
divided by that number.
"""

from undial_cli.losses.activations import (
    adaptive_rmu_forget_loss,
    rmu_forget_loss,
    rmu_retain_loss,
)
from undial_cli.losses.atwu import atwu_loss
from undial_cli.losses.chunked import Projection
from undial_cli.losses.divergences import (
    inverted_hinge_loss,
    jensun_loss,
    js_loss,
    max_entropy_loss,
)
from undial_cli.losses.positions import IGNORE, select_targets
from undial_cli.losses.preference import (
    dpo_loss,
    flat_loss,
    fused_npo_loss,
    npo_loss,
    sequence_logps,
    simnpo_loss,
)
from undial_cli.losses.shred import shred_loss
from undial_cli.losses.tokens import (
    ceu_loss,
    cross_entropy_loss,
    fused_cross_entropy_loss,
    fused_ga_loss,
    ga_loss,
    pdu_forget_loss,
    satimp_loss,
    unilogit_loss,
    wga_loss,
)
from undial_cli.losses.undial import (
    fused_kl_loss,
    fused_undial_loss,
    kl_loss,
    prior_strengths,
    undial_loss,
    undial_target,
)

__all__ = [
    "IGNORE",
    "Projection",
    "adaptive_rmu_forget_loss",
    "atwu_loss",
    "ceu_loss",
    "cross_entropy_loss",
    "dpo_loss",
    "flat_loss",
    "fused_cross_entropy_loss",
    "fused_ga_loss",
    "fused_kl_loss",
    "fused_npo_loss",
    "fused_undial_loss",
    "ga_loss",
    "inverted_hinge_loss",
    "jensun_loss",
    "js_loss",
    "kl_loss",
    "max_entropy_loss",
    "npo_loss",
    "pdu_forget_loss",
    "prior_strengths",
    "rmu_forget_loss",
    "rmu_retain_loss",
    "satimp_loss",
    "select_targets",
    "sequence_logps",
    "shred_loss",
    "simnpo_loss",
    "undial_loss",
    "undial_target",
    "unilogit_loss",
    "wga_loss",
]
