"""How a model is trained: its recipe, adapter, optimiser, early stop, teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import group, key


@dataclass
class RatesConfig:
    """Peak learning rates that suit a model, by kind of adapter."""

    none: float = key(1e-5, "full fine-tuning", above=0)
    lora: float = key(1e-4, "LoRA", above=0)
    qlora: float = key(1e-4, "LoRA on 4-bit or 8-bit weights", above=0)


# A schedule lists all steps and samples of a run: beyond this it would fill the memory first.
MOST = 1_000_000


@dataclass
class RecipeConfig:
    """How fast and how long a model is trained; configs/recipe/ has what suits a model or a method.

    Batch sizes are global: all processes and accumulation together.
    """

    learning_rates: RatesConfig = group(
        RatesConfig, "what learning_rate is, by kind of adapter, where it is not given"
    )
    batch_size: int = key(32, "anchor samples per optimiser step", minimum=1, maximum=MOST)
    epochs: float = key(5, "passes over the anchor data", above=0, maximum=MOST)
    warmup_steps: int = key(0, "linear warm-up, in optimiser steps", minimum=0)
    warmup_epochs: float = key(0.0, "linear warm-up, in passes; where warmup_steps is 0", minimum=0)
    scheduler: str = key("constant_with_warmup", "learning-rate schedule of transformers")
    weight_decay: float = key(0.0, "AdamW weight decay", minimum=0)


@dataclass
class AdapterConfig:
    """Which weights are trained."""

    name: str = key("none", "kind of adapter", allowed=("none", "lora", "qlora"))
    rank: int = key(8, "LoRA rank", minimum=1)
    alpha: float = key(16, "LoRA alpha", above=0)
    dropout: float = key(0.05, "LoRA dropout", minimum=0, maximum=1)
    target_modules: list[str] | None = key(None, "modules; null: peft's, or q_proj, v_proj")
    merge: bool = key(False, "save merged full weights in place of the adapter")
    bits: int = key(4, "of qlora's frozen weights: 4 is NF4, 8 LLM.int8()", allowed=(4, 8))
    compute_dtype: str = key(
        "auto",
        "dtype of products with 4-bit weights; auto: hardware.precision's, else model.dtype",
        allowed=("auto", "float32", "bfloat16", "float16"),
    )


@dataclass
class StopConfig:
    """When training ends before its last step; nothing of it is on by default."""

    perplexity_ratio: float | None = key(
        None, "perplexity of stop.texts above this times its start (paper: 1.03)", above=1
    )
    forget_probability: float | None = key(
        None, "mean probability of the forget set's answers at or below this", minimum=0, maximum=1
    )
    every: int = key(100, "checked every N optimiser steps, never before one epoch", minimum=1)
    path: str | None = key(None, "data set of the validation texts; null: stop.split is a file")
    split: str | None = key(None, "split or file of the validation texts (data.text_key)")
    limit: int = key(256, "texts", minimum=1)
    tokens: int = key(32, "first tokens of each text", minimum=2)

    @property
    def is_on(self) -> bool:
        """Whether anything may end the training early."""
        return self.perplexity_ratio is not None or self.forget_probability is not None


@dataclass
class TrainConfig(RecipeConfig):
    """How the optimiser runs."""

    learning_rate: float = key(1e-5, "peak learning rate", above=0)
    max_steps: int | None = key(None, "optimiser steps; overrides epochs", minimum=1, maximum=MOST)
    layers: list[int] = key(
        [], "layers of which the parameters are trained, counted from 0; []: all of all", minimum=0
    )
    max_grad_norm: float = key(1.0, "gradient clipping by norm; 0: off", minimum=0)
    max_loss_rise: float | None = key(
        100.0,
        "ends training once the loss is this times max(1, its first value) above it; null: never. "
        "Not where a term began below zero, as in gradient ascent, or is weighed anew (pdu)",
        above=0,
    )
    optim: str = key("adamw_torch_fused", "optimiser of transformers (sgd, paged_adamw_8bit, ...)")
    activation_checkpointing: bool = key(False, "recompute activations in backward")
    group_by_length: bool = key(True, "batches of similar length (still shuffled)")
    packing: str = key(
        "auto",
        "sequences without padding, their common beginning once; auto: where the model takes it",
        allowed=("auto", "on", "off"),
    )
    lean: str = key(
        "auto",
        "layers of a plain form keep less for the backward pass; off: all are left as they are",
        allowed=("auto", "off"),
    )
    save_steps: int | None = key(
        None, "save the state to resume from every N steps; null: by train.save_minutes", minimum=1
    )
    save_minutes: float = key(
        10.0, "save the state to resume from every N minutes, where save_steps is null", above=0
    )
    eval_steps: int | None = key(None, "evaluate during training every N steps", minimum=1)
    select: str | None = key(
        None,
        "the best of the weights evaluated by train.eval_steps: a metric, nearest_retain, "
        "most_forgotten, or an expression over metrics, which is maximised; null: the last weights",
    )
    select_share: float = key(
        0.25,
        "share of each evaluation set's subjects (else rows) that train.select looks at and the "
        "run's figures leave out",
        above=0,
        maximum=0.9,
    )
    select_utility: float = key(
        0.9,
        "nearest_retain, most_forgotten: weights that keep this share of the target's utility",
        above=0,
        maximum=1,
    )
    keep: str = key(
        "best",
        "of train.select: weights in checkpoint/, the best or the last; all: the best, and all "
        "that were evaluated in checkpoints/",
        allowed=("best", "last", "all"),
    )
    logging_steps: int = key(1, "write metrics.jsonl every N steps, and after the last", minimum=1)
    stop: StopConfig = group(StopConfig, "early stop")
    report_to: list[str] = key([], "loggers of transformers (wandb, tensorboard, ...)")
    args: dict[str, Any] = key({}, "any other field of transformers.TrainingArguments")


@dataclass
class TeacherConfig:
    """Where the frozen teacher's signal lives."""

    cache: str = key(
        "auto",
        "memory, disk (mapped from it) or off (adapters only: asked at every step); auto: by size",
        allowed=("auto", "memory", "disk", "off"),
    )
    memory_gb: float | None = key(
        None, "auto's budget of memory, GB per process; null: a quarter of what is free", minimum=0
    )
