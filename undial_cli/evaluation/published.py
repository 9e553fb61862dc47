"""Results files of other frameworks, as an Evaluation under our names.

open-unlearning's TOFU_EVAL.json and TOFU_SUMMARY.json: aggregates, and a score per sample. TOFU's
own eval_log_aggregated.json: losses per sample, from which the aggregates follow. Knows no run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from undial_cli.config.suites import FORGET, HOLDOUT, guess_role
from undial_cli.errors import UserError
from undial_cli.evaluation import metrics
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.joint_metrics import UTILITY_PARTS

SamplesByRow = dict[tuple[str, int], dict[str, Any]]

PUBLISHED_SETS = {"forget": FORGET, "retain": "retain", "ra": "real_authors", "wf": "world_facts"}
UTILITY_SETS = ("retain", "real_authors", "world_facts")
SETS_WITH_OPTIONS = ("real_authors", "world_facts")
# open-unlearning's name of a figure: our set and metric, and the field of its score per sample.
OPEN_UNLEARNING_FIGURES = {
    "forget_truth_ratio": (FORGET, "truth_ratio", "score"),
    "extraction_strength": (FORGET, "extraction_strength", "score"),
    "exact_memorization": (FORGET, "exact_memorization", "score"),
    "retain_extraction_strength": ("retain", "extraction_strength", "score"),
}
for _short, _name in PUBLISHED_SETS.items():
    # Of the sets with options our probability is the normalised one.
    _kind = "Prob_normalised" if _name in SETS_WITH_OPTIONS else "Prob"
    OPEN_UNLEARNING_FIGURES |= {
        f"{_short}_Q_A_{_kind}": (_name, "probability", "prob"),
        f"{_short}_Q_A_ROUGE": (_name, "rouge", "rougeL_recall"),
        f"{_short}_Truth_Ratio": (_name, "truth_ratio", "score"),
    }
# Figures of no set, or of several: aggregates alone are read.
OPEN_UNLEARNING_JOINT = (
    "model_utility", "mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm",
)  # fmt: skip
OPEN_UNLEARNING_KEYS = (*OPEN_UNLEARNING_FIGURES, *OPEN_UNLEARNING_JOINT)

# TOFU's own file: a part for each set.
TOFU_SECTIONS = {
    "eval_log_forget.json": FORGET,
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}


def read_open_unlearning(content: dict[str, Any], where: str) -> Evaluation:
    """TOFU_EVAL.json: aggregates under `agg_value`, samples under `value_by_index`.

    Raises:
        UserError: a figure's samples are not of its layout.
    """
    figures: dict[str, float] = {}
    samples: SamplesByRow = {}
    for key in OPEN_UNLEARNING_KEYS:
        try:
            read_open_unlearning_figure(key, content.get(key), figures, samples)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: its {key} holds no score per sample") from error
    return Evaluation({**figures}, [samples[row] for row in sorted(samples)])


def read_open_unlearning_figure(
    key: str, entry: Any, figures: dict[str, float], samples: SamplesByRow
) -> None:
    """Add a figure and its samples: of TOFU_EVAL.json (an object), TOFU_SUMMARY.json (a number)."""
    set_name, metric, field = OPEN_UNLEARNING_FIGURES.get(key, ("", key, ""))
    value = entry.get("agg_value") if isinstance(entry, dict) else entry
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        # Two of their names may stand for one figure of ours: the first wins.
        figures.setdefault(f"{set_name}_{metric}" if set_name else metric, float(value))
    if not isinstance(entry, dict):
        return
    for name in (FORGET, HOLDOUT) if not set_name else ():  # an attack: the rows it was made on
        part = entry.get(name)
        for index in part.get("value_by_index") or () if isinstance(part, dict) else ():
            begin_sample(samples, name, int(index))
    if not set_name:
        return
    for index, scores in (entry.get("value_by_index") or {}).items():
        sample = begin_sample(samples, set_name, int(index))
        score = read_score(scores or {}, field)
        if score is not None and metric == "truth_ratio":
            sample.setdefault("log_truth_ratio", math.log(score) if score else -math.inf)
        elif score is not None:
            sample.setdefault(metric, score)
        if scores and isinstance(scores.get("generation"), str):
            sample.setdefault("generation", scores["generation"].strip())


def read_score(scores: dict[str, Any], field: str) -> float | None:
    """A score per sample, None where they have none; a list (of one answer) is its mean."""
    if not scores or scores.get(field, 0) is None:
        return None
    value = float(np.mean(scores[field]))
    return value if math.isfinite(value) and value >= 0 else None


def begin_sample(samples: SamplesByRow, set_name: str, index: int) -> dict[str, Any]:
    """The line of a sample, a new one at its first score."""
    return samples.setdefault((set_name, index), {"set": set_name, "index": index})


def read_tofu_log(content: dict[str, Any], where: str) -> Evaluation:
    """eval_log_aggregated.json: by set, figure and index; losses are means per token.

    Raises:
        UserError: a part of it is not of its layout.
    """
    figures: dict[str, float] = {}
    samples: list[dict[str, Any]] = []
    for section, set_name in TOFU_SECTIONS.items():
        if section not in content:
            continue
        try:
            figures |= read_tofu_section(content[section], set_name, samples)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: its {section} lacks a loss per sample ({type(error).__name__}: {error})"
            ) from error
    parts = [f"{name}_{part}" for name in UTILITY_SETS for part in UTILITY_PARTS]
    if all(part in figures for part in parts):
        figures["model_utility"] = metrics.model_utility({part: figures[part] for part in parts})
    return Evaluation({**figures}, samples)


def read_tofu_section(
    section: dict[str, dict[str, Any]], set_name: str, samples: list[dict[str, Any]]
) -> dict[str, float]:
    """The figures of one set; its samples are appended."""
    indices = sorted(section["avg_paraphrased_loss"], key=int)

    def column(name: str) -> np.ndarray:
        return np.array([section[name][i] for i in indices], dtype=np.float64)

    answer_ce, paraphrase_ce = column("avg_gt_loss"), column("avg_paraphrased_loss")
    perturbed_ce = column("average_perturb_loss")
    probability = metrics.probability(answer_ce)
    if set_name in SETS_WITH_OPTIONS:
        probability = metrics.normalised_probability(answer_ce, perturbed_ce)
    columns = {
        "answer_ce": answer_ce,
        "paraphrase_ce": paraphrase_ce,
        "perturbed_ce": perturbed_ce,
        "log_truth_ratio": metrics.log_truth_ratio(paraphrase_ce, perturbed_ce),
        "probability": probability,
        "rouge": column("rougeL_recall"),
    }
    for n, i in enumerate(indices):
        sample = {"set": set_name, "index": int(i)}
        sample |= {key: values[n].tolist() for key, values in columns.items()}
        texts = section.get("generated_text", {}).get(i)  # prompt, generation, answer
        if isinstance(texts, list) and len(texts) == 3:
            sample["generation"] = str(texts[1]).strip()
        samples.append(sample)
    role = guess_role(set_name)
    return {
        f"{set_name}_{part}": METRICS[part].aggregate(columns[METRICS[part].key], role)
        for part in UTILITY_PARTS
    }
