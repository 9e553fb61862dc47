"""What is below `hardware.args.deepspeed`, held against DeepSpeed's own config before a run.

DeepSpeed itself looks at it when the model is loaded and every process waits for it.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from undial_cli.errors import UserError, bad_value, suggest_nearest

DEEPSPEED_KEY = "hardware.args.deepspeed"
# Of a run, they are the Trainer's to fill; they have to fit each other.
FILLED_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# The others follow from it, for any number of processes.
ONE_ROW = {"train_micro_batch_size_per_gpu": 1}


def check_deepspeed_settings(settings: dict[str, Any], arguments: TrainingArguments) -> None:
    """Raise UserError for what DeepSpeed's config refuses, or the Trainer for its own arguments.

    Neither looks at unknown keys beside the parts, nor at most of an optimiser's or a scheduler's.

    Args:
        arguments: those of the run, of any batch size.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    tried = {k: v for k, v in settings.items() if k not in FILLED_KEYS}
    tried |= ONE_ROW
    try:
        config = HfTrainerDeepSpeedConfig(copy.deepcopy(tried))
        config.trainer_config_process(arguments)
        if config.mismatches:
            raise UserError(f"{DEEPSPEED_KEY}: {'; '.join(config.mismatches).replace('- ds ', '')}")
        DeepSpeedConfig(config.config)
    except UserError:
        raise
    except Exception as error:
        raise explain_refusal(tried, error) from error


def explain_refusal(tried: dict[str, Any], error: Exception) -> UserError:
    """The one line for what DeepSpeed's config refuses, which does not name its part."""
    from pydantic import ValidationError

    part = find_refused_part(tried)
    key = f"{DEEPSPEED_KEY}.{part}" if part else DEEPSPEED_KEY
    if isinstance(error, TypeError | AttributeError) and not isinstance(tried.get(part), dict):
        return bad_value(key, tried.get(part), "a dictionary")
    if not isinstance(error, ValidationError):
        text = " ".join(str(error).split()) or type(error).__name__
        return UserError(f"{key}={tried[part]}: {text}" if part else f"{key}: {text}")
    fault = error.errors()[0]
    key = ".".join([key, *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        hint = suggest_nearest(fault["loc"][-1], list_deepspeed_fields())
        return UserError(f"{key}: DeepSpeed has no such key there{hint}")
    return bad_value(key, fault["input"], fault["msg"].removeprefix("Input should be "))


def find_refused_part(tried: dict[str, Any]) -> str:
    """The first part that is refused by itself; empty where they only do not go together."""
    from deepspeed.runtime.config import DeepSpeedConfig

    for name, part in tried.items():
        try:
            DeepSpeedConfig({**ONE_ROW, name: copy.deepcopy(part)})
        except Exception:
            return name
    return ""


def list_deepspeed_fields() -> set[str]:
    """The keys of all parts."""
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    return {name for part in DeepSpeedConfigModel.__subclasses__() for name in part.model_fields}
