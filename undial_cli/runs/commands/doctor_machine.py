"""What `undial doctor` tries of the machine: versions, devices, processes, folders, the hub.

Each function measures one thing and raises where it fails; `system/trials.py` calls it in a process
of its own. Leaves nothing behind. Knows nothing of optional engines.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import shutil
import tempfile
import threading
import time
from datetime import timedelta
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER
from undial_cli.system.trials import Measurement

# What the default run takes: its two models, a checkpoint, a report; rounded up.
DEFAULT_RUN_BYTES = 200_000_000
LITTLE_ROOM, SLOW_WRITING = 5_000_000_000, 20e6  # bytes, bytes per second
TRIED_BYTES = 16 << 20
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def read_tested_versions() -> dict[str, str]:
    """The versions of constraints.txt by lower-case name; it lies in a wheel too."""
    inside = PACKAGE_FOLDER / "runs" / "constraints.txt"
    file = inside if inside.is_file() else PACKAGE_FOLDER.parent / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {unify_name(name): version.strip() for name, version in pairs}


def unify_name(name: str) -> str:
    """A package's name as any spelling of it: `Lm_Eval` and `lm-eval` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def list_requirements(extra: str = "") -> list[Requirement]:
    """What undial needs, or what an extra of it needs; none where it is not installed."""
    try:
        lines = metadata.requires("undial") or []
    except metadata.PackageNotFoundError:
        return []
    needed = [Requirement(line) for line in lines]
    if not extra:
        return [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [r for r in needed if r.marker is not None and r.marker.evaluate({"extra": extra})]


def compare_versions() -> Measurement:
    """The needed packages against the ranges of pyproject.toml and the tested versions."""
    needed = list_requirements()
    if not needed:
        advice = "pip install undial, or pip install -e . in a checkout"
        return Measurement("undial is not installed: its ranges are not known", advice)
    return judge_versions(needed, read_tested_versions())


def judge_versions(needed: list[Requirement], tested: dict[str, str]) -> Measurement:
    """What of the needed packages is missing, out of range or of another major version.

    Raises:
        WorldError: a package is missing or out of range.
    """
    wrong, other = [], []
    for requirement in needed:
        name = unify_name(requirement.name)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{name} {version}, needed is {requirement.specifier}")
        elif name in tested and Version(version).release != Version(tested[name]).release:
            other.append((name, version, tested[name]))
    if wrong:
        raise WorldError("; ".join(wrong))
    text = f"python {platform.python_version()}, {len(needed)} packages within their ranges"
    if other:
        text += "; not the tested ones: " + ", ".join(f"{n} {v} (tested {t})" for n, v, t in other)
    major = [name for name, v, t in other if Version(v).major > Version(t).major]
    advice = f"if something breaks: pip install -c constraints.txt {' '.join(major)}"
    return Measurement(text, advice if major else "")


def run_on_device(name: str) -> Measurement:
    """A forward and a backward of the bundled model's shape: the loss of UnDIAL, its gradient."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from undial_cli.losses import undial_loss

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(PACKAGE_FOLDER / "models" / "tiny")
    model = AutoModelForCausalLM.from_config(config)
    tokens = torch.randint(3, config.vocab_size, (4, 64))
    losses = []
    begun = 0.0
    for device in dict.fromkeys(["cpu", name]):
        begun = time.monotonic()
        moved = model.to(device)
        logits = moved(input_ids=tokens.to(device)).logits
        loss = undial_loss(logits, logits.detach(), tokens.to(device), strength=10.0)
        moved.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm(p.grad for p in moved.parameters())
        losses.append(loss.item())
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise WorldError(f"the loss is {loss.item():g}, the norm of its gradient {norm:g}")
    seconds = time.monotonic() - begun
    if not math.isclose(losses[0], losses[-1], rel_tol=1e-2):
        raise WorldError(f"the loss is {losses[-1]:g}, and {losses[0]:g} on the CPU")
    return Measurement(f"forward and backward in {seconds:.2f} s; {describe_device(name)}")


def describe_device(name: str) -> str:
    """A device in words: what it is and what memory is free."""
    import psutil
    import torch

    if name == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        free = psutil.virtual_memory().available
        return f"{cores} cores, {free / 2**30:.1f} GiB of memory free"
    free, total = torch.cuda.mem_get_info(name)
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    title = torch.cuda.get_device_properties(name).name
    return f"{title}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {bf16}"


def exchange_numbers(backend: str, seconds: float) -> Measurement:
    """Two processes, started as those of a run are, add up a tensor."""
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="undial-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            run_id=str(os.getpid()),
            max_restarts=0,
            monitor_interval=0.1,
            start_method="fork" if os.name == "posix" else "spawn",
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        sums = elastic_launch(config, add_ranks)(backend, seconds)
    if set(sums.values()) != {1.0}:
        raise WorldError(f"two processes added 0 and 1 to {sorted(sums.values())}")
    return Measurement(f"two processes over {backend} in {time.monotonic() - begun:.1f} s")


def add_ranks(backend: str, seconds: float) -> float:
    """One process of an exchange: the sum of both ranks, through the group."""
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    number = torch.tensor([float(rank)], device=device)
    dist.all_reduce(number)
    total = number.item()
    dist.barrier()
    dist.destroy_process_group()
    return total


def write_to_folder(folder: Path, needed: int = DEFAULT_RUN_BYTES) -> Measurement:
    """Room, speed and locks of a folder, or of the next one above that is there.

    Raises:
        WorldError: nothing can be written there, or the default run has no room.
    """
    from filelock import FileLock, Timeout

    folder = folder.expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise WorldError(f"{existing} is not a folder")
    text = str(folder) if existing == folder else f"{folder} (tried in {existing})"
    try:
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise WorldError(f"{text}: {free / 1e6:.0f} MB free, needed are {needed / 1e6:.0f} MB")
        with tempfile.TemporaryDirectory(dir=existing, prefix=".undial-doctor-") as scratch:
            speed = measure_writing(Path(scratch) / "tried")
            first, second = (FileLock(Path(scratch) / "lock", timeout=0) for _ in range(2))
            first.acquire()
            with contextlib.suppress(Timeout):
                second.acquire()
                raise WorldError(f"{text}: two processes can hold one lock there")
            first.release()
    except OSError as error:
        raise WorldError(f"{text}: {error.strerror or error}") from error
    text += f": {speed / 1e6:.0f} MB/s, {free / 1e9:.0f} GB free"
    advice = ""
    if free < LITTLE_ROOM:
        advice = "little room: a checkpoint takes 2 or 4 bytes per parameter, its states 3 times it"
    elif speed < SLOW_WRITING:
        advice = "slow: take a local disk for it, and a larger train.save_steps"
    return Measurement(text, advice)


def measure_writing(file: Path) -> float:
    """Bytes per second to a file, until they are on the disk."""
    block = os.urandom(1 << 20)
    begun = time.monotonic()
    with open(file, "wb") as stream:
        for _ in range(TRIED_BYTES // len(block)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return TRIED_BYTES / max(time.monotonic() - begun, 1e-6)


def ask_hub(seconds: float = 3) -> Measurement:
    """Whether the hub answers within a few seconds; it is not asked where that is switched off.

    Raises:
        WorldError: it does not answer.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        given = [f"{v}={os.environ[v]}" for v in OFFLINE_VARIABLES if os.environ.get(v)]
        return Measurement(f"not asked: offline ({', '.join(given) or 'HF_HUB_OFFLINE'})")
    hub, answers = constants.ENDPOINT, []

    def ask() -> None:
        try:
            answers.append((True, f"status {get_session().head(hub, timeout=seconds).status_code}"))
        except Exception as error:
            answers.append((False, " ".join(first_line(error)[:80].split())))

    begun = time.monotonic()
    asking = threading.Thread(target=ask, daemon=True)  # names are looked up without a time limit
    asking.start()
    asking.join(seconds)
    if not answers:
        raise WorldError(f"{hub} did not answer within {seconds:g} s")
    answered, text = answers[0]
    if not answered:
        raise WorldError(f"{hub} cannot be reached ({text})")
    return Measurement(f"{hub} answered in {time.monotonic() - begun:.1f} s ({text})")


def prepare_default_run() -> Measurement:
    """The run of `undial unlearn` alone: composed, checked, its rows read and encoded.

    Raises:
        UserError: what that run would say.
    """
    from undial_cli.runs.checks import check_run
    from undial_cli.runs.inputs import prepare_inputs
    from undial_cli.runs.resolved import ResolvedRun
    from undial_cli.system.quiet import silence_libraries

    silence_libraries()
    begun = time.monotonic()
    resolved = ResolvedRun(compose_run("unlearn", []))
    check_run(resolved)
    sets = prepare_inputs(resolved, weights=False).sets
    if not sets.get("forget"):
        raise UserError("data=demo: no forget set")
    count, seconds = len(sets["forget"]), time.monotonic() - begun
    return Measurement(f"undial unlearn: composed, {count} forget samples, {seconds:.1f} s")
