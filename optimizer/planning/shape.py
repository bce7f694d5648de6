"""The sizes of a decoder: from the headers of its files, or else guessed from its number of weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import brentq

from datagen.errors import BunchError
from datagen.models.checkpoints import Checkpoint
from datagen.models.weights import is_embeddings, is_head
from datagen.planning.sizes import folder_here, size_of
from optimizer.merging.groups import group_of
from optimizer.merging.tensors import common_dtype

#: Llama-3-8B, which a model of another size is guessed from: width, width of the mlp, layers, heads, tokens.
_HIDDEN, _INNER, _LAYERS, _HEAD, _GROUPED, _VOCABULARY = 4096, 14336, 32, 128, 4, 128256


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder.

    Attributes:
        tensors: name -> shape, of all that is merged.
        dtype: that holds every weight.
        heads: of attention.
        key_value: heads of keys and values.
        head: width of a head.
        source: where this is from.
    """

    tensors: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    heads: int
    key_value: int
    head: int
    source: str

    @cached_property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(map(math.prod, self.tensors.values()))

    @cached_property
    def largest(self) -> int:
        """Weights of the largest tensor."""
        return max(map(math.prod, self.tensors.values()))

    @cached_property
    def inside(self) -> dict[str, tuple[int, ...]]:
        """Tensors of the layers."""
        rule = group_of("layer")
        return {name: shape for name, shape in self.tensors.items() if rule(name).startswith("layer ")}

    @cached_property
    def layers(self) -> int:
        """How many layers."""
        return max(1, len({group_of("layer")(name) for name in self.inside}))

    @cached_property
    def layer(self) -> int:
        """Weights of a layer that tokens are multiplied with, on the mean."""
        return sum(math.prod(shape) for shape in self.inside.values() if len(shape) > 1) // self.layers

    @cached_property
    def embeddings(self) -> tuple[int, ...]:
        """Tokens and width."""
        named = [shape for name, shape in self.tensors.items() if is_embeddings(name)]
        outside = [shape for name, shape in self.tensors.items() if name not in self.inside and len(shape) == 2]
        return (named or outside or [(1, self.heads * self.head)])[0]

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.embeddings[0]

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.embeddings[1]

    @property
    def attention(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head

    @cached_property
    def inner(self) -> int:
        """Width of an mlp of three matrices that has what of a layer is no attention."""
        projections = 2 * self.hidden * self.head * (self.heads + self.key_value)
        return max(1, (self.layer - projections) // (3 * self.hidden))

    @cached_property
    def tied(self) -> bool:
        """Whether the head is the embeddings."""
        return not any(map(is_head, self.tensors))


def shape_of(reference: str) -> Shape:
    """The sizes of a model, as far as they can be told without loading or downloading anything.

    Args:
        reference: `MODEL` or `MODEL+ADAPTER`.

    Raises:
        BunchError: there is no such model, or neither its files nor its name tell its size.
    """
    size = size_of(reference)
    if size.here and (folder := folder_here(reference)) is not None:
        return shape_of_folder(folder)
    if size.parameters is None:
        raise BunchError(
            f"a plan needs the size of {reference}, but its files are not here and its name does not tell it; "
            f"download it (`hf download {reference}`), or name a folder"
        )
    return shape_by_size(size.parameters, size.source)


def shape_of_folder(folder: Path) -> Shape:
    """The sizes that a model's files tell; no tensor is read.

    Raises:
        BunchError: they are missing or damaged.
    """
    weights = Checkpoint(folder)
    tensors = {name: header.shape for name, header in weights.headers.items() if header.dtype.is_floating_point}
    if not tensors or all(len(shape) < 2 for shape in tensors.values()):
        raise BunchError(f"{folder}: a plan needs a model with matrices, but its files have none; name another")
    config: Mapping[str, Any] = weights.config.get("text_config", weights.config)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 0)
    hidden = int(config.get("hidden_size") or config.get("n_embd") or 0)
    if not heads or not hidden:
        raise BunchError(
            f"{folder / 'config.json'}: a plan needs the model's width and heads, but they are not there; add "
            f"hidden_size and num_attention_heads"
        )
    return Shape(
        tensors,
        common_dtype([weights.headers[name].dtype for name in tensors]),
        heads,
        int(config.get("num_key_value_heads") or heads),
        int(config.get("head_dim") or hidden // heads),
        "its files",
    )


def shape_by_size(parameters: float, source: str) -> Shape:
    """A Llama-like model of about so many weights, as broad to its depth as Llama-3-8B.

    Args:
        parameters: how many.
        source: where these are from.
    """
    inside = 32 * (2 * _HIDDEN * (_HIDDEN + _HIDDEN // _GROUPED) + 3 * _HIDDEN * _INNER)

    def excess(scale: float) -> float:
        return inside * scale**3 + 2 * _VOCABULARY * _HIDDEN * scale - parameters

    scale = float(brentq(excess, 0, (parameters / inside) ** (1 / 3) + 1e-9))
    layers = max(1, round(_LAYERS * scale))
    heads = max(_GROUPED, round(_HIDDEN * scale / _HEAD / _GROUPED) * _GROUPED)
    hidden = max(8, round(_HIDDEN * scale))
    # What rounding has added or taken away is made up for by the mlp.
    left = parameters - 2 * _VOCABULARY * hidden - layers * 2 * hidden * _HEAD * (heads + heads // _GROUPED)
    inner = max(8, round(left / layers / 3 / hidden))
    tensors = dict(llama_tensors(hidden, inner, layers, (heads, heads // _GROUPED, _HEAD), _VOCABULARY))
    return Shape(tensors, torch.bfloat16, heads, heads // _GROUPED, _HEAD, source)


def llama_tensors(
    hidden: int, inner: int, layers: int, heads: tuple[int, int, int], vocabulary: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors, its head apart from the embeddings.

    Args:
        hidden: width of the residual stream.
        inner: width of the mlp.
        layers: how many.
        heads: of attention, of keys and values, and the width of one.
        vocabulary: tokens.
    """
    queries, keys = heads[0] * heads[2], heads[1] * heads[2]
    found: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocabulary, hidden))]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found += [
            (f"{prefix}self_attn.{part}_proj.weight", (rows, hidden))
            for part, rows in (("q", queries), ("k", keys), ("v", keys))
        ]
        found += [
            (f"{prefix}self_attn.o_proj.weight", (hidden, queries)),
            (f"{prefix}mlp.gate_proj.weight", (inner, hidden)),
            (f"{prefix}mlp.up_proj.weight", (inner, hidden)),
            (f"{prefix}mlp.down_proj.weight", (hidden, inner)),
            (f"{prefix}input_layernorm.weight", (hidden,)),
            (f"{prefix}post_attention_layernorm.weight", (hidden,)),
        ]
    return [*found, ("model.norm.weight", (hidden,)), ("lm_head.weight", (vocabulary, hidden))]
