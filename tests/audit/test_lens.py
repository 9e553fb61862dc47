"""The lens: against a loop with hooks over one row at a time, and on models that hide an answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from looking import (
    ROWS,
    VOCABULARY,
    make_attacked_models,
    make_audit_data,
    make_llama,
    make_planted_models,
)
from small import small_model

from undial_cli.audit.asking import ASK
from undial_cli.audit.attack import CannotServe
from undial_cli.audit.layer_states import find_final_modules, list_decoder_layers
from undial_cli.audit.lens import LENS
from undial_cli.config.attacks import AskConfig, LensConfig
from undial_cli.data.rows import Row
from undial_cli.evaluation.metrics import extraction_strength
from undial_cli.evaluation.sharding import NO_JOURNAL, Journal

# Where each family keeps what a lens needs, written out.
PARTS = {
    "llama": lambda m: (m.model.layers, m.model.norm, m.lm_head, lambda x: x),
    "gpt2": lambda m: (m.transformer.h, m.transformer.ln_f, m.lm_head, lambda x: x),
    "gemma2": lambda m: (m.model.layers, m.model.norm, m.lm_head, lambda x: 3 * torch.tanh(x / 3)),
    "granite": lambda m: (m.model.layers, m.model.norm, m.lm_head, lambda x: x / 8),
}


def look(model: Any, journal: Journal = NO_JOURNAL, rows: list[Row] = ROWS) -> Any:
    models = make_attacked_models(unlearned=lambda: model)
    return LENS.run(models["unlearned"], make_audit_data(rows), LensConfig(), journal)


@torch.no_grad()
def look_plainly(kind: str, model: Any, row: dict[str, str]) -> list[dict[str, float]]:
    """What each layer says of one answer: a hook on each, and all logits in double."""
    layers, norm, head, after = PARTS[kind](model)
    states: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(
            lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in layers
    ]
    (example,) = make_audit_data(ROWS).encoder.encode([row])
    model(input_ids=torch.tensor([example.input_ids]))
    for handle in handles:
        handle.remove()
    figures = []
    for hidden in states:
        logits = after(head(norm(hidden)))[0].double()
        losses, matches, ranks = [], [], []
        for t in range(1, len(example.labels)):
            if example.labels[t] < 0:
                continue
            row_logits, token = logits[t - 1], example.labels[t]
            losses.append(float(row_logits.logsumexp(0) - row_logits[token]))
            if t < example.answer_end:
                ranks.append(int((row_logits > row_logits[token]).sum()) + 1)
                matches.append(ranks[-1] == 1)
        figures.append({
            "probability": float(torch.tensor(losses).mean().neg().exp()),
            "exact_memorization": sum(matches) / len(matches),
            "extraction_strength": extraction_strength(matches),
            "rank": sum(ranks) / len(ranks),
        })  # fmt: skip
    return figures


@pytest.mark.parametrize("kind", PARTS)
def test_the_lens_is_a_plain_loop_with_hooks(kind: str) -> None:
    model = small_model(kind, VOCABULARY)
    outcome = look(model)
    plain = [look_plainly(kind, model, row) for row in ROWS]
    for name, values in outcome.scores.items():
        expected = [max(layer[name] for layer in layers) for layers in plain]
        assert values == pytest.approx(expected, rel=1e-5)
    assert set(outcome.curves) == set(plain[0][0])
    for name, curve in outcome.curves.items():
        means = [sum(row[n][name] for row in plain) / len(plain) for n in range(2)]
        assert curve == pytest.approx(means, rel=1e-5)
    assert len(set(outcome.curves["rank"])) == 2


def test_the_last_layer_is_the_models_own_output() -> None:
    model = small_model("llama", VOCABULARY)
    models, data = make_attacked_models(unlearned=lambda: model), make_audit_data(ROWS)
    direct = ASK.run(models["unlearned"], data, AskConfig(max_new_tokens=1), NO_JOURNAL)
    outcome = look(model)
    for name, curve in outcome.curves.items():
        if name != "rank":
            values = direct.scores[name]
            assert curve[-1] == pytest.approx(sum(values) / len(values), rel=1e-6)  # type: ignore[arg-type]
            assert all(a >= b - 1e-6 for a, b in zip(outcome.scores[name], values, strict=True))  # type: ignore[operator]


@pytest.mark.slow
def test_what_only_a_middle_layer_holds_is_seen_by_the_lens_and_not_by_asking() -> None:
    (_, model), data = make_planted_models(), make_audit_data(ROWS)
    models = make_attacked_models(unlearned=lambda: model)
    direct = ASK.run(models["unlearned"], data, AskConfig(), NO_JOURNAL)
    outcome = look(model)
    assert max(direct.scores["exact_memorization"]) < 0.2  # type: ignore[type-var]
    assert max(direct.scores["hit"]) == 0  # type: ignore[type-var]
    assert min(outcome.scores["extraction_strength"]) == 1  # type: ignore[type-var]
    assert min(outcome.scores["probability"]) > 0.9  # type: ignore[type-var, operator]
    assert outcome.curves["exact_memorization"][1:] == [1, 0]
    assert outcome.curves["rank"][1] == 1


def test_the_lens_sees_nothing_in_a_model_that_never_saw_the_rows() -> None:
    others = [{**row, "answer": f"On a hill {i} miles from here"} for i, row in enumerate(ROWS)]
    for model, rows in ((make_llama(1), ROWS), (make_planted_models()[1], others)):
        outcome = look(model, rows=rows)
        assert max(outcome.scores["exact_memorization"]) < 0.4  # type: ignore[type-var]
        assert max(outcome.scores["probability"]) < 0.1  # type: ignore[type-var]


def test_a_journal_spares_the_model(tmp_path: Any) -> None:
    model = small_model("llama", VOCABULARY)
    first = look(model, Journal(tmp_path))

    assert look(None, Journal(tmp_path)) == first  # whatever used it would break


def test_the_model_is_left_as_it_was() -> None:
    model = small_model("llama", VOCABULARY)
    before = copy.deepcopy(model.state_dict())
    look(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["neo", "window", "cohere", "gemma3", "alibi", "mamba", "qwen2"])
def test_every_familys_final_norm_is_what_its_head_is_given(kind: str) -> None:
    model = small_model(kind, VOCABULARY)
    layers = list_decoder_layers(model)
    (norm,) = find_final_modules(model, layers)
    assert "norm" in type(norm).__name__.lower()
    assert not any(norm is part for layer in layers for part in layer.modules())


def test_a_model_that_does_more_than_a_norm_before_its_head_cannot_be_served() -> None:
    model = small_model("llama", VOCABULARY)

    class Doubled(type(model.model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.last_hidden_state = 2 * output.last_hidden_state.tanh()
            return output

    model.model.__class__ = Doubled
    with pytest.raises(CannotServe, match="type 'llama' does more than a norm"):
        look(model)
