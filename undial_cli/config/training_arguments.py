"""Every field of transformers.TrainingArguments, sorted: set by a key of ours, refused, passed on.

`train.args` and `hardware.args` take what is passed on. Data alone: imports neither torch nor
transformers, and a test walks the fields of the installed version.
"""

from __future__ import annotations

BATCH_KEYS = "train.batch_size (of all processes together) and hardware.micro_batch_size"
EVALUATION_KEYS = "train.eval_steps and eval.*"
UPLOAD_KEYS = "push_to_hub and push_private"

# What the run itself decides, and the key that does it.
ARGUMENT_KEYS = {
    "output_dir": "output_dir and name",
    "per_device_train_batch_size": "hardware.micro_batch_size",
    "gradient_accumulation_steps": BATCH_KEYS,
    "auto_find_batch_size": BATCH_KEYS,
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "lr_scheduler_type": "train.scheduler",
    "warmup_steps": "train.warmup_steps or train.warmup_epochs",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "optim": "train.optim",
    "activation_checkpointing": "train.activation_checkpointing",
    "gradient_checkpointing": "train.activation_checkpointing",
    "gradient_checkpointing_kwargs": "train.args.activation_checkpointing_kwargs",
    "logging_strategy": "train.logging_steps",
    "logging_steps": "train.logging_steps",
    "report_to": "train.report_to",
    "save_strategy": "train.save_steps",
    "save_steps": "train.save_steps",
    "resume_from_checkpoint": "resume (an unfinished run goes on by itself)",
    "seed": "seed",
    "data_seed": "seed",
    "train_sampling_strategy": "train.group_by_length",
    "use_cpu": "hardware=cpu",
    "bf16": "hardware.precision",
    "fp16": "hardware.precision",
    "eval_strategy": EVALUATION_KEYS,
    "eval_steps": "train.eval_steps",
    "per_device_eval_batch_size": "eval.batch_size",
    "push_to_hub": "push_to_hub",
    "hub_model_id": "push_to_hub",
    "hub_private_repo": "push_private",
}

NO_EVALUATION = f"the Trainer evaluates nothing here; see {EVALUATION_KEYS}"
NO_BEST = "train.select keeps the best weights, and train.stop ends a training early"
NO_UPLOAD = f"the Trainer uploads nothing here; see {UPLOAD_KEYS}"
FIXED_SCHEDULE = "the run's schedule deals out its samples itself, alike on any number of processes"
ALREADY_JOINED = "the processes are joined before the Trainer is made"
SCRIPTS_ONLY = "it is read by scripts of transformers only"

# What would do nothing here, or harm, and why.
REFUSED_ARGUMENTS = {
    "label_smoothing_factor": "the loss is the method's (method.*)",
    "average_tokens_across_devices": "losses are always divided by the whole batch's tokens",
    "use_liger_kernel": "the loss is computed in the model's own head",
    "liger_kernel_config": "the loss is computed in the model's own head",
    "use_cache": "no keys and values are kept in training",
    "torch_empty_cache_steps": "training steps are this tool's own",
    "logging_nan_inf_filter": "a loss that is not finite ends the training and is never hidden",
    "include_num_input_tokens_seen": "metrics.jsonl has tokens_per_second",
    "skip_memory_metrics": "metrics.jsonl has peak_memory_bytes",
    "disable_tqdm": "the progress bar is this tool's own",
    "dataloader_drop_last": FIXED_SCHEDULE,
    "dataloader_in_order": FIXED_SCHEDULE,
    "length_column_name": FIXED_SCHEDULE,
    "ignore_data_skip": FIXED_SCHEDULE,
    "accelerator_config": FIXED_SCHEDULE,
    "parallelism_config": FIXED_SCHEDULE,
    "remove_unused_columns": "micro-batches have no columns",
    "label_names": "micro-batches have no columns",
    "save_only_model": "a run could not go on from such a state",
    "restore_callback_states_from_checkpoint": "no callback of this tool has a state",
    "load_best_model_at_end": NO_BEST,
    "metric_for_best_model": NO_BEST,
    "greater_is_better": NO_BEST,
    "do_train": SCRIPTS_ONLY,
    "do_eval": SCRIPTS_ONLY,
    "do_predict": SCRIPTS_ONLY,
    **dict.fromkeys(
        ("eval_delay", "eval_on_start", "eval_accumulation_steps", "eval_do_concat_batches",
         "eval_use_gather_object", "prediction_loss_only", "include_for_metrics",
         "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
        NO_EVALUATION,
    ),
    **dict.fromkeys(("hub_token", "hub_strategy", "hub_always_push", "hub_revision"), NO_UPLOAD),
    "ddp_backend": ALREADY_JOINED,
    "ddp_timeout": ALREADY_JOINED,
    "local_rank": ALREADY_JOINED,
    "ddp_static_graph": "a term of a method that has no target in a batch is not computed",
}  # fmt: skip

# Free for the user to set.
PASSED_ARGUMENTS = {
    "adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules",
    "lr_scheduler_kwargs", "neftune_noise_alpha", "activation_checkpointing_kwargs",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "tf32", "full_determinism",
    "debug",
    "logging_first_step", "log_on_each_node", "log_level", "log_level_replica", "run_name",
    "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "save_total_limit", "save_on_each_node", "enable_jit_checkpoint", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
}  # fmt: skip
# Free in hardware.args only: the run must know that no process holds the whole model.
SHARDING_ARGUMENTS = {"fsdp", "fsdp_config", "deepspeed"}

# What other tools, and older versions of transformers, call keys of ours.
KEY_ALIASES = {
    "lr": "train.learning_rate",
    "batch_size": "train.batch_size",
    "warmup_ratio": "train.warmup_epochs",
    "num_epochs": "train.epochs",
    "n_epochs": "train.epochs",
    "num_steps": "train.max_steps",
    "train_batch_size": "train.batch_size",
    "global_batch_size": "train.batch_size",
    "per_gpu_train_batch_size": "hardware.micro_batch_size",
    "eval_batch_size": "eval.batch_size",
    "lr_scheduler": "train.scheduler",
    "optimizer": "train.optim",
    "gradient_clipping": "train.max_grad_norm",
    "use_mps_device": "hardware=cpu",
    "no_cuda": "hardware=cpu",
    "mixed_precision": "hardware.precision",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target_modules": "adapter.target_modules",
    "torch_dtype": "model.dtype",
    "model_path": "model.path",
    "model_name_or_path": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "hub_repo": "push_to_hub",
    "num_gpus": "hardware.num_processes",
    "nproc_per_node": "hardware.num_processes",
}
