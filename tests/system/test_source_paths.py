"""Where a model comes from: folders, run folders, files, packages, the hub; refusals name it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from conftest import refused

from undial_cli.errors import WorldError
from undial_cli.system.source_paths import (
    ModelSource,
    find_package_resource,
    is_local_path,
    resolve_model_path,
)


def test_a_run_folder_stands_for_its_checkpoint(random_model: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").symlink_to(random_model)
    (tmp_path / "run.yaml").touch()
    assert resolve_model_path(str(tmp_path)) == ModelSource(str(random_model.resolve()))


def test_a_gguf_file_is_a_source_of_its_own_kind(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    source = resolve_model_path(str(file))
    assert source == ModelSource(str(tmp_path), gguf_file="small.gguf")
    assert source.arguments == {"gguf_file": "small.gguf"}


@pytest.mark.parametrize(
    "made, path, parts",
    [
        ("folder/", "folder", ("not a model", "config.json or adapter_config.json")),
        ("model.bin", "model.bin", ("only with the ending .gguf",)),
        (None, "absent", ("no such file or folder",)),
    ],
)
def test_what_is_no_model_is_refused_by_its_key(
    made: str | None, path: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    if made is not None and made.endswith("/"):
        (tmp_path / made).mkdir()
    elif made is not None:
        (tmp_path / made).touch()
    key = "model.tokenizer_path"
    refused(lambda: resolve_model_path(str(tmp_path / path), key), f"{key}={tmp_path}", *parts)


def test_a_resource_of_a_package_is_found_without_importing_it() -> None:
    assert find_package_resource("pkg://undial_cli/models/tiny", "model.path").is_dir()
    refused(
        lambda: find_package_resource("pkg://no_such_package/x", "model.path"),
        "model.path=pkg://no_such_package/x", "pip install no-such-package",
    )  # fmt: skip
    refused(
        lambda: find_package_resource("pkg://undial_cli/no/such", "data.path"),
        "data.path=", "holds no 'no/such'",
    )  # fmt: skip


def test_a_hub_that_cannot_be_asked_is_the_worlds_fault() -> None:
    with pytest.raises(WorldError, match=r"model\.path=org/absent: .* hub cannot be reached"):
        resolve_model_path("org/absent")


@pytest.mark.parametrize("path", ["./model", "/models/a", "~/a", "a.gguf", "models/run/checkpoint"])
def test_a_path_of_this_machine_is_never_asked_of_the_hub(path: str) -> None:
    assert is_local_path(path)
    assert not is_local_path("org/model")
