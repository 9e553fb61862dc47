"""Run folders as a training leaves them: settings, a random model, its tokenizer."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from families import CHATML
from small import byte_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from undial_cli.config.schema import Run
from undial_cli.config.training import AdapterConfig
from undial_cli.models.head import install_head
from undial_cli.models.lora import adapt_model
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
    "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@functools.cache
def compose_unlearning() -> Run:
    return compose_run("unlearn", ["adapter=lora", "adapter.dropout=0"])


def make_trained_run(
    folder: Path,
    config: Any = None,
    adapter: bool = False,
    saved: tuple[Any, Any] | None = None,
) -> Any:
    """A finished run; its model, as it is before it is saved.

    Args:
        config: of the model; None: a small Llama's.
        adapter: the checkpoint is a LoRA on a base that lies beside the folder.
        saved: model and tokenizer that it ends in.
    """
    tokenizer = saved[1] if saved else byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template or CHATML
    torch.manual_seed(0)
    config = config or LlamaConfig(vocab_size=len(tokenizer), **SHAPE)
    model: Any = saved[0] if saved else AutoModelForCausalLM.from_config(config).eval()
    if adapter:
        base = folder.parent / "base"
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        install_head(model)
        model.name_or_path = str(base)
        model = adapt_model(model, AdapterConfig(name="lora", dropout=0.0), seed=0).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zeros, which change nothing
                torch.nn.init.normal_(weight, std=0.1)
        model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    (folder / "run.yaml").write_text(dump_run_yaml(compose_unlearning()))
    (folder / "status.json").write_text(json.dumps({"status": "done"}))
    return model
