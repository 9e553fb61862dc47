"""Installs a wheel as a new user would, and tries its commands: `make try-wheel`.

    python scripts/check_wheel.py dist/undial-VERSION-py3-none-any.whl [PYTHON ...]

For each Python (this one, if none is named): an empty virtual environment, the wheel and what it
asks for from the package index, an empty folder, and every command of `COMMANDS` typed there; then
the same with the extras. Prints a line for each and ends with 1 where one was not as it should be.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 1200  # for one command; an installation brings gigabytes where torch comes with CUDA
RUN = "outputs/unlearn/first"


@dataclass(frozen=True)
class Try:
    """A command, the exit code that it should have, and what it should say."""

    words: str
    code: int = 0
    says: str = ""


COMMANDS = (
    Try("--help", says="alternatives"),
    Try("unlern", 2, "unlearn"),
    Try("unlearn --help", says="llama7b"),
    Try("unlearn method=undail", 2, "undial"),
    Try("unlearn data=jsonl", 2, "model.path"),
    Try("unlearn experiment=debug hardware=cpu name=first", says="everything is in"),
    Try("unlearn experiment=debug hardware=cpu name=first", says="done"),
    Try("finetune experiment=debug hardware=cpu name=second", says="everything is in"),
    Try("finetune train.max_steps=-1", 2, "train.max_steps"),
    Try(f"evaluate {RUN} eval.limit=2", says="forget_probability"),
    Try("evaluate missing", 2, "no run folder"),
    Try(f"audit {RUN} audit.attacks=[direct] hardware=cpu", says="audit.html"),
    Try(f"audit {RUN} audit.attacks=[dirct]", 2, "direct"),
    Try("data html=data.html", says="nothing looks wrong"),
    Try("data data.limit=x", 2, "data.limit"),
    Try(f"ask {RUN} max_new_tokens=8 'Who is Rafiq Tregavorn?'", says="unlearned"),
    Try("ask missing 'Who?'", 2, "missing"),
    Try(
        "alternatives hardware=cpu out=answers.jsonl data.limit=2 target.epochs=1 "
        "alternatives.count=1 alternatives.rounds=1 alternatives.max_new_tokens=8"
    ),
    Try("alternatives out=", 2, "answers.jsonl"),
    Try(f"report {RUN}", says="report"),
    Try("report missing", 2, "missing"),
    Try("compare outputs/unlearn outputs/finetune", says="second"),
    Try(f"compare {RUN}", 2, "two runs"),
    Try(f"merge {RUN} out=merged", says="model.safetensors"),
    Try("merge missing", 2, "no run folder"),
    Try("reproduce table=demo_methods plan=true rows=[undial]", says="undial"),
    Try("reproduce table=demo_method", 2, "demo_methods"),
    Try("tune method=undail", 2, "undial"),
    Try("show model=llama1b", says="configs/model/llama1b.yaml"),
    Try("show model=lama1b", 2, "llama1b"),
    Try("copy method/undial my/configs", says="--config-dir my/configs"),
    Try("copy method/undail my/configs", 2, "undial"),
    Try("validate my/configs", says="a method"),
    Try("validate missing.yaml", 2, "missing.yaml"),
    Try("schema method", says="strength"),
    Try("schema methd", 2, "method"),
    Try("completion bash", says="complete"),
    Try("completion zsh", says="compdef"),
    Try("completion fish", says="complete -c undial"),
    Try("completion tcsh", 2, "bash"),
    Try(f"serve {RUN} host=0.0.0.0", 2, "key"),
    Try("list", says="first"),
    Try("list --wrong", 2, "--json"),
    Try("doctor", says="torch"),
    Try("doctor now", 2, "--json"),
    Try(f"purge {RUN} --dry-run", says="samples"),
    Try("purge missing", 2, "missing"),
)
EXTRAS = {"optuna": "tune method=undial budget=1", "gguf": f"export {RUN}"}
REFUSED = tuple(Try(words, 2, f"undial[{extra}]") for extra, words in EXTRAS.items())
WITH_EXTRAS = (
    Try("tune method=undial budget=1 plan=true", says="train.learning_rate"),
    Try(
        "tune method=undial budget=1 hardware=cpu target.epochs=1 train.max_steps=2 eval.limit=4 "
        "eval.max_new_tokens=8 report=false checkpoints=1"
    ),
    Try(f"export {RUN} out=exported", says="gguf"),
    Try(f"export {RUN} format=gguff", 2, "gguf"),
)


def call(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a program; its exit code and all that it said."""
    done = subprocess.run(
        words, cwd=folder, env=dict(environment), text=True, timeout=SECONDS,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def check_command(one: Try, undial: Path, folder: Path, environment: Mapping[str, str]) -> bool:
    """Type a command; says how it went, and all of its output where that was not as it should."""
    start = time.monotonic()
    code, text = call([str(undial), *shlex.split(one.words)], folder, environment)
    is_right = code == one.code and one.says in " ".join(text.split())
    if one.code == 2:  # a line of ours, the last; torch may have warned of the machine before
        last = text.strip().rpartition("\n")[2]
        is_right = is_right and last.startswith("undial: ") and "Traceback" not in text
    verdict = "ok" if is_right else f"WRONG (exit code {code}, expected {one.code})"
    print(f"  {verdict}  {time.monotonic() - start:5.1f} s  undial {one.words}", flush=True)
    if not is_right:
        print(text)
    return is_right


def check_python(python: str, wheel: Path) -> bool:
    """Install the wheel for one Python and try everything; whether all was as it should be."""
    with tempfile.TemporaryDirectory(prefix="undial-wheel-") as scratch:
        root, folder = Path(scratch), Path(scratch) / "empty"
        folder.mkdir()
        programs = root / "venv" / ("Scripts" if os.name == "nt" else "bin")
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["UNDIAL_CACHE_DIR"] = str(root / "cache")
        version = wheel.name.split("-")[1]
        plain = [Try("--version", says=f"undial {version}"), *COMMANDS, *REFUSED]
        code, text = call([python, "-m", "venv", str(root / "venv")], folder, environment)
        right = []
        for what, tries in (("", plain), (f"[{','.join(EXTRAS)}]", WITH_EXTRAS)):
            if code == 0:
                code, text = call([*pip, f"{wheel}{what}"], folder, environment)
            if code:
                print(f"  WRONG: pip install {wheel.name}{what}\n{text}")
                return False
            right += [check_command(one, programs / "undial", folder, environment) for one in tries]
        return all(right)


def main() -> None:
    """Check the wheel with every Python that was named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("python", nargs="*", default=[sys.executable])
    asked = parser.parse_args()
    if missing := [python for python in asked.python if not shutil.which(python)]:
        parser.error(f"no such program: {', '.join(missing)}")
    right = []
    for python in asked.python:
        print(f"{python}: {call([python, '--version'], Path.cwd(), os.environ)[1].strip()}")
        right.append(check_python(python, asked.wheel.resolve()))
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
