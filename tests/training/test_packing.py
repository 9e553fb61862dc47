"""Micro-batches without padding against padded ones: the same mathematics, fewer tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_families import tiny_config
from small import disturb_weights, random_llama, small_model, without_float32
from steps import NeedingLoss, run_term
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import (
    EMPTY_EXAMPLE,
    LEAST_SHARED_TOKENS,
    Batch,
    count_shared_tokens,
    make_padded_batch,
)
from undial_cli.data.encode import IGNORE, Example
from undial_cli.methods import make_method
from undial_cli.methods.base import REFERENCE_LOGPS, RETAIN_TERMS, TEACHER_LOGITS, Loss
from undial_cli.methods.npo import NpoConfig
from undial_cli.methods.undial import UndialConfig
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.models.head import head_job, install_head
from undial_cli.models.lora import adapt_model
from undial_cli.training import packing
from undial_cli.training.packing import (
    PACKED_ATTENTION,
    Pack,
    attend_packed,
    pack_batch,
    switch_attention,
    why_not_packed,
)
from undial_cli.training.teacher import AdapterTeacher, Teacher
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import compute_term_sum

VOCABULARY = 48
BOTH = NeedingLoss(TEACHER_LOGITS, REFERENCE_LOGPS)
LOSSES: dict[str, Callable[[], Loss]] = {
    "undial": lambda: make_method(UndialConfig(name="undial", strength=4.0)),
    "npo": lambda: make_method(NpoConfig(name="npo", beta=0.3)),
    **RETAIN_TERMS,
}


def sequence(shared: int, own: int, first_target: int | None, seed: int) -> Example:
    """A common beginning, then tokens of its own; targets from a place on."""
    generator = torch.Generator().manual_seed(seed)
    ids = [(3 * i) % 7 + 1 for i in range(shared)]
    ids += torch.randint(8, VOCABULARY, (own,), generator=generator).tolist()
    start = len(ids) if first_target is None else first_target
    return Example(ids, [IGNORE] * start + ids[start:], len(ids))


def hole(found: Example) -> Example:
    """The same sequence with a gap in its targets, and its first token named as one."""
    labels = [found.input_ids[0], *found.labels[1:-2], IGNORE, found.labels[-1]]
    return Example(found.input_ids, labels, found.answer_end)


# Name: the examples, and the tokens that a packed batch begins with once.
SETS: dict[str, tuple[list[Example], int]] = {
    "apart": ([sequence(0, n, 2, n) for n in (9, 4, 12)], 0),
    "prompt": ([sequence(12, n, 14, n) for n in (9, 4, 12, 5)], 12),
    "short prompt": ([sequence(7, n, 9, n) for n in (9, 4, 12)], 0),
    "documents": ([sequence(12, n, 0, n) for n in (9, 4, 12)], 0),
    "an early target": ([sequence(12, 6, 14, 1), sequence(12, 9, 10, 2)], 9),
    "a target just too early": ([sequence(12, 6, 14, 1), sequence(12, 9, 8, 2)], 0),
    "target right after": ([sequence(12, n, 12, n) for n in (9, 4)], 11),
    "equal": ([sequence(12, 6, 13, 1)] * 3, 12),
    "no target in one": ([sequence(12, 6, 13, 1), sequence(12, 5, None, 2)], 12),
    "no target at all": ([sequence(12, 6, None, 1), sequence(12, 5, None, 2)], 12),
    "one is the beginning of another": ([sequence(12, 0, None, 1), sequence(12, 5, 13, 2)], 11),
    "holes": ([hole(sequence(12, n, 13, n)) for n in (9, 5)], 12),
    "one": ([sequence(12, 9, 13, 1)], 0),
    "one token each": ([sequence(0, 1, 0, n) for n in range(3)], 0),
    "one of one token": ([sequence(12, 6, 13, 1), sequence(1, 0, 0, 1), sequence(12, 5, 13, 2)], 0),
}
EMPTY_ROWS = {
    "last": ([0, 1, 2, -1, -1], 12),
    "first and between": ([-1, 0, -1, 2], 12),
    "all but one": ([-1, 3, -1], 0),
    "all": ([-1, -1], 0),
    "twice the same": ([1, 1, -1], 13),
}


# Models whose norms or rotations are in float32 whatever their weights are in.
FLOAT32_INSIDE = ("gemma3", "cohere")


def batches(chosen: list[Example], indices: list[int]) -> tuple[Batch, Batch]:
    """The same micro-batch padded and packed."""
    rows = [chosen[i] if i >= 0 else EMPTY_EXAMPLE for i in indices]
    return make_padded_batch(rows, indices), pack_batch(rows, indices)


def model_of(kind: str) -> Any:
    """A small float64 model whose every parameter matters."""
    if kind == "untied":
        model: Any = random_llama(VOCABULARY, False, torch.float64)
    elif kind == "lora":
        model = random_llama(VOCABULARY, dtype=torch.float64)
        model = adapt_model(model, AdapterConfig(name="lora", dropout=0.0), seed=0).double()
    else:
        model = small_model(kind, VOCABULARY, torch.float64)
    disturb_weights(model, 0.05, seed=3)  # biases of some begin at zero
    return without_float32(model.eval())


def teacher_of(kind: str, model: nn.Module, chosen: list[Example], folder: Path) -> Teacher:
    """A teacher that differs from the model."""
    if kind == "lora":
        return AdapterTeacher()
    teacher = CachedTeacher(model, folder, "", share_head=False)
    teacher.add("forget", chosen, list(range(len(chosen))), BOTH)
    teacher.fill(model, make_padded_batch)
    disturb_weights(model, 0.05, seed=4)
    return teacher


def outcome(
    model: Any, teacher: Teacher, loss: Loss, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss of a micro-batch and the gradient of every trained parameter."""
    value, gradients = run_term(model, teacher, loss, batch)
    assert gradients.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    return value, gradients


def same(
    found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], kind: str
) -> None:
    """Two outcomes are equal to 1e-9, or to what a model's own float32 arithmetic allows."""
    tolerance = 1e-5 if kind in FLOAT32_INSIDE else 1e-9
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        size = float(gradient.abs().max()) if kind in FLOAT32_INSIDE else 1.0
        torch.testing.assert_close(
            found[1][name], gradient, rtol=tolerance, atol=tolerance * size, msg=name
        )


def agree(model: Any, teacher: Teacher, pair: tuple[Batch, Batch], kind: str = "llama") -> None:
    """Every loss and all its gradients are equal on a padded and a packed batch."""
    for make in LOSSES.values():
        expected, found = (outcome(model, teacher, make(), batch) for batch in pair)
        same(found, expected, kind)


@pytest.mark.parametrize("name", SETS)
def test_packed_and_padded_give_the_same_losses_and_gradients(name: str, tmp_path: Path) -> None:
    chosen, shared = SETS[name]
    model = model_of("llama")
    teacher = teacher_of("llama", model, chosen, tmp_path)
    pair = batches(chosen, list(range(len(chosen))))
    assert pair[1].layout["pack"].shared == shared
    agree(model, teacher, pair)


@pytest.mark.parametrize("name", EMPTY_ROWS)
def test_empty_rows_change_nothing(name: str, tmp_path: Path) -> None:
    chosen, (indices, shared) = SETS["prompt"][0], EMPTY_ROWS[name]
    model = model_of("llama")
    teacher = teacher_of("llama", model, chosen, tmp_path)
    pair = batches(chosen, indices)
    assert pair[1].layout["pack"].shared == shared
    agree(model, teacher, pair)
    for make in LOSSES.values() if name == "all" else []:
        value, gradients = outcome(model, teacher, make(), pair[1])
        assert float(value) == 0
        assert not any(g.any() for g in gradients.values())


KINDS = [
    (kind, name) for kind in ("untied", "gpt2", "qwen2", "lora") for name in ("apart", "prompt")
]
KINDS += [(kind, "prompt") for kind in ("gemma3", "cohere", "granite")]


@pytest.mark.parametrize("kind, name", KINDS)
def test_other_models_and_adapters_give_the_same_losses_and_gradients(
    kind: str, name: str, tmp_path: Path
) -> None:
    chosen = SETS[name][0]
    model = model_of(kind)
    teacher = teacher_of(kind, model, chosen, tmp_path)
    agree(model, teacher, batches(chosen, [0, 1, -1, 2]), kind)


@pytest.mark.parametrize("name", ["apart", "prompt"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "lora"])
def test_recomputed_activations_give_the_same_loss_and_gradients(
    kind: str, name: str, tmp_path: Path
) -> None:
    chosen, loss = SETS[name][0], LOSSES["undial"]()
    model = model_of(kind)
    teacher = teacher_of(kind, model, chosen, tmp_path)
    pair = batches(chosen, [0, -1, 1, 2])
    expected = outcome(model, teacher, loss, pair[0])
    model.gradient_checkpointing_enable()
    if kind == "lora":
        model.enable_input_require_grads()
    calls = []
    unwrap_adapter(model).model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    model.train()
    found = outcome(model, teacher, loss, pair[1])
    asked = isinstance(teacher, AdapterTeacher)  # in a pass of its own
    assert len(calls) == asked + 2  # forward, and once more on the way back
    same(found, expected, kind)


@pytest.mark.parametrize("name", SETS)
def test_no_token_is_computed_twice_and_none_is_padding(name: str) -> None:
    chosen, shared = SETS[name]
    _, batch = batches(chosen, list(range(len(chosen))))
    tokens = shared + sum(len(e.input_ids) - shared for e in chosen)
    assert batch.input_ids.shape == (1, tokens)
    assert batch.tokens == sum(len(e.input_ids) for e in chosen)
    widths = []
    model = model_of("llama")
    model.model.layers[0].mlp.register_forward_pre_hook(
        lambda _, args: widths.append(args[0].shape[:-1].numel())
    )
    with switch_attention(model, PACKED_ATTENTION):
        compute_term_sum(model, AdapterTeacher(), "forget", LOSSES["gdr"](), batch)
    assert widths == [tokens]


def plain_shared_length(chosen: list[Example]) -> int:
    """The longest common beginning that no example's predicting position is a part of."""
    longest = 0
    for length in range(1, min(len(e.input_ids) for e in chosen)):
        same = len({tuple(e.input_ids[:length]) for e in chosen}) == 1
        predicts = any(y != IGNORE for e in chosen for y in e.labels[1 : length + 1])
        if same and not predicts:
            longest = length
    return longest if len(chosen) > 1 and longest >= LEAST_SHARED_TOKENS else 0


@st.composite
def example_sets(draw: st.DrawFn) -> tuple[list[Example], list[int]]:
    """Examples that begin alike for a while, and where they stand in their set (-1: empty)."""
    beginning = draw(st.lists(st.integers(1, 3), max_size=14))
    chosen = []
    for _ in range(draw(st.integers(1, 5))):
        ids = beginning[: draw(st.integers(0, len(beginning)))]
        ids = [*(ids if draw(st.booleans()) else beginning)]
        ids += draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=0 if ids else 1, max_size=7))
        start = draw(st.integers(0, len(ids)))
        holes = draw(st.sets(st.integers(0, 20), max_size=4))
        labels = [y if i >= start and i not in holes else IGNORE for i, y in enumerate(ids)]
        chosen.append(Example(ids, labels, len(ids)))
    indices = [draw(st.sampled_from([-1, 5, 6])) for _ in chosen]
    return [e if i >= 0 else EMPTY_EXAMPLE for e, i in zip(chosen, indices, strict=True)], indices


def rows_of(pack: Pack) -> list[Tensor]:
    """The tokens of each sequence after the shared ones, in the order of the batch."""
    widths = [longest for rows, longest in pack.shapes for _ in range(rows)]
    rows = [row[pack.shared :] for row in pack.token_S.split(widths)]
    return sorted(rows, key=lambda row: int(row[0]))


@settings(deadline=None, max_examples=100)
@given(found=example_sets())
@example(found=([EMPTY_EXAMPLE, EMPTY_EXAMPLE], [-1, -1]))
@example(found=([Example([1] * 9, [1] * 9, 9), Example([1] * 9, [1] * 9, 9)], [0, 1]))
def test_the_layout_holds_every_sequence_whole(found: tuple[list[Example], list[int]]) -> None:
    examples, indices = found
    batch = pack_batch(examples, indices)
    pack: Pack = batch.layout["pack"]
    real = [e for e, i in zip(examples, indices, strict=True) if i >= 0] or examples[:1]
    ids, positions = batch.input_ids[0], batch.layout["position_ids"][0]
    assert len(ids) == len(positions)
    held = [e for e, i in zip(examples, indices, strict=True) if i >= 0]
    assert batch.tokens == sum(len(e.input_ids) for e in held)
    assert pack.shared == plain_shared_length(real) == count_shared_tokens(real)
    assert len(ids) == pack.shared + sum(len(e.input_ids) - pack.shared for e in real)
    assert len(rows_of(pack)) == len(real)
    places = []
    for tokens_T, sequence in zip(rows_of(pack), real, strict=True):
        rest = tokens_T[: len(sequence.input_ids) - pack.shared]
        place = torch.cat([torch.arange(pack.shared), rest])
        assert ids[place].tolist() == sequence.input_ids
        assert positions[place].tolist() == list(range(len(sequence.input_ids)))
        places.append(place.tolist())
    for part, (rows, longest) in zip(
        pack.token_S.split([rows * longest for rows, longest in pack.shapes]),
        pack.shapes,
        strict=True,
    ):
        lengths = [len(set(row)) for row in part.view(rows, longest).tolist()]
        assert min(lengths) >= 0.75 * max(lengths)
    assert pack.token_S[pack.place_N].tolist() == list(range(len(ids)))
    assert pack.token_S[pack.shared_places].tolist() == list(range(pack.shared)) * len(real)
    expected, numbers = [], iter(places)
    for row, (sequence, index) in enumerate(zip(examples, indices, strict=True)):
        place = next(numbers) if index >= 0 else []
        targets = [i for i, y in enumerate(sequence.labels) if i and y != IGNORE]
        assert batch.counts[row] == len(targets)
        expected += [(place[i - 1], row, sequence.labels[i]) for i in targets]
    columns = (batch.positions_N, batch.sequence_N, batch.targets_N)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
    assert all(place >= pack.shared for place, _, _ in expected)
    assert batch.index == indices


LLAMA = without_float32(random_llama(VOCABULARY, dtype=torch.float64))


@torch.no_grad()
def hidden(batch: Batch) -> Tensor:
    """What the head is given at the positions that predict a target."""

    def job(hidden_BTD: Tensor, head: Any) -> Tensor:
        return hidden_BTD.flatten(0, 1)[batch.positions_N]

    with (
        head_job(LLAMA, job),
        switch_attention(LLAMA, PACKED_ATTENTION if "pack" in batch.layout else "sdpa"),
    ):
        return LLAMA(input_ids=batch.input_ids, use_cache=False, **batch.layout).logits


@settings(deadline=None, max_examples=25)
@given(found=example_sets())
def test_any_sequences_have_the_hidden_states_they_have_with_padding(
    found: tuple[list[Example], list[int]],
) -> None:
    torch.testing.assert_close(
        hidden(pack_batch(*found)), hidden(make_padded_batch(*found)), rtol=1e-9, atol=1e-9
    )


def plain_attention(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention of one query [d] to keys and values [n, d]."""
    weights = (keys @ query * scale).exp()
    return (weights / weights.sum()) @ values


@pytest.mark.parametrize("heads, groups", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("name", ["apart", "prompt"])
def test_attention_is_that_of_each_token_to_those_before_it(
    name: str, scaling: float | None, heads: int, groups: int
) -> None:
    chosen, width = SETS[name][0], 6
    _, batch = batches(chosen, list(range(len(chosen))))
    pack: Pack = batch.layout["pack"]
    size = batch.input_ids.numel()
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, n, size, width, dtype=torch.float64) for n in (heads, groups, groups)
    )
    found, _ = attend_packed(None, query, key, value, None, scaling, pack=pack)
    assert found.shape == (1, size, heads, width)
    before: dict[int, list[int]] = {t: list(range(t + 1)) for t in range(pack.shared)}
    for tokens_T, sequence in zip(rows_of(pack), chosen, strict=True):
        own = tokens_T.tolist()[: len(sequence.input_ids) - pack.shared]
        for n, t in enumerate(own):
            before[t] = [*range(pack.shared), *own[: n + 1]]
    assert len(before) == size
    for t, seen in before.items():
        for h in range(heads):
            g = h // (heads // groups)
            plain = plain_attention(
                query[0, h, t], key[0, g, seen], value[0, g, seen], scaling or width**-0.5
            )
            torch.testing.assert_close(found[0, t, h], plain, rtol=1e-9, atol=1e-12)


def test_packed_attention_serves_nothing_else() -> None:
    states = torch.zeros(1, 2, 3, 4)
    pack = Pack(0, [(1, 3)], torch.arange(3), torch.arange(3), torch.arange(0))
    with pytest.raises(ValueError, match="packed micro-batches only"):
        attend_packed(None, states, states, states, None)
    with pytest.raises(ValueError, match="packed micro-batches only"):
        attend_packed(None, states, states, states, torch.ones(1, 1, 3, 3), pack=pack)
    with pytest.raises(ValueError, match="softcap"):
        attend_packed(None, states, states, states, None, pack=pack, softcap=50.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma3", "cohere", "granite"])
def test_models_that_attend_to_the_whole_sequence_can_be_packed(
    kind: str, dtype: torch.dtype
) -> None:
    model = small_model(kind, VOCABULARY, dtype)
    assert why_not_packed(model, max_length=200) is None
    assert model.config._attn_implementation == "sdpa"
    assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "packed, alone, exact, near",
    [
        (0.019, 0.0, False, True),
        (0.04, 0.03, False, True),  # as a 32-layer model in bfloat16 rounds on a GPU
        (0.1, 0.03, False, False),
        (0.4, 0.3, False, False),
        (0.0009, 0.0, True, True),
        (0.0011, 0.0011, True, False),
    ],
)
def test_half_precision_is_allowed_what_rounding_does_without_packing(
    packed: float, alone: float, exact: bool, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(_: Any, examples: list[Example], attention: str) -> Tensor:
        padded = torch.ones(len(examples), 4)
        if attention == PACKED_ATTENTION:
            return padded * (1 + packed)
        return padded * (1 + alone) if len(examples) == 1 else padded

    monkeypatch.setattr(packing, "compute_probed_states", compute)
    probe = [sequence(0, 3, 1, 1), sequence(0, 4, 1, 2)]
    assert packing.is_packing_near(None, probe, exact) is near


def test_a_window_shorter_than_the_sequences_is_refused() -> None:
    model = small_model("window", VOCABULARY, sliding_window=64)
    assert why_not_packed(model, max_length=64) is None
    assert why_not_packed(model, max_length=65) == (
        "model of type 'mistral' does not attend to the whole sequence"
    )


def window_model(family: str, window: int) -> Any:
    """A tiny model with a limit to what some layer attends to, wherever its config says so."""
    config = tiny_config(family)
    text = config.get_text_config(decoder=True)
    name = "attention_chunk_size" if family.startswith("llama4") else "sliding_window"
    assert getattr(text, name) == 16
    setattr(text, name, window)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    install_head(model)
    return model


@pytest.mark.parametrize("family", ["llama4_text", "gemma3", "gemma3_text"])
def test_a_chunk_or_a_window_at_any_depth_is_seen(family: str) -> None:
    assert why_not_packed(window_model(family, 64), 64) is None
    reason = why_not_packed(window_model(family, 64), 65)
    assert reason is not None
    assert "does not attend to the whole sequence" in reason


class Windowed(LlamaForCausalLM):
    """A Llama that attends to the last tokens only, and says so nowhere."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        size = kwargs["input_ids"].shape[1]
        if self.config._attn_implementation == "sdpa" and size > 48:
            seen = torch.ones(size, size, dtype=torch.bool).tril().triu(-47)
            kwargs["attention_mask"] = seen[None, None]
        return super().forward(*args, **kwargs)


def test_a_window_that_no_config_names_is_found_by_trying() -> None:
    model = random_llama(VOCABULARY)
    model.__class__ = Windowed
    assert why_not_packed(model, 48) is None
    assert why_not_packed(model, 60) == "model of type 'llama' gives something else for it"


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_eager_attention_is_refused(kind: str) -> None:
    model = small_model(kind, VOCABULARY)
    model.config._attn_implementation = "eager"
    assert why_not_packed(model, 20) == "it needs model.attn_implementation=sdpa"


def test_attention_with_a_cap_is_refused() -> None:
    model = small_model("gemma2", VOCABULARY)
    model.config._attn_implementation = "sdpa"
    assert why_not_packed(model, 20) == "model of type 'gemma2' gives something else for it"
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["alibi", "neo", "mamba"])
def test_models_that_do_without_transformers_attention_are_refused(kind: str) -> None:
    model = small_model(kind, VOCABULARY)
    model.config._attn_implementation = "sdpa"
    reason = why_not_packed(model, 20)
    assert reason is not None
    assert f"'{model.config.model_type}'" in reason


class Blurred(LlamaForCausalLM):
    """A Llama whose every layer mixes neighbouring tokens, whichever sequence they are of."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def blur(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] + inputs[0].roll(1, dims=1), *inputs[1:])

        handle = self.model.layers[1].register_forward_pre_hook(blur)
        try:
            return super().forward(*args, **kwargs)
        finally:
            handle.remove()


def test_a_model_that_mixes_tokens_outside_its_attention_is_refused() -> None:
    model = random_llama(VOCABULARY)
    model.__class__ = Blurred
    assert why_not_packed(model, 20) == "model of type 'llama' gives something else for it"


def test_the_models_own_attention_comes_back() -> None:
    model = random_llama(VOCABULARY)
    with switch_attention(model, PACKED_ATTENTION):
        assert model.config._attn_implementation == PACKED_ATTENTION
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ZeroDivisionError), switch_attention(model, PACKED_ATTENTION):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"


def test_a_model_saved_while_it_is_packed_is_an_ordinary_one(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY)
    with switch_attention(model, PACKED_ATTENTION):
        model.save_pretrained(tmp_path)
    assert PACKED_ATTENTION not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_batch_moves_whole_with_its_layout() -> None:
    chosen = SETS["prompt"][0]
    for batch in batches(chosen, [0, 1, 2, 3]):
        moved = batch.to(torch.device("meta"))
        assert {moved.input_ids.device.type, moved.positions_N.device.type} == {"meta"}
        assert {moved.targets_N.device.type, moved.sequence_N.device.type} == {"meta"}
        assert (moved.counts, moved.index) == (batch.counts, batch.index)
        assert moved.layout.keys() == batch.layout.keys()
        if "pack" in moved.layout:
            pack = moved.layout["pack"]
            tensors = (pack.token_S, pack.place_N, pack.shared_places, moved.layout["position_ids"])
            assert {t.device.type for t in tensors} == {"meta"}
            assert (pack.shared, pack.shapes) == (
                batch.layout["pack"].shared,
                batch.layout["pack"].shapes,
            )
