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


def check_deepspeed_settings(settings: dict[str, Any], arguments: TrainingArguments) -> None:
    """Raise UserError for what DeepSpeed's config refuses, or the Trainer for its own arguments.

    Neither looks at unknown keys beside the parts, nor at most of an optimiser's or a scheduler's.

    Args:
        arguments: those of the run, of any batch size.
    """
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    tried = {k: copy.deepcopy(v) for k, v in settings.items() if k not in FILLED_KEYS}
    tried["train_micro_batch_size_per_gpu"] = 1  # the others follow from it, for any processes
    try:
        config = HfTrainerDeepSpeedConfig(tried)
        config.trainer_config_process(arguments)
        if config.mismatches:
            raise UserError(f"{DEEPSPEED_KEY}: {'; '.join(config.mismatches).replace('- ds ', '')}")
        DeepSpeedConfig(config.config)
    except UserError:
        raise
    except ValidationError as error:
        fault = error.errors()[0]
        raise bad_deepspeed_value(settings, fault["loc"], fault["input"], fault["msg"]) from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{DEEPSPEED_KEY}: {text}") from error


def bad_deepspeed_value(
    settings: dict[str, Any], location: tuple[int | str, ...], value: Any, reason: str
) -> UserError:
    """The one line for a location within a part, whose name pydantic does not say."""
    part = next((name for name, part in settings.items() if holds_value(part, location, value)), "")
    key = ".".join(filter(None, [DEEPSPEED_KEY, part, *map(str, location)]))
    if reason == "Extra inputs are not permitted":
        hint = suggest_nearest(location[-1], list_deepspeed_fields())
        return UserError(f"{key}: DeepSpeed has no such key there{hint}")
    return bad_value(key, value, reason.removeprefix("Input should be "))


def holds_value(part: Any, location: tuple[int | str, ...], value: Any) -> bool:
    """Whether a part of the settings holds a value at a location."""
    for name in location:
        if not isinstance(part, dict) or name not in part:
            return False
        part = part[name]
    return bool(part == value)


def list_deepspeed_fields() -> set[str]:
    """The keys of all parts."""
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    return {name for part in DeepSpeedConfigModel.__subclasses__() for name in part.model_fields}
