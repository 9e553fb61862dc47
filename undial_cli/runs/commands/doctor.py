"""`undial doctor`: what a run needs of this machine is tried, and said in a line each.

Knows what is tried and what to do where it fails; how is in doctor_machine.py and
doctor_engines.py. Leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from rich.text import Text

from undial_cli import __version__, ui
from undial_cli.config.schema import Run
from undial_cli.errors import bad_value
from undial_cli.runs.commands.doctor_engines import list_engine_trials
from undial_cli.runs.commands.doctor_machine import (
    ask_hub,
    compare_versions,
    exchange_numbers,
    prepare_default_run,
    run_on_device,
    write_to_folder,
)
from undial_cli.system.files import cache_dir
from undial_cli.system.trials import (
    ABSENT,
    FAIL,
    OK,
    WARN,
    Finding,
    Measurement,
    Trial,
    carry_out_trials,
)

STYLES = {OK: "green", WARN: "yellow", FAIL: "red", ABSENT: "dim"}
JSON_WORDS = {"--json": True, "json=true": True, "json=false": False}


def examine_machine(rest: list[str]) -> int:
    """Try what runs need and say what came of it; exit code 1 if the default run would fail."""
    for word in rest:
        if word not in JSON_WORDS:
            raise bad_value("doctor", word, JSON_WORDS)
    findings = carry_out_trials(list_trials())
    fails = any(finding.state == FAIL for finding in findings)
    if rest and JSON_WORDS[rest[-1]]:
        content = {
            "version": __version__,
            "default_run": FAIL if fails else OK,
            "trials": [dataclasses.asdict(finding) for finding in findings],
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for line in describe_findings(findings):
            ui.say(line)
        end = "the default run (undial unlearn) would fail here" if fails else "undial unlearn runs"
        ui.say(end, "red" if fails else "green")
    return 1 if fails else 0


def list_trials() -> list[Trial]:
    """All that is tried, in the order in which it is said."""
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401 - once for all trials, which are forks

    # Counted without a context on a GPU, which could not be shared with the trials' processes.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    gpus = torch.cuda.device_count()
    trials = [
        Trial("packages", compare_versions, "pip install -U undial", needed=True, seconds=10),
        Trial(
            "cpu",
            run_on_device,
            "install another build of torch: https://pytorch.org/get-started",
            needed=not gpus,
            arguments=("cpu",),
        ),
    ]
    for number in range(gpus):
        trials.append(
            Trial(
                f"gpu {number}",
                run_on_device,
                "see nvidia-smi; hide the GPU with CUDA_VISIBLE_DEVICES, or hardware=cpu",
                needed=True,
                arguments=(f"cuda:{number}",),
            )
        )
    backend = "nccl" if gpus > 1 else "gloo"
    trials += [
        Trial(
            "processes",
            exchange_numbers,
            "hardware.num_processes=1; or see which firewall stops connections to 127.0.0.1",
            needed=gpus > 1,
            arguments=(backend, 12.0),
            seconds=15,
        ),
        Trial(
            "output",
            write_to_folder,
            "output_dir=FOLDER with room that is yours",
            needed=True,
            arguments=(Path(Run().output_dir),),
        ),
        Trial("cache", try_cache, "UNDIAL_CACHE_DIR=FOLDER with room that is yours", needed=True),
        Trial(
            "hub",
            ask_hub,
            "take local folders, or a mirror (HF_ENDPOINT), or a proxy (HTTPS_PROXY)",
            seconds=10,
        ),
        Trial("default run", prepare_default_run, "see docs/reliability.md", needed=True),
    ]
    return [*trials, *list_engine_trials()]


def try_cache() -> Measurement:
    return write_to_folder(cache_dir())


def describe_findings(findings: list[Finding]) -> list[Text]:
    """A line for each, never broken: what was tried, how it went, what was measured, what to do."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        text = finding.measured + (f"; {finding.advice}" if finding.advice else "")
        state = (f"{finding.state:<6}", STYLES[finding.state])
        lines.append(Text.assemble(f"  {finding.name:<{width}}  ", state, f"  {text}"))
    return lines
