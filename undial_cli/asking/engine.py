"""The models of `undial ask` in memory, and their answers token by token, in turns.

Decoded by the engine that evaluations use (evaluation/decoding.py), a prompt at a time: the tokens
are those of transformers' `generate` without a model's own penalties. What two models share is
loaded once: a run's adapter and the base that is its target. Knows no screen.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from undial_cli import ui
from undial_cli.asking.models import AskedModel, blame_model
from undial_cli.asking.prompts import (
    Prompt,
    Turn,
    check_prompt_fits,
    make_decoding,
    make_encoders,
    make_prompt,
)
from undial_cli.config.asking import AnswerConfig, AskingConfig
from undial_cli.evaluation.decoding import (
    Decoding,
    DecodingRow,
    advance_rows,
    decode_by_generate,
    start_row,
)
from undial_cli.evaluation.kvcache import has_plain_cache, make_spare_cache
from undial_cli.evaluation.prompts import decode_added_text
from undial_cli.models.adapters import attach_adapter, count_replaced_rows, find_adapter_base
from undial_cli.models.capacity import ModelCapacity
from undial_cli.models.inspection import check_model, make_blank_model
from undial_cli.models.load import load_run_model
from undial_cli.models.paths import resolve_model_folder
from undial_cli.system.memory import give_back_memory

# Share of the free memory that weights may fill: answers, and other programs, need some too.
WEIGHTS_SHARE = 0.85
WAITING, LOADING, ANSWERING = "waiting", "loading", "answering"
# How an answer ended.
WHOLE, CUT, STOPPED = "whole", "cut at max_new_tokens", "stopped"


@dataclass
class ModelAnswer:
    """What a model has said so far; `state`: a word of those above; `seconds`: that it took.

    `added`: the text with the blanks that it begins with, as it goes on from a prompt.
    """

    model: AskedModel
    text: str = ""
    state: str = WAITING
    ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    added: str = ""


class AskingEngine:
    """The models that are asked, each loaded when it first answers.

    `in_turns`: all are held, and answer token by token in turns; else memory lacks the room, and
    each is loaded for its answer and let go of.
    """

    def __init__(self, models: Sequence[AskedModel], hardware: str = "auto") -> None:
        self.models = list(models)
        is_gpu = hardware == "auto" and torch.cuda.is_available()
        self.device = torch.device("cuda" if is_gpu else "cpu")
        self.bases = find_shared_bases(self.models)
        self.encoders = make_encoders(self.models)
        self._held: dict[str, Any] = {}
        self.capacities = {model.identity: measure_model(model) for model in self.models}
        self.in_turns = self.has_room()

    def has_room(self) -> bool:
        """Whether all models fit into memory at once; said where they do not."""
        sizes = {
            self.name_weights(model): self.capacities[model.identity].weight_bytes
            for model in self.models
        }
        needed, free = sum(sizes.values()), measure_free_memory(self.device)
        if len(sizes) == 1 or needed <= WEIGHTS_SHARE * free:
            return True
        ui.say(
            f"{len(sizes)} models of {needed / 2**30:.1f} GiB together, and {free / 2**30:.1f} GiB "
            "are free: each is loaded for its answer, one after the other",
            "yellow",
        )
        return False

    def name_weights(self, model: AskedModel) -> str:
        """What stands for the weights that a model lies in: of an adapter its base, if shared."""
        return self.bases.get(model.identity, model.identity)

    @contextlib.contextmanager
    def use_model(self, model: AskedModel) -> Iterator[Any]:
        """The model in eval mode, loaded if it is not; of a shared base with the adapter as due."""
        weights = self.name_weights(model)
        if weights not in self._held:
            if not self.in_turns:
                self.release()
            self._held[weights] = self.load_weights(weights, model)
        held = self._held[weights]
        is_shared = weights in self.bases.values()
        with contextlib.ExitStack() as stack:
            if is_shared and model.identity not in self.bases:
                stack.enter_context(held.disable_adapter())
            yield held

    def load_weights(self, weights: str, model: AskedModel) -> Any:
        """What `use_model` holds: a model, or a base with the adapter that shares it."""
        with blame_model(model):
            adapters = [m for m in self.models if self.bases.get(m.identity) == weights]
            if not adapters:
                return load_run_model(model.run, model.path, self.device)
            base = load_run_model(adapters[0].run, weights, self.device)
            source = resolve_model_folder(adapters[0].path, adapters[0].run.model)
            return attach_adapter(base, source, weights).to(self.device)

    def release(self) -> None:
        """Let go of all weights."""
        self._held.clear()
        give_back_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def answer_question(
        self, question: str, config: AskingConfig, turns: Sequence[Turn] = ()
    ) -> Generator[list[ModelAnswer], None, None]:
        """All models answer; their answers so far, anew after every token of one of them.

        Closed before it is done, it leaves the answers as they are.

        Raises:
            UserError: a model cannot be asked so; raised before the first token.
        """
        answers = [ModelAnswer(model) for model in self.models]
        prompts = [
            make_prompt(encoder, config, question, turns, number)
            for number, encoder in enumerate(self.encoders)
        ]
        for model, prompt in zip(self.models, prompts, strict=True):
            check_prompt_fits(model, prompt, self.capacities[model.identity])
        pairs = zip(answers, prompts, strict=True)
        streams = [self.stream_answer(answer, prompt, config) for answer, prompt in pairs]
        try:
            yield answers
            if self.in_turns:
                while streams:
                    for stream in list(streams):
                        if next(stream, None) is None:
                            streams.remove(stream)
                        yield answers
            for stream in streams:
                for _ in stream:
                    yield answers
        finally:
            for answer in answers:
                if answer.state in (WAITING, LOADING, ANSWERING):
                    answer.state = STOPPED

    def stream_answer(
        self, answer: ModelAnswer, prompt: Prompt, config: AnswerConfig, number: int = 0
    ) -> Iterator[ModelAnswer]:
        """One model's answer, changed in place, after each of its tokens.

        Args:
            number: that, with the seed, fixes what is drawn.
        """
        model = answer.model
        if self.name_weights(model) not in self._held:
            answer.state = LOADING
            yield answer
        with self.use_model(model) as held:
            positions = self.capacities[model.identity].positions
            how = make_decoding(held, prompt, config, positions)
            is_plain = has_plain_cache(held)
        answer.state = ANSWERING
        row = start_row(number, prompt.ids, how.seed)
        steps = self.step_row(model, row, how) if is_plain else self.decode_whole(model, row, how)
        while (new := self.time_step(answer, steps)) is not None:
            answer.ids = how.without_end(new)
            text = decode_added_text(prompt.encoder, prompt.ids, answer.ids)
            # A letter of several tokens is not there before its last one.
            answer.added = text.rstrip("\ufffd")
            answer.text = answer.added.lstrip()
            if new[-1] in how.ends:
                answer.state = WHOLE
            elif len(new) >= how.room(len(prompt.ids)):
                answer.state = CUT
            yield answer

    def time_step(self, answer: ModelAnswer, steps: Iterator[list[int]]) -> list[int] | None:
        """The next ids, their time added to the answer's; None after the last."""
        began = time.monotonic()
        new = next(steps, None)
        answer.seconds += time.monotonic() - began
        return new

    def step_row(self, model: AskedModel, row: DecodingRow, how: Decoding) -> Iterator[list[int]]:
        """The new ids after each token."""
        rows, cache = [row], make_spare_cache()
        while rows:
            with self.use_model(model) as held, torch.no_grad():
                rows = advance_rows(held, rows, cache, how, lambda number, ids: None)
            yield row.ids[row.start :]

    def decode_whole(
        self, model: AskedModel, row: DecodingRow, how: Decoding
    ) -> Iterator[list[int]]:
        """The new ids at once: a model that keeps another state, as Mamba, is not streamed."""
        done: list[list[int]] = []
        with self.use_model(model) as held, torch.no_grad():
            decode_by_generate(held, [row], 1, how, lambda number, ids: done.append(ids))
        yield from done


def find_shared_bases(models: Sequence[AskedModel]) -> dict[str, str]:
    """Of adapters whose base is asked too: the identity of each base by the adapter's.

    Of several adapters on one base the first shares it; one that adds tokens changes its base, and
    has a copy of its own.
    """
    shared: dict[str, str] = {}
    plain = {model.identity for model in models}
    for model in models:
        with blame_model(model):
            source = resolve_model_folder(model.path, model.run.model)
            base = find_adapter_base(source, model.run.model) if source.local else None
        if base is None or base not in plain or base in shared.values():
            continue
        if not adds_token_rows(model, base):
            shared[model.identity] = base
    return shared


def adds_token_rows(model: AskedModel, base: str) -> bool:
    """Whether an adapter holds whole rows of its base's embedding or head."""
    source = resolve_model_folder(model.path, model.run.model)
    with torch.device("meta"):
        blank = make_blank_model(model.run.model, base)
    return bool(count_replaced_rows(blank, source))


def measure_model(model: AskedModel) -> ModelCapacity:
    """What a model's shape holds; raises UserError for one that is none."""
    with blame_model(model):
        return check_model(model.run.model, model.path)


def measure_free_memory(device: torch.device) -> int:
    """Bytes that are free where the models will lie."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available
