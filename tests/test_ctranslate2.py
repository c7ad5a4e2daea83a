"""CTranslate2 under Seq2Seq: the same words as CTranslate2 itself, and as transformers, from the same weights."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.translators.seq2seq import Seq2Seq

pytest.importorskip("ctranslate2", reason="pip install ctranslate2")

from test_seq2seq import CODES, MAKE, SPANISH, loaded

pytestmark = pytest.mark.filterwarnings(  # Marian's tokenizer asks for a normaliser that it never calls when encoding
    "ignore:Recommended. pip install sacremoses:UserWarning"
)


def say(folder: str, name: str, **settings: Any) -> None:
    file = Path(folder) / name
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def folder(codes: str) -> str:
        if codes not in made:
            made[codes] = MAKE[codes](tmp_path_factory.mktemp(codes))
            if codes == "mbart":  # what the published config says and transformers 5 no longer writes
                say(made[codes], "config.json", normalize_before=True, tokenizer_class="MBart50Tokenizer")
                say(made[codes], "tokenizer_config.json", bos_token="<s>")
            say(made[codes], "generation_config.json", forced_eos_token_id=None)  # CTranslate2 forces no end
        return made[codes]

    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted models go."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path / "clir-ctranslate2"


def translator(folder: str, codes: str, **more: Any) -> Seq2Seq:
    languages = {"source": "es", "target": "en"} if codes == "none" else {}
    settings = {"max_tokens": 64, "max_new_tokens": 12, "device": "cpu", "backend": "ctranslate2", **languages, **more}
    return Seq2Seq(folder, codes=codes, **settings)  # type: ignore[arg-type]


def directly(folder: str, codes: str, home: Path, **search: Any) -> list[str]:
    """As CTranslate2's documentation does it: tokens of the model's tokenizer, the language as the target's prefix."""
    import ctranslate2

    (converted,) = home.iterdir()
    engine, (tokenizer, _) = ctranslate2.Translator(str(converted), device="cpu"), loaded(folder)
    prefix = None
    if codes in CODES:
        tokenizer.src_lang, name = CODES[codes]
        prefix = [["__en__" if codes == "m2m100" else name]]
    said = []
    for text in SPANISH:
        source = tokenizer.convert_ids_to_tokens(tokenizer.encode(f"<2en> {text}" if codes == "madlad" else text))
        (result,) = engine.translate_batch([source], target_prefix=prefix, max_decoding_length=12, **search)
        words = result.hypotheses[0][1 if prefix else 0 :]
        said.append(tokenizer.decode(tokenizer.convert_tokens_to_ids(words), skip_special_tokens=True))
    return said


@pytest.mark.parametrize("codes", MAKE)
def test_greedy_in_single_precision_is_what_ctranslate2_says_alone_and_what_transformers_says(
    folders, home, codes: str
):
    ours = translator(folders(codes), codes)
    said = ours.translate(SPANISH, "es", "en")
    assert said == directly(folders(codes), codes, home, beam_size=1)
    again = replace(ours, backend="transformers").translate(SPANISH, "es", "en")
    # A random M2M100 also writes ids that stand for no word, and transformers shows those as <unk>.
    assert said == [text.replace("<unk>", "") for text in again]
    assert len(set(said)) > 1, "the small model reads its input"


@pytest.mark.parametrize("codes", ["nllb", "none"])
def test_beams_and_eight_bits_are_what_ctranslate2_says_alone(folders, home, codes: str):
    ours = translator(folders(codes), codes, dtype="int8", beams=3, patience=2.0)
    said = ours.translate(SPANISH, "es", "en")
    assert said == directly(folders(codes), codes, home, beam_size=3, patience=2)


def test_what_is_cut_and_what_does_not_end_is_counted_as_with_transformers(folders, home):
    ours = translator(folders("nllb"), "nllb", max_tokens=10)
    assert ours.answers(SPANISH, "es", "en") == replace(ours, backend="transformers").answers(SPANISH, "es", "en")
    assert {made.unfinished for made in ours.answers(SPANISH, "es", "en")} >= {True}


def test_a_model_is_converted_once_and_again_when_its_files_change(folders, home, capsys):
    ours = translator(folders("m2m100"), "m2m100", dtype="int8")
    for _ in range(2):
        ours.translate(["Hola."], "es", "en")
    assert capsys.readouterr().err.count("converting model for CTranslate2 (int8), once, into") == 1
    assert [path.name.rsplit("-", 1)[0] for path in home.iterdir()] == ["model-int8"]
    from clir_cli.translators import ctranslate2

    config = Path(folders("m2m100")) / "config.json"
    config.write_text(config.read_text() + "\n")
    assert ctranslate2.converted(config.parent, "int8").is_dir()
    assert len(list(home.iterdir())) == 2


def _convert(folder: str) -> str:
    from clir_cli.translators import ctranslate2

    return str(ctranslate2.converted(Path(folder), "float32"))


def test_two_jobs_that_need_a_model_make_it_once(folders, home, capfd):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        made = pool.map(_convert, [folders("nllb")] * 2)
    assert made[0] == made[1]
    assert [str(path) for path in home.iterdir()] == [made[0]], "no draft and no lock is left"
    assert capfd.readouterr().err.count("converting") == 1


def test_a_model_that_ctranslate2_does_not_take_says_what_does(home, tmp_path: Path):
    from transformers import BertConfig, BertModel

    from clir_cli.translators import ctranslate2

    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20, model_type="bert"
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(MissingModel, match=r"cannot be converted for CTranslate2(.|\n)*backend=transformers runs it"):
        ctranslate2.converted(tmp_path / "bert", "float32")
    assert not list(home.iterdir()), "a conversion that failed leaves nothing"


def test_a_type_that_the_device_does_not_compute_is_refused(folders, home):
    with pytest.raises(ConfigError, match=r"translator\.dtype=float16: CTranslate2 computes .*int8.* on this cpu"):
        translator(folders("nllb"), "nllb", dtype="float16").translate(["Hola."], "es", "en")
    with pytest.raises(ConfigError, match="CTranslate2 runs on cpu and cuda"):
        translator(folders("nllb"), "nllb", device="mps").translate(["Hola."], "es", "en")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"backend": "transformers", "dtype": "int8"}, "is for backend=ctranslate2"),
        ({"backend": "transformers", "patience": 2.0}, "is for backend=ctranslate2"),
        ({"pooled": True}, "needs backend=transformers"),
    ],
)
def test_what_only_the_other_backend_does_is_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        translator("owner/model", "nllb", **settings)


def test_the_engine_decides_the_result_and_the_cache_does_not(folders):
    ours = translator(folders("nllb"), "nllb", dtype="int8")
    assert ours.engines == ("transformers", "ctranslate2")
    assert replace(ours, backend="transformers", dtype="float32").engines == ("transformers",)
