"""Puts a service under load, and prints how it bore it.

python load.py --port 8000 --clients 8 --requests 2000 --rows 1
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    seconds: float


def ask_all(port: int, path: str, bodies: list[bytes], clients: int) -> list[Answer]:
    """One answer for each body, in their order; each client asks for the next that no other has."""
    answers: dict[int, Answer] = {}
    numbers = iter(range(len(bodies)))  # its next() is one step, which no thread can come between

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in numbers:
            began = time.perf_counter()
            connection.request("POST", path, bodies[number], JSON)
            response = connection.getresponse()
            body = response.read()
            answers[number] = Answer(response.status, body, time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(bodies))]


def random_bodies(info: dict[str, Any], count: int, rows: int) -> list[bytes]:
    """Requests as /info wants them: normal numbers, and zeros where they must be whole."""
    generator = np.random.default_rng(0)
    bodies = []
    for _ in range(count):
        body: dict[str, Any] = {}
        for argument in info["arguments"]:
            name, several, _ = argument["name"].partition("[")
            numbers = np.zeros((rows, *argument["shape"]), np.int64)
            if "float" in argument["dtype"]:
                numbers = generator.standard_normal(numbers.shape).round(4)
            if several:
                body.setdefault(name, []).append(numbers.tolist())
            else:
                body[name] = numbers.tolist()
        bodies.append(json.dumps(body).encode())
    return bodies


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description="Puts a service on this machine under load.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--path", default="/explain", choices=["/explain", "/predict"])
    for name, count in (("clients", 8), ("requests", 2000), ("rows", 1)):
        parser.add_argument(f"--{name}", type=int, default=count)
    arguments = parser.parse_args()
    info = json.loads(get(arguments.port, "/info"))
    bodies = random_bodies(info, arguments.requests, arguments.rows)
    began = time.perf_counter()
    answers = ask_all(arguments.port, arguments.path, bodies, arguments.clients)
    rate = len(answers) / (time.perf_counter() - began)
    median, last = np.percentile([a.seconds * 1e3 for a in answers], [50, 99])
    statuses = ", ".join(
        f"{n} × {status}" for status, n in Counter(a.status for a in answers).items()
    )
    print(f"{rate:.0f} requests/s, median {median:.1f} ms, p99 {last:.1f} ms; {statuses}")


if __name__ == "__main__":
    main()
