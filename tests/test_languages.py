"""Every name in the language table is one its owner uses, and sentences are found in every script."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clir_cli.errors import LanguageError
from clir_cli.retrievers.bm25 import BM25
from clir_cli.text.languages import LANGUAGES, join_sentences, language, sentence_rules, split_sentences
from clir_cli.verbs import language_list

XQUAD = Path(__file__).parents[2] / "shared" / "data" / "xquad-r"
COLLECTIONS = {
    "CLEF": "de en es fi fr it nl pt ru sv bg hu cs",
    "CIRAL and AfriCLIRMatrix": "ha so sw yo ig am zu xh rw om ti ln sn tw wo af ar",
    "NeuCLIR and HC4": "zh fa ru",
    "MIRACL and Mr. TyDi": "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh",
    "XQuAD-R": "ar de el en es hi ro ru th tr vi zh",
    "AfriQA": "bem fon ha ig rw sw tw wo yo zu",
    "AfriCLIRMatrix": "af am ary arz ha ig nso sn so sw ti tw wo yo zu",
    "MKQA": "ar da de en es fi fr he hu it ja km ko ms nl no pl pt ru sv th tr vi zh zh_Hant",
    "FIRE": "hi bn mr gu ta ml kn te pa or as ne sa si ur",
}


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(found.origin).parent


def codes_of_transformers(model: str) -> set[str]:
    """FAIRSEQ_LANGUAGE_CODES of a tokenizer, read from its source: importing it takes seconds."""
    source = package("transformers") / "models" / model / f"tokenization_{model}.py"
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FAIRSEQ_LANGUAGE_CODES":
            codes = ast.literal_eval(node.value)
            return set(codes["m2m100"] if isinstance(codes, dict) else codes)
    raise AssertionError(f"{source} has no FAIRSEQ_LANGUAGE_CODES")


def anserini_jar() -> zipfile.ZipFile:
    jars = sorted((package("pyserini") / "resources" / "jars").glob("anserini-*-fatjar.jar"))
    if not jars:
        pytest.skip("pyserini carries no Anserini jar")
    return zipfile.ZipFile(jars[-1])


# The table


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_language_of_the_collections_has_a_row(collection):
    assert set(COLLECTIONS[collection].split()) <= set(LANGUAGES)


@pytest.mark.parametrize("column", ["code", "name", "iso3"])
def test_no_two_languages_share_a_code_or_a_name(column):
    first = [row for row in LANGUAGES.values() if column != "iso3" or "_" not in row.code]  # hi_Latn is Hindi too
    assert [v for v, n in Counter(getattr(row, column) for row in first).items() if n > 1] == []


def test_a_second_script_stands_in_the_code_and_only_there():
    for code, row in LANGUAGES.items():
        own, _, script = code.partition("_")
        assert not script or (script == row.script != LANGUAGES[own].script and row.iso3 == LANGUAGES[own].iso3), code
    assert LANGUAGES["hi_Latn"].spellings == {"hi_Latn", "hin_Latn"} and "hin" in LANGUAGES["hi"].spellings


def test_codes_names_and_scripts_have_the_shape_of_their_standard():
    for code, row in LANGUAGES.items():
        assert row.code == code
        assert re.fullmatch("[a-z]{2,3}(_[A-Z][a-z]{3})?", row.code)
        assert re.fullmatch("[a-z]{3}", row.iso3)
        assert re.fullmatch("[A-Z][a-z]{3}", row.script)
        assert all(re.fullmatch("[a-z]{2,3}(_[A-Z]{2})?", mode) for mode in row.apertium)
        assert row.xmod is None or re.fullmatch("[a-z]{2}_[A-Z]{2}", row.xmod)


def test_a_flores_code_is_written_in_the_script_of_the_row():
    scripts = {code: row.flores.partition("_")[2] for code, row in LANGUAGES.items() if row.flores}
    assert {code for code, script in scripts.items() if script != LANGUAGES[code].script} == {"ko"}  # Hang, not Kore


@pytest.mark.parametrize(("column", "model"), [("nllb", "nllb"), ("mbart", "mbart50"), ("m2m100", "m2m_100")])
def test_translation_codes_are_those_of_the_tokenizer_and_none_is_forgotten(column, model):
    known = codes_of_transformers(model)
    ours = {getattr(row, column) for row in LANGUAGES.values()} - {None}
    assert ours <= known
    assert {row.code for row in LANGUAGES.values() if getattr(row, column) is None and row.code in known} == set()


def test_nllb_reads_every_language_it_was_trained_on_and_flores_has_204_and_belebele_five_more():
    assert codes_of_transformers("nllb") == {row.nllb for row in LANGUAGES.values()} - {None}
    flores = {row.flores for row in LANGUAGES.values()} - {None}
    romanised = {"ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn"}  # Belebele's own (^ in its README)
    assert romanised <= flores and len(flores - romanised) == 204
    assert {row.flores for row in LANGUAGES.values() if row.flores and not row.nllb} == romanised | {
        "arb_Latn",
        "min_Arab",
    }


def test_collections_that_list_their_languages_are_wholly_in_the_table():
    from clir_cli.verbs import datasets

    listed = {row["name"]: row["query_langs"] for row in datasets.rows()}
    assert {name: len(listed[name]) for name in ("belebele", "flores", "clirmatrix", "tatoeba")} == {
        "belebele": 122,
        "flores": 205,
        "clirmatrix": 138,
        "tatoeba": 113,
    }  # fmt: skip  flores: nb and no are one; clirmatrix: and English in simple words; tatoeba: 112 and English
    assert {code for codes in listed.values() for code in codes} <= set(LANGUAGES)


def test_mbart_translates_every_language_it_was_trained_on():
    assert codes_of_transformers("mbart50") == {row.mbart for row in LANGUAGES.values()} - {None}


def test_every_lucene_analyser_is_in_the_anserini_jar():
    with anserini_jar() as jar:
        classes = set(jar.namelist())
    ours = {row.lucene for row in LANGUAGES.values()} - {None}
    assert {name for name in ours if name.replace(".", "/") + ".class" not in classes} == set()


def test_languages_are_analysed_as_anserini_analyses_them():
    with anserini_jar() as jar:
        constants = jar.read("io/anserini/analysis/AnalyzerMap$1.class")
    pairs = re.findall(rb"\x01\x00\x02([a-z]{2}).{0,9}?\x01\x00.(org\.apache\.lucene\.[\w.]+)", constants, re.DOTALL)
    theirs = {code.decode(): analyser.decode() for code, analyser in pairs}
    assert len(theirs) >= 23
    assert {code: LANGUAGES[code].lucene for code in theirs} == theirs
    assert LANGUAGES["zh"].lucene == theirs["ko"]  # the map names CJKAnalyzer twice; a class file stores it once
    assert LANGUAGES["en"].lucene == "io.anserini.analysis.DefaultEnglishAnalyzer"  # what it takes for every other code


def test_serbo_croatian_has_one_apertium_code_and_three_targets():
    assert {code: LANGUAGES[code].apertium for code in ("hr", "bs", "sr")} == {
        "hr": ("hbs_HR", "hbs"),
        "bs": ("hbs_BS", "hbs"),
        "sr": ("hbs_SR", "hbs"),
    }


def test_languages_without_an_analyser_say_so():
    assert {LANGUAGES[code].lucene for code in ("ha", "so", "sw", "yo", "ig", "am", "zu", "vi", "ur", "ka")} == {None}


def test_a_language_without_an_analyser_is_refused_with_those_that_read_it():
    for code in (code for code, row in LANGUAGES.items() if row.lucene is None):
        with pytest.raises(LanguageError, match=f"no analyser for '{code}'.*retriever.analyser=icu.*=ngram4"):
            BM25().check_languages([], [code])
        BM25(analyser="ngram4").check_languages([], [code])


def test_only_scripts_without_word_spaces_are_marked():
    assert {code for code, row in LANGUAGES.items() if not row.spaces} == {
        "zh",
        "zh_Hant",
        "yue",
        "wuu",
        "ja",
        "th",
        "my",
        "shn",
        "km",
        "lo",
        "bo",
        "dz",
    }


# Asking for a language


def test_a_code_of_the_table_gives_its_row():
    german = language("de")
    assert (german.name, german.iso3, german.flores, german.mbart) == ("German", "deu", "deu_Latn", "de_DE")
    assert german.lucene == "org.apache.lucene.analysis.de.GermanAnalyzer"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("deu", "de (German)"),
        ("german", "de (German)"),
        ("DE", "de (German)"),
        ("deu_Latn", "de (German)"),
        ("de-AT", "de (German)"),
        ("ger", "de (German)"),
        ("iw", "he (Hebrew)"),
        ("in", "id (Indonesian)"),
        ("zh-cn", "zh (Chinese)"),
        ("zh-TW", "zh_Hant (Chinese (Traditional))"),
        ("hin_Latn", "hi_Latn (Hindi (Latin script))"),
        ("hi-Latn", "hi_Latn (Hindi (Latin script))"),
        ("aka", "ak (Akan)"),
        ("cmn", "zh (Chinese)"),
        ("farsi", "fa (Persian)"),
        ("swahilli", "sw (Swahili)"),
        ("hbs", "hr (Croatian) or bs (Bosnian) or sr (Serbian)"),
    ],
)
def test_another_spelling_is_refused_and_the_code_suggested(asked, meant):
    with pytest.raises(LanguageError) as error:
        language(asked)
    assert str(error.value).startswith(f"{asked!r} is not a language code of clir; did you mean {meant}")
    assert "`clir languages`" in str(error.value)


@pytest.mark.parametrize("asked", ["xx", "", "qqq"])
def test_a_code_unlike_any_language_gets_no_guess(asked):
    with pytest.raises(LanguageError, match="is not a language code of clir; `clir languages` lists all"):
        language(asked)


def test_listing_languages_loads_only_the_standard_library():
    code = "import sys; before = set(sys.modules); import clir_cli.text.languages; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert loaded <= sys.stdlib_module_names | {"clir_cli"}


# Sentences

TEXTS = {
    "en": ["The U.S. economy grew 3.14% in 2019.", 'Dr. J. Smith said: "Why?"', "(He left.)", "It was over..."],
    "en numbers": ["See Fig. 3 and No. 5 in Smith et al. 1998.", "Was it 5 p.m. on 3 May?", "Yes!"],
    "de": ["Am 3. Mai kam Hr. Müller, z.B. mit ca. 20 Mio. Euro.", "„Wirklich?“", "Im 18. Jahrhundert bzw. später."],
    "de quotes": ["»Komm!«", "Er sagte nichts.", "»Warum?«"],
    "fr": ["« Est-ce vrai ? »", "M. Dupont et Mme. Curie vécurent en 50 av. J.-C. à Paris.", "Fin."],
    "es": ["¿Qué dijo el Sr. García?", "¡Nada!", "Costó 3.500,50 euros en EE. UU. y ya."],
    "fi": ["Hän osti esim. Nokian 5. kerroksesta.", "Hinta oli 3,5 e.", "Niin."],
    "ru": ["В. И. Ленин жил на ул. Правды и т. д.", "Это 3,14 млн.", "Почему?", "«Не знаю!»"],
    "ru abbreviations": ["Книги, газеты и т.д. были там.", "Да."],
    "el": ["Ποιος είναι;", "Δεν ξέρω· ίσως αύριο.", "Τέλος."],
    "hi": ["भारत एक देश है।", "क्या यह 3.5 किमी है?", "“हाँ।”", "ठीक है॥"],
    "bn": ["আমি ভাত খাই।", "তুমি কে?", "সে ভালো আছে।"],
    "ur": ["یہ ایک کتاب ہے۔", "آپ کیسے ہیں؟", "ٹھیک۔"],
    "ar": ["قال د. محمد إن النسبة 3.5 بالمئة.", "هل هذا صحيح؟", "نعم!"],
    "am": ["ሰላም ነው።", "ስምህ ማን ነው፧", "ደህና ነኝ፡፡", "እሺ።"],
    "hy": ["Ինչպե՞ս ես։", "Լավ եմ։"],
    "ka": ["ეს წიგნია.", "კარგი."],
    "ko": ["안녕하세요.", "네.", "좋아요!"],
    "my": ["နေကောင်းလား။", "ကောင်းပါတယ်။"],
    "km": ["សួស្តី។", "អរគុណ។"],
    "bo": ["འདི་ནི་དཔེ་ཡིན།", "ཡག་པོ་འདུག༎"],
    "sat": ["ᱱᱚᱶᱟ ᱫᱚ ᱯᱩᱛᱷᱤ ᱠᱟᱱᱟ᱾", "ᱵᱮᱥ ᱜᱮᱭᱟ᱿"],
    "th": ["ภาษาไทยไม่มีจุด ประโยคสั้นอยู่ด้วยกัน"],
    "sw": ["Habari yako?", "Nzuri sana.", "Bei ni 3.50 tu."],
}
TEXTS_WITHOUT_SPACES = {
    "zh": ["他说：“你好！”", "圆周率是3.14。", "“真的？”", "是……的！"],
    "zh ascii": ["真的吗?", "是的.", "好"],
    "ja": ["彼は「はい。」", "と言った。", "円周率は３．１４です！", "本当？"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_sentences_are_found_in_text_with_spaces(text):
    assert split_sentences(" ".join(TEXTS[text])) == TEXTS[text]


@pytest.mark.parametrize("text", TEXTS_WITHOUT_SPACES)
def test_sentences_are_found_in_text_without_spaces(text):
    assert split_sentences("".join(TEXTS_WITHOUT_SPACES[text])) == TEXTS_WITHOUT_SPACES[text]


def test_a_doubled_tibetan_shad_belongs_to_the_sentence_that_it_ends():
    assert split_sentences("འདི་ནི་དཔེ་ཡིན། །ཡག་པོ་འདུག༎ ༎") == ["འདི་ནི་དཔེ་ཡིན། །", "ཡག་པོ་འདུག༎ ༎"]


def test_a_line_break_ends_a_sentence():
    assert split_sentences("A headline\n\n  The text\r\nends \u2028 here") == ["A headline", "The text", "ends", "here"]


def test_a_row_of_dots_is_not_a_row_of_sentences():
    assert split_sentences("Contents . . . . . . . . 12") == ["Contents . . . . . . . .", "12"]


def test_a_long_thai_line_is_cut_at_white_space_into_pieces_of_200_characters():
    phrases = ["ก" * 90, "ข" * 90, "ค" * 90, "NASA ในปี 1969", "ง" * 60]
    assert split_sentences(" ".join(phrases)) == [" ".join(phrases[:2]), " ".join(phrases[2:])]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two three", ["one two", "three"]),
        ("one,two,three", ["one,two,", "three"]),
        ("一二三四、五六七、八九十", ["一二三四、五六七、", "八九十"]),
        ("price 1,234,567", ["price", "1,234,567"]),
        ("abcdefghijklm", ["abcdefghij", "klm"]),
    ],
)
def test_a_piece_over_the_cap_is_cut_at_the_last_space_or_comma_before_it(text, pieces):
    assert split_sentences(text, max_chars=10) == pieces


def test_a_cap_below_one_character_is_refused():
    with pytest.raises(ValueError, match="max_chars must be at least 1, got 0"):
        split_sentences("text", max_chars=0)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_text_has_no_sentences(text):
    assert split_sentences(text) == []


marks = st.text(alphabet="aB1é ض字。！．।۔።፡՞;.,!?…\"'“”«»()、กข\n\u00a0\u2028\u037e", max_size=300)


@given(text=st.one_of(st.text(), marks), max_chars=st.integers(1, 60))
def test_no_character_but_white_space_is_lost_and_no_piece_exceeds_the_cap(text, max_chars):
    pieces = split_sentences(text, max_chars=max_chars)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece == piece.strip() and 0 < len(piece) <= max_chars for piece in pieces)


@pytest.mark.parametrize(
    ("lang", "joined"), [("en", "A. B."), ("th", "A. B."), ("zh", "A.B."), ("zh_Hant", "A.B."), ("ja", "A.B.")]
)
def test_sentences_are_joined_as_the_language_writes_them(lang, joined):
    assert join_sentences(["A.", "B."], lang) == joined


def test_sentences_of_an_unknown_language_are_not_joined():
    with pytest.raises(LanguageError):
        join_sentences(["A."], "deu")


@pytest.mark.parametrize("lang", ["ar", "de", "el", "en", "es", "hi", "ru", "tr", "vi", "zh"])
def test_paragraphs_of_xquad_have_about_as_many_sentences_as_its_authors_found(lang):
    paragraphs, sentences = XQUAD / f"corpus.{lang}.jsonl", XQUAD / "sentences" / f"corpus.{lang}.jsonl"
    if not (paragraphs.exists() and sentences.exists()):
        pytest.skip(f"no xquad-r in {XQUAD}")
    texts = [json.loads(line)["text"] for line in paragraphs.read_text("utf-8").splitlines()]
    expected = len(sentences.read_text("utf-8").splitlines())
    assert sum(len(split_sentences(text)) for text in texts) == pytest.approx(expected, rel=0.05)


# What is listed


def test_every_language_says_how_its_sentences_are_found():
    assert sentence_rules("th") == "phrases at white space"
    assert sentence_rules("hi") == "।॥ anywhere, .!? before white space"
    for code in LANGUAGES:
        rule = sentence_rules(code)
        marks = rule.partition(" ")[0] if "anywhere" in rule else ""
        assert all(len(split_sentences(f"ab{mark}cd")) == 2 for mark in marks), code


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_language_of_the_collections_has_an_analyser_that_works_here(collection):
    for row in language_list.rows(COLLECTIONS[collection].split()):
        assert {"icu", "ngram4", "language", "whitespace"} & set(row["analysers"]), row
        for kind in row["analysers"]:
            BM25(analyser=kind).check_languages([], [row["code"]])


def test_the_list_of_languages_is_a_table_json_or_all_about_one():
    table = language_list.show([], [], as_json=False).splitlines()
    assert len(table) == len(LANGUAGES) + 1 and table[0].split()[:3] == ["code", "name", "script"]
    (yoruba,) = json.loads(language_list.show(["yo"], [], as_json=True))
    assert "language" not in yoruba["analysers"] and yoruba["nllb"] == "yor_Latn" and yoruba["mbart"] is None
    assert "analyser=language is refused" in language_list.show(["yo"], [], as_json=False)
    (spanish,) = language_list.rows(["es"])
    assert "en" in spanish["apertium_to"] and "ru" not in spanish["apertium_to"]
    with pytest.raises(LanguageError, match=r"did you mean de \(German\)"):
        language_list.rows(["deu"])
