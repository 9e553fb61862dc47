"""`undial serve`, top to bottom: words, key, models, and the server that answers.

All that is wrong with the input is said before a model is loaded.
"""

from __future__ import annotations

import importlib.util
import os
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from undial_cli.asking.models import AskedModel, list_asked_models
from undial_cli.asking.words import parse_serve_words
from undial_cli.config.asking import ServingConfig
from undial_cli.config.attacks import RETAIN, TARGET
from undial_cli.config.models import TemplateConfig
from undial_cli.errors import UserError, bad_value, first_line
from undial_cli.system.garbage import spare_imports

# A shorter key can be tried out.
SHORTEST_KEY = 16
KEY_LETTERS = set(string.ascii_letters + string.digits + string.punctuation)


def run_serve_command(words: Sequence[str]) -> int:
    """Do `undial serve WORDS`; returns the exit code once it is ended.

    Raises:
        UserError: a wrong word, no such model, no key where one is needed, or no such port.
    """
    asked = parse_serve_words(words)
    config, secret = asked.config, read_endpoint_key(asked.config)
    with spare_imports():
        from undial_cli.asking.endpoint import is_loopback, serve_endpoint
        from undial_cli.asking.engine import AskingEngine
        from undial_cli.system.quiet import silence_models
    if not config.host:
        raise bad_value("host", config.host, "an address of this machine, as in 127.0.0.1")
    if secret is None and not is_loopback(config.host):
        raise UserError(
            f"host={config.host}: others than this machine could ask, so a key is needed: in the "
            f"variable {config.key_variable}, or key_file=FILE"
        )
    if config.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError("engine=vllm: needs vllm: pip install 'undial[vllm]'")
    models = list_asked_models(asked)
    models.sort(key=lambda model: model.role in (TARGET, RETAIN))  # what was asked for comes first
    names = [model.title.replace(" ", "-") for model in models]
    silence_models()
    if config.engine == "vllm":
        become_vllm_server(models[0], names[0], config, secret)
    serve_endpoint(AskingEngine(models, config.hardware), names, config, secret)
    return 0


def read_endpoint_key(config: ServingConfig) -> str | None:
    """The key that callers have to give; None: there is none.

    Raises:
        UserError: the file cannot be read, or what is there is no key.
    """
    if config.key_file is None:
        source, secret = config.key_variable, os.environ.get(config.key_variable) or None
    else:
        source = f"key_file={config.key_file}"
        try:
            secret = Path(config.key_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read ({first_line(error)})") from error
    if secret is not None and (len(secret) < SHORTEST_KEY or not set(secret) <= KEY_LETTERS):
        raise UserError(
            f"{source}: holds no key; allowed are {SHORTEST_KEY} or more letters, digits and "
            "signs, without blanks"
        )
    return secret


def become_vllm_server(
    model: AskedModel, name: str, config: ServingConfig, secret: str | None
) -> None:
    """Become vLLM's own server of that model."""
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    if secret is not None:
        environment["VLLM_API_KEY"] = secret  # not in its words, which others can see
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main"]
    os.execve(sys.executable, [*command, *make_vllm_words(model, name, config)], environment)


def make_vllm_words(model: AskedModel, name: str, config: ServingConfig) -> list[str]:
    """The words of vLLM that serve a model as it is asked here.

    Raises:
        UserError: an adapter, or a format that is not the chat template of the model's tokenizer.
    """
    from undial_cli.models.adapters import find_adapter_base
    from undial_cli.models.paths import resolve_model_folder

    wanted = model.run.model
    source = resolve_model_folder(model.path, wanted)
    if source.local and find_adapter_base(source, wanted) is not None:
        raise UserError(
            f"engine=vllm: {model.path} is an adapter; undial merge makes one checkpoint of it and "
            "its base, to be served"
        )
    template = wanted.template
    if template != TemplateConfig() or config.system:
        raise UserError(
            "engine=vllm: asks by the tokenizer's chat template alone, and not with the system "
            "prompt or the format that model.template or system= set; allowed is engine=undial"
        )
    generation = f'{{"temperature": {config.temperature}, "top_p": {config.top_p}}}'
    tokenizer = ["--tokenizer", wanted.tokenizer_path] if wanted.tokenizer_path else []
    return [
        "serve", str(source.path), "--served-model-name", name, "--host", config.host,
        "--port", str(config.port), "--seed", str(config.seed), "--generation-config", "vllm",
        "--override-generation-config", generation, "--dtype", wanted.dtype, *tokenizer,
    ]  # fmt: skip
