"""What the models of a configuration are given: one example per side, token by token, and what is wrong with it.

A run with a wrong template, closing token, padding or language looks like any other; `clir check --load` shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clir_cli import views
from clir_cli.config import Config
from clir_cli.errors import ConfigError
from clir_cli.models import assembly, encoding, hub
from clir_cli.models.laser import UNK, readable
from clir_cli.rerankers.cross_encoder import PairReranker
from clir_cli.rerankers.none import Keep
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.laser import Laser
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.types import Text

SHOWN = 24  # tokens that are printed of a long text, and its last six
SAME = 0.999  # cosine of a text's vector alone and beside a longer one: less is padding that is read
LONGER = "a much longer text that stands in the same batch so that the first one is padded " * 3
_TEMPLATED = {  # models that are worse without their template, which their folders do not declare: the presets that have it
    "multilingual-e5-large-instruct": "me5_large_instruct",
    "multilingual-e5": "me5_base",
    "nv-embed-v2": "nv_embed_v2",
    "llama-embed-nemotron": "llama_embed_nemotron_8b",
    "kalm-embedding-gemma3": "kalm_gemma3",
    "kalm-embedding": "kalm_mini",
    "qwen3-embedding": "qwen3_embedding_0_6b",
    "repllama": "repllama",
    "udever": "udever",
}


def models(cfg: Config) -> list[list[str]]:
    """The models of a configuration, loaded and shown with an example of the dataset: lines about each.

    Raises ConfigError, LanguageError or MissingModel for what would encode something else in silence.
    """
    retrievers = [list(_retriever(part)) for part in cfg.parts or (cfg,)]
    rerankers = [part for part in cfg.cascade or (cfg,) if not isinstance(part.reranker, Keep)]
    return [*retrievers, *(list(_reranker(part)) for part in rerankers)]


def _retriever(cfg: Config) -> Iterator[str]:
    label = f"retriever {cfg.labels['retriever']}"
    retriever = cfg.retriever
    if not isinstance(retriever, Dense | Laser):
        yield f"{label}: {type(retriever).__name__}, no encoder that is checked here"
        return
    query, docs = _query(cfg, cfg.retrieve.query), _docs(cfg, cfg.retrieve.doc)
    retriever.check_languages(_langs([query]), _langs(docs))
    name = (
        _model(retriever)
        if isinstance(retriever, Dense)
        else f"{retriever.name}, on {encoding.device(retriever.device)}"
    )
    yield f"{label}: {name}"
    sides: list[tuple[Text, Task]] = [(query, "query"), *((doc, "document") for doc in docs)]
    for text, task in sides:
        if isinstance(retriever, Dense):
            yield from encoder_lines(retriever, text, task)
        else:
            yield from laser_lines(retriever, text, task)


def _reranker(cfg: Config) -> Iterator[str]:
    label = f"reranker {cfg.labels['reranker']}"
    if not isinstance(cfg.reranker, PairReranker):
        yield f"{label}: {type(cfg.reranker).__name__}, no classifier that is checked here"
        return
    yield f"{label}: {_model(cfg.reranker)}"
    query, docs = _query(cfg, cfg.rerank.query), _docs(cfg, cfg.rerank.doc)
    cfg.reranker.check_languages(_langs([query]), _langs(docs))
    for doc in docs:
        yield from _pair_lines(cfg.reranker, query, doc)


# Encoders -------------------------------------------------------------------------------------------------------------


def encoder_lines(dense: Dense, text: Text, task: Task) -> list[str]:
    """What an encoder is given for one text and what it says; refuses a missing template and padding that is read."""
    reader = dense.reader_of(dense.lang_of(text))
    loaded = reader.load(task)
    options = reader.prepare(loaded, task, text.lang)
    prefix, suffix, limit = options["prompt"], reader.suffix(task), reader.limit(loaded, task)
    _check_template(reader, loaded, prefix, task)
    shown = encoding.closed(loaded, text.text, prefix, suffix, limit)[0] if suffix else text.text
    vector, norm = _vector(dense, text, task)
    found = [f"  {task} {text.id} in {text.lang}", f"    text      {_short(prefix + shown)!r}"]
    found += _token_lines(loaded, [shown], options, limit)
    if (name := reader.language_name(text.lang)) is not None:
        found.append(f"    language  read as {name} ({reader.codes})")
    if reader is not dense:
        found.append(f"    model     {_model(reader)} (by_lang.{text.lang})")
    adapter = reader.query_adapter if task == "query" else reader.doc_adapter
    if adapter is not None:
        found.append(f"    adapter   {adapter.model}, merged")
    found.append(f"    vector    {_ends(dense, vector, norm)}")
    return [*found, *_note_lines(reader, loaded, prefix, task)]


def laser_lines(laser: Laser, text: Text, task: Task) -> list[str]:
    """What LASER is given for one text, which of its encoders reads it, and what that says; refuses padding that is read."""
    lang = laser.lang_of(text)
    encoder, files = laser.reader(lang), laser.encoder_files(lang)
    limit = laser.limit(encoder, task)
    tokens = encoder.tokens(text.text, limit)
    vector, norm = _vector(laser, text, task)
    most = "no limit" if limit is None else f"at most {limit}"
    pooled = "'<s>', the first token" if encoder.net.pooling == "cls" else f"the max over {len(tokens)} tokens"
    unknown = sum(i == UNK for i in encoder.ids(tokens))
    return [
        f"  {task} {text.id} in {text.lang}",
        f"    model     {files.weights.name}, read by {', '.join(path.name for path in files[1:] if path is not None)}",
        f"    text      {_short(readable(text.text))!r}",
        f"    tokens    {_some(tokens)}  ({len(tokens)}; {most})",
        f"    ids       {_some(list(map(str, encoder.ids(tokens))))}  ({unknown} unknown)",
        f"    pooled    {pooled}",
        f"    padding   {encoder.padding_side}, with '<pad>'",
        f"    vector    {_ends(laser, vector, norm)}",
    ]


def _ends(encoder: SingleVector, vector: Any, norm: float) -> str:
    ends = "made 1" if encoder.normalize else "kept"
    return f"{len(vector)} numbers, similarity {encoder.similarity}; length {norm:.4g}, {ends}"


def _vector(dense: SingleVector, text: Text, task: Task) -> tuple[Any, float]:
    """A text's vector and its length before normalising, after comparing it with the one it has beside a longer text."""
    from dataclasses import replace

    import numpy as np

    plain = replace(
        dense, normalize=False, similarity="dot", margin="none"
    )  # what margin and cosine need is not asked here
    alone = plain.encode([text], task)[0][0]
    beside = plain.encode([text, Text("longer", ((text.parts[0][0], LONGER),))], task)[0][0]
    norm = float(np.linalg.norm(alone))
    if not np.isfinite(alone).all() or norm == 0:
        raise ConfigError(f"{dense.name} gives {text.id} a vector without a direction; try retriever.dtype=float32")
    cosine = float(alone @ beside / norm / np.linalg.norm(beside))
    if cosine < SAME:
        raise ConfigError(
            f"{dense.name} gives {text.id} another vector beside a longer text (cosine {cosine:.3f}): it reads the padding\n"
            "  try retriever.padding_side=left or right, whichever the model was trained with"
        )
    return alone, norm


def _token_lines(loaded: Any, texts: Sequence[Any], options: dict[str, Any], limit: int | None) -> list[str]:
    features = loaded.preprocess(texts, **options)
    tokenizer = loaded.tokenizer
    if "attention_mask" not in features:
        names = tokenizer.encode(texts[0], add_special_tokens=False).tokens
        return [
            f"    tokens    {_some(names)}  ({len(names)}, all read)",
            "    pooled    the mean over all: static vectors",
        ]
    ids = features["input_ids"][0][features["attention_mask"][0].bool()].tolist()
    names = tokenizer.convert_ids_to_tokens(ids)
    most = "no limit" if limit is None else f"at most {limit}"
    found = [f"    tokens    {_some(names)}  ({len(ids)}; {most})", f"    ids       {_some(list(map(str, ids)))}"]
    found.append(f"    pooled    {_pooled(loaded, names, features)}")
    return [*found, f"    padding   {tokenizer.padding_side}, with {tokenizer.pad_token!r}"]


def _pooled(loaded: Any, names: Sequence[str], features: Any) -> str:
    """Which tokens become the vector, in words."""
    found = []
    layer = loaded[0].modality_config["text"]["method_output_name"] if hasattr(loaded[0], "modality_config") else None
    where = f" of hidden layer {layer[1]}" if isinstance(layer, tuple) else ""
    for part in loaded:
        if not hasattr(part, "pooling_mode"):
            continue
        left_out = 0 if part.include_prompt else int(features.get("prompt_length") or 0)
        modes = (part.pooling_mode,) if isinstance(part.pooling_mode, str) else part.pooling_mode
        for mode in modes:
            if mode == "cls":
                found.append(f"{names[left_out]!r}, the first token")
            elif mode == "lasttoken":
                found.append(f"{names[-1]!r}, the last token")
            else:
                rest = f", without the prefix's {left_out}" if left_out else ""
                found.append(f"the {mode} over {len(names) - left_out} tokens{rest}")
    behind = [type(part).__name__ for part in list(loaded)[1:] if not hasattr(part, "pooling_mode")]
    return (
        (" and ".join(found) or "by the model's own code") + where + (f", then {', '.join(behind)}" if behind else "")
    )


def _note_lines(reader: Dense, loaded: Any, prefix: str, task: Task) -> list[str]:
    found = []
    names = ("query",) if task == "query" else ("document", "passage", "corpus")
    declared = next((loaded.prompts[name] for name in names if loaded.prompts.get(name)), "")
    field = "query_prefix" if task == "query" else "doc_prefix"
    if declared and declared != prefix:
        found.append(f"    note      the folder declares {declared!r}; retriever.{field}={prefix!r} stands instead")
    if prefix != prefix.rstrip() and prefix.rstrip():
        found.append(f"    note      the prefix ends in a blank: {prefix[-8:]!r}")
    inner = assembly.body(loaded)
    if inner is not None and reader.dtype != "float32" and str(inner.device) == "cpu":
        found.append(f"    note      {reader.dtype} on a CPU: other last digits than on a GPU")
    return found


def _check_template(reader: Dense, loaded: Any, prefix: str, task: Task) -> None:
    """Refuse a template that the tokenizer has no tokens for, and a model known to need one that nobody gave."""
    tokenizer, unknown = loaded.tokenizer, getattr(loaded.tokenizer, "unk_token_id", None)
    for field, value in ((f"{task} prefix", prefix), (f"{task} suffix", reader.suffix(task))):
        if value and unknown is not None and unknown in tokenizer(value, add_special_tokens=False)["input_ids"]:
            raise ConfigError(f"the {field} {value!r} holds what the tokenizer of {reader.model} has no token for")
    given = reader.query_prefix if task == "query" else reader.doc_prefix
    known = next((preset for name, preset in _TEMPLATED.items() if name in _known_as(reader)), None)
    only_queries = known is not None and known not in {"me5_base", "kalm_gemma3", "repllama", "udever"}
    if known is None or given is not None or prefix or (task == "document" and only_queries):
        return
    field = "query_prefix" if task == "query" else "doc_prefix"
    raise ConfigError(
        f"{reader.model} was trained with a template, and its folder declares none for a {task}: retriever={known} has it\n"
        f'  or say it: retriever.{field}="..."; retriever.{field}="" to put nothing before the text, knowingly'
    )


def _known_as(reader: Dense) -> str:
    adapters = [a.model for a in (reader.query_adapter, reader.doc_adapter) if a is not None]
    return " ".join([reader.model, *adapters]).casefold()


# Cross-encoders -------------------------------------------------------------------------------------------------------


def _pair_lines(reranker: PairReranker, query: Text, doc: Text) -> list[str]:
    ((loaded, _, options),) = reranker.readers([(query, doc)])
    limit = reranker.max_tokens
    features = loaded.preprocess([(query.text, doc.text)], **options)
    ids = features["input_ids"][0].tolist()
    (batch,) = encoding.batches(loaded, [(query.text, doc.text)], "scores", None, limit, **options)
    return [
        f"  query {query.id} in {query.lang} and document {doc.id} in {doc.lang}",
        f"    text      {_short(query.text)!r} | {_short(doc.text)!r}",
        f"    tokens    {_some(loaded.tokenizer.convert_ids_to_tokens(ids))}  ({len(ids)}; at most {limit or 'what the model reads'}, only the document is cut)",
        f"    ids       {_some(list(map(str, ids)))}",
        f"    padding   {loaded.tokenizer.padding_side}, with {loaded.tokenizer.pad_token!r}",
        f"    score     {float(batch.values.flatten()[0]):.4g}",
    ]


# The examples ---------------------------------------------------------------------------------------------------------


def _query(cfg: Config, view: Any) -> Text:
    dataset = cfg.dataset
    langs = views.targets(view, dataset.query_lang, dataset.query_lang, dataset.doc_langs)
    return _example(dataset.read_topics(dataset.query_lang), dataset.query_lang, langs)


def _docs(cfg: Config, view: Any) -> list[Text]:
    """The first document with text in every language of the collection."""
    dataset = cfg.dataset
    return [
        _example(dataset.read_docs(lang), lang, views.targets(view, lang, dataset.query_lang, dataset.doc_langs))
        for lang in dataset.doc_langs
    ]


def _example(rows: Any, own: str, langs: Sequence[str]) -> Text:
    """The first text as the view shows it; one that would be translated is shown as it is, under its new language."""
    row = next((r for r in rows if any(text.strip() for text in r.fields.values())), None)
    if row is None:
        raise ConfigError(f"the dataset has no text in {own}: nothing to show")
    text = " ".join(text.strip() for text in row.fields.values() if text.strip())
    name = getattr(row, "query_id", None) or row.doc_id
    return Text(name if own in langs else f"{name}, before its translation,", tuple((lang, text) for lang in langs))


def _langs(texts: Sequence[Text]) -> list[str]:
    return list(dict.fromkeys(lang for text in texts for lang, _ in text.parts))


# Words ----------------------------------------------------------------------------------------------------------------


def _model(part: Dense | PairReranker) -> str:
    folder = hub.folder(part.model, part.revision)
    commit = f" at {part.revision}" if part.revision else ""
    return f"{part.model}{commit}, {part.dtype}, on {encoding.device(part.device)}; licence: {licence(folder)}"


def licence(folder: Path) -> str:
    """What the model card in the folder says of its licence."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.exists() else ""
    said = re.search(r"^license(?:_name)?:\s*['\"]?([^\s'\"]+)", head, re.MULTILINE)
    return said[1] if said else "not said in its folder"


def _some(words: Sequence[str]) -> str:
    kept = list(words) if len(words) <= SHOWN + 6 else [*words[:SHOWN], "...", *words[-6:]]
    return " ".join(kept)


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:120]} ... {text[-30:]}"
