"""Files from elsewhere, on this machine: resumed, checked, whole or not there, and never fetched twice at once.

What is downloaded lies under `CLIR_DATA` (else `$XDG_CACHE_HOME/clir`, else `~/.cache/clir`); hub datasets lie in the
hub's own cache (HF_HUB_CACHE). `CLIR_OFFLINE` and `HF_HUB_OFFLINE` are honoured: what is missing is then named, with the
place where it belongs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from clir_cli.errors import DataError, MissingData, many
from clir_cli.files import write_json
from clir_cli.models import hub
from clir_cli.progress import say, track

CHUNK = 1 << 20
UNREACHED = "the server cannot be reached"
TRIES = 5  # attempts in a row that bring nothing new
WAIT = 1.0  # seconds before the second attempt, doubled each time
TIMEOUT = 60.0  # seconds without a byte
LEASE = 60.0  # seconds without a heartbeat after which another host may take a download over
_unreachable: dict[str, str] = {}  # hosts that no attempt of this process reached, and why: not asked again
AGENT = "clir (cross-lingual retrieval experiments)"


class _Restart(Exception):
    """What is there of a file is no beginning of it: fetch it from its first byte."""


def data_folder() -> Path:
    """Where downloads are kept."""
    if chosen := os.environ.get("CLIR_DATA"):
        return Path(chosen).expanduser().absolute()
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "clir").expanduser().absolute()


def is_offline() -> bool:
    return os.environ.get("CLIR_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"} or hub.is_offline()


# Files by address -----------------------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """A file to fetch, and how it is known when it has come."""

    url: str
    into: Path
    checksum: str | None  # `sha256:HEX` or `md5:HEX`
    size: int | None  # bytes
    name: str  # what it is called while it comes

    @property
    def part(self) -> Path:
        return self.into.with_name(f".{self.into.name}.part")

    @property
    def tag(self) -> Path:
        """The server's name (or time) of the version that `part` is the beginning of."""
        return self.into.with_name(f".{self.into.name}.etag")

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)


def fetch(url: str, into: Path, checksum: str | None = None, size: int | None = None, name: str = "") -> Path:
    """The file at `into`, downloaded if it is not there; `checksum` is `sha256:HEX` or `md5:HEX`, `size` in bytes.

    They may stand behind the address too: `https://HOST/docs.gz#md5=HEX&size=123`. An interrupted download goes on where
    it stopped; of several processes one downloads and the others wait. Raises MissingData where the machine is offline
    or the server does not give it, DataError where it gives something else.
    """
    url, _, said = url.partition("#")
    for part in filter(None, said.split("&")):
        kind, _, value = part.partition("=")
        if kind == "size":
            size = int(value)
        elif kind in {"sha256", "md5"}:
            checksum = f"{kind}:{value}"
    into = into.absolute()
    wanted = Wanted(url, into, checksum, size, name or into.name)
    if _is_here(wanted):
        return into
    if is_offline():
        raise _missing(wanted, "this machine is set offline (CLIR_OFFLINE, HF_HUB_OFFLINE)")
    with only_one(into):
        if not _is_here(wanted):  # finished between the look and the lock
            _download(wanted)
    return into


def _is_here(wanted: Wanted) -> bool:
    """Whether the file is there. One that somebody else put there is checked once, and again when it changes."""
    if not wanted.into.is_file():
        return False
    there = wanted.into.stat().st_size
    if wanted.size is not None and there != wanted.size:
        raise DataError(
            f"{wanted.into} has {there} bytes, expected {wanted.size}: remove it, and it is fetched again from {wanted.url}"
        )
    if wanted.checksum is not None and not _was_checked(wanted):
        if (found := _sum(wanted.into, wanted.checksum)) != wanted.checksum.lower():
            raise DataError(
                f"{wanted.into} is another file: it is {found}, expected {wanted.checksum}; remove it, and it is fetched "
                f"again from {wanted.url}"
            )
        _note_checked(wanted)
    return True


def _sum(path: Path, like: str) -> str:
    """The checksum of a file, of the kind of `like`."""
    kind = like.partition(":")[0]
    found = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return f"{kind}:{found.hexdigest()}"


def _checked(wanted: Wanted) -> tuple[Path, list[object]]:
    """Where it is noted that a file was checked, and in what state."""
    name = hashlib.sha256(str(wanted.into).encode()).hexdigest()[:24]
    stat = wanted.into.stat()
    return data_folder() / "notes" / f"checked--{name}.json", [stat.st_size, stat.st_mtime_ns, str(wanted.checksum)]


def _was_checked(wanted: Wanted) -> bool:
    path, state = _checked(wanted)
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")) == state)


def _note_checked(wanted: Wanted) -> None:
    with suppress(OSError):  # a folder that cannot be written: it is checked again
        write_json(*_checked(wanted))


def _download(wanted: Wanted) -> None:
    failed, before, host = 0, -1, urlsplit(wanted.url).netloc
    if host in _unreachable:
        raise _missing(wanted, _unreachable[host])
    while True:
        resumed = _length(wanted.part) > 0
        try:
            _transfer(wanted)
            _verify(wanted)
            break
        except _Restart as error:
            wanted.forget()
            if not resumed:
                raise DataError(str(error)) from error
            reason = f"{error}; starting again"
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and not (error.code == 429 or error.code >= 500):
                raise _missing(wanted, _refusal(error)) from error
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise  # the disk's, not the network's
            reason = _refusal(error)
        failed = failed + 1 if _length(wanted.part) <= before else 1
        before = _length(wanted.part)
        if failed >= TRIES:
            if reason.startswith(UNREACHED):
                _unreachable[host] = reason
            raise _missing(wanted, f"{reason} ({failed} attempts)")
        say(f"{wanted.url}: {reason}; trying again")
        time.sleep(WAIT * 2 ** (failed - 1))
    with wanted.part.open("rb") as file:
        os.fsync(file.fileno())
    wanted.part.replace(wanted.into)
    wanted.forget()
    if wanted.checksum is not None:
        _note_checked(wanted)


def _transfer(wanted: Wanted) -> None:
    """Fetch what is missing of the part. Raises _Restart where the server does not go on with what is there."""
    if not wanted.tag.is_file() and wanted.checksum is None:
        wanted.forget()  # of which version it is the beginning, nothing would tell
    begin = _length(wanted.part)
    headers = {"User-Agent": AGENT}
    if begin:
        headers["Range"] = f"bytes={begin}-"
        if wanted.tag.is_file():
            headers["If-Range"] = wanted.tag.read_text()
    try:
        answer = _opener.open(urllib.request.Request(wanted.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and begin:
            total = _total(error.headers)
            if total == begin:  # all of it is there already
                return
            raise _Restart(f"what was fetched ({begin} bytes) is no beginning of what the server has now") from error
        raise
    with answer:
        if answer.status == 206 and _range_start(answer.headers) == begin:
            mode = "ab"
        elif answer.status == 206:
            raise _Restart("the server sent another part than was asked for")
        else:
            begin, mode = 0, "wb"
        length = answer.headers.get("Content-Length", "")
        total = _total(answer.headers) or (begin + int(length) if length.isdigit() else None)
        _check_answer(wanted, answer, total)
        if mode == "wb":
            wanted.forget()  # first: killed between the two, a new tag would vouch for an old beginning
        if tag := _version(answer.headers):
            wanted.tag.write_text(tag)
        with wanted.part.open(mode) as out:
            for chunk in track(_chunks(answer), total and -(-total // CHUNK), f"fetch {wanted.name}", "MB"):
                out.write(chunk)
    if total is not None and (there := _length(wanted.part)) < total:
        raise ConnectionError(f"the connection ended after {there} of {total} bytes")


def _check_answer(wanted: Wanted, answer: Any, total: int | None) -> None:
    """Refuse before a byte is kept: a web page in place of data, or a file of another size."""
    kind = answer.headers.get_content_type()
    if kind == "text/html" and not wanted.into.name.endswith((".html", ".htm")):
        raise _missing(wanted, f"the server sent a web page in its place (a login or an error page?): {answer.url}")
    if total is not None and wanted.size is not None and total != wanted.size:
        raise DataError(
            f"{wanted.url} has {total} bytes, expected {wanted.size}: the file on the server is another one now\n"
            f"  put the right one at {wanted.into}"
        )


def _verify(wanted: Wanted) -> None:
    """Raises _Restart where what came is not what was wanted."""
    there = _length(wanted.part)
    if wanted.size is not None and there != wanted.size:
        raise _Restart(f"{wanted.url}: fetched {there} bytes, expected {wanted.size}")
    if wanted.checksum is not None and (found := _sum(wanted.part, wanted.checksum)) != wanted.checksum.lower():
        kind, _, value = found.partition(":")
        raise _Restart(f"{wanted.url}: its {kind} is {value}, expected {wanted.checksum.partition(':')[2]}")


def _chunks(answer: Any) -> Iterator[bytes]:
    """What the server sends. Raises ConnectionError, so that the disk's errors are told from the network's."""
    while True:
        try:
            chunk = answer.read(CHUNK)
        except OSError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        yield chunk


def _version(headers: Message) -> str | None:
    """What If-Range may say: a strong ETag, else the time of the last change."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _range_start(headers: Message) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(headers: Message) -> int | None:
    found = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _refusal(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        why = {401: ": it asks for a login", 403: ": it asks for a login or a licence", 404: ": there is no such file"}
        return f"the server answered {error.code} {error.reason}{why.get(error.code, '')}"
    if isinstance(error, urllib.error.URLError):
        return f"{UNREACHED} ({error.reason})"
    return str(error) or type(error).__name__


def _missing(wanted: Wanted, why: str) -> MissingData:
    known = " ".join(filter(None, [f"{wanted.size} bytes" if wanted.size else "", wanted.checksum]))
    return MissingData(
        f"{wanted.into.name} is not on this machine, and {why}\n"
        f"  fetch it elsewhere: {wanted.url}{f'  ({known})' if known else ''}\n"
        f"  and put it at:      {wanted.into}   (CLIR_DATA moves the folder {data_folder()})"
    )


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(
                newurl, code, "a redirect from https to http, which is not followed", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_Redirect)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keeps other processes, also of other machines on a shared file system, from making the same thing."""
    from filelock import SoftFileLease

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path.parent} cannot be made ({error.strerror}); CLIR_DATA names another folder for data"
        ) from error
    with SoftFileLease(path.with_name(f".{path.name}.lock"), lease_duration=LEASE):
        yield


# Archives -------------------------------------------------------------------------------------------------------------


def unpack(archive: Path, into: Path) -> Path:
    """The folder `into` with what a zip or tar holds: all of it, or not there. Nothing is written outside it."""
    if into.is_dir():
        return into
    with only_one(into):
        if into.is_dir():
            return into
        draft = into.with_name(f".{into.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(draft)
            else:
                with tarfile.open(archive) as packed_tar:
                    packed_tar.extractall(draft, filter="data")
                    while packed_tar.fileobj is not None and packed_tar.fileobj.read(CHUNK):
                        pass  # to the stream's end, where gzip's own checksum stands
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{archive} does not unpack ({error}); remove it, and it is fetched again") from error
        draft.replace(into)
    return into


# Hub datasets ---------------------------------------------------------------------------------------------------------

COMMIT = re.compile(r"[0-9a-f]{40}")


def note(name: str, content: Any) -> Path:
    """A small file that says what a download is: its bytes stand in identities where the data is not here yet."""
    path = data_folder() / "notes" / f"{re.sub(r'[^A-Za-z0-9_.@-]+', '--', name)}.json"
    try:
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != content:
            write_json(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); CLIR_DATA names another folder") from error
    return path


def hub_note(repo: str, revision: str | None = None) -> tuple[str, Path]:
    """The commit of a hub dataset, and the note that keeps it: `revision=None` is resolved once, and then stays.

    The commit is looked for in the note, in the hub's cache on this machine, and on the hub. Remove the note to follow
    the hub. Raises MissingData where none is to be had.
    """
    name = f"hub--{repo}{f'@{revision}' if revision else ''}"
    path = data_folder() / "notes" / f"{re.sub(r'[^A-Za-z0-9_.@-]+', '--', name)}.json"
    if not path.is_file():
        with only_one(path):  # jobs that begin together read the same commit, whatever the hub does meanwhile
            if not path.is_file():
                commit = _cached_commit(repo, revision) or _asked_commit(repo, revision)
                note(name, {"hub": repo, "commit": commit})
    return str(json.loads(path.read_text(encoding="utf-8"))["commit"]), path


def hub_file(repo: str, name: str, commit: str) -> Path:
    """One file of a hub dataset, from the hub's cache on this machine or downloaded into it."""
    here = _cache(repo) / "snapshots" / commit / name
    if here.is_file():
        return here

    def ask(lib: Any) -> str:
        url = lib.hf_hub_url(repo, name, repo_type="dataset", revision=commit)
        _fetch_large(lib.get_hf_file_metadata(url, timeout=10), repo, name)
        return str(lib.hf_hub_download(repo, name, repo_type="dataset", revision=commit, etag_timeout=10))

    return Path(_hub(repo, commit, ask, name))


LARGE = 16 << 20  # bytes from which a hub file is fetched here: the hub's own client begins an interrupted one again


def _fetch_large(said: Any, repo: str, name: str) -> None:
    """A large file as the hub's cache keeps it, where its client finds it: under its SHA-256, which is its ETag."""
    if (said.size or 0) < LARGE or not re.fullmatch(r"[0-9a-f]{64}", said.etag or ""):
        return
    with suppress(MissingData):  # then the hub's client is asked, which has the user's login, and says what is wrong
        fetch(said.location, _cache(repo) / "blobs" / said.etag, f"sha256:{said.etag}", said.size, name)


def hub_list(repo: str, commit: str) -> list[str]:
    """The names of all files of a hub dataset at a commit; remembered, since a commit never changes."""
    path = data_folder() / "notes" / f"hub--{repo.replace('/', '--')}@{commit}.files.json"
    if path.is_file():
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    snapshot = _cache(repo) / "snapshots" / commit
    if is_offline() and snapshot.is_dir():
        found = sorted(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file())
        say(
            f"hub dataset {repo}: this machine is offline and was never told what files there are; what is here is taken "
            f"for all of it: {many(len(found), 'file')} in {snapshot}"
        )
        return found
    names = _hub(repo, commit, lambda lib: lib.HfApi().list_repo_files(repo, repo_type="dataset", revision=commit))
    write_json(path, sorted(names))
    return sorted(names)


def _cache(repo: str) -> Path:
    return hub.cache_folder() / f"datasets--{repo.replace('/', '--')}"


def _cached_commit(repo: str, revision: str | None) -> str | None:
    reference = _cache(repo) / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision or ""
    return commit if COMMIT.fullmatch(commit) else None


def _asked_commit(repo: str, revision: str | None) -> str:
    return str(_hub(repo, revision, lambda lib: lib.HfApi().dataset_info(repo, revision=revision, timeout=10).sha))


SILENCE = 60.0  # seconds for which a hub that could not be reached is not asked again: a sweep asks it often
_silent = [0.0]  # until when


def _hub(repo: str, revision: str | None, ask: Any, name: str | None = None) -> Any:
    """What `ask` gets from huggingface_hub. Raises MissingData for every way in which the hub says no."""
    if is_offline():
        raise _missing_hub(repo, revision, name, "this machine is set offline (CLIR_OFFLINE, HF_HUB_OFFLINE)")
    if time.monotonic() < _silent[0]:
        raise _missing_hub(repo, revision, name, "the hub could not be reached a moment ago")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with _quietly():
            return ask(huggingface_hub)
    except HfHubHTTPError as error:
        raise _missing_hub(
            repo, revision, name, _HUB_SAYS.get(type(error).__name__, f"the hub refused it ({type(error).__name__})")
        ) from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise  # the disk's
        _silent[0] = time.monotonic() + SILENCE
        raise _missing_hub(repo, revision, name, f"the hub cannot be reached ({type(error).__name__})") from error
    except Exception as error:  # no route, no name, a proxy that answers nonsense: the client's HTTP library names them
        _silent[0] = time.monotonic() + SILENCE
        raise _missing_hub(repo, revision, name, f"the hub cannot be reached ({type(error).__name__})") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without huggingface_hub's warnings of every try that failed: what came of them, our errors say."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


_HUB_SAYS = {
    "GatedRepoError": "its owner asks you to accept the licence on the hub first, then `hf auth login`",
    "RevisionNotFoundError": "the hub has no such revision",
    "RepositoryNotFoundError": "the hub has no such dataset (or it is private: `hf auth login`)",
    "RemoteEntryNotFoundError": "the dataset has no such file",
}


def _missing_hub(repo: str, revision: str | None, name: str | None, why: str) -> MissingData:
    at = f" --revision {revision}" if revision else ""
    return MissingData(
        f"hub dataset {repo}{f': {name}' if name else ''} is not on this machine, and {why}\n"
        f"  with a network:    hf download {repo} --repo-type dataset{at}   (into {hub.cache_folder()}; HF_HUB_CACHE moves it)\n"
        f"  without a network: copy the folder {_cache(repo).name} of another machine's hub cache to {hub.cache_folder()}"
    )
