"""A real OpenAI-compatible embeddings server on loopback, backed by an encoder, that misbehaves when asked to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

REFUSALS = {
    "400": (400, "maximum context length is 256 tokens", "context_length_exceeded"),
    "401": (401, "Incorrect API key provided: {key}", "invalid_api_key"),
    "404": (404, "no such model", "model_not_found"),
    "429": (429, "slow down, {key}", "rate_limit_exceeded"),
    "quota": (429, "you exceeded your current quota", "insufficient_quota"),
    "500": (500, "the server hiccupped", None),
}


@dataclass
class EmbeddingServer:
    """`encode` gives the vectors; the n-th request meets `faults[n]`, if any, and every later one `endless`.

    A fault is a key of REFUSALS, or slow, cut, html, nulls, few, twice, nan, longer.
    """

    encode: Callable[[Sequence[str]], np.ndarray]
    faults: Sequence[str] = ()
    endless: str | None = None
    retry_after: str | None = None
    seconds: float = 0.0
    models: Sequence[str] = ("minilm",)  # the name it gives itself, answer by answer; the last one stays
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    answered: int = 0
    peak: int = 0
    open: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def respond(self, fault: str | None, body: dict[str, Any]) -> str:
        """The body of an answer."""
        with self.lock:  # one model, one thread
            rows = self.encode(body["input"])[:, : body.get("dimensions")].astype(float).tolist()
            model = self.models[min(self.answered, len(self.models) - 1)]
            self.answered += 1
        data: list[dict[str, Any]] = [{"object": "embedding", "index": i, "embedding": r} for i, r in enumerate(rows)]
        if fault == "few":
            data.pop()
        if fault == "twice":
            data[-1]["index"] = 0
        if fault == "nulls":
            data[0]["embedding"] = None
        if fault == "nan":
            data[0]["embedding"][3] = float("nan")
        if fault == "longer":
            data[0]["embedding"].append(0.5)
        used = sum(len(text.split()) for text in body["input"])
        data.reverse()  # the order of an answer is not the order of the texts
        return json.dumps({"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": used}})


class Handler(BaseHTTPRequestHandler):
    own: EmbeddingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        own, body = self.own, json.loads(self.rfile.read(int(self.headers["content-length"])))
        with own.lock:
            number = len(own.requests)
            own.requests.append({"path": self.path, **body})
            own.times.append(time.monotonic())
            own.keys.append(self.headers.get("authorization", "").removeprefix("Bearer "))
            own.open += 1
            own.peak = max(own.peak, own.open)
        try:
            self.answer(own.faults[number] if number < len(own.faults) else own.endless, body, own.keys[number])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client did not wait
        finally:
            with own.lock:
                own.open -= 1

    def answer(self, fault: str | None, body: dict[str, Any], key: str) -> None:
        own = self.own
        time.sleep(own.seconds)
        if fault in REFUSALS:
            status, message, code = REFUSALS[fault]
            more = {"retry-after": own.retry_after} if own.retry_after and status == 429 else {}
            self.send(status, json.dumps({"error": {"message": message.format(key=key), "code": code}}), **more)
        elif fault == "html":
            self.send(200, f"<html>a proxy says hello to {key}</html>")
        elif fault == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"data"')
            self.close_connection = True
        else:
            if fault == "slow":
                time.sleep(1.0)
            self.send(200, own.respond(fault, body))

    def send(self, status: int, text: str, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in ({"content-type": "application/json", "content-length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *about: object) -> None:
        pass


@contextmanager
def serving(own: EmbeddingServer) -> Iterator[EmbeddingServer]:
    """The server at `own.url`, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("EmbeddingHandler", (Handler,), {"own": own}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    own.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield own
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
