"""Many processes as one: they find each other before JAX starts, and notice when one of them is lost.

JAX's own runtime connects the processes, but waits for missing ones in silence and ends all with a stack trace when one dies. So process 0 also keeps a roll:
every process holds a connection to it for as long as it lives, and a connection that breaks, or is silent for long, is a process that is gone. The messages are
lines of JSON. As JAX's own runtime it trusts the network: whoever reaches its port can end the pod, though nothing that comes is executed.
"""

import contextlib
import json
import logging
import os
import socket
import socketserver
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import jax

from causal_ctx.config import ConfigError
from causal_ctx.progress import duration
from causal_ctx.train import Interrupted

LOG = logging.getLogger(__name__)
MODES = ("auto", "on", "off")
LOST = 75  # exit status of a process that ends because another was lost; the same command goes on from the last checkpoint
BEAT, SILENCE = 2.0, 30.0  # seconds between signs of life, and without one until a process counts as lost
BETWEEN_LINES = 10.0  # seconds, while waiting
GRACE = 5.0  # seconds in which a refusal that all have, or a collective that fails, ends a process in its own way after a loss
MOST_BYTES = 4096  # of a message


class PodError(RuntimeError):
    """A pod that did not come together or lost a process; the message is one sentence for the user."""


class Pod(NamedTuple):
    """Who this process is: process `index` of `count`, which meet at `address` ("host:port") of process 0; `devices` it may use, None for all it sees."""

    address: str
    count: int
    index: int
    devices: list[int] | None = None


def described() -> Pod | None:
    """The pod that the environment tells of: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else what JAX finds of Cloud TPU, SLURM or MPI;
    None where there is none. Raises ConfigError where the three do not make sense."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if len(given) == len(names):
        address, count, index = given.values()
        port = address.rpartition(":")[2]
        if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)) or not (port.isdecimal() and 0 < int(port) < 65535):
            raise ConfigError(f"{', '.join(f'{name}={value}' for name, value in given.items())} is no process of a pod; give host:port, N and 0 to N - 1.")
        return Pod(address, int(count), int(index))
    if "JAX_NUM_PROCESSES" in given or "JAX_PROCESS_ID" in given:
        raise ConfigError(f"Of {', '.join(names)} only {', '.join(given)} is set; set all three, or none.")
    from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize itself asks; public functions do not tell before they wait

    try:
        with warnings.catch_warnings(action="ignore"):
            address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(given.get(names[0]), None, None, None, None, 60)
    except Exception as error:  # of whatever it asks
        LOG.warning("Whether this is a process of a pod cannot be told (%s); --distributed=off does not ask.", error)
        return None
    alone_on_its_host = os.environ.get("SLURM_NTASKS") == os.environ.get("SLURM_NNODES") or "SLURM_GPUS_PER_TASK" in os.environ  # sees what is its own
    return Pod(address, count, index, None if alone_on_its_host else devices) if None not in (address, count, index) else None


@contextlib.contextmanager
def joined(mode: str, wait_seconds: float) -> Iterator[None]:
    """Within, this process is one of its pod, if it has one: `mode` "auto" looks for one, "on" refuses to go on without, "off" does not look.

    Raises ConfigError, and PodError where processes are missing after `wait_seconds`. Later, where a process of the pod is lost or ends early, the others end
    with a sentence that names it, and status `LOST`, or 1 if it refused.
    """
    pod = described() if mode != "off" else None
    if pod is None and mode == "on":
        raise ConfigError("--distributed=on, but nothing here tells of a pod; set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave it out.")
    if pod is None or (pod.count == 1 and mode == "auto"):
        yield
        return
    with RollCall(pod) as roll:
        roll.gather(wait_seconds)
        # The roll notices losses; these limits of JAX only have to be longer.
        limits = {"initialization_timeout": 120, "heartbeat_timeout_seconds": int(4 * SILENCE), "shutdown_timeout_seconds": 3600}
        jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself, and tells no one who does not ask
        jax.distributed.initialize(pod.address, pod.count, pod.index, pod.devices, cluster_detection_method="deactivate", **limits)
        LOG.info("%d processes on %d host%s with %d devices are in.", pod.count, roll.hosts, "" if roll.hosts == 1 else "s", jax.device_count())
        try:
            yield
        except BaseException as error:
            roll.leave(error)
            raise
        roll.leave()
        jax.distributed.shutdown()  # waits for the others


def exit_alone(status: int) -> None:
    """Ends this process at once if its pod is broken: JAX's own way out would wait for processes that no longer come. Else returns."""
    if _broken.is_set():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)


def beside(port: int) -> int:
    """The port of the roll, for JAX's `port`: far from those that JAX gives to neighbouring SLURM jobs, 61440 to 65535."""
    return port - 8192 if port >= 61440 else port + 1


_broken = threading.Event()


class RollCall:
    """This process' connection to the roll, and in process 0 the roll itself; a context manager."""

    def __init__(self, pod: Pod):
        self.pod, self.hosts = pod, 0  # how many hosts there are, once all are in
        self.host, port = pod.address.rpartition(":")[0].strip("[]"), int(pod.address.rpartition(":")[2])
        self.port = beside(port)
        self._complete, self._lost, self._leaving = threading.Event(), threading.Event(), threading.Event()
        self._connection, self._roll, self.loss = None, None, ""  # `loss`: the sentence about another process that is gone

    def __enter__(self) -> "RollCall":
        if self.pod.index == 0:
            try:
                self._roll = Roll(self.host, self.port, self.pod.count)
            except OSError as error:
                raise PodError(f"Process 0 cannot keep its roll at port {self.port} ({error.strerror}); choose another address than {self.pod.address}.") from error
            threading.Thread(target=self._roll.serve_forever, daemon=True).start()
        threading.Thread(target=self._hold, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._leaving.set()
        if self._roll:
            self._roll.shutdown()
            self._roll.server_close()

    def gather(self, wait_seconds: float) -> None:
        """Waits until all are in, and says for whom. Raises PodError after `wait_seconds`, or where the roll belongs to another pod."""
        began, says_at = time.monotonic(), BETWEEN_LINES / 2
        while not self._complete.wait(0.1):
            waited = time.monotonic() - began
            if self._lost.is_set():
                raise PodError(self.loss)
            remedy = f"check that the same command runs on every host and that {self.host} can be reached at ports {self.pod.address.rpartition(':')[2]} and {self.port}."
            if waited >= wait_seconds:
                self._leaving.set()
                raise PodError(f"Process {self.pod.index} of {self.pod.count} waited {duration(waited)} for {self._missing()}; {remedy}")
            if waited >= says_at:
                LOG.info("Process %d of %d waits for %s, for %s now; %s", self.pod.index, self.pod.count, self._missing(), duration(waited), remedy)
                says_at = waited + BETWEEN_LINES

    def leave(self, error: BaseException | None = None) -> None:
        """Says goodbye, or why this process ends early. Raises PodError from `error` if that is only what the loss of another process led to."""
        if error is not None:
            _broken.set()
        if isinstance(error, Exception) and not _is_a_sentence(error) and self._lost.wait(5):  # collectives fail a moment before the roll knows
            raise PodError(self.loss) from error
        self._leaving.set()
        words = "" if error is None else " ".join(f"{type(error).__name__}: {error}".split())[:500] if not _is_a_sentence(error) else str(error)
        with contextlib.suppress(OSError):
            _send(self._connection, {"bye": True, "words": words, "final": _is_a_sentence(error) and not isinstance(error, PodError | Interrupted)})

    def _missing(self) -> str:
        """Who is not in, as far as it is known here."""
        if self._connection is None:
            return f"process 0 at {self.host}:{self.port}"
        absent = [i for i in range(self.pod.count) if i not in self._roll.members] if self._roll else []
        names = ", ".join(map(str, absent[:8])) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        return f"process{'' if len(absent) == 1 else 'es'} {names}" if absent else "the others, whom process 0 names"

    def _hold(self) -> None:
        """Connects, as soon as there is a roll, and listens until the end."""
        while self._connection is None:
            try:
                self._connection = socket.create_connection((self.host, self.port), timeout=SILENCE)
            except OSError:
                if self._leaving.wait(0.5):
                    return
        try:
            _send(self._connection, {"process": self.pod.index, "of": self.pod.count, "host": socket.gethostname()})
            threading.Thread(target=self._beat, daemon=True).start()
            for message in _received(self._connection):
                if "all" in message:
                    self.hosts = int(message["all"])
                    self._complete.set()
                elif "refused" in message:
                    self.loss = f"{message['refused']} Start every process once, with its own number."
                    return self._lost.set()
                elif "lost" in message:
                    return self._end(message["lost"], bool(message.get("final")))
            reason = "ended"
        except TimeoutError:
            reason = f"was not heard of for {SILENCE:.0f} s"
        except OSError as error:
            reason = f"was lost ({error.strerror})"
        if not self._leaving.is_set():
            self._end(f"Process 0 on {self.host} {reason}.")

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while not self._leaving.wait(BEAT):
                _send(self._connection, {})

    def _end(self, sentence: str, final: bool = False) -> None:
        """Takes note of a loss; once all were in, the process ends here, whatever its other threads wait for, unless it was leaving anyway."""
        if self._leaving.is_set():
            return
        again = "" if final else " The others cannot go on without it; start all again, and they go on from the last checkpoint."
        self.loss = f"{''.join(filter(str.isprintable, sentence))}{again}"
        self._lost.set()
        if self._complete.is_set():
            _broken.set()
            if self._leaving.wait(GRACE):
                return
            with contextlib.suppress(OSError):  # the status tells those who no longer read
                print(f"causal_ctx: {self.loss}", file=sys.stderr)
            exit_alone(1 if final else LOST)


class Roll(socketserver.ThreadingTCPServer):
    """Who is in: process 0 listens, and tells all when all have come and when one is gone."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, host: str, port: int, count: int):
        self.count, self.members, self._lock = count, {}, threading.Lock()  # {index: (host, connection)}
        self.address_family = _family(host)
        super().__init__((host if host in ("127.0.0.1", "::1", "localhost") else "", port), _Member)

    def enter(self, index: int, host: str, connection: socket.socket) -> bool:
        """Whether process `index` is new; the last one to come makes the pod complete."""
        with self._lock:
            if index in self.members:
                return False
            self.members[index] = (host, connection)
            if len(self.members) == self.count:
                self._tell({"all": len({name for name, _ in self.members.values()})})
        return True

    def gone(self, index: int, reason: str, final: bool = False) -> None:
        """Process `index` is no longer in; all others hear of it if there is a `reason`, which follows its name. `final`: no other start mends it."""
        with self._lock:
            host, _ = self.members.pop(index)
            if reason:
                self._tell({"lost": f"Process {index} of {self.count} on {host} {reason}.", "final": final})

    def _tell(self, message: dict) -> None:
        for _, connection in self.members.values():
            with contextlib.suppress(OSError):
                _send(connection, message)


class _Member(socketserver.BaseRequestHandler):
    """Process 0's end of one connection; what is no process of the pod is told so, or not answered."""

    def handle(self) -> None:
        self.request.settimeout(SILENCE)
        index = None
        try:
            for message in _received(self.request):
                if index is None:
                    number, count, host = message.get("process"), message.get("of"), message.get("host")
                    if type(number) is not int or not isinstance(host, str) or not 0 <= number < self.server.count:
                        return
                    if count != self.server.count or not self.server.enter(number, host[:100], self.request):
                        there = f"a pod of {count}" if count != self.server.count else f"a second process {number}"
                        return _send(self.request, {"refused": f"Process 0 keeps the roll of {self.server.count} processes, and {there} came."})
                    index = number
                elif "bye" in message:
                    index, words = None, str(message.get("words", ""))
                    return self.server.gone(number, f"ended: {words}".rstrip(".") if words else "", message.get("final") is True)
                _send(self.request, {})
            reason = "was lost: its connection closed"
        except TimeoutError:
            reason = f"was not heard of for {SILENCE:.0f} s"
        except OSError as error:
            reason = f"was lost ({error.strerror})"
        if index is not None:
            self.server.gone(index, reason)


def _is_a_sentence(error: BaseException) -> bool:
    """Whether an error is one of ours, written for the user."""
    return type(error).__module__.partition(".")[0] == __name__.partition(".")[0]


def _family(host: str) -> socket.AddressFamily:
    """That of the addresses of `host`: IPv6 where it has no others."""
    try:
        found = {address[0] for address in socket.getaddrinfo(host, None)}
    except OSError:
        return socket.AF_INET
    return socket.AF_INET6 if found == {socket.AF_INET6} else socket.AF_INET


def _send(connection: socket.socket, message: dict) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _received(connection: socket.socket) -> Iterator[dict]:
    """The messages of a connection until it closes, or sends what is none."""
    with connection.makefile("rb") as lines:
        while line := lines.readline(MOST_BYTES):
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(message, dict):
                return
            yield message
