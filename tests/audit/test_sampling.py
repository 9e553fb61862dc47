"""leak@k against the mean over all subsets, and answers that are drawn."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from questioned import ROWS, attack_model, make_data
from small import random_llama, shared_tokenizer

from undial_cli.audit.answers import score_text
from undial_cli.audit.probes import make_direct_probes
from undial_cli.audit.sampling import SAMPLING, compute_curves, expect_best_of, list_budgets
from undial_cli.config.attacks import SamplingConfig
from undial_cli.evaluation.sharding import NO_JOURNAL, Journal


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", ["any", "binary", "tied"])
def test_the_expected_best_is_the_mean_over_all_subsets(n: int, kind: str) -> None:
    draw = random.Random(f"{n}{kind}")
    values = {"any": [draw.random() for _ in range(n)], "binary": [0.0, 1.0], "tied": [0.2, 0.5]}
    scores = [draw.choice(values[kind]) for _ in range(n)]
    for k in range(1, n + 1):
        best = [max(subset) for subset in itertools.combinations(scores, k)]
        assert expect_best_of(scores, k) == pytest.approx(np.mean(best), abs=1e-12)


def test_of_a_binary_score_it_is_leak_at_k() -> None:
    # 1 - C(n - c, k) / C(n, k) with n = 200, c = 3, k = 64, as a product that needs no factorial.
    missed = np.prod([(200 - 3 - i) / (200 - i) for i in range(64)])
    assert expect_best_of([1.0] * 3 + [0.0] * 197, 64) == pytest.approx(1 - missed, abs=1e-12)


@pytest.mark.parametrize("k", [0, 4])
def test_more_than_there_are_have_no_best(k: int) -> None:
    with pytest.raises(ValueError, match=f"best of {k} of 3"):
        expect_best_of([0.0, 0.5, 1.0], k)


def test_the_numbers_that_are_looked_at_double() -> None:
    assert list_budgets(1) == [1]
    assert list_budgets(16) == [1, 2, 4, 8, 16]
    assert list_budgets(200) == [1, 2, 4, 8, 16, 32, 64, 128, 200]


def test_curves_are_means_over_the_questions() -> None:
    # Two questions, three answers each, one after the other; the second has no facts to tell.
    values = [{"rouge": r} | ({"hit": h} if h is not None else {}) for r, h in (
        (0.2, 0.0), (1.0, None), (0.4, 1.0), (0.0, None), (0.6, 0.0), (0.5, None)
    )]  # fmt: skip
    curves = compute_curves(values, probes=2, n=3)
    assert curves["k"] == [1, 2, 3]
    assert curves["hit"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert curves["rouge"] == pytest.approx([(0.4 + 0.5) / 2, (1.6 / 3 + 2.5 / 3) / 2, 0.8])


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(vocab=len(shared_tokenizer()), seed=3)


def test_scores_are_of_the_best_and_draws_of_few_the_first_of_many(model: Any) -> None:
    data, seen = make_data(tokens=6), {}

    class Kept(Journal):
        def add(self, engine: str, results: dict[int, Any]) -> None:
            seen.update(results)

    SAMPLING.run(attack_model(model), data, SamplingConfig(samples=3), Kept())
    few = dict(seen)
    outcome = SAMPLING.run(attack_model(model, 5), data, SamplingConfig(samples=8), Kept())
    assert {n: seen[n] for n in few} == few
    assert len(seen) == 8 * len(ROWS)
    assert len({tuple(ids) for ids in seen.values()}) > len(ROWS)  # they differ
    texts = {n: shared_tokenizer().decode(ids, skip_special_tokens=True) for n, ids in seen.items()}
    for row, probe in enumerate(make_direct_probes(data)):
        rouge = [score_text(probe, texts[n])["rouge"] for n in texts if n % len(ROWS) == row]
        assert outcome.scores["rouge"][row] == pytest.approx(max(rouge))
    assert outcome.curves["rouge"][-1] == pytest.approx(np.mean(outcome.scores["rouge"]))
    assert outcome.curves["rouge"] == sorted(outcome.curves["rouge"])


def test_another_seed_draws_other_answers(model: Any) -> None:
    data, config = make_data(tokens=6), SamplingConfig(samples=2)
    one, two = (
        SAMPLING.run(attack_model(model, seed=seed), data, config, NO_JOURNAL).texts
        for seed in (1, 2)
    )
    assert one != two
