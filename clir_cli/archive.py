"""Files in one .tar.zst, each with its checksum: written whole or not at all, and trusted in nothing when read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, TypeAlias

from clir_cli.errors import DataError

LIST = "clir-export.json"  # the first member: what the archive is, and the size and sha256 of every other
FORMAT = 1
LARGEST_LIST = 256 << 20  # bytes of LIST that are read: a million members
CHUNK = 1 << 20
Content: TypeAlias = Path | bytes


def write(path: Path, members: Mapping[str, Content], about: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    """Pack the members in their order. Equal members make equal bytes.

    Raises DataError for a member whose sha256 is not the `expected` one, and for a file that changes while it is packed.
    """
    listed = {name: _described(content) for name, content in members.items()}
    if other := [name for name, sha in expected.items() if listed[name]["sha256"] != sha]:
        raise DataError(f"{members[other[0]]!s} is not what it was when it was made; see: clir cache verify")
    head = json.dumps({"format": FORMAT, **about, "members": listed}, indent=1, ensure_ascii=False).encode()
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as out:
            with _compressed(out) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
                _add(tar, LIST, io.BytesIO(head), len(head))
                for name, content in members.items():
                    _pack(tar, name, content, listed[name])
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _described(content: Content) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"size": len(content), "sha256": sha256(content)}
    with content.open("rb") as file:
        return {"size": content.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _pack(tar: tarfile.TarFile, name: str, content: Content, said: Mapping[str, Any]) -> None:
    if isinstance(content, bytes):
        _add(tar, name, io.BytesIO(content), len(content))
        return
    with content.open("rb") as file:
        hashed = _Hashed(file)
        try:
            _add(tar, name, hashed, said["size"])
        except OSError as error:
            if error.errno is not None:
                raise
            raise DataError(f"{content} became shorter while it was packed") from error
    if hashed.value.hexdigest() != said["sha256"]:
        raise DataError(f"{content} changed while it was packed")


def _add(tar: tarfile.TarFile, name: str, content: Any, size: int) -> None:
    info = tarfile.TarInfo(name)  # nobody's, of 1970: what is packed decides the bytes
    info.size, info.mode = size, 0o644
    tar.addfile(info, content)


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.value = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.value.update(data)
        return data


# Reading --------------------------------------------------------------------------------------------------------------


def read(path: Path, into: Path, allowed: Mapping[str, int]) -> dict[str, Any]:
    """Unpack into the empty folder `into`, and return what LIST says; every member must be listed, whole and unchanged.

    `allowed`: first part of a member's name -> how many parts it has at least. Anything but plain files there is
    refused: links, devices, absolute names, `..`. Raises DataError naming the archive and the member.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; expected an archive of clir export")
    try:
        with path.open("rb") as file, _expanded(file) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                about = _unpacked(path, tar, into, allowed)
            while stream.read(CHUNK):  # to the end, where the checksum of the whole is
                continue
            return about
    except EOFError as error:
        raise DataError(f"{path} is cut off: fetch it again, or export it again") from error
    except Exception as error:
        if not _is_damage(error):
            raise
        raise DataError(f"{path} is no archive of clir export, or damaged ({error})") from error


def _unpacked(path: Path, tar: tarfile.TarFile, into: Path, allowed: Mapping[str, int]) -> dict[str, Any]:
    about = _list(path, tar)
    listed = dict(about["members"])
    for name in listed:
        _check_name(path, name, allowed)
    while (member := tar.next()) is not None:
        if member.name not in listed:
            raise DataError(
                f"{path}: {member.name!r} is not in its list of files, or there twice; nothing was imported"
            )
        said, file = listed.pop(member.name), tar.extractfile(member) if member.isreg() else None
        if file is None:
            raise DataError(f"{path}: {member.name!r} is no plain file; nothing was imported")
        _unpack(path, member, file, said, into / member.name)
    if listed:
        raise DataError(f"{path}: {next(iter(listed))!r} is missing, and {len(listed) - 1} more; nothing was imported")
    return about


def _list(path: Path, tar: tarfile.TarFile) -> dict[str, Any]:
    first = tar.next()
    file = tar.extractfile(first) if first is not None and first.isreg() and first.name == LIST else None
    if first is None or file is None or first.size > LARGEST_LIST:
        raise DataError(f"{path} does not begin with {LIST}: it is no archive of clir export")
    try:
        about: dict[str, Any] = json.loads(_whole(path, file, first.size))
        members = {name: (int(m["size"]), str(m["sha256"])) for name, m in about["members"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {LIST} does not parse ({error}); nothing was imported") from error
    if about.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {about.get('format')!r}, and this clir reads {FORMAT}; import it with the clir that made it"
        )
    return {**about, "members": members}


def _whole(path: Path, file: IO[bytes], size: int) -> bytes:
    data = file.read()
    if len(data) != size:
        raise DataError(f"{path} is cut off: fetch it again, or export it again")
    return data


def _check_name(path: Path, name: str, allowed: Mapping[str, int]) -> None:
    parts = name.split("/")
    strange = any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts)
    if strange or len(parts) < allowed.get(parts[0], len(parts) + 1) or any(p.startswith(".") for p in parts[:-1]):
        raise DataError(f"{path}: {name!r} may not stand in an archive of clir export; nothing was imported")


def _unpack(path: Path, member: tarfile.TarInfo, file: IO[bytes], said: tuple[int, str], to: Path) -> None:
    size, sha256 = said
    value = hashlib.sha256()
    changed = DataError(f"{path}: {member.name!r} is not as it was exported (size or checksum); nothing was imported")
    if member.size != size:
        raise changed
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("xb") as out:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            value.update(chunk)
            out.write(chunk)
    if value.hexdigest() != sha256:
        raise changed


def _compressed(file: IO[bytes]) -> AbstractContextManager[Any]:
    """A Zstandard stream into the file, with a checksum in its frame."""
    from backports import zstd

    return zstd.ZstdFile(file, "wb", options={zstd.CompressionParameter.checksum_flag: 1})


def _expanded(file: IO[bytes]) -> AbstractContextManager[Any]:
    from backports import zstd

    return zstd.ZstdFile(file, "rb")


def _is_damage(error: Exception) -> bool:
    """Whether the archive is at fault, by what its readers raise."""
    from backports import zstd

    return isinstance(error, tarfile.TarError | zstd.ZstdError)
