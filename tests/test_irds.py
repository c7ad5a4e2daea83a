"""Collections of the ir_datasets catalogue, read by the package itself from small files of the true formats."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Clir

from clir_cli import compose, schema
from clir_cli.datasets.irds import Irds
from clir_cli.errors import ConfigError, DataError, LanguageError, MissingData
from clir_cli.types import Doc, Qrel, Query

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ir_datasets") is None, reason="needs the package ir_datasets")

DOC = {"cc_file": "x.warc.gz", "url": "http://x", "time": "2020"}
LANGS = {"fa": "fas", "ru": "rus", "zh": "zho"}


def topic(number: int, *judged: str) -> dict[str, Any]:
    """A topic as HC4 and NeuCLIR write it: all languages and versions in one line."""

    def version(lang: str, source: str, text: str) -> dict[str, str]:
        return {
            "lang": lang, "source": source, "topic_title": f"{text} title", "topic_description": f"{text} description",
            "topic_narrative": f"{text} narrative",
        }  # fmt: skip

    topics = [version("eng", "original", f"eng{number}")]
    for iso3 in LANGS.values():
        topics += [
            version(iso3, "human translation", f"{iso3}{number} human"),
            version(iso3, "sockeye", f"{iso3}{number} mt"),
        ]
    return {
        "topic_id": str(number), "languages_with_qrels": list(judged), "topics": topics,
        "narratives": {iso3: {"0": "no", "1": "some", "3": "much"} for iso3 in LANGS.values()}, "report": {"url": "http://r", "text": "report", "date": "2020"},
    }  # fmt: skip


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def documents(lang: str, count: int = 3) -> bytes:
    return jsonl(
        *({"id": f"{lang}-{i}", "title": f"{lang} title {i}", "text": f"{lang} text {i}", **DOC} for i in range(count))
    )


def save(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the package would have downloaded: it takes files that are there as they are.

    It looks at IR_DATASETS_HOME when it is first imported, and no test imports it before.
    """
    assert "ir_datasets" not in sys.modules
    folder = tmp_path_factory.mktemp("irds")
    for lang, iso3 in LANGS.items():
        save(folder / "neuclir" / "1" / iso3 / "docs.jsonl.gz", gzip.compress(documents(lang)))
        save(folder / "hc4" / iso3 / "hc4_docs.jsonl", documents(lang))
        save(folder / "hc4" / iso3 / "dev.qrels.v1-0.txt", f"1 0 {lang}-0 3\n1 0 {lang}-1 0\n".encode())
    save(folder / "hc4" / "dev.topics.v1-0.jsonl", jsonl(topic(1, *LANGS.values()), topic(2, "zho")))
    save(folder / "neuclir" / "trec-2022" / "topics.jsonl", jsonl(topic(0), topic(1), topic(2)))
    rows = [f"{q} {iso3} {lang}-{q} {grade}" for lang, iso3 in LANGS.items() for q, grade in ((0, 3), (2, 1))]
    save(folder / "neuclir" / "trec-2022" / "qrels", "\n".join(rows).encode())
    save(folder / "neuclir" / "trec-2023" / "topics.jsonl", jsonl(topic(200), topic(201), topic(202)))
    judged = {iso3: f"200 0 {lang}-0 3\n202 0 {lang}-2 0\n".encode() for lang, iso3 in LANGS.items()}
    files = {f"qrels.final.gains.{iso3}": raw for iso3, raw in judged.items()}
    save(
        folder / "neuclir" / "trec-2023" / "qrels.tar.gz",
        tar({**files, "qrels.final.gains": b"".join(judged.values())}),
    )
    save(folder / "trec-spanish" / "trec3" / "queries.gz", gzip.compress(SPANISH.encode("iso-8859-1")))
    save(folder / "trec-spanish" / "trec3" / "qrels.gz", gzip.compress(b"1 0 SP94-1 1\n"))
    for name, raw in WIKICLIR.items():
        save(folder / "wikiclir" / "source" / "wiki-clir" / name, raw.encode())
    save(folder / "neumarco" / "fa.tsv", '0\tمتن صفر\n1\tمتن یک\n2\tمتن "دو"\n'.encode())
    matrix = {
        "clirmatrix_docs": {
            f"docs/{lang}": {"url": "http://x", "cache_path": f"{lang}.tsv.gz"} for lang in ("yo", "de", "ja")
        },
        "clirmatrix_multi8": {
            f"queries/en_{lang}/test1": {"url": "http://x", "cache_path": f"en_{lang}.jl.gz"} for lang in ("de", "ja")
        },
        "clirmatrix_bi139_base": {"queries/sw_yo/test1": {"url": "http://x", "cache_path": "sw_yo.jl.gz"}},
    }
    save(folder / "clirmatrix" / "clirmatrix_downloads.json.gz", gzip.compress(json.dumps(matrix).encode()))
    save(folder / "clirmatrix" / "yo.tsv.gz", gzip.compress("7\tọrọ kan\n8\tọrọ meji\n9\tọrọ mẹta\n".encode()))
    rows = jsonl(
        {"src_id": "1", "src_query": "maji", "tgt_results": [["7", 6], ["9", 0]]},
        {"src_id": "2", "src_query": "moto", "tgt_results": []},
    )
    save(folder / "clirmatrix" / "sw_yo.jl.gz", gzip.compress(rows))
    for lang, text, grade in (("de", "Tod", 6), ("ja", "日本", 2)):  # two pages of one number
        save(folder / "clirmatrix" / f"{lang}.tsv.gz", gzip.compress(f"5204\t{text}\n".encode()))
        rows = jsonl({"src_id": "8221", "src_query": "Death", "tgt_results": [["5204", grade]]})
        save(folder / "clirmatrix" / f"en_{lang}.jl.gz", gzip.compress(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(folder))
        patch.setenv("CLIR_DATA", str(folder / "clir"))
        yield folder


WIKICLIR = {
    "swahili/wiki_sw.documents": "11\tMaji\tMaji ni kimiminika\n12\tMoto\tMoto unachoma\n13\tBahari\tBahari ni kubwa\n",
    "english/wiki_en.queries": "1\tWater\tis a liquid\n2\tFire\tburns\n3\tStone\tis hard\n",
    "swahili/en2sw.rel": "1\t11\t2\n1\t13\t1\n2\t12\t2\n",
}

SPANISH = """<top>
<num> Number: SP1
<E-title> Topic: x
<title> Topic: pesca

**fishing
<desc> Description:
La pesca en México.

**Fishing in Mexico.
<narr> Narrative:
Documentos.

**Documents.
</top>
"""


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        for name, raw in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            out.addfile(entry, io.BytesIO(raw))
    return packed.getvalue()


pytestmark = [pytestmark, pytest.mark.usefixtures("home")]


def preset(name: str = "irds", **settings: Any) -> Irds:
    node = yaml.safe_load(compose.choices("dataset")[name].read_text())
    problems: list[Any] = []
    found = schema.build({**node, **settings}, "dataset", problems)
    assert not problems, problems
    assert isinstance(found, Irds)
    return found


def neuclir(year: int, **settings: Any) -> Irds:
    return preset(**{"id": f"neuclir/1/{{doc_lang}}/trec-{year}", "query_lang": "en", "doc_lang": "fa", **settings})


# What is read ---------------------------------------------------------------------------------------------------------


def test_documents_have_their_text_fields_the_title_first_and_no_urls_and_dates() -> None:
    found = list(neuclir(2022).read_docs("fa"))
    assert found == [Doc(f"fa-{i}", {"title": f"fa title {i}", "text": f"fa text {i}"}, "fa") for i in range(3)]
    (one, *_) = neuclir(2022, docs_columns={"body": "text"}).read_docs("fa")
    assert dict(one.fields) == {"body": "fa text 0"}


def test_topics_in_the_documents_language_are_those_that_people_wrote_unless_machine_is_asked_for() -> None:
    fa = neuclir(2022)
    assert [q.query_id for q in fa.read_topics("en")] == ["0", "2"], "the judged ones, as the catalogue has them"
    assert dict(fa.read_topics("en")[0].fields) == {
        "title": "eng0 title", "description": "eng0 description", "narrative": "eng0 narrative",
    }  # fmt: skip
    assert fa.read_topics("fa")[1].fields["title"] == "fas2 human title"
    assert fa.read_topics("fa", "machine translation")[1].fields["title"] == "fas2 mt title"
    assert neuclir(2022, topic_source="machine translation").read_topics("fa")[0].fields["title"] == "fas0 mt title"
    with pytest.raises(ConfigError, match="no version 'google'; there are: human translation, machine translation"):
        fa.read_topics("fa", "google")


def test_topics_of_neuclir_2023_are_read_past_the_filter_that_leaves_none(capsys: pytest.CaptureFixture[str]) -> None:
    """ir_datasets issue 292: neuclir/1/*/trec-2023 filters its topics by the judgments of 2022."""
    import ir_datasets

    assert not list(ir_datasets.load("neuclir/1/fa/trec-2023").queries_iter()), (
        "mended there? then drop our way round it"
    )
    for lang, iso3 in LANGS.items():
        found = neuclir(2023, doc_lang=lang).read_topics("en")
        assert [q.query_id for q in found] == ["200", "202"] and found[0].fields["title"] == "eng200 title"
        assert neuclir(2023, doc_lang=lang).read_topics(lang)[1].fields["title"] == f"{iso3}202 human title"
    assert (
        "its filter leaves no topics (ir_datasets issue 292); 2 judged topics are read past it"
        in capsys.readouterr().err
    )


def test_a_pool_has_the_topics_and_judgments_of_all_its_languages() -> None:
    pool = neuclir(2023, doc_lang=["fa", "ru", "zh"])
    assert [q.query_id for q in pool.read_topics("en")] == ["200", "202"]
    assert len(pool.read_qrels("qrels")) == 6 and Qrel("200", "ru-0", 3) in pool.read_qrels("qrels")
    whole = preset(id="neuclir/1/multi/trec-2023", query_lang="en", doc_lang="zh")
    assert len(whole.read_qrels("qrels")) == 6 and len(whole.read_topics("en")) == 3
    assert whole.read_topics("zh", "machine translation")[0].fields["title"] == "zho200 mt title"


def test_hc4_has_the_topics_that_are_judged_in_a_language() -> None:
    hc4 = preset(id="hc4/{doc_lang}/{split}", query_lang="en", doc_lang="fa", split="dev")
    assert [q.query_id for q in hc4.read_topics("en")] == ["1"]
    assert [q.query_id for q in preset(id="hc4/zh/dev", query_lang="en", doc_lang="zh").read_topics("en")] == ["1", "2"]
    assert list(hc4.read_topics("en")[0].fields) == ["title", "description"]
    assert hc4.read_qrels("qrels") == [Qrel("1", "fa-0", 3), Qrel("1", "fa-1", 0)]


def test_spanish_topics_of_trec_stand_in_both_languages() -> None:
    spanish = preset("trec_spanish")
    (english,), (own,) = spanish.read_topics("en"), spanish.read_topics("es")
    assert (english.query_id, own.query_id) == ("1", "1")
    assert (own.fields["title"].strip(), english.fields["title"].strip()) == ("pesca", "fishing")
    assert english.fields["description"].strip() == "Fishing in Mexico."
    assert spanish.read_qrels("qrels") == [Qrel("1", "SP94-1", 1)]


def test_large_scale_clir_has_first_sentences_as_queries_and_the_links_between_articles_as_judgments() -> None:
    wiki = preset("large_clir")
    docs = list(wiki.read_docs("sw"))
    assert len(docs) == 3 and docs[1] == Doc("12", {"title": "Moto", "text": "Moto unachoma"}, "sw")
    assert [(q.query_id, q.fields["first_sent"]) for q in wiki.read_topics("en")] == [
        ("1", "is a liquid"),
        ("2", "burns"),
    ]
    assert wiki.query_fields == ("first_sent",)
    assert wiki.read_qrels("qrels") == [Qrel("1", "11", 2), Qrel("1", "13", 1), Qrel("2", "12", 2)]


def test_clirmatrix_has_a_collection_for_every_pair_of_its_languages() -> None:
    pair = preset("clirmatrix", query_lang="sw", doc_lang="yo")
    docs = list(pair.read_docs("yo"))
    assert [doc.doc_id for doc in docs] == ["7", "8", "9"] and docs[1].fields == {"text": "ọrọ meji"}
    assert [(q.query_id, q.lang, q.fields["text"]) for q in pair.read_topics("sw")] == [
        ("1", "sw", "maji"),
        ("2", "sw", "moto"),
    ]
    assert pair.read_qrels("qrels") == [Qrel("1", "7", 6), Qrel("1", "9", 0)]
    with pytest.raises(DataError, match="its topics are in 'sw', there are none in 'de'"):
        pair.read_topics("de")
    assert (
        preset("clirmatrix_multi8", query_lang="en", doc_lang=["de", "ja"]).irds_id("ja")
        == "clirmatrix/ja/multi8/en/test1"
    )


def test_pages_of_one_number_in_two_languages_of_a_pool_are_two_documents() -> None:
    pool = preset("clirmatrix_multi8", query_lang="en", doc_lang=["de", "ja"])
    assert [*pool.read_docs("de"), *pool.read_docs("ja")] == [
        Doc("de-5204", {"text": "Tod"}, "de"), Doc("ja-5204", {"text": "日本"}, "ja"),
    ]  # fmt: skip
    assert pool.read_topics("en") == [Query("8221", {"text": "Death"}, "en")]
    assert pool.read_qrels("qrels") == [Qrel("8221", "de-5204", 6), Qrel("8221", "ja-5204", 2)]
    alone = preset("clirmatrix_multi8", query_lang="en", doc_lang="ja")
    assert alone.read_qrels("qrels") == [Qrel("8221", "5204", 2)], "alone their ids are the published ones"


def test_neumarco_has_ms_marco_s_passages_in_three_languages() -> None:
    docs = list(preset("neumarco").read_docs("fa"))
    assert len(docs) == 3 and docs[2] == Doc("2", {"text": 'متن "دو"'}, "fa")


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_language_that_is_not_there_is_refused() -> None:
    with pytest.raises(LanguageError, match="its documents are in 'fa', not in 'de'"):
        list(preset(id="neuclir/1/fa/trec-2022", query_lang="en", doc_lang="de").read_docs("de"))
    with pytest.raises(
        DataError, match=r"its topics are in 'en', there are none in 'zh' \(human translation\); it has: query_id"
    ):
        preset(id="neuclir/1/multi/trec-2023", query_lang="en", doc_lang="zh").read_topics("zh", "human translation")
    with pytest.raises(DataError, match=r"no topics in 'fr': no 'title_fr' \(dataset.topics_columns\)"):
        preset("trec_spanish").read_topics("fr")


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("neuclir/2/fa", "ir_datasets has no 'neuclir/2/fa'; near it are: neuclir/1, neuclir/1/fa"),
        ("nothing", "ir_datasets has no 'nothing'; near it are: antique, "),
        ("neuclir/1/fa", "it has no topics; ids with topics begin so: neuclir/1/fa/hc4-filtered"),
    ],
)
def test_an_id_that_cannot_be_meant_names_those_near_it(identifier: str, words: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        preset(id=identifier, query_lang="en", doc_lang="fa").read_topics("en")
    assert words in str(caught.value)


def test_places_and_columns_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\{lang\} is no place in"):
        Irds(id="hc4/{lang}", query_lang="en", doc_lang="fa")
    with pytest.raises(ValueError, match="choose one with dataset"):
        Irds(id="hc4/fa/{split}", query_lang="en", doc_lang="fa")
    with pytest.raises(
        ConfigError, match="docs_columns: ir_datasets hc4/fa has no 'body'; it has: doc_id, title, text"
    ):
        list(Irds(id="hc4/fa", query_lang="en", doc_lang="fa", docs_columns={"text": "body"}).read_docs("fa"))
    with pytest.raises(ConfigError, match="no judgments 'pools'; there are: qrels"):
        neuclir(2022).read_qrels("pools")


def test_broken_files_of_the_catalogue_are_named(home: Path) -> None:
    save(home / "hc4" / "train.topics.v1-0.jsonl", b'{"topic_id": "1", "topics"')
    save(home / "hc4" / "fas" / "train.qrels.v1-0.txt", b"1 0 d1 0.5\n")
    broken = preset(id="hc4/fa/train", query_lang="en", doc_lang="fa")
    with pytest.raises(DataError, match=r"ir_datasets hc4/fa/train: its topics cannot be read \(JSONDecodeError"):
        broken.read_topics("en")
    with pytest.raises(DataError, match=r"hc4/fa/train: its qrels cannot be read \(ValueError: invalid literal .*0.5"):
        broken.read_qrels("qrels")


# Downloads ------------------------------------------------------------------------------------------------------------


def test_an_offline_machine_is_told_what_to_fetch_and_where_to_put_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIR_OFFLINE", "1")
    with pytest.raises(MissingData) as caught:
        preset(id="hc4/fa/test", query_lang="en", doc_lang="fa").read_topics("en")
    assert f"{home}/hc4/test.topics.v1-0.jsonl is not on this machine, which is set offline" in str(caught.value)
    assert "https://raw.githubusercontent.com/hltcoe/HC4/main/resources/hc4/test.topics.v1-0.jsonl" in str(caught.value)
    with pytest.raises(MissingData, match=r"neumarco/neuMSMARCO.tar.gz is not on this machine, which is set offline"):
        list(preset("neumarco", doc_lang="zh").read_docs("zh"))


def test_data_that_the_catalogue_cannot_fetch_says_how_to_obtain_it(home: Path) -> None:
    with pytest.raises(MissingData, match=rf"{home}/trec-spanish/corpus.tgz is not on this machine\n.*LDC2000T51"):
        list(preset("trec_spanish").read_docs("es"))


SLOW = """
import sys, time
from contextlib import contextmanager
from clir_cli.datasets.irds import Irds, _load

@contextmanager
def slow(self):
    with open(sys.argv[1], "a") as log:
        log.write(self.url + chr(10))
    time.sleep(0.5)
    with open(sys.argv[2], "rb") as file:
        yield file

dataset = _load("hc4/ru/dev")
from ir_datasets.util.download import RequestsDownload
RequestsDownload.stream = slow  # the network
dataset.queries_handler()._queries_dlc[0].expected_md5 = None  # our small file is not the true one
print(len(Irds(id="hc4/ru/dev", query_lang="en", doc_lang="ru").read_topics("en")))
"""


def test_several_jobs_fetch_a_file_once(home: Path, tmp_path: Path) -> None:
    """The package alone lets each write the same file at once, and breaks then (its issue 228)."""
    env = {**os.environ, "IR_DATASETS_HOME": str(tmp_path / "fresh"), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SLOW, str(tmp_path / "log"), str(home / "hc4" / "dev.topics.v1-0.jsonl")]
    jobs = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    done = [(*job.communicate(), job.returncode) for job in jobs]
    assert [(out.strip(), code) for out, _, code in done] == [("1", 0)] * 3, done[0][1]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_an_id_runs_from_the_command_line(clir: Clir, home: Path) -> None:
    env = {"IR_DATASETS_HOME": str(home), "CLIR_DATA": str(clir.folder / "data")}
    ours = ["dataset=irds", "dataset.id=neuclir/1/{doc_lang}/trec-2023", "dataset.query_lang=en", "dataset.doc_lang=ru"]
    folder = clir.experiment(*ours, "retriever=bm25_qt", "translator=provided", env=env)
    run = [line.split()[0] for line in (folder / "run.trec").read_text().splitlines()]
    assert set(run) == {"200", "202"} and folder.parent.name == "irds.en-ru"
    assert "6 to make" not in clir("plan", *ours, "retriever=bm25_qt", "translator=provided", env=env).stdout
