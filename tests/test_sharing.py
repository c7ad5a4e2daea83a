"""Experiments as files: what is packed comes out, and nothing else does."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from backports import zstd
from conftest import Clir

from clir_cli import archive, runs
from clir_cli.errors import ConfigError, DataError
from clir_cli.experiment import read_rows
from clir_cli.files import read_json, write_json
from clir_cli.provenance import checksum
from clir_cli.verbs import sharing


@pytest.fixture(scope="module")
def clir(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    return Clir(tmp_path_factory.mktemp("sharing"))


@pytest.fixture(scope="module")
def experiment(clir: Clir) -> Path:
    return clir.experiment("reranker=oracle")


@pytest.fixture(scope="module")
def packed(clir: Clir, experiment: Path) -> Path:
    clir("export", str(experiment), "one.tar.zst")
    return clir.folder / "one.tar.zst"


def members(path: Path) -> dict[str, bytes]:
    with zstd.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def pack(path: Path, content: dict[str, bytes], *infos: tarfile.TarInfo) -> Path:
    """A tar.zst with these members, and without any care."""
    with zstd.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in infos:
            tar.addfile(info)
    return path


def entries(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*")) if root.exists() else []


# Export and import ----------------------------------------------------------------------------------------------------


def test_an_experiment_arrives_as_it_was_made(clir: Clir, experiment: Path, packed: Path, tmp_path: Path) -> None:
    there = Clir(tmp_path)
    folder = Path(there("import", str(packed)).stdout.strip())
    assert folder == there.runs / experiment.parent.name / experiment.name
    for path in experiment.iterdir():
        if path.name not in {"config.yaml", "manifest.json"}:
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    manifest = read_json(folder / "manifest.json")
    assert all(checksum(folder / name) == sha256 for name, sha256 in manifest["files"].items())
    assert there("list").stdout.startswith(f"runs/{experiment.parent.name}/{experiment.name} ")
    assert not (there.runs / "steps").exists(), "no documents unless they are asked for"
    assert "is there already, with the same results" in there("import", str(packed)).stderr
    assert there("cache", "verify").stdout.startswith("every file in ")


def test_equal_experiments_make_equal_archives(clir: Clir, experiment: Path, packed: Path, tmp_path: Path) -> None:
    sharing.export([experiment], clir.runs, tmp_path / "again.tar.zst", False, False, None)
    assert (tmp_path / "again.tar.zst").read_bytes() == packed.read_bytes()


def test_nobody_is_named_unless_asked(
    clir: Clir, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(clir.folder))
    sharing.export([experiment], clir.runs, tmp_path / "a.tar.zst", False, False, None)
    sharing.export([experiment], clir.runs, tmp_path / "b.tar.zst", False, True, None)
    host = read_json(experiment / "manifest.json")["host"].encode()
    quiet, named = members(tmp_path / "a.tar.zst"), members(tmp_path / "b.tar.zst")
    manifest = f"experiments/{experiment.parent.name}/{experiment.name}/manifest.json"
    assert b'"host"' not in quiet[manifest] and host in named[manifest]
    assert not any(str(clir.folder).encode() in text for text in quiet.values())
    assert named[manifest] == (experiment / "manifest.json").read_bytes()


def test_steps_come_along_when_asked_and_are_used(clir: Clir, experiment: Path, tmp_path: Path) -> None:
    clir("export", "--with-steps", str(experiment), "steps.tar.zst")
    there = Clir(tmp_path)
    there("import", str(clir.folder / "steps.tar.zst"))
    assert there("plan", "reranker=oracle", "rerank.depth=10").stdout.count("\nmissing") == 1, "only the reranking"
    shutil.rmtree(there.runs / experiment.parent.name)
    again = there.experiment("reranker=oracle")
    assert (again / "run.trec").read_bytes() == (experiment / "run.trec").read_bytes()
    assert all(row["cached"] == "true" for row in read_rows(again / "costs.csv"))


def test_a_sweep_is_packed_with_its_experiments(clir: Clir, tmp_path: Path) -> None:
    sweep = clir("run", "-m", "retriever=bm25_dt,bm25_qt").stdout.splitlines()[-1]
    clir("export", sweep, "sweep.tar.zst")
    found = sharing.import_(clir.folder / "sweep.tar.zst", tmp_path / "runs")
    assert len(found) == 2 and all((f / "run.trec").exists() for f in found)
    assert (tmp_path / "runs" / "sweeps" / Path(sweep).name / "cells.csv").exists()


def test_an_experiment_with_other_results_stays_as_it_is(packed: Path, tmp_path: Path) -> None:
    (folder,) = sharing.import_(packed, tmp_path)
    (folder / "metrics.csv").write_text("other\n")
    before = entries(tmp_path)
    with pytest.raises(DataError, match=r"is there already, and its metrics.csv differ"):
        sharing.import_(packed, tmp_path)
    assert entries(tmp_path) == before and (folder / "metrics.csv").read_text() == "other\n"


def test_what_changed_since_it_was_made_is_not_exported(packed: Path, tmp_path: Path) -> None:
    (folder,) = sharing.import_(packed, tmp_path)
    with (folder / "run.trec").open("a") as more:
        more.write("t01 Q0 de-more 900 0 x\n")
    with pytest.raises(DataError, match=r"run.trec is not what it was when it was made"):
        sharing.export([folder], tmp_path, tmp_path / "out.tar.zst", False, False, None)
    (folder / "run.trec").unlink()
    with pytest.raises(DataError, match=r"is incomplete: it lacks run.trec"):
        sharing.export([folder], tmp_path, tmp_path / "out.tar.zst", False, False, None)
    assert not list(tmp_path.glob("*.zst")) and not list(tmp_path.glob(".*"))


# Damage and malice ----------------------------------------------------------------------------------------------------


def relisted(content: dict[str, bytes]) -> dict[str, bytes]:
    """The members with a list that agrees with them: what somebody writes who wants to be believed."""
    head = json.loads(content[archive.LIST])
    rest = {k: v for k, v in content.items() if k != archive.LIST}
    head["members"] = {k: {"size": len(v), "sha256": archive.sha256(v)} for k, v in rest.items()}
    return {archive.LIST: json.dumps(head).encode(), **rest}


def tampered(content: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    return {k: data if k.endswith(name) else v for k, v in content.items()}


Change = Callable[[dict[str, bytes]], dict[str, bytes]]
BAD: dict[str, tuple[Change, str]] = {
    "a file was changed": (lambda c: tampered(c, "/run.trec", b"x"), r"/run.trec' is not as it was exported"),
    "a file of the same length was changed": (
        lambda c: tampered(c, "/run.trec", b"x" * len(next(v for k, v in c.items() if k.endswith("/run.trec")))),
        r"/run.trec' is not as it was exported",
    ),
    "a file and the list were changed": (
        lambda c: relisted(tampered(c, "/run.trec", b"x")),
        r"/run.trec is not what it was when it was made",
    ),
    "a file is missing": (lambda c: {k: v for k, v in c.items() if not k.endswith(".trec")}, r"is missing, and 1 more"),
    "a file is added": (lambda c: {**c, "experiments/a.b-c/d/e": b""}, r"'experiments/a.b-c/d/e' is not in its list"),
    "a name climbs": (lambda c: relisted({**c, "experiments/../../evil/x": b""}), r"may not stand in an archive"),
    "a name is absolute": (lambda c: relisted({**c, "/tmp/evil": b""}), r"'/tmp/evil' may not stand"),
    "a name is hidden": (lambda c: relisted({**c, "experiments/.x/y/z": b""}), r"may not stand"),
    "a name is elsewhere": (lambda c: relisted({**c, "locks/a.lock": b""}), r"'locks/a.lock' may not stand"),
    "a backslash": (lambda c: relisted({**c, "experiments\\..\\x": b""}), r"may not stand"),
    "no list": (lambda c: {k: v for k, v in c.items() if k != archive.LIST}, r"does not begin with clir-export.json"),
    "a broken list": (lambda c: {**c, archive.LIST: b"{"}, r"clir-export.json does not parse"),
    "another format": (lambda c: {**c, archive.LIST: b'{"format": 9, "members": {}}'}, r"has format 9, and this clir"),
    "no manifest": (lambda c: relisted({k: v for k, v in c.items() if "manifest" not in k}), r"no whole manifest.json"),
    "another key": (
        lambda c: relisted({k.replace("oracle-", "oracle-0"): v for k, v in c.items()}),
        r"says that its key is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_an_archive_is_trusted_in_nothing(packed: Path, tmp_path: Path, what: str) -> None:
    change, said = BAD[what]
    bad = pack(tmp_path / "bad.tar.zst", change(members(packed)))
    with pytest.raises(DataError, match=said):
        sharing.import_(bad, tmp_path / "runs")
    assert entries(tmp_path / "runs") == [] and entries(tmp_path) == ["bad.tar.zst", "runs"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(packed: Path, tmp_path: Path, kind: bytes) -> None:
    content = members(packed)
    name = next(k for k in content if k.endswith("/run.trec"))
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    bad = pack(tmp_path / "bad.tar.zst", {k: v for k, v in content.items() if k != name}, info)
    with pytest.raises(DataError, match=r"run.trec' is no plain file"):
        sharing.import_(bad, tmp_path / "runs")
    assert entries(tmp_path / "runs") == []


def test_a_cut_or_damaged_archive_is_refused_at_every_place(clir: Clir, packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    bad = tmp_path / "bad.tar.zst"
    for size in (0, 1, 3, 10, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        bad.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"is cut off|no archive of clir export, or damaged"):
            sharing.import_(bad, tmp_path / "runs")
    for at in range(0, len(whole), 997):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(DataError):
            sharing.import_(bad, tmp_path / "runs")
    assert entries(tmp_path / "runs") == []
    said = clir("import", str(bad), code=2)
    assert "bad.tar.zst" in said.stderr and "Traceback" not in said.stderr
    assert "is not a file" in clir("import", "nowhere.tar.zst", code=2).stderr


# Interrupted ----------------------------------------------------------------------------------------------------------


def with_a_large_step(packed: Path, out: Path) -> Path:
    """The archive with a step of 200 MB of zeros beside the experiment."""
    key, data = "0123456789abcdef", bytes(200 << 20)
    record = {"key": key, "files": {"zeros": archive.sha256(data)}, "stage": "index", "label": "large", "before": []}
    content = {k: v for k, v in members(packed).items() if k != archive.LIST}
    content |= {
        f"steps/index/large-{key}/zeros": data,
        f"steps/index/large-{key}/step.json": json.dumps(record).encode(),
    }
    archive.write(out, content, {}, {})
    return out


def test_a_killed_import_leaves_nothing_that_counts(packed: Path, tmp_path: Path) -> None:
    there, large = Clir(tmp_path), with_a_large_step(packed, tmp_path / "large.tar.zst")
    running = there.start("import", str(large))
    while not list(there.runs.glob(".import-*/steps/*/*/zeros")) and running.poll() is None:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (left,) = there.runs.iterdir()
    assert left.name.startswith(".import-") and "no experiments" in there("list").stdout
    folder = Path(there("import", str(large)).stdout.strip())
    assert (folder / "run.trec").exists() and "every file" in there("cache", "verify").stdout
    for path in (left, *left.rglob("*")):
        os.utime(path, (0, 0))
    assert ".import-" in there("cache", "prune", "--leftovers", "--yes").stdout and not left.exists()


def test_a_full_disk_is_said_and_leaves_nothing(clir: Clir, experiment: Path, packed: Path, tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            Clir.command(*arguments), cwd=tmp_path, env=Clir.env(None), preexec_fn=small, capture_output=True, text=True, check=False
        )  # fmt: skip

    for arguments in (["export", str(experiment), "out.tar.zst"], ["import", str(packed)]):
        done = limited(*arguments)
        assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert entries(tmp_path) == ["runs"], "neither an archive nor an experiment, and no draft of them"


# Campaigns ------------------------------------------------------------------------------------------------------------


def test_a_campaign_gets_a_run_for_each_pair_with_its_tag(clir: Clir, experiment: Path) -> None:
    done = clir("export", "--runs", "submit", "--tag", "our-run_1", "--depth", "5", str(experiment))
    assert done.stdout == "submit/our-run_1.en-de.trec\n"
    lines = (clir.folder / "submit" / "our-run_1.en-de.trec").read_text().splitlines()
    whole = (experiment / "run.trec").read_text().splitlines()
    wanted = [line.split()[:5] for line in whole if int(line.split()[3]) <= 5]
    assert [line.split()[:5] for line in lines] == wanted and {line.split()[5] for line in lines} == {"our-run_1"}
    said = yaml.safe_load((clir.folder / "submit" / "our-run_1.en-de.ir_metadata.yaml").read_text())
    assert said["tag"] == "our-run_1" and said["method"]["retrieval"][-1]["reranks"] == "bm25_dt"


def test_a_tag_is_what_nist_takes_and_has_one_run_for_a_pair(clir: Clir, experiment: Path, tmp_path: Path) -> None:
    for tag in ("", "x" * 21, "a b", "ä", "-x", "a/b"):
        with pytest.raises(ConfigError, match=r"--tag: a run tag is 1 to 20 letters"):
            sharing.campaign([experiment], clir.runs, tmp_path, tag, None, None)
    other = clir.experiment()
    with pytest.raises(ConfigError, match=r"are both of en-de"):
        sharing.campaign([experiment, other], clir.runs, tmp_path, "tag", None, None)
    assert entries(tmp_path) == []
    assert "go together" in clir("export", "--tag", "x", str(experiment), code=2).stderr
    assert "last the archive" in clir("export", str(experiment), code=2).stderr
    assert "e.g. experiment.tar.zst" in clir("export", str(experiment), "out.zip", code=2).stderr


# Provenance -----------------------------------------------------------------------------------------------------------


def test_a_run_says_where_it_comes_from_by_primad(clir: Clir, experiment: Path, tmp_path: Path) -> None:
    said = yaml.safe_load((experiment / "ir_metadata.yaml").read_text())
    assert list(said)[3:] == ["platform", "research goal", "implementation", "method", "actor", "data"]
    assert said["research goal"]["evaluation"]["reported measures"][0] == "nDCG@10" and said["actor"] == {}
    first, second = said["method"]["retrieval"]
    assert (first["name"], first["k1"], first["doc"]) == ("bm25_dt", 0.9, "query_lang")
    assert second == {
        "name": "oracle",
        "method": "clir_cli.rerankers.oracle.Oracle",
        "documents": 100,
        "reranks": "bm25_dt",
    }
    text = (experiment / "ir_metadata.yaml").read_text()
    assert str(clir.folder) not in text and read_json(experiment / "manifest.json")["host"] not in text
    own = tmp_path / "own.yaml"
    own.write_text("actor: {team: ours}\nresearch goal: {venue: {name: TREC, year: 2026}}\n")
    sharing.campaign([experiment], clir.runs, tmp_path, "x", None, own)
    merged = yaml.safe_load((tmp_path / "x.en-de.ir_metadata.yaml").read_text())
    assert merged["actor"] == {"team": "ours"} and merged["research goal"].keys() == {"evaluation", "venue"}
    own.write_text("author: me\n")
    with pytest.raises(ConfigError, match=r"expected yaml with some of platform, .*; found 'author'"):
        sharing.campaign([experiment], clir.runs, tmp_path, "x", None, own)


def test_a_measure_added_later_is_reported_too(packed: Path, clir: Clir, tmp_path: Path) -> None:
    there = Clir(tmp_path)
    there("import", str(packed))
    (folder,) = (there.runs / "demo.en-de").iterdir()
    there("evaluate", str(folder), "--measures", "RR@7")
    assert "- RR@7\n" in (folder / "ir_metadata.yaml").read_text()


def test_commented_metadata_in_a_run_are_refused_by_others_and_skipped_by_us(experiment: Path, tmp_path: Path) -> None:
    """Why the metadata stand beside the run: neither pytrec_eval nor ir_measures reads past them."""
    import ir_measures
    import pytrec_eval

    run = tmp_path / "run.trec"
    run.write_text("# ir_metadata.start\n# tag: x\n# ir_metadata.end\n" + (experiment / "run.trec").read_text())
    with run.open() as lines, pytest.raises(ValueError, match="unpack"):
        pytrec_eval.parse_run(lines)
    with pytest.raises(ValueError, match="unpack"):
        list(ir_measures.read_trec_run(str(run)))
    assert runs.read_trec(run).equals(runs.read_trec(experiment / "run.trec"))
    run.write_text("# a remark\n" + (experiment / "run.trec").read_text())
    with pytest.raises(DataError, match=r"run.trec:1: expected 6 fields"):
        runs.read_trec(run)


def test_the_manifest_of_an_archive_lists_what_it_says(packed: Path, experiment: Path, tmp_path: Path) -> None:
    head = json.loads(members(packed)[archive.LIST])
    assert head["experiments"] == [f"{experiment.parent.name}/{experiment.name}"] and head["format"] == 1
    write_json(tmp_path / "x", head)
    assert all(len(m["sha256"]) == 64 for m in head["members"].values())
