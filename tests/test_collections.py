"""What the published collections hold, on the real files beside the project and on small ones of the true format, and their pages."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SHARED, Clir, needs_shared

from clir_cli import compose, config, schema
from clir_cli.datasets.collection import ABOUT
from clir_cli.datasets.files import Files
from clir_cli.datasets.places import fingerprinted
from clir_cli.errors import ConfigError, DataError, MissingData
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import Doc, Qrel
from clir_cli.verbs import datasets

TREC = SHARED / "data" / "trec-formats"
PATAPSCO = SHARED / "data" / "patapsco-samples"
TOOLS = "https://raw.githubusercontent.com/castorini/anserini-tools/e970bdd6615c0a646513ff9ce9bf34ed5bd22fe0/topics-and-qrels"
CORPUS = "hub:CIRAL/ciral-corpus@81644d6e18427ab79a36bb31141c9281239ba40c"


def node(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(compose.choices("dataset")[name].read_text())
    return loaded


def preset(name: str, **settings: Any) -> Files:
    problems: list[Any] = []
    found = schema.build({**node(name), **settings}, "dataset", problems)
    if problems:
        raise ValueError("; ".join(map(str, problems)))
    assert isinstance(found, Files)
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline machine: what a test does not put there is not there."""
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CLIR_OFFLINE", "1")
    return tmp_path


def at(folder: Path, place: str) -> Path:
    """Where a download of this place lies on a machine that has it."""
    if place.startswith("hub:"):
        repo, _, rest = place.removeprefix("hub:").partition("@")
        commit, _, name = rest.partition("/")
        path = folder / "hub" / f"datasets--{repo.replace('/', '--')}" / "snapshots" / commit / name
    else:
        path = folder / "data" / "web" / place.removeprefix("https://").partition("#")[0].partition("!")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def put(folder: Path, place: str, raw: bytes) -> None:
    at(folder, place).write_bytes(raw)


def real(part: str, name: str) -> bytes:
    path = TREC / part / name
    return path.read_bytes() if path.exists() else gzip.decompress((TREC / part / f"{name}.gz").read_bytes())


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# CIRAL ----------------------------------------------------------------------------------------------------------------


@needs_shared(TREC)
@pytest.mark.parametrize(
    ("lang", "test_a", "test_b", "judged_dev", "shallow", "pools", "judged_b"),
    [
        ("ha", 80, 312, 165, 1447, 7288, 5930), ("so", 99, 239, 187, 1798, 9094, 4324),
        ("sw", 85, 113, 196, 1656, 8079, 2175), ("yo", 100, 554, 185, 1921, 8311, 10569),
    ],
)  # fmt: skip
def test_ciral_has_its_published_counts(
    elsewhere: Path, lang: str, test_a: int, test_b: int, judged_dev: int, shallow: int, pools: int, judged_b: int
) -> None:
    for split in ("dev", "test-a", "test-b"):
        names = [("topics", f"{lang}-{split}-native.tsv"), ("qrels", f"{lang}-{split}.tsv")]
        names += [("topics", f"{lang}-{split}.tsv")] if split != "dev" else []
        names += [("qrels", f"{lang}-{split}-pools.tsv")] if split == "test-a" else []
        for part, end in names:
            put(elsewhere, f"{TOOLS}/{part}.ciral-v1.0-{end}", real(part, f"{part}.ciral-v1.0-{end}"))
    a, b = preset("ciral", doc_lang=lang), preset("ciral", doc_lang=lang, split="test-b")
    dev = preset("ciral", doc_lang=lang, query_lang=lang, split="dev")
    assert (len(a.read_topics("en")), len(b.read_topics("en"))) == (test_a, test_b)
    assert (len(a.read_topics(lang)), len(dev.read_topics(lang))) == (test_a, 10)
    assert (len(a.read_qrels("shallow")), len(a.read_qrels("pools"))) == (shallow, pools)
    assert len(b.read_qrels("shallow")) == judged_b
    assert {row.relevance for row in a.read_qrels("pools")} == {0, 1}
    assert all("#" in row.doc_id for row in a.read_qrels("pools")), "a # is part of an id, not a comment"
    assert (a.judgment_names, b.judgment_names) == (("shallow", "pools"), ("shallow",)), "only test-a was pooled"
    if lang != "sw":  # its native topics list one twice
        assert [q.query_id for q in b.read_topics("en")] == [q.query_id for q in b.read_topics(lang)]
    assert len(dev.read_qrels("shallow")) == judged_dev
    with pytest.raises(DataError, match=f"topics.ciral-v1.0-{lang}-dev.tsv is not on this machine"):
        preset("ciral", doc_lang=lang, split="dev").read_topics("en")
    english = "".join(f"{query.query_id}\tWho?\n" for query in dev.read_topics(lang))
    put(elsewhere, f"{TOOLS}/topics.ciral-v1.0-{lang}-dev.tsv", english.encode())
    asked = {query.query_id for query in preset("ciral", doc_lang=lang, split="dev").read_topics("en")}
    assert asked == {row.query_id for row in dev.read_qrels("shallow")}, "all ten are judged, and nothing else"
    size = node("ciral")["about"]["size"]
    assert (size["topics dev"][lang], size["judgments dev"][lang]) == (len(asked), judged_dev)


def test_ciral_s_translations_stand_for_its_passages(elsewhere: Path) -> None:
    rows = [{"docid": f"TUKO#{i}#0", "title": f"kichwa {i}", "text": f"maandishi {i}", "url": "u"} for i in range(3)]
    english = [{"docid": f"TUKO#{i}#0", "title": f"title {i}", "text": f"text {i}", "url": "u"} for i in range(3)]
    put(elsewhere, f"{CORPUS}/passages-v1.0/swahili_passages.jsonl", jsonl(*rows))
    put(elsewhere, f"{CORPUS}/translated-passages-v1.0/swahili_passages.jsonl", jsonl(*english))
    ciral = preset("ciral")
    docs, translated = list(ciral.read_docs("sw")), list(ciral.read_docs("en"))
    assert docs[1] == Doc("TUKO#1#0", {"title": "kichwa 1", "text": "maandishi 1"}, "sw", "TUKO#1#0")
    assert translated[1] == Doc("TUKO#1#0", {"title": "title 1", "text": "text 1"}, "en", "TUKO#1#0")
    assert [d.aligned for d in docs] == [d.aligned for d in translated]
    assert ciral.source("docs", "sw") != ciral.source("docs", "en")


def test_what_a_download_is_stands_in_its_identity_before_it_is_there(elsewhere: Path) -> None:
    (note,) = preset("ciral").source("docs", "sw").files
    assert json.loads(note.read_text()) == {"hub": "CIRAL/ciral-corpus", "commit": CORPUS.partition("@")[2]}
    assert preset("ciral").source("docs", "sw").reading["places"] == [f"{CORPUS}/passages-v1.0/swahili_passages.jsonl"]
    (topics,) = preset("neuclir22").source("topics", "en").files
    assert "md5=264bf244f798670f063f32ff57ba6135" in topics.read_text(), "the checksum is part of it"


# HC4, NeuCLIR ---------------------------------------------------------------------------------------------------------


def test_neuclir_2022_keeps_the_judgments_of_the_documents_language(elsewhere: Path) -> None:
    rows = [f"{q} {iso3} {iso3}-{q} {grade}" for q in (0, 2) for iso3, grade in (("fas", 3), ("rus", 1), ("zho", 0))]
    put(elsewhere, "https://trec.nist.gov/data/neuclir/2022/2022-qrels.all", "\n".join(rows).encode())
    small = {"checksums": None}  # of the true files
    fa, pool = preset("neuclir22", **small), preset("neuclir22", doc_lang=["fa", "ru", "zh"], **small)
    assert fa.read_qrels("qrels") == [Qrel("0", "fas-0", 3), Qrel("2", "fas-2", 3)]
    assert len(pool.read_qrels("qrels")) == 6
    put(elsewhere, "https://trec.nist.gov/data/neuclir/2022/2022-qrels.all", b"0 0 d1 3\n")
    with pytest.raises(DataError, match="no judgments of documents in 'fa': the second column has 0"):
        fa.read_qrels("qrels")
    put(elsewhere, "https://trec.nist.gov/data/neuclir/2022/2022-qrels.all", b"0 fas d1 3\n1 fas d2 0.5\n")
    with pytest.raises(
        DataError, match=r"2022-qrels.all:2: expected an integer as relevance, got '0.5': '1 fas d2 0.5'"
    ):
        fa.read_qrels("qrels")


def test_neuclir_2023_has_its_judgments_in_an_archive_and_its_topics_in_four_languages(elsewhere: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        for iso3 in ("fas", "rus", "zho"):
            raw = f"200 0 {iso3}-0 3\n201 0 {iso3}-1 0\n".encode()
            entry = tarfile.TarInfo(f"qrels.final.gains.{iso3}")
            entry.size = len(raw)
            out.addfile(entry, io.BytesIO(raw))
    put(elsewhere, "https://trec.nist.gov/data/neuclir/2023/neuclir-2023-qrels.final.tar.gz", packed.getvalue())
    versions = [("eng", "original"), ("fas", "human translation"), ("fas", "mt1"), ("zho", "mt1")]
    topics = [
        {"topic_id": str(i), "topics": [
            {"lang": lang, "source": source, "topic_title": f"{lang} {source} {i}", "topic_description": "d"}
            | ({"topic_narrative": "n"} if source != "human translation" else {}) for lang, source in versions]}
        for i in (200, 201)
    ]  # fmt: skip
    put(elsewhere, "https://trec.nist.gov/data/neuclir/2023/neuclir-2023-topics.0605.jsonl", jsonl(*topics))
    fa = preset("neuclir23", checksums=None)
    assert fa.read_qrels("qrels") == [Qrel("200", "fas-0", 3), Qrel("201", "fas-1", 0)]
    assert len(preset("neuclir23", doc_lang=["fa", "ru", "zh"], checksums=None).read_qrels("qrels")) == 6
    assert [q.query_id for q in fa.read_topics("en")] == ["200", "201"], "no filter leaves them out here"
    assert fa.read_topics("fa")[0].fields == {"title": "fas human translation 200", "description": "d", "narrative": ""}
    assert fa.read_topics("fa", "mt1")[1].fields["title"] == "fas mt1 201"
    with pytest.raises(
        DataError, match="no topic in 'zh' has a version 'original' or 'human translation'\n  there are: 'mt1'"
    ):
        fa.read_topics("zh")


def test_neuclir_documents_are_read_from_the_hub_s_files(elsewhere: Path) -> None:
    rows = [
        {"id": f"id-{i}", "cc_file": "c", "time": "t", "title": f"عنوان {i}", "text": f"متن {i}", "url": "u"}
        for i in range(5)
    ]
    commit = "a" * 40
    note = elsewhere / "hub" / "datasets--neuclir--neuclir1" / "refs" / "main"
    note.parent.mkdir(parents=True)
    note.write_text(commit)
    put(elsewhere, f"hub:neuclir/neuclir1@{commit}/data/fas-00000-of-00001.jsonl.gz", gzip.compress(jsonl(*rows)))
    docs = list(preset("neuclir22").read_docs("fa"))
    assert len(docs) == 5 and docs[2] == Doc("id-2", {"title": "عنوان 2", "text": "متن 2"}, "fa")
    with pytest.raises(
        DataError, match=r"this machine is offline and lacks 1 file of the hub dataset neuclir/neuclir1"
    ):
        list(preset("neuclir22").read_docs("ru"))


@needs_shared(PATAPSCO)
def test_hc4_reads_the_real_samples(elsewhere: Path) -> None:
    base = "https://raw.githubusercontent.com/hltcoe/HC4/663f1766709f32ba525a815f137939c945ab8991/resources/hc4"
    put(elsewhere, f"{base}/dev.topics.v1-0.jsonl", (PATAPSCO / "dev.topics.v1-0.jsonl").read_bytes())
    put(elsewhere, f"{base}/zho/dev.qrels.v1-0.txt", (PATAPSCO / "zho.toy-dev.qrels.v1-0.txt").read_bytes())
    (elsewhere / "hc4" / "zho").mkdir(parents=True)
    (elsewhere / "hc4" / "zho" / "hc4_docs.jsonl").write_bytes(
        gzip.decompress((PATAPSCO / "cc-news-zho-1000.jsonl.gz").read_bytes())
    )
    hc4 = preset("hc4", path=str(elsewhere / "hc4"), split="dev", checksums=None)  # two of the ten topics
    docs = list(hc4.read_docs("zh"))
    assert len(docs) == 998 and docs[0].doc_id == "60ff77e1-5395-4812-87b8-66280f26136a"
    assert list(docs[500].fields) == ["title", "text"] and docs[-1].fields["text"]
    judged = hc4.read_qrels("qrels")
    assert len(judged) == 44 and {row.doc_id for row in judged} <= {doc.doc_id for doc in docs}
    assert [q.query_id for q in hc4.read_topics("en")] == ["5", "6"]
    assert hc4.read_topics("zh")[0].fields["title"] == "尼日利亚当局应对博科圣地组织"
    assert hc4.read_topics("fa", "20211005-scale21-sockeye2-tm1")[0].lang == "fa"


@needs_shared(TREC)
@pytest.mark.parametrize(("lang", "topics", "judgments"), [("fa", 10, 565), ("ru", 4, 265), ("zh", 10, 466)])
def test_hc4_dev_s_real_judgments_have_their_counts_and_grades(
    elsewhere: Path, lang: str, topics: int, judgments: int
) -> None:
    place = preset("hc4", doc_lang=lang, split="dev").place("qrels", lang, "qrels")
    put(elsewhere, place, real("qrels", f"qrels.hc4-v1.0-{lang}.dev.txt"))
    judged = preset("hc4", doc_lang=lang, split="dev").read_qrels("qrels")
    assert len(judged) == judgments and {row.relevance for row in judged} == {0, 1, 3}
    assert len({row.query_id for row in judged}) == topics
    checksum = place.partition("#md5=")[2]
    assert checksum == hashlib.md5(real("qrels", f"qrels.hc4-v1.0-{lang}.dev.txt")).hexdigest(), (
        "the published file itself"
    )


@needs_shared(TREC)
def test_neuclir_2022_s_real_persian_judgments_begin_at_topic_0() -> None:
    from clir_cli.evaluation import read_qrels

    judged = read_qrels(TREC / "qrels" / "qrels.neuclir22-fa.txt.gz")
    assert len(judged) == 34174 and {row.relevance for row in judged} == {0, 1, 3}
    assert len({row.query_id for row in judged}) == 46 and "0" in {row.query_id for row in judged}


# Others ---------------------------------------------------------------------------------------------------------------


def test_africlirmatrix_reads_its_three_files(elsewhere: Path) -> None:
    africa = preset("africlirmatrix", doc_lang="wo")
    put(elsewhere, africa.place("docs", "wo"), jsonl(*({"id": str(i), "contents": f"mbind {i}"} for i in range(3))))
    put(elsewhere, africa.place("topics", "en"), b"8715571\tDakar\n61872835\tSenegal\n")
    put(elsewhere, africa.place("qrels", "wo", "qrels"), b"8715571 Q0 0 5\n61872835 Q0 2 6\n")
    assert list(africa.read_docs("wo"))[2] == Doc("2", {"text": "mbind 2"}, "wo")
    assert [(q.query_id, q.fields["text"]) for q in africa.read_topics("en")] == [
        ("8715571", "Dakar"),
        ("61872835", "Senegal"),
    ]
    assert africa.read_qrels("qrels")[1] == Qrel("61872835", "2", 6)


def test_a_folder_in_beir_s_layout_is_a_collection(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_bytes(
        jsonl(*({"_id": f"d{i}", "title": "", "text": f"Text {i}", "metadata": {}} for i in range(3)))
    )
    (tmp_path / "queries.jsonl").write_bytes(jsonl({"_id": "q1", "text": "a question", "metadata": {"x": 1}}))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    beir = preset("beir", path=str(tmp_path), doc_lang="de")
    assert [d.doc_id for d in beir.read_docs("de")] == ["d0", "d1", "d2"]
    assert beir.read_topics("en")[0].fields == {"text": "a question"}
    assert beir.read_qrels("qrels") == [Qrel("q1", "d1", 1), Qrel("q1", "d2", 0)]


def test_clef_ehealth_has_topics_of_each_language_under_the_same_ids(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl.gz").write_bytes(gzip.compress(jsonl({"id": "p1", "text": "a page"})))
    for lang in ("de", "fr"):
        (tmp_path / f"topics.2015.{lang}.tsv").write_text(f"q1\t{lang} Husten\n")
    (tmp_path / "qrels.2015.txt").write_text("q1 0 p1 2\n")
    health = preset("clef_ehealth", path=str(tmp_path))
    assert [health.read_topics(lang)[0].query_id for lang in ("de", "fr")] == ["q1", "q1"]
    assert health.read_qrels("qrels") == [Qrel("q1", "p1", 2)] and len(list(health.read_docs("en"))) == 1


# Pages ----------------------------------------------------------------------------------------------------------------

NAMES = sorted(compose.choices("dataset"))


@pytest.mark.parametrize("name", NAMES)
def test_every_collection_has_a_page_whose_facts_have_known_names_and_languages(name: str) -> None:
    about = node(name).get("about") or {}
    assert set(about) <= set(ABOUT)
    codes = [code for key in ("query_langs", "doc_langs") for code in about.get(key, [])]
    assert not [code for code in codes if code not in LANGUAGES], "a language that clir does not know"
    assert about.get("topics", "judged").split(":")[0] in {"judged", "relevant"}
    for pair in about.get("pairs", []):
        query, *docs = str(pair).replace("+", "-").split("-")
        assert query in about.get("query_langs", [query]) and set(docs) <= set(about.get("doc_langs", docs))


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_every_page_composes_and_builds_its_collection(name: str) -> None:
    (row,) = [row for row in datasets.rows(()) if row["name"] == name]
    (cell,) = compose.cells(shlex.split(row["command"])[2:])
    assert cell.plain is not None and config.built(cell.plain).dataset is not None


@pytest.mark.parametrize("name", NAMES)
def test_no_page_has_a_fact_that_yaml_cut_in_two(name: str) -> None:
    """`{a: one, two}` is two entries, of which the second says nothing: such a text needs quotation marks."""
    (row,) = [row for row in datasets.rows(()) if row["name"] == name]
    assert not [line for line in datasets.page(row) if re.search(r"\bNone\b", line)]


@pytest.mark.parametrize("name", [name for name in NAMES if (node(name).get("about") or {}).get("doc_langs")])
def test_a_collections_page_says_all_that_a_newcomer_asks_or_that_nobody_stated_it(name: str) -> None:
    (row,) = [row for row in datasets.rows(()) if row["name"] == name]
    page = "\n".join(datasets.page(row))
    asked = [
        "splits",
        "topic fields",
        "document fields",
        "measures",
        "translations",
        "topics averaged over",
        "how to get it",
    ]
    asked += ["topics in", "documents in", "judgments", "grades", "size", "fields", "licence", "citation"]
    assert [
        fact for fact in asked if f"\n  {fact}  " not in page and f" {fact}" not in page.partition("not stated")[2]
    ] == []


def test_the_list_says_what_there_is_and_the_page_all_of_it(shared_clir: Clir) -> None:
    listed = shared_clir("datasets").stdout.splitlines()
    assert listed[0].split()[:2] == ["dataset", "topics"] and [line.split()[0] for line in listed[1:]] == NAMES
    assert "$CLIR_CLEF (not set)" in next(line for line in listed if line.startswith("clef2003 "))
    page = shared_clir("datasets", "ciral").stdout
    assert page.startswith("ciral: CIRAL v1.0\n") and "nDCG@20 AP R@100" in page and "ha 715,355" in page
    assert "clir run dataset=ciral dataset.pair=en-sw" in page.splitlines()[-1]
    record = json.loads(shared_clir("datasets", "hc4", "--json").stdout)
    assert (record["obtained"], record["on_this_machine"], record["measures"][0]) == ("folder", False, "nDCG@20")
    assert {row["name"] for row in json.loads(shared_clir("datasets", "--lang", "yo", "--json").stdout)} >= {
        "ciral",
        "africlirmatrix",
    }


def test_a_page_knows_when_a_licensed_collection_is_there(clir: Clir, tmp_path: Path) -> None:
    assert "on this machine       yes" in clir("datasets", "clef2003", env={"CLIR_CLEF": str(tmp_path)}).stdout
    assert "no: export CLIR_CLEF=/its/folder, or dataset.path=/its/folder" in clir("datasets", "clef2003").stdout
    assert "no dataset 'ciral2'; did you mean ciral" in clir("datasets", "ciral2", code=2).stderr
    assert "no collection says that it has 'xx'" in clir("datasets", "--lang", "xx", code=2).stderr


def test_your_own_yaml_has_a_page_too(clir: Clir) -> None:
    (clir.folder / "configs" / "dataset").mkdir(parents=True)
    (clir.folder / "configs" / "dataset" / "mine.yaml").write_text(
        "# clir run dataset=mine\n# What I collected\n_target_: clir_cli.datasets.files.Files\ndocs: d.tsv\ntopics: t.tsv\n"
        "query_lang: en\ndoc_lang: yo\nabout: {title: Mine, licence: mine, doc_langs: [yo]}\n"
    )
    page = clir("datasets", "mine").stdout
    assert page.startswith("mine: Mine\n  What I collected\n") and "licence" in page


def test_a_language_or_split_that_a_collection_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="doc_lang: the collection has no 'de'; it has: ha so sw yo"):
        preset("ciral", doc_lang="de")
    with pytest.raises(ValueError, match="query_lang: the collection has no 'fr'; it has: en ha so sw yo"):
        preset("ciral", query_lang="fr")
    with pytest.raises(ValueError, match="split: the collection has no 'train'; it has: dev test-a test-b"):
        preset("ciral", split="train")
    with pytest.raises(ValueError, match=r"dataset\.split=dev: no path holds \{split\}"):
        preset("demo", split="dev")
    with pytest.raises(ValueError, match="about has no key 'license'; it may have: title"):
        preset("ciral", about={"license": "x"})
    with pytest.raises(ConfigError, match="no judgments 'pools'; there are: shallow"):
        preset("ciral", split="test-b").read_qrels("pools")


def test_every_downloaded_place_of_a_preset_has_a_note(elsewhere: Path) -> None:
    """What a plan needs of a collection that is not here; hub places without a fixed commit ask the hub first."""
    for name in ("ciral", "neuclir22", "neuclir23", "africlirmatrix"):
        collection = preset(name)
        for place in (
            collection.place("topics", "en"),
            collection.place("qrels", collection.doc_langs[0], collection.judgment_names[0]),
        ):
            assert all(path.is_file() for path in fingerprinted(place)), place
    with pytest.raises(MissingData, match="hub dataset neuclir/neuclir1 is not on this machine"):
        preset("neuclir22").source("docs", "fa")


@needs_shared(TREC)
def test_ciral_runs_offline_once_its_files_are_here(elsewhere: Path, clir: Clir) -> None:
    """Document translation by the collection's own translations; topic 237 of the native topics stands there twice."""
    for part, end in (("topics", "sw-test-b-native.tsv"), ("topics", "sw-test-b.tsv"), ("qrels", "sw-test-b.tsv")):
        put(elsewhere, f"{TOOLS}/{part}.ciral-v1.0-{end}", real(part, f"{part}.ciral-v1.0-{end}"))
    judged = [row.doc_id for row in preset("ciral", split="test-b").read_qrels("shallow")][:200]
    for place, text in (("passages", "kipande"), ("translated-passages", "a piece about the president")):
        rows = (
            {"docid": i, "title": "t", "text": f"{text} {n}", "url": "u"} for n, i in enumerate(dict.fromkeys(judged))
        )
        put(elsewhere, f"{CORPUS}/{place}-v1.0/swahili_passages.jsonl", jsonl(*rows))
    env = {"CLIR_DATA": str(elsewhere / "data"), "HF_HUB_CACHE": str(elsewhere / "hub"), "CLIR_OFFLINE": "1"}
    ours = ["dataset=ciral", "dataset.split=test-b", "retriever=bm25_dt", "translator=provided"]
    folder = clir.experiment(*ours, "dataset.pair=en-sw", env=env)
    assert folder.parent.name == "ciral-test-b.en-sw"
    metrics = (folder / "metrics.csv").read_text()
    assert ",shallow," in metrics and ",pools," not in metrics and "nDCG@20" in metrics
    assert ",114," in metrics, "113 topics, and 23, which is judged without being one"
    native = clir("run", *ours[:2], "retriever=bm25", "retriever.analyser=whitespace", "dataset.pair=sw-sw", env=env)
    assert "ciral topics: 1 repeated query_id (the first kept)" in native.stderr
