"""Two models decoded as one, against the formula on the full logits of each."""

from __future__ import annotations

import copy
import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import prepare, refused
from small import bundled_tokenizer, random_llama, small_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import EvaluateRun, UnlearnRun
from undial_cli.config.training import AdapterConfig
from undial_cli.data.example import Example
from undial_cli.evaluation.continuation import continue_prefixes
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.scoring import compute_gradient_norms, score_answers
from undial_cli.methods import make_method
from undial_cli.methods.contrastive_decoding import ContrastiveDecodingConfig
from undial_cli.models.capacity import count_table_positions
from undial_cli.models.contrastive import ContrastedModel
from undial_cli.models.fingerprints import fingerprint_weights
from undial_cli.models.head import find_output_head
from undial_cli.models.inspection import check_model
from undial_cli.models.load import load_model, load_tokenizer
from undial_cli.models.lora import adapt_model
from undial_cli.runs import model_card
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import check_contrasted_models

VOCAB, NEW, COEFFICIENT = 64, 8, 3.0
DRAW = random.Random(0)
# Of different lengths, and more than a batch: rows are padded, leave and join.
PROMPTS = {
    n: [DRAW.randrange(3, VOCAB) for _ in range(size)] for n, size in enumerate([9, 1, 24, 5])
}
IDS = torch.tensor([PROMPTS[2]])
ENDS = frozenset(range(3, 9))
# Positions by rotation within a window, learned, and none; a cap on the logits; another dtype.
KINDS = ["window", "gpt2", "alibi", "gemma2", "float64"]


def memorised_copy(model: Any) -> Any:
    """A model near another one and surer of itself: other weights everywhere, head included."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3).add_(0.1 * torch.randn_like(parameter))
    return other


@functools.cache
def pair_of(kind: str, coefficient: float = COEFFICIENT) -> ContrastedModel:
    target = small_model(kind, VOCAB)
    return ContrastedModel(target, memorised_copy(target), coefficient)


@torch.no_grad()
def contrast_by_formula(pair: ContrastedModel, ids: Tensor) -> Tensor:
    """The combined logits [T, V] by the formula, from each model's own."""
    s, m = (x(input_ids=ids, use_cache=False).logits[0] for x in (pair.target, pair.memorised))
    return s - pair.head.coefficient * torch.clamp(m - s, min=0)


def decode_naively(
    pair: ContrastedModel, prompt: list[int], ends: frozenset[int] = frozenset()
) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW:
        ids.append(int(contrast_by_formula(pair, torch.tensor([ids]))[-1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def decode_all(model: Any, batch_size: int, how: Decoding) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    decode_prompts(model, PROMPTS, batch_size, how, found.__setitem__)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_logits_follow_the_formula(kind: str) -> None:
    pair = pair_of(kind)
    found, own = pair(input_ids=IDS).logits[0], pair.target(input_ids=IDS).logits[0]
    assert torch.equal(found, contrast_by_formula(pair, IDS))
    assert (found.argmax(-1) != own.argmax(-1)).any()
    assert found.dtype == pair.dtype == own.dtype


@pytest.mark.parametrize("kind", ["window", "alibi", "float64"])
def test_greedy_decoding_equals_a_loop_without_a_cache(kind: str) -> None:
    pair = pair_of(kind)
    expected = {n: decode_naively(pair, prompt, ENDS) for n, prompt in PROMPTS.items()}
    assert decode_all(pair, 2, Decoding(NEW, ENDS)) == expected
    assert decode_all(pair, 2, Decoding(NEW, ENDS)) != decode_all(
        pair.target, 2, Decoding(NEW, ENDS)
    )


def test_prefixes_of_a_document_are_continued_by_both_models() -> None:
    pair, ids = pair_of("float64"), PROMPTS[2]
    predicted, continued = continue_prefixes(pair, ids, [3, 12, 13], 2)
    assert predicted == contrast_by_formula(pair, IDS).argmax(-1)[:-1].tolist()
    for length, found in continued.items():
        assert found[:NEW] == decode_naively(pair, ids[:length])[: len(found)]


def test_samples_do_not_depend_on_the_batch() -> None:
    pair, how = pair_of("float64"), Decoding(NEW, ENDS, top_p=0.9, seed=3)
    assert decode_all(pair, 1, how) == decode_all(pair, 4, how)
    assert decode_all(pair, 4, how) != decode_all(pair.target, 4, how)


def test_generate_of_transformers_gives_the_same() -> None:
    pair = pair_of("window")
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = pair.generate(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=NEW, **options
    )
    assert found[0, IDS.shape[1] :].tolist() == decode_naively(pair, PROMPTS[2])


def test_scores_are_those_of_the_combined_logits() -> None:
    pair = pair_of("float64")
    texts = [[PROMPTS[2] + tail for tail in ([5, 9, 2], [7, 2])], [PROMPTS[0] + [11, 2]]]
    groups = [
        [Example(ids, [-100] * 8 + ids[8:], len(ids) - 1) for ids in group] for group in texts
    ]
    for group, scores in zip(
        groups, score_answers(pair, groups, 2, 0, distribution=True), strict=True
    ):
        for example, found in zip(group, scores, strict=True):
            ids = torch.tensor([example.input_ids])
            log_q = contrast_by_formula(pair, ids)[7:-1].log_softmax(-1)
            expected = F.nll_loss(log_q, ids[0, 8:], reduction="none")
            torch.testing.assert_close(torch.tensor(found.token_ce, dtype=log_q.dtype), expected)
            mean = (log_q.exp() * log_q).sum(-1)
            torch.testing.assert_close(torch.tensor(found.mean, dtype=log_q.dtype), mean)
    assert compute_gradient_norms(pair, groups[1]) == [None]


def test_the_target_alone_where_nothing_is_taken_off() -> None:
    target = small_model("window", VOCAB)
    own = target(input_ids=IDS).logits
    for other, coefficient in ((memorised_copy(target), 0.0), (copy.deepcopy(target), 5.0)):
        pair = ContrastedModel(target, other, coefficient)
        assert torch.equal(pair(input_ids=IDS).logits, own)


def test_half_precision_is_combined_in_float32() -> None:
    target = random_llama(VOCAB)
    pair = ContrastedModel(target, memorised_copy(target), COEFFICIENT).to(torch.bfloat16)
    assert pair.dtype == torch.bfloat16
    found = pair(input_ids=IDS).logits
    assert found.dtype == torch.float32
    s, m = (x(input_ids=IDS).logits.float() for x in (pair.target, pair.memorised))
    assert torch.equal(found, s - COEFFICIENT * torch.clamp(m - s, min=0))
    head = find_output_head(pair).projection()
    assert torch.equal(head.detach().to(torch.float64).weight_VD, head.weight_VD.double())


@pytest.fixture
def target(random_model: Path) -> Any:
    return load_model(ModelConfig(), str(random_model))


def finished(tuned: Any, folder: Path, start: Path | None) -> Path:
    """The checkpoint that the pipeline writes of a tuned model."""
    tuned.save_pretrained(folder)
    config = ContrastiveDecodingConfig("contrastive_decoding", coefficient=COEFFICIENT)
    make_method(config).finish(folder, start)
    bundled_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def whole(target: Any, tmp_path: Path) -> Path:
    """A checkpoint of full fine-tuning."""
    target.save_pretrained(tmp_path / "start")
    return finished(memorised_copy(target), tmp_path / "whole", tmp_path / "start")


@pytest.fixture
def adapter(target: Any, tmp_path: Path) -> Path:
    """A checkpoint of LoRA."""
    tuned: Any = adapt_model(target, AdapterConfig(name="lora"), seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return finished(tuned, tmp_path / "adapter", None)


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_a_checkpoint_comes_back_as_both_models(
    kind: str, request: pytest.FixtureRequest, random_model: Path
) -> None:
    folder: Path = request.getfixturevalue(kind)
    config, path = ModelConfig(), str(folder)
    check_model(config, path)
    model: Any = load_model(config, path)
    before = load_model(config, str(random_model))(input_ids=IDS).logits
    memorised = load_model(config, f"{path}/memorised")(input_ids=IDS).logits
    assert not torch.allclose(before, memorised)
    expected = before - COEFFICIENT * torch.clamp(memorised - before, min=0)
    assert torch.equal(model(input_ids=IDS).logits, expected)
    assert not model.training
    assert load_tokenizer(config, path).vocab_size == bundled_tokenizer().vocab_size
    with pytest.raises((OSError, ValueError), match="model"):
        AutoModelForCausalLM.from_pretrained(folder)
    known = fingerprint_weights(config, path)
    (folder / "contrastive.json").write_text(json.dumps({"coefficient": 0.5}))
    assert fingerprint_weights(config, path) != known


def test_the_card_says_what_the_folder_is(whole: Path) -> None:
    model_card.write_model_card(
        UnlearnRun(method=ContrastiveDecodingConfig("contrastive_decoding")), whole
    )
    text = (whole / "README.md").read_text()
    assert "library_name: undial" in text
    assert "decodes its two models together" in text


def test_what_two_models_cannot_do_is_refused(whole: Path, tmp_path: Path) -> None:
    here = f"model.path={whole}"
    training = compose_run("unlearn", [here, "hardware=cpu"])
    refused(lambda: prepare(training), here, "cannot be trained")
    looking = EvaluateRun(command="evaluate")
    check_contrasted_models(looking, str(whole))
    looking.eval.backend = "vllm"
    refused(lambda: check_contrasted_models(looking, str(whole)), "eval.backend=vllm", str(whole))
    run = UnlearnRun(method=ContrastiveDecodingConfig("contrastive_decoding"))
    method = make_method(run.method)
    small_model("mamba", VOCAB).config.save_pretrained(tmp_path / "mamba")
    what, run.model.attn_implementation = "method=contrastive_decoding", "eager"
    refused(lambda: check_contrasted_models(run, str(tmp_path / "mamba"), method), what, "'mamba'")
    run.eval.backend = "vllm"
    refused(
        lambda: check_contrasted_models(run, f"{whole}/target", method), "eval.backend=vllm", what
    )
    (whole / "contrastive.json").write_text("{}")
    refused(lambda: load_model(ModelConfig(), str(whole)), str(whole), "contrastive.json")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_two_models_have_the_positions_of_one(kind: str) -> None:
    pair = pair_of(kind)
    assert count_table_positions(pair) == count_table_positions(pair.target)
