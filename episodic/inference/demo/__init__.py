"""`episodic demo MODEL`: a page where a person shows a few examples of each class, presses 'adapt', and asks (the extra `demo`).

It is also the example of how an adapted model is served: `/adapt` and `/predict`, described at `/docs`. It listens on loopback, writes no
file, takes requests of bounded size; adapted models live in memory, the oldest are forgotten.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from episodic.core.errors import UserError
from episodic.inference.few_shot import Adapted, FewShotLearner

HERE = Path(__file__).parent

MOST_BYTES = 8 << 20
"""Of a request."""
MOST_EXAMPLES, MOST_CLASSES = 200, 50
MOST_MODELS = 20
"""Adapted models that are kept."""

Example = Annotated[str, Field(max_length=6 << 20)]
"""A picture as a data URL or base64 (PNG, JPEG, GIF, WebP, BMP, TIFF), or a sentence."""


class Support(BaseModel):
    """The support set: examples by class."""

    classes: dict[
        Annotated[str, Field(min_length=1, max_length=100)],
        Annotated[list[Example], Field(min_length=1, max_length=MOST_EXAMPLES)],
    ] = Field(
        min_length=2,
        max_length=MOST_CLASSES,
        description="examples of each class: pictures as data URLs or base64, or sentences",
    )


class Made(BaseModel):
    model: str = Field(description="what /predict is asked with")
    classes: list[str]
    examples: int


class Question(BaseModel):
    model: str = Field(max_length=100, description="as /adapt answered")
    examples: Annotated[list[Example], Field(min_length=1, max_length=MOST_EXAMPLES)]


class Answer(BaseModel):
    label: str
    probabilities: dict[str, float]


class Answers(BaseModel):
    answers: list[Answer]


LOOPBACK = ("127.0.0.1", "localhost")


def app(learner: FewShotLearner, name: str, hosts: Sequence[str] = LOOPBACK) -> FastAPI:
    """The service for a model; name: what the page calls it; hosts: the names that it answers to, so that no other site can reach it by a
    name of its own that leads here."""
    made: OrderedDict[str, Adapted] = OrderedDict()
    lock = Lock()
    page = _page(learner, name)
    service = FastAPIOffline(
        title=f"episodic: {name}",
        version="1",
        redoc_url=None,
        description="Adapts a trained few-shot model to classes that are given by a few examples each, and names the class of others.",
    )

    service.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @service.middleware("http")
    async def bounded(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Refuses requests that are too large, or that a page of another site sends."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return JSONResponse({"detail": f"the page at {origin} may not ask here"}, 403)
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdigit():
                return JSONResponse({"detail": "the request must say its length"}, 411)
            if int(length) > MOST_BYTES:
                return JSONResponse(
                    {
                        "detail": f"the request has {int(length) >> 20} MB, at most {MOST_BYTES >> 20} are taken"
                    },
                    413,
                )
        response = await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @service.get("/", response_class=HTMLResponse, include_in_schema=False)
    def start() -> HTMLResponse:
        return HTMLResponse(
            page.html, headers={"Content-Security-Policy": page.policy, "Cache-Control": "no-store"}
        )

    @service.post("/adapt", tags=["few-shot"])
    def adapt(support: Annotated[Support, Body()]) -> Made:
        """Adapts to the support set; the answer names the model to ask."""
        labels = [label for label, examples in support.classes.items() for _ in examples]
        if len(labels) > MOST_EXAMPLES:
            raise HTTPException(
                422, f"there are {len(labels)} examples, at most {MOST_EXAMPLES} are taken"
            )
        examples = [
            _example(learner, one) for examples in support.classes.values() for one in examples
        ]
        with lock:
            adapted = _told(lambda: learner.adapt(examples, labels))
            key = secrets.token_urlsafe(9)
            made[key] = adapted
            while len(made) > MOST_MODELS:
                made.popitem(last=False)
        return Made(model=key, classes=[str(c) for c in adapted.classes_], examples=len(labels))

    @service.post("/predict", tags=["few-shot"])
    def predict(question: Annotated[Question, Body()]) -> Answers:
        """The class of each example, with the probability of every class."""
        examples = [_example(learner, one) for one in question.examples]
        with lock:
            adapted = made.get(question.model)
            if adapted is None:
                raise HTTPException(404, "this model is not known (any more): adapt again")
            probabilities = _told(lambda: adapted.predict_proba(examples))
        classes = [str(c) for c in adapted.classes_]
        rows = [
            {name: float(p) for name, p in zip(classes, row, strict=True)} for row in probabilities
        ]
        return Answers(
            answers=[Answer(label=max(row, key=row.__getitem__), probabilities=row) for row in rows]
        )

    return service


def _told(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except UserError as error:
        raise HTTPException(422, str(error)) from error


def _example(learner: FewShotLearner, text: str) -> Any:
    """A sentence as it is, a picture as the bytes of its file."""
    if learner.config["inputs"]["kind"] != "image":
        return text
    head, comma, body = text.partition(",")
    if comma and not head.startswith("data:image/"):
        raise HTTPException(422, "an example is no picture: send a data URL of an image, or base64")
    try:
        return base64.b64decode(body if comma else text, validate=True)
    except binascii.Error as error:
        raise HTTPException(
            422, "an example is no base64: send a data URL of an image, or base64"
        ) from error


class _page:
    """The page, and what a browser may do on it: its own script and style alone, requests to this server alone."""

    def __init__(self, learner: FewShotLearner, name: str):
        config = learner.config
        style, script = (
            (HERE / f"demo.{end}").read_text(encoding="utf-8") for end in ("css", "js")
        )
        facts = {
            "name": name,
            "kind": config["inputs"]["kind"],
            "input": config["input"],
            "inverted": bool(config["inputs"].get("inverted")),
            "ways": config["ways"],
            "anyWays": learner.any_ways,
            "shots": config["shots"],
            "method": config["algorithm"]["name"],
            "dataset": config.get("dataset", ""),
            "mostClasses": MOST_CLASSES,
        }
        said = json.dumps(facts).replace("<", "\\u003c")
        script = f"const MODEL = {said};\n{script}"
        text = (HERE / "demo.html").read_text(encoding="utf-8")
        self.html = text.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


def serve(learner: FewShotLearner, name: str, host: str, port: int, browser: bool) -> None:
    """Serves until interrupted. UserError where the port is taken."""
    import socket
    import webbrowser

    import uvicorn

    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror or error}): choose another, as --port {port + 1}"
        ) from error
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"{address} - Ctrl-C ends it", flush=True)
    if browser:
        webbrowser.open(address)
    service = app(learner, name, LOOPBACK if host in LOOPBACK else ["*"])
    server = uvicorn.Server(
        uvicorn.Config(service, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    )
    with listener:
        server.run(sockets=[listener])
