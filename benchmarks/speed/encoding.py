"""Images per second of an image encoder, compared with a loop over batches in torch.

    python -m benchmarks.speed.encoding [--images 192] [--rounds 5]

Both run the same network on the same cropped images in one program, taking turns. The loop uses all
cores through torch's threads, and is measured with several batch sizes and both memory formats.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from episodic.preprocessing.encoders.architectures import build_architecture
from episodic.preprocessing.encoders.encoder import find_encoder, load_encoder
from episodic.preprocessing.encoders.weights import read_encoder

BATCH_SIZES = (1, 4, 16, 64)
FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def build_loops(
    network: nn.Module, pixels: np.ndarray, normalize: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the loops over batches by name."""

    def loop(size: int, memory_format: torch.memory_format) -> torch.Tensor:
        network.to(memory_format=memory_format)
        with torch.inference_mode():
            return torch.cat(
                [
                    network(
                        normalize(torch.from_numpy(batch).to(memory_format=memory_format) / 255)
                    )
                    for batch in (pixels[i : i + size] for i in range(0, len(pixels), size))
                ]
            )

    return {
        f"loop, batch {size}, {name}": (lambda s=size, f=memory_format: loop(s, f))  # type: ignore[misc]
        for size, (name, memory_format) in itertools.product(BATCH_SIZES, FORMATS.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="efficientnet_lite0", help="name or file")
    parser.add_argument("--images", type=int, default=192, help="images per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which medians are taken")
    args = parser.parse_args()
    encoder = load_encoder(args.encoder)
    description, weights = read_encoder(find_encoder(args.encoder))
    size = description.transform.size
    network = build_architecture(description.architecture, size).network.eval()
    network.load_state_dict(weights)
    pixels = np.random.default_rng(0).integers(0, 256, (args.images, 3, size, size), np.uint8)
    programs = {
        "ours": lambda: encoder.encode(pixels),
        **build_loops(network, pixels, description.transform.normalize),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program()
    for _ in range(args.rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    print(f"{description.name}, {args.images} images, medians of {args.rounds} rounds")
    for name, values in seconds.items():
        ratios = sorted(a / b for a, b in zip(values, seconds["ours"], strict=True))
        print(
            f"{name:<32}{args.images / statistics.median(values):7.1f} images/s   "
            f"ours is {statistics.median(ratios):.2f} times as fast "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
