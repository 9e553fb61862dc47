"""What makes a run the run that it is: the settings that count, their hash, the name made of it.

Knows keys by name, and not what they do.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from undial_cli.config.fields import walk_fields
from undial_cli.config.methods import AUTO_STRENGTH
from undial_cli.config.schema import Run, TrainingRun, UnlearnRun

# Where a run is written, what it says, and how many processes share it.
KEYS_WITHOUT_RESULTS = (
    "name",
    "output_dir",
    "overwrite",
    "resume",
    "plan",
    "eval.intervals",
    "push_to_hub",
    "push_private",
    "objective",
    "model.allow_pickle",
    "eval.allow_pickle",
    "report",
    "hardware.num_processes",
    "hardware.gpus_per_run",
    "hardware.slots",
    "hardware.timeout",
    "train.report_to",
    "train.logging_steps",
    "train.save_minutes",
    "train.max_loss_rise",
)
# Not part of a run's identity: these, and the rates of which train.learning_rate is one.
KEYS_OUTSIDE_HASH = (
    *KEYS_WITHOUT_RESULTS,
    "train.learning_rates.none",
    "train.learning_rates.lora",
    "train.learning_rates.qlora",
    "target.learning_rates.lora",
    "target.learning_rates.qlora",
)
# Read with another key alone, as adapter=qlora: other runs keep the names that they had.
KEYS_OF_QLORA = ("adapter.bits", "adapter.compute_dtype")
KEYS_OF_SHARPNESS = ("method.sharpness", "method.sharpness_radius", "method.sharpness_samples")
KEYS_OF_RECTIFYING = ("method.rectify", "method.rectify_smoothing")
KEYS_OF_SELECTION = (
    "train.select",
    "train.select_share",
    "train.select_utility",
    "train.keep",
)
# Read where it names a file alone.
KEYS_OF_FILE = ("data.alternatives_file",)
KEYS_OF_AUTO_STRENGTH = ("method.auto_questions", "method.auto_limit")


def collect_identity(run: Run) -> dict[str, Any]:
    """The settings that make a run what it is, as a flat dictionary.

    An unlearned model is the same whether it is audited at the end or not.
    """
    unread = KEYS_OF_FILE if run.data.alternatives_file is None else ()
    if isinstance(run, TrainingRun):
        unread += KEYS_OF_QLORA if run.adapter.name != "qlora" else ()
        unread += KEYS_OF_SELECTION if run.train.select is None else ()
        unread += () if run.train.layers else ("train.layers",)
    if isinstance(run, UnlearnRun):
        if getattr(run.method, "strength", None) != AUTO_STRENGTH:
            unread += KEYS_OF_AUTO_STRENGTH
        unread += ("method.saliency",) if run.method.saliency is None else ()
        unread += KEYS_OF_SHARPNESS if run.method.sharpness is None else ()
        unread += KEYS_OF_RECTIFYING if run.method.rectify is None else ()
        is_layered = hasattr(run.method, "layer")  # those of a layer have had the key longer
        unread += ("method.parameters",) if not (run.method.parameters or is_layered) else ()
    return {
        name: value
        for name, value, _ in walk_fields(run)
        if name not in KEYS_OUTSIDE_HASH
        and name not in unread
        and not (isinstance(run, UnlearnRun) and name.startswith("audit."))
    }


def hash_json(content: Any) -> str:
    """Ten hex digits of the SHA-256 of JSON-serialisable content."""
    return digest_json(content)[:10]


def digest_json(content: Any) -> str:
    """The SHA-256 of JSON-serialisable content, its keys sorted."""
    return hashlib.sha256(spell_canonical(content).encode()).hexdigest()


def spell_canonical(content: Any) -> str:
    """JSON-serialisable content as JSON whose keys are sorted."""
    return json.dumps(content, sort_keys=True, default=str)


def make_default_name(run: Run) -> str:
    """`model-data-method-HASH`, the folder of a run that was given no name."""
    method = run.method.name if isinstance(run, UnlearnRun) else run.command
    return f"{run.model.name}-{run.data.name}-{method}-{hash_json(collect_identity(run))}"
