"""What the stages share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from clir_cli.config import Config
from clir_cli.errors import DataError, MissingData, many
from clir_cli.progress import say
from clir_cli.steps import Needs
from clir_cli.store import At
from clir_cli.types import Doc, Text
from clir_cli.views import Fields


def pair_label(cfg: Config) -> str:
    """`ciral-test.en-sw`: the dataset, its split and selection, and the language pair."""
    dataset = cfg.dataset
    split = f"-{dataset.split}" if dataset.split else ""
    return f"{cfg.labels['dataset']}{split}{dataset.selection}.{dataset.query_lang}-{dataset.doc_label}"


def tie_break(cfg: Config) -> Literal["doc_id", "hash"]:
    chosen = cfg.retrieve.tie_break
    if chosen == "auto":
        return "hash" if len(cfg.dataset.doc_langs) > 1 else "doc_id"
    return chosen


def needs(component: Any) -> Needs:
    """What a component asks of a machine: a GPU where it, or a component in it, loads a model; and what they say themselves.

    They say it by attributes of any kind named `gpus`, `memory_gb`, `minutes` and `python`.
    """
    parts = list(parts_of(component))
    loads = dict.fromkeys(_named(part) for part in parts if _models(part))
    memory = [part.memory_gb for part in parts if getattr(part, "memory_gb", None) is not None]
    return Needs(
        gpus=max((_gpus(part) for part in parts), default=0),
        memory_gb=max(memory, default=None),
        minutes=getattr(component, "minutes", None),
        python=getattr(component, "python", None),
        loads=" + ".join(loads),
    )


def parts_of(part: Any) -> Iterator[Any]:
    """The component and those in it."""
    if isinstance(part, tuple | Mapping):
        for inside in part.values() if isinstance(part, Mapping) else part:
            yield from parts_of(inside)
    elif is_dataclass(part):
        yield part
        for f in fields(part):
            yield from parts_of(getattr(part, f.name))


def _models(part: Any) -> list[str]:
    named = [getattr(part, f.name) for f in fields(part) if f.metadata.get("role") == "model"]
    return [str(name) for name in named if name]


def _gpus(part: Any) -> int:
    """What is said, else 1 for a model that may choose its device; an adapter goes where its model is."""
    said = getattr(part, "gpus", 0)
    device = str(getattr(part, "device", "cpu"))
    return max(int(said), int(bool(_models(part)) and not device.startswith("cpu")))


def _named(part: Any) -> str:
    """`me/encoder@1a2b3c bfloat16`: which weights are loaded, and how."""
    *others, last = _models(part)
    revision = getattr(part, "revision", None)
    how = [str(value) for name in ("dtype", "quantisation") if (value := getattr(part, name, None)) is not None]
    return " ".join([*others, last + (f"@{revision}" if revision else ""), *how])


def fields_meaning(chosen: Fields) -> dict[str, Any]:
    return {"fields": chosen.names, "separator": chosen.separator}


def tell(counts: Mapping[str, float], where: str, names: Mapping[str, tuple[str, str]]) -> None:
    """A line for every count that is not 0; `names`: key -> what one is called, and more than one."""
    for key, said in names.items():
        if counts.get(key):
            say(f"{where}: {many(counts[key], *said)}")


class unchanged:  # noqa: N801  used as a statement: with unchanged(files)
    """Fails if a file changes while it is read."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)

    def _state(self) -> list[tuple[int, int]]:
        try:
            return [(s.st_size, s.st_mtime_ns) for s in (f.stat() for f in self.files)]
        except FileNotFoundError as error:
            raise MissingData(f"{error.filename} does not exist") from error

    def __enter__(self) -> None:
        self.before = self._state()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._state() != self.before:
            raise DataError(
                f"{', '.join(map(str, self.files))} changed while it was read: run again when it is complete"
            )


def joined(shards: Sequence[Path]) -> Iterator[Doc]:
    for shard in shards:
        with (shard / "docs.jsonl").open(encoding="utf-8") as lines:
            yield from (Doc(*json.loads(line)) for line in lines)


def drop_shards(at: At) -> None:
    import shutil

    shutil.rmtree(at.draft / "shards")


def chunks(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    given = iter(texts)
    while chunk := list(islice(given, size)):
        yield chunk
