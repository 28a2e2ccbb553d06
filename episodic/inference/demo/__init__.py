"""The web page of `episodic demo` and its service (the extra `demo`).

On the page, users add a few examples of each class, adapt the model, classify new examples, correct
predictions, and see which unlabelled examples to label next. `/docs` documents the endpoints
`/adapt`, `/predict` and `/suggest`. The service listens on loopback, writes no files and limits the
size of requests. Adapted models are kept in memory; the oldest are dropped. `episodic serve` is the
service for production.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, TypeVar

from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field

from episodic.core.errors import UserError
from episodic.inference.adapted import AdaptedModel
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.service.examples import (
    MAX_EXAMPLE_CHARACTERS,
    MAX_EXAMPLES,
    decode_examples,
)
from episodic.inference.service.guard import ANY_HOST, LOOPBACK, RequestGuard
from episodic.inference.service.server import (
    address_of,
    is_loopback,
    open_listener,
    run_server,
)
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training.conformal import COVERAGES

__all__ = ["build_app", "serve"]

FOLDER = Path(__file__).parent

MAX_CLASSES = 50
INITIAL_CLASSES = 3
"""Classes on the page at first, for a model without a number of ways."""
MAX_MODELS = 20
"""Maximum number of adapted models in memory."""

Example = Annotated[str, Field(max_length=MAX_EXAMPLE_CHARACTERS)]
"""An image as a data URL or base64 (PNG, JPEG, GIF, WebP, BMP, TIFF), or a sentence."""

T = TypeVar("T")


class Support(BaseModel):
    """The support set: examples by class."""

    classes: dict[
        Annotated[str, Field(min_length=1, max_length=100)],
        Annotated[list[Example], Field(min_length=1, max_length=MAX_EXAMPLES)],
    ] = Field(
        min_length=2,
        max_length=MAX_CLASSES,
        description="examples of each class: images as data URLs or base64, or sentences",
    )


class AdaptedModelInfo(BaseModel):
    """An adapted model."""

    model: str = Field(description="the key of the adapted model, for /predict")
    classes: list[str]
    examples: int
    unknown: bool = Field(description="whether it can detect unknown classes")
    note: str | None = Field(description="why it cannot")


class Queries(BaseModel):
    """Examples to classify."""

    model: str = Field(max_length=100, description="the key that /adapt returned")
    examples: Annotated[list[Example], Field(min_length=1, max_length=MAX_EXAMPLES)]
    unknown: bool = Field(
        default=False,
        description="whether examples that seem to be of none of the classes get the label unknown",
    )
    coverage: float | None = Field(
        default=None,
        ge=COVERAGES[0],
        le=COVERAGES[-1],
        description="probability with which the set of classes contains the true one, such as 0.9",
    )


class Prediction(BaseModel):
    """The prediction for one example."""

    label: str
    probabilities: dict[str, float]
    familiarity: float | None = Field(
        default=None, description="higher for examples that resemble those of a class, if unknown"
    )
    set: list[str] | None = Field(
        default=None, description="the most probable class first, if coverage is given"
    )


class Predictions(BaseModel):
    """The predictions, in the order of the examples."""

    predictions: list[Prediction]
    transductive: bool = Field(
        description="whether each prediction depends on the other examples of the request"
    )


class Pool(BaseModel):
    """Examples without a label."""

    model: str | None = Field(
        default=None,
        max_length=100,
        description="the key that /adapt returned; null before there are labels",
    )
    examples: Annotated[list[Example], Field(min_length=1, max_length=MAX_EXAMPLES)]
    n: int = Field(default=10, ge=1, le=MAX_EXAMPLES, description="number of suggestions")


class Suggestion(BaseModel):
    """An example to label."""

    index: int = Field(description="the position of the example")
    represents: int = Field(description="number of examples that it is the closest labelled one of")
    label: str | None = Field(default=None, description="the most likely class, after /adapt")
    runner_up: str | None = Field(default=None, description="the second most likely class")
    margin: float | None = Field(default=None, description="the difference of their probabilities")


class SuggestionList(BaseModel):
    """Examples to label next, the most useful first."""

    suggestions: list[Suggestion]


def build_app(learner: FewShotLearner, name: str, hosts: Sequence[str] = LOOPBACK) -> FastAPI:
    """Build the service for a model.

    Args:
        learner: The model.
        name: Its name on the page.
        hosts: Accepted host names, as for `RequestGuard`.
    """
    models: OrderedDict[str, AdaptedModel] = OrderedDict()
    lock, kind = Lock(), learner.config["inputs"]["kind"]
    html, policy = _render_page(learner, name)
    service = FastAPIOffline(
        title=f"episodic: {name}",
        version="1",
        redoc_url=None,
        description="Adapts a trained few-shot model to new classes from a few examples of each,"
        " and classifies others.",
    )
    service.add_middleware(RequestGuard, hosts=hosts)

    @service.get("/", response_class=HTMLResponse, include_in_schema=False)
    def show_page() -> HTMLResponse:
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
        return HTMLResponse(html, headers=headers)

    @service.post("/adapt", tags=["few-shot"])
    def adapt(support: Annotated[Support, Body()]) -> AdaptedModelInfo:
        """Adapt the model to the support set and return the key of the adapted model."""
        labels = [label for label, examples in support.classes.items() for _ in examples]
        if len(labels) > MAX_EXAMPLES:
            raise HTTPException(
                422, f"there are {len(labels)} examples; at most {MAX_EXAMPLES} are accepted"
            )
        encoded = [example for examples in support.classes.values() for example in examples]
        examples = _report_user_errors(lambda: decode_examples(kind, encoded), labels)
        with lock:
            adapted = _report_user_errors(lambda: learner.adapt(examples, labels), labels)
            key = secrets.token_urlsafe(9)
            models[key] = adapted
            while len(models) > MAX_MODELS:
                models.popitem(last=False)
        classes = [str(label) for label in adapted.classes_]
        return AdaptedModelInfo(
            model=key,
            classes=classes,
            examples=len(labels),
            unknown=adapted.detects_unknown,
            note=adapted.unknown_note,
        )

    def find_model(key: str) -> AdaptedModel:
        adapted = models.get(key)
        if adapted is None:
            raise HTTPException(404, "there is no adapted model with this key: adapt again")
        return adapted

    @service.post("/suggest", tags=["few-shot"], response_model_exclude_none=True)
    def suggest(pool: Annotated[Pool, Body()]) -> SuggestionList:
        """Suggest which examples to label next, before or after adaptation.

        Copies of an example, and labelled ones, are not suggested.
        """
        examples = _report_user_errors(lambda: decode_examples(kind, pool.examples))
        with lock:
            model = learner if pool.model is None else find_model(pool.model)
            found = _report_user_errors(lambda: model.suggest(examples, pool.n))
        facts = zip(found.indices.tolist(), found.to_json(), strict=True)
        return SuggestionList(suggestions=[Suggestion(index=i, **entry) for i, entry in facts])

    @service.post("/predict", tags=["few-shot"], response_model_exclude_none=True)
    def predict(queries: Annotated[Queries, Body()]) -> Predictions:
        """Classify each example and return the probability of every class.

        A transductive algorithm classifies the examples of a request together.
        """
        examples = _report_user_errors(lambda: decode_examples(kind, queries.examples))
        with lock:
            adapted = find_model(queries.model)
            if queries.coverage is not None:
                _report_user_errors(lambda: adapted.prediction_sets)
            predicted = _report_user_errors(lambda: adapted.predict_all(examples, queries.unknown))
        return Predictions(
            predictions=[Prediction(**entry) for entry in predicted.to_json(queries.coverage)],
            transductive=adapted.transductive,
        )

    return service


def _report_user_errors(compute: Callable[[], T], labels: Sequence[str] = ()) -> T:
    """Return the result of `compute`, or raise its error with the labels of the examples."""
    try:
        return compute()
    except UserError as error:

        def name_example(match: re.Match[str]) -> str:
            index = int(match[1])
            return f"example {labels[:index].count(labels[index]) + 1} of {labels[index]}: "

        message = re.sub(r"(?m)^image (\d+): ", name_example, str(error)) if labels else str(error)
        raise HTTPException(422, message) from error


def _render_page(learner: FewShotLearner, name: str) -> tuple[str, str]:
    """Render the page and its Content-Security-Policy.

    The policy allows the script and style of the page, and requests to this server.
    """
    config = learner.config
    style, script = (
        (FOLDER / f"demo.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js")
    )
    is_image = config["inputs"]["kind"] == "image"
    encoder = config["inputs"].get("encoder") if is_image else None
    facts = {
        "name": name,
        "kind": config["inputs"]["kind"],
        "input": config["input"],
        "inverted": bool(config["inputs"].get("inverted")),
        "encoder": encoder and encoder["name"],
        # Photographs are sent at twice the size to which the encoder resizes them.
        "shorter": encoder and 2 * encoder["transform"]["resize"],
        "head": config.get("head"),
        "transductive": learner.trained.learner.test_variant.algorithm.transductive,
        "ways": config["ways"] or INITIAL_CLASSES,
        "anyWays": learner.any_ways,
        "shots": config["shots"],
        "algorithm": config["algorithm"]["name"],
        "dataset": config.get("dataset", ""),
        "maxClasses": MAX_CLASSES,
        "maxExamples": MAX_EXAMPLES,
    }
    constant = json.dumps(facts).replace("<", "\\u003c")
    script = f"const MODEL = {constant};\n{script}"
    html = (FOLDER / "demo.html").read_text(encoding="utf-8")
    html = html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return html, policy


def serve(learner: FewShotLearner, name: str, host: str, port: int, browser: bool) -> None:
    """Serve the page until interrupted.

    Args:
        learner: The model.
        name: Its name on the page.
        host: The address to listen on. Any but a loopback address exposes the page to the network
            without a password.
        port: The port to listen on; 0 for a free one.
        browser: Whether to open the page in the browser.

    Raises:
        UserError: The port is not available, or the encoder of the model is missing or damaged.
    """
    import webbrowser

    if isinstance(learner.inputs, EncodedImagePreprocessor):
        _ = learner.inputs.encoder  # an encoder that cannot be loaded is reported before the page
    listener = open_listener(host, port)
    address = address_of(host, listener)
    print(f"{address} (press Ctrl-C to stop)", flush=True)
    if browser:
        webbrowser.open(address)
    service = build_app(learner, name, LOOPBACK if is_loopback(host) else [ANY_HOST])
    run_server(service, listener, stop_seconds=2)
