"""Downloads against a real HTTP server that interrupts, lies and refuses, and hub files against one that speaks the hub's language."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import random
import resource
import socket
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hub_server
import pytest

from clir_cli.datasets import download, places
from clir_cli.datasets.download import fetch, hub_file, hub_list, hub_note, unpack
from clir_cli.errors import DataError, MissingData
from clir_cli.models import hub

DATA = bytes(range(256)) * 8192  # 2 MiB
NEW = DATA[::-1]
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


@dataclass
class Server:
    """What a server does, and what it was asked: method, path and Range of every request."""

    url: str = ""
    data: bytes = DATA
    behaviour: str = "honest"
    etag: str | None = '"v1"'
    changed: str | None = None  # Last-Modified
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
            case "changes" if count == 1:
                self._serve(state.data, send=len(state.data) // 2)
            case "changes":
                state.data, state.changed = NEW, "Sun, 02 Nov 2025 10:00:00 GMT"
                self._serve(state.data)
            case "a little at a time":
                self._serve(state.data, most=len(state.data) // 4 + 1)
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

    def _serve(
        self,
        data: bytes,
        send: int | None = None,
        ranges: bool = True,
        kind: str = "application/gzip",
        most: int | None = None,
    ) -> None:
        asked, begin, end = self.headers.get("Range"), 0, len(data)
        unchanged = self.headers.get("If-Range") in {None, self.server_state.etag, self.server_state.changed}
        if asked and ranges and unchanged:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            end = min(len(data), begin + most) if most else len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
            send = most if send is None else send
        self.send_header("Content-Type", kind)
        for name, value in (("ETag", self.server_state.etag), ("Last-Modified", self.server_state.changed)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.write(data[begin : end if send is None else begin + send])


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


def test_a_server_that_gives_a_part_of_what_is_missing_is_asked_for_the_rest(server: Server, tmp_path: Path) -> None:
    server.behaviour = "a little at a time"
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == DATA
    assert len(server.asked) == 4


def test_without_a_strong_etag_the_time_of_the_last_change_tells_the_version(server: Server, tmp_path: Path) -> None:
    server.etag, server.changed, server.behaviour = 'W/"v1"', "Sat, 01 Nov 2025 10:00:00 GMT", "changes"
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == NEW
    server.asked.clear()
    server.behaviour = "cuts once"
    assert fetch(f"{server.url}/other.gz", tmp_path / "other.gz").read_bytes() == NEW
    assert server.asked[1][2] == f"bytes={len(DATA) // 2}-"


def test_what_neither_a_version_nor_a_checksum_vouches_for_is_fetched_from_its_first_byte(
    server: Server, tmp_path: Path
) -> None:
    server.etag = None
    (tmp_path / ".docs.gz.part").write_bytes(b"old" * 100)
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == DATA


def test_a_new_version_s_tag_never_vouches_for_an_old_version_s_beginning(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".docs.gz.part").write_bytes(b"old" * 100)
    (tmp_path / ".docs.gz.etag").write_text('"v0"')

    class Killed(BaseException): ...

    opened: Any = Path.open

    def dies(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if path.suffix == ".part":
            raise Killed  # between the new tag and the first new byte
        return opened(path, mode, *rest, **more)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Path, "open", dies)
        fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz")
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == DATA


def test_a_full_disk_is_said_at_once_and_what_is_there_is_kept(server: Server, tmp_path: Path) -> None:
    job = multiprocessing.get_context("fork").Process(target=_fetch_on_a_small_disk, args=(server.url, tmp_path))
    job.start()
    job.join()
    assert job.exitcode == 7 and len(server.asked) == 1
    assert fetch(f"{server.url}/docs.gz", tmp_path / "docs.gz").read_bytes() == DATA
    assert server.asked[1][2] == f"bytes={1 << 20}-"


def _fetch_on_a_small_disk(url: str, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        fetch(f"{url}/docs.gz", folder / "docs.gz")
    except OSError as error:
        sys.exit(7 if error.errno == errno.EFBIG else 8)


def test_a_network_that_times_out_while_it_sends_is_not_taken_for_a_broken_disk() -> None:
    class Answer:
        def read(self, _: int) -> bytes:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    with pytest.raises(ConnectionError, match="Connection timed out"):
        list(download._chunks(Answer()))


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


@pytest.mark.parametrize("held", [random.Random(0).randbytes(100_000), b"a text that packs well " * 30_000])
def test_an_archive_with_a_wrong_byte_in_the_middle_is_refused(tmp_path: Path, held: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        info = tarfile.TarInfo("docs.txt")
        info.size = len(held)
        packed.addfile(info, io.BytesIO(held))
    raw = bytearray((tmp_path / "a.tar.gz").read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    (tmp_path / "a.tar.gz").write_bytes(raw)
    with pytest.raises(DataError, match="does not unpack"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "a")
    assert left(tmp_path) == ["a.tar.gz"]


def test_addresses_that_differ_by_what_they_ask_for_are_different_files(server: Server) -> None:
    (docs,) = places.files("dataset.docs", f"{server.url}/download?file=docs")
    server.data = b"topics"
    (topics,) = places.files("dataset.topics", f"{server.url}/download?file=topics")
    assert (docs.read_bytes(), topics.read_bytes()) == (DATA, b"topics")


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
        elif self.path.endswith(f"/datasets/me/set/resolve/{COMMIT}/data/docs.large"):
            asked = self.headers.get("Range")
            begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{SHA}"')
            self.send_header("Content-Length", str(len(DATA) - begin))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(DATA[begin:])
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
def at_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes huggingface_hub ask this server in place of the hub."""
    from huggingface_hub import constants, file_download, hf_api

    def asks(url: str) -> None:
        for module in (constants, file_download.constants, hf_api.constants):  # read once, when it is imported
            monkeypatch.setattr(module, "ENDPOINT", url)
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hf_api.api, "endpoint", url)

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CLIR_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return asks


@pytest.fixture
def small_hub(at_hub: Callable[[str], None]) -> Iterator[Server]:
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Hub,), {"server_state": state})) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        at_hub(state.url)
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


def test_an_interrupted_large_file_of_a_hub_dataset_goes_on_where_it_stopped(
    small_hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGE", len(DATA))
    blobs = tmp_path / "hub" / "datasets--me--set" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f".{SHA}.part").write_bytes(DATA[:1000])
    path = hub_file("me/set", "data/docs.large", COMMIT)
    assert path.read_bytes() == DATA and path.resolve() == blobs / SHA, "where the hub's own client keeps it"
    assert [asked for method, _, asked in small_hub.asked if method == "GET"] == ["bytes=1000-"]


def test_offline_a_snapshot_whose_files_were_never_listed_is_taken_for_all_of_it_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIR_OFFLINE", "1")
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "datasets--me--set" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "docs-0.jsonl").write_text("{}")
    assert hub_list("me/set", COMMIT) == ["docs-0.jsonl"]
    assert f"taken for all of it: 1 file in {snapshot}" in capsys.readouterr().err


def test_a_model_whose_download_was_killed_is_completed_when_it_is_next_wanted(
    at_hub: Callable[[str], None], tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "served" / "me" / "model").mkdir(parents=True, exist_ok=True)
        (tmp_path / "served" / "me" / "model" / name).write_text(name)
    cache = tmp_path / "hub" / "models--me--model"
    for folder in ("blobs", f"snapshots/{hub_server.COMMIT}"):
        (cache / folder).mkdir(parents=True)
    (cache / "snapshots" / hub_server.COMMIT / "config.json").write_text("config.json")
    (cache / "blobs" / "e3b0.1a2b3c4d.incomplete").write_text("mod")
    with hub_server.hub(tmp_path / "served") as (url, asked):
        at_hub(url)
        folder = hub.folder("me/model", hub_server.COMMIT)
        assert (folder / "model.safetensors").read_text() == "model.safetensors"
        once = list(asked)
        assert hub.folder("me/model", hub_server.COMMIT) == folder and asked == once, "the hub is asked once"
