"""Every config group as a dataclass: types, defaults, units, allowed values.

With methods/*.py and evaluation/config.py the one source of `--help`, of type errors and of range
checks. Imports neither torch nor hydra, and does not know how any value is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from undial_cli.config.alternatives import AlternativesConfig
from undial_cli.config.attacks import AuditConfig
from undial_cli.config.fields import check_field_value, group, key, unescape_text, walk_fields
from undial_cli.config.suites import EvalConfig
from undial_cli.errors import UserError, bad_value


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


@dataclass
class DataConfig:
    """Forget and retain sets. A split may carry a slice: `forget05_perturbed[:160]`."""

    name: str = key("", "short name of the data set; selects model.targets")
    path: str | None = key(None, "hub id, or a folder of the same layout")
    forget_split: str | None = key(None, "what is to be forgotten")
    retain_split: str | None = key(None, "what is to be kept; null: what retain_of says")
    retain_of: dict[str, str] = key({}, "the retain split that belongs to each forget split")
    holdout_of: dict[str, str] = key({}, "the holdout split that belongs to each forget split")
    train_split: list[str] = key([], "what a target model is fine-tuned on")
    reference_split: list[str] = key([], "what a retain model is tuned on; []: retain_split")
    where: dict[str, Any] = key(
        {},
        "by column: the value, or the values, of the forget rows that are taken, or {not: these}; "
        "* stands for any text; null: any row",
    )
    forget_file: Any = key(
        None, "JSONL, JSON, CSV, Parquet or text file, as a split; or a list of them", several=True
    )
    retain_file: Any = key(None, "as forget_file", several=True)
    train_file: Any = key(None, "as forget_file; for finetune", several=True)
    retrain_auc: float | None = key(
        None, "published P(holdout > forget) of a retrained model", above=0, maximum=1
    )
    max_length: int = key(512, "tokens per sequence; longer ones are cut", minimum=2)
    max_pieces: int | None = key(
        4096, "pieces that one document may be cut into; more are refused; null: any", minimum=1
    )
    turns: str = key("all", "assistant turns of messages that are answers", allowed=("all", "last"))
    joined: bool = key(False, "documents of a set are joined by a blank line before they are cut")
    limit: int | None = key(None, "first rows of each training set only", minimum=1)
    anchor: str = key("forget", "set that an epoch counts", allowed=("forget", "retain"))
    question_key: str = key("question", "column of the question")
    answer_key: str = key("answer", "column of the answer")
    text_key: str = key("text", "column of a plain document, cut into max_length pieces")
    subject_key: str = key(
        "subject", "column that says whom a row is about: intervals resample persons, not rows"
    )
    focus_key: str = key("focus", "column of the words to focus on, for method.focus=column")
    alternative_key: str = key("alternative_answers", "column of answers to prefer (altpo)")
    alternatives_file: str | None = key(
        None, "file of the forget rows with that column (undial alternatives); null: they have it"
    )
    refusals: str | None = key(None, "file of answers like 'I don't know'; null: the shipped ones")
    requests: list[str] = key([], "forget splits unlearned one after the other, see experiment")


@dataclass(frozen=True)
class FocusSource:
    """Where focus words come from: `column`, `entities` or `noun_chunks` of a spaCy pipeline."""

    source: str
    pipeline: str | None = None


# method.strength that sets itself, token by token.
AUTO_STRENGTH = "auto"


@dataclass(frozen=True)
class OtherQuestions:
    """That the teacher is asked `count` other questions before each answer; `key` asks for it."""

    key: str
    count: int


@dataclass
class MethodConfig:
    """What all methods share: gamma * forget + alpha * retain."""

    name: str = key("", "name of the method")
    file: str | None = key(None, "your own method: a Python file (on the command line only)")
    retain: str = key(
        "none",
        "retain term: gdr = cross entropy, klr = KL to target",
        allowed=("none", "gdr", "klr"),
    )
    alpha: float = key(1.0, "weight of the retain term", minimum=0)
    gamma: float = key(1.0, "weight of the forget term", minimum=0)
    parameters: str | None = key(
        None, "regular expression of the parameters that are trained; null: all that a loss reaches"
    )
    saliency: float | None = key(
        None,
        "share of the modules that are trained, those of the greatest forget gradient (SURE); "
        "null: all",
        above=0,
        maximum=1,
    )
    sharpness: str | None = key(
        None,
        "forget gradient where the weights are moved: sam = up its slope, smooth = at random",
        allowed=("sam", "smooth"),
    )
    sharpness_radius: float = key(
        0.01, "of sam: how far; of smooth: each weight's standard deviation", above=0
    )
    sharpness_samples: int = key(
        3, "of smooth: random moves that the gradient is a mean of", minimum=1
    )
    rectify: str | None = key(
        None,
        "gru: forget gradient projected off the retain gradient it is against",
        allowed=("gru",),
    )
    rectify_smoothing: float = key(
        0.8, "a step's share in gru's moving average of the retain gradient", above=0, maximum=1
    )


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
    logging_steps: int = key(1, "write metrics.jsonl every N steps", minimum=1)
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


@dataclass
class HardwareConfig:
    """Where the run runs."""

    name: str = key("auto", "kind of hardware")
    num_processes: int | None = key(None, "null: one per visible GPU, or one", minimum=1)
    micro_batch_size: int | None = key(
        None, "samples per forward pass; null: batch_size / processes", minimum=1
    )
    gpus_per_run: int | None = key(
        None, "of a sweep: GPUs of each run; null: all, one run after the other", minimum=1
    )
    slots: int | None = key(
        None, "of a sweep: runs side by side; null: as many as the GPUs hold, one on CPU", minimum=1
    )
    precision: str = key(
        "auto", "autocast; auto: bf16 where the GPU has it", allowed=("auto", "no", "bf16", "fp16")
    )
    timeout: int = key(
        1800,
        "seconds that processes may go without a step or a batch done, or wait for one another",
        minimum=1,
    )
    args: dict[str, Any] = key({}, "TrainingArguments of this hardware (fsdp, deepspeed)")


@dataclass
class Run:
    """What every command has."""

    command: str = key("", "the command")
    model: ModelConfig = group(ModelConfig, "which model")
    data: DataConfig = group(DataConfig, "which data")
    hardware: HardwareConfig = group(HardwareConfig, "where")
    eval: EvalConfig = group(EvalConfig, "evaluation")
    seed: int = key(0, "seeds data order, initialisation and dropout", minimum=0, maximum=2**32 - 1)
    name: str | None = key(None, "run folder; null: model-data-method-HASH")
    output_dir: str = key("outputs", "where run folders go")
    overwrite: bool = key(False, "run again over a finished run")
    resume: bool = key(True, "continue an unfinished run")
    objective: list[str] = key([], "metrics that a sweeper optimises (hydra/sweeper=optuna)")
    report: bool = key(True, "write report.html and its pictures when the run is done")


TARGET_HELP = "how a target and a retain model are trained, where they are made"


@dataclass
class EvaluateRun(Run):
    """`undial evaluate`."""

    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)


@dataclass
class AuditRun(Run):
    """`undial audit`."""

    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)
    audit: AuditConfig = group(AuditConfig, "attempts to get the forgotten data back")


@dataclass
class AlternativesRun(Run):
    """`undial alternatives`."""

    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)
    alternatives: AlternativesConfig = group(AlternativesConfig, "other answers of the model's own")
    out: str | None = key(None, "the file that is written, in JSON lines: rows with their answers")


@dataclass
class TrainingRun(Run):
    """What `unlearn` and `finetune` share."""

    adapter: AdapterConfig = group(AdapterConfig, "what is trained")
    train: TrainConfig = group(TrainConfig, "how")
    plan: bool = key(False, "print an estimate of memory and time instead of running")
    push_to_hub: str | None = key(None, "hub repository (org/name) that checkpoint/ is uploaded to")
    push_private: bool = key(True, "make that repository a private one, if it is new")


@dataclass
class FinetuneRun(TrainingRun):
    """`undial finetune`."""


@dataclass
class UnlearnRun(TrainingRun):
    """`undial unlearn`."""

    method: Any = field(default=None, metadata={"help": "the loss", "class": MethodConfig})
    teacher: TeacherConfig = group(TeacherConfig, "teacher signal")
    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)
    audit: AuditConfig = group(AuditConfig, "attempts to get the forgotten data back, at the end")


@dataclass
class DataRun(UnlearnRun):
    """`undial data`: what `undial unlearn` with the same words would train on."""

    rows: int | None = key(
        None, "rows of each set that are shown; null: 3 on the screen, 50 on a page", minimum=0
    )
    show: str | None = key(None, "the one set that is shown", allowed=("forget", "retain"))
    html: str | None = key(None, "write a page too: a file that ends in .html")


RUN_TYPES: dict[str, type[Run]] = {
    "unlearn": UnlearnRun,
    "data": DataRun,
    "finetune": FinetuneRun,
    "evaluate": EvaluateRun,
    "audit": AuditRun,
    "alternatives": AlternativesRun,
}


def is_sharded(run: Run) -> bool:
    """Whether no process holds the whole model in training."""
    return "fsdp" in run.hardware.args or find_zero_stage(run) == 3


def uses_deepspeed(run: Run) -> bool:
    """Whether a training's step is DeepSpeed's engine's."""
    return "deepspeed" in run.hardware.args


def find_zero_stage(run: Run) -> int:
    """What DeepSpeed shares out: 0 nothing, 1 states, 2 gradients too, 3 weights too."""
    config = run.hardware.args.get("deepspeed")
    stage = config.get("zero_optimization", {}) if isinstance(config, dict) else {}
    return stage.get("stage", 0) if isinstance(stage, dict) else 0


def check_ranges(run: Run) -> None:
    """Raise UserError for the first value outside what its field allows."""
    for name, value, f in walk_fields(run):
        check_field_value(name, value, f)
    if "{question}" not in run.model.template.prompt:
        raise bad_value(
            "model.template.prompt", run.model.template.prompt, "a text that holds {question}"
        )
    for name in run.eval.utility:
        if run.eval.sets and name not in run.eval.sets:
            raise bad_value("eval.utility", name, list(run.eval.sets))
    if run.eval.data and run.data.name not in run.eval.data:
        raise UserError(
            f"eval={run.eval.name}: this suite needs data={' or '.join(run.eval.data)}, not "
            f"data={run.data.name}; leave eval out to get the one that fits"
        )
