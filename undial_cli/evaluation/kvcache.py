"""Keys and values of a batch whose rows and tokens come and go. Knows no token and no sampling."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

# Layer kinds whose whole state is keys and values by position.
PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class SpareLayer(DynamicLayer):
    """A cache layer inside larger buffers, so that tokens and rows come and go without a copy.

    `keys` and `values` [B, H, T, D], in use, are the first rows and columns of the buffers.
    """

    keys: Any
    values: Any

    def hold(self, keys: Tensor, values: Tensor, rows: int, columns: int) -> None:
        """Take these buffers, that many of their rows and columns in use."""
        self.buffers = (keys, values)
        self.keys, self.values = keys[:rows, :, :columns], values[:rows, :, :columns]

    def write(self, rows: Any, columns: slice, keys: Tensor, values: Tensor) -> None:
        """Put keys and values into rows and columns of the buffers."""
        self.buffers[0][rows, :, columns] = keys
        self.buffers[1][rows, :, columns] = values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns to the rows in use."""
        rows, _, new, _ = key_states.shape
        old = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states, value_states, rows, new)
            return key_states, value_states
        keys, values = self.buffers
        if old + new > keys.shape[2]:
            # Grown by a share, so that copying costs a constant per token.
            spare = (0, 0, 0, new + max(32, old // 4))
            keys, values = F.pad(keys[:, :, :old], spare), F.pad(values[:, :, :old], spare)
        self.hold(keys, values, rows, old + new)
        self.write(slice(rows), slice(old, old + new), key_states, value_states)
        return self.keys, self.values


def make_spare_cache() -> Cache:
    """An empty cache that keeps every position, in layers with a window too.

    Transformers' own layers drop what the window has passed, and continuations go back to it.
    """
    return Cache(layer_class_to_replicate=SpareLayer)


def list_spare_layers(cache: Cache) -> list[SpareLayer]:
    """The layers that hold anything (some models share keys and values between layers)."""
    return [x for x in cache.layers if isinstance(x, SpareLayer) and x.is_initialized]


def has_plain_cache(model: Any) -> bool:
    """Whether keys and values are all the model remembers: no recurrent or convolution state."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    return not getattr(model, "_is_stateful", False) and kinds <= PLAIN_LAYERS
