"""LASER2 and LASER3 read texts as Meta's package does, and give the vectors of their formulas, whoever stands beside a text."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_laser as small
import torch
from conftest import Clir
from small_laser import TEXTS, WIDTH

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.models.laser import ADDRESS, LASER3, readable
from clir_cli.plan import planned
from clir_cli.retrievers.laser import Laser
from clir_cli.store import Store
from clir_cli.text.languages import LANGUAGES
from clir_cli.text.passages import tokens_of
from clir_cli.types import Text
from clir_cli.verbs import language_list

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = "the dog barks at the moon " * 12
MANY = [*TEXTS, LONG, "", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LASER2, and LASER3 for Hausa with LASER2's vocabulary and for Amharic with one of its own."""
    made = small.laser2(tmp_path_factory.mktemp("laser"), layers=5)
    small.laser3(made, "hau_Latn")
    small.vocabulary(made, "laser3-amh_Ethi.v1", size=110)
    return small.laser3(made, "amh_Ethi", seed=2)


def encoder(folder: Path, release: Any = "laser2", **fields: Any) -> Laser:
    return Laser(folder=str(folder), release=release, device="cpu", **{"normalize": False, **fields})


def texts(*found: str, lang: str = "en") -> list[Text]:
    return [Text(f"d{i}", ((lang, text),)) for i, text in enumerate(found)]


def encode(laser: Laser, found: list[str], lang: str = "en", task: Any = "document") -> np.ndarray:
    return np.asarray(laser.encode(texts(*found, lang=lang), task)[0])


# How a text is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Hello!!! How are YOU??? I'm fine.", "hello!!! how are you??? i'm fine."),
        ("one\ttwo\r\nthree\u200dfour\u00adfive\x1f6", "one two three four five 6"),  # also joiners that have no width
        ("“What?”, he said – ‘no’ … it’s", '"what?," he said - "no" ... it\'s'),
        ("« Oui »", '" oui "'),
        ("«\xa0Oui\xa0» et «\xa0non\xa0»", '"oui" et "non"'),
        ("ab(c )d( e) .", "ab (c) d (e)."),
        ("50\xa0% von 1\xa0000, nº\xa05 : 20\xa0ºC", "50% von 1.000, nº 5: 20 ºc"),
        ("—``a''", '- " a "'),
        ("١ %", "١%"),  # a digit in any script
        ("ÄÖÜ ЖЗ ΣΑΣ", "äöü жз σας"),
        ("  ", ""),
    ],
)
def test_a_text_is_cleaned_lower_cased_and_gets_moses_english_punctuation(text: str, read: str) -> None:
    assert readable(text) == read


def test_a_piece_is_a_number_of_the_vocabulary_and_a_text_ends_with_its_closing_symbol(folder: Path) -> None:
    laser = encoder(folder).reader("en")
    numbers = torch.load(folder / "laser2.pt", weights_only=True)["dictionary"]
    tokens = laser.tokens("The CAT ‘sits’", None)
    assert "".join(tokens[:-1]).replace("▁", " ") == ' the cat "sits"'
    assert tokens[-1] == "</s>"
    assert laser.ids(tokens) == [numbers.get(token, 3) for token in tokens]
    assert 3 in laser.ids(laser.tokens("ж 猫", None)), "what has no number is <unk>"
    assert laser.ids(laser.tokens("", None)) == [2]


# The networks ---------------------------------------------------------------------------------------------------------


def plain_lstm(folder: Path, found: list[str]) -> np.ndarray:
    """LASER2 by torch.nn.LSTM, a text at a time, so that nothing is padded: the largest of every unit's states."""
    state = torch.load(folder / "laser2.pt", weights_only=True)
    params, weights = state["params"], state["model"]
    lstm = torch.nn.LSTM(params["embed_dim"], params["hidden_size"], params["num_layers"], bidirectional=True)
    lstm.load_state_dict(
        {key.removeprefix("lstm."): value for key, value in weights.items() if key.startswith("lstm.")}
    )
    reader = encoder(folder).reader("en")
    rows = []
    for text in found:
        given = weights["embed_tokens.weight"][reader.ids(reader.tokens(text, None))]
        rows.append(lstm(given[:, None])[0][:, 0].max(dim=0).values.detach())
    return torch.stack(rows).numpy()


def test_laser2_is_the_maximum_over_time_of_five_bidirectional_layers(folder: Path) -> None:
    found = encode(encoder(folder), MANY)
    assert found.shape == (len(MANY), WIDTH)
    assert np.allclose(found, plain_lstm(folder, MANY), atol=1e-6)
    unit = encode(encoder(folder, normalize=True), MANY)
    assert np.allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-6)


def plain_transformer(folder: Path, lang: str, name: str, found: list[str]) -> np.ndarray:
    """LASER3 by its formula, a text at a time: matrices, a softmax, the largest of every unit or the state of <s>."""
    state = torch.load(folder / f"laser3-{name}.v1.pt", weights_only=False)  # made by this test
    said = state["args"] if "args" in state else state["cfg"]["model"]
    w = {key.removeprefix("encoder."): value.double() for key, value in state["model"].items()}
    reader = encoder(folder, "laser3").reader(lang)

    def linear(x: Any, at: str) -> Any:
        return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]

    def norm(x: Any, at: str) -> Any:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * w[f"{at}.weight"] + w[f"{at}.bias"]

    def attention(x: Any, at: str) -> Any:
        heads, size = said.encoder_attention_heads, WIDTH // said.encoder_attention_heads
        q, k, v = (linear(x, f"{at}.{part}_proj").view(-1, heads, size).transpose(0, 1) for part in "qkv")
        return linear(
            ((q @ k.mT / math.sqrt(size)).softmax(-1) @ v).transpose(0, 1).reshape(-1, WIDTH), f"{at}.out_proj"
        )

    def activated(x: Any) -> Any:
        return x.clamp_min(0) if said.activation_fn == "relu" else x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def place(at: int) -> list[float]:
        half = WIDTH // 2
        angles = [at / 10000 ** (i / (half - 1)) for i in range(half)]
        return [*map(math.sin, angles), *map(math.cos, angles)]

    rows = []
    for text in found:
        ids = reader.ids(reader.tokens(text, None))
        x = w["embed_tokens.weight"][ids] * (1 if getattr(said, "no_scale_embedding", False) else math.sqrt(WIDTH))
        if said.encoder_learned_pos:
            x = x + w["embed_positions.weight"][2 : 2 + len(ids)]
        elif not getattr(said, "no_token_positional_embeddings", False):
            x = (
                x + torch.tensor([place(at) for at in range(2, 2 + len(ids))]).double()
            )  # the first is padding's number + 1
        if getattr(said, "layernorm_embedding", False):
            x = norm(x, "layernorm_embedding")
        for i in range(said.encoder_layers):
            at = f"layers.{i}"
            if said.encoder_normalize_before:
                x = x + attention(norm(x, f"{at}.self_attn_layer_norm"), f"{at}.self_attn")
                x = x + linear(activated(linear(norm(x, f"{at}.final_layer_norm"), f"{at}.fc1")), f"{at}.fc2")
            else:
                x = norm(x + attention(x, f"{at}.self_attn"), f"{at}.self_attn_layer_norm")
                x = norm(x + linear(activated(linear(x, f"{at}.fc1")), f"{at}.fc2"), f"{at}.final_layer_norm")
        if "layer_norm.weight" in w:
            x = norm(x, "layer_norm")
        rows.append(x[0] if said.sentemb_criterion == "cls" else x.max(dim=0).values)
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"encoder_normalize_before": False, "left_pad_source": False, "activation_fn": "gelu"},
        {"encoder_learned_pos": True, "max_source_positions": 300, "whole": True},
        {"sentemb_criterion": "cls", "prepend_bos": True},
        {"layernorm_embedding": True, "no_scale_embedding": True, "prepend_bos": True, "half": True},
        {"no_token_positional_embeddings": True, "encoder_attention_heads": 2, "old": True},
    ],
)
def test_laser3_is_the_encoder_that_its_training_describes(tmp_path: Path, said: dict[str, Any]) -> None:
    made = small.laser3(small.laser2(tmp_path), "hau_Latn", **said)
    laser = encoder(made, "laser3")
    assert np.allclose(encode(laser, MANY, "ha"), plain_transformer(made, "ha", "hau_Latn", MANY), atol=1e-5)
    assert laser.reader("ha").padding_side == ("left" if said.get("left_pad_source", True) else "right")


@pytest.mark.parametrize(("lang", "release"), [("en", "laser2"), ("ha", "laser3")])
def test_neither_padding_nor_the_batch_nor_the_order_changes_a_vector(folder: Path, lang: str, release: Any) -> None:
    whole = encode(encoder(folder, release, batch_tokens=1 << 20), MANY, lang)
    for fields in ({"batch_tokens": 1}, {"batch_tokens": 60}, {}):
        assert np.allclose(encode(encoder(folder, release, **fields), MANY, lang), whole, atol=2e-6)
    assert np.allclose(encode(encoder(folder, release), MANY[::-1], lang)[::-1], whole, atol=2e-6)
    assert np.allclose(encode(encoder(folder, release), [MANY[3]], lang), whole[3:4], atol=2e-6)


def test_a_text_longer_than_asked_is_cut_counted_and_keeps_its_closing_symbol(folder: Path, tmp_path: Path) -> None:
    vectors, report = encoder(folder, doc_tokens=6).encode(texts(LONG, "a"), "document")
    assert (report["texts"], report["cut"], report["cut_en"]) == (2, 1, 1)
    laser = encoder(folder).reader("en")
    assert laser.tokens(LONG, 6) == [*laser.tokens(LONG, None)[:5], "</s>"]
    whole, report = encoder(folder).encode(texts(LONG, "a"), "document")
    assert report["cut"] == 0 and report["tokens"] > 60
    assert np.allclose(vectors[1], whole[1], atol=1e-6) and not np.allclose(vectors[0], whole[0], atol=1e-2)
    learned = small.laser3(small.laser2(tmp_path), "hau_Latn", encoder_learned_pos=True, max_source_positions=30)
    assert encoder(learned, "laser3").encode(texts(LONG, lang="ha"), "document")[1]["cut"] == 1, (
        "no more places than that"
    )
    with pytest.raises(ConfigError, match="doc_tokens=31: the encoder has positions for 30 tokens"):
        encode(encoder(learned, "laser3", doc_tokens=31), TEXTS, "ha")
    with pytest.raises(ValueError, match="query_tokens must be at least 1"):
        encoder(folder, query_tokens=0)


# Who reads which language ---------------------------------------------------------------------------------------------


def test_a_text_is_read_by_the_encoder_of_its_language(folder: Path) -> None:
    mixed = [Text("a", (("ha", TEXTS[4]),)), Text("b", (("am", TEXTS[6]),)), Text("c", (("ha", TEXTS[3]),))]
    found = encoder(folder, "laser3").encode(mixed, "document")[0]
    assert np.allclose(found[[0, 2]], encode(encoder(folder, "laser3"), [TEXTS[4], TEXTS[3]], "ha"), atol=1e-6)
    assert np.allclose(found[1], encode(encoder(folder, "laser3"), [TEXTS[6]], "am")[0], atol=1e-6)
    assert np.abs(found - encoder(folder).encode(mixed, "document")[0]).max() > 0.1
    assert [p.name for p in encoder(folder, "laser3").index_files(["ha", "am"])] == [
        "laser3-hau_Latn.v1.pt", "laser2.spm", "laser2.cvocab",
        "laser3-amh_Ethi.v1.pt", "laser3-amh_Ethi.v1.spm", "laser3-amh_Ethi.v1.cvocab",
    ]  # fmt: skip


def test_a_language_without_an_encoder_is_refused_or_read_by_laser2_where_that_is_said(folder: Path) -> None:
    with pytest.raises(
        LanguageError, match=r"no encoder for 'en'; retriever\.release=laser3_or_laser2 reads it by LASER2"
    ):
        encoder(folder, "laser3").check_languages(["en"], ["ha"])
    either = encoder(folder, "laser3_or_laser2")
    either.check_languages(["en"], ["ha"])
    assert np.array_equal(encode(either, TEXTS), encode(encoder(folder), TEXTS))
    assert np.array_equal(encode(either, TEXTS, "ha"), encode(encoder(folder, "laser3"), TEXTS, "ha"))
    assert [path.name for path in either.files(["en"], ["ha"])] == [
        "laser3-hau_Latn.v1.pt", "laser2.spm", "laser2.cvocab", "laser2.pt",
    ]  # fmt: skip


def test_a_text_in_two_languages_has_no_encoder_of_its_own(folder: Path) -> None:
    both = [Text("d1", (("ha", TEXTS[4]), ("en", TEXTS[1])))]
    assert encoder(folder).encode(both, "document")[1]["texts"] == 1
    with pytest.raises(LanguageError, match=r"d1 is shown in ha\+en, and LASER3 reads a text in one language"):
        encoder(folder, "laser3_or_laser2").encode(both, "document")


def preset(name: str, *more: str) -> Any:
    (cell,) = compose.cells([f"retriever={name}", *more])
    return config.built(cell.plain).retriever


def test_the_presets_name_what_their_encoders_were_trained_on(folder: Path) -> None:
    two, three = preset("laser"), preset("laser3")
    assert {"en", "de", "sw", "am", "zh", "no"} <= set(two.languages) and "yo" not in two.languages
    assert set(three.languages) == {*two.languages, *(code for code, row in LANGUAGES.items() if row.flores in LASER3)}
    assert set(three.languages) <= set(LANGUAGES)
    assert (len(LASER3), sum(LASER3.values())) == (147, 35)  # encoders, and those with a vocabulary of their own
    given = f"retriever.folder={folder}"
    with pytest.raises(
        LanguageError, match=r"LASER2 reads en, de, .* not 'yo'(.|\n)*retriever\.languages=null to use it"
    ):
        preset("laser", given).check_languages(["en"], ["yo"])
    preset("laser", given, "retriever.languages=null").check_languages(["en"], ["yo"])
    preset("laser3", given).check_languages(["de"], ["ha"])
    assert language_list.rows(["yo"])[0]["only"] == ["retriever=laser3"]
    assert {"retriever=laser", "retriever=laser3"} <= set(language_list.rows(["ha"])[0]["only"])


def test_passages_are_cut_by_words_or_sentences_because_laser_changes_a_text_before_it_cuts_it(folder: Path) -> None:
    assert tokens_of(encoder(folder)) is None


# Files that are missing, wrong or dangerous ---------------------------------------------------------------------------


def test_missing_files_are_named_with_where_they_come_from(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match=r"LASER's laser2\.pt, laser2\.spm are not in") as caught:
        encoder(tmp_path).check_languages(["en"], ["de"])
    assert f"curl -fL --create-dirs --output-dir {tmp_path} --remote-name-all {ADDRESS}/laser2.pt" in str(caught.value)
    with pytest.raises(MissingModel, match=r"laser3-som_Latn\.v1\.pt is not in .*retriever\.folder"):
        encoder(folder, "laser3").check_languages([], ["so"])
    with pytest.raises(
        MissingModel, match=r"laser3-pes_Arab\.v1\.pt, laser3-pes_Arab\.v1\.spm, laser3-pes_Arab\.v1\.cvoc"
    ):
        encoder(folder, "laser3_or_laser2").check_languages([], ["fa"])  # LASER2 does not step in for a missing file


class Dangerous:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-checkpoint",)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = small.laser2(tmp_path / "laser")
    state = torch.load(made / "laser2.pt", weights_only=True)
    torch.save({**state, "extra": Dangerous()}, made / "laser2.pt")
    with pytest.raises(
        MissingModel, match=r"laser2\.pt holds a \w+\.mkdir, and clir unpickles tensors, plain values and arg"
    ):
        encode(encoder(made), TEXTS)
    assert not Path("made-by-a-checkpoint").exists()


def test_a_file_that_is_another_models_or_broken_is_refused_by_name(tmp_path: Path) -> None:
    made = small.laser3(small.laser2(tmp_path), "hau_Latn")

    def refused(release: Any, lang: str, match: str) -> None:
        with pytest.raises(MissingModel, match=match):
            encode(encoder(made, release), TEXTS, lang)

    vocabulary = made / "laser2.cvocab"
    whole = vocabulary.read_text("utf-8")
    vocabulary.write_text(whole + "extra 1\n", "utf-8")
    refused(
        "laser3", "ha", r"hau_Latn\.v1\.pt is no LASER3 encoder with the symbols of laser2\.cvocab \(.*size mismatch"
    )
    vocabulary.write_text("the 12\nthe 9\n", "utf-8")
    refused("laser3", "ha", r"laser2\.cvocab:2: expected a new symbol and its count, got 'the 9'")
    vocabulary.write_text(whole, "utf-8")
    (made / "laser3-swh_Latn.v1.pt").write_bytes((made / "laser2.pt").read_bytes())
    refused("laser3", "sw", r"swh_Latn\.v1\.pt is no LASER3 encoder(.|\n)*another model's file under this name")
    small.laser3(made, "som_Latn", sentemb_criterion="cls")
    refused("laser3", "so", "prepend_bos=False puts none before a text")
    small.laser3(made, "ibo_Latn", activation_fn="swish")
    refused("laser3", "ig", "activation should be relu/gelu, not swish")
    (made / "laser2.pt").write_bytes((made / "laser3-hau_Latn.v1.pt").read_bytes())
    refused("laser2", "en", r"laser2\.pt is no LASER2 encoder \(KeyError: 'dictionary'\)")
    (made / "laser2.pt").write_bytes(b"PK and no more")
    refused(
        "laser2",
        "en",
        rf"laser2\.pt is no checkpoint of torch \(UnpicklingError\); download it again: {ADDRESS}/laser2\.pt",
    )
    torch.save([1, 2], made / "laser2.pt")
    refused("laser2", "en", "holds a list, no checkpoint of LASER")
    small.laser2(made, seed=4)
    (made / "laser2.spm").write_bytes(b"no model")
    refused("laser2", "en", r"laser2\.spm is no SentencePiece model")


# In an experiment -----------------------------------------------------------------------------------------------------


def parallel(folder: Path) -> list[str]:
    """Bitext of which every second Hausa line is the English one."""
    lines = {"en": TEXTS, "ha": [text if i % 2 else text[::-1] for i, text in enumerate(TEXTS)]}
    for lang, found in lines.items():
        (folder / f"lines.{lang}").write_text("".join(f"{text}\n" for text in found), encoding="utf-8")
    return ["dataset=bitext", "dataset.texts=lines.{lang}", "dataset.pair=en-ha", "retriever.margin=ratio"]


def test_bitext_is_mined_by_margin(clir: Clir) -> None:
    data, laser = parallel(clir.folder), small.laser2(clir.folder / "laser")
    small.laser3(laser, "hau_Latn")
    folder = clir.experiment(*data, "retriever=laser", "retriever.folder=laser")
    with (folder / "metrics.csv").open() as rows:
        found = {row["measure"]: float(row["value"]) for row in csv.DictReader(rows) if row["stage"] == "final"}
    assert found["Success@1"] >= 0.5, "a line that is the same on both sides has the same vector"


def keys(root: Path, *overrides: str) -> dict[str, str | None]:
    """What identifies the index and the ranking of a plan."""
    (cell,) = compose.cells(overrides)
    store = Store(root)
    experiment = planned([cell], store).cells[0].experiment
    assert experiment is not None
    return {step.stage: store.key(step) for step in experiment.steps if step.stage in {"index", "retrieve"}}


def test_the_bytes_of_the_files_of_the_languages_at_hand_identify_an_index_and_their_place_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, laser = parallel(tmp_path), small.laser2(tmp_path / "laser")
    small.laser3(laser, "hau_Latn")

    def of(*more: str, folder: str = "laser") -> dict[str, str | None]:
        return keys(tmp_path / "runs", *data, "retriever=laser3", f"retriever.folder={folder}", *more)

    first = of()
    assert of("retriever.batch_tokens=7", "retriever.device=cpu") == first
    small.laser3(laser, "swh_Latn")
    assert of() == first, "nobody reads Swahili here"
    laser.rename(tmp_path / "elsewhere")
    assert of(folder="elsewhere") == first
    (tmp_path / "elsewhere").rename(laser)
    state = torch.load(laser / "laser2.pt", weights_only=True)
    torch.save({**state, "more": 1}, laser / "laser2.pt")  # it reads the queries
    second = of()
    assert second["index"] == first["index"] and second["retrieve"] != first["retrieve"]
    small.laser3(laser, "hau_Latn", seed=9)
    assert of()["index"] != first["index"]
    other = keys(tmp_path / "runs", *data, "retriever=laser", "retriever.folder=laser")
    assert other["index"] not in {first["index"], of()["index"]}


def test_files_of_an_encoder_inside_another_count_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = parallel(tmp_path)
    one, two = small.laser2(tmp_path / "one"), small.laser2(tmp_path / "two", seed=5)
    node = "{_target_: clir_cli.retrievers.laser.Laser, folder: '%s'}"
    asked = [*data, "retriever=ensemble", f"retriever.encoders={{a: {node % one}, b: {node % two}}}"]
    first = keys(tmp_path / "runs", *asked)
    small.laser2(two, seed=6)
    second = keys(tmp_path / "runs", *asked)
    assert second["index"] != first["index"] and second["retrieve"] != first["retrieve"]


def test_check_shows_who_reads_a_text_and_what_of_it(clir: Clir) -> None:
    data, laser = parallel(clir.folder), small.laser2(clir.folder / "laser")
    small.laser3(laser, "hau_Latn", sentemb_criterion="cls", prepend_bos=True)
    shown = clir("check", "--load", *data, "retriever=laser3", "retriever.folder=laser").stdout
    assert "retriever laser3[margin=ratio]: LASER3 or LASER2, on " in shown
    assert "    model     laser2.pt, read by laser2.spm\n" in shown
    assert "    model     laser3-hau_Latn.v1.pt, read by laser2.spm, laser2.cvocab\n" in shown
    assert "    text      'die katze sitzt auf der matte (und schläft).'\n" in shown
    assert "    pooled    the max over " in shown and "    pooled    '<s>', the first token\n" in shown
    assert "    padding   left, with '<pad>'\n" in shown and "    padding   right, with '<pad>'\n" in shown
    assert f"    vector    {WIDTH} numbers, similarity dot; length " in shown
    assert " </s>  (" in shown and " unknown)\n" in shown
    (laser / "laser3-hau_Latn.v1.pt").unlink()
    error = clir("check", "--load", *data, "retriever=laser3", "retriever.folder=laser", code=1).stderr
    assert "laser3-hau_Latn.v1.pt is not in" in error
    error = clir("plan", *data, "retriever=laser3", "retriever.folder=laser", code=1).stderr
    assert f"{ADDRESS}/laser3-hau_Latn.v1.pt" in error
