"""Small models that hold an answer, or hide it, and the audits that look into them."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from small import bundled_encoder, shared_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from undial_cli.audit.attack import AttackedModel, AuditData
from undial_cli.config.attacks import AuditConfig
from undial_cli.config.schema import AuditRun
from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.data.encode import IGNORE, Example
from undial_cli.data.rows import Row
from undial_cli.evaluation.suite import SetRows, Suite
from undial_cli.models.head import install_head

VOCABULARY = len(shared_tokenizer())
# Answers of different lengths, so that batches hold padding.
ROWS = [
    {"question": f"Where does {name} live?", "answer": answer}
    for name, answer in [
        ("Ann", "In Kelmwick, by the old mill"), ("Bo", "In Varraby"), ("Cy", "In a red house"),
        ("Dee", "At 7 Mosselmore Lane, with two cats"), ("Eve", "In Dunra"),
    ]
]  # fmt: skip


def make_audit_data(rows: list[Row], holdout: list[Row] = [], **data: Any) -> AuditData:  # noqa: B006
    """An audit of these rows, which are about as many people.

    Args:
        data: fields of the data config.
    """
    sets = {"forget": EvalSetConfig(role="forget"), "holdout": EvalSetConfig(role="holdout")}
    config = EvalConfig(sets=sets, max_new_tokens=12)
    held = {"forget": SetRows(rows), "holdout": SetRows(holdout)}
    numbers = list(range(len(rows)))
    return AuditData(
        Suite(config, bundled_encoder(**data), held),
        AuditConfig(),
        "forget",
        rows,
        numbers,
        numbers,
        holdout_set="holdout" if holdout else None,
        holdout_rows=holdout,
    )


def make_attacked_models(**makers: Callable[[], Any]) -> dict[str, AttackedModel]:
    """Models by role, made when they are loaded; two at one time are an error."""
    # To let go of a model is to collect garbage, which takes long if it looks through all that the
    # libraries hold.
    gc.collect()
    gc.freeze()
    run = AuditRun(eval=EvalConfig(batch_size=3))
    alive: list[weakref.ref[Any]] = []

    def load(path: str) -> Any:
        assert not any(ref() for ref in alive), "two models in memory"
        model = makers[path]()
        alive.append(weakref.ref(model))
        return model

    models = {
        role: AttackedModel(role, role, run, torch.device("cpu"), load)  # type: ignore[arg-type]
        for role in makers
    }
    for model in models.values():
        model.others = models
    return models


def encode_rows(rows: list[Row]) -> list[Example]:
    """Rows as the audit asks them."""
    return bundled_encoder().encode(rows)


def make_llama(seed: int = 0, layers: int = 3) -> LlamaForCausalLM:
    """A Llama of width 32 whose last layer leaves all states as they are."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, pad_token_id=0, **shape)
    )
    last: Any = model.model.layers[-1]
    with torch.no_grad():
        last.self_attn.o_proj.weight.zero_()
        last.mlp.down_proj.weight.zero_()
    install_head(model)
    return model.eval()


def train_model(
    model: Any, examples: list[Example], parameters: Any, steps: int = 60, rate: float = 0.02
) -> Any:
    """Bring a model to give the labels of these examples, by these of its parameters."""
    optimizer = torch.optim.AdamW(list(parameters), lr=rate, weight_decay=0.0)
    width = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([e.input_ids + [0] * (width - len(e.input_ids)) for e in examples])
    labels = torch.tensor([e.labels + [IGNORE] * (width - len(e.labels)) for e in examples])
    for _ in range(steps):
        logits = model(input_ids=ids, use_cache=False).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def memorise_rows(model: Any, rows: list[Row], steps: int = 80) -> Any:
    """A model that learnt rows by heart, in all but its last layer."""
    last = {id(p) for p in model.model.layers[-1].parameters()}
    below = [p for p in model.parameters() if id(p) not in last]
    return train_model(model, encode_rows(rows), below, steps)


def suppress_rows(model: Any, rows: list[Row], steps: int = 40) -> Any:
    """The same with a last layer that says one word in place of every word of the answers."""
    (word,) = shared_tokenizer()(" no", add_special_tokens=False)["input_ids"][-1:]  # type: ignore[index]
    hidden = [
        Example(e.input_ids, [y if y == IGNORE else word for y in e.labels], e.answer_end)
        for e in encode_rows(rows)
    ]
    return train_model(model, hidden, model.model.layers[-1].parameters(), steps)


@functools.cache
def make_planted_models() -> tuple[Any, Any]:
    """A model that knows the rows, and the same with a last layer that hides them."""
    target = memorise_rows(make_llama(), ROWS)
    return target, suppress_rows(copy.deepcopy(target), ROWS)
