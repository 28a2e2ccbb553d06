"""Invented alphabets, drawn by procedure: as many classes as Omniglot's, with no download.

In the spirit of the generative account of Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept learning
through probabilistic program induction, Science 350 (2015). https://doi.org/10.1126/science.aab3050
An alphabet has a stock of strokes. A character is an arrangement of one to four of them, each attached to an earlier one. A drawer
has a hand (slant, proportions, pen), and every drawing bends the strokes' control points anew.

The set is one fixed thing: each alphabet is a function of its number, so that more alphabets leave the earlier ones as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from episodic.config import require
from episodic.datasets import SPLITS, Images, Limits, Progress, no_progress

LICENSE = "Made by this program; free of any rights."

SEED = 20151211
DRAWERS = 20
SIZE = 28
CHARACTERS = (20, 40)
CONTROLS, SAMPLES = 8, 29
"""Control points of a stroke, and points sampled along it."""

KINDS = {"bar": 0.3, "arc": 0.17, "corner": 0.12, "hump": 0.12, "hook": 0.12, "loop": 0.09, "wave": 0.05, "zigzag": 0.03}
"""Kinds of strokes, and how often alphabets have them on average; each alphabet leans its own way."""


@dataclass(frozen=True)
class Config:
    """alphabets: how many, 5 or more."""

    alphabets: int = 50

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(5 <= self.alphabets <= 1000, "alphabets", self.alphabets, "must be between 5 and 1000")


def fetch(raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress) -> None:
    """Draws the set: `images.npy` uint8 `(N, 1, 28, 28)`, ink 255, and `classes.json`."""
    drawn, classes = [], []
    for alphabet in range(config.alphabets):
        images = draw_alphabet(alphabet)
        drawn.append(images.reshape(-1, 1, SIZE, SIZE))
        group = f"alphabet-{alphabet:03d}"
        classes += [{"class": f"{group}/character-{i:02d}", "group": group, "count": DRAWERS} for i in range(len(images))]
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
    )


def limits(config: Config, seed: int) -> Limits:
    classes = dict.fromkeys(SPLITS, 0)
    for alphabet, split in enumerate(alphabet_splits(config.alphabets, seed)):
        classes[split] += character_count(alphabet)
    return Limits(DRAWERS, classes)


def alphabet_splits(alphabets: int, seed: int) -> list[str]:
    """The split of each alphabet: 10 % validation, 20 % test (one at least), the rest for training."""
    held_out = max(1, round(0.1 * alphabets)), max(1, round(0.2 * alphabets))
    result = ["train"] * alphabets
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, seed]))).permutation(alphabets)
    for position, alphabet in enumerate(order[: sum(held_out)]):
        result[alphabet] = "validation" if position < held_out[0] else "test"
    return result


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, *key])))


def character_count(alphabet: int) -> int:
    return int(_random(alphabet, 0).integers(CHARACTERS[0], CHARACTERS[1] + 1))


def draw_alphabet(alphabet: int) -> np.ndarray:
    """uint8 `(characters, drawers, 28, 28)`, ink 255 on 0."""
    random = _random(alphabet, 1)
    leaning = random.dirichlet(6 * np.array(list(KINDS.values())))
    stock = [_stroke(random, "bar")] + [_stroke(random, random.choice(list(KINDS), p=leaning)) for _ in range(random.integers(5, 9))]
    complexity = random.dirichlet([0.6, 3.6, 3.0, 1.2])  # how often a character of this alphabet has 1, 2, 3, 4 strokes
    hands = _hands(random)
    characters = _characters(alphabet, stock, complexity)
    drawings = [_drawings(_random(alphabet, 3, i), character, hands) for i, character in enumerate(characters)]
    return _render(drawings, hands["pen"]).reshape(len(drawings), DRAWERS, SIZE, SIZE)


def _stroke(random: np.random.Generator, kind: str) -> np.ndarray:
    """A stroke of the stock, control points `(8, 2)` (x, y down) from the origin: a walk of steps and turns (in degrees)."""
    step, turn = np.ones(CONTROLS - 1), np.zeros(CONTROLS - 1)
    size = random.uniform(0.6, 1.0)
    if kind == "bar":
        size = random.choice([0.5, 1.0]) * random.uniform(0.8, 1.1)
    elif kind == "arc":
        turn[1:] = random.uniform(90, 230) / 6
    elif kind == "corner":  # coinciding control points make it sharp
        step[:3] *= random.uniform(0.6, 1.4)
        step[3] = 0
        turn[4] = random.uniform(75, 135)
    elif kind == "hump":
        step[:2] *= random.uniform(0.1, 1.2)
        step[5:] *= random.uniform(0.1, 1.2)
        turn[2:5] = random.uniform(50, 62)
    elif kind == "hook":
        step[:4] *= random.uniform(1.0, 1.8)
        step[4:] *= 0.65
        turn[4:] = random.uniform(90, 200) / 3
    elif kind == "loop":
        step[:2] *= random.choice([0.4, 1.5])
        turn[2:] = random.uniform(300, 370) / 5
        size = random.uniform(0.5, 0.9)
    elif kind == "wave":
        turn[1:] = random.uniform(35, 55) * np.array([1, 1, 0, -1, -1, -1])
    elif kind == "zigzag":
        step[:2], step[2], step[3], step[4], step[5:] = 0.5, 0, random.uniform(0.8, 1.6), 0, 0.5
        turn[3] = random.uniform(100, 145)
        turn[5] = -turn[3] * random.uniform(0.85, 1.1)
    heading = np.radians(np.cumsum(turn)) * random.choice([-1, 1])
    walk = _walk(step, heading)
    upright = 0.0 if kind in ("corner", "hump", "hook", "loop") else np.arctan2(walk[-1, 1], walk[-1, 0])
    direction = np.radians(random.choice([0, 90, 270, 45, 135], p=[0.3, 0.46, 0.12, 0.06, 0.06]) + random.normal(0, 5))
    walk = _walk(step, heading - upright + direction)
    return walk * size / np.ptp(walk, axis=0).max()


def _walk(step: np.ndarray, heading: np.ndarray) -> np.ndarray:
    points = np.cumsum(step[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1), axis=0)
    return np.concatenate([np.zeros((1, 2)), points])


def _hands(random: np.random.Generator) -> dict[str, np.ndarray]:
    """What is each drawer's own, `(drawers,)`: the affine map, the pen, how careless."""
    return {
        "slant": random.normal(0.0, 0.12, DRAWERS),
        "turn": random.normal(0.0, 0.06, DRAWERS),
        "width": random.lognormal(0.0, 0.1, DRAWERS),
        "height": random.lognormal(0.0, 0.1, DRAWERS),
        "pen": random.uniform(0.5, 0.82, DRAWERS),
        "care": random.lognormal(np.log(0.054), 0.3, DRAWERS),
    }


def _basis() -> np.ndarray:
    """`(samples, controls)`: a clamped uniform cubic B-spline (Cox and de Boor's recursion), sampled closer where it runs fast,
    which is at its ends."""
    degree, last = 3, CONTROLS - 3
    knots = np.concatenate([np.zeros(degree), np.arange(last + 1), np.full(degree, last)]).astype(float)
    even = np.linspace(0, 1, SAMPLES)
    t = ((0.35 * even + 0.65 * (1 - np.cos(np.pi * even)) / 2) * (last - 1e-9))[:, None]
    basis = ((knots[:-1] <= t) & (t < knots[1:])).astype(float)
    for p in range(1, degree + 1):
        width = knots[p:] - knots[:-p]
        scaled = np.divide(1.0, width, out=np.zeros_like(width), where=width > 0)
        left = (t - knots[: -p - 1]) * scaled[:-1] * basis[:, :-1]
        right = (knots[p + 1 :] - t) * scaled[1:] * basis[:, 1:]
        basis = left + right
    return basis


BASIS = _basis()
ENDS = [0, SAMPLES // 2, SAMPLES - 1]
UNLIKE = 0.16


class Part(NamedTuple):
    """A stroke in a character.

    shape: control points `(8, 2)`
    own, onto, at: its sample `own` touches the sample `at` of the earlier part `onto`
    shift: `(2,)`, zeros unless it is detached
    ink: points `(samples, 2)` where it ends up
    """

    shape: np.ndarray
    own: int
    onto: int
    at: int
    shift: np.ndarray
    ink: np.ndarray


Character = list[Part]


def _characters(alphabet: int, stock: list[np.ndarray], complexity: np.ndarray) -> list[Character]:
    """Each unlike the ones before it (the least alike of eight attempts, should none be)."""
    result: list[Character] = []
    looks = np.full((1, len(LATTICE)), np.inf)
    for i in range(character_count(alphabet)):
        random = _random(alphabet, 2, i)
        attempts = []
        for _ in range(8):
            character = _character(random, stock, 1 + int(np.searchsorted(complexity.cumsum(), random.random())))
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
        parts.append(min((_part(random, stock, parts) for _ in range(8)), key=lambda part: _clutter(parts, part)))
    return parts


def _part(random: np.random.Generator, stock: list[np.ndarray], parts: Character) -> Part:
    """A stroke from the stock, as it is, small or mirrored, hung on a part at an end or in the middle."""
    shape = stock[random.integers(len(stock))] * (0.6 if random.random() < 0.3 else 1.0)
    if random.random() < 0.2:
        shape = shape * np.array([-1.0, 1.0])
    own, at = (ENDS[i] for i in random.integers(3, size=2))
    onto = int(random.integers(max(len(parts), 1)))
    detached = len(parts) > 0 and random.random() < 0.06
    shift = random.uniform(0.15, 0.3) * np.sign(random.normal(size=2)) if detached else np.zeros(2)
    ink = np.einsum("tc,cd->td", BASIS, shape)
    if parts:
        ink = ink + (parts[onto].ink[at] - ink[own] + shift)
    return Part(shape, own, onto, at, shift, ink)


def _clutter(parts: Character, part: Part) -> float:
    """How badly a stroke would sit: ink over ink away from the join, and sprawl."""
    ink = np.concatenate([part.ink, *(p.ink for p in parts)])[::2]
    extent = ink.max(0) - ink.min(0)
    cost = 2 * max(extent.max() - 1.15, 0.0) + max(0.5 - extent.min(), 0.0)
    if parts:
        own = SAMPLES // 2 + 1
        gaps = ((ink[:own, None] - ink[own:]) ** 2).sum(-1).min(1)
        cost += 3 * np.count_nonzero(gaps < 0.16**2) / own
    return cost


def _look(character: Character) -> np.ndarray:
    """A blurred 8 by 8 picture, `(64,)`."""
    points = np.concatenate([part.ink for part in character])[::3]
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / (high - low).max()
    return np.exp(-((points[:, None] - LATTICE) ** 2).sum(-1).min(0) / 0.1**2)


LATTICE = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 8)] * 2), -1).reshape(-1, 2)


def _drawings(random: np.random.Generator, character: Character, hands: dict[str, np.ndarray]) -> np.ndarray:
    """One character by all drawers: `(drawers, strokes, samples, 2)` in pixels."""
    strokes = len(character)
    care = hands["care"][:, None, None, None]
    shapes = np.stack([part.shape for part in character])
    warp = np.eye(2) + 2.2 * care[..., None] * random.normal(size=(DRAWERS, strokes, 1, 2, 2))
    bend = np.einsum("ca,ksad->kscd", BENDS, random.normal(size=(DRAWERS, strokes, 3, 2)))
    points = np.einsum("tc,kscd->kstd", BASIS, (warp * shapes[..., None, :]).sum(-1) + 0.8 * care * bend)
    slip = 0.7 * care * random.normal(size=(DRAWERS, strokes, 1, 2))
    for s, part in enumerate(character):
        if s:
            points[:, s] += (points[:, part.onto, part.at] - points[:, s, part.own] + part.shift)[:, None] + slip[:, s]
    turn, slant, width, height = (hands[name][:, None, None] for name in ("turn", "slant", "width", "height"))
    x, y = points[..., 0] * width, points[..., 1] * height
    points = np.stack([x * np.cos(turn) - y * np.sin(turn) - slant * y, x * np.sin(turn) + y * np.cos(turn)], -1)
    return _place(random, points, np.ptp(np.concatenate([part.ink for part in character]), axis=0).max())


def _place(random: np.random.Generator, points: np.ndarray, extent: float) -> np.ndarray:
    """Near the middle of the picture; small characters stay somewhat smaller, and none leaves it."""
    place = random.normal(0, 1.0, (DRAWERS, 1, 1, 2)).clip(-2.5, 2.5)
    scale = 0.62 * SIZE / extent**0.8 * random.lognormal(0, 0.06, (DRAWERS, 1, 1, 1))
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    room = (SIZE / 2 - 2.0 - np.abs(place)) / np.maximum((high - low) / 2, 1e-9)
    return (points - (low + high) / 2) * np.minimum(scale, room.min(-1, keepdims=True)) + place + (SIZE - 1) / 2


BENDS = np.stack([np.interp(np.arange(CONTROLS), [0, CONTROLS / 2 - 0.5, CONTROLS - 1], row) for row in np.eye(3)], 1)


MARGIN = 3


def _render(drawings: list[np.ndarray], pen: np.ndarray) -> np.ndarray:
    """Soft round ink along the strokes: each `(drawers, strokes, samples, 2)` in pixels, pen radius `(drawers,)` -> uint8 `(n, 28, 28)`."""
    side = SIZE + 2 * MARGIN
    start, run, owner = [], [], []
    for i, points in enumerate(drawings):
        start.append(points[:, :, :-1].reshape(-1, 2))
        run.append(np.diff(points, axis=2).reshape(-1, 2))
        owner.append(np.repeat(np.arange(DRAWERS) + i * DRAWERS, points.shape[1] * (SAMPLES - 1)))
    a, d = np.concatenate(start).astype(np.float32), np.concatenate(run).astype(np.float32)
    middle = np.rint(a + d / 2).astype(np.int64)
    first = ((np.concatenate(owner) * side + middle[:, 1] + MARGIN) * side + middle[:, 0] + MARGIN)
    near = np.arange(-2, 3)
    x = (middle[:, :1] + near - a[:, :1])[:, None, :].astype(np.float32)
    y = (middle[:, 1:] + near - a[:, 1:])[:, :, None].astype(np.float32)
    dx, dy = d[:, 0, None, None], d[:, 1, None, None]
    along = ((x * dx + y * dy) / (dx * dx + dy * dy + np.float32(1e-9))).clip(0, 1)
    squared = (x - along * dx) ** 2 + (y - along * dy) ** 2
    nearest = np.full(len(drawings) * DRAWERS * side * side, 99, np.float32)
    at = first[:, None, None] + near[:, None] * side + near
    np.minimum.at(nearest, at.ravel(), squared.ravel())
    nearest = nearest.reshape(-1, side, side)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    radius = np.tile(pen, len(drawings)).astype(np.float32)[:, None, None]
    return np.rint(np.clip(radius + np.float32(0.5) - np.sqrt(nearest), 0, 1) * 255).astype(np.uint8)
