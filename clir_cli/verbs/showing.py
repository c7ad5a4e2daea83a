"""What `clir show` prints: an experiment, and one of its topics, as wide as the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clir_cli.errors import many
from clir_cli.plan import aligned
from clir_cli.text.terminal import MORE, columns, fitted, one_line, wrapped
from clir_cli.verbs.listing import metric_table

Json = dict[str, Any]
FEW = 5  # topics at either end
LINES = 2  # of a text
ANSWERS = 10  # of a topic
COSTS = ("seconds", "documents", "queries", "calls", "prompt_tokens", "output_tokens", "usd")


def width() -> int:
    return shutil.get_terminal_size((140, 24)).columns


# The experiment -------------------------------------------------------------------------------------------------------


def overview(said: Json, full: bool) -> str:
    parts = [
        [said["experiment"]], _labelled(_what(said)), _metrics(said), _topics(said, full), _costs(said),
        [line for note in said["notes"] for line in _item(f"note: {note}")], _files(said),
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _what(said: Json) -> Iterator[tuple[str, str]]:
    labels = said["labels"]
    if said["query_lang"]:
        yield "dataset", f"{labels['dataset']}: topics in {said['query_lang']}, documents in {said['doc_lang']}"
    else:
        yield "dataset", labels["dataset"]
    yield "first stage", f"{labels['retriever']}, {many(said['depth'], 'document')} deep"
    if said["rerank_depth"]:
        llm = f" by {labels['llm']}" if labels.get("llm", "none") != "none" else ""
        yield "reranker", f"{labels['reranker']}{llm}, {many(said['rerank_depth'], 'document')} deep"
    for reader in said["readers"]:
        yield "reads", _reads(reader)
    for judged in said["judgments"]:
        counted = "every judged topic" if judged["topics"] == "judged" else "topics with a relevant document"
        yield "judgments", f"{judged['judgments']}, averaged over {counted}"
    yield "made", f"{said['made'][:19].replace('T', ' ')} by: {said['command']}"


def _reads(reader: Json) -> str:
    asked = " + ".join(reader["query_langs"])
    seen = ", ".join(dict.fromkeys(" + ".join(langs) for langs in reader["doc_views"].values()))
    unit = {"document": "documents", "best_passage": "best passages", "passages": "all passages"}[reader["unit"]]
    query = f" ({', '.join(reader['query_fields'])})" if reader["query_fields"] else ""
    doc = f" ({', '.join(reader['doc_fields'])})" if reader["doc_fields"] else ""
    return f"{reader['name']}: topics in {asked}{query}, {unit} in {seen}{doc}"


def _metrics(said: Json) -> list[str]:
    rows = [{**row, "value": "nan" if row["value"] is None else row["value"]} for row in said["metrics"]]
    return metric_table(rows).splitlines()


def _topics(said: Json, full: bool) -> list[str]:
    found: list[Json] = said["topics"]
    if not found:
        return []
    reranked = "first_stage" in found[0]
    every = full or len(found) <= 2 * FEW + 1
    chosen = found if every else [*found[:FEW], *found[-FEW:]]
    rows = [
        (r["query_id"], *((_value(r["first_stage"]),) if reranked else ()), _value(r["final"]),
         *((_change(r["first_stage"], r["final"]),) if reranked else ()))
        for r in chosen
    ]  # fmt: skip
    head = ("topic", *(("first_stage",) if reranked else ()), "final", *(("change",) if reranked else ()))
    lines = aligned([head, *rows], right=range(1, len(head)))
    room = max(20, width() - max(map(len, lines)) - 2)
    wide = max(map(len, lines))
    lines = [
        lines[0],
        *(f"{line.ljust(wide)}  {fitted(r['text'], room)}".rstrip() for line, r in zip(lines[1:], chosen, strict=True)),
    ]
    if not every:
        lines.insert(1 + FEW, f"... {many(len(found) - 2 * FEW, 'topic')} between; --full shows them")
    return [f"{said['main']} by topic, the worst first", *lines]


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _change(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{after - before:+.4f}"


def _costs(said: Json) -> list[str]:
    rows, totals = [], dict.fromkeys(COSTS, 0.0)
    for row in said["costs"]:
        amounts = {name: float(row.get(name) or 0) for name in COSTS if name != "calls"}
        amounts["calls"] = float(row["calls_asked"] or 0) + float(row["calls_answered_from_cache"] or 0)
        stage, _, label = row["step"].partition("/")
        rows.append((stage, label.rpartition("-")[0], *(_amount(amounts[n], n) for n in COSTS)))
        for name in ("seconds", "calls", "prompt_tokens", "output_tokens", "usd"):
            totals[name] += amounts[name]
    head = ("step", "", *(n if any(r[i + 2] for r in rows) else "" for i, n in enumerate(COSTS)))
    rows.append(("all", "", *(_amount(totals[n], n) for n in COSTS)))
    numbers = aligned([head[2:], *(r[2:] for r in rows)], right=range(len(COSTS)))
    room = max(20, width() - max(map(len, numbers)) - 13)
    names = aligned([(r[0], fitted(r[1], room)) for r in (head, *rows)])
    wide = max(map(len, names))
    return [f"{name.ljust(wide)}  {amounts}" for name, amounts in zip(names, numbers, strict=True)]


def _amount(amount: float, name: str) -> str:
    if not amount:
        return "0.0" if name == "seconds" else ""
    return {"seconds": f"{amount:,.1f}", "usd": f"{amount:.4f}"}.get(name, f"{amount:,.0f}")


def _files(said: Json) -> list[str]:
    folder = Path(said["folder"])
    root = from_here(folder.parents[1] / "steps")
    lines = [from_here(folder), *(f"  {line}" for line in wrapped(" ".join(said["files"]), width() - 2)), root]
    return [*lines, *(f"  {s['step']}{'' if s['there'] else '  (not there)'}" for s in said["steps"])]


def from_here(path: Path) -> str:
    """A path as one types it: relative if it is below the current directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _labelled(rows: Iterator[tuple[str, str]]) -> list[str]:
    """Label and text; the same label stands once."""
    found, before = [], ""
    for label, text in rows:
        first, *more = wrapped(text, max(20, width() - 13))
        found += [f"{'' if label == before else label:11}  {first}", *(f"{'':13}{line}" for line in more)]
        before = label
    return found


def _item(text: str) -> list[str]:
    """A sentence over several lines; what stands behind a line break, such as a command, stays whole."""
    said, *whole = text.split("\n")
    first, *more = wrapped(said, width() - 2) or [""]
    return [first, *(f"  {line}" for line in (*more, *whole))]


# One topic ------------------------------------------------------------------------------------------------------------


def topic(said: Json, full: bool) -> str:
    stages = list(dict.fromkeys(v["stage"] for v in said["values"]))
    parts = [
        [f"{said['query_id']} in {said['experiment']}"], _asked(said), _values(said, stages), _ranking(said, full),
        _others(said, full), _answers(said, full), [line for note in said["notes"] for line in _item(f"note: {note}")],
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _asked(said: Json) -> list[str]:
    """The topic in its languages, and who reads what."""
    names = max((len(name) for fields in said["topic"].values() for name in fields), default=0)
    lines, langs = [], max(map(len, said["topic"]), default=0)
    for lang, fields in said["topic"].items():
        for i, (name, text) in enumerate((n, t) for n, t in fields.items() if t.strip()):
            label = f"{lang if i == 0 else '':{langs}}  {name:{names}}  "
            first, *more = wrapped(text, max(20, width() - len(label))) or [""]
            lines += [label + first, *(" " * len(label) + line for line in more)]
    readers = [line for reader in said["readers"] for line in _item(_reads(reader))]
    return [*lines, *([""] if lines and readers else []), *readers]


def _values(said: Json, stages: Sequence[str]) -> list[str]:
    several = len(said["judgments"]) > 1
    found: dict[str, dict[str, str]] = {}
    for v in said["values"]:
        name = f"{v['measure']} ({v['judgments']})" if several else v["measure"]
        found.setdefault(name, {})[v["stage"]] = _value(v["value"])
    shown = stages if said["documents"] and said["documents"][0]["ranks"] else [s for s in stages if s == "final"]
    rows = [(measure, *(of.get(stage, "-") for stage in shown)) for measure, of in found.items()]
    return aligned([("measure", *shown), *rows], right=range(1, len(shown) + 1)) if rows else []


def _ranking(said: Json, full: bool) -> list[str]:
    if not said["documents"]:
        return ["nothing was found"]
    lines = _documents(said["documents"], said, full)
    if not full and any(row["passage"] for row in said["documents"]):
        lines = ["best passages; --full shows them in their documents", *lines]
    left = said["ranked"] - len(said["documents"])
    return lines if left <= 0 else [*lines, f"... {left} more; --depth shows them"]


def _others(said: Json, full: bool) -> list[str]:
    """Relevant documents that are not among those shown: found below them, or not at all."""
    lines: list[str] = []
    for name, what in (("below", "relevant, further down"), ("missed", "relevant, not found")):
        rows: list[Json] = said[name]
        if not rows:
            continue
        shown = rows if full else rows[: max(FEW, len(said["documents"]))]
        lines += ["", f"{what}: {len(rows)}", *_documents(shown, said, full)]
        if len(shown) < len(rows):
            lines.append(f"... {len(rows) - len(shown)} more; --full shows them")
    return lines[1:]


def _documents(rows: Sequence[Json], said: Json, full: bool) -> list[str]:
    """Each document's ranks, grades and score in a line, its texts below."""
    between = list(rows[0]["ranks"])
    scores = any(r["score"] is not None for r in rows)
    judged = [("grade" if len(said["judgments"]) == 1 else name) for name in said["judgments"]]
    head = ("rank", *between, *judged, *(("score",) if scores else ()), "document")
    cells = [
        (
            _number(r["rank"]), *(_number(r["ranks"][stage]) for stage in between), *(_number(g) for g in r["grades"].values()),
            *((f"{r['score']:.5g}" if r["score"] is not None else "-",) if scores else ()), r["doc_id"],
        )
        for r in rows
    ]  # fmt: skip
    first, *lines = aligned([head, *cells], right=range(len(head) - 1))
    found = [first]
    for line, r in zip(lines, rows, strict=True):
        found += [line, *_texts(r, full)]
    return found


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _texts(row: Json, full: bool) -> Iterator[str]:
    """A document in its languages: its best passage where there is one, in full the whole text with the passage marked."""
    wide = max(map(len, row["texts"]), default=0)
    for lang, text in row["texts"].items():
        begin = f"      {lang:{wide}}  "
        shown = _marked(text, row["passage"].get(lang), full)
        lines = wrapped(shown, max(20, width() - len(begin)), None if full else LINES)
        yield from (f"{begin if i == 0 else ' ' * len(begin)}{line}" for i, line in enumerate(lines))


def _marked(text: str, passage: str | None, full: bool) -> str:
    if not passage:
        return text
    before, _, after = text.partition(passage)
    if full:
        return f"{before}[[{passage}]]{after}"
    return f"{MORE + ' ' if before.strip() else ''}{passage}{' ' + MORE if after.strip() else ''}"


def _answers(said: Json, full: bool) -> list[str]:
    """What the language model was asked about, and what it said, as it came."""
    found: list[Json] = said["answers"]
    if not found:
        return []
    cost = said["cost"]
    head = [
        f"{_count(len(found), 'answer')} in {_count(int(cost.get('rounds', 0)), 'round')}",
        f"{sum(a['prompt_tokens'] for a in found):,} prompt tokens",
        f"{sum(a['output_tokens'] for a in found):,} output tokens",
        *(f"{cost[name]:.0f} {name}" for name in ("repaired", "failed") if cost.get(name)),
    ]
    lines = [f"the reranker's answers: {', '.join(head)}"]
    shown = found if full else found[:ANSWERS]
    wide = len(str(len(shown)))
    for i, answer in enumerate(shown, 1):
        lines += _answer(f"{i:{wide}}  ", answer, full)
    if len(shown) < len(found):
        lines.append(f"... {len(found) - len(shown)} more; --full shows them")
    return lines


def _answer(begin: str, answer: Json, full: bool) -> list[str]:
    tokens = f"{answer['prompt_tokens']} + {answer['output_tokens']} tokens"
    said = [answer["status"], tokens]
    said += [f"asked again ({answer['attempt']})"] if answer.get("attempt") else []
    said += ["from the store"] if answer.get("cached") else []
    said += ["cut at the token limit"] if answer.get("truncated") else []
    docs = answer.get("docs", [])
    about = f"about {f'{len(docs)} documents: ' if len(docs) > 2 else ''}{' '.join(docs)}"
    texts = [about, *([f"error: {answer['error']}"] if answer.get("error") else []), *_words(answer)]
    if columns(short := "  ".join([begin + ", ".join(said), *texts])) <= width():
        return [short]
    lines, room, indent = [begin + ", ".join(said)], max(20, width() - len(begin)), " " * len(begin)
    for text in texts:
        lines += [indent + line for line in wrapped(text, room, None if full else LINES)]
    return lines


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _words(answer: Json) -> Iterator[str]:
    if text := one_line(answer.get("text") or ""):
        yield f"said: {text}"
    if answer.get("scores"):
        yield f"log-probabilities: {' '.join('-inf' if s is None else f'{s:.4g}' for s in answer['scores'])}"
