"""Fetches a file from the first of several mirrors that has it: resumable, verified, and a sentence on what to do where that fails.

Nothing is fetched at import; data sets call `fetch` when asked for data that are not there. Of several processes that ask for the same file one fetches
it, the others wait.
"""

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import IO

from causal_ctx.progress import Progress

LOG = logging.getLogger(__name__)
SCHEMES = ("https", "http", "file")
LIMIT_BYTES = 64 << 30  # where the size of a file is not known

_ATTEMPTS = 3  # at one mirror, each going on where the one before was cut off
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.FileHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)  # those of urllib without ftp and data


class _WrongContentError(ValueError):
    """What came is not the file; going on from it makes no sense."""


def fetch(urls: Sequence[str], folder: Path, sha256: str | None = None, md5: str | None = None, size: int | None = None) -> Path:
    """The file of `urls` (mirrors of one file, the first one gives its name) in `folder`, fetched where it is not there yet.

    A file that is there and passes the checks is taken as it is. What a cut connection left, NAME.part, is continued
    by the next call where a hash is known or the server says that its file is the same. `size` in bytes is exact.
    Raises ValueError for a scheme outside `SCHEMES` or an address without a file name, OSError (one sentence: reasons,
    what to fetch by hand, where to put it) where no mirror gives the file, which then is not there.
    """
    _check_schemes(urls)
    name = urllib.parse.unquote(urllib.parse.urlsplit(urls[0]).path).rpartition("/")[2]
    if name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise ValueError(f"The address {urls[0]!r} names no file; give one that ends with a file name.")
    path, hashes = folder / name, {"sha256": sha256, "md5": md5}
    if path.exists() and _difference(path, hashes, size) is None:
        return path
    lock = _lock(path.with_name(f".{name}.lock"))
    try:
        return _fetch_any(urls, path, hashes, size)
    finally:
        if lock:
            Path(lock.name).unlink(missing_ok=True)
            lock.close()


def _fetch_any(urls: Sequence[str], path: Path, hashes: dict[str, str | None], size: int | None) -> Path:
    """`path` from the first mirror that has it, or as it is where another process has fetched it meanwhile."""
    if path.exists():
        problem = _difference(path, hashes, size)
        if problem is None:
            return path
        LOG.warning("%s is not the expected file (%s); it is fetched again and kept until then.", path, problem)
    reasons = []
    for url in urls:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch_one(url, path, hashes, size)
            return path
        except (OSError, HTTPException, _WrongContentError) as error:
            reasons.append(f"{url}: {_reason(error)}")
            LOG.warning("%s could not be fetched from %s", path.name, reasons[-1])
    expected = ([] if size is None else [f"{size:,} bytes"]) + [f"{kind} {value}" for kind, value in hashes.items() if value]
    said = f" ({', '.join(expected)})" if expected else ""
    remedy = f"fetch it by hand from {urls[0]} and put it into {path.parent} as {path.name}{said}"
    raise OSError(f"{path.name} could not be fetched ({'; '.join(reasons)}); {remedy}.")


def _lock(path: Path) -> IO | None:
    """An open file that one process has at a time, by this name and until it closes it; None where there is no locking.

    Whoever has it removes it: one that was waited for may be gone by then, and is asked for anew.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, "w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                LOG.info("Another process fetches %s; waiting for it.", path.parent / path.name[1:].removesuffix(".lock"))
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            file.close()
    except OSError as error:  # a folder that cannot be written says so when the file is
        LOG.info("%s cannot be locked (%s); let one process at a time fetch into its folder.", path, error.strerror)
        return None


def _check_schemes(urls: Sequence[str]) -> None:
    for url in urls:
        if urllib.parse.urlsplit(url).scheme not in SCHEMES:
            raise ValueError(f"The address {url!r} cannot be fetched from; give one that begins with {', '.join(SCHEMES)}.")
    if not urls:
        raise ValueError("No address to fetch from was given; give one at least.")


def _fetch_one(url: str, path: Path, hashes: dict[str, str | None], size: int | None) -> None:
    """Tries one mirror; `path` appears when its content is verified."""
    part = path.with_name(f"{path.name}.part")
    for attempt in range(_ATTEMPTS):
        began_with = part.stat().st_size if part.exists() else 0
        try:
            resumed = _transfer(url, part, any(hashes.values()), size)
        except (urllib.error.HTTPError, FileNotFoundError):
            raise  # the server's last word
        except (OSError, HTTPException):
            grown = part.exists() and part.stat().st_size > began_with
            if attempt == _ATTEMPTS - 1 or not grown:
                raise
            continue
        problem = _difference(part, hashes, size)
        if problem is None:
            os.replace(part, path)
            _validator(part).unlink(missing_ok=True)
            return
        _discard(part)
        if not resumed:  # else what it went on from may have been at fault
            raise _WrongContentError(problem)
    raise _WrongContentError(problem)


def _transfer(url: str, part: Path, verified_later: bool, size: int | None) -> bool:
    """Brings `part` to its end from `url`; whether it went on from what was there. Raises OSError where the connection is cut."""
    headers, start = {"User-Agent": "causal_ctx"}, part.stat().st_size if part.exists() else 0
    validator = _validator(part).read_text() if _validator(part).exists() else ""
    if start and (verified_later or validator.startswith(f"{url}\n")):
        headers["Range"] = f"bytes={start}-"
        if not verified_later:
            headers["If-Range"] = validator.partition("\n")[2]
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and "Range" in headers:  # nothing is left to send: the part is whole, or it is wrong
            return True
        raise
    with response:
        resumed = response.status == 206 and (response.headers["Content-Range"] or "").startswith(f"bytes {start}-")
        start = start if resumed else 0
        length = response.headers["Content-Length"]
        total = start + int(length) if length else size
        _check_room(total, start, part, size)
        if not resumed:
            _remember(url, part, response.headers["ETag"] or "")
        _receive(response, part, start, total, size)
    return resumed


def _receive(response, part: Path, start: int, total: int | None, size: int | None) -> None:
    """Appends the response to the first `start` bytes of `part`, or writes it anew."""
    limit, done = size if size is not None else LIMIT_BYTES, start
    mebibytes = math.ceil((total or limit) / _CHUNK)
    with open(part, "r+b" if start else "wb") as file, Progress(f"Fetching {part.stem} (MiB)", mebibytes, start // _CHUNK) as progress:
        file.seek(start)
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if done > limit:
                _discard(part)
                raise _WrongContentError(f"it is larger than {limit:,} bytes")
            file.write(chunk)
            progress.advance(done // _CHUNK - (done - len(chunk)) // _CHUNK)
    if total is not None and done < total:
        raise ConnectionError(f"the connection was cut after {done:,} of {total:,} bytes")


def _check_room(total: int | None, start: int, part: Path, size: int | None) -> None:
    limit = size if size is not None else LIMIT_BYTES
    if total is not None and total > limit:
        raise _WrongContentError(f"it has {total:,} bytes, more than {limit:,}")
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise OSError(f"{total - start:,} bytes are to come and the disk of {part.parent} has {free:,} free")


def _difference(path: Path, hashes: dict[str, str | None], size: int | None) -> str | None:
    """How a file differs from what is expected, or None."""
    if size is not None and path.stat().st_size != size:
        return f"it has {path.stat().st_size:,} bytes instead of {size:,}"
    for kind, expected in hashes.items():
        if expected:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
            if found != expected.lower():
                return f"its {kind} is {found} instead of {expected}"
    return None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _remember(url: str, part: Path, tag: str) -> None:
    _validator(part).unlink(missing_ok=True)
    if tag.startswith('"'):  # a weak tag does not promise the same bytes
        _validator(part).write_text(f"{url}\n{tag}")


def _validator(part: Path) -> Path:
    """Beside a part: its address and the tag by which the server knows its version."""
    return part.with_name(f"{part.name}.tag")


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    return opener


def _reason(error: Exception) -> str:
    reason = error.reason if type(error) is urllib.error.URLError else error
    return " ".join(str(reason).split()) or type(error).__name__
