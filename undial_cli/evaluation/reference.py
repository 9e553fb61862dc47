"""Results of a retain model that were made elsewhere: our results.json, or TOFU_EVAL.json.

Read into an Evaluation, so that forget_quality and privleak need no retain model here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from undial_cli.errors import UserError
from undial_cli.evaluation import store
from undial_cli.evaluation.catalog import Evaluation

# Their name of an aggregate, and ours.
NAMES = {
    "forget_truth_ratio": "forget_truth_ratio",
    "forget_Q_A_Prob": "forget_probability",
    "forget_Q_A_ROUGE": "forget_rouge",
    "extraction_strength": "forget_extraction_strength",
    "exact_memorization": "forget_exact_memorization",
    "model_utility": "model_utility",
    **{name: name for name in ("mia_loss", "mia_zlib", "mia_min_k", "mia_gradnorm")},
    "mia_min_k_plus_plus": "mia_min_k_plus_plus",
}


def read(path: str) -> Evaluation:
    """The evaluation that a results file holds.

    Raises:
        UserError: no such file, not JSON, or not of a known kind.
    """
    file = Path(path).expanduser()
    where = f"eval.retain_model={path}"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where}: no such file") from error
    except ValueError as error:
        raise UserError(f"{where}: not a whole JSON file ({error})") from error
    if isinstance(content, dict) and {"metrics", "samples"} <= set(content):
        ours = store.load(file.parent)
        if ours is None:
            raise UserError(f"{where}: its samples.jsonl is not beside it, or not whole")
        return ours
    if isinstance(content, dict) and any(name in content for name in NAMES):
        return of_open_unlearning(content, where)
    raise UserError(
        f"{where}: allowed are results.json of undial (with its samples.jsonl) and TOFU_EVAL.json"
    )


def of_open_unlearning(content: dict[str, Any], where: str) -> Evaluation:
    """TOFU_EVAL.json: aggregates under `agg_value`, samples under `value_by_index`."""
    figures = {}
    for theirs, ours in NAMES.items():
        entry = content.get(theirs)
        value = entry.get("agg_value") if isinstance(entry, dict) else None
        if isinstance(value, int | float):
            figures[ours] = float(value)
    try:
        samples = list(forget_samples(content))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its forget_truth_ratio holds no score per sample") from error
    return Evaluation(figures, samples)


def forget_samples(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Per-sample truth ratios of the forget set, as logarithms."""
    by_index = content.get("forget_truth_ratio", {}).get("value_by_index", {})
    for index, entry in by_index.items():
        ratio = float(np.mean(entry["score"]))
        if math.isfinite(ratio) and ratio > 0:
            yield {"set": "forget", "index": int(index), "log_truth_ratio": math.log(ratio)}
        elif ratio == 0:
            yield {"set": "forget", "index": int(index), "log_truth_ratio": -math.inf}
