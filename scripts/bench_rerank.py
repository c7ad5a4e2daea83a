"""LLM rerankers beside a loop of one query and one prompt at a time, in one run: ratios count, not seconds.

python scripts/bench_rerank.py                       # decoders of 2 layers and widths 64 and 256 with random weights, 3 minutes
python scripts/bench_rerank.py --only setwise listwise --queries 10 --width 512

The loop does what llm-rankers and rank_llm do: the same algorithm, model, prompts and choice of the best label, each prompt
through `generate` for one token (a pair's two orders in one batch) with logits over the whole vocabulary, or for a window's ranking.
Where arithmetic bounds reading (a wide model on a CPU) batches do not save it: what is left for sets and pairs is the overhead
of `generate`, prefixes read once, and all threads busy. Where overhead bounds it (a small model, or a GPU) batches save most.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from clir_cli.llms import scoring
from clir_cli.llms.transformers import Transformers
from clir_cli.prompts.instructed import Order, Pick
from clir_cli.rerankers.engine import LLMReranker
from clir_cli.rerankers.listwise import Listwise, read_digits
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.rerankers.sorting import Request, Sort
from clir_cli.types import Candidates, Journal, Prompt, Shown, Text

CHAT = "<s>{% for turn in messages %}{{ turn.content }}</s>{% endfor %}"
VOCABULARY = 32_000  # rows of the output matrix, as Llama 2 has them


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--queries", type=int, default=30)
    options.add_argument("--documents", type=int, default=25, help="candidates of a query")
    options.add_argument("--words", type=int, default=12, help="of a document, one or two tokens each")
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--width", type=int, nargs="+", default=[64, 256])
    options.add_argument(
        "--threads", type=int, help="else all, and wall time; 1: CPU time, which minds other work less"
    )
    options.add_argument("--only", nargs="+", default=["setwise", "pairwise", "listwise"])
    options.add_argument(
        "--loop-queries", type=int, default=3, help="that the loop is timed on; it has no other economies"
    )
    asked = options.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    transformers.logging.set_verbosity_error()
    queries = drawn(asked.queries, asked.documents, asked.words)
    for width in asked.width:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), asked.layers, width, queries)
            llm = Transformers(model=folder, context=4096, device="cpu", force_length=True)
            rerankers: dict[str, LLMReranker] = {
                "setwise": Setwise(llm, Pick(), top=5, query_tokens=32),
                "pairwise": Pairwise(llm, Pick(), top=3, query_tokens=32),
                "all_pairs": Pairwise(llm, Pick(), sort_by="all_pairs", query_tokens=32),
                "listwise": Listwise(llm, Order(spare_tokens=0), query_tokens=32, parsing="digits"),
            }
            print(
                f"{asked.queries} queries x {asked.documents} documents of {asked.words} words, {asked.layers} layers of width "
                f"{width}, {torch.get_num_threads()} threads, {'CPU' if clock() is time.process_time else 'wall'} time; "
                f"the loop on {asked.loop_queries} queries",
                flush=True,
            )
            for name in asked.only:
                compare(name, rerankers[name], llm, queries, asked.loop_queries)


def clock() -> Callable[[], float]:
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def compare(name: str, reranker: LLMReranker, llm: Transformers, queries: list[Candidates], few: int) -> None:
    reranker.rerank(queries[:1], Journal())  # load and warm up
    loop(reranker, llm, queries[0])
    begun = clock()()
    prompts = sum(loop(reranker, llm, query) for query in queries[:few])
    slow = (clock()() - begun) / few
    fast, journal = timed(reranker, queries)
    calls = sum(row["calls"] for row in journal.queries.values())
    print(
        f"{name:9} {slow / fast:5.1f} x   {fast:6.3f} s a query with {calls / len(queries):.0f} prompts, loop {slow:.3f} s with {prompts / few:.0f}",
        flush=True,
    )
    if name == "listwise":
        return
    with without_prefixes():
        plain, _ = timed(reranker, queries)
    read, reused = (sum(row[k] for row in journal.queries.values()) for k in ("prompt_tokens", "cached_prefix_tokens"))
    print(
        f"{'':9} prefix reuse: {reused / read:.0%} of the prompt tokens not read again, {plain / fast:.2f} x without it"
    )


def timed(reranker: LLMReranker, queries: list[Candidates]) -> tuple[float, Journal]:
    """Seconds a query."""
    journal, begun = Journal(), clock()()
    reranker.rerank(queries, journal)
    return (clock()() - begun) / len(queries), journal


@contextmanager
def without_prefixes() -> Iterator[None]:
    before, scoring.SHARED = scoring.SHARED, 1 << 30
    try:
        yield
    finally:
        scoring.SHARED = before


# The loop ---------------------------------------------------------------------------------------------------------------


def loop(reranker: LLMReranker, llm: Transformers, query: Candidates) -> int:
    """One query's documents in order, request by request; how many prompts that took."""
    tokenizer, network = transformers.AutoTokenizer.from_pretrained(llm.model), llm._network()
    tokenizer.padding_side = "left"
    passages = [
        Shown(text, doc.lang)
        for text, doc in zip(llm.cut([d.text for d in query.docs], reranker.budget()), query.docs, strict=True)
    ]
    count = 0

    def say(prompts: list[Prompt], tokens: int) -> Any:
        nonlocal count
        count += len(prompts)
        ids = tokenizer(
            [llm.render(prompt) for prompt in prompts], add_special_tokens=False, padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            return network.generate(
                **ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=2,
                output_logits=tokens == 1, return_dict_in_generate=True,
            )  # fmt: skip

    def settle(request: Request) -> Any:
        shown = [passages[i] for i in request.docs] if hasattr(request, "docs") else [passages[i] for i in request]
        calls = reranker.ask(Shown(query.query.text, "en"), request, shown)
        if calls[0].labels:
            ids = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in calls[0].labels]
            best = say([call.prompt for call in calls], 1).logits[0][:, ids].argmax(1).tolist()
            return [request.docs[best[0]]] if len(best) == 1 else (int(best[0] == 0) + int(best[1] == 1)) / 2
        row = say([calls[0].prompt], calls[0].max_tokens).sequences[0]
        answer = tokenizer.decode(row[-calls[0].max_tokens :], skip_special_tokens=True)
        return [request.docs[i] for i in read_digits(answer, len(shown)).order]

    one_by_one(reranker.sort(len(passages)), settle)
    return count


def one_by_one(sort: Sort, settle: Callable[[Request], Any]) -> None:
    try:
        requests = next(sort)
        while True:
            requests = sort.send([settle(request) for request in requests])
    except StopIteration:
        return


# What is ranked, and by whom --------------------------------------------------------------------------------------------


def drawn(queries: int, documents: int, words: int) -> list[Candidates]:
    draw = random.Random(0)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyzäöåñç", k=draw.randint(2, 9))) for _ in range(3000)]

    def text(lang: str, count: int) -> tuple[tuple[str, str], ...]:
        return ((lang, " ".join(draw.choices(known, k=count))),)

    return [
        Candidates(Text(f"q{q}", text("en", 6)), [Text(f"q{q}d{i}", text("fi", draw.randint(words // 2, words * 3 // 2))) for i in range(documents)])
        for q in range(queries)
    ]  # fmt: skip


def save_model(folder: Path, layers: int, width: int, queries: list[Candidates]) -> None:
    """A decoder of Llama's architecture and a byte-level BPE that knows the documents' words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    said = [
        prompt.messages(Shown(queries[0].query.text, "en"), [Shown(".", "fi")] * 3)[-1].content
        for prompt in (Pick(), Order())
    ]
    bpe.train_from_iterator([*said * 100, *(doc.text for query in queries for doc in query.docs)], trainer)
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    words.chat_template = CHAT
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
