"""Late interaction: a vector per token, and MaxSim (Khattab & Zaharia 2020, ColBERT) over them.

Loading and reading are sentence-transformers' MultiVectorEncoder, which knows its own folders, PyLate's and Stanford
ColBERT's (PLAID-X, ColBERT-XM); BGE-M3's token vectors come from bge_m3.py. What it does not do is done here: X-MOD's
adapter of a text's language, markers that a tokenizer does not know, and the refusal of folders whose projection it
would make up at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from clir_cli import progress
from clir_cli.errors import ConfigError, DataError, LanguageError, RunError
from clir_cli.files import read_json
from clir_cli.lines import Lines
from clir_cli.models import bge_m3, encoding, hub
from clir_cli.text import languages, passages
from clir_cli.types import Text, model, neutral, searched

if TYPE_CHECKING:
    import numpy as np
    import torch

Task: TypeAlias = Literal["query", "document"]

DOC_ROWS = 4096  # document tokens scored at once: 2 MB of 128 numbers
SCORES = 1 << 24  # token similarities held at once (64 MB)
ROWS = 64  # blocks are padded to a multiple: equal documents then get equal scores wherever they stand
NO_TOKENS = -10_000.0  # the score of a document without a scored token: below any other, of 32 unit vectors or 512


class Encoded(NamedTuple):
    """What a model said of one text."""

    at: int  # which text
    vectors: np.ndarray  # (scored tokens, dimensions) float32
    tokens: int  # that the model read
    cut: bool  # whether the text was longer


class TokenVectors(NamedTuple):
    """Several texts' token vectors, one text after the other."""

    vectors: np.ndarray  # (tokens of all texts, dimensions)
    lengths: np.ndarray  # (texts,) tokens of each


class Shard(NamedTuple):
    """Some documents of an index; `tokens.vectors` is float16 and memory-mapped."""

    ids: Sequence[str]
    tokens: TokenVectors


@dataclass(frozen=True, kw_only=True)
class MultiVectorModel:
    """A model that gives a vector per token, and how it reads queries and documents. A base of retriever and reranker."""

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result
    node: ClassVar[str] = "retriever"  # whose fields errors name

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model: commit, tag or branch; null: what models.lock or the hub's main says
    layout: Literal["colbert", "bge_m3"] = "colbert"  # colbert: sentence-transformers', PyLate's, Stanford's folders
    query_prefix: str | None = searched(None)  # marker before the text, "[Q] "; null: what the folder says; "": nothing
    doc_prefix: str | None = None
    query_tokens: int | None = searched(
        None
    )  # longer queries are cut, shorter ones expanded; null: the folder's number
    doc_tokens: int | None = None
    expansion: bool | None = searched(None)  # fill queries up with mask tokens that are scored; null: the folder's way
    attend_to_expansion: bool | None = searched(None)  # whether the other tokens see the mask tokens; null: as above
    adapter: str = (
        "language"  # X-MOD: `language` takes each text's own and refuses others; a code (en) is for all texts
    )
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    device: str = neutral("auto")  # auto: the GPU if there is one; cpu, cuda, cuda:1, mps
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    def __post_init__(self) -> None:
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("query_tokens", "doc_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.expansion is False and self.attend_to_expansion is not None:
            raise ValueError("attend_to_expansion says how the mask tokens are seen, and expansion=false puts none")
        given = {"query_prefix", "doc_prefix", "expansion", "attend_to_expansion"}
        if self.layout == "bge_m3" and (odd := sorted(name for name in given if getattr(self, name) not in {None, ""})):
            raise ValueError(f"layout=bge_m3 reads plain texts: {', '.join(odd)} must be null")
        if self.adapter != "language" and languages.language(self.adapter).xmod is None:
            raise ValueError(f"adapter {self.adapter!r}: X-MOD has no adapter of that language")

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages` or, where the folder is here, has no adapter."""
        langs = [*query_langs, *doc_langs]
        encoding.check_languages(self.node, self.model, self.languages, langs)
        if hub.local_folder(self.model) is None and hub.cached_revision(self.model, self.revision) is None:
            return  # known when it is downloaded, and refused then
        path = hub.folder(self.model, self.revision) / "config.json"
        config = read_json(path) if path.is_file() else {}
        if config.get("model_type") == "xmod":
            self._adapters(config.get("languages", []), langs)

    def encode(self, texts: Sequence[Text], task: Task) -> Iterator[Encoded]:
        """Every text's token vectors, in batches' order: the same texts give the same order.

        Raises RunError naming a text whose vectors hold NaN or infinity.
        """
        import numpy as np

        unit = "documents" if task == "document" else "queries"
        for found in progress.track(self._encode(texts, task), len(texts), "encode", unit):
            if not np.isfinite(found.vectors).all():
                text = texts[found.at]
                raise RunError(
                    f"{self.model} gives {text.id} a token vector with NaN or infinity: {text.text[:80]!r}\n"
                    f"  try {self.node}.dtype=float32"
                )
            yield found

    def token_spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Where the tokens of each text are, for passages of tokens."""
        folder, on = hub.folder(self.model, self.revision), encoding.device(self.device)
        if self.layout == "bge_m3":
            m3 = bge_m3.load(folder, "multi", dtype=self.dtype, on=on, trust_remote_code=self.trust_remote_code)
            return passages.token_spans(m3.tokenizer, texts)
        loaded = load(folder, dtype=self.dtype, on=on, trust_remote_code=self.trust_remote_code)
        return passages.token_spans(loaded.encoder.tokenizer, texts)

    def encode_queries(self, queries: Sequence[Text]) -> TokenVectors:
        """The queries' token vectors in the order given; says how many queries are cut."""

        found = sorted(self.encode(queries, "query"), key=lambda encoded: encoded.at)
        if cut := sum(encoded.cut for encoded in found):
            progress.say(
                f"{self.model} cuts {cut} of {len(queries)} queries; see {self.node}.query_tokens, or choose shorter topics"
            )
        return packed(found)

    def _encode(self, texts: Sequence[Text], task: Task) -> Iterator[Encoded]:
        folder = hub.folder(self.model, self.revision)
        field = f"{self.node}.{'query' if task == 'query' else 'doc'}_tokens"
        asked = self.query_tokens if task == "query" else self.doc_tokens
        on = encoding.device(self.device)
        if self.layout == "bge_m3":
            m3 = bge_m3.load(folder, "multi", dtype=self.dtype, on=on, trust_remote_code=self.trust_remote_code)
            for said in bge_m3.encode(m3, [text.text for text in texts], asked, self.batch_tokens, field):
                yield Encoded(said.at, said.values, said.tokens, said.cut)
            return
        loaded = load(folder, dtype=self.dtype, on=on, trust_remote_code=self.trust_remote_code)
        prefix = self.query_prefix if task == "query" else self.doc_prefix
        reader = _Reader(loaded, task, prefix, asked, self.expansion, self.attend_to_expansion, field)
        for adapter, rows in self._groups(loaded, texts):
            if adapter is not None:
                loaded.encoder[0].model.set_default_language(adapter)
            for found in reader.encode([texts[i].text for i in rows], self.batch_tokens):
                yield found._replace(at=rows[found.at])

    def _groups(self, loaded: Loaded, texts: Sequence[Text]) -> list[tuple[str | None, list[int]]]:
        """Which texts are read with which X-MOD adapter; all with None for other models."""
        config = loaded.encoder[0].model.config
        if config.model_type != "xmod":
            if self.adapter != "language":
                raise ConfigError(f"{self.node}.adapter is for X-MOD models, and {self.model} is a {config.model_type}")
            return [(None, list(range(len(texts))))]
        adapters = self._adapters(config.languages, [text.lang for text in texts])
        groups: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            groups.setdefault(adapters[text.lang], []).append(i)
        return sorted(groups.items())

    def _adapters(self, has: Sequence[str], langs: Sequence[str]) -> dict[str, str]:
        """The adapter that each language's texts are read with."""
        found = {}
        for lang in dict.fromkeys(langs):
            code = lang if self.adapter == "language" else self.adapter
            name = None if "+" in code else languages.language(code).xmod
            if name not in has:
                raise LanguageError(
                    f"{self.node}.model {self.model} has no adapter for {code!r} (X-MOD: {', '.join(sorted(has))})\n"
                    f"  translate the text, or say {self.node}.adapter=en to read all texts with the English one"
                )
            found[lang] = str(name)
        return found


# Loading and reading ---------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """A sentence-transformers MultiVectorEncoder in evaluation mode, and what its folder says of reading."""

    encoder: Any
    prefixes: Mapping[str, str]  # by task
    expansion: Mapping[str, Any] | None  # sentence-transformers' query_expansion: strategy, attend, token, length
    query_tokens: int | None
    doc_tokens: int | None


@lru_cache(maxsize=1)  # one model in memory
def load(folder: Path, *, dtype: encoding.DType, on: str, trust_remote_code: bool) -> Loaded:
    """The late-interaction model of a folder on device `on`.

    Raises ConfigError for a folder that gives one vector per text or has no trained projection, MissingModel for one that
    does not load or lacks weights.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder

    stanford = _check_folder(folder)
    with encoding.loading(folder, unused=("pooler",)):
        model = MultiVectorEncoder(
            str(folder),
            device=on,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": getattr(torch, dtype)},
        )
    model.to(getattr(torch, dtype)).eval()
    prompts = {name: text or "" for name, text in model.prompts.items()}
    named = [
        name for name in ("document", "passage", "corpus") if name in prompts
    ]  # as sentence-transformers reads them
    prefixes = {"query": prompts.get("query", ""), "document": prompts[named[0]] if named else ""}
    if stanford:
        prefixes = {task: _trained_marker(model.tokenizer, prefix) for task, prefix in prefixes.items()}
        _skip_as_trained(model)
    body = model[0]
    return Loaded(model, prefixes, body.query_expansion, body.query_length, body.document_length)


def _check_folder(folder: Path) -> bool:
    """Whether it is in Stanford ColBERT's layout; ConfigError unless it holds a late-interaction model."""
    modules, path = folder / "modules.json", folder / "config_sentence_transformers.json"
    if modules.exists():
        config = read_json(path) if path.exists() else {}
        kind = config.get("model_type")
        pylate = any(name in config for name in ("query_prefix", "document_prefix", "do_query_expansion"))
        projects = any("Dense" in module["type"] for module in read_json(modules, list))
        if kind in {"MultiVectorEncoder", "ColBERT"} or (pylate and projects):
            return False
        raise ConfigError(
            f"{folder} gives one vector per text ({kind or 'SentenceTransformer'}), not one per token\n"
            "  use it with retriever=dense, or name a late-interaction model (ColBERT, PyLate, mLateOn)"
        )
    named = (read_json(folder / "config.json") if (folder / "config.json").exists() else {}).get("architectures") or []
    if "HF_ColBERT" in named:
        return True
    raise ConfigError(
        f"{folder} is no late-interaction model: its config.json names {', '.join(named) or 'no architecture'}, and nothing "
        "in it projects token vectors (a projection made up at random would rank at random)\n"
        "  there are folders of sentence-transformers and PyLate (modules.json) and of Stanford's ColBERT (HF_ColBERT); "
        "BGE-M3 needs layout=bge_m3"
    )


def _trained_marker(tokenizer: Any, prefix: str) -> str:
    """The marker as Stanford's code puts it: one token, the unknown one where the vocabulary has no such marker (XLM-R)."""
    marker = prefix.strip()
    if not marker or marker in tokenizer.get_vocab() or tokenizer.unk_token is None:
        return prefix
    progress.say(f"the tokenizer has no {marker}: {tokenizer.unk_token} stands in its place, as it did in training")
    return f"{tokenizer.unk_token} "


def _skip_as_trained(model: Any) -> None:
    """Leave out the punctuation that Stanford's code leaves out: a mark's first token where it stands alone.

    That is "▁!" in XLM-R, where sentence-transformers leaves out "!"; in BERT both are the same.
    """
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    for mask in model:
        if isinstance(mask, MultiVectorMask) and mask.skiplist_words:
            first = [model.tokenizer.encode(mark, add_special_tokens=False)[0] for mark in mask.skiplist_words]
            mask.skiplist_words = model.tokenizer.convert_ids_to_tokens(sorted(set(first)))
            mask.resolve_with_tokenizer(model.tokenizer)


def _keep_whole(tokenizer: Any, prefix: str) -> None:
    """Let a marker that the vocabulary has ("[Q] ", "[QueryMarker]") be one token where it stands before a text."""
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    for marker in (prefix, *prefix.split()[:1]):
        if marker in known:
            if tokenizer.tokenize(marker) != [marker]:
                special = AddedToken(marker, normalized=False, special=True)
                tokenizer.add_special_tokens(
                    {"additional_special_tokens": [special]}, replace_extra_special_tokens=False
                )
            return


class _Reader:
    """One task's texts to token vectors, in the form that `encoding.batches` calls a model."""

    def __init__(
        self, loaded: Loaded, task: Task, prefix: str | None, asked: int | None,
        expand: bool | None, attend: bool | None, field: str,
    ) -> None:  # fmt: skip
        self.encoder, self.task = loaded.encoder, task
        self.tokenizer, self.device = loaded.encoder.tokenizer, loaded.encoder.device
        self.prefix = loaded.prefixes[task] if prefix is None else prefix
        if prefix:
            _keep_whole(self.tokenizer, prefix)
        own = loaded.query_tokens if task == "query" else loaded.doc_tokens
        self.expansion = _expansion(loaded, asked, expand, attend, field) if task == "query" else None
        self.fixed = self.expansion is not None and self.expansion["strategy"] == "fixed"
        if self.fixed and self.expansion is not None:
            asked = int(self.expansion["length"])
        self.limit = encoding.limit(self.encoder, asked, field, own)

    def encode(self, texts: Sequence[str], budget: int | None) -> Iterator[Encoded]:
        """The texts' scored token vectors, in batches' order."""
        body = self.encoder[0]
        if self.task == "query":
            body.query_expansion, body.query_length = None, None if self.fixed else self.limit
            try:
                body.query_expansion = self.expansion
            except ValueError as error:
                raise ConfigError(f"the queries cannot be expanded: {error}") from error
        for batch in encoding.batches(self, texts, "vectors", budget, self.limit):
            for at, row, tokens, cut in zip(batch.at, batch.values.numpy(), batch.tokens, batch.cut, strict=True):
                yield Encoded(at, row[row[:, -1] > 0, :-1], tokens, cut)

    def preprocess(self, texts: Sequence[str]) -> Any:
        """Features; `attention_mask` covers the mask tokens too, what the encoder attends to is in `encoder_mask`."""
        own = {} if self.fixed or self.limit is None else {"processing_kwargs": {"text": {"max_length": self.limit}}}
        features = self.encoder.preprocess(list(texts), prompt=self.prefix or None, task=self.task, **own)
        if self.expansion is not None:
            features["encoder_mask"] = features["attention_mask"]
            features["attention_mask"] = (
                features["encoder_mask"].bool() | features["query_expansion_positions"]
            ).long()
        return features

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        """{vectors: (texts, tokens, dimensions + 1)}; the last number says whether the token is scored."""
        import torch

        if "encoder_mask" in features:
            features["attention_mask"] = features.pop("encoder_mask")
        found = self.encoder(features, task=self.task)
        scored = found["attention_mask"].unsqueeze(-1).float()
        return {"vectors": torch.cat([found["token_embeddings"].float(), scored], -1)}


def _expansion(
    loaded: Loaded, asked: int | None, expand: bool | None, attend: bool | None, field: str
) -> dict[str, Any] | None:
    """sentence-transformers' query_expansion as the fields say, else the folder; None: queries are read as they are."""
    if expand is False or (expand is None and loaded.expansion is None):
        if attend is not None:
            node = field.partition(".")[0]
            raise ConfigError(f"{node}.attend_to_expansion: the model expands no queries; say {node}.expansion=true")
        return None
    found = dict(loaded.expansion or {"strategy": "fixed", "attend": False, "length": loaded.query_tokens or 32})
    if asked is not None:
        found["length"] = asked
    if attend is not None:
        found["attend"] = attend
    return found


def packed(encoded: Sequence[Encoded]) -> TokenVectors:
    """Their vectors one after the other."""
    import numpy as np

    lengths = np.array([len(found.vectors) for found in encoded], np.int32)
    return TokenVectors(np.concatenate([found.vectors for found in encoded] or [np.empty((0, 0), np.float32)]), lengths)


# Scoring ----------------------------------------------------------------------------------------------------------------


def maxsim(queries: TokenVectors, docs: TokenVectors, on: str = "cpu") -> np.ndarray:
    """(queries, documents) float32: the sum over a query's tokens of the largest inner product with a document's token.

    Computed in float32, in blocks, so that memory stays flat; a document without tokens gets NO_TOKENS.
    """
    import numpy as np
    import torch

    scores = np.full((len(queries.lengths), len(docs.lengths)), NO_TOKENS, np.float32)
    blocks = [(at, vectors.to(on)) for at, vectors in _query_blocks(queries)]
    for rows, width, padded in _doc_blocks(docs):
        part = torch.from_numpy(padded).to(on).float()  # (documents x width, padded to ROWS; dimensions)
        for at, query in blocks:
            found = part @ query.flatten(0, 1).T  # (document tokens, query tokens)
            best = found[: len(rows) * width].view(len(rows), width, -1).amax(1)  # (documents, query tokens)
            scores[np.ix_(at, rows)] = best.view(len(rows), *query.shape[:2]).sum(-1).T.cpu().numpy()
    return scores


def _query_blocks(queries: TokenVectors) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Rows and (queries, longest, dimensions) float32; padded with zero vectors, whose largest product is exactly 0."""
    import numpy as np
    import torch

    order = np.argsort(-queries.lengths, kind="stable")
    ends = np.cumsum(queries.lengths, dtype=np.int64)
    start = 0
    while start < len(order):
        longest = max(1, int(queries.lengths[order[start]]))
        at = order[start : start + max(1, SCORES // DOC_ROWS // longest)]
        block = torch.zeros(len(at), longest, queries.vectors.shape[1])
        for row, i in enumerate(at):
            length = int(queries.lengths[i])
            block[row, :length] = torch.from_numpy(np.asarray(queries.vectors[ends[i] - length : ends[i]], np.float32))
        yield at, block
        start += len(at)


def _doc_blocks(docs: TokenVectors) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Rows, tokens per document and (documents x tokens, dimensions); shorter ones repeat their last token."""
    import numpy as np

    ends = np.cumsum(docs.lengths, dtype=np.int64)
    order = np.argsort(-docs.lengths, kind="stable")
    order = order[docs.lengths[order] > 0]
    start = 0
    while start < len(order):
        width = int(docs.lengths[order[start]])
        rows = order[start : start + max(1, DOC_ROWS // width)]
        lengths = docs.lengths[rows].astype(np.int64)
        at = (ends[rows] - lengths)[:, None] + np.minimum(np.arange(width), lengths[:, None] - 1)
        flat = np.pad(at.reshape(-1), (0, -at.size % ROWS), mode="edge")
        yield rows, width, np.asarray(docs.vectors[flat])
        start += len(rows)


# Token vectors on disk ---------------------------------------------------------------------------------------------------


def write_shard(folder: Path, ids: Sequence[str], encoded: Iterator[Encoded]) -> dict[str, int]:
    """Write `tokens.npy` (tokens, dimensions) float16, `lengths.npy`, `ids.txt`; counts: texts, tokens, cut, vectors, bytes.

    Documents stand in the order they come, written as they come, so that memory stays flat for long ones too.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    named: list[str] = []
    lengths: list[int] = []
    width = 0
    counts = {"texts": len(ids), "tokens": 0, "cut": 0}
    with (folder / "tokens.npy").open("wb") as out:
        for found in encoded:
            if not named:
                width = found.vectors.shape[1]
                _header(out, 0, width)
            named.append(ids[found.at])
            lengths.append(len(found.vectors))
            out.write(found.vectors.astype("<f2").tobytes())
            counts["tokens"] += found.tokens
            counts["cut"] += found.cut
        out.seek(0)
        _header(out, sum(lengths), width)
    np.save(folder / "lengths.npy", np.array(lengths, np.int32), allow_pickle=False)
    (folder / "ids.txt").write_text("".join(f"{i}\n" for i in named), encoding="utf-8", newline="\n")
    size = sum((folder / name).stat().st_size for name in ("tokens.npy", "lengths.npy", "ids.txt"))
    return {**counts, "vectors": sum(lengths), "bytes": size}


def _header(out: Any, tokens: int, width: int) -> None:
    """The .npy header of (tokens, width) float16; numpy leaves room in it, so that its size is the same for any number."""
    import numpy as np

    shape = {"descr": "<f2", "fortran_order": False, "shape": (tokens, width)}
    np.lib.format.write_array_header_1_0(out, shape)


def read_shards(index: Path) -> Iterator[Shard]:
    """The shards of an index, `index/shards/00000`, ..., in order. Raises DataError where files do not fit together."""
    import numpy as np

    for path in sorted(path for path in (index / "shards").iterdir() if path.name.isdigit()):
        ids = Lines(path / "ids.txt")
        lengths = np.load(path / "lengths.npy", allow_pickle=False)
        vectors = np.load(path / "tokens.npy", mmap_mode="r" if lengths.sum() else None, allow_pickle=False)
        if len(ids) != len(lengths) or lengths.sum() != len(vectors):
            raise DataError(
                f"{path}: {len(ids)} documents, lengths of {len(lengths)} with {lengths.sum()} tokens, {len(vectors)} vectors; "
                "build the index again"
            )
        yield Shard(ids, TokenVectors(vectors, lengths))


def check_dimensions(where: Path, queries: TokenVectors, width: int) -> None:
    """Raise DataError for queries of another model than the index."""
    if queries.vectors.shape[1] != width:
        raise DataError(
            f"{where} holds token vectors of {width} numbers and the model gives queries {queries.vectors.shape[1]}: "
            "it was built by another model; build the index again"
        )
