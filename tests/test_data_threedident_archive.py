"""The published 3DIdent archive, written here in its layout: read back, split as published, decoded once; damaged and missing files."""

import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causal_ctx import data
from causal_ctx.data import generated, images, threedident, threedident_archive
from causal_ctx.data import threedident_renderer as renderer
from tests.test_data_threedident import EVERY, SINGLES, config, latents


@pytest.fixture
def archive(tmp_path):
    """Twenty rendered images a context in the published layout, and the data set's arrays."""
    raw = {c: generated.sample_latents(threedident.GENERATOR, "train", c, 20, 0) for c in EVERY}
    images = {c: renderer.render(x, 16) for c, x in raw.items()}
    threedident_archive.write_archive(tmp_path / "archive", images, raw)
    return tmp_path / "archive", images, raw


@pytest.fixture
def decoded(monkeypatch):
    """Files that were decoded, by Pillow alone."""
    seen = []

    def blocks(files, size, channels, name):
        seen.extend(files)
        yield np.stack([np.asarray(Image.open(file).convert("RGB").resize(size, Image.Resampling.LANCZOS)) for file in files])

    monkeypatch.setattr(images, "blocks", blocks)
    return seen


def rows_of(images: np.ndarray, of: np.ndarray) -> list[int]:
    known = {image.tobytes(): row for row, image in enumerate(of)}
    return [known[image.tobytes()] for image in images]


@pytest.mark.parametrize("inner", ["", "3DIdent_Concepts", "deeper"])
def test_round_trip(archive, decoded, inner):
    folder, images, raw = archive
    if inner == "deeper":
        shutil.move(folder, folder.parent / "outer" / "data")
        folder = folder.parent / "outer"
    dataset = data.load(config(name="3dident", path=str(folder / (inner if inner[0:1] == "3" else ""))))
    assert dataset.name == "3dident" and dataset.concepts == ("bg", "obj", "sl") and tuple(dataset.held_out) == EVERY
    assert dataset.simulate is None
    for context in SINGLES:
        pool = rows_of(np.concatenate([dataset.train[context], dataset.validation[context]]), images[context])
        held_out = rows_of(dataset.held_out[context], images[context])
        assert len(dataset.train[context]) == 11 and len(pool) == 14 and sorted(pool + held_out) == list(range(20))
        assert np.array_equal(dataset.train_latents[context], raw[context][pool[:11]])
    for context in threedident.COMPOSITIONS:
        rows = rows_of(dataset.held_out[context], images[context])
        assert len(rows) == 6 and np.array_equal(dataset.held_out_latents[context], raw[context][rows])
    assert len(decoded) == 4 * 20 + 3 * 6


def test_files_are_shuffled_as_published(archive, decoded):
    """One stream of Python's random over the contexts in order."""
    folder, images, _ = archive
    dataset = data.load(config(name="3dident", path=str(folder)))
    stream = random.Random(131223)
    for context in EVERY:
        names = [f"{index:02d}.png" for index in range(20)]
        stream.shuffle(names)
        assert rows_of(dataset.held_out[context], images[context]) == [int(name[:2]) for name in names[14:]]


def test_second_start_decodes_nothing_and_a_changed_archive_is_read_again(archive, decoded):
    folder, images, _ = archive
    fields = config(name="3dident", path=str(folder), train_per_context=10, held_out_per_context=4)
    first = data.load(fields)
    assert len(decoded) == 4 * 14 + 3 * 4 and len(first.train["bg"]) == 8
    assert np.array_equal(data.load(fields).train["bg"], first.train["bg"]) and len(decoded) == 68
    (folder / "3DIdent_Concepts" / "sl" / "raw_latents.npy").unlink()
    again = data.load(fields)
    assert again.train_latents is None and again.held_out_latents is None and len(decoded) == 2 * 68
    Image.fromarray(images["obs"][0]).resize((40, 40)).save(folder / "3DIdent_Concepts" / "obs" / "images" / "03.png")
    data.load(fields)
    assert len(decoded) == 3 * 68


def test_missing_and_damaged_files_are_one_sentence(archive, decoded):
    folder, _, raw = archive
    fields = config(name="3dident", path=str(folder))
    place = folder / "3DIdent_Concepts" / "bg" / "raw_latents.npy"
    for wrong, message in [
        (raw["bg"][:5], r"raw_latents.npy holds float64 of shape \(5, 10\), not \[20, 10\] finite numbers"),
        (np.full((20, 10), np.nan), "finite numbers"),
        (np.array([{}], object), "holds no readable array"),
        (np.array(["a"]), "holds no readable array"),
    ]:
        np.save(place, wrong, allow_pickle=True)
        with pytest.raises(ValueError, match=message) as caught:
            data.load(fields)
        assert "\n" not in str(caught.value)
    place.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no readable array"):
        data.load(fields)
    place.unlink()
    (folder / "3DIdent_Concepts" / "sl" / "raw_latents.npy").unlink()
    for index in range(10):
        (folder / "3DIdent_Concepts" / "sl" / "images" / f"{index:02d}.png").unlink()
    with pytest.raises(ValueError, match="Context 'sl' has 10 images, too few to hold out 30% of them"):
        data.load(fields)
    shutil.rmtree(folder / "3DIdent_Concepts" / "sl")
    shutil.rmtree(folder / "3DIdent_Concepts_ood" / "dataset" / "bg-sl")
    with pytest.raises(FileNotFoundError, match=r"lacks 3DIdent_Concepts/sl/images/\*.png, 3DIdent_Concepts_ood/dataset/bg-sl/images/\*.png; set"):
        data.load(fields)
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        data.load(config(name="3dident", path=str(folder / "nowhere")))
    (folder / "some.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="some.zip is damaged, truncated or no zip or tar archive"):
        data.load(config(name="3dident", path=str(folder / "some.zip")))
    assert not decoded


def test_a_broken_link_is_one_sentence(archive):
    folder, _, _ = archive
    picture = folder / "3DIdent_Concepts" / "obj" / "images" / "07.png"
    picture.unlink()
    picture.symlink_to(folder / "nowhere")
    with pytest.raises(OSError, match="07.png cannot be read .*; a broken link"):
        data.load(config(name="3dident", path=str(folder)))


def test_a_png_that_is_no_image(archive):
    pytest.importorskip("causal_ctx.data.images")
    folder, _, _ = archive
    (folder / "3DIdent_Concepts" / "obj" / "images" / "07.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="07.png") as caught:
        data.load(config(name="3dident", path=str(folder)))
    assert "\n" not in str(caught.value)


def test_pictures_are_resized_with_antialiasing(tmp_path):
    pytest.importorskip("causal_ctx.data.images")
    raw = latents(14)
    threedident_archive.write_archive(tmp_path / "a", {c: renderer.render(raw, 64) for c in EVERY})
    dataset = data.load(config(name="3dident", path=str(tmp_path / "a")))
    order = threedident_archive._split({c: 14 for c in EVERY})["bg"][1]
    expected = renderer.render(raw, 64).reshape(14, 16, 4, 16, 4, 3).mean((2, 4))[order]
    assert dataset.held_out_latents is None and np.abs(dataset.held_out["bg"] - expected).mean() < 4


@pytest.mark.parametrize(("kind", "inner"), [("zip", "."), ("zip", "archive"), ("gztar", "."), ("zip", "archive/3DIdent_Concepts")])
def test_archives(archive, tmp_path, kind, inner):
    """As published, with a folder around it, as a tar; and with the single contexts alone."""
    folder, _, _ = archive
    packed = shutil.make_archive(tmp_path / "3dident", kind, folder if inner == "." else tmp_path, inner)
    load = lambda path: data.load(config(name="3dident", path=str(path)))
    if inner.endswith("Concepts"):
        with pytest.raises(FileNotFoundError, match="3dident.zip lacks 3DIdent_Concepts_ood/dataset/bg-obj/"):
            load(packed)
        return
    from_archive, from_folder = load(packed), load(folder)
    for context in EVERY:
        assert np.array_equal(from_archive.held_out[context], from_folder.held_out[context])
        assert np.array_equal(from_archive.held_out_latents[context], from_folder.held_out_latents[context])
    [unpacked] = (tmp_path / "cache" / "unpacked").iterdir()
    before = unpacked.stat().st_mtime_ns, len(list((tmp_path / "cache").iterdir()))
    load(packed)
    assert before == (unpacked.stat().st_mtime_ns, len(list((tmp_path / "cache").iterdir())))  # unpacked and decoded once


def test_a_damaged_zip_is_one_sentence(archive, tmp_path):
    """Damage of the deflated stream itself, which the zip's own reader does not expect."""
    folder, _, _ = archive
    np.save(folder / "3DIdent_Concepts" / "obs" / "raw_latents.npy", np.zeros((20, 10)))
    packed = Path(shutil.make_archive(tmp_path / "3dident", "zip", folder))
    with zipfile.ZipFile(packed) as members:
        place = members.getinfo("3DIdent_Concepts/obs/raw_latents.npy").header_offset + 30 + len("3DIdent_Concepts/obs/raw_latents.npy")
    content = bytearray(packed.read_bytes())
    content[place : place + 4] = b"\xff" * 4
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=r"3dident.zip is damaged, truncated or no zip or tar archive \(Error -3 while decompressing"):
        data.load(config(name="3dident", path=str(packed)))
    assert not list((tmp_path / "cache" / "unpacked").iterdir())


def test_latents_that_unpack_to_more_than_they_can_be_are_not_unpacked(archive):
    folder, _, _ = archive
    with open(folder / "3DIdent_Concepts" / "bg" / "raw_latents.npy", "wb") as file:
        np.savez_compressed(file, raw_latents=np.zeros((2000, 10)))
    with pytest.raises(ValueError, match="raw_latents.npy holds no readable array 'raw_latents' .it unpacks to 160,128 bytes, more than the 5,696"):
        data.load(config(name="3dident", path=str(folder)))
