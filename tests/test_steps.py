"""What is the same work: identities of components and steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clir_cli import fingerprints
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.bm25 import BM25
from clir_cli.retrievers.dense import Dense
from clir_cli.steps import Purpose, Step, digest, identity, ordered, pending
from clir_cli.types import added, content, model, neutral, searched


@dataclass(frozen=True)
class Old:
    depth: int = 10
    path: str | None = content(None)
    k1: float = searched(0.9)
    threads: int = neutral(1)
    weights: tuple[float, ...] = (1.0, 2.0)


@pytest.fixture
def prints(tmp_path: Path) -> Fingerprints:
    return Fingerprints(tmp_path / "fingerprints")


def key(part: object, prints: Fingerprints, purpose: Purpose = "search") -> str:
    return digest(identity(part, prints, purpose))


def test_a_faster_setting_is_the_same_work(prints: Fingerprints) -> None:
    assert key(Old(threads=1), prints) == key(Old(threads=8), prints)


def test_a_search_setting_changes_the_search_and_not_the_index(prints: Fingerprints) -> None:
    assert key(Old(k1=0.9), prints) != key(Old(k1=1.2), prints)
    assert key(Old(k1=0.9), prints, "index") == key(Old(k1=1.2), prints, "index")


def test_one_and_one_point_zero_are_one_setting(prints: Fingerprints) -> None:
    assert digest({"k1": 1.0}) == digest({"k1": float(1)})
    assert key(BM25(k1=1.0), prints) == key(BM25(k1=float("1")), prints)


def test_a_file_counts_by_what_it_holds_wherever_it_lies(prints: Fingerprints, tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (key(Old(path=str(tmp_path / n)), prints) for n in "abc")
    assert a == b != c


def test_a_model_folder_counts_by_what_it_holds_and_hidden_files_do_not(prints: Fingerprints, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "1_Pooling").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "there" / ".cache").mkdir()
    (tmp_path / "there" / ".cache" / "lock").write_text("x")
    here, there = Dense(model=str(tmp_path / "here")), Dense(model=str(tmp_path / "there"))
    assert key(here, prints) == key(there, prints)
    (tmp_path / "there" / "1_Pooling" / "config.json").write_text('{"pooling": "cls"}')
    assert key(here, prints) != key(there, prints)


def test_a_hub_model_without_a_revision_has_no_identity_yet(prints: Fingerprints) -> None:
    open_, pinned = (
        identity(Dense(model="me/encoder"), prints),
        identity(Dense(model="me/encoder", revision="abc"), prints),
    )
    assert [p.model for p in pending(open_)] == ["me/encoder"]
    assert not pending(pinned)


def test_a_new_option_leaves_old_work_valid_and_a_new_default_does_not_alias_two_behaviours(
    prints: Fingerprints,
) -> None:
    @dataclass(frozen=True)
    class New:
        depth: int = 10
        lower: bool = added(True, before=False)

    @dataclass(frozen=True)
    class Before:
        depth: int = 10

    def fields_of(part: object) -> dict[str, object]:
        return {k: v for k, v in identity(part, prints).items() if k != "class"}

    assert fields_of(New(lower=False)) == fields_of(Before())
    assert fields_of(New()) != fields_of(Before())


def test_what_cannot_be_written_down_is_no_identity(prints: Fingerprints) -> None:
    with pytest.raises(TypeError):
        identity(replace(Old(), weights={1.0}), prints)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        key(replace(Old(), k1=float("nan")), prints)


def test_a_large_file_is_not_read_while_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clir_cli.fingerprints.SMALL", 3)
    (tmp_path / "large").write_text("a large file")
    lazy, eager = Fingerprints(tmp_path / "p", eager=False), Fingerprints(tmp_path / "p")
    assert "to be fingerprinted" in lazy.fingerprint(tmp_path / "large")
    young = eager.fingerprint(tmp_path / "large")
    assert "to be fingerprinted" in lazy.fingerprint(tmp_path / "large"), (
        "a file younger than its time stamp's grain is not remembered"
    )
    old = time.time() - 10
    import os

    os.utime(tmp_path / "large", (old, old))
    monkeypatch.setattr("clir_cli.fingerprints.YOUNG", -1.0)
    assert eager.fingerprint(tmp_path / "large") == young == lazy.fingerprint(tmp_path / "large")
    (tmp_path / "large").write_text("A LARGE FILE")
    assert "to be fingerprinted" in lazy.fingerprint(tmp_path / "large")


def test_a_collection_of_many_files_is_read_once_and_again_when_one_changes(tmp_path, prints, monkeypatch):
    monkeypatch.setattr("clir_cli.fingerprints.YOUNG", -1.0)
    paths = [tmp_path / f"{i}.sgml" for i in range(30)]
    for path in paths:
        path.write_text(path.name)
    first = prints.fingerprints(paths)
    assert first == [prints.fingerprint(path) for path in paths]
    read: list[str] = []
    hashed = fingerprints._sha256
    monkeypatch.setattr(fingerprints, "_sha256", lambda path, size: read.append(path.name) or hashed(path, size))
    assert Fingerprints(prints.folder).fingerprints(paths) == first and read == []
    paths[7].write_text("changed")
    again = Fingerprints(prints.folder).fingerprints(paths)
    assert [i for i in range(30) if again[i] != first[i]] == [7]


def test_steps_come_after_what_they_need() -> None:
    def step(name: str, *parents: Step) -> Step:
        return Step(name, name, {}, {}, lambda at: {}, parents)

    docs = step("docs")
    left, right = step("left", docs), step("right", docs)
    assert [s.stage for s in ordered([step("fuse", left, right), right])] == ["docs", "left", "right", "fuse"]


@dataclass(frozen=True)
class Modelled:
    model: str = model()
    revision: str | None = None


def test_two_revisions_of_a_model_are_two_models(prints: Fingerprints) -> None:
    assert key(Modelled("a/b", "1"), prints) != key(Modelled("a/b", "2"), prints)
