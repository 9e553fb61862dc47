"""Where models and data come from: hub ids, folders, .gguf files, pkg:// resources.

Turns a path of the config into a local folder or a hub id, and says in one line what is wrong
with it. Loads no weights.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.system.faults import explain_fault

CONFIG_FILES = ("config.json", "adapter_config.json")
# In a folder of two models that are decoded together (see `contrastive`).
CONTRAST_FILE = "contrastive.json"


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies: a local folder or file, or a hub repository at a revision."""

    path: str
    revision: str | None = None
    local: bool = True
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Keyword arguments for `from_pretrained` besides the path."""
        arguments = {"revision": self.revision, "gguf_file": self.gguf_file}
        return {name: value for name, value in arguments.items() if value is not None}


def find_package_resource(uri: str, key: str) -> Path:
    """The file or folder that `pkg://package/inner/path` names, without importing the package."""
    package, _, inner = uri.removeprefix("pkg://").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        hint = f"pip install {package.replace('_', '-')}"
        raise UserError(f"{key}={uri}: the Python package '{package}' is not installed ({hint})")
    for root in spec.submodule_search_locations:  # of a namespace package several
        path = Path(root) / inner
        if path.exists():
            return path
    raise UserError(f"{key}={uri}: the package '{package}' holds no '{inner}'")


def is_local_path(path: str) -> bool:
    """Whether a path can only be meant as a file or folder of this machine."""
    return path.startswith((".", "/", "~")) or path.endswith(".gguf") or path.count("/") > 1


def resolve_model_path(path: str, key: str = "model.path") -> ModelSource:
    """Resolve a model path; a run folder stands for its checkpoint.

    Raises:
        UserError: there is no such model, or it is not one.
        WorldError: the hub cannot be asked.
    """
    local = (
        find_package_resource(path, key) if path.startswith("pkg://") else Path(path).expanduser()
    )
    if local.is_file():
        if local.suffix != ".gguf":
            raise UserError(f"{key}={path}: a file is taken only with the ending .gguf")
        return ModelSource(str(local.parent), gguf_file=local.name)
    if local.is_dir():
        if (local / "run.yaml").is_file() and (local / "checkpoint").is_dir():
            local = local / "checkpoint"
        if not any((local / name).is_file() for name in (*CONFIG_FILES, CONTRAST_FILE)):
            raise UserError(
                f"{key}={path}: not a model ({' or '.join(CONFIG_FILES)} expected there)"
            )
        return ModelSource(str(local.resolve()))
    if is_local_path(path):
        raise UserError(f"{key}={path}: no such file or folder")
    return resolve_hub_model(path, key)


def resolve_hub_model(path: str, key: str) -> ModelSource:
    """A hub repository that exists and holds a model configuration."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = path.partition("@")
    for name in CONFIG_FILES:
        try:
            hf_hub_download(repository, name, revision=revision or None)
            return ModelSource(repository, revision or None, local=False)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise unreachable_hub_error(f"{key}={path}", error) from error
        except EntryNotFoundError:
            continue  # an adapter's repository holds no config.json
        except GatedRepoError as error:
            raise UserError(f"{key}={path}: the hub wants a login with access to it") from error
        except RevisionNotFoundError as error:
            raise UserError(f"{key}={path}: no such revision on the hub") from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise UserError(
                f"{key}={path}: no such folder, and no such model on the hub"
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise unreachable_hub_error(f"{key}={path}", error) from error
    raise UserError(f"{key}={path}: not a model ({' or '.join(CONFIG_FILES)} expected there)")


def unreachable_hub_error(setting: str, error: Exception) -> WorldError:
    fault = explain_fault(error)  # its cache may be full, and the hub not to blame
    if fault is not None:
        return fault
    return WorldError(
        f"{setting}: not a local folder, and the hub cannot be reached "
        f"({first_line(error)[:120]}); give a local folder or go online"
    )
