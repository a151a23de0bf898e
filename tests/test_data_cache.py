"""The disk cache: second start, damage, full and unwritable disks, processes side by side."""

import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from causal_ctx.data import cache

CONTENT = np.arange(60, dtype=np.uint8).reshape(20, 3)


class Maker:
    """Counts how often the rows are made."""

    def __init__(self):
        self.calls = 0
        self.parts = {"a": cache.Part((20, 3), np.uint8, self.blocks), "b": cache.Part((2,), np.float64, lambda: iter([np.ones(2)]))}

    def blocks(self):
        self.calls += 1
        yield CONTENT[:15]
        yield CONTENT[15:]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "numbers"


def test_second_start_reads_what_the_first_made(folder):
    maker = Maker()
    for _ in range(2):
        arrays = cache.load(folder, maker.parts)
        assert np.array_equal(arrays["a"], CONTENT) and arrays["a"].dtype == np.uint8
        assert arrays["b"].tolist() == [1, 1] and arrays["b"].dtype == np.float64
        assert not arrays["a"].flags.writeable
    assert maker.calls == 1
    assert os.listdir(folder.parent) == ["numbers"]
    assert np.array_equal(np.load(folder / "a.npy"), CONTENT)  # an ordinary file to everybody else


def truncate(folder):
    os.truncate(folder / "a.npy", 150)


def flip(folder):
    content = bytearray((folder / "a.npy").read_bytes())
    content[-1] ^= 1
    (folder / "a.npy").write_bytes(content)


def edit_manifest(folder):
    files = json.loads((folder / cache.MANIFEST).read_text())
    files["a"]["crc32"] += 1
    (folder / cache.MANIFEST).write_text(json.dumps(files))


DAMAGE = [
    (truncate, "a.npy has 150 bytes instead of 188"),
    (flip, "a.npy has another checksum"),
    (edit_manifest, "a.npy has another checksum"),
    (lambda folder: (folder / cache.MANIFEST).write_text("{"), "unreadable: Expecting property name"),
    (lambda folder: (folder / cache.MANIFEST).write_text("{}"), "manifest.json lists other files"),
    (lambda folder: (folder / cache.MANIFEST).write_text('{"a": "x", "b": "y"}'), "unreadable: string indices"),
    (lambda folder: (folder / "a.npy").unlink(), "unreadable: [Errno 2]"),
]


@pytest.mark.parametrize(("spoil", "reason"), DAMAGE)
def test_damage_is_repaired_with_a_warning(folder, spoil, reason, caplog):
    maker = Maker()
    cache.load(folder, maker.parts)
    spoil(folder)
    with caplog.at_level("WARNING", logger="causal_ctx"):
        assert np.array_equal(cache.load(folder, maker.parts)["a"], CONTENT)
    assert maker.calls == 2
    [record] = caplog.records
    assert f"is damaged ({reason}" in record.getMessage() and record.getMessage().endswith("; it is made again.")
    caplog.clear()
    cache.load(folder, maker.parts)
    assert maker.calls == 2 and not caplog.records
    assert os.listdir(folder.parent) == ["numbers"]


def test_full_disk_is_noticed_before_rendering(folder, monkeypatch):
    maker = Maker()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: cache.shutil._ntuple_diskusage(100, 30, 70))
    with pytest.raises(OSError, match="numbers needs 76 bytes and its disk has 70 free; free some space or set data.cache_dir"):
        cache.load(folder, maker.parts)
    assert maker.calls == 0 and not os.listdir(folder.parent)


def test_disk_that_fills_while_writing(folder):
    def blocks():
        yield CONTENT[:15]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"numbers needs 60 bytes and its disk has [\d,]+ free; free some space") as caught:
        cache.load(folder, {"a": cache.Part((20, 3), np.uint8, blocks)})
    assert "\n" not in str(caught.value) and not os.listdir(folder.parent)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_write_to_a_full_device(folder, monkeypatch):
    monkeypatch.setattr(cache, "_path", lambda folder, name: cache.Path("/dev/full"))
    with pytest.raises(OSError, match="needs 76 bytes"):
        cache.load(folder, Maker().parts)


def test_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written \((Not a directory|File exists)\); set data.cache_dir"):
        cache.load(tmp_path / "file" / "numbers", Maker().parts)


def test_interrupt_leaves_nothing_behind(folder):
    def blocks():
        yield CONTENT[:15]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load(folder, {"a": cache.Part((20, 3), np.uint8, blocks)})
    assert not os.listdir(folder.parent)


def test_leftovers_of_a_killed_process_are_removed_after_a_day(folder):
    old, young = (folder.parent / f".numbers-{name}" for name in ("old", "young"))
    for private in (old, young):
        private.mkdir(parents=True)
    os.utime(old, (0, 0))
    cache.load(folder, Maker().parts)
    assert young.exists() and not old.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_another_process_publishes_first(folder, damaged):
    """While we make it, another process publishes the folder: kept if intact, replaced if not."""
    other = Maker()

    def blocks():
        cache.load(folder, {**other.parts})
        if damaged:
            flip(folder)
        yield CONTENT

    parts = {**other.parts, "a": cache.Part((20, 3), np.uint8, blocks)}
    assert np.array_equal(cache.load(folder, parts)["a"], CONTENT)
    assert cache.damage(folder, parts) is None
    assert os.listdir(folder.parent) == ["numbers"]


def test_threads_side_by_side(folder):
    barrier, results = threading.Barrier(4), []

    def blocks():
        barrier.wait(timeout=30)
        yield CONTENT

    def start():
        results.append(cache.load(folder, {"a": cache.Part((20, 3), np.uint8, blocks)})["a"])

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(x, CONTENT) for x in results)
    assert os.listdir(folder.parent) == ["numbers"]


def test_processes_side_by_side(tmp_path):
    program = (
        "import sys, types; from causal_ctx.data import quad\n"
        "config = types.SimpleNamespace(name='quad_dependent', resolution=16, train_per_context=300, held_out_per_context=100,"
        " validation_fraction=0.3, seed=0, cache_dir=sys.argv[1], path='')\n"
        "data = quad.load(config); print(sum(int(x.sum()) for x in data.held_out.values()))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(outputs)) == 1 and int(outputs[0]) > 0
    assert len(os.listdir(tmp_path)) == 1


def test_root(monkeypatch, tmp_path):
    assert cache.root(str(tmp_path)) == tmp_path
    monkeypatch.setenv("CAUSAL_CTX_CACHE", "/somewhere")
    assert str(cache.root()) == "/somewhere"
    monkeypatch.delenv("CAUSAL_CTX_CACHE")
    assert cache.root() == cache.Path.home() / ".cache" / "causal_ctx"
