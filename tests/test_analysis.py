"""What the analysers of Python make of real text, what they keep and what matches, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import SHARED, STATIC, XQUAD, needs_shared

from clir_cli.errors import ConfigError, DataError, LanguageError
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.bm25 import BM25
from clir_cli.steps import identity
from clir_cli.text import analysis, lucene
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import Run, Text

TATOEBA = SHARED / "data" / "tatoeba"
NEEDS = {"icu": "icu", "jieba": "jieba", "pythainlp": "pythainlp", "fugashi": "fugashi", "kiwipiepy": "kiwipiepy"}


def terms(kind: str, *texts: str, tokenizer: Path | None = None) -> list[list[str]]:
    module = "tokenizers" if kind == "hf" else NEEDS.get(kind)
    if module:
        pytest.importorskip(module)
    return analysis.analyser(kind, tokenizer=tokenizer)(texts)


def one(name: str, lang: str, words: str) -> Text:
    return Text(name, ((lang, words),))


def found(run: Run, query: str) -> list[str]:
    return list(run[run["query_id"] == query]["doc_id"])


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("icu", "我们在北京学习中文", ["我们", "在", "北京", "学习", "中文"]),
        ("icu", "ฉันรักภาษาไทย", ["ฉัน", "รัก", "ภาษา", "ไทย"]),
        ("icu", "ខ្ញុំស្រឡាញ់", ["ខ្ញុំ", "ស្រឡាញ់"]),
        ("icu", "ຂ້ອຍຮັກພາສາລາວ", ["ຂ້ອຍ", "ຮັກ", "ພາສາ", "ລາວ"]),
        ("icu", "東京に行きます", ["東京", "に", "行き", "ます"]),
        ("icu", "በውነት፣ ያስፈራል።", ["በውነት", "ያስፈራል"]),
        ("icu", "ＡＢＣ straße 3.5 don't", ["abc", "strasse", "3.5", "don't"]),
        ("icu", "𠀀𠀁 🐈 cat \ud83d", ["𠀀", "𠀁", "cat"]),
        ("jieba", "我们在北京大学学习ＡＢＣ。", ["我们", "在", "北京大学", "学习", "abc"]),
        ("pythainlp", "ฉันรักภาษาไทย !", ["ฉัน", "รัก", "ภาษาไทย"]),
        ("fugashi", "東京に行きました。", ["東京", "行く"]),
        ("kiwipiepy", "학교에서 공부했습니다.", ["학교", "공부"]),
    ],
)
def test_words_are_found_in_every_script(kind, text, words):
    assert terms(kind, text, "", " . ") == [words, [], []]


def test_yoruba_and_vietnamese_keep_tones_and_match_however_they_are_encoded():
    for word, bare in (("Ẹ̀kọ́", "Eko"), ("Tiếng Việt", "Tieng Viet"), ("Ọmọdé", "Omode")):
        composed, apart = (unicodedata.normalize(form, word) for form in ("NFC", "NFD"))
        first, second, upper, without = terms("icu", composed, apart, word.upper(), bare)
        assert first == second == upper != without  # without its tones it is another word


def test_persian_and_arabic_are_folded_by_lucene_and_only_normalised_by_icu():
    lucene.start()
    joined, apart = "می\u200cخواهم", "میخواهم"  # with and without the zero-width non-joiner
    assert terms("icu", joined) == terms("icu", apart) == [[apart]]
    alef, plain, tatweel = "أحمد", "احمد", "احـمد"
    assert terms("ar", alef) == terms("ar", plain) == terms("ar", tatweel)
    assert terms("icu", alef) != terms("icu", plain)
    assert terms("fa", "كتاب") == terms("fa", "کتاب")  # Arabic and Persian kaf
    assert terms("icu", "ﻛﺘﺎﺏ") == terms("icu", "كتاب")  # presentation forms, as PDFs have them


@needs_shared(TATOEBA)
@pytest.mark.parametrize(("kind", "file"), [("icu", "amh"), ("icu", "swh"), ("fugashi", "jpn"), ("kiwipiepy", "kor")])
def test_every_real_sentence_has_terms_and_each_is_one_word(kind, file):
    texts = (TATOEBA / f"tatoeba.{file}-eng.{file}").read_text().splitlines()[:300]
    analysed = terms(kind, *texts)
    assert sum(not words for words in analysed) <= 3
    assert all(word and not word.isspace() and lucene.TERM_END not in word for words in analysed for word in words)


@needs_shared(STATIC)
def test_the_pieces_of_a_tokenizer_are_terms(tmp_path):
    import tokenizers

    vocabulary = {"[UNK]": 0, "cat": 1, "##s": 2, "dog": 3}
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = tokenizers.normalizers.Lowercase(), tokenizers.pre_tokenizers.Whitespace()
    model.enable_truncation(2)  # of no concern to an index
    model.save(str(tmp_path / "tokenizer.json"))
    assert terms("hf", "Cats dog dogs", "", tokenizer=tmp_path) == [["cat", "##s", "dog", "dog", "##s"], []]


def test_lucenes_kinds_give_what_lucene_gives():
    lucene.start()
    texts = ["The cats' dogs", "", "a \ud83d 𠀀"]
    for kind in ("en", "whitespace", "ngram3"):
        analyser = lucene.analyser(kind)
        assert analysis.analyser(kind)(texts) == [lucene.terms(analyser, text) for text in texts]


# Ranking --------------------------------------------------------------------------------------------------------------


@needs_shared(XQUAD)
@pytest.mark.parametrize(
    ("lang", "kind", "least"),  # Lucene's bigrams: zh 0.957; character 4-grams: zh 0.772, th 0.960, vi 0.950
    [
        ("zh", "icu", 0.953),
        ("zh", "jieba", 0.952),
        ("th", "icu", 0.954),
        ("th", "pythainlp", 0.956),
        ("vi", "icu", 0.943),
    ],
)
def test_paragraphs_are_found_by_their_words(tmp_path, lang, kind, least):
    pytest.importorskip(NEEDS[kind])
    corpus = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text().splitlines()]
    asked = [line.split("\t") for line in (XQUAD / f"topics.{lang}.tsv").read_text().splitlines()]
    relevant = {r[0]: r[2] for r in map(str.split, (XQUAD / f"qrels.{lang}.txt").read_text().splitlines())}
    bm25 = BM25(analyser=kind)
    bm25.index((one(row["docid"], lang, row["text"]) for row in corpus), tmp_path)
    run = bm25.search(tmp_path, [one(query, lang, words) for query, words in asked], 10)
    top = run[run["doc_id"] == run["query_id"].map(relevant)]
    assert (1 / top["rank"]).sum() / len(relevant) == pytest.approx(least, abs=0.01)


def test_a_joint_pool_is_divided_by_one_analyser_of_python(tmp_path):
    pytest.importorskip("icu")
    docs = [one("th", "th", "ฉันรักภาษาไทย"), one("zh", "zh", "我们在北京大学学习"), one("yo", "yo", "Ọmọdé ń kọ́")]
    docs.append(Text("both", (("zh", "学习"), ("yo", "kọ́"))))
    bm25 = BM25(analyser="icu")
    bm25.index(docs, tmp_path)
    run = bm25.search(tmp_path, [one("a", "th", "ภาษา"), one("b", "zh", "学习"), one("c", "yo", "ỌMỌDÉ")], 10)
    assert [found(run, query) for query in "abc"] == [["th"], ["both", "zh"], ["yo"]]


def test_a_word_of_any_length_is_cut_alike_in_documents_and_queries(tmp_path):
    pytest.importorskip("icu")
    bm25 = BM25(analyser="icu")
    bm25.index([one("long", "en", "a" * 40_000), one("other", "en", "b")], tmp_path)
    assert found(bm25.search(tmp_path, [one("q", "en", "a" * 50_000)], 10), "q") == ["long"]


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_segmenter_reads_its_own_languages_only_and_says_what_reads_the_others():
    pytest.importorskip("jieba")
    BM25(analyser="jieba").check_languages(["de"], ["zh"])
    with pytest.raises(LanguageError, match=r"analyser=jieba reads zh \(Chinese\), not 'th' \(Thai\): .*analyser=icu"):
        BM25(analyser="jieba").check_languages([], ["zh", "th"])


def test_a_language_without_an_analyser_of_lucene_names_icu_among_the_choices():
    with pytest.raises(LanguageError, match=r"'yo' \(Yoruba\): choose retriever.analyser=whitespace .*=icu .*=ngram4"):
        BM25().check_languages([], ["yo"])


def test_what_is_not_installed_is_named_with_its_pip_command(monkeypatch):
    real = importlib.metadata.version

    def without(name: str) -> str:
        if name == "PyICU":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    for refuses in (lambda: BM25(analyser="icu").check_languages([], ["th"]), lambda: analysis.analyser("icu")):
        with pytest.raises(ConfigError, match=r"analyser=icu needs PyICU: pip install PyICU .*libicu-dev"):
            refuses()


def test_an_index_of_another_version_of_a_segmenter_is_refused(tmp_path):
    pytest.importorskip("icu")
    bm25 = BM25(analyser="icu")
    bm25.index([one("d", "en", "cat")], tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    assert set(facts["versions"]) == {"PyICU", "ICU"}
    (tmp_path / "index.json").write_text(json.dumps(facts | {"versions": facts["versions"] | {"ICU": "1.0"}}))
    with pytest.raises(DataError, match=r"index.json: the index was made with PyICU .*, ICU 1\.0, the search asks for"):
        bm25.search(tmp_path, [one("q", "en", "cat")], 10)


def test_a_tokenizer_belongs_to_hf_and_counts_by_its_files(tmp_path):
    for fields in ({"analyser": "hf"}, {"tokenizer": "a/b"}):
        with pytest.raises(ValueError, match=r"analyser=hf and tokenizer .* go together"):
            BM25(**fields)
    prints = Fingerprints(tmp_path / "prints")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    bm25 = BM25(analyser="hf", tokenizer=str(folder))
    before = identity(bm25, prints, "index")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    assert identity(bm25, prints, "index") != before
    with pytest.raises(ConfigError, match=r"has no tokenizer.json"):
        analysis.analyser("hf", tokenizer=tmp_path)


def test_identities_name_the_package_that_divides_and_old_ones_stay(tmp_path):
    pytest.importorskip("icu")
    prints = Fingerprints(tmp_path)
    assert [each.split()[0] for each in identity(BM25(analyser="icu"), prints, "index")["engines"]] == [
        "anserini",
        "PyICU",
    ]
    import icu

    assert identity(BM25(analyser="icu"), prints, "index")["engines"][1].endswith(f"ICU {icu.ICU_VERSION}")
    assert set(identity(BM25(), prints, "index")) == {"class", "engines", "analyser"}


def test_planning_with_any_analyser_imports_none():
    code = "import sys; from clir_cli.text import analysis; from clir_cli.verbs import language_list; rows = language_list.rows(); "
    code += (
        "print(len(rows), {'icu', 'jieba', 'pythainlp', 'fugashi', 'kiwipiepy', 'jnius', 'numpy'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{len(LANGUAGES)} set()\n"
