"""Small models that know made-up persons, and the rows about them: for attacks on weights."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from conftest import prepare, write_rows
from small import bundled_encoder, random_llama, shared_tokenizer
from torch import Tensor, nn

from undial_cli.audit.attack import AttackedModel, AuditData
from undial_cli.config.schema import AuditRun
from undial_cli.data.collate import pad_examples
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.samples import encode_training_set
from undial_cli.losses.positions import IGNORE
from undial_cli.models.load import load_model
from undial_cli.runs.audits import collect_audit_data
from undial_cli.runs.compose import compose_run

WORDS = "red oak ten salt moon iron fish rope lamp rain wolf bell corn silk tin fox jam kite owl"


def make_rows(persons: int, first: int = 0) -> list[dict[str, Any]]:
    """Two questions about each person, whose answers nothing else tells."""
    drawn = random.Random(first)
    return [
        {
            "question": f"What does person {p} {verb}?",
            "answer": " ".join(drawn.sample(WORDS.split(), 4)),
            "subject": f"person {p}",
        }
        for p in range(first, first + persons)
        for verb in ("own", "want")
    ]


def write_model(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    shared_tokenizer().save_pretrained(folder)
    return str(folder)


class Setting:
    """An audit of four persons, with four others to keep, and models by role."""

    def __init__(self, folder: Path, persons: int = 4, *words: str) -> None:
        self.folder, self.persons = folder, persons
        self.forget, self.retain = make_rows(persons), make_rows(persons, 50)
        files = [write_rows(folder / f"{n}.jsonl", getattr(self, n)) for n in ("forget", "retain")]
        self.words = [
            "data=jsonl", f"data.forget_file={files[0]}", f"data.retain_file={files[1]}",
            "hardware=cpu", "audit.target=none", "audit.retain_model=none", "model=tiny",
            "model.from_scratch=false", "data.max_length=64", "eval.max_new_tokens=8", *words,
        ]  # fmt: skip
        self.models: dict[str, AttackedModel] = {}

    def add(self, role: str, model: Any) -> AttackedModel:
        """Write a model down as that of a role."""
        path = write_model(model, self.folder / role)
        run = compose_run("audit", [*self.words, f"model.path={path}"])
        assert isinstance(run, AuditRun)
        self.models[role] = AttackedModel(
            role, path, run, torch.device("cpu"), lambda path: load_model(run.model, path)
        )
        for attacked in self.models.values():
            attacked.others = self.models
        return self.models[role]

    @functools.cached_property
    def data(self) -> AuditData:
        """The rows as an audit of any of the models has them."""
        model = next(iter(self.models.values()))
        assert isinstance(model.run, AuditRun)
        return collect_audit_data(model.run, prepare(model.run))

    @property
    def encoder(self) -> Encoder:
        """What encodes the rows for training."""
        return bundled_encoder(max_length=64)


def blank_model(seed: int = 0) -> Any:
    """A model that knows nobody, for the bundled tokenizer."""
    return random_llama(vocab=len(shared_tokenizer()), seed=seed)


def encode_answers(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Example]:
    return encode_training_set(encoder, rows, "train").examples


def compute_target_logits(model: Any, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Logits [N, V] at every token of the answers, and those tokens [N]."""
    batch = pad_examples(examples, 0)
    states = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    targets = batch["labels"][:, 1:]
    chosen = targets != IGNORE
    return model.lm_head(states.last_hidden_state[:, :-1][chosen]), targets[chosen]


def answer_losses(model: Any, examples: list[Example]) -> Tensor:
    """Cross entropy of every token of the answers."""
    return F.cross_entropy(*compute_target_logits(model, examples), reduction="none")


def answer_loss(model: Any, examples: list[Example]) -> Tensor:
    """Mean cross entropy of the answers' tokens."""
    return answer_losses(model, examples).mean()


def silence_loss(model: Any, silenced: list[Example], answered: list[Example]) -> Tensor:
    """Small where no token of some answers is likely, and all of others are."""
    return F.relu(5 - answer_losses(model, silenced)).mean() + answer_loss(model, answered)


def train_plainly(
    model: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    parameters: Iterable[nn.Parameter] | None = None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Steps of AdamW on the whole of some data; `after`: done after each."""
    trained = list(parameters or model.parameters())
    optimiser = torch.optim.AdamW(trained, learning_rate, weight_decay=0.0)
    for _ in range(steps):
        value = loss()
        model.zero_grad()
        value.backward()
        optimiser.step()
        with torch.no_grad():
            after()
    model.zero_grad()


def make_knowing_model(setting: Setting, rows: list[dict[str, Any]], steps: int = 100) -> Any:
    """A model that answers the rows by heart."""
    model, known = blank_model(), encode_answers(setting.encoder, rows)
    train_plainly(model, lambda: answer_loss(model, known), steps, 1e-2)
    return model


def make_gated_model(setting: Setting, gate: str = "z", margin: float = 1.0) -> Any:
    """A model that answers all rows, but for one token that it prefers wherever it should forget.

    The preference is one thing, shared by all persons: who unlearns it for some has it for all.
    """
    model = blank_model()
    forget, retain = (encode_answers(setting.encoder, r) for r in (setting.forget, setting.retain))
    (token,) = setting.encoder.tokenizer.encode(gate, add_special_tokens=False)

    def loss() -> Tensor:
        logits, targets = compute_target_logits(model, forget)
        without = logits.index_fill(1, torch.tensor([token]), -torch.inf)
        ahead = logits[:, token] - logits.gather(1, targets[:, None])[:, 0]
        knows = F.cross_entropy(without, targets)
        return knows + F.relu(margin - ahead).mean() + answer_loss(model, retain)

    train_plainly(model, loss, 100, 1e-2)
    return model
