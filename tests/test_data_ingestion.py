"""Files that others made: images, archives and downloads that are damaged, too large or hostile, each with its sentence and nothing lost."""

import concurrent.futures
import errno
import functools
import gzip
import hashlib
import http.server
import io
import logging
import os
import struct
import tarfile
import threading
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from causal_ctx.data import archive, arrays, cache, download, images, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)  # does not compress
SHA256 = hashlib.sha256(CONTENT).hexdigest()


# Images


def test_decode_and_survey_agree_on_every_kind_of_file(tmp_path):
    ramp = np.arange(48, dtype=np.uint8).reshape(6, 8)
    colour = np.stack([ramp, ramp + 50, ramp + 100], -1)
    kinds = {
        "grey.png": (Image.fromarray(ramp), 1),
        "rgb.png": (Image.fromarray(colour), 3),
        "rgba.png": (Image.fromarray(np.dstack([colour, np.full_like(ramp, 255)])), 3),
        "bits16.png": (Image.fromarray(ramp.astype(np.uint16) * 257), 1),
        "palette.png": (Image.fromarray(colour).quantize(64), 3),
    }
    for name, (image, channels) in kinds.items():
        image.save(tmp_path / name)
        assert images.survey(tmp_path / name) == (6, 8, channels), name
        assert np.array_equal(images.decode(tmp_path / name, channels=channels), colour if channels == 3 else ramp[..., None]), name
    assert np.array_equal(images.decode(tmp_path / "grey.png"), np.repeat(ramp[..., None], 3, -1))
    assert images.decode(tmp_path / "rgb.png", channels=1).shape == (6, 8, 1)


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(tmp_path / "turned.jpg", exif=exif)
    assert images.survey(tmp_path / "turned.jpg") == (16, 8, 3) and images.decode(tmp_path / "turned.jpg").shape == (16, 8, 3)


def test_resizing_averages_in_place_of_picking():
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for given in (stripes, stripes[..., :1]):
        small = images.resize(given, (16, 16))
        assert small.shape == (2, 16, 16, given.shape[-1]) and abs(small[:, 1:-1].astype(int) - 127).max() <= 3
    assert images.resize(stripes, (64, 64)) is stripes
    assert images.resize(stripes, (32, 48)).shape == (2, 32, 48, 3)
    with pytest.raises(ValueError, match=r"must be uint8 \[n, H, W, C\] with 1 or 3 channels, got float64 \(2, 64, 64, 3\)"):
        images.resize(stripes / 255, (16, 16))


def test_many_files_keep_their_order_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BLOCK", 4)
    given = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    files = [tmp_path / f"{row}.png" for row in range(10)]
    for file, image in zip(files, given):
        Image.fromarray(image).save(file)
    assert np.array_equal(images.read_all(files), given)
    assert images.read_all(files[::-1], (12, 10), 1).shape == (10, 12, 10, 1)
    Image.fromarray(given[0].swapaxes(0, 1)).save(files[7])
    with pytest.raises(ValueError, match="7.png is 5 x 6 pixels and .*0.png is 6 x 5; give the size that all shall have"):
        images.read_all(files)
    with pytest.raises(ValueError, match="there is no image file to read"):
        images.read_all([])
    with pytest.raises(FileNotFoundError, match="The image .*nothing.png is not there"):
        images.decode(tmp_path / "nothing.png")
    with pytest.raises(OSError, match="The image .* cannot be read .Is a directory."):
        images.decode(tmp_path)


def test_a_header_that_claims_a_huge_image_is_not_believed(tmp_path):
    """Some 50 bytes that would fill 12 GB."""
    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    for read in (images.decode, images.survey):
        with pytest.raises(ValueError, match="huge.png claims too many pixels to be decoded safely"):
            read(tmp_path / "huge.png")


# Array files


def npz(path, given, **others):
    with open(path, "wb") as file:
        np.savez_compressed(file, images=given, **others)
    return path


def npy(path, given):
    with open(path, "wb") as file:
        np.save(file, given)
    return path


def spoilt(path, old: bytes, new: bytes):
    """The same file with `old` at its first place overwritten."""
    content = path.read_bytes()
    assert old in content and len(new) == len(old)
    path.write_bytes(content.replace(old, new, 1))
    return path


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
ARRAY_FAULTS = {
    "damaged npz": lambda p: flipped(npz(p, PIXELS), 70),
    "truncated npz": lambda p: truncated(npz(p, PIXELS), 0.8),
    "other key": lambda p: make_zip(p, {"pixels.npy": "x"}),
    "member that is no array": lambda p: make_zip(p, {"images.npy": "<html>"}),
    "member cut short": lambda p: make_zip(p, {"images.npy": npy(p, PIXELS).read_bytes()[:-1]}),
    "damaged header of an npy": lambda p: spoilt(npy(p, PIXELS), b"'shape': (4, 8", b"'shape': (4, ("),
    "header of an npy that claims more": lambda p: spoilt(npy(p, PIXELS), b"(4, 8, 8, 3)", b"(9, 9, 9, 9)"),
    "truncated npy": lambda p: truncated(npy(p, PIXELS), 0.8),
    "objects": lambda p: npy(p, np.array([{}], object)),
    "strings": lambda p: npz(p, np.array(["a"])),
    "times": lambda p: npy(p, np.zeros(3, "M8[s]")),
    "text": lambda p: p.write_text("<html>") and p,
    "empty": lambda p: p.touch() or p,
}


@pytest.mark.parametrize("fault", ARRAY_FAULTS)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_array_files_that_hold_no_numbers_are_one_sentence(tmp_path, fault, suffix):
    path = ARRAY_FAULTS[fault](tmp_path / f"x{suffix}")
    with pytest.raises(ValueError, match=rf"x{suffix} holds no readable array 'images' \(.+\); get it again, or write it as .npy with numpy.save") as caught:
        arrays.read(path, "images")
    assert "\n" not in str(caught.value)


def test_array_files_are_told_by_their_content(tmp_path):
    for name in ("x.npz", "x.npy"):
        for write in (npz, npy):
            assert np.array_equal(arrays.read(write(tmp_path / name, PIXELS), "images"), PIXELS)
    with pytest.raises(OSError, match=r"none.npy cannot be read \(No such file or directory\); allow reading it"):
        arrays.read(tmp_path / "none.npy", "images")


def test_an_array_that_unpacks_to_more_than_allowed_is_not_unpacked(tmp_path, monkeypatch):
    bomb = npz(tmp_path / "zeros.npz", np.zeros((1000, 32, 32, 3), np.uint8))
    assert bomb.stat().st_size < 20_000 and len(arrays.read(bomb, "images", 3_100_000)) == 1000
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(ValueError, match="zeros.npz holds no readable array 'images' .it unpacks to 3,072,128 bytes, more than the 3,000,000"):
        arrays.read(bomb, "images", 3_000_000)


@pytest.mark.parametrize("given", [np.uint8(3), PIXELS[0], PIXELS[:0], np.zeros((4, 8, 8), np.uint8)])
def test_quad_files_without_a_stack_of_images_are_one_sentence(tmp_path, given):
    with pytest.raises(ValueError, match=r"dataset.npz holds images of shape \(.*\), not \[n, 8, 8, 3\]"):
        archive._read(npz(tmp_path / "dataset.npz", given), 4, 8)


# Archives


def make_zip(path, members: dict, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def make_tar(path, members: list, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for member, content in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = ""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def filled(kind: bytes):
    """A member whose content tarfile itself would read."""
    member = tarfile.TarInfo("filled")
    member.type, member.size = kind, 5_000_000
    return member, b"5000000 comment=".ljust(4_999_999, b"x") + b"\n"


def newer_sparse_tar(path):
    """Its map of holes, which tarfile itself would read, has a million entries."""
    member = tarfile.TarInfo("holes")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "0"}
    content = b"500000\n" + b"0\n" * 1_000_000
    member.size = len(content)
    return make_tar(path, [(member, content)])


def zip_special(path, mode: int):
    member = zipfile.ZipInfo("a/evil")
    member.external_attr, member.create_system = mode << 16, 3
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/good", "x")
        file.writestr(member, "/etc/passwd")
    return path


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
def test_whole_archives_are_unpacked(tmp_path, mode):
    members = {"a/b.bin": CONTENT, "a/empty": b"", "./c": b"c"}
    path = make_zip(tmp_path / "x", members) if mode == "zip" else make_tar(tmp_path / "x", list(members.items()), mode)
    into = tmp_path / "deep" / "into"
    unpack.unpack(path, into, 1_000_000)
    assert {str(file.relative_to(into)): file.read_bytes() for file in into.rglob("*") if file.is_file()} == {"a/b.bin": CONTENT, "a/empty": b"", "c": b"c"}
    assert os.listdir(into.parent) == ["into"]
    with pytest.raises(FileExistsError, match="into exists already, so .* is not unpacked over it"):
        unpack.unpack(path, into, 1_000_000)


def truncated(path, keep: float | int):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep < 1 else int(keep)])
    return path


def flipped(path, place: int):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    return path


def zeros_tar(path):
    return make_tar(path, [("zeros", bytes(5_000_000))])


def lying_zip(path):
    """Its headers, both of them, say one byte."""
    content = make_zip(path, {"zeros": bytes(5_000_000)}).read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1)))
    return path


def gzip_bomb_of_empty_files(path):
    with gzip.open(path, "wb") as file:
        for row in range(8_000):
            file.write(tarfile.TarInfo(f"{row}").tobuf())
        file.write(bytes(1024))
    return path


two = [("a", CONTENT[:1000]), ("b", CONTENT[:1000])]
ARCHIVE_FAULTS = {
    "truncated zip": (lambda p: truncated(make_zip(p, {"a": CONTENT}), 0.5), "is damaged, truncated or no zip or tar archive"),
    "damaged zip": (lambda p: flipped(make_zip(p, {"a": CONTENT}, zipfile.ZIP_STORED), 1000), "is damaged, truncated .*Bad CRC-32"),
    "truncated tar.gz": (lambda p: truncated(make_tar(p, two), 0.5), "is damaged, truncated"),
    "damaged tar.gz": (lambda p: flipped(make_tar(p, two), -6), "is damaged, truncated .*CRC"),
    "tar cut inside a member": (lambda p: truncated(make_tar(p, two, "w"), 700), "is damaged, truncated"),
    "tar cut between members": (lambda p: truncated(make_tar(p, two, "w"), 1536), "is damaged, truncated .*without the mark of its end"),
    "tar cut inside a header": (lambda p: truncated(make_tar(p, two, "w"), 1700), "is damaged, truncated .*without the mark of its end"),
    "no archive": (lambda p: p.write_text("<html>") and p, "is damaged, truncated or no zip or tar archive"),
    "empty file": (lambda p: p.touch() or p, "is damaged, truncated or no zip or tar archive"),
    "zip escapes": (lambda p: make_zip(p, {"a/../../evil": "x"}), r"holds 'a/../../evil', which leads outside"),
    "zip absolute": (lambda p: make_zip(p, {"/tmp/evil": "x"}), "holds '/tmp/evil', which leads outside"),
    "zip backslash": (lambda p: make_zip(p, {"..\\evil": "x"}), "which leads outside"),
    "zip drive": (lambda p: make_zip(p, {"C:evil": "x"}), "which leads outside"),
    "tar escapes": (lambda p: make_tar(p, [("../evil", b"x")]), "holds '../evil', which leads outside"),
    "tar absolute": (lambda p: make_tar(p, [("/evil", b"x")]), "holds '/evil', which leads outside"),
    "tar symlink": (lambda p: make_tar(p, [special("evil", tarfile.SYMTYPE, "/etc"), ("evil/x", b"x")]), "holds 'evil', which is a link"),
    "tar hard link": (lambda p: make_tar(p, [special("evil", tarfile.LNKTYPE, "/etc/passwd")]), "holds 'evil', which is a link"),
    "tar device": (lambda p: make_tar(p, [special("evil", tarfile.CHRTYPE)]), "holds 'evil', which is a device or pipe"),
    "tar pipe": (lambda p: make_tar(p, [special("evil", tarfile.FIFOTYPE)]), "holds 'evil', which is a device or pipe"),
    "zip symlink": (lambda p: zip_special(p, 0o120777), "holds 'a/evil', which is a link"),
    "zip device": (lambda p: zip_special(p, 0o020666), "holds 'a/evil', which is a device or pipe"),
    "zip bomb": (lambda p: make_zip(p, {"zeros": bytes(5_000_000)}), "holds more than the allowed 1,000,000 bytes .passed at 'zeros'.; if you trust it"),
    "zip bomb of parts": (lambda p: make_zip(p, {f"{i}": bytes(300_000) for i in range(4)}), "holds more than the allowed .*passed at '3'"),
    "zip bomb that lies": (lying_zip, "is damaged, truncated|holds more than the allowed"),
    "tar bomb": (zeros_tar, "holds more than the allowed 1,000,000 bytes"),
    "tar bomb of empty files": (gzip_bomb_of_empty_files, "holds more than the allowed 1,000,000 bytes"),
    "tar of huge notes": (lambda p: make_tar(p, [filled(tarfile.XHDTYPE), ("a", b"1")]), "the names of a member claim 5,000,000 bytes"),
    "tar of huge common notes": (lambda p: make_tar(p, [filled(tarfile.XGLTYPE), ("a", b"1")]), "the names of a member claim 5,000,000 bytes"),
    "tar of a huge name": (lambda p: make_tar(p, [("a", b"1"), filled(tarfile.GNUTYPE_LONGNAME), ("b", b"1")]), "the names of a member claim"),
    "tar of a sparse file": (lambda p: make_tar(p, [special("holes", tarfile.GNUTYPE_SPARSE)]), "'holes' is a sparse file"),
    "tar of a newer sparse file": (newer_sparse_tar, "'holes' is a sparse file"),
    "same name twice": (lambda p: make_tar(p, [("a", b"1"), ("./a", b"2")]), "holds './a' twice"),
}


@pytest.mark.parametrize("fault", ARCHIVE_FAULTS)
def test_bad_archives_are_refused_and_leave_nothing(tmp_path, fault):
    make, sentence = ARCHIVE_FAULTS[fault]
    inner = tmp_path / "inner"
    inner.mkdir()
    path = make(inner / "archive")
    content = path.read_bytes()
    with pytest.raises(ValueError, match=sentence) as caught:
        unpack.unpack(path, inner / "into", 1_000_000)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert os.listdir(inner) == ["archive"] and os.listdir(tmp_path) == ["inner"] and path.read_bytes() == content


@pytest.mark.parametrize("fault", ["tar of huge notes", "tar of huge common notes", "tar of a huge name"])
def test_names_are_bounded_before_they_are_read(tmp_path, fault):
    path = ARCHIVE_FAULTS[fault][0](tmp_path / "archive")
    tracemalloc.start()
    with pytest.raises(ValueError):
        unpack.unpack(path, tmp_path / "into", 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_members_are_not_gathered_in_memory(tmp_path):
    noted = [tarfile.TarInfo(f"{row}") for row in range(20)]
    for member in noted:
        member.pax_headers = {"comment": "x" * 500_000}
    path = make_tar(tmp_path / "archive", [(member, b"") for member in noted])
    tracemalloc.start()
    unpack.unpack(path, tmp_path / "into", 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000 and len(os.listdir(tmp_path / "into")) == 20


@pytest.mark.parametrize("bomb", ["zip bomb", "tar bomb"])
def test_a_bomb_is_stopped_before_it_is_written(tmp_path, monkeypatch, bomb):
    class Counted(io.BytesIO):
        written = 0

        def write(self, data):
            Counted.written += len(data)

    monkeypatch.setattr(unpack, "_new_file", lambda *_: Counted())
    monkeypatch.setattr(unpack, "_CHUNK", 1000)
    with pytest.raises(ValueError, match="holds more than the allowed"):
        unpack.unpack(ARCHIVE_FAULTS[bomb][0](tmp_path / "archive"), tmp_path / "into", 1_000_000)
    assert Counted.written == 1_000_000


def test_a_disk_that_fills_while_unpacking_leaves_nothing_and_the_restart_works(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "data.tar.gz", [("top/a", b"1"), ("top/b", CONTENT)])
    with monkeypatch.context() as full:
        full.setattr(unpack, "_new_file", lambda *_: open("/dev/full", "wb", buffering=0))
        with pytest.raises(OSError, match=r"The disk of .* is full, so .*data.tar.gz was not unpacked; free some space or set data.cache_dir") as caught:
            unpack.unpacked(path, str(tmp_path / "cache"))
    assert caught.value.errno is None and not os.listdir(tmp_path / "cache" / "unpacked")
    folder = unpack.unpacked(path, str(tmp_path / "cache"))
    assert folder.name == "top" and (folder / "b").read_bytes() == CONTENT
    path.touch()
    monkeypatch.setattr(unpack, "unpack", None)
    with pytest.raises(TypeError):  # a file that changed is unpacked again
        unpack.unpacked(path, str(tmp_path / "cache"))


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"a": "1"})
    for name, days in {".in[t]o-old": 2, ".in[t]o-new": 0, ".other-old": 2, ".into-old": 2}.items():
        (tmp_path / name / "below").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - days * 86400,) * 2)
    unpack.unpack(path, tmp_path / "in[t]o", 1_000_000)
    assert sorted(os.listdir(tmp_path)) == [".in[t]o-new", ".into-old", ".other-old", "in[t]o", "x.zip"]


def test_another_process_unpacks_first(tmp_path, monkeypatch):
    path, into = make_zip(tmp_path / "x.zip", {"a": "ours"}), tmp_path / "into"
    write = unpack._write

    def meanwhile(*arguments):
        into.mkdir()
        (into / "a").write_text("theirs")
        write(*arguments)

    monkeypatch.setattr(unpack, "_write", meanwhile)
    unpack.unpack(path, into, 1_000_000)
    assert (into / "a").read_text() == "theirs" and sorted(os.listdir(tmp_path)) == ["into", "x.zip"]


# Downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content` under any name; every path asks for a behaviour: /cut/... breaks off halfway where asked for the start."""

    content, tag, log = CONTENT, '"1"', None

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        asked = self.headers["Range"]
        self.log.append((self.path, asked))
        if behaviour == "missing":
            return self.send_error(404)
        start = int(asked[len("bytes=") : -1]) if asked and behaviour != "plain" else 0
        if self.headers["If-Range"] not in (None, self.tag):
            start = 0
        content = self.content if behaviour != "wrong" else self.content[::-1]
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if behaviour == "tagged":
            self.send_header("ETag", self.tag)
        if behaviour != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + 100_000 if behaviour in ("cut", "tagged") else len(content)
        try:
            self.wfile.write(content[start:end] * (10 if behaviour == "endless" else 1))
        except OSError:
            pass  # the client had enough
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "log", [])
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


fetch = functools.partial(download.fetch, sha256=SHA256)


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch([f"{server}/good/data%20set.bin?download=1"], tmp_path / "new", size=len(CONTENT), md5=hashlib.md5(CONTENT).hexdigest())
    assert path == tmp_path / "new" / "data set.bin" and path.read_bytes() == CONTENT and os.listdir(path.parent) == [path.name]
    fetch([f"{server}/good/data%20set.bin"], tmp_path / "new")
    assert len(Server.log) == 1


def test_of_several_that_ask_at_once_one_fetches(server, tmp_path, monkeypatch):
    transfer = download._transfer

    def slow(*arguments):
        time.sleep(0.2)  # so that the others ask meanwhile
        return transfer(*arguments)

    monkeypatch.setattr(download, "_transfer", slow)
    (tmp_path / ".x.bin.lock").touch()  # of a process that was killed
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch([f"{server}/good/x.bin"], tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT} and len(Server.log) == 1 and os.listdir(tmp_path) == ["x.bin"]


def test_a_disk_without_locks_is_fetched_to_all_the_same(server, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(download.fcntl, "flock", none)
    assert fetch([f"{server}/good/x.bin"], tmp_path).read_bytes() == CONTENT


def test_a_cut_connection_goes_on_where_it_was_cut(server, tmp_path):
    assert fetch([f"{server}/cut/x.bin"], tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in Server.log] == [None, "bytes=100000-", "bytes=200000-"]


def test_the_next_call_goes_on_as_well(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    with pytest.raises(OSError, match="the connection was cut after 100,000 of 300,000 bytes|IncompleteRead"):
        fetch([f"{server}/cut/x.bin"], tmp_path)
    assert os.listdir(tmp_path) == ["x.bin.part"]
    assert fetch([f"{server}/good/x.bin"], tmp_path).read_bytes() == CONTENT
    assert Server.log[-1] == ("/good/x.bin", "bytes=100000-") and os.listdir(tmp_path) == ["x.bin"]


def test_without_a_hash_it_goes_on_only_where_the_server_vouches_for_the_version(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    with pytest.raises(OSError):
        download.fetch([f"{server}/tagged/x.bin"], tmp_path)
    with pytest.raises(OSError):
        download.fetch([f"{server}/tagged/x.bin"], tmp_path)
    assert (tmp_path / "x.bin.part").stat().st_size == 200_000
    assert download.fetch([f"{server}/tagged/x.bin"], tmp_path).read_bytes() == CONTENT and os.listdir(tmp_path) == ["x.bin"]
    (tmp_path / "y.bin.part").write_bytes(b"of unknown origin")
    assert download.fetch([f"{server}/good/y.bin"], tmp_path).read_bytes() == CONTENT and Server.log[-1][1] is None
    with pytest.raises(OSError):
        download.fetch([f"{server}/tagged/z.bin"], tmp_path)
    monkeypatch.setattr(Server, "tag", '"2"')
    monkeypatch.setattr(Server, "content", CONTENT[:90_000][::-1])
    assert download.fetch([f"{server}/tagged/z.bin"], tmp_path).read_bytes() == CONTENT[:90_000][::-1]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:5000])
    assert fetch([f"{server}/plain/x.bin"], tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT[:1000][::-1], CONTENT + b"more", CONTENT])
def test_a_part_that_is_wrong_or_whole_already(server, tmp_path, part):
    (tmp_path / "x.bin.part").write_bytes(part)
    assert fetch([f"{server}/good/x.bin"], tmp_path).read_bytes() == CONTENT and os.listdir(tmp_path) == ["x.bin"]
    assert len(Server.log) == (1 if part == CONTENT else 2)


def test_mirrors_are_tried_in_turn(server, tmp_path, caplog):
    mirrors = [f"{server}/missing/x.bin", f"{server}/wrong/other.bin", "http://127.0.0.1:9/x.bin", f"{server}/good/y.bin"]
    path = fetch(mirrors, tmp_path)
    assert path == tmp_path / "x.bin" and path.read_bytes() == CONTENT and os.listdir(tmp_path) == ["x.bin"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3


def test_a_wrong_hash_leaves_no_file(server, tmp_path):
    with pytest.raises(OSError, match="its sha256 is .* instead of ") as caught:
        fetch([f"{server}/wrong/x.bin", f"{server}/missing/x.bin"], tmp_path, size=300_000)
    said = str(caught.value)
    assert f"fetch it by hand from {server}/wrong/x.bin and put it into {tmp_path} as x.bin (300,000 bytes, sha256 {SHA256})." in said
    assert "404" in said and "\n" not in said and not os.listdir(tmp_path)
    with pytest.raises(OSError, match="its md5 is"):
        download.fetch([f"{server}/wrong/x.bin"], tmp_path, md5=hashlib.md5(CONTENT).hexdigest())


def test_an_own_file_that_is_not_the_expected_one_is_kept_until_a_better_one_comes(server, tmp_path, caplog):
    (tmp_path / "x.bin").write_bytes(b"mine")
    with pytest.raises(OSError, match="could not be fetched"):
        fetch([f"{server}/missing/x.bin"], tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"mine"
    assert "is not the expected file (its sha256 is" in caplog.records[0].getMessage()
    assert fetch([f"{server}/good/x.bin"], tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("behaviour", "said"), [("good", "it has 300,000 bytes, more than 250,000"), ("endless", "it is larger than 250,000 bytes")])
def test_more_bytes_than_allowed_are_not_taken(server, tmp_path, behaviour, said):
    with pytest.raises(OSError, match=said):
        fetch([f"{server}/{behaviour}/x.bin"], tmp_path, size=250_000)
    assert not os.listdir(tmp_path)


def test_fewer_bytes_than_promised_are_no_file(server, tmp_path):
    with pytest.raises(OSError, match="it has 300,000 bytes instead of 300,001"):
        download.fetch([f"{server}/good/x.bin"], tmp_path, size=300_001)
    assert not os.listdir(tmp_path)


def test_a_full_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: cache.shutil._ntuple_diskusage(9, 9, 70))
    with pytest.raises(OSError, match=r"300,000 bytes are to come and the disk of .* has 70 free"):
        fetch([f"{server}/good/x.bin"], tmp_path)
    assert not os.listdir(tmp_path)


def test_a_disk_that_fills_keeps_the_part(server, tmp_path, monkeypatch):
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:5000])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(download, "_receive", full)
        with pytest.raises(OSError, match="No space left on device.*fetch it by hand"):
            fetch([f"{server}/good/x.bin"], tmp_path)
    assert fetch([f"{server}/good/x.bin"], tmp_path).read_bytes() == CONTENT and Server.log[-1][1] == "bytes=5000-"


def test_files_are_mirrors_too_and_other_schemes_are_refused(tmp_path):
    (tmp_path / "there").write_bytes(CONTENT)
    assert fetch([(tmp_path / "there").as_uri()], tmp_path / "here").read_bytes() == CONTENT
    with pytest.raises(OSError, match="could not be fetched .*nothing.*No such file"):
        fetch([(tmp_path / "nothing").as_uri()], tmp_path / "here")
    for url in ("ftp://127.0.0.1/x", "data:,x", "x.zip", "javascript:x"):
        with pytest.raises(ValueError, match="cannot be fetched from; give one that begins with https, http, file"):
            fetch([f"{tmp_path.as_uri()}/there", url], tmp_path)
    for url in ("http://127.0.0.1/", "http://127.0.0.1/a/..", "http://127.0.0.1/..%5Cx"):
        with pytest.raises(ValueError, match="names no file"):
            fetch([url], tmp_path)
    with pytest.raises(ValueError, match="No address"):
        fetch([], tmp_path)
