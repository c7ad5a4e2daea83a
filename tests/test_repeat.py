"""An experiment again from its config.yaml: elsewhere, later, by somebody else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Clir

from clir_cli import compose, config
from clir_cli.experiment import Experiment
from clir_cli.models import hub
from clir_cli.stages import Stages
from clir_cli.store import Store
from clir_cli.verbs import repeating

DEMO = Path(__file__).parents[1] / "clir_cli" / "datasets" / "demo"
OWN = [
    "dataset=files", "dataset.label=mine", "dataset.query_lang=en", "dataset.doc_lang=de", "dataset.aligned='[a-z]+-(.*)'",
    "dataset.measures=[nDCG@10]",
]  # fmt: skip
PATHS = ["dataset.docs=docs.{lang}.jsonl", "dataset.topics=topics.{lang}.tsv", "dataset.qrels=qrels.{doc_lang}.txt"]


def place(folder: Path) -> Clir:
    """A machine of its own: a folder with the collection in `data`, and nothing else."""
    (folder / "data").mkdir(parents=True)
    for path in [*DEMO.glob("*.jsonl"), *DEMO.glob("*.tsv"), *DEMO.glob("qrels.*")]:
        shutil.copy(path, folder / "data")
    return Clir(folder)


def at(folder: str) -> list[str]:
    return [f"{key}={folder}/{name}" for key, name in (path.split("=") for path in PATHS)]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment made somewhere whose collection is gone since."""
    clir = place(tmp_path_factory.mktemp("first"))
    folder = clir.experiment(*OWN, *at("data"), "reranker=oracle")
    shutil.rmtree(clir.folder / "data")
    return folder


def test_other_paths_another_root_another_home_and_the_same_identity_and_bytes(first: Path, tmp_path: Path) -> None:
    there = place(tmp_path / "there")
    shutil.copy(first / "config.yaml", there.folder)
    (there.folder / "home").mkdir()
    done = there(
        "run", "--config", "config.yaml", "--runs", "other/root", *at("data"), env={"HOME": str(there.folder / "home")}
    )  # fmt: skip
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.is_relative_to(there.folder / "other" / "root") and folder.name == first.name
    for name in ("first_stage.trec", "run.trec", "metrics.csv", "per_query.csv"):
        assert (folder / name).read_bytes() == (first / name).read_bytes(), name


def test_what_is_repeated_is_said(first: Path, tmp_path: Path) -> None:
    there = place(tmp_path / "there")
    done = there("run", "--config", str(first), *at("data"))
    assert f"repeats {first}: the same identity, the same bytes of first_stage.trec, run.trec\n" in done.stderr
    docs = there.folder / "data" / "docs.de.jsonl"
    docs.write_text(docs.read_text().replace("Antibiotika sind", "Antibiotika waren"))
    done = there("run", "--config", str(first / "config.yaml"), *at("data"))
    assert f"does not repeat {first}: the identities differ, first in docs mine.de (clir why " in done.stderr


def test_data_that_is_elsewhere_is_asked_for_by_its_keys(first: Path, tmp_path: Path) -> None:
    there = place(tmp_path / "there")
    said = there("run", "--config", str(first), code=2).stderr
    assert "names files that are not here:" in said
    assert f"  dataset.docs: {first.parents[2]}/data/docs.{{lang}}.jsonl\n" in said
    assert "dataset.docs=... dataset.topics=... dataset.qrels=..." in said
    said = there("plan", "--config", str(first), *at("data")[:2], code=2).stderr
    assert "dataset.qrels=..." in said and "dataset.docs" not in said


def test_beside_a_config_stand_places_and_speed_and_nothing_else(first: Path, tmp_path: Path) -> None:
    there = place(tmp_path / "there")
    neutral = there("plan", "--config", str(first), *at("data"), "retriever.threads=1")
    assert neutral.stdout == there("plan", "--config", str(first), *at("data")).stdout
    for override, reason in (
        ("retriever.k1=1.2", "k1 changes the result; compose anew"),
        ("retrieve.depth=10", "only paths and neutral settings"),
        ("retriever=labse", "expected node.key=value"),
        ("retriever.k2=1", "the configuration has no 'k2' there"),
        ("dataset.queries=all", "queries changes the result"),
    ):
        assert reason in there("run", "--config", str(first), *at("data"), override, code=2).stderr
    assert "neither -m" in there("run", "-m", "--config", str(first), code=2).stderr


def test_a_config_outlives_the_yaml_files_it_came_from(tmp_path: Path) -> None:
    there = place(tmp_path / "there")
    there("new", "retriever", "mine")
    mine = there.folder / "configs" / "retriever" / "mine.yaml"
    mine.write_text("# clir run retriever=mine\n# mine\n_target_: clir_cli.retrievers.bm25.BM25\nk1: 1.3\n")
    folder = there.experiment("retriever=mine", "dataset.doc_lang=en")
    mine.write_text(mine.read_text().replace("1.3", "0.1"))
    again = Path(there("run", "--quiet", "--runs", "again", "--config", str(folder)).stdout.strip())
    assert again.name == folder.name and (again / "run.trec").read_bytes() == (folder / "run.trec").read_bytes()
    mine.unlink()
    assert there("run", "--quiet", "--config", str(folder)).stdout.strip() == str(folder)


def test_relative_paths_are_written_absolute_and_count_by_what_they_hold(tmp_path: Path) -> None:
    """Chosen topics and a run file for each language: neither the folder nor the pattern's name is in the identity."""
    keys = []
    for name, runs in (("a", "runs.{doc_lang}.trec"), ("b", "elsewhere/{query_lang}-{doc_lang}.run")):
        there = place(tmp_path / name)
        (there.folder / "ids.txt").write_text("t01\nt02\n")
        run = there.folder / runs.format(query_lang="en", doc_lang="de")
        run.parent.mkdir(exist_ok=True)
        run.write_text("t01 Q0 de-antibiotics-1 1 2.0 x\nt02 Q0 de-antibiotics-2 1 2.0 x\n")
        folder = there.experiment(
            *OWN, *at("data"), "retriever=run_file", f"retriever.path={runs}", "retriever.label=x", "dataset.queries=ids.txt"
        )  # fmt: skip
        plain = yaml.safe_load((folder / "config.yaml").read_text())
        assert plain["retriever"]["path"] == str(there.folder / runs)
        assert plain["dataset"]["queries"] == str(there.folder / "ids.txt")
        keys.append(folder.name)
    assert keys[0] == keys[1]


def test_a_folder_called_as_a_hub_model_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.local_folder("owner/name") is None
    assert hub.local_folder("./owner/name") == tmp_path / "owner" / "name"


def test_the_commit_of_a_model_that_only_a_pattern_names_stands_in_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """opus_mt has a model for each direction: their commits stand beside the components, and are used where others are at hand."""
    name, commit = "Helsinki-NLP/opus-mt-de-en", "0123456789abcdef0123456789abcdef01234567"

    def cached(folder: str, commit: str) -> None:
        there = tmp_path / folder / "models--Helsinki-NLP--opus-mt-de-en"
        (there / "snapshots" / commit).mkdir(parents=True)
        (there / "refs").mkdir()
        (there / "refs" / "main").write_text(commit)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / folder))

    def made(plain: dict[str, object], root: str) -> Experiment:
        return Experiment(config.built(plain), Stages(Store(tmp_path / root)))

    (cell,) = compose.cells(["translator=opus_mt", "retriever=bm25_dt"])
    cached("old", commit)
    first = made(cell.plain, "a")
    assert dict(first._pins()) == {name: commit}
    cached("new", "f" * 40)
    config.dump({**cell.plain, "models": {name: commit}}, tmp_path / "config.yaml")
    again = made(repeating.cell(tmp_path / "config.yaml").plain, "c")
    other = made(cell.plain, "d")
    index = [next(s for s in e.steps if s.stage == "index") for e in (first, again, other)]
    same, repeated, moved = (e.store.key(s) for e, s in zip((first, again, other), index, strict=True))
    assert same == repeated != moved


def test_what_is_on_a_hub_or_below_the_folder_of_data_is_not_looked_for_here() -> None:
    dataset = {
        "_target_": "clir_cli.datasets.files.Files", "docs": "hub:owner/name/docs.jsonl", "topics": "https://a.org/topics.tsv",
        "qrels": {"one": "{path}/qrels.txt"}, "path": "/nowhere", "query_lang": "en", "doc_lang": "de",
    }  # fmt: skip
    views = {"query": "original", "doc": "original"}
    assert dict(repeating._absent({"dataset": dataset, "retrieve": views, "rerank": views})) == {
        "dataset.path": "/nowhere"
    }


def test_the_ids_and_vectors_of_a_user_are_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("doc_vectors", "doc_ids", "query_vectors", "query_ids")
    given = [f"retriever.{name}={name}.npy" for name in names]
    (cell,) = compose.cells(["retriever=precomputed", *given, "dataset.queries=ids.txt"])
    assert [cell.plain["retriever"][name] for name in names] == [str(tmp_path / f"{name}.npy") for name in names]
    assert cell.plain["dataset"]["queries"] == str(tmp_path / "ids.txt")
    for chosen in ("judged", "all", "[t01,t02]"):
        (cell,) = compose.cells([f"dataset.queries={chosen}"])
        assert str(tmp_path) not in str(cell.plain["dataset"]["queries"])
