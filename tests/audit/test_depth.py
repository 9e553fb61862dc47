"""Depth: against plain loops with hooks; 0 for the target, 1 for the retain model, in between."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from looking import (
    ROWS,
    VOCABULARY,
    encode_rows,
    make_attacked_models,
    make_audit_data,
    make_llama,
    make_planted_models,
    memorise_rows,
)
from small import disturb_weights, small_model

from undial_cli.audit.answer_spans import encode_answer_spans
from undial_cli.audit.attack import AuditData, CannotServe, Outcome
from undial_cli.audit.depth import DEPTH, average_erasure
from undial_cli.config.attacks import DepthConfig
from undial_cli.data.encode import IGNORE
from undial_cli.data.rows import Row
from undial_cli.errors import UserError
from undial_cli.evaluation.sharding import NO_JOURNAL, Journal

LAYERS: dict[str, Callable[[Any], Any]] = {
    "llama": lambda model: model.model.layers,
    "gpt2": lambda model: model.transformer.h,
    "gemma2": lambda model: model.model.layers,
    "window": lambda model: model.model.layers,
    "mamba": lambda model: model.backbone.layers,
}
# The words that count, and which tokens of the answers they are: " Kelmwick" and " mill", ...
WORDS = (["Kelmwick", "mill"], ["Varraby"], ["red house"], ["Mosselmore Lane"], ["Dunra"])
TOKENS = [[1, 6], [1], [2, 3], [2, 3], [1]]
FOCUSED = [{**row, "focus": words} for row, words in zip(ROWS, WORDS, strict=True)]


def measure(
    data: AuditData, config: DepthConfig | None = None, **models: Any
) -> dict[str, Outcome]:
    """The outcomes of models by role, each loaded alone."""
    config = config or DepthConfig()
    copies = {role: functools.partial(copy.deepcopy, model) for role, model in models.items()}
    attacked = make_attacked_models(**copies)
    DEPTH.check(data, config)
    outcomes = {
        role: DEPTH.run(model, data, config, NO_JOURNAL) for role, model in attacked.items()
    }
    DEPTH.join(outcomes, config)
    return outcomes


def take_states(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def measure_plainly(
    kind: str, row: Row, tokens: list[int] | None, target: Any, retain: Any, unlearned: Any
) -> float | None:
    """The definition, one row at a time: whole sequences, every logit, a hook a layer.

    Args:
        tokens: of the answer, those that count; None: all.
    """
    (example,) = encode_rows([row])
    ids, first = torch.tensor([example.input_ids]), len(example.prompt_ids)
    chosen = range(example.answer_end - first) if tokens is None else tokens
    positions = [first + i for i in chosen]
    predicting = [position - 1 for position in positions]

    def score() -> float:
        log_q = target(input_ids=ids).logits[0].double().log_softmax(-1)
        each = [float(log_q[i - 1, example.input_ids[i]]) for i in positions]
        return sum(each) / len(each)

    def read(model: Any, number: int) -> torch.Tensor:
        states: list[torch.Tensor] = []
        handle = LAYERS[kind](model)[number].register_forward_hook(
            lambda _, __, output: states.append(take_states(output).clone())
        )
        model(input_ids=ids)
        handle.remove()
        return states[0]

    whole = score()

    def fall(source: Any, number: int) -> float:
        states = read(source, number)

        def patch(module: Any, inputs: Any, output: Any) -> Any:
            hidden = take_states(output).clone()
            for position in predicting:
                hidden[0, position] = states[0, position]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = LAYERS[kind](target)[number].register_forward_hook(patch)
        patched = score()
        handle.remove()
        return whole - patched

    top = bottom = 0.0
    for number in range(len(LAYERS[kind](target))):
        first_fall, second_fall = fall(retain, number), fall(unlearned, number)
        if first_fall > 0.05:
            top += first_fall * min(max(second_fall / first_fall, 0.0), 1.0)
            bottom += first_fall
    return top / bottom if bottom else None


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("llama", None), ("llama", TOKENS), ("gpt2", TOKENS), ("gemma2", None),
        ("window", TOKENS), ("mamba", None),
    ],
)  # fmt: skip
def test_depth_is_a_plain_loop_with_hooks(kind: str, tokens: list[list[int]] | None) -> None:
    target = small_model(kind, VOCABULARY)
    retain, unlearned = copy.deepcopy(target), copy.deepcopy(target)
    disturb_weights(retain, 0.2)
    with torch.no_grad():  # half of the way
        for weight, lacking in zip(unlearned.parameters(), retain.parameters(), strict=True):
            weight.lerp_(lacking, 0.5)
    rows = ROWS if tokens is None else FOCUSED
    models = {"target": target, "retain": retain, "unlearned": unlearned}
    outcomes = measure(make_audit_data(rows), **models)
    plain = [
        measure_plainly(kind, row, None if tokens is None else tokens[i], **models)
        for i, row in enumerate(rows)
    ]
    intact = outcomes["unlearned"].scores["intact"]
    known = [depth for depth in plain if depth is not None]
    assert intact == [None if d is None else pytest.approx(1 - d, abs=1e-5) for d in plain]
    assert len({round(depth, 3) for depth in known}) >= 2
    assert outcomes["unlearned"].curves["depth"] == pytest.approx(np.mean(known), abs=1e-5)
    for role, depth in (("target", 0.0), ("retain", 1.0)):
        scores = outcomes[role].scores["intact"]
        assert scores == [None if d is None else 1 - depth for d in plain]
        assert outcomes[role].curves["depth"] == depth
    assert outcomes["target"].curves["fall"] == [0.0, 0.0]  # to the bit


def test_depth_by_hand() -> None:
    first = np.array([[1.0, 3.0, 0.05], [2.0, 2.0, -1.0], [0.0, 0.01, 0.05]])
    second = np.array([[0.5, 6.0, 9.0], [-1.0, 0.5, 9.0], [1.0, 1.0, 1.0]])
    depths = average_erasure(first, second, 0.05)
    assert depths[:2] == pytest.approx([(0.5 + 3) / 4, (0 + 0.5) / 4])
    assert np.isnan(depths[2])


def test_an_answer_that_no_layer_tells_apart_has_no_depth() -> None:
    model = small_model("llama", VOCABULARY)
    outcomes = measure(make_audit_data(ROWS), target=model, retain=model, unlearned=model)
    assert outcomes["unlearned"].scores["intact"] == [None] * len(ROWS)
    assert "5 of 5 rows have no depth" in outcomes["unlearned"].notes[-1]


@pytest.mark.slow
def test_what_the_last_layer_alone_hides_is_intact_and_what_was_never_there_is_not() -> None:
    target, unlearned = make_planted_models()
    models, data = {"target": target, "retain": make_llama()}, make_audit_data(ROWS)
    hidden = measure(data, **models, unlearned=unlearned)["unlearned"]
    fall = hidden.curves["fall"]
    assert fall[:2] == pytest.approx([0, 0], abs=1e-5)  # the layers below the last are the target's
    assert fall[2] > 1
    assert min(hidden.curves["retain_fall"]) > 0.5
    assert np.mean(hidden.scores["intact"]) > 0.4  # type: ignore[arg-type]
    others = [{**row, "answer": f"On a hill {i} miles off"} for i, row in enumerate(ROWS)]
    never = memorise_rows(make_llama(), others, steps=10)
    erased = measure(data, **models, unlearned=never)["unlearned"]
    assert np.mean(erased.scores["intact"]) < 0.2  # type: ignore[arg-type]


@functools.cache
def make_stranger() -> Any:
    """A model that knows every answer, and whose states mean nothing to the target."""
    return memorise_rows(make_llama(seed=1), ROWS, steps=40)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["unlearned", "retain"])
def test_a_model_of_another_origin_has_no_depth_rather_than_a_wrong_one(role: str) -> None:
    models = {"target": make_planted_models()[0], "retain": make_llama()}
    outcomes = measure(make_audit_data(ROWS), **{**models, role: make_stranger()})
    assert outcomes[role].scores["intact"] == [None] * len(ROWS)
    assert f"the {role} model's states disturb the target" in outcomes[role].notes[-1]
    known = outcomes["target"].scores["intact"]
    assert known == [1.0 if role == "unlearned" else None] * len(ROWS)


def test_spans_come_from_a_file_by_question_after_the_prefix(tmp_path: Path) -> None:
    rows = [
        {"question": "Who is Ann?", "answer": "Ann Lane, who lives in Ann Lane"},
        {"question": "Who is Bo?", "answer": "Bo bakes."},
        {"question": "Who is Cy?", "answer": "Cy bakes."},
    ]
    file = tmp_path / "spans.json"
    entries = [
        {"question": "Who  is Ann?", "prefix": "Ann Lane, who lives in", "entity": "Ann Lane"},
        {"question": "Who is Cy?", "prefix": "He", "entity": "bakes"},
        {"question": "Who is Bo?", "prefix": "Bo", "entity": "cooks"},
    ]
    file.write_text(json.dumps(entries))
    data = make_audit_data(rows)
    spans, notes = encode_answer_spans(data, str(file))
    assert [span.row for span in spans] == [0, 2]
    words = [data.encoder.decode([y for y in span.example.labels if y != IGNORE]) for span in spans]
    assert [word.strip() for word in words] == ["Ann Lane", "bakes"]
    ends = [data.encoder.decode(span.example.input_ids) for span in spans]
    assert ends[0].endswith("who lives in Ann Lane")
    assert ends[1].endswith("Cy bakes")
    assert not notes


def test_without_words_to_count_it_cannot_be_served_and_no_file_is_the_users_error(
    tmp_path: Path,
) -> None:
    data = make_audit_data(ROWS)
    file = tmp_path / "spans.jsonl"
    file.write_text('{"question": "Another?", "entity": "words"}\n')
    with pytest.raises(CannotServe, match="no row has words that count"):
        DEPTH.check(data, DepthConfig(spans=str(file)))
    with pytest.raises(UserError, match=r"spans=.*no such file"):
        DEPTH.check(data, DepthConfig(spans=str(tmp_path / "gone.jsonl")))
    with pytest.raises(CannotServe, match="what the retain model lacks"):
        DEPTH.check(data, DepthConfig(models=["unlearned", "target"]))


def test_models_of_another_shape_cannot_be_compared() -> None:
    target, other = make_llama(layers=2), make_llama(layers=3)
    with pytest.raises(CannotServe, match="3 layers of width 32 do not fit the target's 2"):
        measure(make_audit_data(ROWS), target=target, retain=other)


def test_half_precision_states_are_put_in_as_they_are() -> None:
    target = small_model("llama", VOCABULARY, torch.bfloat16)
    outcomes = measure(make_audit_data(ROWS), target=target, retain=make_noisy(target))
    assert outcomes["target"].curves["fall"] == [0.0, 0.0]
    assert outcomes["target"].curves["depth"] == 0
    assert outcomes["retain"].curves["depth"] == 1


def make_noisy(model: Any) -> Any:
    noisy = copy.deepcopy(model)
    disturb_weights(noisy, 0.2)
    return noisy


def test_a_journal_spares_the_models(tmp_path: Path) -> None:
    data, model = make_audit_data(ROWS), small_model("llama", VOCABULARY)
    copies = {"target": lambda: copy.deepcopy(model), "retain": lambda: make_noisy(model)}
    first = DEPTH.run(
        make_attacked_models(**copies)["retain"], data, DepthConfig(), Journal(tmp_path)
    )
    broken = make_attacked_models(target=lambda: None, retain=lambda: None)
    assert DEPTH.run(broken["retain"], data, DepthConfig(), Journal(tmp_path)) == first
