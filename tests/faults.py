"""A campaign of faults on real runs: killed or asked to stop at random moments, alone or in a pod, with damaged checkpoints. Slow: some twenty minutes of two cores for 55 faults.

    python -m tests.faults FOLDER [NUMBER [SEED]]

Every fault is followed by the same command again, which must end as the run that nothing happened to: the same results but for costs, bit for bit. Prints a
line per fault and the figures at the end; exit status 1 where any run ended otherwise. Stopped itself, the same command goes on with the faults that are left,
once the processes that it left are stopped, too.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.test_pod import free_port

ROOT = Path(__file__).parent.parent
COMMAND = ["-m", "causal_ctx.main", "--config=configs/quad_dependent.py:tiny", "--config.data.resolution=16", "--config.train.epochs=6",
           "--config.evaluation.projections=10", "--config.data.held_out_per_context=64", "--config.checkpoint.minutes=0.02"]
LIMIT = 900.0  # seconds after which a run counts as hanging
SIGNS = {  # a moment, and what the log or the folder shows from then on
    "data caching": lambda folder, log: any(folder.parent.glob("cache/**/.*-*")) or "Making" in log,
    "training": lambda folder, log: "training step is ready" in log,
    "checkpoint writing": lambda folder, log: any((folder / "checkpoints").glob("*/*tmp*")),
    "training with two checkpoints": lambda folder, log: len(newest_steps(folder)) > 1,
    "evaluation": lambda folder, log: "Scoring" in log,
    "report writing": lambda folder, log: "Scored" in log,
}
STATUS = {"SIGTERM": 130, "others": [75]}  # of those that are asked to stop, and of those that a killed process leaves
WINDOW = {"data caching": 1.0, "training": 4.0, "training with two checkpoints": 2.0, "checkpoint writing": 0.05, "evaluation": 8.0, "report writing": 8.0}  # seconds, of which one is drawn


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "CAUSAL_CTX_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def start(folder: Path, cache: Path, pod: int = 1) -> list[subprocess.Popen]:
    """The processes of a run, each with its log beside the folder."""
    port, processes = free_port(), []
    for index in range(pod):
        own = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(pod), "JAX_PROCESS_ID": str(index)} if pod > 1 else {}
        log = open(f"{folder}.{index}.log", "a")
        command = [sys.executable, *COMMAND, f"--workdir={folder}", *(["--distributed=on"] if pod > 1 else [])]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment(cache) | own, stdout=log, stderr=log))
    return processes


def finish(processes: list[subprocess.Popen], limit: float = LIMIT) -> list[int | None]:
    """Exit statuses; None for a process that hangs, which is killed."""
    end = time.monotonic() + limit
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            for one in processes:
                one.kill()
                one.wait()
            return [None]
    return [process.returncode for process in processes]


def log_of(folder: Path) -> str:
    return Path(f"{folder}.0.log").read_text(errors="replace")


def at(moment: str, folder: Path, processes: list[subprocess.Popen], rng: random.Random) -> bool | None:
    """Waits for the moment and some more; whether the run still goes on, None where it goes on and does not come to the moment."""
    before, end = len(log_of(folder)), time.monotonic() + LIMIT
    while processes[0].poll() is None and not SIGNS[moment](folder, log_of(folder)[before:]) and time.monotonic() < end:
        time.sleep(0.005)
    if time.monotonic() >= end:
        return None
    time.sleep(rng.uniform(0, WINDOW[moment]))
    return processes[0].poll() is None


def content(folder: Path) -> dict:
    """results.json without costs, and the figures of metrics.jsonl without times."""
    found = json.loads((folder / "results.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["train"] = {name: found["train"][name] for name in ("images", "steps", "best_epoch", "finished")}
    return found | {"log": [{name: value for name, value in line.items() if name != "seconds"} for line in lines]}


def newest_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint to resume from, the latest first."""
    return sorted((int(path.name) for path in (folder / "checkpoints" / "newest").glob("*") if path.name.isdecimal()), reverse=True)


def tear(folder: Path, rng: random.Random) -> str:
    """Cuts a file of the newest checkpoint short, flips one of its bits or removes it; what it did. The only checkpoint is left alone."""
    steps = newest_steps(folder)
    if len(steps) < 2:
        return "there was one checkpoint alone"
    path = rng.choice([path for path in sorted((folder / "checkpoints" / "newest" / str(steps[0])).rglob("*")) if path.is_file() and path.stat().st_size])
    content, how = bytearray(path.read_bytes()), rng.choice(["cut", "flipped", "removed"])
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    return f"{how} {path.relative_to(folder)}"


def fault(kind: str, folder: Path, cache: Path, rng: random.Random) -> tuple[str, list[int | None]]:
    """Makes one happen to a run in `folder`; (what happened, exit statuses then: [None] for a run that hung before)."""
    kind, _, moment = kind.partition(" in ")
    pod = 2 if "of two" in kind else 1
    own_cache = folder.parent / "cache" if moment == "data caching" else cache
    processes = start(folder, own_cache, pod)
    running = at(moment, folder, processes, rng)
    if not running:
        return ("came too late", finish(processes)) if running is False else ("came never", finish(processes, 0))
    processes[-1].send_signal(signal.SIGTERM if kind.startswith("SIGTERM") else signal.SIGKILL)
    began = time.monotonic()
    statuses = finish(processes)
    torn = f", {tear(folder, rng)}" if kind.startswith("torn") else ""
    return f"happened{torn}, ended {time.monotonic() - began:.1f} s later", statuses


KINDS = [
    *["kill in training"] * 12, *["kill in checkpoint writing"] * 8, *["kill in data caching"] * 4, *["kill in evaluation"] * 5, *["kill in report writing"] * 5,
    *["SIGTERM in training"] * 4, *["SIGTERM in evaluation"] * 2, *["kill one of two in training"] * 5, *["kill one of two in evaluation"] * 2,
    *["SIGTERM to one of two in training"] * 2, *["torn checkpoint after a kill in training with two checkpoints"] * 6,
]


def campaign(folder: Path, number: int | None = None, seed: int = 0) -> int:
    """Runs the faults, in an order of their own, but for those that campaign.jsonl has of the same ones; the number of runs that ended otherwise than they must."""
    cache, told = folder / "shared_cache", folder / "campaign.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    references = {}
    for pod in (1, 2):
        whole = folder / f"whole_{pod}"
        if not (whole / "report.html").exists():
            shutil.rmtree(whole, ignore_errors=True)  # what nothing happens to was not stopped either
            assert set(finish(start(whole, cache, pod))) == {0}, f"{whole} failed; see its log"
        references[pod] = content(whole)
    kinds = list(KINDS)
    random.Random(seed).shuffle(kinds)
    before = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    if [outcome["fault"] for outcome in before] != kinds[: len(before)]:
        sys.exit(f"{told} holds other faults than these, of another seed or another version; give another folder.")
    done = len(before)
    for count, kind in enumerate(kinds[:number], start=1):
        if count <= done:
            continue
        run = folder / f"{count:02d}" / "run"
        shutil.rmtree(run.parent, ignore_errors=True)
        run.parent.mkdir(parents=True)
        pod = 2 if "of two" in kind else 1
        happened, statuses = fault(kind, run, cache, random.Random(f"{seed} {count}"))
        again = finish(start(run, run.parent / "cache" if kind.endswith("caching") else cache, pod))
        exact = set(again) == {0} and content(run) == references[pod]
        resumed = [line.split("Resuming", 1)[1].strip() for line in log_of(run).splitlines() if "Resuming" in line]
        expected = [0] * pod if happened.startswith("came") else [STATUS["SIGTERM"]] * pod if kind.startswith("SIGTERM") else [*STATUS["others"][: pod - 1], -9]
        outcome = {"fault": kind, "happened": happened.startswith("happened") and "alone" not in happened, "exact": exact, "hang": None in (*statuses, *again), "wrong": not exact or statuses != expected}
        print(f"{count:2d} {kind}: {happened}, status {statuses}, then {again}, {'exact' if exact else 'OTHERWISE'} {'; '.join(resumed)}", flush=True)
        with told.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        if not outcome["wrong"]:
            shutil.rmtree(run.parent)
    outcomes = [json.loads(line) for line in told.read_text().splitlines()[:number]]
    figures = {name: sum(outcome[name] for outcome in outcomes) for name in ("happened", "exact", "hang", "wrong")}
    print(json.dumps({"faults": len(outcomes)} | figures))
    return figures["wrong"]


if __name__ == "__main__":
    sys.exit(1 if campaign(Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:])) else 0)
