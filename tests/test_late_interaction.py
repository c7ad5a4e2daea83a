"""Late interaction gives the token vectors of the reference implementations and ranks by their MaxSim."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Clir

from clir_cli.errors import ConfigError, DataError, LanguageError, MissingModel
from clir_cli.models import multi_vector
from clir_cli.models.multi_vector import TokenVectors, maxsim
from clir_cli.rerankers.late_interaction import LateInteraction as LateReranker
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.late_interaction import LateInteraction
from clir_cli.types import Candidates, Journal, Text

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "Die Katze sitzt auf der Matte.",
    "The cat sits on the mat, and the dog barks at the moon all night long because nobody lets it in.",
    "Кошка сидит на коврике.",
    "Paka ameketi juu ya mkeka.",
    "猫が座っている",
    "A short one",
    "Mvua kubwa ilinyesha jana usiku katika mji wa Nairobi na barabara nyingi zilijaa maji",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip


def texts(*said: str, lang: str = "en") -> list[Text]:
    return [Text(f"t{i}", ((lang, text),)) for i, text in enumerate(said or TEXTS)]


def save_tokenizer(folder: Path, *markers: str) -> Any:
    """XLM-R's kind of tokenizer (Unigram over meta-spaces), trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.decoder = decoders.Metaspace()
    trained.train_from_iterator(
        TEXTS * 4,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
    )
    known = json.loads(trained.to_str())
    known["model"]["vocab"] += [[f"▁{mark}", -1.0] for mark in string.punctuation]  # a mark is one token, as in XLM-R
    trained = Tokenizer.from_str(json.dumps(known))
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>",
    )  # fmt: skip
    tokenizer.add_tokens(list(markers))  # as PLAID-X adds [unused0] and [unused1] to XLM-R
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_stanford(folder: Path, config: Any, tokenizer: Any, kind: Any, *, drop: str = "") -> Path:
    """A folder as Stanford's ColBERT and PLAID-X save them: encoder under its prefix, `linear.weight`, artifact.metadata."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    body = kind(config, add_pooling_layer=False)
    weights = {f"{body.base_model_prefix}.{name}": value for name, value in body.state_dict().items()}
    weights["linear.weight"] = torch.randn(16, config.hidden_size)
    save_file({k: v.contiguous() for k, v in weights.items() if not (drop and drop in k)}, folder / "model.safetensors")
    said = {**config.to_dict(), "architectures": ["HF_ColBERT"]}
    (folder / "config.json").write_text(json.dumps(said))
    metadata = {
        "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 12, "doc_maxlen": 20,
        "attend_to_mask_tokens": False, "mask_punctuation": True, "dim": 16,
    }  # fmt: skip
    (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def plaid_x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("plaidx")
    tokenizer = save_tokenizer(folder, "[unused0]", "[unused1]")
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, type_vocab_size=1, **SMALL
    )
    return save_stanford(folder, config, tokenizer, XLMRobertaModel)


@pytest.fixture(scope="module")
def colbert_xm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """X-MOD, and no marker in the vocabulary: Stanford's code then puts the unknown token."""
    from transformers import XmodConfig, XmodModel

    folder = tmp_path_factory.mktemp("colbertxm")
    tokenizer = save_tokenizer(folder)
    config = XmodConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, type_vocab_size=1,
        languages=["en_XX", "de_DE", "sw_KE"], default_language="en_XX", adapter_reduction_factor=1,
        ln_before_adapter=True, **SMALL,
    )  # fmt: skip
    return save_stanford(folder, config, tokenizer, XmodModel)


def stanford_vectors(
    folder: Path, said: list[str], marker: str, length: int, *, query: bool, adapter: str | None = None
) -> list[torch.Tensor]:
    """Stanford ColBERT's own way, text by text: '. ' before the text, whose token the marker then replaces."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    body = AutoModel.from_pretrained(folder).eval()
    linear = load_file(folder / "model.safetensors")["linear.weight"]
    if adapter:
        body.set_default_language(adapter)
    skipped = {tokenizer.encode(mark, add_special_tokens=False)[0] for mark in string.punctuation}
    found = []
    for text in said:
        padding: Any = "max_length" if query else False
        read = tokenizer(". " + text, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        ids, mask = read["input_ids"], read["attention_mask"]
        ids[0, 1] = tokenizer.convert_tokens_to_ids(marker)
        if query:
            ids[ids == tokenizer.pad_token_id] = tokenizer.mask_token_id
        with torch.no_grad():
            vectors = body(input_ids=ids, attention_mask=mask)[0][0] @ linear.T
        kept = [query or int(i) not in skipped for i in ids[0]]
        found.append(torch.nn.functional.normalize(vectors[torch.tensor(kept)], dim=-1))
    return found


def ours(retriever: LateInteraction, said: list[Text], task: Any) -> list[np.ndarray]:
    return [found.vectors for found in sorted(retriever.encode(said, task), key=lambda found: found.at)]


def close(found: list[np.ndarray], expected: list[Any], tolerance: float = 2e-6) -> None:
    assert [v.shape for v in found] == [tuple(v.shape) for v in expected]
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, np.asarray(other), atol=tolerance)


def test_a_plaid_x_folder_is_read_as_stanfords_code_reads_it(plaid_x: Path) -> None:
    retriever = LateInteraction(model=str(plaid_x), device="cpu")
    close(ours(retriever, texts(), "query"), stanford_vectors(plaid_x, TEXTS, "[unused0]", 12, query=True))
    close(ours(retriever, texts(), "document"), stanford_vectors(plaid_x, TEXTS, "[unused1]", 20, query=False))


def test_colbert_xm_reads_each_text_with_the_adapter_of_its_language(colbert_xm: Path) -> None:
    retriever = LateInteraction(model=str(colbert_xm), device="cpu", batch_tokens=64)
    mixed = [
        Text(f"t{i}", ((lang, text),))
        for i, (text, lang) in enumerate(zip(TEXTS, ["de", "en", "sw"] * 3, strict=False))
    ]
    found = ours(retriever, mixed, "document")
    adapters = {"de": "de_DE", "en": "en_XX", "sw": "sw_KE"}
    for text, vectors in zip(mixed, found, strict=True):
        for lang, adapter in adapters.items():
            one = stanford_vectors(colbert_xm, [text.text], "[unused1]", 20, query=False, adapter=adapter)
            assert np.allclose(vectors, one[0], atol=2e-6) == (lang == text.lang)


def test_a_language_without_an_adapter_is_refused_before_anything_runs(colbert_xm: Path) -> None:
    retriever = LateInteraction(model=str(colbert_xm), device="cpu")
    retriever.check_languages(["en"], ["de", "sw"])
    with pytest.raises(
        LanguageError, match=r"no adapter for 'yo' \(X-MOD: de_DE, en_XX, sw_KE\)\n.*retriever.adapter=en"
    ):
        retriever.check_languages(["en"], ["yo"])
    with pytest.raises(LanguageError, match="no adapter for 'yo'"):
        list(retriever.encode(texts(lang="yo"), "document"))
    with pytest.raises(LanguageError, match=r"no adapter for 'de\+en'"):
        list(retriever.encode([Text("both", (("de", "Katze"), ("en", "cat")))], "query"))
    english = replace(retriever, adapter="en")
    english.check_languages(["yo"], ["yo"])
    close(ours(english, texts(lang="yo"), "query"), ours(retriever, texts(lang="en"), "query"))


@pytest.fixture(scope="module")
def pylate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT as PyLate 1 saves it: modules.json with PyLate's Dense, "[Q] " and "[D] " among the tokens, space and all."""
    from safetensors.torch import save_file
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("pylate")
    words = BertWordPieceTokenizer()
    words.train_from_iterator(
        [*TEXTS * 4, *string.punctuation], vocab_size=300, min_frequency=1, show_progress=False,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Marker]"],
    )  # fmt: skip
    words.save_model(str(folder))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.add_tokens(["[Q] ", "[D] "])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SMALL)).save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    save_file({"linear.weight": torch.randn(16, 32)}, folder / "1_Dense" / "model.safetensors")
    dense = {
        "in_features": 32,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    files: dict[str, Any] = {
        "1_Dense/config.json": dense,
        "sentence_bert_config.json": {"max_seq_length": 63, "do_lower_case": False},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
        ],
        "config_sentence_transformers.json": {
            "model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 16,
            "document_length": 24, "attend_to_expansion_tokens": False, "do_query_expansion": True,
            "skiplist_words": list(string.punctuation), "prompts": {}, "similarity_fn_name": "MaxSim",
        },
    }  # fmt: skip
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def pylate_vectors(
    folder: Path, said: list[str], length: int, *, query: bool, attend: bool = False, mark: str | None = None
) -> list[torch.Tensor]:
    """PyLate's own way, text by text: a token less is read, and the marker's id is put behind the first one."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer, body = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    weight = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"]
    marker = tokenizer.convert_tokens_to_ids(mark or ("[Q] " if query else "[D] "))
    skipped = set(tokenizer.convert_tokens_to_ids(list(string.punctuation)))
    found = []
    for text in said:
        ids = tokenizer(text, truncation=True, max_length=length - 1)["input_ids"]
        ids = [ids[0], marker, *ids[1:]]
        mask = [1] * len(ids)
        if query:
            mask += [int(attend)] * (length - len(ids))
            ids += [tokenizer.mask_token_id] * (length - len(ids))
        with torch.no_grad():
            vectors = body(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([mask]))[0][0] @ weight.T
        kept = torch.tensor([query or i not in skipped for i in ids])
        found.append(torch.nn.functional.normalize(vectors[kept], dim=-1))
    return found


def test_a_pylate_folder_is_read_as_pylate_reads_it(pylate: Path) -> None:
    retriever = LateInteraction(model=str(pylate), device="cpu")
    close(ours(retriever, texts(), "query"), pylate_vectors(pylate, TEXTS, 16, query=True))
    close(ours(retriever, texts(), "document"), pylate_vectors(pylate, TEXTS, 24, query=False))


def test_how_queries_are_expanded_is_a_field_and_null_is_what_the_folder_says(pylate: Path) -> None:
    retriever = LateInteraction(model=str(pylate), device="cpu")
    attended = replace(retriever, attend_to_expansion=True, query_tokens=20)
    close(ours(attended, texts(), "query"), pylate_vectors(pylate, TEXTS, 20, query=True, attend=True))
    marked = ours(
        replace(retriever, query_prefix="[Marker] "), texts(), "query"
    )  # one token, though plain text is split
    close(marked, pylate_vectors(pylate, TEXTS, 16, query=True, mark="[Marker]"))
    plain = ours(replace(retriever, expansion=False), texts("A short one"), "query")[0]
    short = ours(replace(retriever, expansion=False, query_prefix=""), texts("A short one"), "query")[0]
    assert len(plain) == len(short) + 1  # "" is no marker, and no mask tokens are there
    close(ours(retriever, texts(), "query"), pylate_vectors(pylate, TEXTS, 16, query=True))  # and nothing stays behind
    with pytest.raises(ValueError, match="expansion=false puts none"):
        replace(retriever, expansion=False, attend_to_expansion=True)
    with pytest.raises(ConfigError, match=r"retriever\.doc_tokens=65: the model has positions for 64 tokens"):
        ours(replace(retriever, doc_tokens=65), texts(), "document")


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBERT as sentence-transformers 6 saves late interaction (the kind of mLateOn): no marker, no expansion."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense as Projection
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from transformers import ModernBertConfig, ModernBertModel

    body, folder = tmp_path_factory.mktemp("body"), tmp_path_factory.mktemp("modern")
    tokenizer = save_tokenizer(body)
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        cls_token_id=0, sep_token_id=2, **SMALL,
    )  # fmt: skip
    ModernBertModel(config).save_pretrained(body)
    MultiVectorEncoder(
        modules=[
            Transformer(str(body), document_length=40, query_length=30),
            Projection(
                32, 16, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"
            ),
            MultiVectorMask(skiplist_words=["."]),
            Normalize(module_input_name="token_embeddings"),
        ],
        device="cpu",
    ).save(str(folder))
    return folder


@pytest.mark.parametrize("kind", ["modern", "pylate", "plaid_x"])
def test_batches_of_any_size_give_the_vectors_of_sentence_transformers(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    retriever = LateInteraction(model=str(folder), device="cpu", batch_tokens=50)
    said = texts(*TEXTS, *reversed(TEXTS))
    encoder = multi_vector.load(folder, dtype="float32", on="cpu", trust_remote_code=False).encoder
    prompts = {"prompt": retriever.query_prefix}
    expected = [vectors.numpy() for vectors in encoder.encode_query([text.text for text in said], **prompts)]
    close(ours(retriever, said, "query"), expected)
    expected = [vectors.numpy() for vectors in encoder.encode_document([text.text for text in said])]
    close(ours(retriever, said, "document"), expected)


def random_vectors(seed: int, *lengths: int, width: int = 8) -> TokenVectors:
    vectors = np.random.default_rng(seed).normal(size=(sum(lengths), width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors, np.array(lengths, np.int32))


def split(tokens: TokenVectors) -> list[np.ndarray]:
    return np.split(tokens.vectors, np.cumsum(tokens.lengths)[:-1])


@pytest.mark.parametrize("rows", [8, 64, 4096])
def test_maxsim_is_that_of_a_plain_loop_and_of_sentence_transformers(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers.util.similarity import maxsim as reference

    monkeypatch.setattr(multi_vector, "DOC_ROWS", rows)
    monkeypatch.setattr(multi_vector, "SCORES", rows * 40)
    queries, docs = random_vectors(0, 3, 32, 1, 7, 32), random_vectors(1, 5, 1, 90, 12, 33, 2, 64, 5)
    found = maxsim(queries, docs)
    loop = [[(q @ d.T).max(1).sum() for d in split(docs)] for q in split(queries)]
    np.testing.assert_allclose(found, loop, atol=1e-5)
    theirs = reference([torch.from_numpy(q) for q in split(queries)], [torch.from_numpy(d) for d in split(docs)])
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-5)


def test_a_document_without_a_scored_token_stands_below_every_other() -> None:
    found = maxsim(random_vectors(0, 4), random_vectors(1, 3, 0, 2))
    assert found[0, 1] == multi_vector.NO_TOKENS < found[0].min(initial=0, where=[True, False, True])


def test_equal_documents_get_equal_scores_wherever_they_stand() -> None:
    one = random_vectors(1, 17)
    many = random_vectors(2, *range(1, 60))
    docs = TokenVectors(
        np.concatenate([one.vectors, many.vectors, one.vectors]), np.array([17, *range(1, 60), 17], np.int32)
    )
    found = maxsim(random_vectors(0, 32, 5), docs)
    assert (found[:, 0] == found[:, -1]).all()


def index(retriever: LateInteraction, docs: list[Text], folder: Path, size: int = 4) -> Path:
    for number, start in enumerate(range(0, len(docs), size)):
        retriever.index_shard(docs[start : start + size], folder / "shards" / f"{number:05}")
    return folder


def docs_named(*ids: str) -> list[Text]:
    return [Text(doc, (("en", TEXTS[i % len(TEXTS)]),)) for i, doc in enumerate(ids)]


def test_exact_search_ranks_by_the_maxsim_of_sentence_transformers(pylate: Path, tmp_path: Path) -> None:
    retriever = LateInteraction(model=str(pylate), device="cpu", search_with="exact")
    docs, queries = docs_named(*"abcdefghij"), texts("Wo ist die Katze?", "rain in Nairobi")
    run = retriever.search(index(retriever, docs, tmp_path), queries, 20)
    encoder = multi_vector.load(pylate, dtype="float32", on="cpu", trust_remote_code=False).encoder
    scores = encoder.similarity(
        encoder.encode_query([query.text for query in queries]), encoder.encode_document([doc.text for doc in docs])
    )
    for query, row in zip(queries, scores.tolist(), strict=True):
        found = run[run["query_id"] == query.id]
        expected = sorted(
            zip(np.round(row, 4), "abcdefghij", strict=True), reverse=True
        )  # a and h say the same: h first
        assert list(found["doc_id"]) == [doc for _, doc in expected]
        np.testing.assert_allclose(found["score"], [score for score, _ in expected], atol=0.01)  # 16 bits
    top = retriever.search(tmp_path, queries, 3)
    assert list(top["doc_id"]) == [doc for query in queries for doc in run[run["query_id"] == query.id]["doc_id"][:3]]


def test_queries_that_are_cut_are_counted(pylate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LateInteraction(model=str(pylate), device="cpu").encode_queries(texts("A short one", TEXTS[1]))
    assert f"{pylate} cuts 1 of 2 queries; see retriever.query_tokens" in capsys.readouterr().err


def test_searches_share_one_index_and_what_is_made_of_it(pylate: Path, clir: Clir) -> None:
    fields = ["search_with=plaid", "recall_queries=4", "nbits=2,4", "n_probe=8,64"]
    clir("run", "-m", "retriever=late_interaction", f"retriever.model={pylate}", *(f"retriever.{f}" for f in fields))
    made = {stage: len(list((clir.runs / "steps" / stage).iterdir())) for stage in ("index", "derive", "retrieve")}
    assert made == {"index": 1, "derive": 2, "retrieve": 4}


def test_an_index_tells_what_it_holds_and_what_was_cut(pylate: Path, tmp_path: Path) -> None:
    retriever = LateInteraction(model=str(pylate), device="cpu", doc_tokens=12)
    docs = docs_named(*"abcdefg")
    index(retriever, docs, tmp_path, size=7)
    shard = next(multi_vector.read_shards(tmp_path))
    report = json.loads((tmp_path / "shards" / "00000" / "report.json").read_text())
    assert report["texts"] == 7
    assert report["vectors"] == len(shard.tokens.vectors) == shard.tokens.lengths.sum()
    tokenizer = multi_vector.load(pylate, dtype="float32", on="cpu", trust_remote_code=False).encoder.tokenizer
    assert report["cut"] == sum(len(tokenizer("[D] " + doc.text)["input_ids"]) > 12 for doc in docs) > 0
    assert report["bytes"] == sum(p.stat().st_size for p in (tmp_path / "shards" / "00000").glob("*[yt]"))
    assert shard.tokens.vectors.dtype == np.float16
    expected = dict(zip("abcdefg", ours(retriever, docs, "document"), strict=True))
    for name, vectors in zip(shard.ids, split(shard.tokens), strict=True):
        np.testing.assert_array_equal(vectors, expected[name].astype(np.float16))


def test_the_reranker_orders_candidates_as_exact_search_does(
    pylate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clir_cli.rerankers import late_interaction

    retriever, reranker = (
        LateInteraction(model=str(pylate), device="cpu"),
        LateReranker(model=str(pylate), device="cpu"),
    )
    docs, queries = docs_named(*"abcdefg"), texts("Wo ist die Katze?", "rain in Nairobi")
    given = [Candidates(queries[0], docs), Candidates(queries[1], docs[2:5])]
    journal = Journal()
    run = reranker.rerank(given, journal)
    whole = retriever.search(index(retriever, docs, tmp_path), queries, 20)
    assert list(run[run["query_id"] == "t0"]["doc_id"]) == list(whole[whole["query_id"] == "t0"]["doc_id"])
    scores = {(q, d): s for q, d, s in zip(whole["query_id"], whole["doc_id"], whole["score"], strict=True)}
    for query, doc, score in zip(run["query_id"], run["doc_id"], run["score"], strict=True):
        assert score == pytest.approx(scores[query, doc], abs=0.01)  # the index keeps 16 bits
    assert journal.queries["t1"]["calls"] == journal.queries["t1"]["texts"] == 3
    assert journal.queries["t0"]["texts_cut"] == 1
    monkeypatch.setattr(late_interaction, "CHARACTERS", 60)  # one or two documents at a time
    again = reranker.rerank(given, Journal())
    np.testing.assert_allclose(again["score"], run["score"], atol=1e-5)
    assert list(again["doc_id"]) == list(run["doc_id"])


def test_bge_m3_s_token_vectors_are_a_late_interaction_model(plaid_x: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    tokenizer = save_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **SMALL)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    head = torch.nn.Linear(32, 16)
    torch.save(head.state_dict(), tmp_path / "colbert_linear.pt")
    retriever = LateInteraction(model=str(tmp_path), layout="bge_m3", device="cpu", query_prefix="")
    body, reads = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    for text, found in zip(TEXTS, ours(retriever, texts(), "document"), strict=True):
        with torch.no_grad():
            hidden = body(**reads(text, return_tensors="pt", truncation=True, max_length=64))[0][0]
            expected = torch.nn.functional.normalize(head(hidden[1:]), dim=-1)
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)
    with pytest.raises(MissingModel, match=r"colbert_linear.pt is missing: the folder is no complete BGE-M3"):
        ours(LateInteraction(model=str(plaid_x), layout="bge_m3", device="cpu"), texts(), "query")
    with pytest.raises(ValueError, match="reads plain texts: expansion, query_prefix must be null"):
        replace(retriever, query_prefix="[Q] ", expansion=True)


def single_vector(folder: Path, pylate: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(pylate))
    SentenceTransformer(modules=[body, Pooling(32, "mean")], device="cpu").save(str(folder))


def plain(folder: Path, pylate: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pylate / name, folder / name)


def half(folder: Path, pylate: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    tokenizer = save_tokenizer(folder)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **SMALL)
    save_stanford(folder, config, tokenizer, XLMRobertaModel, drop="layer.1.")


@pytest.mark.parametrize(
    ("made", "error", "reason"),
    [
        (single_vector, ConfigError, r"gives one vector per text \(SentenceTransformer\), not one per token\n.*retriever=dense"),
        (plain, ConfigError, r"is no late-interaction model: its config.json names BertModel.*layout=bge_m3"),
        (half, MissingModel, r"lacks weights of the model .*layer\.1\."),
    ],
)  # fmt: skip
def test_a_folder_that_would_rank_at_random_is_refused(
    made: Callable[[Path, Path], None], error: type[Exception], reason: str, pylate: Path, tmp_path: Path
) -> None:
    made(tmp_path, pylate)
    with pytest.raises(error, match=f"(?s){reason}"):
        ours(LateInteraction(model=str(tmp_path), device="cpu"), texts(), "query")


def test_a_late_interaction_folder_is_refused_as_a_dense_retriever(modern: Path) -> None:
    with pytest.raises(ConfigError, match="is a MultiVectorEncoder, not an encoder with one vector per text"):
        Dense(str(modern), device="cpu").encode(texts(), "query")


def test_the_index_of_another_model_or_with_files_of_two_is_refused(pylate: Path, tmp_path: Path) -> None:
    retriever = LateInteraction(model=str(pylate), device="cpu")
    index(retriever, docs_named(*"abc"), tmp_path)
    np.save(tmp_path / "shards" / "00000" / "tokens.npy", np.zeros((30, 8), np.float16))
    with pytest.raises(
        DataError, match=r"3 documents, lengths of 3 with \d+ tokens, 30 vectors; build the index again"
    ):
        retriever.search(tmp_path, texts("Katze"), 3)
    np.save(tmp_path / "shards" / "00000" / "lengths.npy", np.array([10, 10, 10], np.int32))
    with pytest.raises(DataError, match="token vectors of 8 numbers and the model gives queries 16"):
        retriever.search(tmp_path, texts("Katze"), 3)


def test_options_of_an_index_that_is_not_built_and_of_adapters_that_are_not_there_are_refused(pylate: Path) -> None:
    with pytest.raises(ValueError, match="need search_with=plaid"):
        LateInteraction(model=str(pylate), nbits=2)
    with pytest.raises(ValueError, match="X-MOD has no adapter of that language"):
        LateInteraction(model=str(pylate), adapter="yo")
    with pytest.raises(ConfigError, match=r"retriever\.adapter is for X-MOD models, and .* is a bert"):
        ours(LateInteraction(model=str(pylate), adapter="de", device="cpu"), texts(), "query")
    with pytest.raises(LanguageError, match="reads de, en, not 'sw'"):
        LateInteraction(model=str(pylate), languages=("de", "en")).check_languages(["en"], ["sw"])
