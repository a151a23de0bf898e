"""Unpacks archives that others made: nothing is written outside the folder, no links, no more bytes than allowed, all or nothing."""

import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from causal_ctx.data import cache

LOG = logging.getLogger(__name__)
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LIMIT_BYTES = 64 << 30  # where nothing is known about an archive

_CHUNK = 1 << 20
_ENTRY = 512  # bytes that any entry counts at least: millions of empty files are a bomb as well
_NAME_BYTES = 1 << 20  # that the names and notes of one member of a tar may have
_NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


class Member(tarfile.TarInfo):
    """A header of a tar. tarfile reads long names, notes and maps of sparse files into memory: OverflowError for those that no honest archive has."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.type in _NAMES and member.size > _NAME_BYTES:
            raise OverflowError(f"the names of a member claim {member.size:,} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise OverflowError(f"{member.name!r} is a sparse file")
        return member

    def _proc_gnusparse_10(self, member, *_):  # tarfile's reader of newer maps
        raise OverflowError(f"{member.name!r} is a sparse file")


def unpack(archive: Path, into: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Unpacks a zip or tar file (plain, gz, bz2, xz) to the new folder `into`, which appears whole or not at all.

    The limit is on the bytes that come out, whatever the archive says of itself. Raises ValueError (one sentence that
    names archive and member) for a damaged or truncated archive, a member that leads outside, is a link, a device or
    encrypted, and for too many bytes; FileExistsError where `into` holds something; OSError where it cannot be written.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise FileExistsError(f"{into} exists already, so {archive} is not unpacked over it; move it away.")
    with open(archive, "rb") as file:
        is_zip = file.read(4) in _ZIP_MAGIC
    private = None
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        cache.remove_stale(into)
        private = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
        _write(archive, _zip_members(archive) if is_zip else _tar_members(archive, limit_bytes), private, limit_bytes)
        private.chmod(0o755)
        _publish(private, into)
    except ValueError:
        raise
    except Exception as error:  # readers of damaged archives raise many kinds; those of the system carry a number
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"The disk of {into} is full, so {archive} was not unpacked; free some space or set data.cache_dir to another disk.") from error
        if number is not None:
            raise OSError(f"{archive} cannot be unpacked into {into} ({error.strerror}); set data.cache_dir to a folder that can be written.") from error
        reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
        raise ValueError(f"{archive} is damaged, truncated or no zip or tar archive ({reason}); fetch it again.") from error
    finally:
        if private:
            shutil.rmtree(private, ignore_errors=True)


def unpacked(archive: Path, cache_dir: str = "", limit_bytes: int = LIMIT_BYTES) -> Path:
    """The folder with the content of `archive` in the cache, unpacked there at the first call; a single folder at its top is entered."""
    status = archive.stat()
    mark = hashlib.sha256(f"{archive.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache.root(cache_dir) / "unpacked" / f"{archive.name.partition('.')[0]}-{mark}"
    if not folder.is_dir():
        LOG.info("Unpacking %s into %s; later starts read it there.", archive, folder)
        unpack(archive, folder, limit_bytes)
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _write(archive: Path, members: Iterator[tuple[str, IO[bytes] | None]], folder: Path, limit_bytes: int) -> None:
    """Writes members (name, content or None for a folder) below `folder`."""
    total = 0
    for name, content in members:
        path = folder / _relative(archive, name)
        written = 0
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, _new_file(archive, name, path) as file:
                while chunk := content.read(_CHUNK):
                    written += len(chunk)
                    _check_total(archive, name, total + written, limit_bytes)
                    file.write(chunk)
        total += max(written, _ENTRY)
        _check_total(archive, name, total, limit_bytes)


def _new_file(archive: Path, name: str, path: Path) -> IO[bytes]:
    if path.exists():
        raise ValueError(f"{archive} holds {name!r} twice; fetch it again, or unpack it by hand.")
    return open(path, "xb")


def _check_total(archive: Path, name: str, total: int, limit_bytes: int) -> None:
    if total > limit_bytes:
        raise ValueError(f"{archive} holds more than the allowed {limit_bytes:,} bytes (passed at {name!r}); if you trust it, unpack it by hand.")


def _relative(archive: Path, name: str) -> Path:
    """The path of a member, which must lie inside the folder on every system."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or re.match("[A-Za-z]:", name):
        raise ValueError(f"{archive} holds {name!r}, which leads outside of the folder that it is unpacked into; do not trust this archive.")
    return Path(*parts)


def _refused(archive: Path, name: str, kind: str) -> ValueError:
    return ValueError(f"{archive} holds {name!r}, which is {kind}; only plain files and folders are unpacked, so pack it without.")


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename, "a link" if kind == stat.S_IFLNK else "a device or pipe")
            if member.flag_bits & 1:
                raise _refused(archive, member.filename, "encrypted")
            yield member.orig_filename, None if member.is_dir() else file.open(member)


def _tar_members(archive: Path, limit_bytes: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive, "r:*", tarinfo=Member) as file:
        for member in file:
            file.members.clear()  # else the names of all are kept
            if not member.isreg() and not member.isdir():
                raise _refused(archive, member.name, "a link" if member.issym() or member.islnk() else "a device or pipe")
            yield member.name, None if member.isdir() else file.extractfile(member)
        # tarfile takes a cut between two members for the end; a whole archive ends with a block of zeros.
        file.fileobj.seek(file.offset)
        if file.fileobj.read(512) != bytes(512):
            raise EOFError("it ends without the mark of its end")
        rest = 0
        while chunk := file.fileobj.read(_CHUNK):  # to the end, where a compressed file has its checksum
            rest += len(chunk)
            _check_total(archive, "its end", rest, limit_bytes)


def _publish(private: Path, into: Path) -> None:
    try:
        os.rename(private, into)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        LOG.info("Another process unpacked %s meanwhile; its content is used.", into)
