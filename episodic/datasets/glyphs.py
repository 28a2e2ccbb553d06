"""Synthetic alphabets, drawn by a procedure: as many classes as Omniglot has, without a download.

The model follows the generative account of Lake, Salakhutdinov, Tenenbaum (2015). An alphabet has a
stock of strokes. A character is an arrangement of one to four strokes, each attached to an earlier
one. A writer has a hand (slant, proportions, pen, care), and every drawing warps and bends the
strokes again with fixed joints.

Each alphabet is a function of its number, so that more alphabets leave the earlier ones as they
are. Lengths are in units of a character's height until `_place_drawings`, and in pixels from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import ImageDataset, Images, Limits

__all__ = ["Glyphs"]

Array = NDArray[np.floating]

SEED = 20151211
COUNT, STYLE, CHARACTER, DRAWINGS, SPLIT = range(1, 6)
"""Keys of the streams of random numbers."""
WRITERS, SIZE = 20, 28
CHARACTERS = (20, 40)
"""The smallest and the largest number of characters per alphabet."""
STROKE_KINDS = {
    "bar": 0.3,
    "arc": 0.17,
    "corner": 0.12,
    "hump": 0.13,
    "hook": 0.13,
    "loop": 0.08,
    "wave": 0.05,
    "zigzag": 0.02,
}
"""Kinds of strokes and their frequency, from which that of each alphabet is drawn."""
CONTROLS, SAMPLES = 8, 29
"""Control points of a stroke, and points along it that are joined by straight lines."""
JOINTS = (0, SAMPLES // 2, SAMPLES - 1)
"""Points at which strokes touch."""
CHOICES, ATTEMPTS, MIN_DIFFERENCE = 8, 8, 0.16
"""Candidates per stroke, attempts per character, and the difference from all other characters that
ends them."""


@dataclass(frozen=True)
class Glyphs(ImageDataset):
    """Synthetic alphabets of 20 to 40 characters, each drawn by 20 simulated writers.

    Whole alphabets are split at random: 10 % for validation, 20 % for test, the rest for training.
    The images are generated, so that no license applies.

    Args:
        alphabets: Number of alphabets.

    In the spirit of Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept
    learning through probabilistic program induction, Science 350 (2015).
    https://doi.org/10.1126/science.aab3050
    """

    alphabets: Annotated[int, Ge(5), Le(1000)] = 50

    license = "Made by this program; free of any rights."

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        splits = enumerate(assign_alphabets(self.alphabets, seed))
        members = (
            (split, name_alphabet(alphabet))
            for alphabet, split in splits
            for _ in range(count_characters(alphabet))
        )
        return Limits.from_members(WRITERS, members)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Draw `images.npy`, uint8 `(N, 1, 28, 28)` with ink 255, and write `classes.json`."""
        drawn, classes = [], []
        for alphabet in range(self.alphabets):
            images = draw_alphabet(alphabet)
            drawn.append(images.reshape(-1, 1, SIZE, SIZE))
            group = name_alphabet(alphabet)
            classes += [
                {"class": f"{group}/character-{i:02d}", "group": group, "count": WRITERS}
                for i in range(len(images))
            ]
            progress("alphabets", alphabet + 1, self.alphabets)
        np.save(raw / "images.npy", np.concatenate(drawn))
        (raw / "classes.json").write_text(json.dumps(classes, indent=0) + "\n", encoding="utf-8")

    def prepare(self, raw: Path, seed: int) -> Images:
        """Split whole alphabets, so that test and training characters do not share strokes."""
        classes = json.loads((raw / "classes.json").read_text(encoding="utf-8"))
        splits = assign_alphabets(self.alphabets, seed)
        groups = [c["group"] for c in classes]
        return Images(
            images=np.load(raw / "images.npy", mmap_mode="r"),
            classes=[c["class"] for c in classes],
            groups=groups,
            splits=[splits[int(group.rsplit("-", 1)[1])] for group in groups],
            counts=np.array([c["count"] for c in classes], dtype=np.int64),
            protocol="split by alphabet",
            inverted=True,
        )


def assign_alphabets(alphabets: int, seed: int) -> list[str]:
    """Return the split of each alphabet: 10 % validation and 20 % test, at least one each."""
    validation, test = max(1, round(0.1 * alphabets)), max(1, round(0.2 * alphabets))
    splits = (
        ["validation"] * validation + ["test"] * test + ["train"] * (alphabets - validation - test)
    )
    return [splits[i] for i in _generator(seed, SPLIT).permutation(alphabets)]


def name_alphabet(alphabet: int) -> str:
    """Return the name of an alphabet."""
    return f"alphabet-{alphabet:03d}"


def count_characters(alphabet: int) -> int:
    """Return the number of characters of an alphabet."""
    return int(_generator(alphabet, COUNT).integers(CHARACTERS[0], CHARACTERS[1] + 1))


def draw_alphabet(alphabet: int) -> NDArray[np.uint8]:
    """Draw an alphabet as uint8 `(characters, writers, 28, 28)`, ink 255 on 0."""
    random = _generator(alphabet, STYLE)
    leaning = random.dirichlet(8 * np.array(list(STROKE_KINDS.values())))
    stock = [_draw_stroke(random, "bar")] + [
        _draw_stroke(random, random.choice(list(STROKE_KINDS), p=leaning))
        for _ in range(random.integers(5, 9))
    ]
    # The frequency of characters with 1, 2, 3 and 4 strokes.
    complexity = random.dirichlet([0.6, 3.6, 3.0, 1.2])
    hands = _draw_hands(random)
    characters = _draw_characters(alphabet, stock, complexity)
    drawings = [
        _draw_by_all_writers(_generator(alphabet, DRAWINGS, i), character, hands)
        for i, character in enumerate(characters)
    ]
    return _render_strokes(drawings, hands["pen"]).reshape(len(drawings), WRITERS, SIZE, SIZE)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, *key])))


def _draw_stroke(random: np.random.Generator, kind: str) -> Array:
    """Draw a stroke of the stock: control points `(8, 2)` (x, y down) from the origin.

    It is a walk of steps and turns, in degrees.
    """
    step, turn = np.ones(CONTROLS - 1), np.zeros(CONTROLS - 1)
    size = random.uniform(0.6, 1.0)
    if kind == "bar":
        size = random.choice([0.5, 1.0]) * random.uniform(0.8, 1.1)
    elif kind == "arc":
        turn[1:] = random.uniform(90, 230) / 6
    elif kind == "corner":
        # Control points that coincide make the corner sharp.
        step[:3], step[3] = random.uniform(0.6, 1.4), 0
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
    # Writing keeps to the axes: with the first step of a stroke that starts straight, otherwise
    # with the line from end to end.
    heading = 0.0 if kind in ("corner", "hump", "hook", "loop") else np.angle(walk[-1])
    axis = np.radians(
        random.choice([0, 90, 270, 45, 135], p=[0.3, 0.46, 0.12, 0.06, 0.06]) + random.normal(0, 5)
    )
    walk = walk * np.exp(1j * (axis - heading))
    points = np.stack([walk.real, walk.imag], 1)
    scaled: Array = points * size / np.ptp(points, axis=0).max()
    return scaled


def _draw_hands(random: np.random.Generator) -> dict[str, Array]:
    """Draw the hand of each writer, `(writers,)`: affine map, radius of the pen, deviation."""
    return {
        "slant": random.normal(0.0, 0.12, WRITERS),
        "turn": random.normal(0.0, 0.06, WRITERS),
        "width": random.lognormal(0.0, 0.1, WRITERS),
        "height": random.lognormal(0.0, 0.1, WRITERS),
        "pen": random.uniform(0.5, 0.82, WRITERS),
        "stray": random.lognormal(np.log(0.054), 0.3, WRITERS),
    }


def _spline_basis() -> Array:
    """Return a uniform cubic B-spline through its end points, `(samples, controls)`."""
    t = np.linspace(0, CONTROLS + 1 - 1e-9, SAMPLES)
    span, u = t.astype(int), t % 1
    result = np.zeros((SAMPLES, CONTROLS))
    for k, weight in enumerate(
        [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]
    ):
        np.add.at(result, (np.arange(SAMPLES), np.clip(span + k - 2, 0, CONTROLS - 1)), weight / 6)
    return result


BASIS = _spline_basis()
BEND = np.stack(
    [
        np.interp(np.arange(CONTROLS), [0, (CONTROLS - 1) / 2, CONTROLS - 1], row)
        for row in np.eye(3)
    ],
    1,
)
"""Spreads shifts of start, middle and end over the control points, so that a bent stroke stays
smooth, `(controls, 3)`."""
LATTICE = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 8)] * 2), -1).reshape(-1, 2)


class Part(NamedTuple):
    """A stroke of a character.

    Attributes:
        shape: Control points `(8, 2)`.
        joint: The sample that touches the earlier stroke.
        parent: Index of the earlier stroke.
        parent_joint: The sample of the earlier stroke.
        shift: Distance between the two samples `(2,)`.
        ink: Samples in the character `(samples, 2)`.
    """

    shape: Array
    joint: int
    parent: int
    parent_joint: int
    shift: Array
    ink: Array


Character = list[Part]


def _draw_characters(alphabet: int, stock: list[Array], complexity: Array) -> list[Character]:
    """Draw characters that differ from each other, or the most different of the attempts."""
    result: list[Character] = []
    images = np.full((1, len(LATTICE)), np.inf)
    for i in range(count_characters(alphabet)):
        random = _generator(alphabet, CHARACTER, i)
        attempts = []
        for _ in range(ATTEMPTS):
            character = _draw_character(random, stock, 1 + random.choice(4, p=complexity))
            image = _blur_character(character)
            attempts.append((np.abs(images - image).mean(1).min(), image, character))
            if attempts[-1][0] > MIN_DIFFERENCE:
                break
        _, image, character = max(attempts, key=lambda attempt: attempt[0])
        result.append(character)
        images = np.concatenate([images, image[None]])
    return result


def _draw_character(random: np.random.Generator, stock: list[Array], strokes: int) -> Character:
    parts: Character = []
    for _ in range(strokes):
        choices = [_draw_part(random, stock, parts) for _ in range(CHOICES)]
        parts.append(min(choices, key=lambda part: _clutter_penalty(parts, part)))
    return parts


def _draw_part(random: np.random.Generator, stock: list[Array], parts: Character) -> Part:
    """Draw a stroke of the stock, perhaps small or mirrored, attached to one of the parts."""
    small, mirrored, detached = random.random(3) < (0.3, 0.2, 0.06)
    shape = (
        stock[random.integers(len(stock))]
        * (0.6 if small else 1.0)
        * np.array([-1.0 if mirrored else 1.0, 1.0])
    )
    joint, parent_joint = (JOINTS[i] for i in random.integers(len(JOINTS), size=2))
    parent = int(random.integers(max(len(parts), 1)))
    shift = random.uniform(0.15, 0.3) * random.choice([-1, 1], 2) if detached else np.zeros(2)
    ink = np.einsum("tc,cd->td", BASIS, shape)
    if parts:
        ink = ink + (parts[parent].ink[parent_joint] - ink[joint] + shift)
    return Part(shape, joint, parent, parent_joint, shift, ink)


def _clutter_penalty(parts: Character, part: Part) -> float:
    """Return a penalty: a large character, a narrow one, ink close to other ink."""
    new = part.ink[::2]
    ink = np.concatenate([new, *(p.ink[::2] for p in parts)])
    extent = ink.max(0) - ink.min(0)
    squared = ((new[:, None] - ink[len(new) :]) ** 2).sum(-1).min(1, initial=np.inf)
    return float(
        2 * max(extent.max() - 1.15, 0.0)
        + max(0.5 - extent.min(), 0.0)
        + 3 * (squared < 0.16**2).mean()
    )


def _blur_character(character: Character) -> Array:
    """Return a blurred image of 8x8 pixels, `(64,)`."""
    points = np.concatenate([part.ink for part in character])[::3]
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / (high - low).max()
    image: Array = np.exp(-((points[:, None] - LATTICE) ** 2).sum(-1).min(0) / 0.1**2)
    return image


def _draw_by_all_writers(
    random: np.random.Generator, character: Character, hands: dict[str, Array]
) -> Array:
    """Draw a character by all writers: `(writers, strokes, samples, 2)` in pixels."""
    strokes = len(character)
    stray = hands["stray"][:, None, None, None]
    warp = np.eye(2) + 2.2 * stray[..., None] * random.normal(size=(WRITERS, strokes, 1, 2, 2))
    bend = (
        0.8 * stray * np.einsum("ca,ksad->kscd", BEND, random.normal(size=(WRITERS, strokes, 3, 2)))
    )
    slip = 0.7 * stray * random.normal(size=(WRITERS, strokes, 1, 2))
    shapes = np.stack([part.shape for part in character])
    points = np.einsum("tc,kscd->kstd", BASIS, (warp * shapes[..., None, :]).sum(-1) + bend)
    for s, part in enumerate(character[1:], start=1):
        gap = points[:, part.parent, part.parent_joint] - points[:, s, part.joint] + part.shift
        points[:, s] += gap[:, None] + slip[:, s]
    turn, slant, width, height = (
        hands[name][:, None, None] for name in ("turn", "slant", "width", "height")
    )
    x, y = points[..., 0] * width, points[..., 1] * height
    points = np.stack(
        [x * np.cos(turn) - y * np.sin(turn) - slant * y, x * np.sin(turn) + y * np.cos(turn)], -1
    )
    return _place_drawings(
        random, points, np.ptp(np.concatenate([part.ink for part in character]), axis=0).max()
    )


def _place_drawings(random: np.random.Generator, points: Array, extent: float) -> Array:
    """Place drawings near the centre. Small characters stay smaller, and none leaves the image."""
    middle = random.normal(0, 1.0, (WRITERS, 1, 1, 2)).clip(-2.5, 2.5)
    scale = 0.62 * SIZE / extent**0.8 * random.lognormal(0, 0.06, (WRITERS, 1, 1, 1))
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    room = (SIZE / 2 - 2.0 - np.abs(middle)) / np.maximum((high - low) / 2, 1e-9)
    placed: Array = (
        (points - (low + high) / 2) * np.minimum(scale, room.min(-1, keepdims=True))
        + middle
        + (SIZE - 1) / 2
    )
    return placed


def _render_strokes(drawings: list[Array], pen: Array, reach: int = 2) -> NDArray[np.uint8]:
    """Render strokes with soft ink to uint8 `(n, 28, 28)`.

    Args:
        drawings: Each `(writers, strokes, samples, 2)` in pixels.
        pen: Radius of the pen of each writer, in pixels.
        reach: Lines from sample to sample are cut to two pixels at most. Each inks pixels up to
            `reach` from its middle.
    """
    a, b = (
        np.concatenate([d[:, :, part].reshape(-1, 2) for d in drawings])
        for part in (slice(-1), slice(1, None))
    )
    a, line = a.astype(np.float32), (b - a).astype(np.float32)
    drawing = np.repeat(
        np.arange(len(drawings) * WRITERS),
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
    middle = np.rint(a + line / 2).astype(np.int64)[:, :, None]
    across, down = (middle + near).transpose(1, 0, 2)  # each (lines, near)
    x, y = (
        (across - a[:, :1]).astype(np.float32)[:, None, :],
        (down - a[:, 1:]).astype(np.float32)[:, :, None],
    )
    along = ((x * line_x + y * line_y) / (line_x**2 + line_y**2 + np.float32(1e-9))).clip(0, 1)
    squared = (x - along * line_x) ** 2 + (y - along * line_y) ** 2
    pixel = ((drawing[:, None] * side + down + reach) * side)[:, :, None] + (across + reach)[
        :, None, :
    ]
    nearest = np.full(len(drawings) * WRITERS * side * side, np.inf, np.float32)
    np.minimum.at(nearest, pixel.ravel(), squared.ravel())
    distance = np.sqrt(nearest.reshape(-1, side, side)[:, reach:-reach, reach:-reach])
    edge = np.tile(pen + 0.5, len(drawings)).astype(np.float32)[:, None, None]
    return np.rint(np.clip(edge - distance, 0, 1) * 255).astype(np.uint8)
