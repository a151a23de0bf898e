"""MNIST contexts: morphology against scikit-image, parameters per digit, raw files and the published archive with their faults, cache, real digits."""

import functools
import gzip
import io
import itertools
import os
import struct
import tarfile
import time
import warnings
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology as reference
from skimage import transform

from causal_ctx import config as configs
from causal_ctx import data
from causal_ctx.data import contexts, mnist, mnist_files, morphology

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("CAUSAL_CTX_TEST_DATA", ROOT.parent / "shared" / "data")) / "mnist"
needs_digits = pytest.mark.skipif(not REAL.is_dir(), reason="needs the MNIST files in $CAUSAL_CTX_TEST_DATA/mnist or ../shared/data/mnist")


@functools.cache
def drawn(n: int = 40) -> np.ndarray:
    """Strokes that stand in for digits, uint8 [n, 28, 28]: smooth random walks of several widths."""
    rng = np.random.default_rng(0)
    images = np.zeros((n, 28, 28))
    for image in images:
        steps = ndimage.gaussian_filter1d(rng.standard_normal((60, 2)), 6, axis=0).cumsum(0)
        points = np.clip(14 + 3 * (steps - steps.mean(0)), 5, 22).round().astype(int)
        image[points[:, 0], points[:, 1]] = 1
        image[:] = ndimage.gaussian_filter(ndimage.grey_dilation(image, int(rng.integers(2, 4))), 0.6)
    return (255 * images / images.max((1, 2), keepdims=True)).astype(np.uint8)


def config(path, **changes) -> ml_collections.ConfigDict:
    fields = {"name": "mnist", "resolution": 28, "train_per_context": 20, "held_out_per_context": 10}
    fields |= {"validation_fraction": 0.3, "seed": 0, "cache_dir": "", "path": str(path)}
    return ml_collections.ConfigDict({**fields, **changes})


def idx(digits: np.ndarray) -> bytes:
    return struct.pack(">4i", 2051, *digits.shape) + digits.tobytes()


@pytest.fixture
def raw(tmp_path) -> Path:
    """A folder with 40 digits in two halves, one of them gzipped."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(drawn()[25:]))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(drawn()[:25])))
    return folder


# Morphology


def test_upscaling_and_downscaling_are_scikit_images():
    fine = morphology.upscale(drawn())
    assert np.array_equal(fine, [(transform.pyramid_expand(x / 255, 4, order=3) * 255).astype(np.uint8) for x in drawn()])
    masks = morphology.binarise(fine)
    theirs = [np.clip(transform.pyramid_reduce(x.astype(float), 4, order=3), 0, 1) * 255 for x in masks]
    assert np.abs(morphology.downscale(masks) - np.floor(theirs)).max() <= 1  # they cut off overshoot before the last step
    assert np.abs(morphology.downscale(masks).astype(int) - drawn()).mean() < 8


def test_thinning_and_thickening_are_scikit_images_operators_on_disks():
    given = morphology.strokes(morphology.binarise(morphology.upscale(drawn())))
    thin, thick = morphology.thinned(given, 0.7), morphology.thickened(given, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of scikit-image rename both
        for mask, width, eroded, dilated in zip(given.mask, given.thickness, thin, thick):
            assert np.array_equal(eroded, reference.binary_erosion(mask, reference.disk(int(0.7 * 4 * width / 2))))
            assert np.array_equal(dilated, reference.binary_dilation(mask, reference.disk(int(1.0 * 4 * width / 2))))
    assert len(set(np.floor(2 * given.thickness))) > 2 and (thin < given.mask).any((1, 2)).all() and (thick > given.mask).any((1, 2)).all()


def test_width_is_that_of_the_medial_axis_and_depends_on_no_other_image():
    masks = morphology.binarise(morphology.upscale(drawn()))
    given = morphology.strokes(masks)
    for i in range(0, len(masks), 5):
        skeleton, distance = reference.medial_axis(masks[i], return_distance=True, rng=0)
        assert np.array_equal(given.distance[i], distance)
        assert given.thickness[i] == pytest.approx(2 * distance[skeleton].mean() / 4, rel=0.02)  # ties are broken otherwise
        assert all(np.array_equal(a[0], b[i]) for a, b in zip(morphology.strokes(masks[i : i + 1]), given))
    bar = np.zeros((1, 112, 112), bool)
    bar[0, 40:51, 10:100] = True
    assert morphology.strokes(bar).thickness[0] == pytest.approx(2 * 6 / 4, rel=0.15)  # spurs at its ends lower it


def test_swelling_is_scikit_images_warp():
    given = morphology.strokes(morphology.binarise(morphology.upscale(drawn())))
    ours = morphology.swollen(given, np.linspace(0, 1, len(drawn()), endpoint=False), 3.0, 7.0)
    for i in range(0, len(ours), 4):
        points = np.argwhere(given.skeleton[i])
        centre, radius = points[int(i / len(ours) * len(points))][::-1], 7 * np.sqrt(given.thickness[i]) / 2 * 4

        def source(p):
            offset = p - centre
            return centre + offset * np.minimum(np.hypot(*offset.T)[:, None] / radius, 1) ** 2

        assert (ours[i] != (transform.warp(given.mask[i].astype(float), source, order=0) > 0.5)).mean() < 1e-3  # halves round otherwise
        assert ours[i].sum() > given.mask[i].sum()


def test_images_of_one_value_and_vanished_strokes_stay_empty():
    flat = np.stack([np.full((28, 28), value, np.uint8) for value in (0, 9, 255)])
    masks = morphology.binarise(morphology.upscale(flat))
    assert not masks.any()
    given = morphology.strokes(masks)
    assert given.thickness.tolist() == [0, 0, 0]
    for result in (morphology.thinned(given), morphology.thickened(given), morphology.swollen(given, np.array([0, 0.5, 0.999]))):
        assert not result.any()
    beside = morphology.strokes(np.concatenate([masks[:1], morphology.binarise(morphology.upscale(drawn()[:1]))]))
    assert not morphology.thickened(beside)[0].any()  # nothing leaks from a neighbour


def test_affine_transformations_by_hand():
    image = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5)
    assert morphology.shift(image, np.array([[1, -2]]))[0].tolist() == [[0] * 5, [3, 4, 5, 0, 0], [8, 9, 10, 0, 0], [13, 14, 15, 0, 0], [18, 19, 20, 0, 0]]
    assert not morphology.shift(image, np.array([[5, 0]])).any()
    assert morphology.shear(image, np.array([45.0]))[0].tolist() == [
        [3, 4, 5, 0, 0], [7, 8, 9, 10, 0], [11, 12, 13, 14, 15], [0, 16, 17, 18, 19], [0, 0, 21, 22, 23],
    ]
    half = morphology.scale(image, np.array([0.5]))[0]
    assert half[1:4, 1:4].tolist() == [[1, 3, 5], [11, 13, 15], [21, 23, 25]] and not half[[0, 4]].any() and not half[:, [0, 4]].any()
    for same in (morphology.scale(image, np.ones(1)), morphology.shear(image, np.zeros(1)), morphology.shift(image, np.zeros((1, 2), int))):
        assert np.array_equal(same, image) and same.dtype == np.uint8


def test_affine_transformations_are_scikit_images_warps():
    rng = np.random.default_rng(1)
    factors, degrees = rng.uniform(0.2, 0.8, len(drawn())), rng.uniform(-45, 45, len(drawn()))
    centre = transform.SimilarityTransform(translation=(-13.5, -13.5))
    for i, (scaled, sheared) in enumerate(zip(morphology.scale(drawn(), factors), morphology.shear(drawn(), degrees))):
        slant = np.array([[1, np.tan(np.deg2rad(degrees[i])), 0], [0, 1, 0], [0, 0, 1]])
        for ours, map_ in ((scaled, transform.AffineTransform(scale=factors[i])), (sheared, transform.AffineTransform(slant))):
            theirs = transform.warp(drawn()[i], (centre + map_ + centre.inverse).inverse, order=0, preserve_range=True)
            assert np.array_equal(ours, theirs)


# Contexts


def test_load(raw):
    dataset = data.load(config(raw))
    assert dataset.concepts == mnist.CONCEPTS and dataset.training_contexts == ("obs", *mnist.CONCEPTS)
    assert dataset.image_shape == (28, 28, 1) and dataset.train["thin"].dtype == np.uint8
    assert {len(x) for x in dataset.train.values()} == {14} and {len(x) for x in dataset.validation.values()} == {6}
    assert {len(x) for x in dataset.held_out.values()} == {10}
    assert len(dataset.compositions) == 14 and {"scaled+thin", "swel+thic", "scaled+shear"} < set(dataset.compositions)
    assert "thic+thin" not in dataset.compositions
    every = np.concatenate([part["obs"] for part in (dataset.train, dataset.validation, dataset.held_out)])
    assert sorted(x.tobytes() for x in every) == sorted(x.tobytes() for x in drawn()[:30])  # training half first, every digit once


def test_same_digit_in_every_context(raw):
    dataset = data.load(config(raw))
    for part in (dataset.train, dataset.validation, dataset.held_out):
        again = morphology.downscale(morphology.thickened(morphology.strokes(morphology.binarise(morphology.upscale(part["obs"][..., 0])))))
        assert np.array_equal(part["thic"][..., 0], again)


def test_images_of_a_digit_depend_on_its_row_and_the_seed_alone(monkeypatch):
    names = ("obs", *mnist.CONCEPTS, "shear+swel", "swel+thic")
    whole = mnist.transform(drawn(), np.arange(40), names, 0)
    some = mnist.transform(drawn()[:30], np.array([7, 29, 3]), names[::-1], 0)
    monkeypatch.setattr(mnist, "_ROWS", 7)
    seamed, other = (mnist.transform(drawn(), np.arange(40), names, seed) for seed in (0, 1))
    for name in names:
        assert np.array_equal(whole[name][[7, 29, 3]], some[name]) and np.array_equal(whole[name], seamed[name])
        assert np.array_equal(whole[name], other[name]) == (name in ("obs", "thic", "thin"))
    assert np.array_equal(whole["obs"], drawn())
    assert np.array_equal(mnist.transform(drawn(), np.array([5, 5]), ("shift",), 0)["shift"], whole["shift"][[5, 5]])


def test_laws_of_the_parameters():
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, :, 14] = 255
    many = np.repeat(bar, 2000, 0)
    images = mnist.transform(many, np.arange(2000), ("shear", "shift"), 0)
    full = mnist.transform(np.full_like(many, 255), np.arange(2000), ("scaled",), 0)["scaled"]
    heights = (full.max(2) > 0).sum(1) / 28
    assert heights.min() >= 0.17 and heights.max() <= 0.83 and abs(heights.mean() - 0.5) < 0.02
    lean = images["shear"][:, 18].argmax(1) - images["shear"][:, 9].argmax(1)
    assert lean.min() == 0 and 8 <= lean.max() <= 9
    sideways = images["shift"].max(1).argmax(1) - 14.0
    assert sideways.min() == -8 and sideways.max() == 8 and abs(sideways.mean()) < 0.4


def test_compositions_are_applied_in_the_stated_order():
    names = ("shear", "swel", "shear+swel", "swel+shear", "scaled+thin", "thin")
    images = mnist.transform(drawn(), np.arange(40), names, 0)
    degrees, factors = (mnist._draws(0, concept, 40)[:, 0] for concept in ("shear", "scaled"))
    assert np.array_equal(images["shear+swel"], morphology.shear(images["swel"], 45 * degrees))
    assert np.array_equal(images["shear+swel"], images["swel+shear"])
    assert np.array_equal(images["scaled+thin"], morphology.scale(images["thin"], 0.2 + 0.6 * factors))
    swollen = morphology.binarise(morphology.upscale(drawn()))
    for operation in (lambda s: morphology.thinned(s), lambda s: morphology.swollen(s, mnist._draws(0, "swel", 40)[:, 0])):
        swollen = operation(morphology.strokes(swollen))
    assert np.array_equal(mnist.transform(drawn(), np.arange(40), ("swel+thin",), 0)["swel+thin"], morphology.downscale(swollen))
    with pytest.raises(ValueError, match="names the unknown concept 'slant'"):
        mnist.transform(drawn(), np.arange(2), ("slant",), 0)


def test_simulate_draws_any_context_as_the_held_out_ones(raw):
    dataset = data.load(config(raw))
    for context in ("obs", "thin", "scaled+swel"):
        assert np.array_equal(dataset.simulate(context, 4), dataset.held_out[context][:4])
    for context in itertools.islice(reversed(contexts.subsets(mnist.CONCEPTS)), 30):
        assert dataset.simulate(context, 3).shape == (3, 28, 28, 1)
    with pytest.raises(ValueError, match="11 images of 'thin' were asked for and 10 digits are held out"):
        dataset.simulate("thin", 11)


def test_second_start_transforms_nothing_and_other_digits_are_other_data(raw, monkeypatch):
    done, original = [], mnist._composer
    monkeypatch.setattr(mnist, "_composer", lambda digits, draws: (done.append(len(digits)), original(digits, draws))[1])
    first = data.load(config(raw))
    assert sum(done) == 30
    assert np.array_equal(first.held_out["swel"], data.load(config(raw, validation_fraction=0.5)).held_out["swel"]) and sum(done) == 30
    data.load(config(raw, seed=1))
    assert sum(done) == 60
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(drawn()[10:35])))
    data.load(config(raw))
    assert sum(done) == 90


@pytest.mark.parametrize(("changes", "message"), [
    ({"resolution": 32}, "data.resolution is 32, and MNIST has 28 pixels a side; set it to 28"),
    ({"train_per_context": 1}, "leaves training or validation without an image of 1"),
    ({"train_per_context": 0}, "data.train_per_context must be positive, got 0"),
    ({"held_out_per_context": 0}, "data.held_out_per_context must be positive, got 0"),
    ({"held_out_per_context": 21}, r"holds 40 digits, fewer than data.train_per_context \+ data.held_out_per_context = 41; lower one"),
    ({"seed": -1}, "data.seed must not be negative, got -1"),
])
def test_impossible_fields_are_refused(raw, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(raw, **changes))


# Raw files


def test_raw_files_are_found_where_they_usually_are(raw, tmp_path, monkeypatch):
    names = lambda path: [file.name for file in mnist_files.raw_files(path)]
    assert names(str(raw)) == ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"]
    assert names(str(raw / "t10k-images-idx3-ubyte")) == ["t10k-images-idx3-ubyte"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    downloads = tmp_path / "tfds" / "downloads" / "mnist"
    (downloads / "extracted").mkdir(parents=True)
    given = downloads / "cvdf-datasets_mnist_train-images-idx3-ubyteRA_Kv3.gz"
    given.write_bytes((raw / "train-images-idx3-ubyte.gz").read_bytes())
    (downloads / f"{given.name}.INFO").write_text("{}")
    (downloads / "extracted" / f"GZIP.{given.name}").write_bytes(idx(drawn()[:25]))  # unpacked, and yet called .gz
    assert names("") == [given.name]
    for file in (given, downloads / "extracted" / f"GZIP.{given.name}"):
        assert np.array_equal(mnist_files.read_raw([file]), drawn()[:25])
    own = tmp_path / "cache" / "mnist"
    own.mkdir(parents=True)
    (own / "train-images.idx3-ubyte").write_bytes(idx(drawn()))
    assert names("") == ["train-images.idx3-ubyte"]


def test_an_interrupted_download_is_gone_on_with(raw, tmp_path, monkeypatch):
    own, downloads = tmp_path / "cache" / "mnist", tmp_path / "tfds" / "downloads"
    name = "train-images-idx3-ubyte.gz"
    ours = [own / f"{name}.part", own / f"{name}.part.tag", own / f".{name}.lock"]
    for leftover in (*ours, downloads / f"mnist_{name}.tmp.0a1b" / name, downloads / f"GZIP.{name}.incomplete_0a1b"):
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.write_bytes(b"half")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    asked = []
    monkeypatch.setattr(mnist_files, "_download", lambda folder: asked.append(folder) or raw / name)
    assert mnist_files.raw_files("") == [raw / name] and asked == [own]


def test_digits_that_are_nowhere_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def fail(name: str, folder: Path):
        raise OSError(f"{name} could not be fetched (no network); put it into {folder}.")

    monkeypatch.setattr(mnist_files, "_fetch", fail)
    with pytest.raises(FileNotFoundError) as error:
        data.load(config(""))
    expected = f"train-images-idx3-ubyte.gz could not be fetched (no network); put it into {tmp_path / 'cache' / 'mnist'}, or set data.path to the folder that"
    assert expected in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="holds neither raw digits .* nor the published archive .*; put one there"):
        data.load(config(tmp_path))


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda content: content[:-1], "is cut short: it promises 15 images and holds 14; fetch it again"),
    (lambda content: content[:10], "is no IDX file of 28 x 28 images"),
    (lambda content: b"<html>not found</html>", "is no IDX file of 28 x 28 images"),
    (lambda content: b"", "is no IDX file"),
    (lambda content: struct.pack(">4i", 2051, 2, 32, 32) + content[16:], r"no IDX file of 28 x 28 images \(its first bytes are 00000803000000020000002000000020\)"),
    (lambda content: struct.pack(">4i", 2051, 2**31 - 1, 28, 28) + content[16:], "is no IDX file of 28 x 28 images"),
    (lambda content: gzip.compress(struct.pack(">4i", 2051, 5_000_000, 28, 28)), "is no IDX file of 28 x 28 images"),
    (lambda content: gzip.compress(content)[:-200], "cannot be read .*; fetch it again"),
    (lambda content: gzip.compress(content)[:300] + bytes(400), "cannot be read .*; fetch it again"),
])
def test_damaged_raw_files_are_one_sentence(raw, spoil, message):
    file = raw / "t10k-images-idx3-ubyte"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        data.load(config(raw))
    assert file.name in str(error.value) and "\n" not in str(error.value)


# Published archive


def write_archive(folder: Path, rows: int = 30) -> dict[str, np.ndarray]:
    """Writes the seven CSV files; returns their images."""
    folder.mkdir(parents=True)
    images = mnist.transform(drawn(), np.arange(rows), mnist.TRAINING_CONTEXTS, 0)
    for index, (name, x) in enumerate(images.items()):
        lines = (",".join([*(f"{value:.8g}" for value in (row / np.float32(255)).ravel()), str(i % 10), str(index - 1)]) for i, row in enumerate(x))
        (folder / f"normalized_mnist_{name}.csv").write_text("\n".join(lines) + "\n")
    return images


@pytest.fixture
def archive(tmp_path) -> Path:
    write_archive(tmp_path / "archive")
    return tmp_path / "archive"


def pack(folder: Path, tar: Path) -> Path:
    with tarfile.open(tar, "w:gz") as members:
        members.add(folder, "normalized_mnist_concepts")
    return tar


def test_archive_as_folder_and_as_tar(archive, raw, tmp_path, monkeypatch):
    made = data.load(config(raw))  # from the same digits
    tar = pack(archive, tmp_path / "normalized_mnist_concepts.tar.gz")
    for path in (archive, tmp_path / "archive" / "..", tar):
        dataset = data.load(config(path))
        assert dataset.compositions == () and dataset.simulate is None and dataset.image_shape == (28, 28, 1)
        for part in ("train", "validation", "held_out"):
            for name, images in getattr(dataset, part).items():
                assert np.array_equal(images, getattr(made, part)[name])
    monkeypatch.setattr(mnist_files, "_read_csv", None)  # from the cache
    assert np.array_equal(data.load(config(tar)).train["shear"], made.train["shear"])


def edit(change):
    """A fault: changes line 5 of the file of "shear"."""

    def spoil(folder: Path) -> None:
        file = folder / "normalized_mnist_shear.csv"
        lines = file.read_text().split("\n")
        lines[4] = change(lines[4].split(","))
        file.write_text("\n".join(lines))

    return spoil


ARCHIVE_FAULTS = [
    (edit(lambda row: ",".join(row[:-3])), "normalized_mnist_shear.csv.*, line 5, has 783 columns instead of 786; fetch the archive again"),
    (edit(lambda row: ""), "line 5, has 1 columns instead of 786"),
    (edit(lambda row: ",".join(["x" * 100_000, *row])), "line 5, has 1 columns instead of 786"),
    (edit(lambda row: ",".join(["nan", *row[1:]])), "normalized_mnist_shear.csv.*, line 5, holds 'nan' where a pixel in \\[0, 1\\] belongs"),
    (edit(lambda row: ",".join(["0.5", "1.01", *row[2:]])), "line 5, holds '1.01' where"),
    (edit(lambda row: ",".join([*row[:-3], "-0.1", *row[-2:]])), "line 5, holds '-0.1' where"),
    (edit(lambda row: ",".join(["inf", *row[1:]])), "line 5, holds 'inf' where"),
    (edit(lambda row: ",".join(["<b>", *row[1:]])), "line 5, holds '<b>' where"),
    (edit(lambda row: ",".join(["", *row[1:]])), "line 5, holds '' where"),
    (lambda folder: (folder / "normalized_mnist_shear.csv").write_text(""), "has 0 rows, fewer than data.train_per_context"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("spoil", "message"), ARCHIVE_FAULTS)
def test_archive_faults_name_file_and_line(archive, tmp_path, spoil, message, packed):
    spoil(archive)
    path = pack(archive, tmp_path / "published.tar.gz") if packed else archive
    with pytest.raises(ValueError, match=message) as error:
        data.load(config(path))
    assert "\n" not in str(error.value) and not list((tmp_path / "cache").glob("*"))


def test_archive_that_is_incomplete_or_damaged(archive, tmp_path):
    with pytest.raises(ValueError, match=r"has 30 rows, fewer than data.train_per_context \+ data.held_out_per_context = 31; lower one of them"):
        data.load(config(archive, held_out_per_context=11))
    tar = pack(archive, tmp_path / "cut.tar.gz")
    tar.write_bytes(tar.read_bytes()[:9000])
    with pytest.raises(ValueError, match="cut.tar.gz is damaged or cut short"):
        data.load(config(tar))
    (archive / "normalized_mnist_swel.csv").unlink()
    for path in (archive, pack(archive, tmp_path / "few.tar.gz")):
        with pytest.raises(FileNotFoundError, match="lacks normalized_mnist_swel.csv; fetch it again"):
            data.load(config(path))


@pytest.mark.parametrize(("kind", "message"), [(tarfile.REGTYPE, "'foreign' ends beyond 4,000,000 bytes"), (tarfile.XHDTYPE, "names of a member claim 5,000,000")])
def test_foreign_members_of_a_tar_are_bounded(archive, tmp_path, monkeypatch, kind, message):
    monkeypatch.setattr(mnist_files, "_LIMIT_BYTES", 4_000_000)
    foreign = tarfile.TarInfo("foreign")
    foreign.type, foreign.size = kind, 5_000_000
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as members:
        members.addfile(foreign, io.BytesIO(b"5000000 comment=".ljust(4_999_999, b"x") + b"\n"))
        members.add(archive, "normalized_mnist_concepts")
    with pytest.raises(ValueError, match=f"bomb.tar.gz is damaged or cut short .*{message}.*; fetch it again"):
        data.load(config(tmp_path / "bomb.tar.gz"))


def test_links_in_a_tar_are_not_followed_and_nothing_is_unpacked(archive, tmp_path):
    secret = archive / "normalized_mnist_swel.csv"
    tar = tmp_path / "links.tar.gz"
    with tarfile.open(tar, "w:gz") as members:
        for file in sorted(archive.glob("*.csv")):
            if file != secret:
                members.add(file, f"../../{file.name}")  # a path that would escape
        link = tarfile.TarInfo("normalized_mnist_swel.csv")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        members.addfile(link, io.BytesIO())
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(FileNotFoundError, match="lacks normalized_mnist_swel.csv"):
        data.load(config(tar))
    assert [path for path in sorted(tmp_path.parent.rglob("*")) if path not in before] in ([], [tmp_path / "cache"])


# Config


@pytest.mark.parametrize("size", configs.SIZES)
def test_config_keeps_28_pixels(size):
    settings = get_config(size)
    configs.validate(settings)
    assert settings.data.resolution == 28 and settings.model.backbone == "conv28"
    assert (settings.model.noise_width, settings.model.concept_width, settings.model.features) == (15, 5, 128)
    expected = {"paper": (42_000, 18_000), "cpu": (5_000, 2_000), "tiny": (200, 128)}[size]
    assert (settings.data.train_per_context, settings.data.held_out_per_context) == expected
    assert configs.resize(configs.default(), size).data.resolution == {"paper": 64, "cpu": 32, "tiny": 16}[size]


def get_config(size: str):
    scope: dict = {}
    exec((ROOT / "configs" / "mnist.py").read_text(), scope)
    return scope["get_config"](size)


# Real digits


@needs_digits
def test_real_digits_give_the_calibrated_distances():
    """1,000 digits; the table for all 10,000 is in the docstring of `mnist`."""
    import jax

    from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein

    digits = mnist_files.read_raw(mnist_files.raw_files(str(REAL)))
    rows = np.random.default_rng(0).permutation(len(digits))[:1000]
    began = time.process_time()
    images = mnist.transform(digits, rows, mnist.TRAINING_CONTEXTS, 0)
    assert (time.process_time() - began) / len(rows) < 120 * 2 / 10_000  # seconds of CPU, so that 10,000 take 120 s on two cores
    projections = random_projections(jax.random.key(0), 784, 200)
    expected = {"scaled": 0.198, "shear": 0.083, "shift": 0.118, "swel": 0.055, "thic": 0.174, "thin": 0.148}
    for name, distance in expected.items():
        assert sliced_wasserstein(images["obs"], images[name], projections) == pytest.approx(distance, rel=0.12)
    assert all((images[name].max((1, 2)) > 0).mean() > 0.995 for name in images)
