"""The presets of encoders say, byte by byte, what the models were trained with; none of them trusts code or invents a revision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError
from clir_cli.fingerprints import Fingerprints
from clir_cli.plan import planned
from clir_cli.retrievers.dense import Dense
from clir_cli.steps import identity, pending
from clir_cli.store import Store

FOLDER = Path(compose.packaged()) / "retriever"
DENSE = sorted(
    p.stem for p in FOLDER.glob("*.yaml") if "\n_target_: clir_cli.retrievers.dense.Dense\n" in p.read_text()
)
WEB = "Given a web search query, retrieve relevant passages that answer the query"
QUESTION = "Given a question, retrieve passages that answer the question"

TEMPLATES: dict[str, tuple[str, str]] = {  # reference: the models' cards and mteb; "" is not the same as null
    "labse": ("", ""),
    "sonar": ("", ""),
    "mexma": ("", ""),
    "me5_small": ("query: ", "passage: "),
    "me5_base": ("query: ", "passage: "),
    "me5_large": ("query: ", "passage: "),
    "me5_large_instruct": (f"Instruct: {WEB}\nQuery: ", ""),
    "bge_m3": ("", ""),
    "mgte": ("", ""),
    "nv_embed_v2": (f"Instruct: {QUESTION}\nQuery: ", ""),
    "repllama": ("query:  ", "passage:  "),
    "llama_embed_nemotron_8b": (f"Instruct: {WEB}\nQuery: ", ""),
    "kalm_mini": (f"Instruct: {WEB} \n Query: ", ""),
    "kalm_gemma3": (f"Instruct: {WEB} \n Query: ", f"Instruct: {WEB} \n Query: "),
    "granite_97m": ("", ""),
    "granite_311m": ("", ""),
    "qwen3_embedding_0_6b": (f"Instruct: {WEB}\nQuery:", ""),
    "qwen3_embedding_4b": (f"Instruct: {WEB}\nQuery:", ""),
    "qwen3_embedding_8b": (f"Instruct: {WEB}\nQuery:", ""),
    "udever": ("[BOQ]", "[BOD]"),
    "nllb_e5": ("query: ", "passage: "),
    "mcontriever": ("", ""),
}


def built(name: str, *overrides: str) -> Dense:
    needs_model = "\nmodel: ???" in (FOLDER / f"{name}.yaml").read_text() and "retriever.model" not in str(overrides)
    given = ["retriever.model=me/encoder"] if needs_model else []
    (cell,) = compose.cells([f"retriever={name}", *given, *overrides])
    found = config.built(cell.plain).retriever
    assert isinstance(found, Dense)
    return found


@pytest.mark.parametrize("name", DENSE)
def test_every_preset_builds_pins_nothing_that_was_not_read_and_trusts_nobody(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert not re.search(r"\b[0-9a-f]{12,}\b", text)
    preset = built(name)
    assert preset.revision is None
    assert not preset.trust_remote_code
    assert all(adapter is None or adapter.revision is None for adapter in (preset.query_adapter, preset.doc_adapter))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_templates_are_byte_exact(name: str) -> None:
    preset = built(name)
    assert (preset.query_prefix, preset.doc_prefix) == TEMPLATES[name]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("labse", {"pooling": "model", "query_tokens": 256}),
        ("mexma", {"pooling": "cls"}),
        ("mgte", {"pooling": "cls"}),
        ("sonar", {"pooling": "mean", "codes": "nllb"}),
        ("xmod", {"pooling": "mean", "codes": "xmod"}),
        ("udever", {"pooling": "last", "query_suffix": "[EOQ]", "doc_suffix": "[EOD]", "padding_side": "left"}),
        ("nv_embed_v2", {"query_suffix": "</s>", "doc_suffix": "</s>", "padding_side": "right", "dtype": "float16"}),
        ("llama_embed_nemotron_8b", {"padding_side": "left", "attention": "eager"}),
        ("repllama", {"pooling": "last", "padding_side": "right"}),
        ("jina_embeddings_v3", {"query_task": "retrieval.query", "doc_task": "retrieval.passage"}),
        ("mcontriever", {"pooling": "mean", "normalize": False, "similarity": "dot"}),
        ("granite_english", {"languages": ("en",)}),
    ],
)
def test_what_a_model_needs_stands_in_its_preset(name: str, fields: dict[str, Any]) -> None:
    preset = built(name)
    assert {field: getattr(preset, field) for field in fields} == fields


def test_a_prefix_with_blanks_and_line_breaks_survives_the_command_line() -> None:
    assert built("dense", 'retriever.query_prefix="[Q] "').query_prefix == "[Q] "
    assert built("me5_base", 'retriever.query_prefix=""').query_prefix == ""
    assert built("me5_base", "retriever.query_prefix=null").query_prefix is None


def test_the_issues_own_backbone_command_composes() -> None:
    found = built("backbone", "retriever.model=xlm-r/base", "retriever.pooling=mean", "retriever.layer=-2")
    assert (found.pooling, found.layer) == ("mean", -2)


def test_an_english_encoder_is_refused_for_german_documents_until_they_are_translated(tmp_path: Path) -> None:
    (cell,) = compose.cells(["retriever=granite_english", "dataset=demo", "dataset.doc_lang=de"])
    error = planned([cell], Store(tmp_path, eager=False)).cells[0].error
    assert isinstance(error, LanguageError)
    assert "reads en, not 'de'" in str(error)


def test_identity_counts_every_model_that_a_retriever_is_made_of(tmp_path: Path) -> None:
    prints = Fingerprints(tmp_path, eager=False)
    models = {found.model for found in pending(identity(built("repllama"), prints))}
    assert models == {"meta-llama/Llama-2-7b-hf", "castorini/repllama-v1-7b-lora-passage"}
    routed = built("labse", "retriever.by_lang={sw: {_target_: clir_cli.retrievers.dense.Dense, model: me/laser3-sw}}")
    assert {found.model for found in pending(identity(routed, prints))} == {
        "sentence-transformers/LaBSE",
        "me/laser3-sw",
    }
    (cell,) = compose.cells(["retriever=repllama"])
    lock = tmp_path / "models.lock"
    lock.write_text('{"meta-llama/Llama-2-7b-hf": "base", "castorini/repllama-v1-7b-lora-passage": "lora"}')
    config.pin_revisions(cell.plain, lock)
    pinned = config.built(cell.plain).retriever
    assert (pinned.revision, pinned.query_adapter.revision, pinned.doc_adapter.revision) == ("base", "lora", "lora")


def test_new_options_leave_the_identity_of_old_retrievers_alone(tmp_path: Path) -> None:
    prints = Fingerprints(tmp_path, eager=False)
    said = identity(built("dense"), prints)
    new = {"layer", "codes", "language_names", "by_lang", "query_adapter", "doc_adapter", "average", "projection"}
    new |= {
        "query_suffix",
        "doc_suffix",
        "query_task",
        "doc_task",
        "pool_prefix",
        "padding_side",
        "attention",
        "python",
    }
    assert not new & set(said)
    index = identity(built("udever"), prints, "index")
    assert "doc_suffix" in index
    assert "query_suffix" not in index
    assert "query_adapter" not in identity(built("repllama"), prints, "index")


def test_an_unpinned_repository_is_not_trusted() -> None:
    with pytest.raises(ConfigError, match="pin the commit you have read"):
        built("mgte", "retriever.trust_remote_code=true")
    pinned = built("mgte", "retriever.trust_remote_code=true", f"retriever.revision={'0a' * 20}")
    assert pinned.trust_remote_code
