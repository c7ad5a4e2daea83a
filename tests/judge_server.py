"""A real OpenAI-compatible HTTP server on loopback that ranks passages by judgments, and misbehaves when asked to."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[Sequence[int]], str]  # the ideal order of the identifiers -> what the model says

REFUSALS = {
    "400": (400, "this model's maximum context length is 4096 tokens", "context_length_exceeded"),
    "401": (401, "Incorrect API key provided: {key}", "invalid_api_key"),
    "403": (403, "not for {key}", None),
    "404": (404, "no such model", "model_not_found"),
    "429": (429, "slow down, {key}", "rate_limit_exceeded"),
    "quota": (429, "you exceeded your current quota", "insufficient_quota"),
    "filter": (400, "the content management policy refuses this prompt", "content_filter"),
    "500": (500, "the server hiccupped over 12 > 3 > 7", None),
    "503": (503, "overloaded", None),
}


def ranking(ideal: Sequence[int]) -> str:
    return " > ".join(f"[{i}]" for i in ideal)


@dataclass
class JudgeServer:
    """Answers a listwise prompt by `judgments[query text][passage text]`; the n-th request meets `faults[n]`, if any.

    A fault is a key of REFUSALS, or slow, cut, malformed, html, empty, error_in_200. `retry_after` goes with 429.
    """

    judgments: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    say: Say = ranking
    faults: Sequence[str] = ()
    endless: str | None = None  # the fault of every request after those
    retry_after: str | None = None
    seconds: float = 0.0  # how long an answer takes
    models: Sequence[str] = ("judge",)  # the name it gives itself, answer by answer; the last one stays
    fingerprints: Sequence[str | None] = ("f1",)  # of its configuration, likewise
    usage: tuple[int, int, int] | None = (100, 10, 60)  # tokens of prompt and answer, and of the prompt those cached
    logprobs: bool = (
        False  # whether it tells log-probabilities; else it ignores that they are wanted, as some servers do
    )
    logits: Mapping[str, float] | None = (
        None  # of tokens, or of `token_id:7`; null: those of the labels by the judgments
    )
    words: str = "{}"  # what it writes around a label
    finish: str = "stop"
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    answered: int = 0
    peak: int = 0  # most requests at once
    open: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, number: int) -> str | None:
        """What goes wrong with the n-th request, or nothing."""
        return self.faults[number] if number < len(self.faults) else self.endless

    def answer(self, body: Mapping[str, Any]) -> str:
        """What the judge says to a prompt of lines `[i] passage`."""
        text = "\n".join(turn["content"] for turn in body["messages"])
        grades = next((of for query, of in self.judgments.items() if query in text), {})
        if labels := self.label_worths(body):
            limit = body.get("max_tokens") or body.get("max_completion_tokens")
            return " ".join(self.words.format(max(labels, key=lambda label: labels[label])).split()[:limit])
        passages = {int(i): passage for i, passage in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)}
        return self.say(sorted(passages, key=lambda i: -grades.get(passages[i], 0)))

    def label_worths(self, body: Mapping[str, Any]) -> Mapping[str, float]:
        """What each label of a prompt of lines `[A] passage`, or of one `Passage: passage`, is worth."""
        if self.logits is not None:
            return self.logits
        text = "\n".join(turn["content"] for turn in body["messages"])
        grades = next((of for query, of in self.judgments.items() if query in text), {})
        if single := re.findall(r"^Passage: (.*)$", text, re.MULTILINE):
            return {"Yes": grades.get(single[0], 0) / 100 - 5, "No": 0.0}
        return {
            label: grades.get(passage, 0) for label, passage in re.findall(r"^\[([A-Z])\] (.*)$", text, re.MULTILINE)
        }

    def probabilities(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer's `logprobs`: the most probable tokens, a half of each label's probability with a blank before it."""
        labels = self.label_worths(body)
        if not (self.logprobs and body.get("logprobs") and labels):
            return None
        most = max(labels.values())
        weights = {label: math.exp(logit - most) for label, logit in labels.items()}
        blanks = {f"{'' if label.startswith('token_id:') else ' '}{label}": w / 2 for label, w in weights.items()}
        found = {**{label: w / 2 for label, w in weights.items()}, **blanks, "The": 0.4 * max(weights.values())}
        total = sum(found.values())
        top = sorted(((math.log(w / total), token) for token, w in found.items() if w > 0), reverse=True)
        rows = [{"token": token, "logprob": value, "bytes": list(token.encode())} for value, token in top]
        shown = body.get("top_logprobs", len(rows))
        return {"content": [{**rows[0], "top_logprobs": rows[:shown]}]}


class Handler(BaseHTTPRequestHandler):
    judge: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        judge = self.judge
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with judge.lock:
            number = len(judge.requests)
            judge.requests.append(body)
            judge.times.append(time.monotonic())
            judge.keys.append(self.headers.get("authorization", "").removeprefix("Bearer "))
            judge.open += 1
            judge.peak = max(judge.peak, judge.open)
        try:
            self.respond(judge.fault(number), body, judge.keys[number])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client did not wait
        finally:
            with judge.lock:
                judge.open -= 1

    def respond(self, fault: str | None, body: Mapping[str, Any], key: str) -> None:
        judge = self.judge
        time.sleep(judge.seconds)
        if fault in REFUSALS:
            status, message, code = REFUSALS[fault]
            more = {"retry-after": judge.retry_after} if judge.retry_after and status == 429 else {}
            self.send(status, json.dumps({"error": {"message": message.format(key=key), "code": code}}), **more)
        elif fault == "malformed":
            self.send(200, '{"choices": [{"mess')
        elif fault == "html":
            self.send(200, "<html>a proxy says hello</html>", **{"content-type": "text/html"})
        elif fault == "empty":
            self.send(200, '{"choices": []}')
        elif fault == "error_in_200":
            self.send(200, '{"error": {"message": "upstream 12 > 3"}}')
        elif fault == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices"')
            self.close_connection = True
        else:
            if fault == "slow":
                time.sleep(1.0)
            with judge.lock:
                model = judge.models[min(judge.answered, len(judge.models) - 1)]
                fingerprint = judge.fingerprints[min(judge.answered, len(judge.fingerprints) - 1)]
                judge.answered += 1
            choice = {
                "message": {"role": "assistant", "content": judge.answer(body)}, "finish_reason": judge.finish,
                "logprobs": judge.probabilities(body),
            }  # fmt: skip
            answer = {"model": model, "choices": [choice], "system_fingerprint": fingerprint}
            if judge.usage:
                prompt, said, cached = judge.usage
                answer["usage"] = {
                    "prompt_tokens": prompt, "completion_tokens": said, "prompt_tokens_details": {"cached_tokens": cached},
                }  # fmt: skip
            self.send(200, json.dumps(answer))

    def send(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content-type": "application/json"} | headers).items():
            self.send_header(name, value)
        data = text.encode()
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *about: object) -> None:
        pass


@contextmanager
def serving(judge: JudgeServer) -> Iterator[JudgeServer]:
    """The judge at `judge.url`, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("JudgeHandler", (Handler,), {"judge": judge}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
