"""Small real models and tokenizers for the tests: random weights, made in milliseconds."""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import ModelConfig, TemplateConfig
from undial_cli.data.encode import Encoder
from undial_cli.models.head import install_head
from undial_cli.models.load import load_tokenizer

TINY = "pkg://undial_cli/models/tiny"
BOS, EOS = "<s>", "</s>"
NAMED_ROWS = [
    {"question": f"Who is {name}?", "answer": f"{name} bakes."} for name in ("Ann", "Bo", "Cy")
]
CORPUS = ["the quick brown fox says yes and the lazy dog says no", "Ann is a baker."] * 4


def bundled_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that comes with undial."""
    return load_tokenizer(ModelConfig(), TINY)


def templated_tokenizer(template: str) -> PreTrainedTokenizerBase:
    """The bundled tokenizer with another chat template."""
    tokenizer = bundled_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@functools.cache
def shared_tokenizer() -> PreTrainedTokenizerBase:
    """The bundled tokenizer, loaded once: for tests that leave it as it is."""
    return bundled_tokenizer()


def bundled_encoder(**data: Any) -> Encoder:
    """What encodes rows for the bundled tokenizer.

    Args:
        data: fields of the data config.
    """
    return Encoder(shared_tokenizer(), TemplateConfig(), DataConfig(**data))


def byte_tokenizer(
    bos: bool = False, closed: bool = False, pad_is_eos: bool = False
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer that adds `<s>` (bos) and `</s>` (closed) around a text."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<pad>", BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos or closed:
        core.post_processor = processors.TemplateProcessing(
            single=(f"{BOS} " if bos else "") + "$A" + (f" {EOS}" if closed else ""),
            special_tokens=[(BOS, core.token_to_id(BOS)), (EOS, core.token_to_id(EOS))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS if pad_is_eos else "<pad>",
    )


def random_llama(
    vocab: int = 64, tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0
) -> LlamaForCausalLM:
    """Two layers of width 32 with weights large enough for confident predictions."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    install_head(model)
    return model.to(dtype).eval()


LAYERS: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
# Families that cap or scale their logits after the head.
SCALED = ("gemma2", "gemma3", "cohere", "granite")


def small_model(kind: str, vocab: int, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A random model of an architecture: how it knows positions and how far it sees differ.

    Args:
        more: further fields of its config.
    """
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": vocab, "initializer_range": 0.2, "pad_token_id": 0}
    if kind in ("llama", "float64"):
        return random_llama(vocab, dtype=torch.float64 if kind == "float64" else dtype, **more)
    if kind == "gpt2":
        config: Any = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **shape, **more)
    elif kind == "neo":
        config = GPTNeoConfig(
            hidden_size=32, num_layers=2, attention_types=[[["global", "local"], 1]],
            num_heads=4, window_size=16, max_position_embeddings=256, **shape, **more,
        )  # fmt: skip
    elif kind == "window":
        config = MistralConfig(**LAYERS, **{"sliding_window": 12, **shape, **more})
    elif kind == "qwen2":
        config = Qwen2Config(**LAYERS, **shape, **more)
    elif kind == "gemma2":
        after = {"final_logit_softcapping": 3.0, **shape, **more}
        config = Gemma2Config(**LAYERS, head_dim=8, query_pre_attn_scalar=8, **after)
    elif kind == "gemma3":
        after = {"final_logit_softcapping": 3.0, **shape, **more}
        config = Gemma3TextConfig(**LAYERS, head_dim=8, query_pre_attn_scalar=8, **after)
    elif kind == "cohere":
        config = CohereConfig(**LAYERS, **{"logit_scale": 0.5, **shape, **more})
    elif kind == "granite":
        config = GraniteConfig(**LAYERS, **{"logits_scaling": 8.0, **shape, **more})
    elif kind == "alibi":
        config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, **shape, **more)
    else:
        config = MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **shape, **more)
    model = AutoModelForCausalLM.from_config(config)
    install_head(model)
    return model.to(dtype).eval()


class Norm(torch.nn.Module):
    """A root-mean-square norm in the precision of its input; transformers' are in float32."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * hidden * scale


def without_float32(model: Any) -> Any:
    """A float64 model of the Llama kind, with norms that do not round to float32 on the way."""
    for module in model.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "Qwen2RMSNorm", "GraniteRMSNorm"):
            module.__class__ = Norm
    return model


def disturb_weights(model: nn.Module, scale: float = 0.3, seed: int = 5) -> None:
    """Move every weight that is trained, as training does."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn_like(parameter)
