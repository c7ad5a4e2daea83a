"""Downloads against a real HTTP server that interrupts, lies and refuses, and hub files against one that speaks the hub's language."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clir_cli.datasets import download
from clir_cli.datasets.download import fetch, hub_file, hub_list, hub_note, unpack
from clir_cli.errors import DataError, MissingData

DATA = bytes(range(256)) * 8192  # 2 MiB
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


@dataclass
class Server:
    """What a server does, and what it was asked: method, path and Range of every request."""

    url: str = ""
    data: bytes = DATA
    behaviour: str = "honest"
    etag: str = '"v1"'
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    server_state: Server

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.server_state
        state.asked.append((self.command, self.path, self.headers.get("Range")))
        count = len(state.asked)
        match state.behaviour:
            case "honest" | "slow":
                self._serve(state.data)
            case "cuts once" if count == 1:
                self._serve(state.data, send=len(state.data) // 2)
            case "cuts always":
                self._serve(state.data, send=0)
            case "no ranges" if count == 1:
                self._serve(state.data, send=len(state.data) // 2)
            case "no ranges":
                self._serve(state.data, ranges=False)
            case "busy once" if count == 1:
                self._status(503)
            case "cuts once" | "busy once":
                self._serve(state.data)
            case "page":
                self._serve(b"<html>please log in</html>", kind="text/html")
            case "moved":
                self.send_response(302)
                self.send_header("Location", "/there")
                self.end_headers()
            case "redirect" if self.path != "/new":
                self.send_response(302)
                self.send_header("Location", "/new")
                self.end_headers()
            case "redirect":
                self._serve(state.data)
            case code:
                self._status(int(code))

    def _status(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, data: bytes, send: int | None = None, ranges: bool = True, kind: str = "application/gzip") -> None:
        asked, begin = self.headers.get("Range"), 0
        unchanged = self.headers.get("If-Range") in {None, self.server_state.etag}
        if asked and ranges and unchanged:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("ETag", self.server_state.etag)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin : None if send is None else begin + send])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CLIR_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(download, "WAIT", 0.01)
    state = Server()
    handler = type("Bound", (Handler,), {"server_state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Files by address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", f"md5:{MD5}", f"sha256:{SHA.upper()}", None])
def test_a_file_is_fetched_once_and_is_whole(server: Server, tmp_path: Path, checksum: str | None) -> None:
    path = tmp_path / "new" / "docs.gz"
    for _ in range(2):
        assert fetch(f"{server.url}/docs.gz", path, checksum, len(DATA)) == path
    assert path.read_bytes() == DATA and left(path.parent) == ["docs.gz"] and len(server.asked) == 1


def test_a_checksum_may_stand_behind_the_address(server: Server, tmp_path: Path) -> None:
    assert fetch(f"{server.url}/a.gz#md5={MD5}&size={len(DATA)}", tmp_path / "a.gz").read_bytes() == DATA
    assert server.asked == [("GET", "/a.gz", None)]
    with pytest.raises(DataError, match=f"its md5 is {MD5}, expected 00"):
        fetch(f"{server.url}/a.gz#md5=00", tmp_path / "b.gz")


def test_a_file_that_somebody_put_there_is_checked_too(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "docs.gz"
    path.write_bytes(b"another file")
    with pytest.raises(DataError, match=r"docs.gz is another file: it is md5:\w+, expected md5:" + MD5):
        fetch(f"{server.url}/docs.gz", path, f"md5:{MD5}")
    path.write_bytes(DATA)
    assert fetch(f"{server.url}/docs.gz", path, f"md5:{MD5}") == path
    path.write_bytes(DATA[:-1])
    with pytest.raises(DataError, match="is another file"):
        fetch(f"{server.url}/docs.gz", path, f"md5:{MD5}")
    assert server.asked == []


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.behaviour = "cuts once"
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", f"sha256:{SHA}").read_bytes() == DATA
    assert [asked for _, _, asked in server.asked] == [None, f"bytes={len(DATA) // 2}-"]


def test_a_later_process_goes_on_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".docs.gz.part").write_bytes(DATA[:1000])
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", f"sha256:{SHA}").read_bytes() == DATA
    assert server.asked[0][2] == "bytes=1000-"


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.behaviour = "no ranges"
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", f"sha256:{SHA}").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_fetched_from_its_first_byte(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".docs.gz.part").write_bytes(b"old" * 100)
    (tmp_path / ".docs.gz.etag").write_text('"v0"')
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == DATA


@pytest.mark.parametrize("there", [b"other" * 20, DATA + b"too long", b"x" * len(DATA)])
def test_a_wrong_beginning_is_thrown_away(server: Server, tmp_path: Path, there: bytes) -> None:
    (tmp_path / ".docs.gz.part").write_bytes(there)
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", f"sha256:{SHA}").read_bytes() == DATA


def test_a_finished_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".docs.gz.part").write_bytes(DATA)
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", f"sha256:{SHA}").read_bytes() == DATA
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.behaviour = "busy once"
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == DATA


def test_a_redirect_is_followed_and_a_circle_is_not(server: Server, tmp_path: Path) -> None:
    server.behaviour = "redirect"
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", size=len(DATA)).read_bytes() == DATA
    server.behaviour = "moved"
    with pytest.raises(MissingData, match="302"):
        fetch(f"{server.url}/docs.gz", tmp_path / "other.gz")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("403", "the server answered 403 Forbidden: it asks for a login or a licence"),
        ("404", "the server answered 404 Not Found: there is no such file"),
        ("500", r"the server answered 500 Internal Server Error \(5 attempts\)"),
        ("page", r"the server sent a web page in its place \(a login or an error page\?\)"),
        ("cuts always", r"the connection ended after 0 of 2097152 bytes \(5 attempts\)"),
    ],
)
def test_a_server_that_gives_nothing_is_quoted_with_the_way_out(
    server: Server, tmp_path: Path, behaviour: str, words: str
) -> None:
    server.behaviour = behaviour
    with pytest.raises(MissingData, match=words) as caught:
        fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", f"md5:{MD5}", len(DATA))
    assert f"fetch it elsewhere: {server.url}/docs.gz  (2097152 bytes md5:{MD5})" in str(caught.value)
    assert f"put it at:      {tmp_path}/docs.gz" in str(caught.value)
    assert not (tmp_path / "docs.gz").exists()


def test_a_server_that_no_attempt_reached_is_not_asked_for_the_next_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(MissingData, match=r"cannot be reached .*\(5 attempts\)"):
            fetch(f"{nobody}/docs.de.gz", tmp_path / "docs.de.gz")
        assert capsys.readouterr().err.count("trying again") == 4
        with pytest.raises(MissingData, match=r"docs\.fr\.gz is not on this machine, and the server cannot be reached"):
            fetch(f"{nobody}/docs.fr.gz", tmp_path / "docs.fr.gz")
        assert "trying again" not in capsys.readouterr().err


def test_a_file_of_another_size_or_sum_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 2097152 bytes, expected 3: the file on the server is another one now"):
        fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", size=3)
    with pytest.raises(DataError, match=f"its sha256 is {SHA}, expected 00"):
        fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", "sha256:00")
    (tmp_path / "docs.gz").write_bytes(b"short")
    with pytest.raises(DataError, match=r"docs\.gz has 5 bytes, expected 2097152: remove it"):
        fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz", size=len(DATA))


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "CLIR_OFFLINE"])
def test_an_offline_machine_asks_nobody(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(MissingData, match="this machine is set offline"):
        fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz")
    with pytest.raises(MissingData, match="hub dataset me/set is not on this machine"):
        hub_note("me/set")
    assert server.asked == []


def test_a_server_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="the server cannot be reached"):
        fetch("http://127.0.0.1:9/docs.gz", tmp_path / "docs.gz")


def _fetch(url: str, path: str) -> None:
    fetch(url, Path(path), f"sha256:{SHA}")


def test_of_several_processes_one_downloads(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_fetch, args=(f"{server.url}/docs.gz", str(tmp_path / "docs.gz"))) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 4
    assert len(server.asked) == 1 and left(tmp_path) == ["data", "docs.gz"]


# Archives -------------------------------------------------------------------------------------------------------------


def test_an_archive_is_unpacked_whole_and_nowhere_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("set/corpus.jsonl", "{}\n")
        packed.writestr("../outside", "x")
    assert (unpack(tmp_path / "a.zip", tmp_path / "a") / "set" / "corpus.jsonl").read_text() == "{}\n"
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as packed_tar:
        packed_tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(DataError, match="does not unpack"):
        unpack(tmp_path / "b.tar.gz", tmp_path / "b")
    (tmp_path / "c.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:60])
    with pytest.raises(DataError, match="does not unpack"):
        unpack(tmp_path / "c.zip", tmp_path / "c")
    assert left(tmp_path) == ["a", "a.zip", "b.tar.gz", "c.zip"]


# The hub --------------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Handler):
    """The answers of the hub to the requests of huggingface_hub, for one dataset with one file."""

    def do_GET(self) -> None:
        state = self.server_state
        state.asked.append((self.command, self.path, self.headers.get("Range")))
        if self.path.startswith("/api/datasets/me/set/revision/") or self.path == "/api/datasets/me/set":
            self._json({"id": "me/set", "sha": COMMIT, "siblings": [{"rfilename": "data/topics.tsv"}], "tags": []})
        elif self.path.startswith(f"/api/datasets/me/set/tree/{COMMIT}"):
            self._json([{"type": "file", "path": "data/topics.tsv", "size": 9, "oid": "1" * 40}])
        elif self.path == f"/datasets/me/set/resolve/{COMMIT}/data/topics.tsv":
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"' + "1" * 40 + '"')
            self.send_header("Content-Length", "9")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"1\tquery\n\n")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if "me/set" not in self.path else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, value: object) -> None:
        raw = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def small_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    from huggingface_hub import constants, file_download, hf_api

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CLIR_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Hub,), {"server_state": state})) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        for module in (constants, file_download.constants, hf_api.constants):  # read once, when it is imported
            monkeypatch.setattr(module, "ENDPOINT", state.url)
            monkeypatch.setattr(
                module, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
            )
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hf_api.api, "endpoint", state.url)
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def test_a_hub_dataset_keeps_the_commit_it_was_first_found_at(
    small_hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, note = hub_note("me/set")
    assert commit == COMMIT and json.loads(note.read_text()) == {"hub": "me/set", "commit": COMMIT}
    assert hub_list("me/set", commit) == ["data/topics.tsv"]
    assert hub_file("me/set", "data/topics.tsv", commit).read_text() == "1\tquery\n\n"
    small_hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_note("me/set") == (COMMIT, note), "and is not asked again"
    assert hub_list("me/set", commit) == ["data/topics.tsv"]
    assert hub_file("me/set", "data/topics.tsv", commit).read_text() == "1\tquery\n\n"
    assert small_hub.asked == []
    with pytest.raises(MissingData, match=r"hub dataset me/set: data/docs\.tsv is not on this machine"):
        hub_file("me/set", "data/docs.tsv", commit)


def test_the_hub_s_refusals_are_told_apart(small_hub: Server) -> None:
    with pytest.raises(MissingData, match="the hub has no such dataset"):
        hub_note("you/none")
    with pytest.raises(MissingData, match="the dataset has no such file") as caught:
        hub_file("me/set", "nothing.tsv", COMMIT)
    assert f"hf download me/set --repo-type dataset --revision {COMMIT}" in str(caught.value)
