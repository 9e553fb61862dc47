"""Hashes of what a model path holds, for caches and for what a run records.

Knows no cache.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from undial_cli.config.models import ModelConfig
from undial_cli.models.paths import find_part_paths, is_from_scratch, resolve_model_folder
from undial_cli.system.files import hash_model_folder
from undial_cli.system.source_paths import CONFIG_FILES, ModelSource


def fingerprint_weights(config: ModelConfig, path: str, seed: int | None = None) -> str:
    """A hash of what a model path holds: file contents locally, the commit on the hub.

    An adapter's is that of its base too, at the revision it lies on.

    Args:
        seed: what a model from scratch is initialised from; None: known by other means.
    """
    source = resolve_model_folder(path, config)
    parts = find_part_paths(source, config)
    inner = "".join(fingerprint_weights(config, part, seed) for part in parts)
    if source.local:
        fresh = f"seed {seed}" if seed is not None and is_from_scratch(config, path) else ""
        return hash_model_folder(Path(source.path)) + inner + fresh
    return find_hub_commit(source) + inner


def find_adapter_revision(config: ModelConfig, path: str) -> str | None:
    """What an adapter on a model remembers: the revision asked for, else the commit of today."""
    source = resolve_model_folder(path, config)
    return None if source.local else source.revision or find_hub_commit(source)


def find_hub_commit(source: ModelSource) -> str:
    """The commit of a hub repository that its files are taken from."""
    from huggingface_hub import hf_hub_download

    for name in CONFIG_FILES:
        with contextlib.suppress(OSError):
            return Path(hf_hub_download(source.path, name, revision=source.revision)).parent.name
    return json.dumps([source.path, source.revision])  # without a config on the hub: its name
