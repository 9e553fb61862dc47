"""The target head on models that cap or scale their logits after it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from model_families import tiny_config
from small import SCALED, random_llama, small_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import make_padded_batch, pad_examples
from undial_cli.data.encode import IGNORE, Example
from undial_cli.errors import UserError
from undial_cli.losses import npo_loss, sequence_logps, undial_loss
from undial_cli.losses.chunked import Projection
from undial_cli.methods import make_method
from undial_cli.methods.npo import NpoConfig
from undial_cli.methods.undial import UndialConfig
from undial_cli.models.head import (
    TargetHead,
    check_head,
    find_output_head,
    head_job,
    install_head,
)
from undial_cli.models.inspection import check_model
from undial_cli.models.load import load_model
from undial_cli.models.lora import adapt_model
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import compute_term_sum

VOCABULARY = 48
LORA = AdapterConfig(name="lora", target_modules=["q_proj", "v_proj"])
IDS = torch.tensor([[1, 5, 9, 30, 2, 7], [4, 4, 40, 11, 3, 8]])
# Where each family's models say how much they cap or scale, and what the small ones say.
PLACES = {
    "gemma2": ("config", "final_logit_softcapping", 3.0),
    "gemma3": ("config", "final_logit_softcapping", 3.0),
    "cohere": ("model", "logit_scale", 0.5),
    "granite": ("config", "logits_scaling", 8.0),
}


def model_of(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """A small model whose logits are large enough for its cap or scale to matter."""
    model = small_model(family, VOCABULARY, dtype)
    with torch.no_grad():
        model.lm_head.weight *= 8 if family == "granite" else 1
    return model


@torch.no_grad()
def model_logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def read_transform(model: Any, family: str) -> float:
    """By how much the model itself caps or scales its logits now."""
    place, name, _ = PLACES[family]
    return getattr(model if place == "model" else model.config, name)


@pytest.mark.parametrize("family", SCALED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_job_projects_to_the_models_own_logits(family: str, dtype: torch.dtype) -> None:
    model = model_of(family, dtype)
    dense = model_logits(model)
    with head_job(model, lambda hidden, head: head.logits(hidden)):
        whole = model_logits(model)
    with head_job(model, lambda hidden, head: head.logits(hidden[1, 2:4])):
        chosen = model_logits(model)
    with head_job(model, lambda hidden, head: hidden):
        raw = model_logits(model) @ model.lm_head.weight.T
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    assert whole.dtype == torch.promote_types(dtype, torch.float32)
    if dtype != torch.bfloat16:  # whose caps and scales are rounded by the model, and not by us
        assert torch.equal(whole, dense)
    close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(whole, dense, **close)
    torch.testing.assert_close(chosen, dense[1, 2:4], **close)
    assert float((raw - dense).abs().max()) > 0.5


@pytest.mark.parametrize("family", SCALED)
def test_the_ordinary_forward_is_what_it_was_before_and_after_a_job(family: str) -> None:
    torch.manual_seed(0)
    plain = type(model_of(family))(small_model(family, VOCABULARY).config).double().eval()
    before = model_logits(plain)
    install_head(plain)
    assert torch.equal(model_logits(plain), before)
    install_head(plain)
    check_head(plain)
    assert torch.equal(model_logits(plain), before)
    with head_job(plain, lambda hidden, head: hidden[:, :1]):
        model_logits(plain)
    assert torch.equal(model_logits(plain), before)
    with pytest.raises(ZeroDivisionError), head_job(plain, lambda hidden, head: 1 / 0):
        model_logits(plain)
    assert torch.equal(model_logits(plain), before)
    with pytest.raises(KeyboardInterrupt), head_job(plain, lambda hidden, head: hidden):
        raise KeyboardInterrupt
    assert torch.equal(model_logits(plain), before)
    assert read_transform(plain, family) == PLACES[family][2]


@pytest.mark.parametrize("family", SCALED)
def test_what_a_job_returns_comes_out_as_it_is(family: str) -> None:
    model, sign = model_of(family), torch.linspace(-40, 40, 12, dtype=torch.float64)
    with head_job(model, lambda hidden, head: sign):
        assert torch.equal(model_logits(model), sign)


@pytest.mark.parametrize("family", SCALED)
def test_a_saved_model_still_caps_or_scales(family: str, tmp_path: Path) -> None:
    model = model_of(family, torch.float32)
    with head_job(model, lambda hidden, head: hidden[:, :1]):
        model_logits(model)
    model.save_pretrained(tmp_path)
    _, name, value = PLACES[family]
    assert json.loads((tmp_path / "config.json").read_text())[name] == value
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(model_logits(again), model_logits(model))
    loaded = load_model(ModelConfig(attn_implementation="eager"), str(tmp_path))
    assert read_transform(loaded, family) == value
    torch.testing.assert_close(model_logits(loaded), model_logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", SCALED)
def test_a_copied_model_caps_or_scales_by_itself(family: str) -> None:
    model = model_of(family)
    twin = copy.deepcopy(model)
    with head_job(twin, lambda hidden, head: head.logits(hidden)):
        assert read_transform(model, family) == PLACES[family][2]
        assert read_transform(twin, family) in (None, 1.0)
        assert torch.equal(model_logits(twin), model_logits(model))


@pytest.mark.parametrize("off", [("gemma2", None), ("cohere", 1.0), ("granite", 1.0)], ids=str)
def test_a_family_that_may_scale_and_does_not_is_plain(off: tuple[str, float | None]) -> None:
    family, value = off
    model = small_model(family, VOCABULARY, **{PLACES[family][1]: value})
    assert find_output_head(model).projection() == Projection(model.lm_head.weight)
    check_head(model)


@pytest.mark.parametrize("family", SCALED)
@torch.no_grad()
def test_a_job_inside_an_adapter_projects_to_its_logits(family: str) -> None:
    model: Any = adapt_model(model_of(family), LORA, seed=0).double().eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    dense = model_logits(model)
    with model.disable_adapter():
        assert not torch.allclose(model_logits(model), dense, atol=1e-3)
    with head_job(model, lambda hidden, head: head.logits(hidden)):
        assert torch.equal(model_logits(model), dense)


SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def test_a_model_that_changes_its_logits_otherwise_is_refused() -> None:
    model = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**SHAPE, lru_width=16))
    refused(lambda: install_head(model), "'recurrent_gemma'", "logits_soft_cap")


@pytest.mark.parametrize("family, field", [
    ("falcon_h1", "lm_head_multiplier"), ("hyperclovax", "logits_scaling"),
    ("granitemoehybrid", "logits_scaling"), ("granitemoe", "logits_scaling"),
    ("minicpm3", ""), ("cohere2", "logit_scale"), ("gemma4_text", "final_logit_softcapping"),
])  # fmt: skip
def test_a_family_that_caps_or_scales_is_projected_as_it_does(family: str, field: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight *= 8
    dense, config = model_logits(model), copy.deepcopy(model.config)
    install_head(model)
    check_head(model)
    assert (find_output_head(model).after or (None, ""))[1] == field
    assert torch.equal(model_logits(model), dense)
    assert model.config.to_dict() == config.to_dict()


class Doubled(LlamaForCausalLM):
    """Multiplies its logits by 2."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        found.logits = self.after(found.logits)
        return found

    def after(self, logits: Tensor) -> Tensor:
        return 2 * logits


class Centred(Doubled):
    """Takes the mean off its logits."""

    def after(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(-1, keepdim=True)


class Repeated(Doubled):
    """Gives its logits another shape."""

    def after(self, logits: Tensor) -> Tensor:
        return torch.cat([logits, logits], dim=-1)


class Masked(Doubled):
    """Never says one word."""

    def after(self, logits: Tensor) -> Tensor:
        masked = logits.clone()
        masked[..., 3] = -1e4
        return masked


class Capped(Doubled):
    """Leaves small logits nearly as they are."""

    def after(self, logits: Tensor) -> Tensor:
        return 30 * torch.tanh(logits / 30)


@pytest.mark.parametrize("kind", [Doubled, Centred, Repeated, Masked, Capped])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_unknown_change_of_the_logits_is_found_by_trying(
    kind: type[Doubled], dtype: torch.dtype
) -> None:
    model = kind(LlamaConfig(**SHAPE)).to(dtype)
    install_head(model)
    refused(lambda: check_head(model), "'llama'", "changes its logits after the head")
    assert find_output_head(model).job is None


class Twice(LlamaForCausalLM):
    """Uses its head a second time, as models that predict further tokens do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        super().forward(*args, **kwargs)
        return super().forward(*args, **kwargs)


class LastOnly(LlamaForCausalLM):
    """Gives logits after the last token only."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **{**kwargs, "logits_to_keep": 1})


@pytest.mark.parametrize("kind", [Twice, LastOnly])
def test_a_head_that_is_not_used_once_for_every_position_is_refused(kind: Any) -> None:
    model = kind(LlamaConfig(**SHAPE))
    install_head(model)
    refused(lambda: check_head(model), "'llama'", "not used once for every position")


def test_a_scale_that_is_believed_to_be_another_is_refused() -> None:
    model: Any = small_model("granite", VOCABULARY)
    check_head(model)
    find_output_head(model).effect = {"scale": 8.0}  # it divides by 8
    refused(lambda: check_head(model), "'granite'", "otherwise than is known")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_that_sees_tokens_to_come_is_refused(attention: str, tmp_path: Path) -> None:
    shape = {**SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 64}
    bert = AutoModelForCausalLM.from_config(BertConfig(**shape))
    refused(lambda: install_head(bert), "'bert'", "is_decoder=false", "no causal language model")
    decoder = BertConfig(**shape, is_decoder=True, attn_implementation=attention)
    install_head(causal := AutoModelForCausalLM.from_config(decoder).eval())
    check_head(causal)
    assert not causal.training
    both = small_model("gemma3", VOCABULARY).config
    both.use_bidirectional_attention = True
    refused(
        lambda: install_head(AutoModelForCausalLM.from_config(both)), "use_bidirectional_attention"
    )
    looking = small_model("llama", VOCABULARY)
    looking.model.register_forward_hook(later_tokens)
    refused(lambda: check_head(looking), "depends on those after it")
    bert.save_pretrained(tmp_path)
    config = ModelConfig(attn_implementation=attention)
    refused(lambda: check_model(config, str(tmp_path)), "no causal language model")


def later_tokens(_: nn.Module, args: Any, output: Any) -> Any:
    """Mix the next token's state into every one."""
    output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.roll(-1, 1)
    return output


def test_the_check_leaves_random_numbers_as_they_were() -> None:
    model = small_model("gpt2", VOCABULARY)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_head(model)
    assert torch.equal(torch.rand(3), expected)
    assert not model.training


def test_a_family_without_an_attention_says_which_it_has(tmp_path: Path) -> None:
    small_model("neo", VOCABULARY).save_pretrained(tmp_path)
    call = lambda: check_model(ModelConfig(attn_implementation="sdpa"), str(tmp_path))  # noqa: E731
    if GPTNeoForCausalLM._supports_sdpa:
        pytest.skip("this version's GPT-Neo has it")
    refused(call, "model.attn_implementation=sdpa", "GPTNeo", "model.attn_implementation=eager")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "neo", "alibi", "mamba", *SCALED])
def test_models_that_are_supported_pass_the_check(kind: str, dtype: torch.dtype) -> None:
    model = small_model(kind, VOCABULARY, dtype)
    check_head(model)
    assert not any(p.grad is not None for p in model.parameters())


def make_examples() -> list[Example]:
    """Answers of different lengths, one without a target."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for i, length in enumerate((9, 5, 12, 7)):
        ids = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        prompt = length if i == 3 else 2 + i
        found.append(Example(ids, [IGNORE] * prompt + ids[prompt:], length))
    return found


@pytest.mark.parametrize("method", ["undial", "npo"])
@pytest.mark.parametrize("family", ["llama", *SCALED])
def test_training_sees_the_dense_loss_and_its_gradients(
    family: str, method: str, tmp_path: Path
) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    model = model if family == "llama" else model_of(family)
    loss = make_method(
        UndialConfig(name="undial", strength=4.0)
        if method == "undial"
        else NpoConfig(name="npo", beta=0.3)
    )
    chosen, indices = make_examples(), [0, 1, 2, 3]
    teacher = CachedTeacher(model, tmp_path, "", share_head=False)
    teacher.add("forget", chosen, indices, loss)
    teacher.fill(model, make_padded_batch)
    batch = pad_examples(chosen, 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = model(**inputs).logits
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    total = compute_term_sum(model, teacher, "forget", loss, make_padded_batch(chosen, indices))
    total.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    student = model(**inputs).logits
    if method == "undial":
        expected = undial_loss(student, before, batch["labels"], 4.0, num_items_in_batch=1)
    else:
        reference = sequence_logps(before, batch["labels"])
        expected = npo_loss(student, batch["labels"], reference, 0.3, num_items_in_batch=1)
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-9)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-9)


SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_installing_the_head_keeps_parameters_ties_and_keys(tied: bool) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied))
    head, weight = model.lm_head, model.lm_head.weight
    keys, parameters = list(model.state_dict()), [id(p) for p in model.parameters()]
    before = model(input_ids=IDS).logits
    install_head(model)
    assert model.lm_head is head
    assert isinstance(head, TargetHead)
    assert head.weight is weight
    assert (head.weight is model.get_input_embeddings().weight) is tied
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_installing_the_head_twice_changes_nothing() -> None:
    model = random_llama()
    head = find_output_head(model)
    install_head(model)
    assert find_output_head(model) is head


@pytest.mark.parametrize("family", ["gpt_neo", "phi"])
def test_a_job_gives_the_dense_logits_on_other_architectures(family: str) -> None:
    torch.manual_seed(0)
    if family == "gpt_neo":
        shape = {"hidden_size": 16, "num_layers": 1, "attention_types": [[["global"], 1]]}
        model: Any = GPTNeoForCausalLM(GPTNeoConfig(vocab_size=64, num_heads=2, **shape)).eval()
    else:
        keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads")  # fmt: skip
        model = PhiForCausalLM(PhiConfig(**{k: SMALL[k] for k in keys})).eval()
        nn.init.normal_(model.lm_head.bias)
    install_head(model)
    dense = model(input_ids=IDS).logits
    with head_job(model, lambda hidden, head: head.logits(hidden[:, 2:4])):
        chosen = model(input_ids=IDS).logits
    torch.testing.assert_close(chosen, dense[:, 2:4])


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = random_llama()
    model.lm_head = nn.Sequential(nn.Linear(32, 64))
    with pytest.raises(UserError, match="no plain linear layer"):
        install_head(model)
