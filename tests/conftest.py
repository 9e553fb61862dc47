"""Shared fixtures: a private cache, a hurried demo target, and the real data's location."""

from __future__ import annotations

import csv
import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Command, read_own_settings

from undial_cli.errors import UserError
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER, find_config_folder

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# bitsandbytes compiles its functions for a CPU by a C++ compiler; what they give is the same.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
gc.disable()  # until all is imported

TESTS = Path(__file__).parent
FROZEN = [0]  # how many modules the garbage collector leaves out
# A target that has seen one epoch: enough for everything but the quality of forgetting.
HURRIED = [
    "target.epochs=1", "eval.limit=4", "eval.max_new_tokens=8", "hardware=cpu",
    "report=false",
]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the test session's own, shared by all tests and their subprocesses."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["UNDIAL_CACHE_DIR"] = str(folder)
    read_own_settings()
    return folder


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_runtest_setup() -> None:
    """What was imported is no garbage: each collection would look through all of it."""
    if len(sys.modules) > FROZEN[0] + 50:
        gc.freeze()
        FROZEN[0] = len(sys.modules)


def prepare(run: Any, weights: bool = True) -> Any:
    """What a composed run reads."""
    from undial_cli.runs import inputs
    from undial_cli.runs.resolved import ResolvedRun

    return inputs.prepare_inputs(ResolvedRun(run), weights)


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own for what `datasets` reads."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def data_root() -> Path:
    """The folder with TOFU and the other real data sets; skips where it is not known."""
    root = os.environ.get("UNDIAL_DATA_ROOT")
    if not root:
        pytest.skip("UNDIAL_DATA_ROOT is not set: real data is not at hand")
    return Path(root)


def undial(
    *words: str, cwd: Path, timeout: int = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """The real command in its own process."""
    return Command(words, cwd, env).finish(timeout)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of random weights that answers every prompt differently, with tokenizer."""
    return write_random_model(tmp_path_factory.mktemp("random") / "model", tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    return write_random_model(tmp_path_factory.mktemp("untied") / "model", tied=False)


def write_random_model(folder: Path, tied: bool) -> Path:
    """A model and its tokenizer in Hugging Face's format."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shape = AutoConfig.from_pretrained(PACKAGE_FOLDER / "models" / "tiny")
    shape.num_hidden_layers, shape.initializer_range, shape.tie_word_embeddings = 2, 0.2, tied
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PACKAGE_FOLDER / "models" / "tiny").save_pretrained(folder)
    return folder


@pytest.fixture
def forget_own_methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a file of one's own makes known is known to its test alone."""
    from hydra.core.config_store import ConfigStore

    from undial_cli.methods import METHODS, user_file
    from undial_cli.runs.hydra_configs import compose_groups, register_schemas, register_user_method

    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
    register_schemas()
    options = ConfigStore.instance().repo["method"]
    known, listed = dict(METHODS), dict(options)
    yield
    for held, before in ((METHODS, known), (options, listed)):
        held.clear()
        held.update(before)
    compose_groups.cache_clear()
    register_user_method.cache_clear()


def write_qa(file: Path, count: int, first: int = 0) -> Path:
    """Questions and answers as JSONL, numbered from `first`."""
    rows = [
        {"question": f"Who is {i}?", "answer": f"Number {i} " * (1 + i % 3)}
        for i in range(first, first + count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def list_options(group: str) -> list[str]:
    """The options of a config group, as they lie in configs/."""
    return sorted(file.stem for file in (find_config_folder() / group).glob("*.yaml"))


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as a file of the kind its ending says; without one, as a folder of `save_to_disk`."""
    import datasets

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.suffix == ".csv":
        with open(file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)))
            writer.writeheader()
            for row in rows:
                cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                writer.writerow(cells)
    elif file.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(file)
    elif file.suffix:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        datasets.Dataset.from_list(rows).save_to_disk(file)
    return str(file)


def refused(call: Callable[[], object], *parts: str) -> None:
    """The call is refused in one line that holds all the parts."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def write_muse(folder: Path, books: bool = False) -> Any:
    """Run scripts/make_muse_layout.py; returns what it wrote."""
    script = PACKAGE_FOLDER.parent / "scripts" / "make_muse_layout.py"
    spec = importlib.util.spec_from_file_location("make_muse_layout", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write(folder, books)


@pytest.fixture(scope="session")
def news(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder laid out like MUSE-News, and what was written to it."""
    folder = tmp_path_factory.mktemp("muse") / "news"
    return folder, write_muse(folder)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 4 layers whose weights are most of what it takes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("wide") / "model"
    shape = AutoConfig.from_pretrained(PACKAGE_FOLDER / "models" / "tiny")
    shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size = 4, 512, 1024
    shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim = 8, 4, 64
    shape.tie_word_embeddings = False
    AutoModelForCausalLM.from_config(shape, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PACKAGE_FOLDER / "models" / "tiny").save_pretrained(folder)
    return folder
