"""CLEF, TREC and FIRE in SGML: every source's tags and order of the text, topics with and without end tags, judgments."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import clef_sample
import pytest
import yaml
from conftest import SHARED, Clir, needs_shared

from clir_cli import compose, schema
from clir_cli.datasets.sgml import Sgml
from clir_cli.errors import ConfigError, DataError
from clir_cli.types import Doc, Qrel

TREC = SHARED / "data" / "trec-formats"


def preset(name: str, **settings: Any) -> Sgml:
    """A collection as its yaml and some overrides describe it."""
    node = yaml.safe_load(compose.choices("dataset")[name].read_text())
    problems: list[Any] = []
    found = schema.build({**node, **settings}, "dataset", problems)
    assert not problems, problems
    assert isinstance(found, Sgml)
    return found


@pytest.fixture(scope="session")
def clef(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clef_sample.write(tmp_path_factory.mktemp("clef"))


def texts(docs: list[Doc]) -> dict[str, str]:
    return {doc.doc_id: " | ".join(text for text in doc.fields.values() if text) for doc in docs}


# CLEF -----------------------------------------------------------------------------------------------------------------


def test_each_source_of_clef_2003_is_read_with_its_tags_in_its_order_and_encoding(clef: Path) -> None:
    found = {
        lang: texts(list(preset("clef2003", path=str(clef), doc_lang=lang).read_docs(lang)))
        for lang in clef_sample.TITLES
    }
    assert found == {
        "en": {
            "LA010194-0001": "TIDES & MOON | The tide rises twice a day. So they say.",
            "LA010194-0002": "Without a headline.",
            "GH950103-000000": "Chess final in Glasgow | The champion played e4.",
        },
        "de": {
            "SPIEGEL-1": "Ebbe und Flut | Der Mond zieht das Meer. | Zweimal am Tag fällt das Wasser. Dann steigt es.",
            "FR-1": "Schach | Der Läufer schlägt den Turm.",
            "SDA.940101.0001": "Das Wasser steigt. Die Küste wartet. | Hamburg (sda) | Die Flut kommt | Meer",
            "SDA.950101.0001": "Ein Text. | Ein Titel",
        },
        "it": {
            "LASTAMPA94-1": "La marea è alta. | Maree",
            "AGZ.940101.0001": "Scacchi | Lugano | La partita è finita.",
            "AGZ.950101.0001": "Pane | Il pane è pronto.",
        },
        "fi": {"AAMU19940101-000001": "Vesi nousee yöllä."},
        "ru": {"IZ950101-0001": "Вода поднимается дважды в день. | Прилив | Море"},
    }


def test_folders_may_be_called_as_the_core_study_s_loader_calls_them(clef: Path, tmp_path: Path) -> None:
    named = shutil.copytree(clef, tmp_path / "clef") / "DocumentData"
    for ours, theirs in (
        ("English_data/LATimes94", "latimes"),
        ("German_data/sda_german", "sda94"),
        ("Russian_data", "russian"),
    ):
        (found,) = named.glob(f"**/{ours}")
        found.rename(found.with_name(theirs))
    for lang in ("en", "de", "ru"):
        elsewhere = preset("clef2003", path=str(tmp_path / "clef"), doc_lang=lang)
        assert texts(list(elsewhere.read_docs(lang))) == texts(
            list(preset("clef2003", path=str(clef), doc_lang=lang).read_docs(lang))
        )


def test_every_document_of_a_language_has_every_field_of_its_sources(clef: Path) -> None:
    german = list(preset("clef2003", path=str(clef), doc_lang="de").read_docs("de"))
    assert {tuple(sorted(doc.fields)) for doc in german} == {("keywords", "lead", "text", "title")}
    (finnish,) = preset("clef2003", path=str(clef), doc_lang="fi").read_docs("fi")
    assert finnish == Doc("AAMU19940101-000001", {"title": "", "text": "Vesi nousee yöllä."}, "fi")


@pytest.mark.parametrize("lang", clef_sample.TITLES)
def test_topics_of_all_languages_share_their_ids_which_are_those_of_the_judgments(clef: Path, lang: str) -> None:
    first, second = preset("clef2003", path=str(clef)).read_topics(lang)
    title, description = clef_sample.TITLES[lang]
    assert (first.query_id, first.lang) == ("141", lang)
    assert dict(first.fields) == {"title": title, "description": description, "narrative": "Only the sea. Not lakes."}
    assert dict(second.fields) == {"title": "Chess", "description": "Chess & more", "narrative": ""}
    judged = {row.query_id for row in preset("clef2003", path=str(clef)).read_qrels("qrels")}
    assert judged == {"141", "142"}


def test_a_pool_has_the_judgments_of_all_its_languages(clef: Path) -> None:
    pool = preset("clef2003", path=str(clef), doc_lang=["de", "fi", "ru"])
    assert len(pool.read_qrels("qrels")) == 4 + 2 + 1
    assert Qrel("141", "IZ950101-0001", 1) in pool.read_qrels("qrels")


def test_clef_2000_has_topics_without_end_tags(tmp_path: Path) -> None:
    folder = tmp_path / "Topics" / "topics2000"
    folder.mkdir(parents=True)
    topics = (
        "<top>\n\n<num> C001\n\n<D-title>\nArchitektur in Berlin\n\n<D-desc>\nSuche Dokumente über\nArchitektur.\n\n"
        "<D-narr>\nRelevante Dokumente\nfür Berlin.\n\n</top>\n"
    )
    (folder / "TOP-D.txt").write_bytes(topics.encode("iso-8859-1"))
    (query,) = preset("clef2000", path=str(tmp_path), query_lang="de", doc_lang="en").read_topics("de")
    assert query.query_id == "1", "C001 is 1 in the judgments"
    assert query.fields == {
        "title": "Architektur in Berlin", "description": "Suche Dokumente über Architektur.",
        "narrative": "Relevante Dokumente für Berlin.",
    }  # fmt: skip


def test_a_licensed_collection_that_is_not_here_says_how_to_get_it_and_where_to_put_it(
    clir: Clir, clef: Path, tmp_path: Path
) -> None:
    said = clir("run", "dataset=clef2003", code=2).stderr
    assert "CLEF 2003, ad hoc track is not on this machine: dataset.path is not set, nor CLIR_CLEF" in said
    assert "how to get it: order ELRA-E0008" in said and "where it lies: the folder that holds DocumentData" in said
    assert "then: dataset.path=/that/folder, or for all commands: export CLIR_CLEF=/that/folder" in said
    said = clir("plan", "dataset=clef2003", "dataset.path=/nowhere", code=2).stderr
    assert "/nowhere is no folder" in said
    said = clir("plan", "dataset=clef2003", "dataset.pair=en-fr", code=2, env={"CLIR_CLEF": str(clef)}).stderr
    assert (
        "dataset.qrels: none in 'fr'; looked for $CLIR_CLEF/RelAssess/2003/qrels_french, $CLIR_CLEF/RelAssess" in said
    )
    with pytest.raises(
        DataError, match=r"no documents in 'fr' at .*/French_data/new_docno/\*\n  the folder that holds"
    ):
        list(preset("clef2003", path=str(clef), doc_lang="fr").read_docs("fr"))
    said = clir("plan", "dataset=clef2003", "dataset.pair=en-sw", code=2, env={"CLIR_CLEF": str(clef)}).stderr
    assert "doc_lang: the collection has no 'sw'; it has: de en es fi fr it nl ru" in said


def test_clef_runs_from_its_folder_wherever_it_lies(clir: Clir, clef: Path) -> None:
    folder = clir.experiment("dataset=clef2003", f"dataset.path={clef}", "dataset.pair=de-de", "retriever=bm25")
    run = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    assert run[0][:3] == ["141", "Q0", "SPIEGEL-1"] and folder.parent.name == "clef2003.de-de"
    moved = clef.with_name("moved")
    moved.symlink_to(clef)
    said = clir(
        "plan", "dataset=clef2003", "dataset.pair=de-de", "retriever=bm25", env={"CLIR_CLEF": str(moved)}
    ).stdout
    assert f"finished: {folder}" in said, "the place of the data is no part of what it is"


# TREC and FIRE --------------------------------------------------------------------------------------------------------


@needs_shared(TREC)
def test_the_topics_and_judgments_of_fire_2012_have_their_true_counts(tmp_path: Path) -> None:
    (tmp_path / "topics.en.txt").write_bytes((TREC / "topics" / "topics.fire12en.176-225.txt").read_bytes())
    (tmp_path / "qrels.en.txt.gz").write_bytes((TREC / "qrels" / "qrels.fire12en.176-225.txt.gz").read_bytes())
    fire = preset("fire", path=str(tmp_path), doc_lang="en")
    queries, judged = fire.read_topics("en"), fire.read_qrels("qrels")
    assert [q.query_id for q in queries] == [str(i) for i in range(176, 226)]
    assert queries[0].fields["title"] == "YSR Reddy death"
    assert queries[25].query_id == "201" and all(queries[25].fields.values())
    assert queries[-1].query_id == "225" and list(queries[-1].fields) == ["title", "description", "narrative"]
    assert len(judged) == 36499 and judged[0].query_id == "176"
    assert {row.query_id for row in judged} == {q.query_id for q in queries}


def test_fire_documents_lie_in_folders_below_their_language(tmp_path: Path) -> None:
    tmp_path /= "fire [2012]"  # no pattern
    for number, month in enumerate(("jan", "feb"), 1):
        (tmp_path / "docs.hi" / month).mkdir(parents=True)
        text = f"<DOC>\n<DOCNO>hindi_{number}.utf8</DOCNO>\n<TEXT>\nपानी {number}\n</TEXT>\n</DOC>\n"
        (tmp_path / "docs.hi" / month / f"{number}.utf8").write_text(text)
    found = texts(list(preset("fire", path=str(tmp_path)).read_docs("hi")))
    assert found == {"hindi_2.utf8": "पानी 2", "hindi_1.utf8": "पानी 1"}, "in the order of the paths"


def test_trec_s_chinese_topics_hold_both_languages_in_one_file(tmp_path: Path) -> None:
    topics = (
        "<top>\n<num> Number: CH29\n\n<E-title> Building the Information Super Highway\n<C-title> 信息高速公路建设\n\n"
        "<E-desc> Description:\nInformation Super Highway, building\n<C-desc> Description:\n信息高速公路，建设\n\n"
        "<E-narr> Narrative:\nA relevant document says how.\n<C-narr> Narrative:\n相关文件应提到\n</top>\n"
    )
    (tmp_path / "topics.trec6.txt.gz").write_bytes(gzip.compress(topics.encode("gbk")))
    (tmp_path / "qrels.trec6.txt.gz").write_bytes(gzip.compress(b"29 0 pd9105-1 1\n29 0 CB-1 0\n"))
    folder = tmp_path / "LDC2000T52" / "peoples-daily"
    folder.mkdir(parents=True)
    document = (
        "<DOC>\n<DOCNO>pd9105-1</DOCNO>\n<HL>x</HL>\n<TEXT>\n<p>\n<s>人民</s>\n<s>日报</s>\n</p></TEXT>\n</DOC>\n"
    )
    (folder / "pd9105").write_bytes(document.encode("gb18030"))
    (folder.parent / "xinhua").mkdir()
    (folder.parent / "xinhua" / "x9401").write_bytes(document.replace("pd9105-1", "CB-1").encode("gb18030"))
    chinese = preset("trec_mandarin", path=str(tmp_path))
    (asked,), (own,) = chinese.read_topics("en"), chinese.read_topics("zh")
    assert (asked.query_id, own.query_id) == ("29", "29")
    assert asked.fields["description"] == "Information Super Highway, building"
    assert own.fields == {
        "title": "信息高速公路建设",
        "description": "信息高速公路，建设",
        "narrative": "相关文件应提到",
    }
    assert texts(list(chinese.read_docs("zh"))) == {"CB-1": "人民 日报", "pd9105-1": "人民 日报"}
    assert chinese.read_qrels("qrels")[0] == Qrel("29", "pd9105-1", 1)


def test_old_trec_topics_lack_end_tags_and_repeat_what_the_tag_says(tmp_path: Path) -> None:
    topics = (
        "<top>\n<num> Number: AR1\n<title> Topic: سينما\n<desc> Description:\nفنون\nسينما\n<narr> Narrative:\n</top>\n"
    )
    (tmp_path / "topics.ar.2001.txt").write_bytes(topics.encode("iso-8859-6"))
    (query,) = preset("trec_arabic", path=str(tmp_path), query_lang="ar").read_topics("ar")
    assert query.query_id == "1" and query.fields == {"title": "سينما", "description": "فنون سينما", "narrative": ""}


def test_topics_beside_sgml_documents_may_be_lines_of_columns(tmp_path: Path) -> None:
    (tmp_path / "topics.en.tsv").write_text("301-AH\tNestlé Products\n350-AH\tDeath of Ayrton Senna")
    (tmp_path / "qrels.fr.txt").write_text("301-AH 0 ATS.940106.0082 0\n350-AH 0 ATS.940112.0089 1\n")
    for folder, name in (("sda_french", "ATS.940106.0082"), ("ats95", "ATS.950101.0001")):
        (tmp_path / "docs" / folder).mkdir(parents=True)
        text = f"<DOC>\n<DOCID>{name}</DOCID>\n<TI>Été</TI>\n<LD>Berne</LD>\n<TX>Il fait chaud.</TX>\n<ST>climat</ST>\n</DOC>\n"
        (tmp_path / "docs" / folder / "a.sgml").write_bytes(text.encode("iso-8859-1"))
    (tmp_path / "docs" / "lemonde94").mkdir()
    text = (
        "<DOC>\n<DOCID>LEMONDE94-1</DOCID>\n<TITLE>Titre</TITLE>\n<LEAD1>Chapeau</LEAD1>\n<TEXT>Corps</TEXT>\n</DOC>\n"
    )
    (tmp_path / "docs" / "lemonde94" / "a.sgml").write_text(text)
    french = preset("clef2006_fr", path=str(tmp_path))
    assert texts(list(french.read_docs("fr"))) == {
        "ATS.940106.0082": "Été | Berne | climat | Il fait chaud.",
        "ATS.950101.0001": "Été | Berne | climat | Il fait chaud.",
        "LEMONDE94-1": "Titre | Chapeau | Corps",
    }
    assert [(q.query_id, q.fields) for q in french.read_topics("en")] == [
        ("301-AH", {"title": "Nestlé Products"}), ("350-AH", {"title": "Death of Ayrton Senna"}),
    ]  # fmt: skip
    assert len(french.read_qrels("qrels")) == 2
    (tmp_path / "topics.de.tsv").write_text("301-AH\tTitel\n350-AH\n")
    with pytest.raises(DataError, match=r"topics.de.tsv:2: expected a column 2 behind a tab, found '350-AH"):
        french.read_topics("de")


# Settings -------------------------------------------------------------------------------------------------------------

SOURCE = {"files": "{path}/*", "id": "DOCNO", "fields": {"text": "TEXT"}}
TOPICS = {"files": "{path}/t", "id": "num", "fields": {"title": "title"}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"docs": {"de": ({"files": "x"},)}}, "docs.de.0 needs id"),
        ({"docs": {"de": ({**SOURCE, "tags": 1},)}}, "docs.de.0 has no key 'tags'; it may have: files, id, fields"),
        ({"docs": {"de": ({**SOURCE, "encoding": "latin-99"},)}}, "encoding 'latin-99' is unknown"),
        ({"docs": {"fr": (SOURCE,)}}, "dataset.docs has none in 'de'; there are: fr"),
        ({"topics": {"de": TOPICS}}, "dataset.topics has none in 'en'; there are: de"),
        ({"topic_id": "C(.)(.)"}, "topic_id must be a pattern with one group"),
        ({"topic_id": "C(."}, "topic_id is no regular expression"),
        ({"qrels": "{path}/{langs}"}, "{langs} is no place in '{path}/{langs}'"),
        ({"qrels": "{path}/{split}"}, "choose one with dataset.split=..."),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, ConfigError)) as caught:
        Sgml(**{"docs": {"de": (SOURCE,)}, "topics": {"*": TOPICS}, "query_lang": "en", "doc_lang": "de", **settings})
    assert words in str(caught.value)


def test_judgments_are_asked_for_by_name_and_topics_have_one_version(clef: Path) -> None:
    clef2003 = preset("clef2003", path=str(clef))
    with pytest.raises(ConfigError, match="no judgments 'pools'; there are: qrels"):
        clef2003.read_qrels("pools")
    with pytest.raises(ConfigError, match="the topics have one version in 'en', there is no 'google'"):
        clef2003.read_topics("en", "google")
    with pytest.raises(DataError, match=r"dataset.topics: none in 'nl'; looked for .*Top-nl03.txt"):
        clef2003.read_topics("nl")
