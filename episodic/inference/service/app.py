"""The service of `episodic serve`: predictions of one adapted model (the extra `serve`)."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from episodic.core.errors import UserError
from episodic.inference.adapted import AdaptedModel
from episodic.inference.labels import AdaptError
from episodic.inference.service.examples import (
    MAX_EXAMPLE_CHARACTERS,
    MAX_EXAMPLES,
    check_images,
    decode_examples,
)
from episodic.inference.service.guard import ANY_HOST, LOOPBACK, Limits, RequestGuard
from episodic.inference.service.metrics import Metrics
from episodic.inference.service.predictions import PredictionWorker, Query, QueueFull
from episodic.inference.service.server import (
    address_of,
    is_loopback,
    open_listener,
    run_server,
)
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training.conformal import COVERAGES

__all__ = ["TOKEN_VARIABLE", "Service", "serve"]

TOKEN_VARIABLE = "EPISODIC_TOKEN"  # noqa: S105 - its name, not a secret
"""The environment variable with the token that requests need."""

OPEN_PATHS = ("/health", "/ready")
"""Paths for the probes of an orchestrator, which need no token."""
PATHS = ("/", "/predict", "/metrics", *OPEN_PATHS)

LARGE_BODY = 64 << 10
"""Bytes from which on a body is decoded in a thread, as other requests would wait for it."""

DRAWING = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAAAKUlEQVR4nGP8z4AbMOGRG5UclUQC"
    "TP+xC0N1MuIwgXG4hdCoJAoAAMDXBTVAyPp5AAAAAElFTkSuQmCC"
)


UNKNOWN = "whether examples that seem to be of none of the classes get the label unknown"
COVERAGE = "probability with which the set of classes contains the true one, such as 0.9"
Coverage = Annotated[float, Field(ge=COVERAGES[0], le=COVERAGES[-1])]


class Queries(BaseModel, extra="forbid"):
    """Examples to classify."""

    examples: Annotated[
        list[Annotated[str, Field(max_length=MAX_EXAMPLE_CHARACTERS)]],
        Field(min_length=1, max_length=MAX_EXAMPLES),
    ] = Field(description="images as data URLs or base64, or sentences")
    unknown: bool = Field(default=False, description=UNKNOWN)
    coverage: Coverage | None = Field(default=None, description=COVERAGE)


class Prediction(BaseModel):
    """The prediction for one example."""

    label: str | int | float | bool = Field(description="the most likely class, or unknown")
    probabilities: dict[str, float]
    familiarity: float | None = Field(
        default=None, description="higher for examples that resemble those of a class, if unknown"
    )
    set: list[str | int | float | bool] | None = Field(
        default=None, description="the most probable class first, if coverage is given"
    )


class Predictions(BaseModel):
    """The predictions, in the order of the examples."""

    predictions: list[Prediction]
    transductive: bool = Field(
        description="whether each prediction depends on the other examples of the request"
    )


class Failure(BaseModel):
    """A request that failed."""

    detail: str = Field(description="what is wrong, and what to do")


FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "the host is not served"},
    401: {"model": Failure, "description": "the token is missing or wrong"},
    403: {"model": Failure, "description": "the request comes from a page of another origin"},
    408: {"model": Failure, "description": "the request did not arrive in time"},
    413: {"model": Failure, "description": "the request is too large"},
    415: {"model": Failure, "description": "the content type is not supported"},
    422: {"model": Failure, "description": "an example is invalid"},
    503: {"model": Failure, "description": "too many requests wait: try again"},
}


class Service:
    """An adapted model as an ASGI application.

    Args:
        model: The model.
        name: Its name.
        hosts: Accepted host names, as for `RequestGuard`.
        token: The token that requests need; empty for none.
        access_log: Whether to write a line per request to standard error.
        limits: Limits of requests.
        max_waiting: Requests that may wait for the model.

    Raises:
        AdaptError: The model is a regression model.
        UserError: The encoder of the model is missing or damaged.
    """

    def __init__(
        self,
        model: AdaptedModel,
        name: str,
        hosts: Sequence[str] = LOOPBACK,
        token: str = "",
        access_log: bool = False,
        limits: Limits | None = None,
        max_waiting: int = 64,
    ) -> None:
        if not model.classes_:
            raise AdaptError(f"{name} is a regression model, which has no classes to predict")
        if isinstance(model.inputs, EncodedImagePreprocessor):
            _ = model.inputs.encoder  # an encoder that cannot be loaded is reported at the start
        model.predict_proba(model.support.support_x[0, :1])  # the first prediction takes longest
        self.model, self.name, self.access_log = model, name, access_log
        self.kind: str = model.config["inputs"]["kind"]
        self.is_draining = False
        self.metrics = Metrics(PATHS)
        self.worker = PredictionWorker(model, self.metrics.observe_batch, max_waiting)
        self.metrics.watch_queue(self.worker.count_waiting)
        self.app = self._build_app()
        self.app.add_middleware(
            RequestGuard,
            hosts=hosts,
            limits=limits,
            token=token,
            open_paths=OPEN_PATHS,
            is_draining=lambda: self.is_draining,
            observe=self._observe,
        )

    def drain(self) -> None:
        """Report that the service is not ready, since it is about to stop."""
        self.is_draining = True

    def _observe(self, method: str, path: str, status: int, seconds: float) -> None:
        self.metrics.observe_request(method, path, status, seconds)
        if self.access_log:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            print(f"{now} {method} {path!r} {status} {1e3 * seconds:.1f} ms", file=sys.stderr)

    def _build_app(self) -> FastAPI:
        app = FastAPIOffline(
            title=f"episodic: {self.name}",
            version="1",
            redoc_url=None,
            description=f"Classifies {self.model.inputs.example_name}s with a few-shot model.",
        )

        @app.exception_handler(HTTPException)
        async def explain(request: Request, error: HTTPException) -> JSONResponse:
            known = {404: "there is no such page: see /docs", 405: "wrong method: see /docs"}
            detail = known.get(error.status_code, error.detail)
            return JSONResponse({"detail": detail}, error.status_code, error.headers)

        @app.exception_handler(RequestValidationError)
        async def explain_parameter(
            request: Request, error: RequestValidationError
        ) -> JSONResponse:
            return JSONResponse({"detail": describe_invalid(error.errors())}, 422)

        @app.get("/", tags=["model"])
        async def describe_model() -> dict[str, Any]:
            """Describe the model: its classes, and the examples that it classifies."""
            return {
                "model": self.name,
                "classes": list(self.model.classes_),
                "examples": self.model.inputs.example_name,
                "algorithm": self.model.config.get("head", self.model.config["algorithm"]["name"]),
                "transductive": self.model.transductive,
                "unknown": self.model.detects_unknown,
                "sets": self.model.reliability is not None
                and self.model.reliability.sets is not None,
                "note": self.model.reliability_note,
            }

        @app.post(
            "/predict",
            tags=["model"],
            response_model=Predictions,
            responses=FAILURES,
            openapi_extra={"requestBody": self._describe_request()},
        )
        async def predict(
            request: Request,
            unknown: Annotated[bool, Parameter(description=UNKNOWN)] = False,
            coverage: Annotated[Coverage | None, Parameter(description=COVERAGE)] = None,
        ) -> Response:
            """Classify examples and return the probability of every class.

            Send JSON, the bytes of one image, or text with one sentence per line. JSON may also
            contain the parameters.
            """
            known = {"unknown", "coverage"}
            if others := sorted(set(request.query_params) - known):
                raise HTTPException(
                    422, f"{others[0]} is not a parameter; they are {' and '.join(sorted(known))}"
                )
            return await self._predict(request, unknown, coverage)

        @app.get("/health", tags=["operation"])
        async def health() -> JSONResponse:
            """Tell whether the process works; otherwise restart it."""
            alive = self.worker.is_alive
            return JSONResponse({"status": "alive" if alive else "dead"}, 200 if alive else 503)

        @app.get("/ready", tags=["operation"])
        async def ready() -> JSONResponse:
            """Tell whether to send requests: the model is loaded, and the service does not stop."""
            if self.is_draining or not self.worker.is_alive:
                return JSONResponse({"status": "draining"}, 503)
            return JSONResponse({"status": "ready"})

        @app.get("/metrics", tags=["operation"])
        async def metrics() -> Response:
            """Return the metrics in the text format of Prometheus."""
            return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

        return app

    def _describe_request(self) -> dict[str, Any]:
        examples = [DRAWING] if self.kind == "image" else ["what is my balance"]
        content: dict[str, Any] = {
            "application/json": {
                "schema": Queries.model_json_schema(),
                "example": {"examples": examples},
            }
        }
        if self.kind == "image":
            content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
        else:
            content["text/plain"] = {"schema": {"type": "string"}, "example": "what is my balance"}
        return {"required": True, "content": content}

    async def _predict(
        self, request: Request, unknown: bool, coverage: float | None
    ) -> JSONResponse:
        body = await request.body()
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if len(body) < LARGE_BODY:
            query = self._read_query(content_type, body)
        else:
            query = await run_in_threadpool(self._read_query, content_type, body)
        query = replace(
            query,
            unknown=query.unknown or unknown,
            coverage=coverage if query.coverage is None else query.coverage,
        )
        try:
            if query.unknown:
                _ = self.model.detector
            if query.coverage is not None:
                _ = self.model.prediction_sets
            answer = self.worker.submit(query)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        except QueueFull:
            raise HTTPException(
                503, "too many requests wait: try again", {"Retry-After": "1"}
            ) from None
        try:
            predictions = await asyncio.wrap_future(answer)
        except UserError as error:
            raise HTTPException(422, "; ".join(str(error).splitlines())) from error
        self.metrics.observe_labels(prediction["label"] for prediction in predictions)
        return JSONResponse({"predictions": predictions, "transductive": self.model.transductive})

    def _read_query(self, content_type: str, body: bytes) -> Query:
        """Read the body of a request.

        Raises:
            HTTPException: The request is invalid.
        """
        try:
            if content_type == "application/json":
                queries = Queries.model_validate_json(body)
                examples = decode_examples(self.kind, queries.examples)
                return Query(examples, queries.unknown, queries.coverage)
            if self.kind == "image" and content_type.startswith("image/"):
                check_images([body])
                return Query([body])
            if self.kind != "image" and content_type == "text/plain":
                lines = [line.strip() for line in body.decode("utf-8").splitlines()]
                sentences = [line for line in lines if line]
                if not 0 < len(sentences) <= MAX_EXAMPLES:
                    raise HTTPException(
                        422,
                        f"the request has {len(sentences)} sentences: send 1 to {MAX_EXAMPLES}, one"
                        " per line",
                    )
                return Query(sentences)
        except UnicodeDecodeError as error:
            raise HTTPException(422, "the text is not valid UTF-8") from error
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise HTTPException(422, describe_invalid(errors)) from error
        except UserError as error:
            raise HTTPException(422, "; ".join(str(error).splitlines())) from error
        raw = "an image as image/png or image/jpeg" if self.kind == "image" else "text/plain"
        raise HTTPException(
            415, f"the content type is {content_type[:100]!r}: send application/json, or {raw}"
        )


def describe_invalid(errors: Sequence[Any]) -> str:
    """Describe the first of the errors of pydantic, in one sentence."""
    first, *others = errors
    place = ".".join(map(str, first["loc"]))
    more = f" (and {len(others)} more)" if others else ""
    return f"{place + ': ' if place else ''}{first['msg']}{more}"


def serve(
    model: AdaptedModel,
    name: str,
    host: str,
    port: int,
    allowed_hosts: Sequence[str] = (),
    access_log: bool = False,
) -> None:
    """Serve a model until SIGTERM or SIGINT.

    Args:
        model: The model.
        name: Its name.
        host: The address to listen on.
        port: The port; 0 for a free one.
        allowed_hosts: Further host names, such as that of a proxy.
        access_log: Whether to write a line per request to standard error.

    Raises:
        UserError: The address is not available, the token is invalid, the model is a regression
            model, or its encoder is missing or damaged.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token.isascii() or token != token.strip() or not (token.isprintable()):
        raise UserError(f"{TOKEN_VARIABLE} must consist of ASCII characters, without spaces around")
    is_restricted = is_loopback(host) or allowed_hosts
    # A probe in the same container has a loopback name, whatever the name for others is.
    hosts = [*LOOPBACK, host, *allowed_hosts] if is_restricted else [ANY_HOST]
    service = Service(model, name, [h.lower() for h in hosts], token, access_log)
    listener = open_listener(host, port)
    address = address_of(host, listener)
    if not token and not is_loopback(host):
        print(
            f"warning: {address} accepts requests of the network without a password: set"
            f" {TOKEN_VARIABLE}",
            file=sys.stderr,
        )
    print(f"{name} is served at {address} (press Ctrl-C to stop)", flush=True)
    run_server(service.app, listener, service.drain)
    service.worker.close()
