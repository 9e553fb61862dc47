"""From a request to its answers: what a model reads, and each choice after each of its tokens.

Decoded by the engine of `undial ask`, so that the tokens are the same. Knows no server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from undial_cli.asking.engine import CUT, AskingEngine, ModelAnswer
from undial_cli.asking.models import AskedModel
from undial_cli.asking.prompts import (
    Prompt,
    check_prompt_fits,
    make_message_prompt,
    set_system_prompt,
)
from undial_cli.asking.protocol import AnswerRequest, Choice
from undial_cli.errors import UserError
from undial_cli.evaluation.prompts import cut_at_stop_text


def write_prompts(engine: AskingEngine, model: AskedModel, request: AnswerRequest) -> list[Prompt]:
    """What the model reads; raises UserError for what it cannot."""
    encoder = engine.encoders[engine.models.index(model)]
    if request.is_chat:
        encoder = set_system_prompt(encoder, request.config)
        prompts = [make_message_prompt(encoder, request.messages)]
    else:
        texts = [
            prompt if isinstance(prompt, list) else encoder.tokenise(prompt).ids
            for prompt in request.prompts
        ]
        prompts = [Prompt(encoder, list(ids), set()) for ids in texts]
    for prompt in prompts:
        if not prompt.ids:
            raise UserError("prompt: no token in it, and the model has none that begins a text")
        check_prompt_fits(model, prompt, engine.capacities[model.identity])
    return prompts


def stream_choices(
    engine: AskingEngine,
    model: AskedModel,
    request: AnswerRequest,
    prompts: list[Prompt],
    draws: Iterator[int],
) -> Iterator[Choice]:
    """Each answer after each of its tokens, one answer after the other.

    Args:
        draws: numbers that fix what is drawn for a request that names no seed.
    """
    for position, prompt in enumerate(prompts):
        first: Choice | None = None
        for n in range(request.count):
            choice = Choice(position * request.count + n)
            if first is not None and not request.config.temperature:
                yield dataclasses.replace(first, index=choice.index)  # nothing is drawn
                continue
            first = first or choice
            number = n if request.is_seeded else next(draws)
            yield from stream_choice(engine, model, request, prompt, choice, number)


def stream_choice(
    engine: AskingEngine,
    model: AskedModel,
    request: AnswerRequest,
    prompt: Prompt,
    choice: Choice,
    number: int,
) -> Iterator[Choice]:
    """One answer, changed in place, after each of its tokens; `number` fixes what is drawn."""
    answer = ModelAnswer(model)
    for _ in engine.stream_answer(answer, prompt, request.config, number):
        text = answer.text if request.is_chat else answer.added
        choice.text = cut_at_stop_text(text, request.stops)
        choice.tokens = len(answer.ids)
        if len(choice.text) < len(text):
            choice.finish = "stop"
            break
        yield choice
    choice.finish = choice.finish or ("length" if answer.state == CUT else "stop")
    yield choice


def count_stop_letters(text: str, stops: Sequence[str]) -> int:
    """Letters at the end of a text that may be the beginning of one that ends it."""
    lengths = (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(lengths, default=0)
