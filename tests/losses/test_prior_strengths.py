"""How far a token is lowered for it to have the probability that language alone gives it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undial_cli.losses import prior_strengths, undial_target

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0])
OWN = float(LOGITS.log_softmax(-1)[0, 0])


def strength_of(prior: float, limit: float = 10.0, logits: torch.Tensor = LOGITS) -> float:
    return float(prior_strengths(logits, TARGET, torch.tensor([prior]), limit))


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 0), st.floats(-8, 12), st.floats(0.1, 30))
def test_the_target_has_the_priors_probability_within_the_bounds(
    prior: float, own_logit: float, limit: float
) -> None:
    logits = LOGITS.clone()
    logits[0, 0] = own_logit
    own = float(logits.softmax(-1)[0, 0])
    strength = prior_strengths(logits, TARGET, torch.tensor([prior], dtype=torch.float64), limit)
    found = float(undial_target(logits, TARGET, strength)[0, 0])
    lowest = float(undial_target(logits, TARGET, limit)[0, 0])
    assert found == pytest.approx(min(own, max(math.exp(prior), lowest)), rel=1e-9)


def test_a_token_that_nothing_supports_is_lowered_as_the_limit_lowers_it() -> None:
    assert strength_of(-math.inf) == 10
    assert strength_of(-math.inf, limit=3.0) == 3


@pytest.mark.parametrize("prior", [OWN, OWN + 0.01, 0.0, 1e-7])
def test_no_token_is_raised(prior: float) -> None:
    assert strength_of(prior) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_probability_that_rounds_to_one_is_lowered_exactly(dtype: torch.dtype) -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]], dtype=dtype)
    strength = prior_strengths(logits, TARGET, torch.tensor([math.log(0.5)]), 100.0)
    assert float(undial_target(logits, TARGET, strength)[0, 0]) == pytest.approx(0.5, rel=1e-5)
