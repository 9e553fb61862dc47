"""Metrics as pure functions of arrays and texts, with stable names; each names its source.

No model, no file, no config; importing this costs numpy, the rest is imported where it is used.
"""

from undial_cli.evaluation.metrics.membership import (
    attack_auc,
    attack_similarity,
    min_k,
    min_k_plus_plus,
    privleak,
    zlib_score,
)
from undial_cli.evaluation.metrics.memorization import (
    exact_memorization,
    extraction_likelihood,
    extraction_strength,
    memorization_accuracy,
    unique_extraction_likelihood,
)
from undial_cli.evaluation.metrics.scores import (
    aggregate_score,
    harmonic_mean,
    memorization_score,
    model_utility,
    privacy_score,
    utility_score,
)
from undial_cli.evaluation.metrics.texts import (
    distinct,
    list_ngrams,
    ngram_entropy,
    repetition,
    rouge_l_f1,
    rouge_l_recall,
    rouge_l_union_recall,
)
from undial_cli.evaluation.metrics.truth import (
    choose_likeliest,
    evenness,
    forget_quality,
    forget_truth_ratio,
    ks_distance,
    log_truth_ratio,
    normalised_probability,
    prob_mean_truth_ratio,
    probability,
    retain_truth_ratio,
    truth_ratio,
    truthfulness,
)

__all__ = [
    "aggregate_score",
    "attack_auc",
    "attack_similarity",
    "choose_likeliest",
    "distinct",
    "evenness",
    "exact_memorization",
    "extraction_likelihood",
    "extraction_strength",
    "forget_quality",
    "forget_truth_ratio",
    "harmonic_mean",
    "ks_distance",
    "list_ngrams",
    "log_truth_ratio",
    "memorization_accuracy",
    "memorization_score",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "ngram_entropy",
    "normalised_probability",
    "privacy_score",
    "privleak",
    "prob_mean_truth_ratio",
    "probability",
    "repetition",
    "retain_truth_ratio",
    "rouge_l_f1",
    "rouge_l_recall",
    "rouge_l_union_recall",
    "truth_ratio",
    "truthfulness",
    "unique_extraction_likelihood",
    "utility_score",
    "zlib_score",
]
