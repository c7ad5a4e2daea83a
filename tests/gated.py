"""A retriever whose shards wait, fail or die on request, in a plug-in as a user would install it: for tests of launchers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clir_cli import runs
from clir_cli.errors import RunError
from clir_cli.types import Run, Text, added, neutral

SHARDS = 4  # of the demo's 60 documents


@dataclass(frozen=True)
class Gated:
    """The longest documents first. Files in the folder `gate` say what a shard does, and it says there that it did it.

    `hold-NAME-2`: shard 2 waits while the file is there; `kill-NAME-2`: its process is killed; `fail-NAME-2`, `oom-NAME-2`:
    it raises. A request other than hold is fulfilled once.
    """

    gate: str = neutral()
    name: str = "a"
    weights: str | None = added(None, None, "model")  # which model it would load
    revision: str | None = None
    gpus: int = neutral(0)

    @property
    def shard_docs(self) -> int:
        return 60 // SHARDS

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        gate, shard = Path(self.gate), folder.name.split("-")[0].lstrip(".0") or "0"
        self._say("started", shard)
        while (gate / f"hold-{self.name}-{shard}").exists():
            time.sleep(0.05)
        if self._asked(f"kill-{self.name}-{shard}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._asked(f"fail-{self.name}-{shard}"):
            raise RunError(f"shard {shard} of {self.name} was asked to fail")
        if self._asked(f"oom-{self.name}-{shard}"):
            raise MemoryError
        (folder / "lengths.tsv").write_text("".join(f"{doc.id}\t{len(doc.text)}\n" for doc in docs), encoding="utf-8")
        self._say("made", shard)

    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run:
        shards = sorted(folder.glob("shards/*/lengths.tsv"))
        rows = [line.split("\t") for shard in shards for line in shard.read_text().splitlines()]
        return runs.from_hits({q.id: [(doc_id, float(length)) for doc_id, length in rows] for q in queries})

    def _say(self, what: str, shard: str) -> None:
        line = f"{what} {self.name} {shard} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-') or '-'}\n"
        with (Path(self.gate) / "said").open("a", encoding="utf-8") as said:
            said.write(line)

    def _asked(self, request: str) -> bool:
        asked = Path(self.gate) / request
        if asked.exists():
            asked.unlink()
            return True
        return False


class Gate:
    """The other side: what the tests ask for, and what was said. `env` and `overrides` make clir use the plug-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gate"
        self.folder.mkdir()
        info = folder / "site" / "gated-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[clir]\ngated = gated\n")
        self.yaml = folder / "configs" / "retriever" / "gated.yaml"
        self.yaml.parent.mkdir(parents=True)
        self.yaml.write_text(f"_target_: gated.Gated\ngate: {self.folder}\n")
        root = Path(__file__).parents[1]
        self.env = {"PYTHONPATH": os.pathsep.join(map(str, [folder / "site", root / "tests", root]))}

    def ask(self, *requests: str) -> None:
        for request in requests:
            (self.folder / request).touch()

    def open(self, *requests: str) -> None:
        for request in requests:
            (self.folder / f"hold-{request}").unlink()

    def said(self, what: str) -> list[tuple[str, str]]:
        """(name, shard) of every shard that was `started` or `made`, in order."""
        return [(name, shard) for kind, name, shard, *_ in self._lines() if kind == what]

    def processes(self) -> dict[str, set[tuple[str, str]]]:
        """name -> the (process id, CUDA_VISIBLE_DEVICES) that worked on it."""
        found: dict[str, set[tuple[str, str]]] = {}
        for _, name, _, process, gpus in self._lines():
            found.setdefault(name, set()).add((process, gpus))
        return found

    def _lines(self) -> list[list[str]]:
        said = self.folder / "said"
        return [line.split() for line in said.read_text().splitlines()] if said.exists() else []
