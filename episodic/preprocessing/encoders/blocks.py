"""The last blocks of an encoder, fine-tuned on the support set of one task."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from episodic.core import checkpoint
from episodic.preprocessing.encoders.architectures import EncoderError
from episodic.preprocessing.encoders.encoder import ImageEncoder
from episodic.preprocessing.encoders.weights import EncoderDescription, compute_digest

__all__ = ["DividedNetwork", "TunedBlocks", "divide_network"]

MAX_SHARE = 0.5
"""Largest fraction of the parameters of a network that a block can have."""


class DividedNetwork(NamedTuple):
    """A network as two functions, of which the second one is applied to the result of the first.

    Both share their parameters with the network, under the same names.

    Attributes:
        trunk: Maps normalized images `(n, 3, H, W)` to activations `(n, ...)`.
        tail: Maps the activations to features `(n, width)`. It contains the last blocks.
    """

    trunk: fx.GraphModule
    tail: fx.GraphModule


def divide_network(network: nn.Module, blocks: int, name: str) -> DividedNetwork:
    """Divide a network before its last blocks.

    The blocks of a network are its submodules, in the order in which its `forward` calls them. A
    submodule that is a `Sequential`, or that has more than half of the parameters of the network,
    is not a block, but its own submodules are. Normalization layers, activation functions and
    pooling belong to the block before them. The network is divided where a single tensor passes
    from one part to the other, at the latest before the requested blocks.

    Args:
        network: Network in evaluation mode.
        blocks: Number of blocks of the tail, at least 1.
        name: Name of the network, for messages.

    Raises:
        EncoderError: The network cannot be divided, because it is not a sequence of blocks or has
            too few of them.
    """
    graph = _trace(network, name)
    nodes = list(graph.nodes)
    starts = [i for i, node in enumerate(nodes) if _is_block(network, node)]
    if len(starts) <= blocks:
        raise EncoderError(
            f"{name} consists of {len(starts)} blocks, of which {blocks} cannot be fine-tuned "
            "while the others stay fixed: choose another encoder, or another head"
        )
    for start in reversed(starts[1 : len(starts) - blocks + 1]):
        passed = _find_passed_nodes(nodes, start)
        if len(passed) == 1:
            return DividedNetwork(*_split(network, graph, start, passed[0]))
    raise EncoderError(
        f"{name} cannot be divided before its last {blocks} blocks, since several tensors pass "
        "from one part to the other: choose another encoder, or another head"
    )


class _BlockTracer(fx.Tracer):
    """Tracer whose graph has one node per block."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.limit = MAX_SHARE * _count_parameters(network)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if not list(m.children()):
            return True
        # Subclasses of Sequential are blocks, such as a convolution with its normalization.
        return type(m) is not nn.Sequential and _count_parameters(m) <= self.limit


def _trace(network: nn.Module, name: str) -> fx.Graph:
    options = list(inspect.signature(network.forward).parameters.values())[1:]
    defaults = {
        option.name: option.default for option in options if option.default is not option.empty
    }
    try:
        return _BlockTracer(network).trace(network, defaults or None)
    except Exception as error:  # tracing runs the code of any network
        reason = " ".join(str(error).split())
        raise EncoderError(
            f"{name} cannot be divided into blocks ({reason}): choose another encoder, or another "
            "head"
        ) from error


def _count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _is_block(network: nn.Module, node: fx.Node) -> bool:
    """Return whether a node is a block: a module with weights other than those of normalization."""
    return node.op == "call_module" and any(
        p.dim() > 1 for p in network.get_submodule(str(node.target)).parameters()
    )


def _find_passed_nodes(nodes: Sequence[fx.Node], start: int) -> list[fx.Node]:
    """Return the nodes before `start` whose values later nodes use."""
    later = set(nodes[start:])
    return [node for node in nodes[:start] if node.op != "get_attr" and later & set(node.users)]


def _split(
    network: nn.Module, graph: fx.Graph, start: int, passed: fx.Node
) -> tuple[fx.GraphModule, fx.GraphModule]:
    nodes = list(graph.nodes)
    first, second = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:start]:
        copies[node] = first.node_copy(node, copies.__getitem__)
    first.output(copies[passed])
    later = set(nodes[start:])
    copies = {passed: second.placeholder("activations")}
    for i, node in enumerate(nodes):
        if i >= start or (node.op == "get_attr" and later & set(node.users)):
            copies[node] = second.node_copy(node, copies.__getitem__)
    parts = []
    for part in (first, second):
        module = fx.GraphModule(network, part)
        module.graph.eliminate_dead_code()
        module.recompile()
        parts.append(module.eval())
    return parts[0], parts[1]


@dataclass(frozen=True)
class TunedBlocks:
    """The parameters of fine-tuned blocks of an encoder.

    Args:
        encoder: Description of the encoder.
        weights: The fine-tuned parameters by their name in the network.
    """

    encoder: EncoderDescription
    weights: Mapping[str, Tensor]

    @property
    def parameters(self) -> int:
        """Number of fine-tuned parameters."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the encoder and of the fine-tuned parameters, in hexadecimal."""
        return compute_digest(self.encoder.digest, self.encoder.transform, self.weights)

    def apply(self, encoder: ImageEncoder) -> ImageEncoder:
        """Return a copy of the encoder with the fine-tuned blocks. It shares the other weights.

        Raises:
            EncoderError: The encoder has no such parameters.
        """
        tensors = dict(encoder.network.state_dict(keep_vars=True))
        expected = {name: tensors[name] for name in self.weights if name in tensors}
        if expected.keys() != self.weights.keys() or any(
            self.weights[name].shape != tensor.shape for name, tensor in expected.items()
        ):
            raise EncoderError(
                f"the fine-tuned blocks do not fit the encoder {encoder.description.name}: adapt "
                "again"
            )
        shared: dict[int, Any] = {
            id(tensor): tensor for name, tensor in tensors.items() if name not in self.weights
        }
        network = copy.deepcopy(encoder.network, shared)
        network.load_state_dict(dict(self.weights), strict=False)
        return replace(encoder, network=network)

    def describe(self) -> dict[str, Any]:
        """Return what a model records about its fine-tuned blocks, as JSON-serializable values."""
        return {"parameters": self.parameters, "digest": self.digest}

    def save(self, path: Path) -> None:
        """Write the parameters as safetensors."""
        checkpoint.save(path, dict(self.weights), {"encoder": self.encoder.digest})

    @classmethod
    def load(cls, path: Path, encoder: EncoderDescription, digest: str) -> TunedBlocks:
        """Read the parameters that `save` wrote.

        Args:
            path: The file.
            encoder: Description of the encoder.
            digest: The digest of the parameters that the model was made with.

        Raises:
            CheckpointError: The file is missing or not a checkpoint.
            EncoderError: The file has other content.
        """
        weights, _ = checkpoint.load(path)
        blocks = cls(encoder, weights)
        if blocks.digest != digest:
            raise EncoderError(
                f"{path} was modified: its weights have the digest {blocks.digest[:12]}, not "
                f"{digest[:12]}; adapt again"
            )
        return blocks
