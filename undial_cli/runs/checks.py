"""What is refused before anything is loaded or written: combinations that cannot work.

Ranges of single values are the schema's; what needs the data or the model is found by
`inputs.prepare_inputs`.
"""

from __future__ import annotations

import importlib.util
import os
import re

import torch

from undial_cli.config.attacks import BUDGETS
from undial_cli.config.fields import walk_fields
from undial_cli.config.identity import KEYS_OF_AUTO_STRENGTH, make_default_name
from undial_cli.config.methods import AUTO_STRENGTH
from undial_cli.config.schema import (
    AlternativesRun,
    AuditRun,
    Run,
    TrainingRun,
    UnlearnRun,
    check_ranges,
    is_sharded,
    uses_deepspeed,
)
from undial_cli.data import focus
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation.suite_metrics import check_metric_names
from undial_cli.methods.base import Method
from undial_cli.models.quantise import explain_no_quantising
from undial_cli.runs.alternatives import check_alternatives
from undial_cli.runs.attacks import find_forget_set
from undial_cli.runs.hub import check_hub_access
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.selections import check_selection
from undial_cli.runs.wrapper_checks import check_wrappers
from undial_cli.system import launcher_environment
from undial_cli.system.files import LONGEST_NAME_PART, is_plain_name
from undial_cli.training.arguments import check_training_arguments

# Processes that a CPU run may have on any machine; beyond its cores they only wait.
LEAST_PROCESSES = 8
GPU_HARDWARE = ("single_gpu", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3")


def check_run(resolved: ResolvedRun) -> None:
    """Raise UserError for a run that cannot be done on this machine or at all."""
    run = resolved.run
    launcher_environment.check_launcher_environment()
    check_ranges(run)
    check_metric_names(run.eval)
    check_run_name(run)
    check_hardware(run)
    check_evaluation_libraries(run)
    if isinstance(run, TrainingRun):
        check_adapter(run)
        check_optimiser(run)
        check_saved_shards(run)
        check_early_stop(run)
        check_selection(run)
        check_training_arguments(run)
        check_hub_access(run)
    if isinstance(run, AuditRun | UnlearnRun):
        check_audit(run)
    if isinstance(run, AlternativesRun):
        check_alternatives(run, resolved.folder)
    if isinstance(run, UnlearnRun) and resolved.method is not None:
        check_method(run, resolved.method)
    _ = resolved.target_model  # refused where none is known


def check_run_name(run: Run) -> None:
    """A name is a folder below the command's own; it may have folders in it.

    Names of a model, a data set and a method, which name the folder otherwise, have none.
    """
    parts = run.name.split("/") if run.name is not None else []
    if any(len(os.fsencode(part)) > LONGEST_NAME_PART for part in parts):
        raise bad_value("name", run.name, f"folder names of at most {LONGEST_NAME_PART} bytes each")
    if not all(map(is_plain_name, parts)):
        raise bad_value("name", run.name, "a folder name, as in demo or study/demo")
    names = {"model.name": run.model.name, "data.name": run.data.name}
    names |= {"method.name": run.method.name} if isinstance(run, UnlearnRun) else {}
    for key, name in names.items():
        if name and not is_plain_name(name):
            raise bad_value(key, name, "a word that may stand in a folder's name, without '/'")
    if run.name is None and not is_plain_name(make_default_name(run)):
        raise bad_value("name", None, "a name, since the one made of model and data is too long")


def check_audit(run: AuditRun | UnlearnRun) -> None:
    """An audit asks for the rows of a suite's forget set."""
    if run.audit.forget_set is not None and run.audit.forget_set not in run.eval.sets:
        raise bad_value("audit.forget_set", run.audit.forget_set, run.eval.sets)
    if run.audit.is_on and find_forget_set(run) is None:
        raise UserError(
            f"eval={run.eval.name}: an audit asks for the rows of a suite's forget set, and this "
            "one has none; leave eval out to get the suite that fits"
        )
    if isinstance(run, AuditRun) and not run.audit.is_on:
        raise bad_value("audit.budget", "none", BUDGETS[1:])


def check_hardware(run: Run) -> None:
    """The devices that the hardware config asks for must be there."""
    name, hardware = run.hardware.name, run.hardware
    gpus = torch.cuda.device_count()
    if uses_deepspeed(run) and not isinstance(hardware.args["deepspeed"], dict):
        # Of a file it could not be told what is shared out.
        kind = "DeepSpeed's settings themselves, as in hardware=deepspeed_zero3"
        raise bad_value("hardware.args.deepspeed", hardware.args["deepspeed"], kind)
    on_cpu = gpus == 0 and uses_deepspeed(run)
    if on_cpu and (hardware.num_processes or launcher_environment.is_launched()):
        check_deepspeed_on_cpu(run)
    elif name in GPU_HARDWARE and gpus == 0:
        also = ", or this with hardware.num_processes=N for a small run on CPUs" if on_cpu else ""
        raise UserError(
            f"hardware={name}: needs a GPU and none is visible; allowed here is hardware=cpu "
            f"(hardware.num_processes=N) or hardware=auto{also}"
        )
    cores = max(LEAST_PROCESSES, os.cpu_count() or 1)
    if (name == "cpu" or not gpus) and (hardware.num_processes or 1) > cores:
        raise bad_value(
            "hardware.num_processes", hardware.num_processes, f"at most {cores} without GPUs"
        )
    if gpus and name != "cpu" and (hardware.num_processes or 1) > gpus:
        raise bad_value(
            "hardware.num_processes", hardware.num_processes, f"at most {gpus}, the GPUs"
        )
    if hardware.precision == "fp16" and (name == "cpu" or gpus == 0):
        raise bad_value("hardware.precision", "fp16", "no or bf16 on a CPU")
    if uses_deepspeed(run) and importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"hardware={name}: needs deepspeed: pip install 'undial[deepspeed]'")


def check_deepspeed_on_cpu(run: Run) -> None:
    """What DeepSpeed does not do on CPU processes, where it is asked for with their number."""
    if run.hardware.precision == "bf16":
        raise UserError(
            f"hardware.precision=bf16: not possible with hardware={run.hardware.name} on a CPU, "
            "whose weights have model.dtype; allowed is no"
        )


def check_evaluation_libraries(run: Run) -> None:
    """Libraries that the suite asks for, and what they cannot do."""
    config = run.eval
    if config.harness.tasks and importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "eval.harness.tasks: needs lm-evaluation-harness: pip install 'undial[harness]'"
        )
    if config.backend == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise UserError("eval.backend=vllm: needs vllm: pip install 'undial[vllm]'")
        if (run.hardware.num_processes or torch.cuda.device_count()) > 1:
            raise UserError("eval.backend=vllm: needs hardware.num_processes=1")


def check_optimiser(run: TrainingRun) -> None:
    """Optimisers that do not know sharded weights; what is missing is found by `training.trial`."""
    name = run.train.optim
    shared = is_sharded(run) or uses_deepspeed(run)
    if shared and ("8bit" in name or "paged" in name or "bnb" in name):
        raise UserError(f"train.optim={name}: not possible with hardware={run.hardware.name}")


def check_saved_shards(run: TrainingRun) -> None:
    """Checkpoints and states are written whole; of parts the Trainer would write no checkpoint."""
    config, whole = run.hardware.args.get("fsdp_config"), "FULL_STATE_DICT"
    kind = config.get("state_dict_type", whole) if isinstance(config, dict) else whole
    if kind != whole:
        raise bad_value("hardware.args.fsdp_config.state_dict_type", kind, [whole])


def check_adapter(run: TrainingRun) -> None:
    """Adapters that cannot be trained or saved as asked."""
    adapter = run.adapter
    rounded = {"bits": adapter.bits != 4, "compute_dtype": adapter.compute_dtype != "auto"}
    for name, is_given in rounded.items() if adapter.name != "qlora" else ():
        if is_given:
            raise UserError(
                f"adapter.{name}={getattr(adapter, name)}: without effect with "
                f"adapter={adapter.name}; it is adapter=qlora's"
            )
    if adapter.name == "qlora":
        check_rounded_adapter(run)
    if adapter.merge and is_sharded(run):
        raise UserError(f"adapter.merge=true: not possible with hardware={run.hardware.name}")


def check_rounded_adapter(run: TrainingRun) -> None:
    """What adapter=qlora needs, and what has no meaning with it."""
    adapter, reason = run.adapter, explain_no_quantising()
    if reason is not None:
        raise UserError(f"adapter=qlora: {reason}")
    if adapter.bits == 8 and adapter.compute_dtype != "auto":
        raise UserError(
            f"adapter.compute_dtype={adapter.compute_dtype}: without effect with adapter.bits=8, "
            "which multiplies in 8 bits (on a CPU in the dtype of the inputs); allowed is auto"
        )
    if adapter.bits == 8 and is_sharded(run):
        raise UserError(
            f"adapter.bits=8: not possible with hardware={run.hardware.name}, whose shards "
            "bitsandbytes' int8 layers do not know; allowed is 4"
        )
    if run.model.dtype == "float64":
        raise bad_value("model.dtype", "float64", "float32, bfloat16 or float16 with adapter=qlora")
    if isinstance(run, UnlearnRun) and len(run.data.requests) > 1 and not adapter.merge:
        raise UserError(
            "data.requests: adapter=qlora starts a request from whole weights, which "
            "adapter.merge=true leaves; allowed is one request without it"
        )


def check_method(run: UnlearnRun, method: Method) -> None:
    """What a method needs and the run does not give."""
    config, terms = run.method, method.terms()
    if "retain" in terms and not (run.data.retain_split or run.data.retain_file):
        raise UserError(
            f"method={config.name} method.retain={config.retain}: needs a retain set: "
            "data.retain_split or data.retain_file"
        )
    if not terms:
        raise UserError("method.gamma=0: nothing is left to minimise without a retain term")
    if run.data.anchor == "retain" and "retain" not in terms:
        raise UserError("data.anchor=retain: needs method.retain=gdr or klr")
    if run.train.stop.forget_probability is not None and "forget" not in terms:
        raise UserError("train.stop.forget_probability: needs a method with a forget term")
    if method.contrasts and len(run.data.requests) > 1:
        raise UserError(
            f"data.requests: method={config.name} leaves two models that are decoded together, "
            "which a further request cannot train; allowed is one"
        )
    if method.contrasts and run.adapter.name == "qlora" and not run.adapter.merge:
        raise UserError(
            f"adapter=qlora: method={config.name} decodes two models of whole weights, which "
            "adapter.merge=true leaves"
        )
    if run.data.alternatives_file is not None and method.alternatives != "data":
        reads = "; method.alternatives=data reads it" if method.alternatives else ""
        raise UserError(
            f"data.alternatives_file={run.data.alternatives_file}: method={config.name} prefers no "
            f"answers of the data{reads}"
        )
    check_auto_strength(run)
    if method.focus is not None:
        focus.check_focus(method.focus.source, method.focus.pipeline)
    watched = "train.eval_steps" if run.train.eval_steps else "train.stop"
    if method.from_start and (run.train.eval_steps or run.train.stop.is_on):
        raise UserError(
            f"{watched}: not possible with method={config.name}, whose model is made after training"
        )
    holds = torch.finfo(getattr(torch, run.model.dtype)).max
    for name, value, _ in walk_fields(config, "method."):
        if isinstance(value, float) and abs(value) > holds:
            raise bad_value(name, value, f"what model.dtype={run.model.dtype} holds, <= {holds:g}")
    check_wrappers(run, terms)
    if method.parameters is not None:
        check_regular_expression("method.parameters", method.parameters)
    needs = any(term.needs for term in terms.values())
    if run.teacher.cache == "off" and run.adapter.name == "none" and needs:
        raise UserError(
            f"teacher.cache=off: method={config.name} needs the teacher's signal, and full "
            "fine-tuning changes the only model; allowed is auto, memory or disk, or adapter=lora"
        )
    if run.teacher.cache == "off" and method.other_questions is not None:
        raise UserError(
            f"teacher.cache=off: {method.other_questions.key} asks the teacher once and keeps what "
            "it says; allowed is auto, memory or disk"
        )


def check_auto_strength(run: UnlearnRun) -> None:
    """Keys of a strength that sets itself, where it is a number."""
    strength = getattr(run.method, "strength", AUTO_STRENGTH)
    if strength == AUTO_STRENGTH:
        return
    defaults = type(run.method)()
    for key in KEYS_OF_AUTO_STRENGTH:
        name = key.removeprefix("method.")
        value = getattr(run.method, name, None)
        if value != getattr(defaults, name, None):
            raise UserError(
                f"{key}={value}: without effect with method.strength={strength:g}; it is "
                f"method.strength={AUTO_STRENGTH}'s"
            )


def check_regular_expression(key: str, text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise UserError(f"{key}={text}: no regular expression ({error})") from error


def check_early_stop(run: TrainingRun) -> None:
    stop = run.train.stop
    if stop.perplexity_ratio is not None and stop.split is None:
        raise UserError(
            f"train.stop.perplexity_ratio={stop.perplexity_ratio:g}: needs the validation texts: "
            "train.stop.split (a file, or a split of train.stop.path)"
        )
