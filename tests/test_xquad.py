"""Real text: XQuAD-R in twelve languages, by real translation, real encoders and real Lucene."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
from conftest import SHARED, STATIC, XQUAD, Clir, needs_shared

CONFIGS = Path(__file__).parent / "configs"
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")

pytestmark = needs_shared(XQUAD)


def run(clir: Clir, *overrides: str) -> list[dict[str, str]]:
    """The final rows of a sweep's metrics.csv."""
    done = clir("run", "-m", "--config-dir", str(CONFIGS), "dataset=xquad_r", *overrides)
    folder = Path(done.stdout.splitlines()[-1])
    with (folder / "metrics.csv").open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["stage"] == "final"]


@pytest.mark.skipif(shutil.which("apertium") is None, reason="needs the Debian packages apertium and apertium-eng-spa")
@needs_shared(STATIC)
def test_translation_pays_and_fusion_pays_more_on_english_questions_over_spanish_paragraphs(shared_clir: Clir) -> None:
    """The study's question in small: no translation < Apertium < human translation; two good parts fused beat both."""
    retrievers = "retriever=bm25,bm25_qt,bm25_dt,minilm_dt,static_multi"
    common = ["retrieve.depth=100", "dataset.pair=en-es", "dataset.measures=[nDCG@10]"]
    rows = run(shared_clir, retrievers, "translator=apertium,provided", *common)
    rows += run(
        shared_clir,
        "retriever=hybrid",
        "retriever.parts=[bm25_dt,minilm_dt],[bm25_dt,static_multi]",
        "translator=apertium",
        *common,
    )
    found = {row["retriever"]: float(row["value"]) for row in rows if row["measure"] == "nDCG@10"}
    mt, human = "[translator=apertium]", ""
    good, uneven = f"hybrid[parts=bm25_dt+minilm_dt,{mt[1:]}", f"hybrid[parts=bm25_dt+static_multi,{mt[1:]}"
    assert found["bm25"] < found[f"bm25_qt{mt}"] < found[f"bm25_qt{human}"]
    assert found["bm25"] < found["static_multi"] < found[f"bm25_dt{human}"]
    assert found[f"bm25_dt{mt}"] < found[f"bm25_dt{human}"] and found[f"minilm_dt{mt}"] < found[f"minilm_dt{human}"]
    assert found[f"bm25_dt{human}"] > 0.9, "human translation is nearly monolingual retrieval (.9554 RR@10)"
    assert found[good] > max(found[f"bm25_dt{mt}"], found[f"minilm_dt{mt}"])
    assert found["static_multi"] < found[uneven] < found[f"bm25_dt{mt}"], "equal weights do not forgive a weak part"


@needs_shared(STATIC)
def test_the_static_encoder_equals_its_published_table_in_every_language_on_either_side(clir: Clir) -> None:
    """ORIGIN.md of the model: RR@10 by exact search, rows query language, columns document language.

    All 144 pairs, in one sweep.
    """
    lines = [line for line in (STATIC / "ORIGIN.md").read_text().splitlines() if re.match(r"\| [a-z]{2} \|", line)]
    published = {
        (cells[0], doc): float(score)
        for cells in (re.findall(r"[a-z0-9.]+", line) for line in lines)
        for doc, score in zip(LANGUAGES, cells[1:], strict=True)
    }
    assert len(published) == 144
    pairs = list(published)
    asked = "dataset.pair=" + ",".join(f"{q}-{d}" for q, d in pairs)
    own = ["retriever=static_multi", "retriever.languages=null", "retrieve.depth=10", "dataset.measures=[RR@10]"]
    rows = run(clir, *own, asked)
    found = {(row["query_lang"], row["doc_lang"]): float(row["value"]) for row in rows if row["measure"] == "RR@10"}
    assert set(found) == set(pairs)
    assert max(abs(found[pair] - published[pair]) for pair in pairs) <= 0.002


@needs_shared(STATIC)
def test_twelve_languages_are_one_pool(shared_clir: Clir) -> None:
    pool = f"dataset.doc_lang=[{','.join(LANGUAGES)}]"
    rows = run(
        shared_clir,
        "retriever=static_multi",
        "retriever.languages=null",
        "retrieve.depth=20",
        pool,
        "retrieve.pool=joint,per_language",
        "dataset.limit_queries=200",
    )
    assert {row["doc_lang"] for row in rows} == {"+".join(LANGUAGES)}
    assert all(0.1 < float(row["value"]) < 1 for row in rows if row["measure"] == "nDCG@10")


def test_patapsco_samples_run_with_hc4_topics(clir: Clir) -> None:
    data = SHARED / "data" / "patapsco-samples"
    folder = clir.experiment(
        "dataset=files", f"dataset.docs={data}/{{iso3}}_mini_docs.jsonl", f"dataset.topics={data}/eng_mini_topics.jsonl", f"dataset.qrels={data}/eng_mini_qrels",
        "dataset.pair=en-fa", "dataset.aligned=(.*)", "retriever=bm25_dt", "dataset.label=mini",
    )  # fmt: skip
    assert folder.parent.name == "mini.en-fa"
    with (folder / "metrics.csv").open(newline="") as lines:
        assert all(float(row["value"]) > 0.3 for row in csv.DictReader(lines) if row["measure"] == "nDCG@10")
    other = clir.experiment(
        "dataset=files", f"dataset.docs={data}/{{iso3}}_mini_docs.jsonl", f"dataset.topics={data}/eng_mini_topics.jsonl", f"dataset.qrels={data}/eng_mini_qrels",
        "dataset.pair=en-ru", "retriever=bm25_qt", "'translator.source=\"google translate\"'".strip("'"), "dataset.label=mini",
    )  # fmt: skip
    assert other.exists()
