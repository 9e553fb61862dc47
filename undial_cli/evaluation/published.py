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
from undial_cli.evaluation.joint import UTILITY_PARTS

SamplesByRow = dict[tuple[str, int], dict[str, Any]]

PUBLISHED_SETS = {"forget": FORGET, "retain": "retain", "ra": "real_authors", "wf": "world_facts"}
UTILITY_SETS = ("retain", "real_authors", "world_facts")
# open-unlearning's name of a figure: our set and metric, and the field of its score per sample.
# Of the sets with options our probability is the normalised one.
OPEN_UNLEARNING_FIGURES = {
    "forget_truth_ratio": (FORGET, "truth_ratio", "score"),
    "extraction_strength": (FORGET, "extraction_strength", "score"),
    "exact_memorization": (FORGET, "exact_memorization", "score"),
    "retain_extraction_strength": ("retain", "extraction_strength", "score"),
    **{
        f"{short}_Q_A_Prob": (PUBLISHED_SETS[short], "probability", "prob")
        for short in ("forget", "retain")
    },
    **{
        f"{short}_Q_A_Prob_normalised": (PUBLISHED_SETS[short], "probability", "prob")
        for short in ("ra", "wf")
    },
    **{
        f"{short}_Q_A_ROUGE": (name, "rouge", "rougeL_recall")
        for short, name in PUBLISHED_SETS.items()
    },
    **{
        f"{short}_Truth_Ratio": (name, "truth_ratio", "score")
        for short, name in PUBLISHED_SETS.items()
    },
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
    for theirs, (set_name, metric, field) in OPEN_UNLEARNING_FIGURES.items():
        entry, place = content.get(theirs), f"{where}: its {theirs}"
        if (value := read_aggregate(entry)) is not None:
            figures.setdefault(f"{set_name}_{metric}", value)
        for index, scores in read_row_scores(entry, place):
            sample = begin_sample(samples, set_name, index)
            value = read_score(scores, field, place)
            if value is not None and metric == "truth_ratio":
                sample.setdefault("log_truth_ratio", math.log(value) if value else -math.inf)
            elif value is not None:
                sample.setdefault(metric, value)
            if isinstance(scores.get("generation"), str):
                sample.setdefault("generation", scores["generation"].strip())
    for theirs in OPEN_UNLEARNING_JOINT:
        entry = content.get(theirs)
        if (value := read_aggregate(entry)) is not None:
            figures[theirs] = value
        if isinstance(entry, dict):  # an attack: which rows it was made on
            for name in (FORGET, HOLDOUT):
                for index, _ in read_row_scores(entry.get(name), f"{where}: its {theirs}"):
                    begin_sample(samples, name, index)
    return Evaluation({**figures}, [samples[place] for place in sorted(samples)])


def read_aggregate(entry: Any) -> float | None:
    """A figure of TOFU_EVAL.json (an object) or TOFU_SUMMARY.json (the number itself)."""
    value = entry.get("agg_value") if isinstance(entry, dict) else entry
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def read_row_scores(entry: Any, where: str) -> list[tuple[int, dict[str, Any]]]:
    """The scores per sample of a figure, by index."""
    by_index = entry.get("value_by_index") if isinstance(entry, dict) else None
    if by_index is None:
        return []
    try:
        return [(int(index), scores or {}) for index, scores in by_index.items()]
    except (AttributeError, ValueError) as error:
        raise UserError(f"{where} holds no score per sample") from error


def read_score(scores: dict[str, Any], field: str, where: str) -> float | None:
    """A score per sample, None where they have none; a list (of one answer) is its mean."""
    if not scores or scores.get(field, 0) is None:
        return None
    try:
        value = float(np.mean(scores[field]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} holds no score per sample") from error
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
    places = sorted(section["avg_paraphrased_loss"], key=int)

    def column(name: str) -> np.ndarray:
        return np.array([section[name][i] for i in places], dtype=np.float64)

    answer_ce, paraphrase_ce = column("avg_gt_loss"), column("avg_paraphrased_loss")
    perturbed_ce = column("average_perturb_loss")
    options = set_name in ("real_authors", "world_facts")
    columns = {
        "answer_ce": answer_ce,
        "paraphrase_ce": paraphrase_ce,
        "perturbed_ce": perturbed_ce,
        "log_truth_ratio": metrics.log_truth_ratio(paraphrase_ce, perturbed_ce),
        "probability": metrics.normalised_probability(answer_ce, perturbed_ce)
        if options
        else metrics.probability(answer_ce),
        "rouge": column("rougeL_recall"),
    }
    for n, i in enumerate(places):
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
