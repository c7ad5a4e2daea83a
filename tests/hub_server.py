"""A hub on this machine: folders as datasets, spoken to as huggingface_hub speaks to the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `root/OWNER/NAME/...` as hub datasets and models at one commit: the endpoint, and the requests so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            asked.append(f"{self.command} /{path}")
            parts = path.split("/")
            of = parts[1:] if parts[0] == "datasets" else parts  # models have no word before their owner
            if parts[0] == "api":
                self.reply(*described(root, parts[2:]), {}, body)
            elif len(of) > 4 and of[2] == "resolve":
                file = root.joinpath(*of[:2], *of[4:])
                if not file.is_file():
                    self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
                    return
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self.reply(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, body)
            else:
                self.reply(404, b"", {}, body)

        def reply(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def described(root: Path, parts: list[str]) -> tuple[int, bytes]:
    """What the interface says of a dataset, or of the tree of its files."""
    folder = root.joinpath(*parts[:2])
    if not folder.is_dir():
        return 404, b""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in files]
    if parts[2:3] == ["tree"]:
        tree = [
            {"type": "file", "path": name, "size": file.stat().st_size, "oid": hashlib.sha1(name.encode()).hexdigest()}
            for name, file in zip(names, files, strict=True)
        ]
        return 200, json.dumps(tree).encode()
    siblings = [{"rfilename": name} for name in names]
    found = {
        "id": "/".join(parts[:2]),
        "sha": COMMIT,
        "siblings": siblings,
        "private": False,
        "tags": [],
        "downloads": 0,
    }
    return 200, json.dumps(found).encode()
