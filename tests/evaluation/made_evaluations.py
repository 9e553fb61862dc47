"""Evaluations that no model made, for the tests of what is made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from undial_cli.config.suites import EvalConfig, EvalSetConfig, resolve_role
from undial_cli.evaluation import resampling
from undial_cli.evaluation.evaluate import add_set_aggregate
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.suite_metrics import add_joint_metrics

SUITE = EvalConfig(
    sets={
        "forget": EvalSetConfig("a", metrics=["probability", "truth_ratio", "perplexity"]),
        "retain": EvalSetConfig("b", metrics=["probability", "rouge", "truth_ratio"]),
        "holdout": EvalSetConfig("c", metrics=["probability"]),
    },
    utility=["retain"],
    metrics=["model_utility", "forget_quality", "mia_loss", "mia_min_k", "privleak"],
)
KEYS = ("probability", "rouge", "log_truth_ratio", "oracle_ce", "mia_loss", "mia_min_k")


def make_evaluation(seed: int, rows: int = 40, size: int | None = 4, **odd: Any) -> Evaluation:
    """Random scores of every set; `odd` replaces values of the first forget sample."""
    draws = np.random.default_rng(seed)
    samples: list[dict[str, Any]] = []
    for name in SUITE.sets:
        for index in range(rows):
            scores = {key: float(draws.random()) - (key == "log_truth_ratio") for key in KEYS}
            who = {} if size is None else {"subject": index // size}
            samples.append({"set": name, "index": index, **who, **scores})
    samples[0] |= odd
    found = Evaluation({}, samples)
    for name, options in SUITE.sets.items():
        for key in options.metrics:
            add_set_aggregate(found, name, key, resolve_role(name, options))
    add_joint_metrics(found, None, SUITE, relative=False)
    return found


def repeat_drawn(values: list[float], set_name: str, size: int, resample: int) -> np.ndarray:
    """A resample written out: every subject's block of values as often as it was drawn."""
    blocks = [values[i : i + size] for i in range(0, len(values), size)]
    counts = resampling.draw_unit_counts(set_name, len(blocks))[resample]
    return np.array([v for block, n in zip(blocks, counts, strict=True) for v in block * int(n)])


RATIOS = [0.4, 0.9, 1.7, 0.2, 3.0, 0.7, 0.3, 0.65, 1.4, 0.55]
OURS = [0.5, 0.8, 1.1, 0.9, 2.0, 0.6, 0.45, 1.3, 0.95, 1.9]


def make_open_unlearning_file() -> dict[str, Any]:
    """A file in the layout of open-unlearning."""
    by_index = {str(i): {"score": r} for i, r in enumerate(RATIOS)}
    return {
        "forget_Q_A_Prob": {
            "agg_value": 0.25,
            "value_by_index": {"0": {"prob": 0.25, "avg_loss": math.log(4)}},
        },
        "forget_truth_ratio": {"agg_value": 0.5, "value_by_index": by_index},
        "mia_min_k": {
            "agg_value": 0.3826125,
            "auc": 0.3826125,
            "forget": {"agg_value": 1.0, "value_by_index": {"0": {"score": 1.0}}},
            "holdout": {"agg_value": 1.0, "value_by_index": {"0": {"score": 1.0}}},
        },
        "forget_quality": {"agg_value": None},
    }


def write_published(folder: Path, content: Any) -> str:
    file = folder / "TOFU_EVAL.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def make_unlearned() -> Evaluation:
    """Truth ratios of the forget set, and attack scores whose AUC is 8 / 9."""
    samples: list[dict[str, Any]] = [
        {"set": "forget", "index": i, "log_truth_ratio": math.log(r)} for i, r in enumerate(OURS)
    ]
    for name, scores in (("forget", [1, 2, 5]), ("holdout", [4, 6, 7])):
        samples += [{"set": name, "index": i, "mia_min_k": s} for i, s in enumerate(scores)]
    return Evaluation({}, samples)


RELATIVE_SUITE = EvalConfig(
    sets={"forget": EvalSetConfig("a"), "holdout": EvalSetConfig("b")},
    metrics=["forget_quality", "privleak", "mia_min_k", "mia_reference"],
)


def make_tofu_section(
    ce: list[float], true: list[float], false: list[list[float]]
) -> dict[str, Any]:
    """A part of TOFU's own file; indices as text, out of order."""
    columns: dict[str, list[Any]] = {
        "avg_gt_loss": ce, "avg_paraphrased_loss": true, "average_perturb_loss": false,
        "rougeL_recall": [1 / (2 + i) for i in range(len(ce))],
        "generated_text": [["who?", f" answer {i} ", "truth"] for i in range(len(ce))],
        "truth_ratio": [99.0] * len(ce),
    }  # fmt: skip
    order = list(range(len(ce)))[::-1]
    return {name: {str(i): values[i] for i in order} for name, values in columns.items()}


TOFU_FILE = {
    "eval_log.json": make_tofu_section([0.5, 1.0], [0.7, 1.1], [[1.5, 2.0], [0.9, 1.0]]),
    "eval_real_author_wo_options.json": make_tofu_section([1.5], [1.5], [[1.0, 2.0, 3.0]]),
    "eval_real_world_wo_options.json": make_tofu_section(
        [0.2, 0.3], [0.2, 0.3], [[1.0, 2.0], [1.0, 0.1]]
    ),
    "eval_log_forget.json": make_tofu_section(
        [2.0, 3.0, 0.1], [2.0, 1.0, 0.5], [[1.0, 2], [3, 1], [2, 2]]
    ),
}
UTILITY = EvalConfig(
    sets={name: EvalSetConfig(name) for name in ("retain", "real_authors", "world_facts")},
    metrics=["model_utility"],
    utility=["retain", "real_authors", "world_facts"],
)
PARTS = {
    f"{name}_{part}": 0.1 * (i + 2) + 0.05 * j
    for i, name in enumerate(UTILITY.utility)
    for j, part in enumerate(("probability", "rouge", "truth_ratio"))
}


def make_utility(parts: dict[str, float]) -> Evaluation:
    ours = Evaluation(dict(parts), [])
    add_joint_metrics(ours, None, UTILITY, relative=False)
    return ours
