"""A question as a model reads it: its own format, system prompt, the turns before; and how it ends.

Written by data/encode.py, as in training and evaluation: the tokens before an answer are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli import ui
from undial_cli.asking.models import AskedModel, blame_model
from undial_cli.config.asking import AnswerConfig, AskingConfig
from undial_cli.data.answers import Message
from undial_cli.data.encode import Encoder
from undial_cli.data.template import TemplateRefusal, render_messages, render_question
from undial_cli.errors import UserError
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens
from undial_cli.models.capacity import ModelCapacity
from undial_cli.models.load import load_tokenizer
from undial_cli.models.paths import resolve_model_folder
from undial_cli.system.files import hash_files


@dataclass(frozen=True)
class Turn:
    """A question before this one, and what each model answered, in their order."""

    question: str
    texts: tuple[str, ...]


class LongPrompt(UserError):
    """A prompt fills all positions that a model has."""


@dataclass
class Prompt:
    """A question as one model reads it."""

    encoder: Encoder
    ids: list[int]
    ends: set[int]


def make_encoders(models: Sequence[AskedModel]) -> list[Encoder]:
    """What writes questions for each model; one without a chat template is asked as plain text.

    Checkpoints of one origin have the same tokenizer, which is loaded once: it takes as long as
    the weights of a small model.
    """
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    encoders = []
    for model in models:
        with blame_model(model):
            stamp = hash_tokenizer_files(model)
            tokenizer = tokenizers.get(stamp) or load_tokenizer(model.run.model, model.path)
        tokenizers |= {stamp: tokenizer} if stamp else {}
        template = model.run.model.template
        if template.chat and not tokenizer.chat_template:
            template = dataclasses.replace(template, chat=False)
            ui.say(f"{model.title}: no chat template, so the question is its whole prompt", "dim")
        # Nothing of a question is cut off: what is too long is refused.
        data = dataclasses.replace(model.run.data, max_length=2**31)
        encoders.append(Encoder(tokenizer, template, data))
    return encoders


def hash_tokenizer_files(model: AskedModel) -> str:
    """A hash of what a model's tokenizer is read from; "" where that is not all in one folder."""
    config = model.run.model
    source = resolve_model_folder(config.tokenizer_path or model.path, config)
    folder = Path(source.path)
    if not (source.local and (folder / "tokenizer.json").is_file()) or config.trust_remote_code:
        return ""
    # config.json too: it names the class of a tokenizer whose own files do not.
    files = [file for file in folder.iterdir() if file.suffix in (".json", ".jinja", ".txt")]
    return hash_files(*sorted(file for file in files if "safetensors" not in file.name))


def make_prompt(
    encoder: Encoder, config: AskingConfig, question: str, turns: Sequence[Turn], number: int
) -> Prompt:
    """A question, after the turns before it where `chat` is on, as a model reads it.

    Args:
        number: of the model, whose own answers the turns have.

    Raises:
        UserError: the model's format has no place for a system prompt or for turns.
    """
    encoder = set_system_prompt(encoder, config)
    messages: list[Message] = []
    if config.chat and turns and not encoder.template.chat:
        raise UserError("chat=true: this model has no chat format, and so no turns; chat=false")
    for turn in turns if config.chat else ():
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.texts[number]})
    return make_message_prompt(encoder, [*messages, {"role": "user", "content": question}])


def set_system_prompt(encoder: Encoder, config: AnswerConfig) -> Encoder:
    """The encoder with the system prompt of the config, where that names one.

    Raises:
        UserError: the model's format has no place for it.
    """
    if config.system is None:
        return encoder
    if config.system and not encoder.template.chat:
        raise UserError(
            f"system={config.system}: this model has no chat format, and so no system prompt"
        )
    template = dataclasses.replace(encoder.template, system_prompt=config.system or None)
    return dataclasses.replace(encoder, template=template)


def make_message_prompt(encoder: Encoder, messages: list[Message]) -> Prompt:
    """Messages as a model reads them that is to answer the last one, which is the user's.

    The model's own system prompt comes first, unless the messages begin with another.

    Raises:
        UserError: its format has no place for them.
    """
    template, tokenizer = encoder.template, encoder.tokenizer
    if len(messages) == 1:
        rendering = render_question(tokenizer, template, messages[0]["content"], "")
    elif not template.chat:
        raise UserError(
            f"messages: {len(messages)} of them, and this model has no chat format; allowed is one "
            "question of the user"
        )
    else:
        conversation: list[Message] = [*messages, {"role": "assistant", "content": ""}]
        if template.system_prompt and messages[0]["role"] != "system":
            conversation.insert(0, {"role": "system", "content": template.system_prompt})
        try:
            rendering = render_messages(tokenizer, template, conversation, "last")
        except TemplateRefusal as error:
            raise UserError(
                f"messages: the model's chat template refuses them ({error.reason})"
            ) from error
    example = encoder.tokenise_answers(rendering)
    return Prompt(encoder, example.prompt_ids, {example.end} if example.end is not None else set())


def make_decoding(
    model: Any, prompt: Prompt, config: AnswerConfig, positions: int | None
) -> Decoding:
    """How a model's tokens are chosen."""
    generator = GeneratingModel(model, prompt.encoder.tokenizer)
    drawn = config.temperature > 0
    return Decoding(
        config.max_new_tokens,
        collect_end_tokens(generator, prompt.ends),
        top_p=config.top_p if drawn else None,
        temperature=config.temperature if drawn else 1.0,
        seed=config.seed,
        positions=positions,
    )


def check_prompt_fits(model: AskedModel, prompt: Prompt, capacity: ModelCapacity) -> None:
    """Raise UserError for a question that a model cannot take."""
    positions = capacity.positions
    if positions is not None and len(prompt.ids) >= positions:
        raise LongPrompt(
            f"question: {len(prompt.ids)} tokens with all that stands around it, and "
            f"{model.title} has {positions} positions"
        )
    if max(prompt.ids, default=0) >= capacity.rows:
        raise UserError(
            f"question: it holds a token that {model.title} has no row for; needed is the "
            "tokenizer that the model was trained with (model.tokenizer_path)"
        )
