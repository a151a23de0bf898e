"""Own images from folders, archives and array files: what is read, what is said about it, and what is refused."""

import logging
import os
import shutil
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from causal_ctx import data
from causal_ctx.data import cache, images
from causal_ctx.reports import charts

SIDE = 8


def pictures(n: int, value: int = 0, side: int = SIDE, channels: int = 3) -> np.ndarray:
    """n images that differ, around `value`: uint8 [n, side, side, channels]."""
    noise = np.random.default_rng([value, side]).integers(0, 50, (n, side, side, channels))
    return (value + noise).astype(np.uint8)


def save(path, given: np.ndarray, suffix: str = ".png", **options):
    """Writes images [n, H, W, C] as files 0000.png and on."""
    path.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(given):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path / f"{row:04}{suffix}", **options)


def config(path, **changes):
    fields = dict(name="folder", resolution=SIDE, train_per_context=1000, held_out_per_context=1000, validation_fraction=0.3, seed=0, cache_dir="")
    return types.SimpleNamespace(**{**fields, "path": str(path), **changes})


def load(path, **changes):
    return data.load(config(path, **changes))


@pytest.fixture
def own(tmp_path):
    """obs, light, pose and light+pose, ten images each."""
    root = tmp_path / "own"
    for index, name in enumerate(["obs", "pose", "light", "light+pose"]):
        save(root / name, pictures(10, 50 * index))
    return root


def said(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def rows(*arrays) -> list:
    """The images of all arrays, in an order that does not depend on theirs."""
    return sorted(image.tobytes() for array in arrays for image in array)


def test_a_folder_per_context_becomes_the_data_set_of_the_same_arrays(own):
    dataset = load(own)
    arrays = {name: pictures(10, value) for name, value in [("obs", 0), ("light", 100), ("pose", 50)]}
    expected = data.from_contexts(arrays, {"light+pose": pictures(10, 150)})
    assert dataset.concepts == ("light", "pose") and dataset.compositions == ("light+pose",) and dataset.image_shape == (SIDE, SIDE, 3)
    for split in ("train", "validation"):
        assert list(getattr(dataset, split)) == ["obs", "light", "pose"]
        for name, given in getattr(expected, split).items():
            assert np.array_equal(getattr(dataset, split)[name], given), (split, name)
    assert rows(dataset.held_out["light+pose"]) == rows(expected.held_out["light+pose"])
    assert np.array_equal(dataset.held_out["light"], dataset.validation["light"])
    assert dataset.targets("light+pose").tolist() == [1, 1] and dataset.train_latents is None


def test_array_files_and_an_archive_hold_the_same(own, tmp_path):
    np.savez(tmp_path / "obs.npz", images=pictures(10))
    np.save(tmp_path / "pose.npy", pictures(10, 50).astype(np.float32) / 255)
    expected = load(own)
    shutil.rmtree(own / "obs"), shutil.rmtree(own / "pose")
    shutil.move(tmp_path / "obs.npz", own)
    (own / "pose").mkdir()
    shutil.move(tmp_path / "pose.npy", own / "pose")
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "own")
    for dataset in (load(own), load(packed), load(packed)):
        for name in expected.held_out:
            assert np.array_equal(dataset.held_out[name], expected.held_out[name]), name
        assert np.array_equal(dataset.train["pose"], expected.train["pose"])


def test_images_are_decoded_once(own, monkeypatch):
    first = load(own)
    monkeypatch.setattr(images, "decode", None)
    monkeypatch.setattr(images, "survey", None)
    again = load(own)
    assert all(np.array_equal(again.train[name], first.train[name]) for name in first.train)
    assert isinstance(again.train["obs"], np.memmap)


def test_a_changed_file_is_read_again(own):
    first = load(own)
    Image.fromarray(pictures(1, 200)[0]).save(own / "obs" / "0003.png")
    again = load(own)
    assert rows(first.train["light"]) == rows(again.train["light"])
    assert pictures(1, 200)[0].tobytes() in rows(again.train["obs"], again.validation["obs"])


def test_a_full_disk_is_one_sentence_and_the_restart_makes_the_rest(own, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(cache.shutil, "disk_usage", lambda path: cache.shutil._ntuple_diskusage(9_000, 5_000, 4_000))
        with pytest.raises(OSError, match=r"The data cache .* needs [\d,]+ bytes and its disk has 4,000 free; free some space or set data.cache_dir"):
            load(own)
    [kept] = os.listdir(cache.root())
    assert kept.startswith("folder-survey-")  # small enough to fit, and not made again
    monkeypatch.setattr(images, "survey", None)
    assert len(load(own).train["obs"]) == 7


def test_counts_are_capped_by_a_draw_that_depends_on_the_seed_only(own, caplog):
    with caplog.at_level(logging.INFO):
        one, same = (load(own, train_per_context=6, held_out_per_context=4) for _ in range(2))
    assert [len(one.train["obs"]), len(one.validation["obs"]), len(one.held_out["light+pose"])] == [4, 2, 4]
    assert np.array_equal(one.train["obs"], same.train["obs"])
    assert not np.array_equal(one.train["obs"], load(own, train_per_context=6, seed=1).train["obs"])
    assert f"6 of the 10 images in {own / 'obs'} are taken, as data.train_per_context says." in said(caplog)


def test_held_out_images_of_a_single_context_may_be_given(own):
    save(own / "held_out" / "light", pictures(5, 180))
    save(own / "held_out" / "obs", pictures(4, 190))
    dataset = load(own)
    assert rows(dataset.held_out["light"]) == rows(pictures(5, 180)) and rows(dataset.held_out["obs"]) == rows(pictures(4, 190))
    assert len(dataset.train["light"]) == 7 and np.array_equal(dataset.held_out["pose"], dataset.validation["pose"])


def test_grey_images_have_one_channel(tmp_path):
    for name in ("obs", "light"):
        save(tmp_path / name, pictures(4, channels=1))
    dataset = load(tmp_path)
    assert dataset.image_shape == (SIDE, SIDE, 1) and rows(dataset.train["obs"], dataset.validation["obs"]) == rows(pictures(4, channels=1))


def test_grey_among_coloured_is_read_as_rgb_with_a_notice(tmp_path, caplog):
    save(tmp_path / "obs", pictures(4, channels=1))
    save(tmp_path / "light", pictures(4))
    np.savez(tmp_path / "pose.npz", images=pictures(4, 70, channels=1)[..., 0])
    dataset = load(tmp_path)
    assert dataset.image_shape == (SIDE, SIDE, 3)
    for name in ("obs", "pose"):
        assert (dataset.train[name] == dataset.train[name][..., :1]).all()
    assert "holds grey images (in obs, pose) and coloured ones (in light); all are read as RGB." in said(caplog)


def test_sizes_that_differ_are_brought_to_the_resolution_with_notices(tmp_path, caplog):
    save(tmp_path / "obs", pictures(4, 10, side=16))
    save(tmp_path / "light", np.repeat(pictures(4, 20, side=16), 2, axis=2), ".jpg", quality=95)
    np.savez(tmp_path / "pose.npz", images=np.full((4, 5, 5, 3), 77, np.uint8))
    with caplog.at_level(logging.INFO):
        dataset = load(tmp_path)
    assert {x.shape[1:] for x in dataset.train.values()} == {(SIDE, SIDE, 3)}
    assert (dataset.train["pose"] == 77).all()
    blocks = pictures(4, 10, side=16).reshape(4, 8, 2, 8, 2, 3).mean((2, 4)).mean()
    assert np.concatenate([dataset.train["obs"], dataset.validation["obs"]]).mean() == pytest.approx(blocks, abs=1)
    for sentence in (
        "Images are resized from 16 x 16, 16 x 32, 5 x 5 to 8 x 8 pixels.",
        "Images that are not square (16 x 16, 16 x 32, 5 x 5) are squeezed to 8 x 8; crop them first if that matters.",
        f"Contexts differ in size, 16 x 16 in {tmp_path / 'obs'} and 16 x 32 in {tmp_path / 'light'}: resizing blurs them differently",
    ):
        assert sentence in said(caplog)


def test_hidden_files_are_passed_over_and_others_named(own, caplog):
    for name in (".DS_Store", "Thumbs.db", "obs/.DS_Store", "obs/Thumbs.db", "obs/._0000.png", "obs/.git/x.png"):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_bytes(b"x")
    shutil.copytree(own / "obs", own / "__MACOSX")
    assert len(load(own).train["obs"]) == 7 and not caplog.records
    (own / "obs" / "labels.csv").write_text("x")
    (own / "README.txt").write_text("x")
    assert len(load(own).train["obs"]) == 7
    assert f"1 files in {own / 'obs'} are neither PNG nor JPEG nor array files and are ignored, labels.csv first." in said(caplog)
    assert f"{own / 'README.txt'} is neither a folder nor an array file of a context; it is ignored." in said(caplog)


def test_images_in_folders_below_a_context_are_read(own):
    save(own / "light" / "images" / "more", pictures(3, 100))
    dataset = load(own)
    assert len(dataset.train["light"]) + len(dataset.validation["light"]) == 13


def test_one_concept_is_enough(own):
    for name in ("pose", "light+pose"):
        shutil.rmtree(own / name)
    dataset = load(own)
    assert dataset.concepts == ("light",) and dataset.compositions == () and dataset.targets("light").tolist() == [1]


def test_any_printable_name_is_a_concept(own):
    name = """<b onclick='x'>"light" & $x{$ [red] <b>"""
    (own / "light").rename(own / name)
    (own / "light+pose").rename(own / f"{name}+pose")
    dataset = load(own)
    assert dataset.concepts == (name, "pose") and dataset.targets(f"pose+{name}").tolist() == [1, 1]
    charts.heat_maps({f"do({name})": np.eye(2)}, dataset.concepts)  # no formula to be parsed; that pages escape names is tested with them


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def not_an_image(path):
    (path / "0002.png").write_text("<html>not found</html>")


def cut(path):
    content = (path / "0002.png").read_bytes()
    (path / "0002.png").write_bytes(content[: len(content) * 2 // 3])


def one_pixel(path):
    Image.new("RGB", (1, 1)).save(path / "0002.png")


def too_large(path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (20, 9)).save(path / "0002.png")  # Pillow itself only warns of it


def bomb(path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (20, 20)).save(path / "0002.png")


def as_array(given, name="light.npz", **arrays):
    def change(path):
        shutil.rmtree(path)
        np.savez(path.parent / name, **(arrays or {"images": given}))

    return change


def cut_npz(path):
    as_array(pictures(9))(path)
    content = (path.parent / "light.npz").read_bytes()
    (path.parent / "light.npz").write_bytes(content[:-100])


def damaged_npy(path):
    shutil.rmtree(path)
    np.save(path.parent / "light.npy", pictures(9))
    content = (path.parent / "light.npy").read_bytes()
    (path.parent / "light.npy").write_bytes(content.replace(b"(9, ", b"(9((", 1))


def both(path):
    np.savez(path.parent / "light.npz", images=pictures(3))


FAULTS = {
    "empty context folder": (empty, "The folder .*/light holds no image; put PNG or JPEG files into it or remove it"),
    "text for a PNG": (not_an_image, r"light/0002.png is not a whole PNG or JPEG image \(no PNG or JPEG data found\); replace or remove it"),
    "truncated PNG": (cut, r"light/0002.png is not a whole PNG or JPEG image \(.*truncated.*\); replace or remove it"),
    "one pixel": (one_pixel, "light/0002.png is 1 x 1 pixels, less than a quarter of the wanted 8 x 8; remove it, or set data.resolution"),
    "too many pixels": (too_large, "light/0002.png claims 9 x 20 pixels, more than the 100 that are safe to decode; remove it"),
    "decompression bomb": (bomb, "light/0002.png claims too many pixels to be decoded safely"),
    "object array": (as_array(np.array([{}], object)), "light.npz holds no readable array 'images' .*allow_pickle"),
    "other key": (as_array(None, pixels=pictures(3)), "light.npz holds no readable array 'images'"),
    "truncated npz": (cut_npz, "light.npz holds no readable array 'images'"),
    "damaged npy": (damaged_npy, "light.npy holds no readable array 'images'"),
    "integers": (as_array(pictures(3).astype(int)), "light.npz: Images of context 'light' must be uint8 or floating point in .*int64"),
    "NaN": (as_array(np.full((3, 8, 8, 3), np.nan)), r"light.npz: .* must lie in \[0, 1\], got nan"),
    "floats beyond 1": (as_array(pictures(3).astype(float)), r"light.npz: .* must lie in \[0, 1\], got 0 to 49; rescale"),
    "five channels": (as_array(np.zeros((3, 8, 8, 5), np.uint8)), r"light.npz holds an array of shape \(3, 8, 8, 5\); images must be"),
    "no image": (as_array(np.zeros((0, 8, 8, 3), np.uint8)), r"light.npz holds an array of shape \(0, 8, 8, 3\); images must be"),
    "tiny array": (as_array(np.zeros((3, 1, 1, 3), np.uint8)), "light.npz is 1 x 1 pixels, less than a quarter"),
    "folder and array file": (both, "light.npz names the same interventions as .*/light; keep each set of interventions once"),
    "images and array file": (lambda path: np.savez(path / "x.npz", images=pictures(3)), "/light holds 10 images and 1 array files; keep either"),
    "unknown concept": (lambda path: path.rename(path.parent / "lihgt"), r"light\+pose names the concept 'light', which has no folder.*known are lihgt, pose"),
    "held-out unknown": (lambda path: save(path.parent / "held_out" / "size", pictures(3)), "held_out/size names the concept 'size', which has no folder"),
    "pair in other order": (lambda path: save(path.parent / "pose+light", pictures(3)), r"pose\+light names the same interventions as .*/light\+pose"),
    "pair of itself": (lambda path: save(path.parent / "pose+pose", pictures(3)), r"pose\+pose names the same interventions as one intervention twice"),
    "no obs": (lambda path: shutil.rmtree(path.parent / "obs"), "has no folder 'obs' of observational images, only 'light', 'pose'"),
    "one image": (lambda path: [file.unlink() for file in sorted(path.iterdir())[1:]], "/light: A validation_fraction of 0.3 leaves .* an image of 1"),
    "name with a line break": (lambda path: path.rename(path.parent / "li\nght"), r"The name 'li\\nght' in .* cannot be printed; rename it"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_sentence_and_nothing_is_lost(own, fault, monkeypatch):
    change, sentence = FAULTS[fault]
    change(own / "light", monkeypatch) if change in (too_large, bomb) else change(own / "light")
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=sentence) as caught:
        load(own)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
    made = os.listdir(cache.root()) if cache.root().exists() else []
    assert all(name.startswith("folder-survey-") for name in made)  # nothing half made


def test_no_concepts(own):
    for name in ("light", "pose", "light+pose"):
        shutil.rmtree(own / name)
    with pytest.raises(ValueError, match="own holds observational images only; add a folder with images under an intervention"):
        load(own)


def test_a_repaired_image_is_enough_to_go_on(own):
    one_pixel(own / "light")
    with pytest.raises(ValueError, match="0002.png"):
        load(own)
    (own / "light" / "0002.png").unlink()
    assert len(load(own).train["light"]) == 6


@pytest.mark.parametrize("name", ["light/0002.png", "light.npz"])
def test_a_broken_link_is_one_sentence(own, name):
    if name == "light.npz":
        shutil.rmtree(own / "light")
    (own / name).unlink(missing_ok=True)
    (own / name).symlink_to(own / "nowhere")
    with pytest.raises(OSError, match=rf"{name} cannot be read \(No such file or directory\); a broken link\? Repair or remove it"):
        load(own)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(ValueError, match="data.path is empty; give the folder"):
        load("")
    with pytest.raises(FileNotFoundError, match="data.path is '.*/nothing', which is no folder and no archive"):
        load(tmp_path / "nothing")
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as file:
        file.writestr("../obs/0.png", "x")
    with pytest.raises(ValueError, match=r"own.zip holds '../obs/0.png', which leads outside"):
        load(tmp_path / "own.zip")
