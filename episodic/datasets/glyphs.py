"""Invented alphabets, drawn by procedure: as many classes as Omniglot's, with no download.

In the spirit of the generative account of Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept learning
through probabilistic program induction, Science 350 (2015). https://doi.org/10.1126/science.aab3050
An alphabet has a stock of strokes. A character is an arrangement of one to four of them, each hung on an earlier one. A drawer has
a hand (slant, proportions, pen, care), and every drawing warps and bends the strokes anew while the joins hold.

The set is one fixed thing: each alphabet is a function of its number, so that more alphabets leave the earlier ones as they are.
Lengths are in units of a character's height until `_place`, and in pixels from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from episodic.core.config import require
from episodic.datasets.base import Images, Limits, Progress, no_progress

LICENSE = "Made by this program; free of any rights."

SEED = 20151211
COUNT, STYLE, CHARACTER, DRAWINGS, SPLIT = range(1, 6)
"""What a stream of random numbers is for."""
DRAWERS, SIZE = 20, 28
CHARACTERS = (20, 40)  # fewest and most in an alphabet
KINDS = {
    "bar": 0.3,
    "arc": 0.17,
    "corner": 0.12,
    "hump": 0.13,
    "hook": 0.13,
    "loop": 0.08,
    "wave": 0.05,
    "zigzag": 0.02,
}
"""Kinds of strokes and how common they are; every alphabet leans its own way."""
CONTROLS, SAMPLES = 8, 29
"""Control points of a stroke, and points along it, which straight lines join."""
JOINTS = (0, SAMPLES // 2, SAMPLES - 1)  # where strokes touch
CHOICES, ATTEMPTS, UNLIKE = 8, 8, 0.16
"""Ways tried to add a stroke, attempts at a character that no other resembles, and the difference that is enough."""


@dataclass(frozen=True)
class Config:
    """alphabets: how many, 5 or more."""

    alphabets: int = 50

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(
            5 <= self.alphabets <= 1000, "alphabets", self.alphabets, "must be between 5 and 1000"
        )


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    """Draws the set: `images.npy` uint8 `(N, 1, 28, 28)`, ink 255, and `classes.json`."""
    drawn, classes = [], []
    for alphabet in range(config.alphabets):
        images = draw_alphabet(alphabet)
        drawn.append(images.reshape(-1, 1, SIZE, SIZE))
        group = group_name(alphabet)
        classes += [
            {"class": f"{group}/character-{i:02d}", "group": group, "count": DRAWERS}
            for i in range(len(images))
        ]
        progress("alphabets", alphabet + 1, config.alphabets)
    np.save(raw / "images.npy", np.concatenate(drawn))
    (raw / "classes.json").write_text(json.dumps(classes, indent=0) + "\n", encoding="utf-8")


def prepare(raw: Path, config: Config, seed: int) -> Images:
    """Whole alphabets go to one split each, so that test characters share no stroke stock with training ones."""
    classes = json.loads((raw / "classes.json").read_text(encoding="utf-8"))
    split_of = alphabet_splits(config.alphabets, seed)
    groups = [c["group"] for c in classes]
    return Images(
        images=np.load(raw / "images.npy", mmap_mode="r"),
        classes=[c["class"] for c in classes],
        groups=groups,
        splits=[split_of[int(group.rsplit("-", 1)[1])] for group in groups],
        counts=np.array([c["count"] for c in classes], dtype=np.int64),
        protocol="alphabets kept apart",
        inverted=True,
    )


def limits(config: Config, seed: int) -> Limits:
    splits = enumerate(alphabet_splits(config.alphabets, seed))
    return Limits.of(
        DRAWERS,
        (
            (split, group_name(alphabet))
            for alphabet, split in splits
            for _ in range(character_count(alphabet))
        ),
    )


def alphabet_splits(alphabets: int, seed: int) -> list[str]:
    """The split of each alphabet: 10 % validation, 20 % test (one at least), the rest for training."""
    validation, test = max(1, round(0.1 * alphabets)), max(1, round(0.2 * alphabets))
    splits = (
        ["validation"] * validation + ["test"] * test + ["train"] * (alphabets - validation - test)
    )
    return [splits[i] for i in _random(seed, SPLIT).permutation(alphabets)]


def group_name(alphabet: int) -> str:
    return f"alphabet-{alphabet:03d}"


def character_count(alphabet: int) -> int:
    return int(_random(alphabet, COUNT).integers(CHARACTERS[0], CHARACTERS[1] + 1))


def draw_alphabet(alphabet: int) -> np.ndarray:
    """uint8 `(characters, drawers, 28, 28)`, ink 255 on 0."""
    random = _random(alphabet, STYLE)
    leaning = random.dirichlet(8 * np.array(list(KINDS.values())))
    stock = [_stroke(random, "bar")] + [
        _stroke(random, random.choice(list(KINDS), p=leaning)) for _ in range(random.integers(5, 9))
    ]
    complexity = random.dirichlet(
        [0.6, 3.6, 3.0, 1.2]
    )  # how often a character of this alphabet has 1, 2, 3, 4 strokes
    hands = _hands(random)
    characters = _characters(alphabet, stock, complexity)
    drawings = [
        _drawings(_random(alphabet, DRAWINGS, i), character, hands)
        for i, character in enumerate(characters)
    ]
    return _render(drawings, hands["pen"]).reshape(len(drawings), DRAWERS, SIZE, SIZE)


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, *key])))


def _stroke(random: np.random.Generator, kind: str) -> np.ndarray:
    """A stroke of the stock, control points `(8, 2)` (x, y down) from the origin: a walk of steps and turns (in degrees)."""
    step, turn = np.ones(CONTROLS - 1), np.zeros(CONTROLS - 1)
    size = random.uniform(0.6, 1.0)
    if kind == "bar":
        size = random.choice([0.5, 1.0]) * random.uniform(0.8, 1.1)
    elif kind == "arc":
        turn[1:] = random.uniform(90, 230) / 6
    elif kind == "corner":
        step[:3], step[3] = (
            random.uniform(0.6, 1.4),
            0,
        )  # control points that coincide make it sharp
        turn[4] = random.uniform(75, 120)
    elif kind == "hump":
        step[:2], step[5:] = random.uniform(0.1, 1.2, 2)
        turn[2:5] = random.uniform(50, 62)
    elif kind == "hook":
        step[:4], step[4:] = random.uniform(1.0, 1.8), 0.65
        turn[4:] = random.uniform(90, 200) / 3
    elif kind == "loop":
        step[:2] *= random.choice([0.4, 1.5])
        turn[2:] = random.uniform(300, 370) / 5
        size = random.uniform(0.5, 0.9)
    elif kind == "wave":
        turn[1:] = random.uniform(35, 55) * np.array([1, 1, 0, -1, -1, -1])
    elif kind == "zigzag":
        step[:] = 0.5, 0.5, 0, random.uniform(0.8, 1.6), 0, 0.5, 0.5
        turn[3] = random.uniform(100, 145)
        turn[5] = -turn[3] * random.uniform(0.85, 1.1)
    walk = np.concatenate(
        [[0], np.cumsum(step * np.exp(1j * np.radians(np.cumsum(turn)) * random.choice([-1, 1])))]
    )
    # Writing keeps to the axes: with the first step where a stroke sets out straight, else with the way from end to end.
    own = 0.0 if kind in ("corner", "hump", "hook", "loop") else np.angle(walk[-1])
    axis = np.radians(
        random.choice([0, 90, 270, 45, 135], p=[0.3, 0.46, 0.12, 0.06, 0.06]) + random.normal(0, 5)
    )
    walk = walk * np.exp(1j * (axis - own))
    points = np.stack([walk.real, walk.imag], 1)
    return points * size / np.ptp(points, axis=0).max()


def _hands(random: np.random.Generator) -> dict[str, np.ndarray]:
    """What is each drawer's own, `(drawers,)`: the affine map, the radius of the pen, how far strokes stray."""
    return {
        "slant": random.normal(0.0, 0.12, DRAWERS),
        "turn": random.normal(0.0, 0.06, DRAWERS),
        "width": random.lognormal(0.0, 0.1, DRAWERS),
        "height": random.lognormal(0.0, 0.1, DRAWERS),
        "pen": random.uniform(0.5, 0.82, DRAWERS),
        "stray": random.lognormal(np.log(0.054), 0.3, DRAWERS),
    }


def _basis() -> np.ndarray:
    """`(samples, controls)`: a uniform cubic B-spline whose end points count three times, so that it starts and ends in them."""
    t = np.linspace(0, CONTROLS + 1 - 1e-9, SAMPLES)
    span, u = t.astype(int), t % 1
    result = np.zeros((SAMPLES, CONTROLS))
    for k, weight in enumerate(
        [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]
    ):
        np.add.at(result, (np.arange(SAMPLES), np.clip(span + k - 2, 0, CONTROLS - 1)), weight / 6)
    return result


BASIS = _basis()
BEND = np.stack(
    [
        np.interp(np.arange(CONTROLS), [0, (CONTROLS - 1) / 2, CONTROLS - 1], row)
        for row in np.eye(3)
    ],
    1,
)
"""`(controls, 3)`: spreads what befalls start, middle and end over the control points, so that a bent stroke stays smooth."""
LATTICE = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 8)] * 2), -1).reshape(-1, 2)


class Part(NamedTuple):
    """A stroke of a character: its sample `own` touches the sample `at` of the earlier part `onto`, but for a shift `(2,)`;
    its control points `(8, 2)` are `shape`, and `ink` `(samples, 2)` is where it ends up."""

    shape: np.ndarray
    own: int
    onto: int
    at: int
    shift: np.ndarray
    ink: np.ndarray


Character = list[Part]


def _characters(alphabet: int, stock: list[np.ndarray], complexity: np.ndarray) -> list[Character]:
    """Each unlike the ones before it (the least alike of the attempts, should none be)."""
    result: list[Character] = []
    looks = np.full((1, len(LATTICE)), np.inf)
    for i in range(character_count(alphabet)):
        random = _random(alphabet, CHARACTER, i)
        attempts = []
        for _ in range(ATTEMPTS):
            character = _character(random, stock, 1 + random.choice(4, p=complexity))
            look = _look(character)
            attempts.append((np.abs(looks - look).mean(1).min(), look, character))
            if attempts[-1][0] > UNLIKE:
                break
        _, look, character = max(attempts, key=lambda attempt: attempt[0])
        result.append(character)
        looks = np.concatenate([looks, look[None]])
    return result


def _character(random: np.random.Generator, stock: list[np.ndarray], strokes: int) -> Character:
    parts: Character = []
    for _ in range(strokes):
        choices = [_part(random, stock, parts) for _ in range(CHOICES)]
        parts.append(min(choices, key=lambda part: _clutter(parts, part)))
    return parts


def _part(random: np.random.Generator, stock: list[np.ndarray], parts: Character) -> Part:
    """A stroke of the stock as it is, small or mirrored, hung on one of the parts."""
    small, mirrored, detached = random.random(3) < (0.3, 0.2, 0.06)
    shape = (
        stock[random.integers(len(stock))]
        * (0.6 if small else 1.0)
        * np.array([-1.0 if mirrored else 1.0, 1.0])
    )
    own, at = (JOINTS[i] for i in random.integers(len(JOINTS), size=2))
    onto = int(random.integers(max(len(parts), 1)))
    shift = random.uniform(0.15, 0.3) * random.choice([-1, 1], 2) if detached else np.zeros(2)
    ink = np.einsum("tc,cd->td", BASIS, shape)
    if parts:
        ink = ink + (parts[onto].ink[at] - ink[own] + shift)
    return Part(shape, own, onto, at, shift, ink)


def _clutter(parts: Character, part: Part) -> float:
    """How badly a part would sit: sprawl, a character that is all line, ink close to other ink."""
    new = part.ink[::2]
    ink = np.concatenate([new, *(p.ink[::2] for p in parts)])
    extent = ink.max(0) - ink.min(0)
    squared = ((new[:, None] - ink[len(new) :]) ** 2).sum(-1).min(1, initial=np.inf)
    return (
        2 * max(extent.max() - 1.15, 0.0)
        + max(0.5 - extent.min(), 0.0)
        + 3 * (squared < 0.16**2).mean()
    )


def _look(character: Character) -> np.ndarray:
    """A blurred picture of 8 by 8, `(64,)`."""
    points = np.concatenate([part.ink for part in character])[::3]
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / (high - low).max()
    return np.exp(-((points[:, None] - LATTICE) ** 2).sum(-1).min(0) / 0.1**2)


def _drawings(
    random: np.random.Generator, character: Character, hands: dict[str, np.ndarray]
) -> np.ndarray:
    """One character by all drawers: `(drawers, strokes, samples, 2)` in pixels."""
    strokes = len(character)
    stray = hands["stray"][:, None, None, None]
    warp = np.eye(2) + 2.2 * stray[..., None] * random.normal(size=(DRAWERS, strokes, 1, 2, 2))
    bend = (
        0.8 * stray * np.einsum("ca,ksad->kscd", BEND, random.normal(size=(DRAWERS, strokes, 3, 2)))
    )
    slip = 0.7 * stray * random.normal(size=(DRAWERS, strokes, 1, 2))
    shapes = np.stack([part.shape for part in character])
    points = np.einsum("tc,kscd->kstd", BASIS, (warp * shapes[..., None, :]).sum(-1) + bend)
    for s, part in enumerate(character[1:], start=1):
        points[:, s] += (points[:, part.onto, part.at] - points[:, s, part.own] + part.shift)[
            :, None
        ] + slip[:, s]
    turn, slant, width, height = (
        hands[name][:, None, None] for name in ("turn", "slant", "width", "height")
    )
    x, y = points[..., 0] * width, points[..., 1] * height
    points = np.stack(
        [x * np.cos(turn) - y * np.sin(turn) - slant * y, x * np.sin(turn) + y * np.cos(turn)], -1
    )
    return _place(
        random, points, np.ptp(np.concatenate([part.ink for part in character]), axis=0).max()
    )


def _place(random: np.random.Generator, points: np.ndarray, extent: float) -> np.ndarray:
    """About the middle of the picture; small characters stay somewhat smaller, and none leaves it."""
    middle = random.normal(0, 1.0, (DRAWERS, 1, 1, 2)).clip(-2.5, 2.5)
    scale = 0.62 * SIZE / extent**0.8 * random.lognormal(0, 0.06, (DRAWERS, 1, 1, 1))
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    room = (SIZE / 2 - 2.0 - np.abs(middle)) / np.maximum((high - low) / 2, 1e-9)
    return (
        (points - (low + high) / 2) * np.minimum(scale, room.min(-1, keepdims=True))
        + middle
        + (SIZE - 1) / 2
    )


def _render(drawings: list[np.ndarray], pen: np.ndarray, reach: int = 2) -> np.ndarray:
    """Soft ink about strokes: each `(drawers, strokes, samples, 2)` in pixels, pen radius `(drawers,)` -> uint8 `(n, 28, 28)`.

    Lines from sample to sample, cut to two pixels at most: each inks pixels up to `reach` from its middle, a margin included.
    """
    a, b = (
        np.concatenate([d[:, :, part].reshape(-1, 2) for d in drawings])
        for part in (slice(-1), slice(1, None))
    )
    a, line = a.astype(np.float32), (b - a).astype(np.float32)
    drawing = np.repeat(
        np.arange(len(drawings) * DRAWERS),
        [d.shape[1] * (SAMPLES - 1) for d in drawings for _ in pen],
    )
    pieces = np.ceil(np.hypot(*line.T) / 2).astype(np.int64).clip(1)
    nth = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
    drawing, line = (
        np.repeat(drawing, pieces),
        np.repeat(line / pieces[:, None].astype(np.float32), pieces, axis=0),
    )
    a = np.repeat(a, pieces, axis=0) + line * nth[:, None].astype(np.float32)
    line_x, line_y = line[:, 0, None, None], line[:, 1, None, None]
    near, side = np.arange(-reach, reach + 1), SIZE + 2 * reach
    across, down = (np.rint(a + line / 2).astype(np.int64)[:, :, None] + near).transpose(
        1, 0, 2
    )  # each (lines, near)
    x, y = (
        (across - a[:, :1]).astype(np.float32)[:, None, :],
        (down - a[:, 1:]).astype(np.float32)[:, :, None],
    )
    along = ((x * line_x + y * line_y) / (line_x**2 + line_y**2 + np.float32(1e-9))).clip(0, 1)
    squared = (x - along * line_x) ** 2 + (y - along * line_y) ** 2
    pixel = ((drawing[:, None] * side + down + reach) * side)[:, :, None] + (across + reach)[
        :, None, :
    ]
    nearest = np.full(len(drawings) * DRAWERS * side * side, np.inf, np.float32)
    np.minimum.at(nearest, pixel.ravel(), squared.ravel())
    distance = np.sqrt(nearest.reshape(-1, side, side)[:, reach:-reach, reach:-reach])
    edge = np.tile(pen + 0.5, len(drawings)).astype(np.float32)[:, None, None]
    return np.rint(np.clip(edge - distance, 0, 1) * 255).astype(np.uint8)
