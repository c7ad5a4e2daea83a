"""PSQ scores as its formulas say by hand, reads and makes tables as it says, and meets documents in other languages."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, XQUAD, Clir, needs_shared, xquad

from clir_cli.errors import DataError, LanguageError
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.bm25 import BM25
from clir_cli.retrievers.psq import PSQ
from clir_cli.steps import identity
from clir_cli.text import lucene, translation_table
from clir_cli.types import Run, Text

PATAPSCO, TATOEBA = SHARED / "data" / "patapsco-samples", SHARED / "data" / "tatoeba"
WORDS = {"analyser": "whitespace", "query_analyser": "whitespace"}
TABLE = {"house": {"haus": 0.6, "heim": 0.3, "gebäude": 0.1}, "old": {"alt": 0.7}}
DOCS = {"d1": "haus haus alt", "d2": "heim gebäude baum baum baum", "d3": "alt alt katze", "d4": "katze baum", "d5": ""}


def text(name: str, lang: str, words: str) -> Text:
    return Text(name, ((lang, words),))


def table(folder: Path, rows: dict[str, dict[str, float]] | None = None, name: str = "table.json") -> str:
    (folder / name).write_text(json.dumps(rows if rows is not None else TABLE, ensure_ascii=False), encoding="utf-8")
    return str(folder / name)


def rank(
    psq: PSQ, folder: Path, queries: Sequence[Text], docs: Sequence[Text] | None = None, size: int = 2, depth: int = 100
) -> Run:
    """As the stages do it: shards, then the table, then the search."""
    docs = docs if docs is not None else [text(name, "de", words) for name, words in DOCS.items()]
    for start in range(0, len(docs), size):
        psq.index_shard(docs[start : start + size], folder / "shards" / f"{start // size:05}")
    return search(psq, folder, queries, sorted({doc.lang for doc in docs}), depth)


def search(psq: PSQ, folder: Path, queries: Sequence[Text], doc_langs: Sequence[str], depth: int = 100) -> Run:
    made = folder / f"derived-{len(list(folder.iterdir()))}"
    psq.derive(folder, made, sorted({query.lang for query in queries}), doc_langs)
    return psq.search(folder, queries, depth, derived=made)


def scores(run: Run, query: str = "q") -> dict[str, float]:
    rows = run[run["query_id"] == query]
    return dict(zip(rows["doc_id"], rows["score"], strict=True))


# Scores ---------------------------------------------------------------------------------------------------------------


def test_bm25_over_expected_frequencies_is_as_computed_by_hand(tmp_path: Path) -> None:
    psq = PSQ(table=table(tmp_path), cumulative=1.0, renormalise=False, **WORDS)
    found = scores(rank(psq, tmp_path, [text("q", "en", "Old house house")]))
    # Four documents have terms; lengths 3 5 3 2, mean 13/4.
    # house: tf(d1) = 0.6 * 2, tf(d2) = 0.3 + 0.1, df = 0.6 + 0.3 + 0.1 = 1; old: tf(d1) = 0.7, tf(d3) = 1.4, df = 0.7 * 2

    def points(tf: float, df: float, length: int) -> float:
        return math.log(1 + (4 - df + 0.5) / (df + 0.5)) * tf / (tf + 0.9 * (0.6 + 0.4 * length / 3.25))

    assert found == {
        "d1": pytest.approx(2 * points(1.2, 1.0, 3) + points(0.7, 1.4, 3)),
        "d2": pytest.approx(2 * points(0.4, 1.0, 5)),
        "d3": pytest.approx(points(1.4, 1.4, 3)),
    }


def test_the_hidden_markov_model_is_as_computed_by_hand(tmp_path: Path) -> None:
    given_doc = {"haus": {"house": 0.8, "home": 0.1}, "heim": {"home": 0.9, "house": 0.1}, "alt": {"old": 1.0}}
    psq = PSQ(table=table(tmp_path, given_doc), given="doc", scorer="hmm", alpha=0.4, cumulative=1.0, renormalise=False,
              **WORDS)  # fmt: skip
    found = scores(rank(psq, tmp_path, [text("q", "en", "old house")]))
    # 13 terms in all: haus 2, heim 1, alt 3
    house, old = (0.8 * 2 + 0.1 * 1) / 13, 3 / 13

    def factor(background: float, in_doc: float) -> float:
        return math.log((0.4 * background + 0.6 * in_doc) / (0.4 * background))

    assert found == {
        "d1": pytest.approx(factor(house, 0.8 * 2 / 3) + factor(old, 1 / 3)),
        "d3": pytest.approx(factor(old, 2 / 3)),
        "d2": pytest.approx(factor(house, 0.1 / 5)),
    }


def test_in_one_language_it_is_bm25(tmp_path: Path) -> None:
    docs = [
        text(f"d{i}", "en", f"the cats and {'houses ' * (i % 4)} of old towns {i % 5} {'dogs' * (i % 2)}")
        for i in range(30)
    ]
    queries = [text("q1", "en", "old house cat"), text("q2", "en", "dogs dogs 3")]
    psq = PSQ(table=table(tmp_path))
    mine = rank(psq, tmp_path / "psq", queries, docs, size=7)
    BM25().index(docs, tmp_path)
    lucenes = BM25().search(tmp_path, queries, 100)
    for query in ("q1", "q2"):  # documents of less than 40 terms: Lucene's lengths are exact; it rounds to 4 decimals
        assert scores(mine, query) == pytest.approx(scores(lucenes, query), abs=1.5e-4)


def test_a_pool_is_searched_by_each_language_in_its_own_translations(tmp_path: Path) -> None:
    (tmp_path / "en-de.tsv").write_text("gift\tgeschenk\t1.0\n")
    (tmp_path / "en-sv.tsv").write_text("gift\tgåva\t0.5\ngift\tpresent\t0.5\n")
    psq = PSQ(table=str(tmp_path / "{query_lang}-{doc_lang}.tsv"), **WORDS)
    docs = [
        text("de-poison", "de", "gift"), text("de-present", "de", "geschenk"), text("sv-married", "sv", "gift"),
        text("sv-present", "sv", "gåva"), text("en", "en", "gift"),
    ]  # fmt: skip
    run = rank(psq, tmp_path / "index", [text("q", "en", "gift")], docs)
    assert set(run["doc_id"]) == {"de-present", "sv-present", "en"}


# Pruning --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"cumulative": 1.0, "renormalise": False}, {"a": 0.5, "b": 0.2, "c": 0.2, "d": 0.05}),
        ({"cumulative": 1.0, "threshold": 0.2, "renormalise": False}, {"a": 0.5, "b": 0.2, "c": 0.2}),
        ({"cumulative": 0.7, "renormalise": False}, {"a": 0.5, "b": 0.2}),
        ({"cumulative": 0.71, "renormalise": False}, {"a": 0.5, "b": 0.2, "c": 0.2}),
        ({"cumulative": 0.5, "renormalise": True}, {"a": 1.0}),
        ({"cumulative": 1.0, "max_terms": 3, "renormalise": True}, {"a": 5 / 9, "b": 2 / 9, "c": 2 / 9}),
        ({"threshold": 0.3, "cumulative": 0.97, "max_terms": 2, "renormalise": True}, {"a": 1.0}),
        ({"threshold": 0.9, "cumulative": 1.0, "renormalise": True}, {}),
    ],
)
def test_rows_are_pruned_in_the_order_that_is_stated(
    tmp_path: Path, options: dict[str, Any], kept: dict[str, float]
) -> None:
    rows = {"x": {"d": 0.05, "c": 0.2, "b": 0.2, "a": 0.5}, "y": {"z": 1.0}}
    translation_table.write(tmp_path, rows)
    said = {"threshold": 0.0, "max_terms": None, **options}
    pruning = translation_table.Pruning(said["threshold"], said["cumulative"], said["max_terms"], said["renormalise"])
    found = translation_table.select(tmp_path, pruning, ["x", "unknown"], "query")
    assert found == ({"x": pytest.approx(kept)} if kept else {})
    assert translation_table.select(tmp_path, pruning, ["a"], "doc") == (
        {"a": {"x": pytest.approx(kept["a"])}} if "a" in kept else {}
    )


def test_pruning_changes_the_search_and_needs_no_new_index(tmp_path: Path) -> None:
    query = [text("q", "en", "house")]
    rank(PSQ(table=table(tmp_path), **WORDS), tmp_path / "index", query)
    few = search(PSQ(table=table(tmp_path), max_terms=1, **WORDS), tmp_path / "index", query, ["de"])
    assert list(few["doc_id"]) == ["d1"]


@pytest.mark.parametrize(("untranslated", "found"), [("keep", ["d3"]), ("drop", [])])
def test_a_term_without_translations_is_kept_or_dropped(tmp_path: Path, untranslated: Any, found: list[str]) -> None:
    psq = PSQ(table=table(tmp_path), untranslated=untranslated, **WORDS)
    docs = [text("d1", "de", "haus"), text("d2", "de", "baum"), text("d3", "de", "bundestag")]
    run = rank(psq, tmp_path / "index", [text("q", "en", "Bundestag")], docs)
    assert list(run["doc_id"]) == found


def test_a_kept_word_is_analysed_as_the_documents_are(tmp_path: Path) -> None:
    lucene.start()
    english, spanish = lucene.analyse("en"), lucene.analyse("es")
    assert english(["Victoria"]) != spanish(["Victoria"])
    docs = [text("d1", "es", "La reina Victoria"), text("d2", "es", "Otra reina")]
    run = rank(PSQ(table=table(tmp_path)), tmp_path / "index", [text("q", "en", "Victoria")], docs)
    assert list(run["doc_id"]) == ["d1"]


def test_how_many_query_terms_have_translations_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    psq = PSQ(table=table(tmp_path), **WORDS)
    rank(psq, tmp_path / "index", [text("q1", "en", "old house tree"), text("q2", "en", "tree")])
    said = capsys.readouterr().err
    assert "psq en-de: 4 translations of 2 terms into 4, from table.json" in said
    assert "psq en-de: 2 of 4 query terms have translations (50.0 %); 1 query has none: q2" in said


# Tables ---------------------------------------------------------------------------------------------------------------


def test_json_and_tsv_and_gzipped_tables_are_the_same_table(tmp_path: Path) -> None:
    tsv = "".join(f"{s}\t{t}\t{p}\n" for s, row in TABLE.items() for t, p in row.items())
    (tmp_path / "t.tsv").write_text(tsv)
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(tsv.encode()))
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(json.dumps(TABLE).encode()))
    for name in (table(tmp_path), "t.tsv", "t.tsv.gz", "t.json.gz"):
        assert translation_table.read(tmp_path / name) == TABLE


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.tsv",
            "a\tb\t0.5\na b 0.5\n",
            r"t\.tsv:2: expected source, target and probability between tabs, got 'a b 0\.5'",
        ),
        ("t.tsv", "a\tb\thalf\n", r"t\.tsv:1: expected a probability from 0 to 1 for 'a' -> 'b', got 'half'"),
        ("t.tsv", "a\tb\t1.5\n", r"t\.tsv:1: expected a probability from 0 to 1 .* got '1\.5'"),
        ("t.tsv", "a\tb\tnan\n", r"t\.tsv:1: expected a probability from 0 to 1 .* got 'nan'"),
        (
            "t.tsv",
            "a\tb\t0.5\nc\td\t1\na\tb\t0.1\n",
            r"t\.tsv:3: 'a' -> 'b' comes a second time \(first at .*t\.tsv:1\)",
        ),
        ("t.tsv", "x\ty\t1\na\tb\t0.9\na\tc\t0.3\n", r"t\.tsv:2: the probabilities of 'a' sum to 1\.2, more than 1"),
        ("t.json", '{"a": {"b": -0.5}}', r"t\.json:1: expected a probability from 0 to 1 .* got -0\.5"),
        ("t.json", '{"x": {},\n "a": 0.5}', r"t\.json:2: expected \{target: probability\} for 'a', got '0\.5'"),
        ("t.json", '{"a": {"b": 0.5},\n "a": {}}', r"t\.json: 'a' comes twice in one object"),
        ("t.json", '{"a":\n {"b": 0.5}', r"t\.json:2: not JSON"),
        ("t.json", "[1]", r"t\.json: expected a JSON object .* got a list"),
    ],
)
def test_a_table_that_does_not_parse_is_refused_before_anything_runs(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        PSQ(table=str(tmp_path / name), **WORDS).check_languages(["en"], ["de"])


def test_rows_above_one_are_normalised_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\t0.9\na\tc\t0.9\nx\ty\t0.7\n")
    assert translation_table.read(path, "normalise") == {"a": {"b": 0.5, "c": 0.5}, "x": {"y": 0.7}}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            "# tokens=terms query_analyser=en doc_analyser=ngram4",
            r"t\.tsv:1: the table says doc_analyser=ngram4, the search has de",
        ),
        ("# tokens=words", r"the table says tokens=words, the search has terms"),
        ("# given=doc", r"the table says given=doc, the search has query"),
    ],
)
def test_a_table_of_other_tokens_is_refused(tmp_path: Path, head: str, message: str) -> None:
    (tmp_path / "t.tsv").write_text(f"{head}\nhous\thaus\t1\n")
    with pytest.raises(DataError, match=message):
        PSQ(table=str(tmp_path / "t.tsv"), table_tokens="terms").check_languages(["en"], ["de"])


def test_a_json_table_says_its_tokens_under_a_key_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"#": "tokens=terms query_analyser=en doc_analyser=de", **TABLE}))
    assert translation_table.read(path) == TABLE
    PSQ(table=str(path), table_tokens="terms").check_languages(["en"], ["de"])
    with pytest.raises(DataError, match="the table says tokens=terms, the search has words"):
        PSQ(table=str(path)).check_languages(["en"], ["de"])


def test_a_table_of_the_index_s_terms_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("# tokens=terms query_analyser=en doc_analyser=de\nhous\thaus\t1\n")
    psq = PSQ(table=str(tmp_path / "t.tsv"), table_tokens="terms")
    psq.check_languages(["en"], ["de"])
    run = rank(psq, tmp_path / "index", [text("q", "en", "Houses")], [text("d", "de", "Das Haus")])
    assert list(run["doc_id"]) == ["d"]


def test_words_of_a_table_become_terms_and_no_probability_is_made_up() -> None:
    lucene.start()
    rows = {
        "house": {"Häuser": 0.3, "Haus": 0.5, "der": 0.1, "Elfen Bein": 0.1},  # der: a stop word
        "houses": {"Haus": 1.0},
        "the": {"der": 1.0},
    }
    made, counts = translation_table.analysed(rows, lucene.analyse("en"), lucene.analyse("de"))
    assert made == {"hous": pytest.approx({"haus": (0.8 + 1.0) / 2, "elf": 0.025, "bein": 0.025})}
    assert counts == {"sources_without_terms": 1, "targets_without_terms": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("query", {"bank": {"ufer": 0.25, "bank": 0.75}, "shore": {"ufer": 1.0}}),
        ("doc", {"ufer": {"bank": 1 / 3, "shore": 2 / 3}, "bank": {"bank": 1.0}}),
    ],
)
def test_a_weighted_dictionary_gives_shares_of_the_side_that_is_given(
    tmp_path: Path, given: Any, expected: dict[str, dict[str, float]]
) -> None:
    (tmp_path / "d.tsv").write_text("bank\tufer\t1\nbank\tbank\t3\nshore\tufer\t2\n")
    found = translation_table.read_dictionary(tmp_path / "d.tsv", given)
    assert found == {source: pytest.approx(row) for source, row in expected.items()}


def test_a_plain_dictionary_gives_equal_probabilities_and_multiword_entries_their_parts(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text("bank\tufer\nbank\tgeld institut\nbank\tufer\n")
    psq = PSQ(dictionary=str(tmp_path / "d.tsv"), cumulative=1.0, **WORDS)
    made = tmp_path / "made"
    assert psq.derive(tmp_path, made, ["en"], ["de"])["entries"] == 3
    pruning = translation_table.Pruning(0.0, 1.0, None, False)
    assert translation_table.select(made / "en-de", pruning, ["bank"], "query") == {
        "bank": {"ufer": 0.5, "geld": 0.25, "institut": 0.25}
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n", r"d\.tsv:1: expected two entries, or two and a weight between tabs"),
        ("a\tb\na\tc\t3\n", r"d\.tsv:2: expected two entries between tabs"),
        ("a\tb\t0\n", r"d\.tsv:1: expected a weight above 0, got '0'"),
        ("a\tb\tinf\n", r"d\.tsv:1: expected a weight above 0, got 'inf'"),
    ],
)
def test_a_dictionary_that_does_not_parse_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "d.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        PSQ(dictionary=str(tmp_path / "d.tsv"), **WORDS).check_languages(["en"], ["de"])


# Parallel texts -------------------------------------------------------------------------------------------------------

PAIRS = [("the house", "das haus"), ("the book", "das buch"), ("a book", "ein buch"), ("the the", "das")]


def whitespace(texts: Sequence[str]) -> list[list[str]]:
    return [each.split() for each in texts]


def model1(pairs: list[tuple[str, str]], rounds: int) -> dict[str, dict[str, float]]:
    """IBM Model 1 as Brown et al. (1993) define it, with dictionaries."""
    sentences = [([*left.split(), ""], right.split()) for left, right in pairs]
    seen: dict[str, set[str]] = defaultdict(set)
    for left, right in sentences:
        for word in left:
            seen[word].update(right)
    table = {e: dict.fromkeys(fs, 1 / len(fs)) for e, fs in seen.items()}
    for _ in range(rounds):
        counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for left, right in sentences:
            for f in right:
                total = sum(table[e][f] for e in left)
                for e in left:
                    counts[e][f] += table[e][f] / total
        table = {e: {f: c / sum(row.values()) for f, c in row.items()} for e, row in counts.items()}
    return {e: {f: p for f, p in row.items() if p >= 1e-4} for e, row in table.items() if e}


@pytest.mark.parametrize("cells", [1, 1 << 22])
def test_model_1_is_its_definition_however_many_pairs_are_seen_at_once(
    monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    monkeypatch.setattr(translation_table, "CELLS", cells)
    found, counts = translation_table.aligned([*PAIRS, ("", "leer")], whitespace, whitespace, "model1")
    expected = model1(PAIRS, translation_table.ITERATIONS)
    assert found == {e: pytest.approx(row) for e, row in expected.items()}
    assert max(found["book"], key=found["book"].__getitem__) == "buch"
    assert counts == {"pairs": 5, "pairs_without_terms": 1, "pairs_too_long": 0}


@pytest.mark.skipif(importlib.util.find_spec("eflomal") is None, reason="needs eflomal")
def test_eflomal_gives_shares_of_links() -> None:
    found, _ = translation_table.aligned(PAIRS * 40, whitespace, whitespace, "eflomal")
    assert max(found["book"], key=found["book"].__getitem__) == "buch"
    assert all(sum(row.values()) == pytest.approx(1.0, abs=0.01) for row in found.values())


def test_a_parallel_text_is_one_file_of_two_columns_or_two_files_line_by_line(tmp_path: Path) -> None:
    one, left, right = tmp_path / "both.tsv", tmp_path / "a.en", tmp_path / "a.de"
    one.write_text("".join(f"{e}\t{d}\n" for e, d in PAIRS))
    left.write_text("\n".join([PAIRS[0][0], "", PAIRS[1][0], "no translation", PAIRS[2][0], PAIRS[3][0]]) + "\n")
    right.write_text("\n".join([PAIRS[0][1], "leer", PAIRS[1][1], "", PAIRS[2][1], PAIRS[3][1]]) + "\n")
    assert list(translation_table.read_parallel([one])) == PAIRS
    assert list(translation_table.read_parallel([left, right])) == PAIRS
    right.write_text("das haus\n")
    with pytest.raises(DataError, match=r"a\.en has 6 lines and .*a\.de has 1"):
        list(translation_table.read_parallel([left, right]))


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of table, dictionary and parallel must be given, got none"),
        ({"table": "a", "dictionary": "b"}, "got table and dictionary"),
        ({"table": "a", "scorer": "hmm"}, r"scorer=hmm needs p\(query term \| document term\)"),
        ({"table": "a", "analyser": "hf"}, "analyser must be language"),
        ({"table": "a", "cumulative": 0.0}, "cumulative above 0"),
        ({"parallel": ("a", "b", "c")}, "one file or two, got 3"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PSQ(**options)


def test_the_versions_of_what_makes_terms_are_named() -> None:
    assert PSQ(table="t").engines == PSQ(table="t").search_engines == ("anserini",)
    aligned = PSQ(parallel=("p",), analyser="jieba", aligner="eflomal")
    assert aligned.engines == ("jieba",), "what analyses queries and aligns does not touch the index"
    assert aligned.search_engines == ("anserini", "eflomal")


def test_a_table_counts_by_its_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("a.tsv", "b.tsv", "c.tsv")]
    for path, p in zip(names, ("1.0", "1.0", "0.5"), strict=True):
        path.write_text(f"house\tHaus\t{p}\n")
    prints = Fingerprints(tmp_path / "prints")
    a, b, c = (identity(PSQ(table=str(path)), prints, "derive") for path in names)
    assert a == b != c
    assert "table" not in identity(PSQ(table=str(names[0])), prints, "index")


def test_a_pair_without_a_table_is_refused_and_the_same_language_needs_none(tmp_path: Path) -> None:
    psq = PSQ(table=str(tmp_path / "{query_lang}-{doc_lang}.tsv"))
    psq.check_languages(["en"], ["en"])
    assert psq.files(["en"], ["en", "de"]) == [tmp_path / "en-de.tsv"]
    with pytest.raises(LanguageError, match=r"there is no .*en-de\.tsv, so en-de cannot be searched"):
        psq.check_languages(["en"], ["en", "de"])


def test_an_index_of_another_analyser_is_refused(tmp_path: Path) -> None:
    query = [text("q", "en", "house")]
    rank(PSQ(table=table(tmp_path), **WORDS), tmp_path / "index", query)
    with pytest.raises(DataError, match=r"made with retriever\.analyser=whitespace, the search asks for language"):
        search(PSQ(table=table(tmp_path)), tmp_path / "index", query, ["de"])


# Real data ------------------------------------------------------------------------------------------------------------


@needs_shared(PATAPSCO)
def test_patapsco_s_table_finds_russian_news_for_english_topics(tmp_path: Path) -> None:
    docs = [json.loads(line) for line in (PATAPSCO / "rus_mini_docs.jsonl").read_text().splitlines()]
    topics = [json.loads(line) for line in (PATAPSCO / "eng_mini_topics.jsonl").read_text().splitlines()]
    queries = [text(t["topic_id"], "en", t["topics"][0]["topic_title"]) for t in topics]
    psq = PSQ(table=str(PATAPSCO / "rus_psq_table.json"))
    psq.check_languages(["en"], ["ru"])
    run = rank(psq, tmp_path, queries, [text(d["id"], "ru", f"{d['title']}\n{d['text']}") for d in docs], size=7)
    judged = [row.split() for row in (PATAPSCO / "eng_mini_qrels").read_text().splitlines()]
    relevant = {(query, doc) for query, _, doc, grade in judged if grade == "3"}
    assert {(query, next(iter(scores(run, query)))) for query in ("001", "002")} <= relevant


def sides(iso3: str) -> tuple[str, str]:
    return str(TATOEBA / f"tatoeba.{iso3}-eng.eng"), str(TATOEBA / f"tatoeba.{iso3}-eng.{iso3}")


@needs_shared(TATOEBA)
@needs_shared(XQUAD)
@pytest.mark.parametrize(
    ("lang", "iso3", "options"), [("es", "spa", {}), ("de", "deu", {"given": "doc", "scorer": "hmm"})]
)
def test_a_table_of_1000_sentence_pairs_beats_untranslated_bm25(
    tmp_path: Path, lang: str, iso3: str, options: dict[str, Any]
) -> None:
    rows = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text().splitlines()]
    docs = [text(row["docid"], lang, row["text"]) for row in rows]
    topics = [line.split("\t") for line in (XQUAD / "topics.en.tsv").read_text().splitlines()[:300]]
    queries = [text(name, "en", words) for name, words in topics]
    relevant = {r[0]: r[2] for r in map(str.split, (XQUAD / f"qrels.{lang}.txt").read_text().splitlines())}

    def rr10(run: Run) -> float:
        top = run[(run["rank"] <= 10) & (run["doc_id"] == run["query_id"].map(relevant))]
        return float((1 / top["rank"]).sum()) / len(queries)

    BM25().index(docs, tmp_path)
    psq = PSQ(parallel=sides(iso3), **options)
    assert rr10(rank(psq, tmp_path / "psq", queries, docs, size=100)) > rr10(BM25().search(tmp_path, queries, 10)) + 0.1


@needs_shared(TATOEBA)
@needs_shared(XQUAD)
def test_a_table_is_made_once_and_pruning_is_only_searched_anew(clir: Clir) -> None:
    command = [
        *xquad("en", "es", "dataset.limit_queries=5"),
        "retriever=psq",
        f"retriever.parallel=[{','.join(sides('spa'))}]",
    ]
    assert "translations of" in clir("run", *command).stderr
    again = clir("run", *command, "retriever.max_terms=2", "retriever.untranslated=drop").stderr
    assert "query terms have translations" in again
    assert "translations of" not in again
    for step in ("derive", "index"):
        assert len(list((clir.runs / "steps" / step).iterdir())) == 1
