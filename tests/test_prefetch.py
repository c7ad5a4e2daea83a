"""What a plan needs is brought here beforehand: models and data from a hub on this machine, spoken to as to the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Clir
from hub_server import COMMIT, hub

DOCS = "".join(json.dumps({"doc_id": f"d{i}", "text": f"text {i}"}) + "\n" for i in range(3))
TOPICS, QRELS = "1\tsearch\n2\tfind\n", "1 0 d1 1\n2 0 d2 1\n"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """What the hub has: a model and a dataset."""
    root = tmp_path / "hub"
    (root / "me" / "encoder").mkdir(parents=True)
    (root / "me" / "encoder" / "config.json").write_text("{}")
    (root / "me" / "encoder" / "model.safetensors").write_bytes(b"0" * 3_000_000)
    (root / "me" / "news").mkdir()
    for name, text in {"docs.jsonl": DOCS, "topics.tsv": TOPICS, "qrels.txt": QRELS}.items():
        (root / "me" / "news" / name).write_text(text)
    return root


def environment(clir: Clir, endpoint: str) -> dict[str, str]:
    """A machine of its own: its caches are empty."""
    return {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(clir.folder / "hf"),
        "CLIR_DATA": str(clir.folder / "data"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


NEWS = [
    "dataset=hub", "dataset.repo=me/news", "dataset.docs=docs.jsonl", "dataset.topics=topics.tsv",
    "dataset.qrels=qrels.txt", "dataset.query_lang=en", "dataset.doc_lang=de", "dataset.topics_names=[query_id,text]",
]  # fmt: skip
DENSE = ["retriever=dense", "retriever.model=me/encoder", "retriever.pooling=mean"]


def test_models_and_data_are_fetched_once_and_then_planned_without_network(clir: Clir, served: Path) -> None:
    with hub(served) as (endpoint, asked):
        env = environment(clir, endpoint)
        first = json.loads(clir("prefetch", "--json", *DENSE, *NEWS, env=env).stdout)["items"]
        said = clir("prefetch", *DENSE, *NEWS, env=env).stdout
        weights = [line for line in asked if "model.safetensors" in line and line.startswith("GET")]
    model, *data = first
    assert (model["kind"], model["name"], model["revision"], model["bytes"]) == (
        "model",
        "me/encoder",
        COMMIT,
        3_000_002,
    )
    assert (Path(model["place"]) / "model.safetensors").is_file()
    assert sorted(Path(item["place"]).name for item in data) == ["docs.jsonl", "qrels.txt", "topics.tsv"]
    assert not any(item["missing"] for item in first) and len(weights) == 1
    assert json.loads((clir.runs / "models.lock").read_text()) == {"me/encoder": COMMIT}
    assert "3.0 MB" in said and COMMIT[:12] in said and "4 of 4 here" in said and "models.lock" in said
    plan = clir("plan", *DENSE, *NEWS, env={**env, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:1"}).stdout
    assert "to be resolved" not in plan and "is not here" not in plan and "missing  index" in plan


def test_an_interrupted_download_is_completed(clir: Clir, served: Path) -> None:
    with hub(served) as (endpoint, _):
        env = environment(clir, endpoint)
        found = json.loads(clir("prefetch", "--json", *DENSE, env=env).stdout)["items"]
        weights = Path(found[0]["place"]) / "model.safetensors"
        weights.unlink()
        clir("prefetch", *DENSE, env=env)
    assert weights.stat().st_size == 3_000_000


def test_a_sweep_is_fetched_for_all_its_cells(clir: Clir, served: Path) -> None:
    with hub(served) as (endpoint, _):
        done = clir("prefetch", "--json", "-m", "retriever=bm25,dense", *DENSE[1:], env=environment(clir, endpoint))
    kinds = [(item["kind"], item["name"]) for item in json.loads(done.stdout)["items"]]
    assert ("model", "me/encoder") in kinds
    assert any(kind == "data" and name.startswith("docs de") for kind, name in kinds), (
        "clir's own are here, and said so"
    )


def test_what_cannot_be_had_is_named_with_the_way_out_and_the_rest_is_fetched(clir: Clir, served: Path) -> None:
    with hub(served) as (endpoint, _):
        env = environment(clir, endpoint)
        done = clir("prefetch", "-m", "retriever=dense", "retriever.model=me/encoder,me/nowhere", env=env, code=1)
        offline = clir(
            "prefetch", *DENSE, *NEWS, env={**env, "HF_HUB_OFFLINE": "1", "HF_HOME": str(clir.folder / "x")}, code=1
        )
    assert "missing: model me/nowhere is not on this machine, and the hub" in done.stdout
    assert "model  me/encoder " in done.stdout, "what can be had is fetched nevertheless"
    assert "set offline" in offline.stdout and "hf download me/encoder" in offline.stdout


def test_a_file_that_is_here_is_named_once(clir: Clir) -> None:
    said = clir("prefetch", "retriever=bm25").stdout.splitlines()
    places = [line.split()[-1] for line in said if line.startswith("data ")]
    assert len(places) == 3 and all(Path(place).is_file() for place in places)
    assert all(line.count(place) == 1 for line, place in zip(said, places, strict=False))


def test_licensed_data_says_how_to_obtain_it(clir: Clir) -> None:
    said = clir(
        "prefetch", "dataset=clef2003", "dataset.pair=en-de", "retriever=bm25", env={"CLIR_CLEF": ""}, code=1
    ).stdout
    assert "ELRA-E0008" in said and said.count("how to get it") == 1
