"""What is saved, for how long, and what happens when it, or the disk, is damaged: nothing is lost but the steps since the checkpoint before."""

import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from causal_ctx import export, parallel, workdir
from causal_ctx import config as configs
from causal_ctx.checkpoints import Checkpoints, checksum
from causal_ctx.files import DamagedError
from causal_ctx.run import best_state, load_run
from causal_ctx.start import initial_state, restore
from causal_ctx.train import train
from tests import tiny
from tests.test_train import numbers

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dataset():
    return tiny.dataset()


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """(folder, best, last, record) of a run of three epochs that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(tiny.config(), dataset, folder)


def steps(folder, name="newest"):
    return sorted(int(path.name) for path in (folder / "checkpoints" / name).iterdir() if path.name.isdecimal())


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "a file is cut short": lambda folder: largest(folder).write_bytes(largest(folder).read_bytes()[: largest(folder).stat().st_size // 2]),
    "a bit is flipped": lambda folder: flip(largest(folder)),
    "a file is gone": lambda folder: largest(folder).unlink(),
    "a file is empty": lambda folder: largest(folder).write_bytes(b""),
    "its description is gone": lambda folder: next(folder.rglob("_METADATA")).unlink(),
    "all of it is gone": lambda folder: [shutil.rmtree(path) if path.is_dir() else path.unlink() for path in folder.iterdir()],
}


def unfinished(whole, tmp_path):
    """A copy of the run as it was in the middle of its last epoch: its last checkpoint is of the epoch before."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    return folder


@pytest.mark.parametrize("damage", [pytest.param(make, id=name, marks=() if "flipped" in name else pytest.mark.slow) for name, make in DAMAGES.items()])
def test_a_damaged_checkpoint_costs_one_epoch_and_changes_nothing(whole, dataset, tmp_path, caplog, damage):
    """The run goes on from the checkpoint before and ends with the same bits; what was damaged is kept aside."""
    _, best, last, record = whole
    caplog.set_level("INFO", "causal_ctx")
    folder = unfinished(whole, tmp_path)
    before, after = steps(folder)
    damage(folder / "checkpoints" / "newest" / str(after))
    resumed_best, resumed, again = train(tiny.config(), dataset, folder)
    assert f"checkpoint of step {after}" in caplog.text and "cannot be read" in caplog.text and f"Resuming run at step {before}" in caplog.text
    chex.assert_trees_all_equal(*(jax.tree.map(numbers, tree) for tree in ((best, last), (resumed_best, resumed))))
    assert (record.best_loss, record.last_loss) == (again.best_loss, again.last_loss)
    assert steps(folder) == [before, after] and (folder / "checkpoints" / "damaged" / str(after)).exists()


def test_restoring_keeps_little_memory(tmp_path):
    """TensorStore never frees what it says of an array, some fifty objects each time; of a leaf without sharding Orbax would ask it that of every array."""
    tree = {str(number): jax.numpy.arange(4.0) for number in range(50)} | {"of NumPy": np.arange(3.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("best", 1, tree)
        checkpoints.restore("best", tree)
        before = sys.getallocatedblocks()
        for _ in range(3):
            chex.assert_trees_all_equal(checkpoints.restore("best", tree), tree)
        assert (sys.getallocatedblocks() - before) / 3 / len(tree) < 30


def test_where_no_checkpoint_can_be_read_nothing_is_trained_over_it(whole, dataset, tmp_path):
    folder = unfinished(whole, tmp_path)
    for step in steps(folder):
        flip(largest(folder / "checkpoints" / "newest" / str(step)))
    with pytest.raises(DamagedError, match=r"No newest checkpoint in .* can be read .*another version\? Train again in another --workdir"):
        train(tiny.config(), dataset, folder)
    assert len(steps(folder)) == 2


def test_a_flipped_bit_that_the_format_does_not_notice_is_noticed(whole, tmp_path, dataset):
    """The checksum is over the values themselves."""
    state, record = whole[2], whole[3]
    tree = {"state": state, "record": record.arrays()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.dtype == np.float32:
            changed = np.asarray(leaf).copy()
            changed.reshape(-1).view(np.uint32)[0] ^= 1
            other = jax.tree_util.tree_map_with_path(lambda p, old: changed if p == path else old, tree)
            assert checksum(other) != checksum(tree)
    config = tiny.config()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("newest", 1, tree)
        checkpoints.wait()
        checkpoints._managers["newest"].save(2, args=ocp.args.StandardSave({"tree": tree, "checksum": checksum(tree) ^ 1}))
        found, _ = restore(checkpoints, "newest", initial_state(config, dataset, parallel.data_mesh()))
    chex.assert_trees_all_equal(numbers(found.key), numbers(state.key))


def test_checkpoints_between_epochs_and_those_that_are_kept(whole, dataset, tmp_path):
    """After so many minutes there is one in the middle of an epoch, from which the run ends with the same bits; every second epoch's is kept for good."""
    config = tiny.config(checkpoint__minutes=1e-9, checkpoint__every_epochs=2)
    best, last, _ = train(config, dataset, tmp_path)
    total = int(last.step)
    assert steps(tmp_path) == [total - config.train.steps_per_call, total] and steps(tmp_path, "kept") == [total // 3 * 2]
    shutil.rmtree(tmp_path / "checkpoints" / "newest" / str(total))
    _, resumed, _ = train(config, dataset, tmp_path)
    chex.assert_trees_all_equal(*(jax.tree.map(numbers, state) for state in (whole[2], resumed)))


@pytest.mark.slow
def test_the_clock_may_go_back(whole, dataset, tmp_path, monkeypatch):
    """Between a run's first part and its second, by a year: the same bits, and the newest checkpoints are the last ones."""
    folder, real = unfinished(whole, tmp_path), time.time
    before, after = steps(folder)
    shutil.rmtree(folder / "checkpoints" / "newest" / str(after))
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * 365)
    _, last, _ = train(tiny.config(), dataset, folder)
    chex.assert_trees_all_equal(*(jax.tree.map(numbers, state) for state in (whole[2], last)))
    assert steps(folder) == [before, after]


FILL = """
import resource, signal, sys
from pathlib import Path
from tests import tiny
from causal_ctx.checkpoints import SaveError
from causal_ctx.train import train
config, dataset = tiny.config(train__epochs=float(sys.argv[2])), tiny.dataset()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    train(config, dataset, Path(sys.argv[1]))
except SaveError as error:
    print("SaveError:", error)
"""


def python(*arguments, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=200, **options)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_ends_the_run_with_a_sentence(whole, dataset, tmp_path):
    """Files larger than some bytes cannot be written, as on a full disk; where that ends, the same run goes on."""
    done = python("-c", FILL, tmp_path / "run", 3, 4_000)
    assert done.stdout.startswith("SaveError: A checkpoint cannot be written to"), done.stdout + done.stderr[-2000:]
    assert "start the same command again" in done.stdout
    _, last, _ = train(tiny.config(), dataset, tmp_path / "run")
    assert int(last.step) == int(whole[2].step)


TAKE = """
import sys, time
from pathlib import Path
from causal_ctx import workdir
try:
    workdir.take(Path(sys.argv[1]))
    print("taken", flush=True)
    time.sleep(float(sys.argv[2]))
except workdir.WorkdirError as error:
    print(error, flush=True)
"""


def test_one_program_at_a_time_works_in_a_folder(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", TAKE, tmp_path, "60"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert first.stdout.readline() == "taken\n"
        second = python("-c", TAKE, tmp_path, 0)
        assert f"is in use by process {first.pid} on " in second.stdout and "choose another --workdir" in second.stdout
    finally:
        first.kill()
        first.wait()
    assert python("-c", TAKE, tmp_path, 0).stdout == "taken\n"  # what a killed program left is no obstacle


def test_exported_weights_are_the_run(tmp_path, monkeypatch):
    """They are read by numpy alone, and give the same images."""
    def fill(config, folder):
        workdir.make(folder, {"config.json": configs.to_json(config)})
        train(config, tiny.dataset(), folder)

    with tiny.run(tmp_path / "run", fill) as (folder, _):
        export.export(None, folder)
        with np.load(folder / "export" / "params.npz", allow_pickle=False) as file:
            weights = {name: file[name] for name in file.files}
        assert weights["params/context_module/causal_obs"].shape == (3, 3, 3, 3)
        shutil.copytree(folder / "export", tmp_path / "elsewhere")
        ours, theirs = load_run(folder), load_run(tmp_path / "elsewhere")
        np.testing.assert_array_equal(ours.generate("light+red", 4), theirs.generate("light+red", 4))
        chex.assert_trees_all_equal(best_state(ours).variables, best_state(theirs).variables)

        path = tmp_path / "elsewhere" / "params.npz"
        np.savez(path, **{name: value for name, value in weights.items() if "causal_obs" not in name})
        with pytest.raises(DamagedError, match=r"params/context_module/causal_obs \(missing there, \[3, 3, 3, 3\] wanted\)"):
            best_state(load_run(tmp_path / "elsewhere"))


class Crafted:
    """Opening this as a pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("kind", ["array", "file", "bytes"])
def test_opening_weights_executes_nothing(tmp_path, kind):
    mark, path = tmp_path / "mark", tmp_path / "params.npz"
    crafted = pickle.dumps(Crafted(mark))
    if kind == "array":
        np.savez(path, **{"params/a": np.array([Crafted(mark)], dtype=object)})
    elif kind == "file":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("params/a.npy", crafted)
    else:
        path.write_bytes(crafted)
    with pytest.raises(DamagedError, match="cannot be read|holds other weights"):
        export.read(path, {"params": {"a": np.zeros(1)}})
    assert not mark.exists()


@pytest.mark.slow
def test_opening_a_checkpoint_executes_nothing(whole, dataset, tmp_path):
    """Whatever file of a checkpoint holds a pickle in place of its own content."""
    folder = unfinished(whole, tmp_path)
    step = folder / "checkpoints" / "best" / str(steps(folder, "best")[0])
    for number, file in enumerate(sorted(path for path in step.rglob("*") if path.is_file())):
        content = file.read_bytes()
        file.write_bytes(pickle.dumps(Crafted(tmp_path / "mark")))
        with Checkpoints(folder / "checkpoints") as checkpoints:
            try:
                restore(checkpoints, "best", initial_state(tiny.config(), dataset, parallel.data_mesh()))
            except DamagedError:
                pass
        file.write_bytes(content)
        assert not (tmp_path / "mark").exists(), file
