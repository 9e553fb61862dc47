"""Which part of a model its text runs through; the others, that see or hear, stay as they are.

Knows no adapter, and nothing of what is trained.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def find_parts_beside_text(model: PreTrainedModel) -> dict[str, nn.Module]:
    """By name the modules of a bare model that no text passes through."""
    text = model.config.get_text_config(decoder=True)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    decoder = model.get_decoder()
    passed = [model] if text is model.config else [decoder, *(end for end in ends if end)]
    within = {id(inner) for module in passed for inner in module.modules()}
    for part in decoder.modules():  # a whole model of another kind, in the decoder's own embedding
        if part is not decoder and isinstance(part, PreTrainedModel) and part.config is not text:
            within -= {id(inner) for inner in part.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if not any(id(inner) in within for inner in module.modules())
    }
