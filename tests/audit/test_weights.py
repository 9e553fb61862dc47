"""Attacks that change weights: what is changed, by how much, and what it brings back."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_models import (
    Setting,
    answer_loss,
    blank_model,
    encode_answers,
    make_knowing_model,
    silence_loss,
    train_plainly,
)
from rounding import hold_rounding, round_linears
from small import random_llama

from undial_cli.audit.answers import ask_probes
from undial_cli.audit.attack import CannotServe, Outcome
from undial_cli.audit.probes import make_direct_probes
from undial_cli.audit.variants import join_variants
from undial_cli.audit.weights import (
    INTERPOLATE,
    NOISE,
    QUANTISE,
    add_noise,
    ask_interpolated,
    ask_noisy,
    ask_quantised,
    check_quantising,
    move_weights,
)
from undial_cli.config.attacks import InterpolateConfig, NoiseConfig, QuantiseConfig
from undial_cli.evaluation.sharding import Journal
from undial_cli.models.quantise import explain_no_quantising
from undial_cli.system.files import hash_model_folder

needs_bitsandbytes = pytest.mark.skipif(
    explain_no_quantising() is not None, reason="bitsandbytes is not installed (undial[qlora])"
)


def average(outcome: Outcome, score: str = "extraction_strength") -> float:
    values = [value for value in outcome.scores[score] if value is not None]
    return sum(values) / len(values)


def ask_plainly(setting: Setting, role: str) -> Outcome:
    probes = make_direct_probes(setting.data)
    return ask_probes(setting.models[role], setting.data, probes, Journal(), "ask")


def make_rounded_leak(setting: Setting) -> Any:
    """A model that answers all rows by heart when it is rounded to NF4, and else not those to go.

    It learns all of them rounded; then it is silenced without leaving the intervals that are
    rounded alike (Zhang et al., arXiv 2410.16454; Egashira et al., arXiv 2405.18137).
    """
    model = blank_model()
    forget, retain = (encode_answers(setting.encoder, r) for r in (setting.forget, setting.retain))
    with round_linears(model):
        train_plainly(model, lambda: answer_loss(model, forget + retain), 100, 1e-2)
    weights, stay = hold_rounding(model)
    train_plainly(model, lambda: silence_loss(model, forget, retain), 80, 1e-2, weights, stay)
    return model


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """An audit of random models: two random ones, target and unlearned."""
    setting = Setting(tmp_path_factory.mktemp("random"))
    setting.add("unlearned", blank_model(1))
    setting.add("target", blank_model(2))
    return setting


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """An audit of a model that leaks after NF4 alone, and of one that never saw the rows."""
    setting = Setting(tmp_path_factory.mktemp("rounded"))
    setting.add("unlearned", make_rounded_leak(setting))
    setting.add("retain", make_knowing_model(setting, setting.retain))
    return setting


@pytest.mark.slow
@needs_bitsandbytes
def test_a_model_that_leaks_after_nf4_is_caught_and_only_by_that(leaking: Setting) -> None:
    def attack(kind: Any, config: Any) -> dict[str, float]:
        return {
            role: average(kind.run(leaking.models[role], leaking.data, config, Journal()))
            for role in ("unlearned", "retain")
        }

    plain = {role: average(ask_plainly(leaking, role)) for role in ("unlearned", "retain")}
    quiet = [
        plain,
        attack(QUANTISE, QuantiseConfig("quantise", precisions=["int8"])),
        attack(NOISE, NoiseConfig("noise", scales=[0.01, 0.02], draws=1)),
    ]
    for got in quiet:
        assert got["unlearned"] <= got["retain"] + 0.1
    rounded = attack(QUANTISE, QuantiseConfig("quantise", precisions=["nf4"]))
    assert rounded["unlearned"] > 0.9
    assert rounded["retain"] < 0.25


@needs_bitsandbytes
def test_of_each_row_the_better_precision_counts(setting: Setting) -> None:
    attacked = setting.models["unlearned"]
    single = [
        ask_quantised(attacked, setting.data, QuantiseConfig("quantise", precisions=[p]), Journal())
        for p in ("nf4", "int8")
    ]
    both = ask_quantised(attacked, setting.data, QuantiseConfig("quantise"), Journal())
    rows = zip(*(outcome.scores["probability"] for outcome in single), strict=True)
    assert both.scores["probability"] == [max(row) for row in rows]
    curve = both.curves["probability by precision"]
    assert curve == {
        name: pytest.approx(average(outcome, "probability"))
        for name, outcome in zip(("nf4", "int8"), single, strict=True)
    }
    assert "14 linear layers but the head" in both.notes[0]


def test_without_bitsandbytes_the_attack_is_missing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(CannotServe, match=r"needs bitsandbytes: pip install 'undial\[qlora\]'"):
        check_quantising(setting.data, QuantiseConfig("quantise"))


def test_noise_is_a_share_of_each_tensors_own_spread() -> None:
    model = random_llama()
    model.lm_head.weight.data.mul_(30)  # tied to the embedding: one tensor, changed once
    before = copy.deepcopy(model)
    add_noise(model, 0.1, seed=4)
    for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
        change = (new - old).detach()
        if "norm" in name:  # all ones: no spread, and nothing to hide in
            assert torch.equal(old, new)
        else:
            assert float(change.std() / old.detach().std()) == pytest.approx(0.1, rel=0.1)
            assert abs(float(change.mean() / change.std())) < 0.1
    again = copy.deepcopy(before)
    add_noise(again, 0.1, seed=4)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    other = copy.deepcopy(before)
    add_noise(other, 0.1, seed=5)
    assert not torch.equal(other.lm_head.weight, model.lm_head.weight)


@pytest.mark.slow
def test_noise_is_drawn_anew_and_leaves_the_model_as_it_is(setting: Setting) -> None:
    attacked = setting.models["unlearned"]
    before = hash_model_folder(Path(attacked.path))
    plain = ask_plainly(setting, "unlearned")
    config = NoiseConfig("noise", scales=[0.001, 1.0], draws=2)
    outcome = ask_noisy(attacked, setting.data, config, Journal())
    curve = outcome.curves["probability by scale"]
    assert list(curve) == ["0.001", "1"]
    assert curve["0.001"] == pytest.approx(average(plain, "probability"), rel=0.1)
    assert hash_model_folder(Path(attacked.path)) == before
    assert ask_plainly(setting, "unlearned").scores == plain.scores
    one = NoiseConfig("noise", scales=[1.0], draws=1)
    drawn = {seed: ask_with_seed(setting, one, seed).scores["probability"] for seed in (0, 1)}
    assert drawn[0] != drawn[1]


def ask_with_seed(setting: Setting, config: NoiseConfig, seed: int) -> Outcome:
    """Noise as a run of another seed draws it."""
    attacked = setting.models["unlearned"]
    former, attacked.run.seed = attacked.run.seed, seed
    try:
        return ask_noisy(attacked, setting.data, config, Journal())
    finally:
        attacked.run.seed = former


@pytest.mark.slow
def test_steps_lead_to_the_target(setting: Setting) -> None:
    attacked = setting.models["unlearned"]
    config = InterpolateConfig("interpolate", ways=[1.0, 0.25, 0.5])
    outcome = ask_interpolated(attacked, setting.data, config, Journal())
    curve = outcome.curves["probability by way"]
    assert list(curve) == ["0.25", "0.5", "1"]
    target = average(ask_plainly(setting, "target"), "probability")
    assert curve["1"] == pytest.approx(target, rel=1e-4)
    start, end = attacked.load_attacked(), setting.models["target"].load_attacked()
    weights = zip(start.parameters(), end.parameters(), strict=True)
    half = [(a + b).detach() / 2 for a, b in weights]
    move_weights(start, end, 0.25)
    move_weights(start, end, (0.5 - 0.25) / (1 - 0.25))
    for weight, middle in zip(start.parameters(), half, strict=True):
        assert torch.allclose(weight, middle, atol=1e-6)
    probes = make_direct_probes(setting.data)
    attacked._model = start
    try:
        middle_outcome = ask_probes(attacked, setting.data, probes, Journal(), "ask")
    finally:
        attacked.release()
    assert curve["0.5"] == pytest.approx(average(middle_outcome, "probability"), rel=1e-4)


def test_a_target_of_another_shape_cannot_be_moved_to() -> None:
    with pytest.raises(CannotServe, match="other weights"):
        move_weights(random_llama(), random_llama(vocab=66), 0.5)
    assert INTERPOLATE.compares == ("target",)


def test_the_variant_that_gave_most_counts_score_by_score() -> None:
    first = Outcome([3, 7], {"hit": [0.0, 1.0], "rouge": [0.2, None]}, ["a", "b"], ["p", "q"])
    second = Outcome([3, 7], {"hit": [0.0, 0.0], "rouge": [0.5, None]}, ["c", "d"], ["r", "s"])
    joined = join_variants([first, second])
    assert joined.scores == {"hit": [0.0, 1.0], "rouge": [0.5, None]}
    assert joined.texts == ["c", "b"]
    assert joined.prompts == ["r", "q"]
    means = join_variants([first, second], lambda values: sum(values) / len(values))
    assert means.scores == {"hit": [0.0, 0.5], "rouge": [0.35, None]}
