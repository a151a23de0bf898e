"""Readers of published factor sets, on small fakes in the published layouts (the sets themselves are not on this machine): indexing, order, faults."""

import io
import math
import tarfile

import ml_collections
import numpy as np
import pytest
import scipy.io
from PIL import Image

from causal_ctx.data import cars3d, celeba, dense_sets, factor_sets, preprocessing, transitions


def config(name, path="", **changes) -> ml_collections.ConfigDict:
    fields = {"name": name, "path": str(path), "resolution": 8, "preprocess": "native", "cache_dir": ""}
    return ml_collections.ConfigDict({**fields, **changes})


# Shapes3D, dSprites, smallNORB

TINY = {
    "shapes3d": {"floor_hue": 2, "wall_hue": 2, "object_hue": 3, "scale": 2, "shape": 2, "orientation": 3},
    "dsprites": {"shape": 3, "scale": 2, "orientation": 4, "position_x": 2, "position_y": 3},
    "smallnorb": {"category": 2, "instance": 5, "elevation": 2, "rotation": 3, "lighting": 2},
}


class Source:
    """Records as TFDS gives them, in an order of their own."""

    def __init__(self, records: list[dict], seed: int = 0):
        self.records = [records[row] for row in np.random.default_rng(seed).permutation(len(records))]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> dict:
        return self.records[row]


def picture(name: str, rank: int, channels: int) -> np.ndarray:
    """An image that tells its rank: by its value, for dSprites by its pixels, which are 0 or 1."""
    if name == "dsprites":
        return ((rank >> np.arange(64)) & 1).astype(np.uint8).reshape(8, 8, 1) if rank else np.zeros((8, 8, 1), np.uint8)
    return np.full((8, 8, channels), rank, np.uint8)


def ranks_of(name: str, images: np.ndarray) -> np.ndarray:
    if name == "dsprites":
        assert set(np.unique(images)) <= {0, 255}
        return (images.reshape(len(images), -1)[:, :16] // 255) @ (1 << np.arange(16))
    return images[:, 0, 0, 0]


def records(name: str) -> list[dict]:
    found = dense_sets.SETS[name]
    result = []
    for rank in range(math.prod(found.sizes.values())):
        values = np.unravel_index(rank, tuple(found.sizes.values()))
        labels = [found.values.get(field, range(99))[value] for field, value in zip(found.labels, values)]
        result.append({"image": picture(name, rank, found.channels), **dict(zip(found.labels, map(np.int64, labels)))})
    return result


@pytest.fixture
def tiny(monkeypatch):
    """The sets with fewer values; returns what installs records as the prepared TFDS set and counts how often they are read."""
    for name, sizes in TINY.items():
        assert list(sizes) == list(dense_sets.SETS[name].sizes)
        monkeypatch.setitem(dense_sets.SETS, name, dense_sets.SETS[name]._replace(sizes=sizes))
    opened = []

    def install(source):
        monkeypatch.setattr(dense_sets, "tfds_source", lambda *arguments: (opened.append(arguments), source)[1])
        return opened

    return install


@pytest.mark.parametrize("name", list(TINY))
def test_records_in_any_order_become_a_dense_set(name, tiny, monkeypatch):
    monkeypatch.setattr(dense_sets, "_ROWS", 7)
    opened = tiny(Source(records(name)))
    for _ in range(2):
        data = factor_sets.load(config(name))
        every = np.arange(len(data))
        assert len(data) == math.prod(TINY[name].values()) and data.factor_names == tuple(TINY[name])
        assert np.array_equal(ranks_of(name, data.images(every)), every)
    assert len(opened) == 1 and opened[0][:2] == (name, "train")
    assert data.image_shape == (8, 8, dense_sets.SETS[name].channels)


def test_files_that_tfds_wrote(tmp_path, monkeypatch):
    """A few records of its own Shapes3D builder's layout, written and read by TFDS; pictures are given as PNG, for want of TensorFlow."""
    import tensorflow_datasets as tfds

    features = tfds.builder_cls("shapes3d")(data_dir=str(tmp_path / "nothing")).info.features
    monkeypatch.setitem(dense_sets.SETS, "shapes3d", dense_sets.SETS["shapes3d"]._replace(sizes=TINY["shapes3d"]))
    labels = dense_sets.SETS["shapes3d"].labels

    class Shapes3d(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for rank in range(144):
                stream = io.BytesIO()
                Image.fromarray(np.full((64, 64, 3), rank, np.uint8)).save(stream, "PNG")
                values = np.unravel_index(rank, tuple(TINY["shapes3d"].values()))
                numbers = {field: int(value) for field, value in zip(labels, values)}
                reals = {field.replace("label", "value"): float(value) for field, value in zip(labels, values)}
                yield rank, {"image": stream.getvalue(), **numbers, **reals}

    Shapes3d(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = dense_sets.tfds_source("shapes3d", "train", str(tmp_path))
    assert [int(source[row]["image"][0, 0, 0]) for row in range(10)] != list(range(10))  # in an order of its own
    data = factor_sets.load(config("shapes3d", tmp_path, resolution=64))
    assert (data.images(np.arange(144)) == np.arange(144)[:, None, None, None]).all()


def test_published_sizes():
    counts = {name: math.prod(found.sizes.values()) for name, found in dense_sets.SETS.items()}
    assert counts == {"shapes3d": 480_000, "dsprites": 737_280, "smallnorb": 24_300}
    assert math.prod(cars3d.SIZES.values()) == 17_568 and len(celeba.SIZES) == 10
    assert all(len(found.labels) == len(found.sizes) for found in dense_sets.SETS.values())


def test_labels_that_do_not_match_the_images(tiny):
    good = records("smallnorb")
    twice = [*good[:-1], {**good[0]}]
    alien = [*good[:-1], {**good[-1], "instance": 3}]
    beyond = [*good[:-1], {**good[-1], "label_azimuth": 7}]
    for spoilt, message in (
        (good[:-1], "smallnorb has 119 records and its factors 120 combinations; prepare it again"),
        (twice, "category 0, instance 0, elevation 0, rotation 0, lighting 0 2 times instead of once"),
        (alien, "A record of smallnorb has instance 3, which must be one of 4, 6, 7, 8, 9"),
        (beyond, "has label_azimuth 7, which must be one of 0 to 2"),
    ):
        tiny(Source(spoilt))
        with pytest.raises(ValueError, match=message):
            factor_sets.load(config("smallnorb"))


def test_array_file_in_the_order_of_the_factors(tiny, tmp_path):
    images = np.stack([record["image"] for record in records("dsprites")])
    np.savez_compressed(tmp_path / "dsprites.npz", imgs=images[..., 0], metadata=np.array(["a"]))
    data = factor_sets.load(config("dsprites", tmp_path / "dsprites.npz"))
    assert np.array_equal(ranks_of("dsprites", data.images(np.arange(len(data)))), np.arange(len(data)))
    np.savez(tmp_path / "few.npz", images=images[1:])
    with pytest.raises(ValueError, match=r"few.npz holds 143 images of 1 channels, and dsprites has 144 of 1 \(3 x 2 x 4 x 2 x 3 factors\)"):
        factor_sets.load(config("dsprites", tmp_path / "few.npz"))
    with pytest.raises(FileNotFoundError, match="nowhere.npz', which is not there; give dsprites_ndarray.*npz"):
        factor_sets.load(config("dsprites", tmp_path / "nowhere.npz"))


@pytest.mark.parametrize("name", [*TINY, "celeba"])
def test_sets_that_tfds_has_not_prepared(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"has no {'celeb_a' if name == 'celeba' else name} ready in .*; prepare it where TensorFlow") as caught:
        factor_sets.load(config(name, tmp_path))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value) and str(caught.value).endswith(".")


# Cars3D

CARS = {"elevation": 4, "azimuth": 24, "object_type": 5}
ORDER = ["car_003_mesh", "car_001_mesh", "car_005_mesh", "car_002_mesh", "car_004_mesh"]


@pytest.fixture
def few_cars(monkeypatch):
    monkeypatch.setattr(cars3d, "SIZES", CARS)
    monkeypatch.setattr(cars3d, "CAR", (8, 8, 3, 24, 4))


def mat(car: int, **changes) -> bytes:
    """One car: red is the car, green the azimuth, blue the elevation; the first pixel's row is marked."""
    views = np.zeros((8, 8, 3, 24, 4), np.uint8)
    views[:, :, 0] = car
    views[:, :, 1] = np.arange(24)[:, None]
    views[:, :, 2] = np.arange(4)
    views[0, :, 0] = 100
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"im": views, **changes}, do_compression=True)
    return stream.getvalue()


def car_files(listed=True) -> dict[str, bytes]:
    files = {f"car_00{car}_mesh.mat": mat(car) for car in (2, 1, 3, 5, 4)}
    return {**files, "list.txt": "".join(f"{name}\n" for name in ORDER).encode()} if listed else files


def write_tar(path, files: dict[str, bytes]):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**files, "../cars/evil.txt": b"x"}.items():
            member = tarfile.TarInfo(name if "/" in name else f"data/cars/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("data/cars/car_000_mesh.mat")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        other = tarfile.TarInfo("data/chairs/car_009_mesh.mat")
        archive.addfile(other, io.BytesIO())
    return path


def check_cars(data, order):
    every = np.arange(len(data))
    images, values = data.images(every), data.factors(every)
    assert images.shape == (480, 8, 8, 3) and (images[:, 0, :, 0] == 100).all()
    numbers = np.array([int(name[4:7]) for name in order])
    assert np.array_equal(images[:, 3, 4], np.stack([numbers[values[:, 2]], values[:, 1], values[:, 0]], axis=-1))


def test_cars_of_tar_folder_and_array(few_cars, tmp_path):
    tar = write_tar(tmp_path / "nips2015-analogy-data.tar.gz", car_files())
    check_cars(data := factor_sets.load(config("cars3d", tar)), ORDER)
    assert sorted(tmp_path.iterdir()) == sorted([tar, tmp_path / "cache"])  # nothing is unpacked
    for listed, order in ((True, ORDER), (False, sorted(ORDER))):
        folder = tmp_path / f"unpacked{listed}" / "data" / "cars"
        folder.mkdir(parents=True)
        for name, content in car_files(listed).items():
            (folder / name).write_bytes(content)
        check_cars(factor_sets.load(config("cars3d", folder.parents[1])), order)
    np.savez(tmp_path / "cars3d.npz", images=data.images(np.arange(480)))
    check_cars(factor_sets.load(config("cars3d", tmp_path / "cars3d.npz")), ORDER)


def test_cars_that_cannot_be_used(few_cars, tmp_path):
    good = car_files()
    first = "car_001_mesh.mat"
    for changed, message in (
        ({k: v for k, v in good.items() if k != first}, "holds 4 cars instead of 5; fetch"),
        ({**good, "car_006_mesh.mat": mat(6)}, "holds more than 5 cars, car_006_mesh.mat after them"),
        ({**good, "list.txt": b"car_001_mesh\n"}, r"disagree about car_002_mesh, car_003_mesh, car_004_mesh; fetch"),
        ({**good, first: mat(1, im=np.zeros((8, 8, 3)))}, rf"{first} in .* holds no array 'im' of uint8 \(8, 8, 3, 24, 4\) \(its arrays are im .* double\)"),
        ({**good, first: b"no matlab file"}, f"{first} in .* holds no array 'im'"),
        ({**good, first: good[first][: len(good[first]) // 2]}, f"{first} in .* holds no array 'im'"),
    ):
        with pytest.raises(ValueError, match=message):
            factor_sets.load(config("cars3d", write_tar(tmp_path / "a.tar.gz", changed)))
    whole = write_tar(tmp_path / "a.tar.gz", good).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a.tar.gz is damaged or cut short .*; fetch"):
        factor_sets.load(config("cars3d", tmp_path / "a.tar.gz"))
    np.savez(tmp_path / "few.npz", images=np.zeros((7, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"few.npz holds images \(7, 8, 8, 3\), and Cars3D has 4 x 24 x 5 = 480 of 3 channels"):
        factor_sets.load(config("cars3d", tmp_path / "few.npz"))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="a.txt is neither an array file .* nor a tar"):
        factor_sets.load(config("cars3d", tmp_path / "a.txt"))


def test_cars_that_are_not_there(few_cars, tmp_path):
    for path in ("", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="Cars3D is not at data.path=.*; fetch www.scottreed.info/files/nips2015-analogy-data.tar.gz and set"):
            factor_sets.load(config("cars3d", path))
    with pytest.raises(FileNotFoundError, match="holds no .mat files, nor does data/cars or cars in it"):
        factor_sets.load(config("cars3d", tmp_path))


def test_large_members_are_not_read(few_cars, tmp_path, monkeypatch):
    monkeypatch.setattr(cars3d, "_LIMIT_BYTES", 100)
    with pytest.raises(ValueError, match=r"car_002_mesh.mat in .* has [\d,]+ bytes, far more than a car"):
        factor_sets.load(config("cars3d", write_tar(tmp_path / "a.tar.gz", car_files())))


# CelebA

NAMES = [f"{number:06d}.jpg" for number in range(1, 13)]
SPLITS = [0] * 7 + [1] * 2 + [2] * 3


def attributes() -> np.ndarray:
    return np.random.default_rng(0).integers(2, size=(12, 10))


def face(row: int) -> np.ndarray:
    image = np.zeros((218, 178, 3), np.uint8)
    image[35:183, 15:163] = 20 * row  # all around the centre is cropped
    return image


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "celeba"
    (folder / celeba.IMAGES).mkdir(parents=True)
    for row, name in enumerate(NAMES):
        Image.fromarray(face(row)).save(folder / celeba.IMAGES / name, quality=100)
    (folder / celeba.PARTITION_LIST).write_text("".join(f"{name} {split}\n" for name, split in zip(NAMES, SPLITS)))
    header = ["Young", *celeba.ATTRIBUTES]
    rows = [f"{name}  {' '.join(str(2 * value - 1) for value in (1, *values))}\n" for name, values in zip(NAMES, attributes())]
    (folder / celeba.ATTRIBUTE_LIST).write_text(f"12\n{' '.join(header)} \n{''.join(reversed(rows))}")
    return folder


def test_celeba_as_published(faces):
    data = factor_sets.load(config("celeba", faces))
    assert len(data) == 12 and data.factor_names == celeba.ATTRIBUTES and data.file_names == tuple(NAMES)
    assert np.array_equal(data.factors(np.arange(12)), attributes()) and data.partition.tolist() == SPLITS
    assert np.abs(data.images(np.arange(12)).astype(int) - 20 * np.arange(12)[:, None, None, None]).max() <= 2
    transitions.make(data)


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    (celeba.PARTITION_LIST, "000003.jpg 0", "000003.jpg 4", "list_eval_partition.txt, line 3, is not a file name and 0, 1 or 2"),
    (celeba.PARTITION_LIST, "000003.jpg", "000033.jpg", "do not fit: 1 images without attributes, 000033.jpg first"),
    (celeba.PARTITION_LIST, "000003.jpg", "000004.jpg", "do not fit: 12 lines for 11 images"),
    (celeba.ATTRIBUTE_LIST, "Bald", "Hair", "list_attr_celeba.txt, line 2, lacks the attributes Bald"),
    (celeba.ATTRIBUTE_LIST, "000012.jpg  1", "000012.jpg  0", "list_attr_celeba.txt, line 3, is not a file name and 11 values of -1 or 1"),
])  # fmt: skip
def test_lists_of_celeba_that_do_not_fit(file, old, new, message, faces):
    text = (faces / file).read_text()
    assert old in text
    (faces / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        factor_sets.load(config("celeba", faces))


def test_celeba_of_tfds(monkeypatch):
    monkeypatch.setattr(celeba, "_ROWS", 3)
    every = [{"image": face(row), "attributes": dict(zip(celeba.ATTRIBUTES, map(bool, values)))} for row, values in enumerate(attributes())]
    parts = {split: [record for record, number in zip(every, SPLITS) if number == index] for index, split in enumerate(celeba.TFDS_SPLITS)}
    monkeypatch.setattr(dense_sets, "tfds_source", lambda name, split, *more: parts[split])
    for _ in range(2):
        data = factor_sets.load(config("celeba"))
        assert np.array_equal(data.factors(np.arange(12)), attributes()) and data.partition.tolist() == SPLITS
        assert (data.images(np.arange(12)) == 20 * np.arange(12)[:, None, None, None]).all() and data.file_names is None


def test_reference_preprocessing_has_a_cache_of_its_own(tiny):
    tiny(Source(records("smallnorb")))
    native, reference = (factor_sets.load(config("smallnorb", preprocess=kind)) for kind in preprocessing.KINDS)
    assert (native.images(np.array([100])) == 100).all() and (reference.images(np.array([100])) == 0).any()
