"""Small real models and tokenizers for the tests: random weights, made in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.models import install_head, load_tokenizer
from undial_cli.schema import ModelConfig

TINY = "pkg://undial_cli/assets/tiny"
BOS, EOS = "<s>", "</s>"
CORPUS = ["the quick brown fox says yes and the lazy dog says no", "Ann is a baker."] * 4


def bundled_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that comes with undial."""
    return load_tokenizer(ModelConfig(), TINY)


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


def small_model(kind: str, vocab: int) -> Any:
    """A random model of an architecture: how it knows positions and how far it sees differ."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": vocab, "initializer_range": 0.2, "pad_token_id": 0}
    if kind in ("llama", "float64"):
        dtype = torch.float64 if kind == "float64" else torch.float32
        return random_llama(vocab, dtype=dtype)
    if kind == "gpt2":
        config: Any = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **shape)
    elif kind == "neo":
        config = GPTNeoConfig(
            hidden_size=32, num_layers=2, attention_types=[[["global", "local"], 1]],
            num_heads=4, window_size=16, max_position_embeddings=256, **shape,
        )  # fmt: skip
    elif kind == "window":
        config = MistralConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=12, **shape,
        )  # fmt: skip
    elif kind == "alibi":
        config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, **shape)
    else:
        config = MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **shape)
    model = AutoModelForCausalLM.from_config(config)
    install_head(model)
    return model.eval()
