"""Losses as pure functions of tensors, with stable names.

Every function takes logits [B, T, V] and unshifted labels [B, T] with -100 as ignore index (as in
transformers) and shifts them itself. Without `num_items_in_batch` the result is the mean over
target tokens (or sequences); with it, the sum divided by that number. The `*_sum` functions of
the modules work on target positions alone and are what training uses.
"""

from undial_cli.losses.positions import IGNORE, select_targets
from undial_cli.losses.preference import npo_loss, sequence_logps
from undial_cli.losses.tokens import cross_entropy_loss, ga_loss, kl_loss
from undial_cli.losses.undial import undial_loss, undial_target

__all__ = [
    "IGNORE",
    "cross_entropy_loss",
    "ga_loss",
    "kl_loss",
    "npo_loss",
    "select_targets",
    "sequence_logps",
    "undial_loss",
    "undial_target",
]
