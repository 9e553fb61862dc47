"""A causal language model: where it lies, how it is prompted, which checkpoints belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import group, key, unescape_text


@dataclass
class TemplateConfig:
    """How a question and its answer become one string, as the checkpoint knows it."""

    chat: bool = key(True, "use the tokenizer's chat template")
    system_prompt: str | None = key(None, "system message; null: none given to the template")
    date_string: str | None = key(None, "date given to the template; never today's date")
    prompt: str = key("{question}", "prompt text with {question}, when chat is false")
    args: dict[str, Any] = key({}, "other variables of the chat template (enable_thinking, ...)")

    def __post_init__(self) -> None:
        self.prompt = unescape_text(self.prompt)
        self.system_prompt = self.system_prompt and unescape_text(self.system_prompt)


@dataclass
class TargetConfig:
    """Which checkpoints belong to a data set: the one to unlearn and its retain reference."""

    path: str | None = key(None, "published target model")
    retain: str | None = key(None, "published retain model; {retain_split} from data.retain_of")
    make: bool = key(False, "train both with `finetune` on first use and keep them in the cache")


WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass
class ModelConfig:
    """A causal language model."""

    name: str = key("", "short name of the model")
    base: str | None = key(None, "the pre-trained model: what `finetune` starts from")
    path: str | None = key(None, "the target: hub id[@revision], folder, .gguf file, pkg://...")
    tokenizer_path: str | None = key(None, "tokenizer; null: the one beside the model")
    adapter_base: str | None = key(
        None, "where an adapter's base lies, if not where its adapter_config.json says"
    )
    dtype: str = key("float32", "dtype of the weights", allowed=WEIGHT_DTYPES)
    attn_implementation: str = key("sdpa", "attention of transformers (sdpa, eager, ...)")
    trust_remote_code: bool = key(False, "run code that comes with the model")
    allow_pickle: bool = key(
        False, "read pickled weights where there are no safetensors; runs no code (weights_only)"
    )
    from_scratch: bool = key(False, "base holds a config and no weights: initialise by seed")
    adapter: str = key("none", "what adapter=auto means", allowed=("none", "lora", "qlora"))
    template: TemplateConfig = group(TemplateConfig, "prompt format")
    targets: dict[str, TargetConfig] = key({}, "checkpoints that belong to a data set, by name")
