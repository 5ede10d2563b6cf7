"""The HTTP service: /predict, /explain, /info, /health, /ready and /metrics over one package."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import groupby
from typing import Any

import anyio
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from batching import Batcher, Closed
from schema import Arrays, Manifest, Schema, Unanswerable

CLIENT_GONE = 499  # as nginx counts those that left before their answer

log = logging.getLogger(__name__)


class Settings(BaseModel):
    """Limits of the service. A request beyond one is refused, and told which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rows: int = Field(256, ge=1, description="rows of one request")
    max_body_bytes: int = Field(1 << 20, ge=1, description="bytes of one request's body")
    max_concurrent: int = Field(64, ge=1, description="requests at a time; one more gets a 503")
    deadline_s: float = Field(
        10.0, gt=0, le=3600, description="seconds until an unanswered request gets a 504"
    )
    window_ms: float = Field(
        0.0, ge=0, le=1000, description="milliseconds that a request waits for others to join it"
    )
    max_batch_rows: int = Field(
        16, ge=1, description="rows of requests that are joined in one call; 1 joins none"
    )


class Metrics:
    """What Prometheus reads. A registry for each service, none of the process's."""

    def __init__(self, in_flight: Callable[[], float]):
        self.registry = CollectorRegistry()
        shared: dict[str, Any] = {"namespace": "fastxai", "registry": self.registry}
        seconds = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
        counts = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
        self.requests = Counter(
            "requests", "Requests that ended, by status", ["endpoint", "status"], **shared
        )
        self.latency = Histogram(
            "request_seconds", "From headers to answer", ["endpoint"], buckets=seconds, **shared
        )
        self.queued = Histogram(
            "queue_seconds", "A request's wait for its call", buckets=seconds, **shared
        )
        self.call = Histogram("call_seconds", "A call of the model", buckets=seconds, **shared)
        self.rows = Histogram("batch_rows", "Rows of a call", buckets=counts, **shared)
        self.joined = Histogram("batch_requests", "Requests of a call", buckets=counts, **shared)
        gauge = Gauge("requests_in_flight", "Requests being served", **shared)
        gauge.set_function(in_flight)
        ProcessCollector(registry=self.registry)

    def of_call(self, rows: int, waits: list[float], seconds: float) -> None:
        self.rows.observe(rows)
        self.joined.observe(len(waits))
        self.call.observe(seconds)
        for wait in waits:
            self.queued.observe(wait)


class Service:
    """Requests to one package, from headers to answer."""

    def __init__(self, manifest: Manifest, explain: Callable[[Arrays], Arrays], settings: Settings):
        self.manifest, self.settings = manifest, settings
        self.schema = Schema(manifest, settings.max_rows)
        self.in_flight = 0
        self.ready = False
        self.metrics = Metrics(lambda: self.in_flight)
        self._batcher = Batcher(
            explain, settings.window_ms / 1e3, settings.max_batch_rows, self.metrics.of_call
        )

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """The server calls this before it listens, and leaves it when all requests are answered."""
        async with self._batcher:
            await self._warm_up()
            self.ready = True
            log.info("ready", extra={"fields": {"method": self.manifest.method}})
            yield
            self.ready = False

    async def _warm_up(self) -> None:
        """The first call, which is slow; and whether answers depend on a row's place in a call."""
        results = await self._batcher.submit(self.schema.alike(2))
        if self.manifest.rows_interact:
            log.warning("rows influence one another in the model: requests are not joined")
            self._batcher.max_rows = 1
        pairs = (np.split(result, 2) for result in results)
        if not all(np.allclose(*pair, rtol=1e-3, atol=1e-6, equal_nan=True) for pair in pairs):
            log.warning("the method draws for each row of a call: requests are not joined")
            self._batcher.max_rows = 1

    async def answer(self, request: Request, endpoint: str) -> Response:
        """Counts and logs one request, whatever comes of it."""
        began, status, rows = time.perf_counter(), 500, 0
        try:
            with self._slot():
                results = await self._results(request)
                rows = len(results[0])
                body = self._to_json(results[:1] if endpoint == "/predict" else results)
            status = 200
            return Response(body, media_type="application/json")
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = CLIENT_GONE
            return Response(status_code=status)  # nobody reads it
        finally:
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(endpoint, status).inc()
            self.metrics.latency.labels(endpoint).observe(seconds)
            fields = {"status": status, "rows": rows, "ms": round(seconds * 1e3, 2)}
            log.info(endpoint, extra={"fields": fields})

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self.in_flight >= self.settings.max_concurrent:
            message = f"{self.in_flight} requests are being served, the limit; try again"
            raise HTTPException(503, message, {"Retry-After": "1"})
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def _results(self, request: Request) -> Arrays:
        deadline, body = self.settings.deadline_s, None
        try:
            with anyio.fail_after(deadline):
                body = await self._body(request)
                return await self._explained(request, self._arrays(body))
        except TimeoutError:
            if body is None:
                raise HTTPException(408, f"the body did not come in {deadline} s") from None
            raise HTTPException(504, f"there was no answer in {deadline} s") from None

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind.strip().lower() != "application/json":
            raise HTTPException(415, "expected content-type: application/json")
        most = self.settings.max_body_bytes
        too_large = HTTPException(413, f"expected a body of at most {most} bytes")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
        return bytes(body)

    def _arrays(self, body: bytes) -> Arrays:
        try:
            return self.schema.parse(body)
        except Unanswerable as error:
            raise HTTPException(400 if error.malformed else 422, str(error)) from None

    async def _explained(self, request: Request, arrays: Arrays) -> Arrays:
        try:
            answer = self._batcher.submit(arrays)
        except Closed:
            raise HTTPException(503, "not ready", {"Retry-After": "1"}) from None
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            if error := answer.exception():
                log.error("the model failed: %r", error)
                raise HTTPException(500, "the model failed on this request")
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()

    def _to_json(self, results: Arrays) -> bytes:
        pairs = list(zip(self.manifest.results, results, strict=False))
        for described, result in pairs:
            bad = np.argwhere(~np.isfinite(result))
            if len(bad):
                row = bad[0, 0] // described.rows
                raise HTTPException(500, f"{described.name} of row {row} are not finite")
        answer: dict[str, Any] = {}
        for name, group in groupby(pairs, lambda pair: pair[0].field):
            several = [(described, result.tolist()) for described, result in group]
            lists = [numbers for _, numbers in several]
            answer[name] = lists if several[0][0].in_list else lists[0]
        return to_json(answer)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the body is not JSON"},
    408: {"description": "the body did not come in time"},
    413: {"description": "the body is too large"},
    415: {"description": "the content type is not application/json"},
    422: {"description": "not what the package takes; the message names the row and column"},
    500: {"description": "the model failed on this request"},
    503: {"description": "too many requests at a time, or not ready; see Retry-After"},
    504: {"description": "there was no answer in time"},
}


def create_app(
    manifest: Manifest, explain: Callable[[Arrays], Arrays], settings: Settings | None = None
) -> FastAPI:
    """The service over one package.

    Args:
        manifest: the package's.
        explain: takes an array for each of the manifest's arguments and returns one for each of its
            results; called on one thread, for one batch at a time.
        settings: the limits.
    """
    service = Service(manifest, explain, settings or Settings())
    app = FastAPI(
        title="fastxai", description=f"{manifest.method} of one model", lifespan=service.running
    )
    schema = service.schema.model.model_json_schema()
    asked = {"required": True, "content": {"application/json": {"schema": schema}}}
    options: dict[str, Any] = {"openapi_extra": {"requestBody": asked}, "responses": REFUSALS}

    @app.post("/predict", **options)
    async def predict(request: Request) -> Response:
        """The model's outputs."""
        return await service.answer(request, "/predict")

    @app.post("/explain", **options)
    async def explain_(request: Request) -> Response:
        """The model's outputs, and what each feature adds to them."""
        return await service.answer(request, "/explain")

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """What is served: the package's manifest; and the limits."""
        return {**manifest.model_dump(), "limits": service.settings.model_dump()}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The service runs."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """The package is loaded, and has been called once."""
        if not service.ready:
            raise HTTPException(503, "not ready")
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app
