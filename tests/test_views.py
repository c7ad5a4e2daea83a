"""A stage sees texts in the languages, fields and order that its view says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from clir_cli import docstore
from clir_cli.errors import ConfigError, DataError, LanguageError
from clir_cli.steps import Counts, Step
from clir_cli.store import At, Store
from clir_cli.types import VIEW_SEPARATOR, Doc, Query, Text
from clir_cli.views import CHUNK, DocView, Fields, QueryView, read_queries, targets, write_queries

ALL = Fields(None, " ")


@pytest.mark.parametrize(
    ("view", "query", "doc"),
    [
        ("original", ["sw"], ["de"]),
        ("query_lang", ["sw"], ["sw"]),
        ("doc_lang", ["de"], ["de"]),
        ("en", ["en"], ["en"]),
        (["original", "en"], ["sw", "en"], ["de", "en"]),
        (["en", "original"], ["en", "sw"], ["en", "de"]),
        (["original", "query_lang", "doc_lang"], ["sw", "de"], ["de", "sw"]),
        (("original", "sw", "de"), ["sw", "de"], ["de", "sw"]),
    ],
)
def test_a_view_of_a_swahili_query_and_of_a_german_document(
    view: str | list[str], query: list[str], doc: list[str]
) -> None:
    assert targets(view, "sw", "sw", ["de"]) == query
    assert targets(view, "de", "sw", ["de"]) == doc


def test_a_query_seen_in_the_documents_languages_of_a_pool_is_shown_in_each() -> None:
    assert targets("doc_lang", "en", "en", ["fa", "ru", "zh"]) == ["fa", "ru", "zh"]
    assert targets(["original", "doc_lang"], "en", "en", ["fa", "en"]) == ["en", "fa"], "each language once"


def test_a_view_that_names_no_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="'querylang' is no view; did you mean query_lang"):
        targets("querylang", "de", "en", ["de"])
    with pytest.raises(LanguageError, match="'english' is not a language code"):
        targets("english", "de", "en", ["de"])
    with pytest.raises(ConfigError, match="a view needs at least one of original"):
        targets([], "de", "en", ["de"])


def test_fields_are_joined_in_the_chosen_order_without_the_empty_ones() -> None:
    fields = {"title": " Ebbe ", "text": "Das Wasser sinkt.\n", "note": "  "}
    assert Fields(("text", "title"), " | ").join("d", fields, "doc_fields") == "Das Wasser sinkt. | Ebbe"
    assert Fields(None, "\n").join("d", fields, "doc_fields") == "Ebbe\nDas Wasser sinkt.", "null: all that it has"
    assert Fields(("note",), " ").join("d", fields, "doc_fields") == ""


def test_a_field_that_a_text_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match="doc_fields: 'd1' has no field 'headline'; it has: title, text"):
        Fields(("headline",), " ").join("d1", {"title": "a", "text": "b"}, "doc_fields")


# Texts of real steps --------------------------------------------------------------------------------------------------


class Room:
    """Steps that hold documents or queries, in a store."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "runs")
        self.at = At(self.store, folder)

    def docs(self, lang: str, texts: Mapping[str, str | Mapping[str, str]]) -> Step:
        rows = [Doc(i, {"text": t} if isinstance(t, str) else t, lang) for i, t in texts.items()]

        def make(at: At) -> Counts:
            return docstore.write(rows, at.draft)

        return self._made(Step("docs", lang, {}, {"lang": lang, "ids": list(texts)}, make))

    def queries(self, lang: str, texts: Mapping[str, str]) -> Step:
        def make(at: At) -> Counts:
            write_queries(
                [Query(i, {"title": text, "description": f"{text}?"}, lang) for i, text in texts.items()], at.draft
            )
            return {}

        return self._made(Step("topics", lang, {}, {"lang": lang}, make))

    def _made(self, step: Step) -> Step:
        self.store.make(step)
        return step


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def shown(texts: Sequence[Text]) -> dict[str, str]:
    return {text.id: text.text for text in texts}


def test_topics_survive_the_disk_in_their_order(tmp_path: Path) -> None:
    queries = [
        Query("NA", {"title": "潮汐\u2028", "description": 'warum "Ebbe"?'}, "zh"),
        Query("007", {"title": ""}, "zh"),
    ]
    write_queries(queries, tmp_path)
    assert read_queries(tmp_path) == queries


def test_a_query_is_seen_in_one_language_or_in_several_joined_in_the_view_s_order(room: Room) -> None:
    german, english = room.queries("de", {"2": "Ebbe", "1": "Wind"}), room.queries("en", {"1": "wind", "2": "tide"})
    title = Fields(("title",), " ")
    assert shown(QueryView((("de", german),), title).read(room.at)) == {"2": "Ebbe", "1": "Wind"}
    both = QueryView((("de", german), ("en", english)), title)
    assert (both.langs, both.steps) == (("de", "en"), (german, english))
    texts = both.read(room.at)
    assert list(shown(texts).items()) == [("2", f"Ebbe{VIEW_SEPARATOR}tide"), ("1", f"Wind{VIEW_SEPARATOR}wind")]
    assert (texts[0].lang, texts[0].parts) == ("de+en", (("de", "Ebbe"), ("en", "tide")))
    other = QueryView((("en", english), ("de", german)), Fields(("description", "title"), " / "))
    assert next(iter(shown(other.read(room.at)).items())) == ("1", f"wind? / wind{VIEW_SEPARATOR}Wind? / Wind")


def test_what_a_translation_dropped_is_left_out_of_every_view_that_shows_it(room: Room) -> None:
    german, english = room.queries("de", {"1": "Wind", "2": "Ebbe"}), room.queries("en", {"2": "tide"})
    own, other = room.docs("de", {"a": "Wind", "b": "Ebbe"}), room.docs("en", {"b": "tide"})
    for order in (slice(None), slice(None, None, -1)):
        queries, docs = (("de", german), ("en", english))[order], (("de", own), ("en", other))[order]
        assert list(shown(QueryView(queries, ALL).read(room.at))) == ["2"]
        view = DocView((docs,), ALL)
        assert list(shown(list(view.read(room.at)))) == list(view.find(room.at, ["a", "b"])) == ["b"]


def test_a_document_is_seen_as_it_is_translated_or_both(room: Room) -> None:
    german = room.docs("de", {"a": {"title": "Wind", "text": "weht"}, "b": {"title": "", "text": "Ebbe"}})
    english = room.docs("en", {"b": {"title": "", "text": "tide"}, "a": {"title": "wind", "text": "blows"}})
    assert shown(list(DocView(((("de", german),),), ALL).read(room.at))) == {"a": "Wind weht", "b": "Ebbe"}
    both = DocView(((("de", german), ("en", english)),), ALL)
    seen = list(both.read(room.at))
    assert list(shown(seen).items()) == [
        ("a", f"Wind weht{VIEW_SEPARATOR}wind blows"),
        ("b", f"Ebbe{VIEW_SEPARATOR}tide"),
    ]
    assert (both.langs, seen[0].lang, both.count(room.at)) == (("de", "en"), "de+en", 2)
    assert both.find(room.at, ["b", "none"]) == {"b": seen[1]}
    with pytest.raises(ConfigError, match="doc_fields: 'a' has no field 'body'; it has: title, text"):
        list(DocView(((("de", german),),), Fields(("body",), " ")).read(room.at))


def test_a_pool_is_read_part_after_part_and_in_shards_that_cross_them(room: Room) -> None:
    sizes = {"de": CHUNK + 7, "sw": 5, "ru": 1}
    parts = {lang: room.docs(lang, {f"{lang}-{i}": f"{lang} {i}" for i in range(n)}) for lang, n in sizes.items()}
    pool = DocView(tuple(((lang, step),) for lang, step in parts.items()), ALL)
    whole = list(pool.read(room.at))
    assert [t.id for t in whole] == [f"{lang}-{i}" for lang, n in sizes.items() for i in range(n)]
    assert pool.count(room.at) == len(whole) == CHUNK + 13
    assert {t.lang for t in whole} == {"de", "sw", "ru"} and pool.langs == ("de", "sw", "ru")
    for size in (1, 4, CHUNK + 9, 5000):
        begins = range(CHUNK - 2, CHUNK + 20, size) if size < 10 else range(0, CHUNK + 20, size)
        assert [t for b in begins for t in pool.read(room.at, b, b + size)] == whole[begins[0] : begins[-1] + size]
    assert list(pool.find(room.at, ["ru-0", "de-3"])) == ["de-3", "ru-0"]


def test_a_doc_id_in_two_parts_of_a_pool_is_refused_because_no_ranking_could_tell_them_apart(room: Room) -> None:
    parts = [(("de", room.docs("de", {"x": "Wind", "17": "Ebbe"})),), (("en", room.docs("en", {"17": "tide"})),)]
    pool = DocView(tuple(parts), ALL)
    for read in (lambda: list(pool.read(room.at)), lambda: pool.find(room.at, ["17"])):
        with pytest.raises(DataError, match="doc_id '17' stands in the de and in the en part of the pool"):
            read()
    assert list(pool.find(room.at, ["x"])) == ["x"]
