"""examples/serve: the service over real sockets, with everything that clients do wrong."""

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="examples/serve needs FastAPI")
pytest.importorskip("uvicorn", reason="examples/serve needs uvicorn")
pytest.importorskip("prometheus_client", reason="examples/serve needs prometheus-client")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "serve"))

import uvicorn

import fastxai
import load
import serve
import worker
from fastxai import IntegratedGradients
from model import ModelProcess
from schema import Argument, Manifest, Schema, Unanswerable
from service import Settings, create_app
from worker import explain

from ..models import TwoInputs, mlp
from .test_gradient_methods import CLOSE, randn

SOON = 30  # seconds that nothing here takes
GOOD = json.dumps({"inputs": [[0.1, 1, -2, 3, 4, 5, 6]]}).encode()


@pytest.fixture(scope="module")
def package_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "package.pt2"
    sha256 = fastxai.export(
        IntegratedGradients(mlp()),
        randn(2, [(7,)]),
        path,
        format="torch",
        target="argmax",
        n_steps=4,
    )
    return path, sha256


@pytest.fixture(scope="module")
def package(package_path):
    return fastxai.load(package_path[0])


def manifest_of(package):
    return Manifest.model_validate_json(package.manifest.to_json())


@contextmanager
def serving(package, call=None, **settings):
    """The port of a service on a thread of this process."""
    app = create_app(manifest_of(package), call or partial(explain, package), Settings(**settings))
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=SOON)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(SOON)


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def ask(port, path="/explain", body=GOOD, headers=load.JSON, method="POST"):
    """Status, what the JSON says, and the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text), response.headers


def asking(port, *arguments):
    """As ask, on a thread; a function that gives the answer."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask(port, *arguments)))
    thread.start()

    def answer():
        thread.join(SOON)
        return answers[0]

    return answer


def metrics(port):
    """Every sample, by its name with labels."""
    lines = load.get(port, "/metrics").decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def counted(port):
    """How many requests ended, by endpoint and status."""
    pattern = re.compile(r'fastxai_requests_total\{endpoint="/(\w+)",status="(\d+)"\}')
    found = ((pattern.fullmatch(name), value) for name, value in metrics(port).items())
    return {(m[1], int(m[2])): int(value) for m, value in found if m}


def as_body(**arguments):
    def lists(value):
        return [lists(v) for v in value] if isinstance(value, tuple) else value.tolist()

    return json.dumps({name: lists(value) for name, value in arguments.items()}).encode()


def check(answer, found):
    """An answer has all of what a package said."""
    expected = {name: value for name, value in found._asdict().items() if value is not None}
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        several = isinstance(value, tuple)
        for got, one in zip(
            answer[name] if several else [answer[name]], value if several else [value], strict=True
        ):
            torch.testing.assert_close(torch.tensor(got, dtype=one.dtype), one, **CLOSE)


# --- What it answers ---


def test_answers_are_the_packages(package):
    with serving(package) as port:
        for rows in (1, 5):
            x = randn(rows, [(7,)])
            status, answer, headers = ask(port, "/explain", as_body(inputs=x))
            assert status == 200 and headers["content-type"] == "application/json"
            check(answer, package(x))
            status, answer, _ = ask(port, "/predict", as_body(inputs=x))
            assert status == 200 and answer.keys() == {"outputs"}
            torch.testing.assert_close(torch.tensor(answer["outputs"]), package(x).outputs, **CLOSE)


def test_tuples_targets_baselines_and_additional_arguments(tmp_path):
    inputs, baselines = randn(3, [(4,), (2, 3)]), randn(3, [(4,), (2, 3)])
    baselines = tuple(b.flip(0) / 2 for b in baselines)
    shift, target = randn(3, [(6,)]), torch.tensor([0, -1, 2])
    fastxai.export(
        IntegratedGradients(TwoInputs()),
        inputs,
        tmp_path / "a.pt2",
        format="torch",
        baselines=baselines,
        target=target,
        additional_forward_args=(shift, 2.0),
        n_steps=3,
    )
    package = fastxai.load(tmp_path / "a.pt2")
    arguments = {
        "inputs": inputs,
        "target": target,
        "baselines": baselines,
        "additional_forward_args": (shift,),
    }
    with serving(package) as port:
        status, answer, _ = ask(port, "/explain", as_body(**arguments))
        assert status == 200
        check(answer, package(**arguments))
        for name, value, message in (
            ("inputs", inputs[:1], r"inputs\[1\]: Field required"),
            ("inputs", inputs[0], r"inputs: Tuple should have at most 2 items"),
            ("inputs", (inputs[0], baselines[1][:2]), r"inputs\[1\]: expected 3 rows, .* got 2"),
            ("inputs", (inputs[0], inputs[1].mT), r"inputs\[1\]\[0\]\[0\]: .* least 3 items"),
            ("target", torch.tensor([0, 3, 0]), r"target\[1\]: Input should be less than 3"),
            ("target", torch.tensor([0, 1, -4]), r"target\[2\]: Input should be greater than or"),
            ("target", torch.tensor([0]), r"target: expected 3 rows, as inputs\[0\] has, got 1"),
            ("baselines", (baselines[0] / 0, baselines[1]), r"baselines\[0\]\[0\]\[0\]: .*finite"),
        ):
            status, answer, _ = ask(port, "/explain", as_body(**{**arguments, name: value}))
            assert status == 422 and re.match(message, answer["detail"]), answer


def schema_of(*arguments, max_rows=4):
    """Of a package with these arguments, (name, shape, dtype), over a model with 3 outputs."""
    described = [
        Argument(name=name, shape=shape, dtype=dtype, rows=1)
        for name, shape, dtype in (*arguments, ("outputs", (3,), "float32"))
    ]
    manifest = Manifest(method="", arguments=described[:-1], results=described[-1:])
    return Schema(manifest, max_rows)


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("bool", ["true", "false"], ["1", "0", "null"]),
        ("uint8", ["0", "255"], ["-1", "256", "1.5", "1.0", "true"]),
        ("int64", [str(-(1 << 63))], [str(1 << 63), '"1"']),
        ("float16", ["1", "-65504"], ["65505", "NaN"]),
        ("bfloat16", ["1", "3.38e38"], ["3.4e38", "-Infinity"]),
        ("float32", ["1e-50", "3.4e38"], ["3.5e38", "-3.5e38"]),
        ("float64", ["1.7e308"], ["1.8e308"]),
    ],
)
def test_numbers_must_fit_their_dtype(dtype, good, bad):
    requests = schema_of(("inputs", (), dtype))
    (array,) = requests.parse(f'{{"inputs": [{", ".join(good)}]}}'.encode())
    assert array.dtype == ("float32" if dtype == "bfloat16" else dtype)
    assert array.tolist() == np.array(json.loads(f"[{', '.join(good)}]"), array.dtype).tolist()
    for number in bad:
        with pytest.raises(Unanswerable, match=r"^inputs\[1\]: Input should be"):
            requests.parse(f'{{"inputs": [{good[0]}, {number}]}}'.encode())


def test_a_target_for_each_dimension():
    requests = schema_of(("inputs", (), "float32"), ("target", (1,), "int64"))
    _, target = requests.parse(b'{"inputs": [1, 2], "target": [[-3], [2]]}')
    assert target.tolist() == [[-3], [2]] and target.dtype == np.int64
    with pytest.raises(Unanswerable, match=r"target\[0\]\[0\]: Input should be less than 3"):
        requests.parse(b'{"inputs": [1], "target": [[3]]}')


def test_numbers_that_json_has_not():
    with pytest.raises(ValueError, match="inputs is complex64"):
        schema_of(("inputs", (), "complex64"))


def test_bfloat16_travels_in_full(package):
    x = randn(3, [(7,)]).bfloat16()
    said = json.loads(package.manifest.to_json().replace("float32", "bfloat16"))
    said = fastxai.deploy.Manifest.from_json(json.dumps(said))
    half = fastxai.deploy.Package(said, lambda tensors: [tensors[0], 2 * tensors[0], x[:, 0]])
    outputs, attributions, _ = explain(half, [x.float().numpy()])
    np.testing.assert_array_equal(outputs, x.float().numpy())
    np.testing.assert_array_equal(attributions, 2 * x.float().numpy())


class Drawing:
    """A package that draws: its manifest, and a call that says the seed and a row's number."""

    def __init__(self, package, of_call):
        said = json.loads(package.manifest.to_json())
        if of_call:
            said["arguments"].append({"name": "seed", "shape": [], "dtype": "int64", "rows": 0})
        said["results"][2]["rows"] = 2
        self.manifest = fastxai.deploy.Manifest.from_json(json.dumps(said))

    def __call__(self, inputs, seed=5):
        numbers = torch.arange(len(inputs) * 1.0)
        delta = numbers.masked_fill(inputs[:, 0] == 13, torch.nan).repeat_interleave(2)
        return fastxai.deploy.Explained(inputs[:, :4], inputs + seed + numbers[:, None], delta)


@pytest.mark.parametrize("of_call", [True, False])
def test_what_is_drawn_does_not_depend_on_other_requests(package, of_call):
    drawing = Drawing(package, of_call)
    held = Held(drawing)
    with serving(drawing, held) as port:
        arguments = [{"seed": n} if of_call else {} for n in (1, 2, 3)]
        bodies = [json.dumps({"inputs": [[n] * 7] * n, **arguments[n - 1]}) for n in (1, 2, 3)]
        answers = [asking(port, "/explain", body) for body in bodies]
        until(lambda: in_flight(port) == 3)
        held.go.set()
        for rows, answer in enumerate(answers, 1):
            status, found, _ = answer()
            seed = rows if of_call else 5
            assert status == 200
            assert [row[0] for row in found["attributions"]] == [
                rows + seed + i for i in range(rows)
            ]
            assert found["convergence_delta"] == [i // 2 for i in range(2 * rows)]
        assert len(held.asked) == 3
        status, answer, _ = ask(port, body=json.dumps({"inputs": [[n] * 7 for n in (1, 2, 13)]}))
        assert status == 500 and answer["detail"] == "convergence_delta of row 2 are not finite"
        if of_call:
            seeds = [ask(port)[1]["attributions"][0][1] for _ in range(2)]
            assert seeds[0] != seeds[1]
            status, answer, _ = ask(port, body=json.dumps({"inputs": [[1] * 7], "seed": -1}))
            assert status == 422 and answer["detail"].startswith("seed: Input should be greater")


def test_what_it_says_of_itself(package):
    with serving(package, max_rows=5) as port:
        info = json.loads(load.get(port, "/info"))
        assert info["method"] == "Integrated Gradients" and info["limits"]["max_rows"] == 5
        assert info["fingerprint"] == package.manifest.fingerprint
        assert ask(port, "/health", method="GET")[:2] == (200, {"status": "ok"})
        assert ask(port, "/ready", method="GET")[:2] == (200, {"status": "ready"})
        openapi = json.loads(load.get(port, "/openapi.json"))
        content = openapi["paths"]["/explain"]["post"]["requestBody"]["content"]
        rows = content["application/json"]["schema"]["properties"]["inputs"]
        assert rows["maxItems"] == 5 and rows["items"]["minItems"] == 7
        assert ask(port, "/explain", method="GET")[0] == 405
        assert ask(port, "/nothing")[0] == 404


# --- What it refuses ---


def rows(*last):
    """Rows of numbers, of which the last is as written."""
    return f"[{', '.join(f'[1, 2, 3, 4, 5, 6, {value}]' for value in last)}]"


def of_inputs(inputs, more=""):
    return f'{{"inputs": {inputs}{more}}}'


NUMBERS = {
    "NaN": "Input should be a finite number",
    "-Infinity": "Input should be a finite number",
    "1e999": "Input should be a finite number",
    "1e39": "Input should be less than or equal to 34028",  # it is float32
    "null": "Input should be a valid number",
    '"7"': "Input should be a valid number",
    "true": "Input should be a valid number",
    "[7]": "Input should be a valid number",
}
BAD = {
    "no JSON": ('{"inputs": [[1, 2', 400, "Invalid JSON: EOF"),
    "no UTF-8": (b'{"inputs": "\xff"}', 400, "Invalid JSON"),
    "nothing": ("", 400, "Invalid JSON: EOF"),
    "deep": ("[" * 50_000, 400, "Invalid JSON: recursion limit"),
    "a list": (rows(7), 422, "the body: Input should be an object"),
    "no inputs": ("{}", 422, "inputs: Field required"),
    "another field": (of_inputs(rows(7), ', "target": [1]'), 422, "target: Extra inputs"),
    "no rows": (of_inputs("[]"), 422, "inputs: List should have at least 1 item"),
    "many rows": (of_inputs(rows(*range(9))), 422, "inputs: List should have at most 8 items"),
    "one row": (of_inputs(rows(7)[1:-1]), 422, r"inputs\[0\]: Input should be a valid array"),
    "short": (of_inputs(rows(7)[:-1] + ", [1]]"), 422, r"inputs\[1\]: .* at least 7 items"),
    "long": (of_inputs(rows("7, 8")), 422, r"inputs\[0\]: .* at most 7 items"),
    **{
        value: (of_inputs(rows(7, value)), 422, rf"inputs\[1\]\[6\]: {message}")
        for value, message in NUMBERS.items()
    },
}


@pytest.fixture(scope="module")
def strict(package):
    """The port of a service that takes 8 rows and 100 kB, and what its model was asked."""
    seen = []

    def call(arrays):
        seen.extend(arrays)
        return explain(package, arrays)

    with serving(package, call, max_rows=8, max_body_bytes=100_000) as port:
        seen.clear()
        yield port, seen


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies(strict, name):
    port, seen = strict
    body, status, message = BAD[name]
    before = counted(port).get(("explain", status), 0)
    got, answer, _ = ask(port, body=body)
    assert got == status and re.match(message, answer["detail"]), answer
    assert counted(port)["explain", status] == before + 1 and not seen


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type(strict, kind):
    port, seen = strict
    headers = {} if kind is None else {"Content-Type": kind}
    status, answer, _ = ask(port, headers=headers)
    assert status == 415 and "application/json" in answer["detail"] and not seen
    assert ask(port, headers={"Content-Type": "Application/JSON; charset=utf-8"})[0] == 200
    seen.clear()


def test_a_large_body_is_not_read(strict):
    port, seen = strict
    status, answer, _ = ask(port, body=b" " * 100_001 + GOOD)
    assert status == 413 and answer["detail"] == "expected a body of at most 100000 bytes"
    with socket.create_connection(("127.0.0.1", port), SOON) as client:
        # The answer comes before the body does.
        client.sendall(head(f"Content-Length: {1 << 40}"))
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    assert ask(port, body=b" " * (100_000 - len(GOOD)) + GOOD)[0] == 200
    seen.clear()


def test_a_body_of_unknown_length_is_counted_while_it_is_read(strict):
    port, seen = strict
    with socket.create_connection(("127.0.0.1", port), SOON) as client:
        client.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(101):
            client.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")  # though it has not ended
    assert not seen
    status, _, _ = ask(port, body=iter([GOOD[:9], GOOD[9:]]))
    assert status == 200
    seen.clear()


def head(*lines):
    """The start of a request."""
    first = ("POST /explain HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*first, *lines, "", ""]).encode()


# --- What it does under pressure ---


class Held:
    """Calls a package when it is let go; notes the first numbers of the rows it was asked."""

    def __init__(self, package):
        self.package, self.go, self.warm = package, threading.Event(), False
        self.begun, self.asked = threading.Semaphore(0), []

    def __call__(self, arrays):
        if self.warm:
            self.asked.append(arrays[0][:, 0].tolist())
            self.begun.release()
            assert self.go.wait(SOON)
        self.warm = True
        return explain(self.package, arrays)


@pytest.fixture
def held(package):
    held = Held(package)
    yield held
    held.go.set()


def body_of(number, rows=1):
    return json.dumps({"inputs": [[number] + [1] * 6] * rows}).encode()


def in_flight(port):
    return metrics(port)["fastxai_requests_in_flight"]


def test_more_than_the_limit_get_a_503(package, held):
    with serving(package, held, max_concurrent=2) as port:
        first, second = asking(port, "/explain", body_of(1)), asking(port, "/predict", body_of(2))
        until(lambda: in_flight(port) == 2)
        status, answer, headers = ask(port)
        assert status == 503 and headers["retry-after"] == "1"
        assert answer["detail"] == "2 requests are being served, the limit; try again"
        # While the model is busy all else is answered.
        assert ask(port, "/health", method="GET")[0] == ask(port, "/ready", method="GET")[0] == 200
        held.go.set()
        assert first()[0] == second()[0] == ask(port)[0] == 200
        assert counted(port) == {
            ("explain", 200): 2,
            ("predict", 200): 1,
            ("explain", 503): 1,
        }
        until(lambda: in_flight(port) == 0)


def test_an_answer_after_the_deadline_is_a_504(package, held):
    with serving(package, held, deadline_s=0.3) as port:
        first = asking(port, "/explain", body_of(1))
        assert held.begun.acquire(timeout=SOON)
        second = asking(port, "/explain", body_of(2))  # waits behind it
        for status, answer, _ in (first(), second()):
            assert status == 504 and answer["detail"] == "there was no answer in 0.3 s"
        held.go.set()
        until(lambda: ask(port, "/explain", body_of(3))[0] == 200)
        assert [2.0] not in held.asked  # it had not begun, and never did
        assert in_flight(port) == 0


def test_a_body_that_does_not_come_is_a_408(package):
    with (
        serving(package, deadline_s=0.2) as port,
        socket.create_connection(("127.0.0.1", port), SOON) as client,
    ):
        client.sendall(head("Content-Length: 100") + b'{"inputs"')
        answer = b""
        while b"the body did not come in 0.2 s" not in answer:
            answer += client.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert counted(port) == {("explain", 408): 1}


def test_who_hangs_up_is_left_out(package, held):
    with serving(package, held) as port:
        first = asking(port, "/explain", body_of(1))
        assert held.begun.acquire(timeout=SOON)
        stays = asking(port, "/explain", body_of(2))
        until(lambda: in_flight(port) == 2)
        whole = head(f"Content-Length: {len(body_of(3))}") + body_of(3)
        for part in (whole, whole[:-5], head("Content-Length: 9")):
            with socket.create_connection(("127.0.0.1", port), SOON) as client:
                client.sendall(part)
                until(lambda: in_flight(port) == 3)
            until(lambda: in_flight(port) == 2)
        held.go.set()
        assert first()[0] == stays()[0] == 200
        assert held.asked == [[1.0], [2.0]]
        assert counted(port) == {("explain", 200): 2, ("explain", 499): 3}


def test_a_request_that_the_model_fails_on_fails_alone(package, held):
    def call(arrays):
        results = held(arrays)
        if (arrays[0][:, 0] == 13).any():
            raise ValueError("unlucky")
        return results

    with serving(package, call) as port:
        first = asking(port, "/explain", body_of(1))
        assert held.begun.acquire(timeout=SOON)
        others = [asking(port, "/explain", body_of(n)) for n in (2, 13, 3)]
        until(lambda: in_flight(port) == 4)
        held.go.set()
        assert first()[0] == 200
        for number, other in zip((2, 13, 3), others, strict=True):
            status, answer, _ = other()
            if number == 13:
                assert status == 500 and answer["detail"] == "the model failed on this request"
            else:
                assert status == 200
                check(answer, package(torch.tensor([[number] + [1.0] * 6])))
        assert metrics(port)["fastxai_batch_requests_sum"] == 5  # with the one to warm up


def test_an_answer_that_is_not_finite_names_the_row(package):
    def call(arrays):
        results = explain(package, arrays)
        results[1][arrays[0][:, 0] == 13] = np.nan
        return results

    with serving(package, call) as port:
        body = json.dumps({"inputs": [[n] * 7 for n in (1, 13, 2)]}).encode()
        status, answer, _ = ask(port, "/explain", body)
        assert status == 500 and answer["detail"] == "attributions of row 1 are not finite"
        assert ask(port, "/predict", body)[0] == 200


def test_the_end_waits_for_those_in_flight(package, held):
    with serving(package, held) as port:
        answer = asking(port, "/explain", body_of(1))
        assert held.begun.acquire(timeout=SOON)
        threading.Timer(0.3, held.go.set).start()
    assert answer()[0] == 200
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_it_does_not_start_with_a_model_that_fails(package):
    def call(arrays):
        raise ValueError("broken")

    app = create_app(manifest_of(package), call)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    with pytest.raises(SystemExit):
        server.run()


@pytest.mark.parametrize(
    "options",
    [
        ["--max-rows", "0"],
        ["--max-concurrent", "many"],
        ["--deadline-s", "nan"],
        ["--window-ms", "-1"],
        ["--max-body-bytes", "1.5"],
        ["--max-batch-rows", "0"],
    ],
)
def test_settings_are_checked(monkeypatch, capsys, options):
    monkeypatch.setattr(sys, "argv", ["serve.py", "a.pt2", *options])
    with pytest.raises(SystemExit) as stopped:
        serve.parse_arguments()
    assert stopped.value.code == 2 and options[0] in capsys.readouterr().err


# --- All of it at once ---


@contextmanager
def command(package_path, log, *options):
    """The command line on a free port; the process and the port."""
    path, sha256 = package_path
    arguments = [serve.__file__, str(path), "--sha256", sha256, "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *arguments], stderr=file, env=environment)
    try:
        end = time.monotonic() + 4 * SOON
        while not (started := re.search(r"running on http://127.0.0.1:(\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield process, int(started[1])
    finally:
        process.kill()
        process.wait()


def compare_under_load(package, port):
    """400 requests of 8 clients, each with its own rows, among bad ones and clients that leave."""
    generator = np.random.default_rng(0)
    inputs = [
        torch.from_numpy(generator.standard_normal((rows, 7), np.float32))
        for rows in generator.integers(1, 9, size=400)
    ]
    bodies = [as_body(inputs=x) for x in inputs]
    bad = {10 + 20 * i: BAD[name] for i, name in enumerate(BAD)}
    for number, (body, _, _) in bad.items():
        bodies[number] = body if isinstance(body, bytes) else body.encode()
    leaving = threading.Thread(target=hang_up, args=(port, 30))
    leaving.start()
    answers = load.ask_all(port, "/explain", bodies, clients=8)
    leaving.join()

    for number, (x, answer) in enumerate(zip(inputs, answers, strict=True)):
        content = json.loads(answer.body)
        if number in bad:
            assert answer.status == bad[number][1] and content.keys() == {"detail"}
        else:
            assert answer.status == 200, content
            check(content, package(x))
    until(lambda: sum(counted(port).values()) == 430)
    statuses = counted(port)
    assert statuses["explain", 400] == 4 and statuses["explain", 422] == len(bad) - 4
    left = 430 - 400
    assert 400 - len(bad) <= statuses["explain", 200] <= 400 - len(bad) + left
    assert statuses.keys() <= {("explain", s) for s in (200, 400, 422, 499)}

    samples = metrics(port)
    assert samples["fastxai_requests_in_flight"] == 0
    assert samples['fastxai_request_seconds_count{endpoint="/explain"}'] == 430
    joined = samples["fastxai_batch_requests_sum"]
    assert joined == samples["fastxai_queue_seconds_count"] >= 400 - len(bad) + 1
    assert samples["fastxai_batch_requests_count"] < joined  # some were joined


def hang_up(port, times):
    """Sends a whole or half a request, and goes at once."""
    for number in range(times):
        whole = head(f"Content-Length: {len(GOOD)}") + GOOD
        with socket.create_connection(("127.0.0.1", port), SOON) as client:
            client.sendall(whole if number % 2 else whole[:-9])


def test_under_load(package_path, package, tmp_path):
    log = tmp_path / "log"
    with command(package_path, log, "--max-rows", "8", "--window-ms", "2") as (process, port):
        compare_under_load(package, port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line for line in lines if line["message"] == "/explain"]
    assert len(requests) == 430 and all(line["ms"] >= 0 for line in requests)
    assert not any(line["level"] == "ERROR" for line in lines)


def test_another_file_is_not_served(package_path, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["serve.py", str(package_path[0]), "--sha256", "0" * 64])
    with pytest.raises(SystemExit, match="SHA-256"):
        serve.main()


def test_a_compiled_package_in_its_own_process(native_package, tmp_path):
    path = Path(shutil.copy(native_package, tmp_path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    package, model = fastxai.load(path), ModelProcess(path, sha256)
    try:
        with serving(package, model, max_rows=8, window_ms=2) as port:
            compare_under_load(package, port)
            died = asking_while_it_dies(port, model._process.pid)
            assert died()[:2] == (500, {"detail": "the model failed on this request"})
            x = randn(3, [(7,)])
            status, answer, _ = ask(port, "/explain", as_body(inputs=x))  # by a new one
            assert status == 200
            check(answer, package(x))

            os.kill(model._process.pid, signal.SIGKILL)
            until(lambda: not model._process.is_alive())
            path.write_bytes(b"another")
            assert ask(port)[0] == 500
            assert ask(port, "/health", method="GET")[0] == 200
    finally:
        model.close()


def asking_while_it_dies(port, pid):
    os.kill(pid, signal.SIGSTOP)
    answer = asking(port)
    until(lambda: in_flight(port) == 1)
    os.kill(pid, signal.SIGKILL)
    return answer


def test_errors_come_back_from_the_process(package):
    fine, found = worker.answer(package, [np.ones((1, 6), np.float32)])
    assert not fine and found.startswith("ArgumentError: inputs: expected")
