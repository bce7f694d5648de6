"""Which tensors share a coefficient."""

import re
from collections.abc import Callable, Collection, Sequence

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def group_of(granularity: str) -> Callable[[str], str]:
    """The rule that names a tensor's group.

    Args:
        granularity: `model` (one group), `layer` (each decoder layer; embeddings, final norm and head apart),
            `module` (attention, mlp and norm of each layer) or `tensor`.
    """
    return {"model": lambda _: "model", "layer": _layer, "module": _module, "tensor": lambda name: name}[granularity]


def groups(names: Sequence[str], granularity: str) -> dict[str, list[str]]:
    """Group -> its tensors, groups in depth order: embeddings, layers, final norm, head."""
    rule = group_of(granularity)
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=depth_order):
        found.setdefault(rule(name), []).append(name)
    return found


def block_names(tensor: str, blocks: int) -> list[str]:
    """The groups that a tensor is cut into: even blocks of its rows, or the tensor itself if there is one."""
    return [tensor] if blocks == 1 else [f"{tensor} {block}" for block in range(blocks)]


def blocks_named(tensor: str, given: Collection[str]) -> list[str]:
    """Those groups of a tensor's blocks that are among some names."""
    found: list[str] = []
    while (name := f"{tensor} {len(found)}") in given:
        found.append(name)
    return found or [tensor]


def depth_order(name: str) -> tuple[int, int, str]:
    """A sort key that puts tensors in the order in which a forward pass meets them."""
    if found := _LAYER.search(name):
        return 1, int(found.group(1)), name
    return {"embeddings": 0, "final norm": 2, "head": 3}[_outside(name)], 0, name


def depths(names: Sequence[str]) -> list[float]:
    """Where in its model each tensor stands: 0 in the first layer and before it, 1 in the last and after it."""
    layers = {name: int(found.group(1)) for name in names if (found := _LAYER.search(name))}
    first, last = min(layers.values(), default=0), max(layers.values(), default=0)
    return [
        (layers[name] - first) / max(last - first, 1) if name in layers else float(_outside(name) != "embeddings")
        for name in names
    ]


def _layer(name: str) -> str:
    if found := _LAYER.search(name):
        return f"layer {found.group(1)}"
    return _outside(name)


def _module(name: str) -> str:
    if not _LAYER.search(name):
        return _outside(name)
    part = (
        "norm" if "norm" in name or ".ln_" in name else "attention" if "attn" in name or "attention" in name else "mlp"
    )
    return f"{_layer(name)} {part}"


def _outside(name: str) -> str:
    if "head" in name or "embed_out" in name:  # GPT-NeoX calls its head so
        return "head"
    return "embeddings" if "embed" in name or "wte" in name else "final norm"
