"""The page and its runs over HTTP: every answer against the run itself, and whatever is sent, an answer or a closed connection."""

import collections
import contextlib
import copy
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, quote_plus, urlencode

import jax
import numpy as np
import pytest
from PIL import Image

from causal_ctx import answers, data, export, parallel, serve, start
from causal_ctx import config as configs
from causal_ctx.config import ConfigError
from causal_ctx.data import transition_sets
from causal_ctx.workdir import WorkdirError
from tests import tiny, tiny_codes
from tests.test_reports import results as context_results
from tests.test_reports_transitions import results as transition_results

PAGE = "<!doctype html><title>µ</title>".encode()


def untrained(folder: Path, config, dataset, results: dict) -> None:
    """A run in `folder` as if it were finished, of random weights, under which every concept and action shows."""
    rng, state = np.random.default_rng(config.seed), start.shape_of_state(config, dataset, parallel.data_mesh())
    draw = lambda name, leaf: np.ones(leaf.shape, np.float32) if name.endswith(("/var", "/mean")) else 0.3 * rng.standard_normal(leaf.shape, np.float32)
    folder.mkdir()
    np.savez(folder / export.WEIGHTS, **{name: draw(name, leaf) for name, leaf in export.named(state.variables).items()})
    (folder / "config.json").write_text(configs.to_json(config))
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of a context module and a CT-VAE in one folder with a page."""
    folder = tmp_path_factory.mktemp("served")
    for seed in (0, 1):
        untrained(folder / f"a{seed}", tiny.config(seed=seed), tiny.dataset(), context_results(seed=seed))
    untrained(folder / "b", tiny_codes.config(), tiny_codes.dataset(), transition_results())
    (folder / "report.html").write_bytes(PAGE)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """The server of the folder, on one device and at a free port; `loads` counts the data sets that were made for it."""
    loads, mesh = collections.Counter(), jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "data_mesh", lambda: mesh)
        patch.setattr(data, "load", lambda _: (loads.update(["context"]), tiny.dataset())[1])
        patch.setattr(transition_sets, "load", lambda _: (loads.update(["transition"]), tiny_codes.dataset())[1])
        with serve.Server(answers.load(folder), 0) as server:
            server.loads = loads
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()


def ask(server, target: str, method: str = "GET", **headers: str):
    """(status, headers, content) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, target, headers={"Host": f"localhost:{server.port}"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def pixels(server, target: str) -> np.ndarray:
    """The strip at `target`, uint8 [H, n W, C]."""
    status, headers, content = ask(server, target)
    assert status == 200 and headers["Content-Type"] == "image/png", content
    return np.asarray(Image.open(io.BytesIO(content)))


def strip(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C], uint8 or in [0, 1], side by side as uint8."""
    return np.concatenate(images if images.dtype == np.uint8 else np.round(images * 255).astype(np.uint8), axis=1)


def test_the_page_and_what_it_can_ask_for(server):
    status, headers, content = ask(server, "/")
    assert (status, content, headers["Content-Type"]) == (200, PAGE, "text/html; charset=utf-8")
    status, headers, content = ask(server, "/api/about")
    assert status == 200 and headers["Content-Type"] == "application/json"
    context = {"label": "cm_end_to_end name=quad_dependent resolution=16", "system": "context", "concepts": ["light", "red", "dark"]}
    context["image_shape"] = [16, 16, 3]
    codes = {"label": "ct_vae name=quad resolution=8", "seed": 0, "system": "transition", "actions": list(tiny_codes.dataset().actions), "images": 48}
    assert json.loads(content) == {"runs": [context | {"seed": 0, "folder": "a0"}, context | {"seed": 1, "folder": "a1"}, codes | {"folder": "b"} | {"image_shape": [8, 8, 3]}]}
    assert server.loads == {"context": 1, "transition": 1}


@pytest.mark.parametrize("target", ["/", "/api/about", "/api/samples?num=8", "/nowhere", "/api/samples?num=0"])
def test_answers_are_kept_nowhere_and_told_to_nobody_else(server, target):
    status, headers, content = ask(server, target)
    kept = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
    assert {name: headers[name] for name in kept} == kept
    assert not [name for name in headers if name.lower().startswith("access-control")] and headers["Server"].strip() == "causal_ctx"
    head, headers_alone, nothing = ask(server, target, "HEAD")
    assert (head, nothing, headers_alone["Content-Length"], headers["Content-Length"]) == (status, b"", str(len(content)), str(len(content)))


@pytest.mark.parametrize(("number", "concepts", "num", "seed"), [
    (0, [], 1, 0), (0, ["light"], 8, 0), (1, ["dark", "light"], 8, 2**31 - 1), (0, ["light", "red", "dark"], 16, 5),
])  # fmt: skip
def test_samples_are_what_the_run_generates(server, number, concepts, num, seed):
    target = f"/api/samples?run={number}&num={num}&seed={seed}{''.join(f'&concept={name}' for name in concepts)}"
    found = pixels(server, target)
    assert found.shape == (16, 16 * num, 3) and np.array_equal(found, strip(server.served.runs[number].generate(concepts, num, seed)))
    assert ask(server, target)[2] == ask(server, target)[2]
    for other in (target.replace(f"seed={seed}", "seed=3"), target.replace(f"run={number}", f"run={1 - number}")):
        assert not np.array_equal(found, pixels(server, other))


def test_a_query_that_says_nothing_gets_eight_images_of_the_first_run(server):
    assert np.array_equal(pixels(server, "/api/samples"), pixels(server, "/api/samples?run=0&num=8&seed=0"))
    assert not np.array_equal(pixels(server, "/api/samples"), pixels(server, "/api/samples?concept=light"))


def test_actions_are_a_test_image_and_what_the_run_expects_after_each(server):
    run, names = server.served.runs[2], ["hue up", "place up", "hue down", "brightness down"]
    found = pixels(server, f"/api/actions?run=2&image=31{''.join(f'&action={quote_plus(name)}' for name in names)}")
    image, steps = run.data.images["test"][np.array([31])], []
    codes = run.encode(image)
    for number, name in enumerate(names):
        predicted = run.predictor.predict(codes, [run.actions.index(name)], seed=number)
        codes, steps = predicted.codes, [*steps, predicted.images]
    assert found.shape == (8, 8 * 5, 3) and np.array_equal(found, np.concatenate([strip(image), *map(strip, steps)], axis=1))
    assert np.array_equal(steps[-1], run.apply(image, *names)) and len({step.tobytes() for step in steps}) == 4
    assert np.array_equal(pixels(server, "/api/actions?run=2&image=47"), strip(run.data.images["test"][np.array([47])]))


def test_retrieved_actions_are_those_of_the_run_the_most_probable_first(server):
    run = server.served.runs[2]
    images = run.data.images["test"][np.array([3, 17])]
    (likeliest,), (probabilities,) = run.retrieve(images[:1], images[1:])
    found = json.loads(ask(server, "/api/retrieve?run=2&before=3&after=17")[2])
    assert found == dict(zip(run.actions, probabilities.tolist())) and next(iter(found)) == likeliest
    assert list(found.values()) == sorted(found.values(), reverse=True) and sum(found.values()) == pytest.approx(1)


def test_images_of_one_channel_are_grey(server):
    run = SimpleNamespace(data=SimpleNamespace(image_shape=(2, 3, 1)))
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    found = Image.open(io.BytesIO(answers.in_png(images, run).content))
    assert found.mode == "L" and np.array_equal(np.asarray(found), strip(images)[..., 0])


def test_an_autoencoder_shows_test_images_and_knows_no_action(server):
    run = copy.copy(server.served.runs[2])
    run.predictor = run.predictor._replace(transition=None, params=None)
    served = answers.Served([("mcq_vae", run)], b"", run.workdir)
    assert json.loads(served.about.content)["runs"][0]["actions"] == [] and answers.answer(served, "/api/actions?image=0").status == 200
    refused = {"/api/actions?image=0&action=hue+up": "knows no action 'hue up'; it knows none", "/api/retrieve?before=0&after=1": "knows no actions"}
    for target, sentence in refused.items():
        with pytest.raises(answers.Refused, match=sentence):
            answers.answer(served, target)


WRONG = [
    ("/favicon.ico", 404), ("/api", 404), ("/api/samples/", 404), ("/../report.html", 404), ("/%2e%2e/config.json", 404), ("/a0/config.json", 404),
    ("*", 404), ("http://127.0.0.1/api/about", 404), ("//api/about", 200), ("/?", 200), ("/?x=1", 400), ("/api/about?run=0", 400),
    ("/api/samples?run=3", 400), ("/api/samples?run=-1", 400), ("/api/samples?run=2", 400), ("/api/samples?run=0&run=0", 400), ("/api/samples?run=", 400),
    ("/api/samples?num=0", 400), ("/api/samples?num=17", 400), ("/api/samples?num=1.5", 400), ("/api/samples?num=%D9%A3", 400), ("/api/samples?num=+3", 400),
    ("/api/samples?num=1_0", 400), ("/api/samples?num=1e1", 400), (f"/api/samples?num={'1' * 1900}", 400), (f"/api/samples?seed={2**31}", 400),
    ("/api/samples?seed=-1", 400), ("/api/samples?seed=None", 400), ("/api/samples?concept=blue", 400), ("/api/samples?concept=", 400),
    ("/api/samples?concept=light%2Bred", 400), ("/api/samples?concept=light&concept=light", 400), ("/api/samples?concept=obs", 400),
    ("/api/samples?size=3", 400), ("/api/samples?num", 400), ("/api/samples?num=1&", 400), ("/api/samples?&&", 400), ("/api/samples?concept=%ff", 400),
    ("/api/samples?concept=%", 400), (f"/api/samples?{'concept=light&' * 142}", 400), (f"/api/samples?concept={'x' * 1992}", 400),
    (f"/api/samples?concept={'x' * 1993}", 414), (f"/?{'x' * 60_000}", 414), (f"/?{'x' * 70_000}", 414), (f"/{'x' * 60_000}", 404),
    ("/api/actions?run=2", 400), ("/api/actions?run=2&image=48", 400), ("/api/actions?run=2&image=-1", 400), ("/api/actions?run=0&image=0", 400),
    ("/api/actions?run=2&image=0&action=hue", 400), ("/api/actions?run=2&image=0&image=1", 400), (f"/api/actions?run=2&image=0{'&action=hue+up' * 8}", 200),
    (f"/api/actions?run=2&image=0{'&action=hue+up' * 9}", 400), ("/api/retrieve?run=2&before=0", 400), ("/api/retrieve?run=2&before=0&after=48", 400),
    ("/api/retrieve?run=1&before=0&after=1", 400), ("/api/retrieve?run=2&before=0&after=1&seed=0", 400),
]  # fmt: skip


@pytest.mark.parametrize(("target", "wanted"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_refused_with_a_sentence(server, target, wanted):
    status, headers, content = ask(server, target)
    assert status == wanted
    if status >= 400:
        (sentence,) = json.loads(content).values()
        assert headers["Content-Type"] == "application/json" and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "error"])
def test_other_methods_are_refused(server, method):
    status, headers, content = ask(server, "/api/about", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD") and b"GET and HEAD alone" in content


def test_names_that_are_led_to_this_machine_are_refused(server):
    port = server.port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"LOCALHOST:{port}"):
        assert ask(server, "/api/about", Host=host)[0] == 200
    others = ("evil.example", "localhost.evil.example", "[::1]", "0.0.0.0")
    for host in ("evil.example", "localhost", "127.0.0.1", f"localhost:{port + 1}", "", *(f"{name}:{port}" for name in others)):
        status, _, content = ask(server, "/", Host=host)
        assert status == 403 and b"localhost" in content
    for hosts in ("", f"Host: localhost:{port}\r\nHost: evil.example\r\n", f"Host: localhost:{port}\r\nHost: localhost:{port}\r\n"):
        assert raw(server, f"GET / HTTP/1.1\r\n{hosts}\r\n".encode()).startswith(b"HTTP/1.0 403")


def raw(server, sent: bytes) -> bytes:
    """All that is answered to `sent`, after which nothing more is sent; b"" where the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection, contextlib.suppress(OSError):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(2**16), b""))
    return b""


def test_only_this_machine_is_listened_to(server):
    assert server.socket.getsockname() == ("127.0.0.1", server.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address this machine would send from
        except OSError:
            return
        own = probe.getsockname()[0]
    if not own.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, server.port), timeout=5).close()


def test_computations_take_turns_and_a_few_wait(server):
    with ThreadPoolExecutor(answers.MOST_WAITING) as pool:
        with server.served.turn():
            waiting = [pool.submit(ask, server, f"/api/samples?num=8&seed={i}") for i in range(answers.MOST_WAITING)]
            until(lambda: server.served._places._value == 0)
            status, headers, content = ask(server, "/api/samples?num=8")
            assert (status, headers["Retry-After"]) == (503, "2") and b"wait already" in content
            assert ask(server, "/api/about")[0] == 200 and ask(server, "/api/samples?num=0")[0] == 400
            assert not any(future.done() for future in waiting)
        assert [future.result()[0] for future in waiting] == [200] * answers.MOST_WAITING
    assert ask(server, "/api/samples?num=8")[0] == 200 and server.served._places._value == 1 + answers.MOST_WAITING


def until(condition, seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def idle(server) -> bool:
    return server._free._value == serve.MOST_CONNECTIONS


def test_clients_that_drip_are_closed_in_time(server, monkeypatch):
    monkeypatch.setattr(serve, "READ_SECONDS", 0.5)
    until(lambda: idle(server))
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection, contextlib.suppress(ConnectionError):
        connection.setblocking(False)
        while time.monotonic() < began + 20:
            connection.send(b"G")
            time.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                assert connection.recv(10) == b""
                break
    assert 0.4 < time.monotonic() - began < 10
    until(lambda: idle(server))


def test_clients_that_do_not_read_are_closed_in_time(server, monkeypatch):
    monkeypatch.setattr(serve, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(server.served, "page", server.served.page._replace(content=bytes(50_000_000)))
    until(lambda: idle(server))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        until(lambda: not idle(server))
        until(lambda: idle(server))


def test_connections_are_limited_and_free_again_when_they_close(server, caplog):
    until(lambda: idle(server))
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(serve.MOST_CONNECTIONS)]
        until(lambda: server._free._value == 0)
        assert raw(server, b"GET / HTTP/1.1\r\n\r\n") == b""
        held[0].sendall(f"GET / HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        assert held[0].recv(100).startswith(b"HTTP/1.0 200")
    until(lambda: idle(server))
    assert ask(server, "/")[0] == 200 and not caplog.records


@pytest.mark.parametrize("fault", ["raises", "is not finite"])
def test_an_unexpected_error_is_a_sentence_and_is_logged(server, monkeypatch, caplog, fault):
    def broken(*_):
        if fault == "raises":
            raise ValueError("secret")
        return np.full((8, 16, 16, 3), np.nan, np.float32)

    monkeypatch.setattr(server.served.runs[0], "generate", broken)
    status, _, content = ask(server, "/api/samples")
    assert status == 500 and list(json.loads(content)) == ["error"] and b"secret" not in content and b"Traceback" not in content
    (record,) = caplog.records
    assert record.name == "causal_ctx.serve" and record.exc_info and "/api/samples" in record.getMessage()
    monkeypatch.undo()
    assert ask(server, "/api/samples")[0] == 200


def fuzzed(number: int, port: int) -> bytes:
    """One request, from a sound one to noise."""
    rng = random.Random(number)
    noise = lambda most: bytes(rng.randrange(256) for _ in range(rng.randrange(most)))
    pick = lambda *options: options[min(int(rng.expovariate(1)), len(options) - 1)]  # mostly the first
    if rng.random() < 0.1:
        return noise(300) + pick(b"", b"\r\n\r\n", b"\n" * 200)
    fields = {
        "run": range(4), "num": (1, 8, 16, 0, 17, "x", "", "٣"), "seed": (0, 1, 7, 2**31 - 1, 2**31, -1, 10**30),
        "concept": ("light", "red", "dark", "blue", ""), "image": (0, 47, 48, "a"),
        "action": ("hue up", "place down", "hue"), "before": (0, 5), "after": (1, 99), "\x00": ("\x00",),
    }  # fmt: skip
    known = {"samples": "run num seed concept concept", "actions": "run image action action", "retrieve": "run before after", "about": "", "x": ""}
    kind = rng.choice(list(known))
    names = [name if rng.random() < 0.97 else rng.choice(list(fields)) for name in known[kind].split() if rng.random() < 0.9]
    value = lambda name: (2 if kind != "samples" else pick(0, 1, 2, 3)) if name == "run" else rng.choice(fields[name][: pick(4, 30)])
    query = urlencode([(name, value(name)) for name in names])
    path = pick(
        f"/api/{kind}?{query}", f"/api/{kind}", "/", f"/{quote(noise(40))}", f"/api/{kind}?{query}%{noise(9).decode('latin-1')}",
        "/api/samples?" + "seed=1&" * rng.randrange(20_000),
    )  # fmt: skip
    method, version = pick("GET", "HEAD", "POST", "BREW", "", "é"), pick("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/9.9", "HTTP", "")
    host = pick(f"Host: localhost:{port}", f"Host: 127.0.0.1:{port}", "Host: evil.example", "", f"Host: localhost:{port}\r\nHost: x")
    more = pick(
        "", "Connection: keep-alive", "Content-Length: 99999999", "X: " + "y" * rng.randrange(200_000), "X: y\r\n" * rng.randrange(20_000),
        noise(50).decode("latin-1"), "Expect: 100-continue",
    )  # fmt: skip
    line = "\r\n".join(part for part in (f"{method} {path} {version}", host, more) if part)
    return line.encode("latin-1", "replace") + pick(b"\r\n\r\n", b"\n\n", b"\r\n", b"\r\n\r\n" + noise(3000))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_whatever_is_sent_the_server_answers_or_closes_and_does_not_grow(server, caplog):
    for target in (*(f"samples?num={num}" for num in (1, 8, 16)), "actions?run=2&image=0&action=hue+up", "retrieve?run=2&before=0&after=1"):
        assert ask(server, f"/api/{target}")[0] == 200  # compiled before memory is looked at
    sent = lambda numbers: list(pool.map(lambda number: raw(server, fuzzed(number, server.port)), numbers))
    with ThreadPoolExecutor(12) as pool:
        received, grown = sent(range(1_000)), []
        for first in range(1_000, 2_500, 500):
            before = resident_bytes()
            received += sent(range(first, first + 500))
            grown.append(resident_bytes() - before)
    statuses = collections.Counter(answer.partition(b" ")[2][:3].decode("latin-1") for answer in received if answer)
    assert {"200", "400", "403", "404", "405", "414", "431", "505"} <= set(statuses) <= {"200", "400", "403", "404", "405", "414", "431", "503", "505"}
    assert statuses["200"] > 300 and sum(statuses.values()) > 2_375
    assert all(answer.startswith(b"HTTP/1.0 ") for answer in received if answer) and not any(b"Traceback" in answer for answer in received)
    # Threads and buffers are there after the first thousand, most of the time: 6,000 more took 0.03 MiB, and once a thousand took 5.2 (2026-11-26). What is kept
    # of every request grows in each turn: 4 KiB of each would take as much as this.
    assert min(grown) < 500 * 4096
    assert not caplog.records
    until(lambda: idle(server))
    assert server.served._places._value == 1 + answers.MOST_WAITING
    assert ask(server, "/api/samples")[0] == 200 and threading.active_count() < 20


def test_refusals_before_the_start(tmp_path, folder, server, monkeypatch):
    with pytest.raises(WorkdirError, match="holds no evaluated run, nor do the folders directly below it; train one first"):
        serve.run(None, tmp_path, 0)
    (tmp_path / "results.json").write_text(json.dumps(context_results()))
    with pytest.raises(WorkdirError, match="report.html does not exist; write it first, with --mode=report"):
        serve.run(None, tmp_path, 0)
    with pytest.raises(ConfigError, match=f"Port {server.port} cannot be listened to .*; give another one"):
        serve.Server(server.served, server.port)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ConfigError, match="--mode=serve is for one process, and this is one of 4; start it alone"):
        serve.run(None, folder, 0)


START = "from causal_ctx import data, main; from tests import tiny; data.load = lambda _: tiny.dataset(); main.run()"


@pytest.mark.slow
def test_the_mode_says_where_and_ends_at_ctrl_c(folder, tmp_path):
    (tmp_path / "run").symlink_to(folder / "a0")
    (tmp_path / "report.html").write_bytes(PAGE)
    arguments = [sys.executable, "-c", START, "--mode=serve", f"--workdir={tmp_path}", "--port=0", "--nocompilation_cache"]
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **pipes, cwd=Path(__file__).parent.parent, env=os.environ | {"XLA_FLAGS": flags}) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:") and "Ctrl-C ends it" in line, line
            here = SimpleNamespace(port=int(line.split()[0].rpartition(":")[2]))
            assert ask(here, "/")[2] == PAGE and len(json.loads(ask(here, "/api/about")[2])["runs"]) == 1
            with ThreadPoolExecutor(1) as pool:
                compiling = pool.submit(ask, here, "/api/samples")
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                out, errors = process.communicate(timeout=120)
                with contextlib.suppress(ConnectionError):
                    assert compiling.result()[0] == 200
            assert (process.returncode, out, errors) == (0, "Stopped.\n", "")
        finally:
            process.kill()
