"""The analyses that the literature makes of encoders on parallel texts, for any encoder and any pair of languages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clir_cli.config import Config
from clir_cli.datasets.bitext import Bitext
from clir_cli.diagnosis import geometry, layers, tokens
from clir_cli.errors import ConfigError, DataError
from clir_cli.progress import say, track
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.single_vector import SingleVector
from clir_cli.search import margin, vectors
from clir_cli.search.postprocess import unit
from clir_cli.types import Doc, Query, Text
from clir_cli.views import Fields

if TYPE_CHECKING:
    import numpy as np

# What stands in a CSV: the encoder's and the collection's labels; the pair of languages (xsim: source-target; the probe of all
# languages: `all`); the language, where a value is of one of them (of `all`: a+b+c); the layer ("0": the embeddings; `output`;
# of mexa also `mean` and `max` of the hidden ones; empty for tokens); the measure; its value; how many pairs of texts it is of.
COLUMNS = ["retriever", "dataset", "pair", "lang", "layer", "measure", "value", "texts"]
OUTPUT = "output"  # in column `layer`: the vector that retrieval uses
FILES = ("mining", "xsim", "mexa", "probe", "similarity", "isotropy", "uniformity", "tokens")


class Row(NamedTuple):
    """A line of one of the CSV files; `file` names it. `lang` is empty where the value is of both languages."""

    file: str
    retriever: str
    dataset: str
    pair: str
    lang: str
    layer: str
    measure: str
    value: float
    texts: int


@dataclass(frozen=True)
class Bitexts:
    """Parallel texts and their vectors: those of retrieval, and of every layer where the encoder shows them.

    The first language's texts are encoded as queries, the second's as documents, with the encoder's prefixes.
    """

    cfg: Config
    gold: list[tuple[int, int]]  # (row of the first language, row of the second) that translate each other
    everything: tuple[np.ndarray, np.ndarray]  # (texts, dimensions) each, texts without a partner too
    texts: tuple[list[Text], list[Text]]  # from here on row i of one translates row i of the other
    output: tuple[np.ndarray, np.ndarray]  # (pairs, dimensions) each
    hidden: tuple[np.ndarray, np.ndarray] | None  # (layers, pairs, dimensions) each
    reports: tuple[Mapping[str, float], Mapping[str, float]]

    @property
    def langs(self) -> tuple[str, str]:
        return self.cfg.dataset.query_lang, self.cfg.dataset.doc_label

    def spaces(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(layer, first language's vectors, second's): "0", ..., then the output."""
        if self.hidden is not None:
            for number, (x, y) in enumerate(zip(*self.hidden, strict=True)):
                yield str(number), x, y
        yield OUTPUT, *self.output

    def row(self, file: str, measure: str, value: float, *, lang: str = "", layer: str = "", pair: str = "") -> Row:
        labels = self.cfg.labels
        pair = pair or "-".join(self.langs)
        size = len(self.texts[0])
        return Row(file, labels["retriever"], labels["dataset"], pair, lang, layer, measure, float(value), size)


def analysed(cells: Sequence[Config], most: int) -> list[Row]:
    """All analyses of each cell's encoder on the first `most` lines of its pair; the probe over all languages too."""
    found: list[Row] = []
    seen: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # encoder -> layer -> language -> vectors
    said: set[str] = set()
    last: dict[str, Bitexts] = {}
    for cfg in track(cells, len(cells), "analyse", "pairs"):
        bitext = _encoded(cfg, most, said)
        for analysis in (_mining, _xsim, _mexa, _probe, _similarity, _isotropy, _uniformity, _tokens):
            found += analysis(bitext)
        retriever = cfg.labels["retriever"]
        last[retriever] = bitext
        for layer, *sides in bitext.spaces():
            languages = seen.setdefault(retriever, {}).setdefault(layer, {})
            for lang, vectors_of in zip(bitext.langs, sides, strict=True):
                languages.setdefault(lang, vectors_of)
    for retriever, spaces in seen.items():
        for layer, languages in spaces.items():
            if len(languages) > 2:
                size = min(map(len, languages.values()))  # as many of each: chance is 1 / languages
                value = geometry.language_probe({lang: rows[:size] for lang, rows in languages.items()})
                row = last[retriever].row("probe", "language_probe", value, layer=layer, pair="all", lang="+".join(languages))  # fmt: skip
                found.append(row._replace(texts=size))
    return found


# Reading and encoding -------------------------------------------------------------------------------------------------


def _lines(cfg: Config, most: int) -> tuple[tuple[list[Text], list[Text]], list[tuple[int, int]]]:
    """Texts in both languages, and which rows translate each other, `most` pairs at most.

    Of bitext its lines; of another collection the documents that share `aligned`. Only of a bitext with `gold` texts without
    a partner are kept, all of them: there they are distractors.
    """
    dataset = cfg.dataset
    if len(dataset.doc_langs) != 1 or dataset.query_lang == dataset.doc_label:
        raise ConfigError(
            f"--bitext compares two languages, and the pair is {dataset.query_lang}-{dataset.doc_label}; "
            "several pairs are a sweep: -m dataset.pair=de-en,fr-en"
        )
    first, second = dataset.query_lang, dataset.doc_label
    docs = {d.doc_id: _text(cfg, d.doc_id, d) for d in dataset.read_docs(second)}
    if isinstance(dataset, Bitext):
        own = {q.query_id: _text(cfg, q.query_id, q) for q in dataset.read_topics(first)}
        pairs = [(row.query_id, row.doc_id) for row in dataset.read_qrels("lines")]
    else:
        own = {d.doc_id: _text(cfg, d.doc_id, d) for d in dataset.read_docs(first)}
        there = {d.aligned: d.doc_id for d in dataset.read_docs(second) if d.aligned is not None}
        pairs = [(d.doc_id, there[d.aligned]) for d in dataset.read_docs(first) if d.aligned in there]
    pairs = [pair for pair in pairs if pair[0] in own and pair[1] in docs][:most]
    if len(pairs) < 4:
        raise DataError(
            f"{cfg.labels['dataset']}: {len(pairs)} texts in {first} and {second} belong together, at least 4 are needed\n"
            "  use dataset=bitext, or say which documents are translations of each other: dataset.aligned='[a-z]+-(.*)'"
        )
    if getattr(dataset, "gold", None) is None:
        own, docs = {a: own[a] for a, _ in pairs}, {b: docs[b] for _, b in pairs}
    at_own, at_docs = ({name: i for i, name in enumerate(side)} for side in (own, docs))
    return (list(own.values()), list(docs.values())), [(at_own[a], at_docs[b]) for a, b in pairs]


def _text(cfg: Config, name: str, row: Query | Doc) -> Text:
    return Text(name, ((row.lang, Fields(cfg.dataset.doc_fields, cfg.dataset.field_separator).join(name, row.fields, "doc_fields")),))  # fmt: skip


def _encoded(cfg: Config, most: int, said: set[str]) -> Bitexts:
    encoder, label = cfg.retriever, cfg.labels["retriever"]
    if not isinstance(encoder, SingleVector):
        raise ConfigError(f"retriever={label} gives a text no single vector: --bitext is for encoders, such as labse")
    if hasattr(encoder, "check_languages"):
        encoder.check_languages([cfg.dataset.query_lang], [cfg.dataset.doc_label])
    texts, gold = _lines(cfg, most)
    (x, of_x), (y, of_y) = encoder.encode(texts[0], "query"), encoder.encode(texts[1], "document")
    rows = [i for i, _ in gold], [j for _, j in gold]
    paired = [texts[0][i] for i in rows[0]], [texts[1][j] for j in rows[1]]
    hidden = None
    if reason := layers.without_layers(encoder, texts[0][0].lang) or layers.without_layers(encoder, texts[1][0].lang):
        if label not in said:
            say(f"{label}: {reason}; its output alone is analysed")
            said.add(label)
    elif isinstance(encoder, Dense):
        hidden = layers.encode(encoder, paired[0], "query"), layers.encode(encoder, paired[1], "document")
    return Bitexts(cfg, gold, (x, y), paired, (x[rows[0]], y[rows[1]]), hidden, (of_x, of_y))


# Finding translations -------------------------------------------------------------------------------------------------

Kind = Literal["absolute", "ratio", "distance"]


def _best(x: np.ndarray, y: np.ndarray, kind: Kind, neighbours: int) -> list[tuple[float, int]]:
    """Of every row of x the best row of y among its nearest, and the score: what retrieval with `retriever.margin` ranks first."""
    import numpy as np

    x, y = unit(x), unit(y)
    width = len(str(len(y)))
    names = [f"{i:0{width}d}" for i in range(max(len(x), len(y)))]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        vectors.write_shard(folder / "shards" / "00000", names[: len(y)], y.astype(np.float16))
        run = vectors.search_exact(folder, names[: len(x)], x, neighbours, cosine=True, device="cpu")
        if kind != "absolute":
            run = margin.by_margin(run, folder, names[: len(x)], x, kind, neighbours, cosine=True)
    best = run[run["rank"] == 1].set_index("query_id").loc[names[: len(x)]]
    return list(zip(best["score"].tolist(), best["doc_id"].astype(int).tolist(), strict=True))


def _mining(bitext: Bitexts) -> Iterator[Row]:
    """Margin mining (Artetxe & Schwenk 2019): precision, recall and F1 of the pairs above a threshold, four ways to choose candidates.

    `F1(max)` and its parts are of the lines with odd numbers, with the threshold that is best on the even ones (a pair
    counts by its source). `best_F1(max)` is of all lines with the threshold that is best on them: an upper bound. The
    margin is the retriever's, ratio where it has none.
    """
    x, y = bitext.everything
    encoder = bitext.cfg.retriever
    kind: Kind = "ratio" if encoder.margin in {"none", "absolute"} else encoder.margin
    k = encoder.margin_neighbours
    forward = [(score, (i, j)) for i, (score, j) in enumerate(_best(x, y, kind, k))]
    backward = [(score, (i, j)) for j, (score, i) in enumerate(_best(y, x, kind, k))]
    gold = set(bitext.gold)
    for way, found in geometry.best_of(forward, backward).items():
        even, odd = ([item for item in found if item[1][0] % 2 == part] for part in (0, 1))
        threshold = geometry.best_threshold(even, {pair for pair in gold if pair[0] % 2 == 0})
        held_out = geometry.mined(odd, {pair for pair in gold if pair[0] % 2 == 1}, threshold)
        for name, value in (("precision", held_out.precision), ("recall", held_out.recall), ("F1", held_out.f1), ("threshold", threshold)):  # fmt: skip
            yield bitext.row("mining", f"{name}({way})", value, layer=OUTPUT)
        best = geometry.mined(found, gold, geometry.best_threshold(found, gold))
        yield bitext.row("mining", f"best_F1({way})", best.f1, layer=OUTPUT)


def _xsim(bitext: Bitexts) -> Iterator[Row]:
    """xsim (LASER): the share of sentences whose best partner is not their translation, in both directions."""
    x, y = bitext.everything
    a, b = bitext.langs
    k = bitext.cfg.retriever.margin_neighbours
    back = [(j, i) for i, j in bitext.gold]
    for pair, source, target, gold in ((f"{a}-{b}", x, y, bitext.gold), (f"{b}-{a}", y, x, back)):
        for kind in ("absolute", "ratio", "distance"):
            best = [j for _, j in _best(source, target, kind, k)]
            wrong = sum(best[i] != j for i, j in gold)
            yield bitext.row("xsim", f"xsim({kind})", wrong / len(gold), layer=OUTPUT, pair=pair)


def _mexa(bitext: Bitexts) -> Iterator[Row]:
    """MEXA's alignment score, layer by layer, its mean and maximum over hidden layers (Kargaran et al. 2025)."""
    found = {layer: geometry.retrieved_both_ways(x, y) for layer, x, y in bitext.spaces()}
    for layer, value in found.items():
        yield bitext.row("mexa", "alignment", value, layer=layer)
    if hidden := [value for layer, value in found.items() if layer != OUTPUT]:
        yield bitext.row("mexa", "alignment", sum(hidden) / len(hidden), layer="mean")
        yield bitext.row("mexa", "alignment", max(hidden), layer="max")


# The space ------------------------------------------------------------------------------------------------------------


def _probe(bitext: Bitexts) -> Iterator[Row]:
    """How well a linear classifier tells the two languages apart, layer by layer: 0.5 is a space without languages."""
    for layer, x, y in bitext.spaces():
        vectors_of = dict(zip(bitext.langs, (x, y), strict=True))
        yield bitext.row("probe", "language_probe", geometry.language_probe(vectors_of), layer=layer)


def _similarity(bitext: Bitexts) -> Iterator[Row]:
    """Whether both languages' texts lie to each other as their translations do (CKA), layer by layer."""
    for layer, x, y in bitext.spaces():
        yield bitext.row("similarity", "CKA", geometry.linear_cka(x, y), layer=layer)
        yield bitext.row("similarity", "CKA(debiased)", geometry.debiased_cka(x, y), layer=layer)


def _isotropy(bitext: Bitexts) -> Iterator[Row]:
    """Anisotropy and outlier dimensions of each language, layer by layer."""
    for layer, *sides in bitext.spaces():
        for lang, x in zip(bitext.langs, sides, strict=True):
            found = geometry.outliers(x)
            for name, value in (("anisotropy", geometry.anisotropy(x)), ("outlier_dimensions", len(found.dimensions)), ("strongest_dimension", found.strongest), ("strongest_share", found.share)):  # fmt: skip
                yield bitext.row("isotropy", name, value, lang=lang, layer=layer)


def _uniformity(bitext: Bitexts) -> Iterator[Row]:
    """Alignment of the pair and uniformity of each language (Wang & Isola 2020), layer by layer."""
    for layer, x, y in bitext.spaces():
        yield bitext.row("uniformity", "alignment", geometry.alignment(x, y), layer=layer)
        for lang, side in zip(bitext.langs, (x, y), strict=True):
            yield bitext.row("uniformity", "uniformity", geometry.uniformity(side), lang=lang, layer=layer)


# Tokens ---------------------------------------------------------------------------------------------------------------


def _tokens(bitext: Bitexts) -> Iterator[Row]:
    """Fertility, unknown tokens and truncation of each language, and premium: the first language's tokens over the second's.

    A premium of 2 means that the same content takes twice the tokens (Petrov et al. 2023).
    """
    for found in tokens.tokenizers_of([bitext.cfg.retriever]):
        if isinstance(found, str):
            say(found)
            continue
        counted = [tokens.count(found, [t.text for t in side], lang) for side, lang in zip(bitext.texts, bitext.langs, strict=True)]  # fmt: skip
        for lang, counts in zip(bitext.langs, counted, strict=True):
            for name, value in {"tokens": counts.tokens, **counts.shares}.items():
                yield bitext.row("tokens", name, value, lang=lang)
        if counted[1].tokens:
            yield bitext.row("tokens", "premium", counted[0].tokens / counted[1].tokens)
    for lang, report in zip(bitext.langs, bitext.reports, strict=True):
        if "cut" in report:
            yield bitext.row("tokens", "cut_share", report["cut"] / max(report["texts"], 1), lang=lang)


# What is printed ------------------------------------------------------------------------------------------------------

SHOWN = {  # column -> (file, measure, layer)
    "xsim": ("xsim", "xsim(ratio)", OUTPUT), "F1": ("mining", "F1(max)", OUTPUT), "MEXA": ("mexa", "alignment", OUTPUT),
    "best layer": ("mexa", "alignment", "max"), "probe": ("probe", "language_probe", OUTPUT),
    "CKA": ("similarity", "CKA(debiased)", OUTPUT), "alignment": ("uniformity", "alignment", OUTPUT),
    "premium": ("tokens", "premium", ""),
}  # fmt: skip
SHOWN_OF_BOTH = {
    "anisotropy": ("isotropy", "anisotropy", OUTPUT), "uniformity": ("uniformity", "uniformity", OUTPUT),
    "fertility": ("tokens", "fertility", ""), "cut": ("tokens", "cut_share", ""),
}  # fmt: skip


def table(found: Sequence[Row]) -> str:
    """A line per encoder and pair; of measures by language both values, the first language's first."""
    from clir_cli.plan import aligned

    values: dict[tuple[Any, ...], float] = {(r.retriever, r.dataset, r.pair, r.file, r.measure, r.layer, r.lang): r.value for r in found}  # fmt: skip
    lines = list(dict.fromkeys((r.retriever, r.dataset, r.pair, r.texts) for r in found if r.file == "mining"))
    body = []
    for retriever, dataset, pair, texts in lines:
        cells = [_shown(values.get((retriever, dataset, pair, *place, ""))) for place in SHOWN.values()]
        for place in SHOWN_OF_BOTH.values():
            both = [values.get((retriever, dataset, pair, *place, lang)) for lang in pair.split("-")]
            cells.append("/".join(map(_shown, both)))
        body.append((retriever, dataset, pair, str(texts), *cells))
    head = ("retriever", "dataset", "pair", "texts", *SHOWN, *SHOWN_OF_BOTH)
    empty = [i for i in range(4, len(head)) if all(set(row[i]) <= set("-/") for row in body)]
    kept = [i for i in range(len(head)) if i not in empty]
    shown = [[row[i] for i in kept] for row in (head, *body)]
    joint = [f"probe over {r.lang}: {r.value:.3f} (chance {1 / (r.lang.count('+') + 1):.3f}), {r.retriever}" for r in found if r.pair == "all" and r.layer == OUTPUT]  # fmt: skip
    return "\n".join([*aligned(shown, right=range(3, len(kept))), *joint])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def as_dicts(found: Sequence[Row], file: str) -> list[dict[str, Any]]:
    """The lines of one CSV file."""
    return [{c: repr(v) if isinstance(v, float) else v for c, v in r._asdict().items() if c != "file"} for r in found if r.file == file]  # fmt: skip
