"""Whether the tensors of two sources, and what config.json says of them, can be merged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from datagen.models.adapters import Adapted
from datagen.models.checkpoints import Checkpoint
from datagen.models.weights import Weights, is_tied
from optimizer.bunch.source import Source

#: Keys of config.json that decide what a tensor means; two sources must agree on them.
ARCHITECTURE_KEYS = (
    "model_type",
    "architectures",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)

#: Keys that decide how tensors are used; the merged model takes the base's, so sources that say otherwise are refused.
USAGE_KEYS = ("hidden_act", "rms_norm_eps", "rope_theta")

MERGEABLE = (torch.float32, torch.bfloat16, torch.float16)


def own_problems(source: Source) -> list[str]:
    """Why a source cannot be merged with anything."""
    problems = []
    if quantised := source.config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        problems.append(
            f"sources must not be quantised, but {source.name} has quantization_config {method!r}; use the checkpoint "
            f"it was made from"
        )
    odd = {name: dtype for name, dtype in source.dtypes.items() if not _is_known(dtype)}
    if odd:
        name, dtype = next(iter(odd.items()))
        problems.append(
            f"tensors must be float32, bfloat16 or float16, but {len(odd)} of {source.name} are not, such as {name}, "
            f"{_plain(dtype)}; use an unquantised checkpoint"
        )
    plain = _plain_checkpoint(source.weights)
    if isinstance(plain, Checkpoint) and not plain.head_is_embeddings():
        problems.append(
            f"a head that is tied to the embeddings must equal them, but {plain.head_copy} of {source.name} differs; "
            f"set tie_word_embeddings to false in all sources, or remove the tensor"
        )
    return problems


def config_differences(base: Source, other: Source, accept: Sequence[str] = ()) -> list[str]:
    """What the config.json of two sources say differently.

    Args:
        accept: keys in which they may, of those that only decide how tensors are used.
    """
    theirs, ours = _resolved(base.config), _resolved(other.config)
    problems = [
        f"all sources must have the base's architecture, but {other.name} has {key} {ours.get(key)!r} and {base.name} "
        f"{theirs.get(key)!r}; merge models fine-tuned from one base"
        for key in ARCHITECTURE_KEYS
        if ours.get(key) != theirs.get(key)
    ]
    # What only one of them says may be the default of the other.
    problems += [
        f"all sources must use their tensors alike, but {other.name} has {key} {ours[key]!r} and {base.name} "
        f"{theirs[key]!r}; merge models that kept the base's config.json, or add {key} to bunch.accept"
        for key in USAGE_KEYS
        if key not in accept and key in ours and key in theirs and ours[key] != theirs[key]
    ]
    return problems


def tensor_differences(base: Source, other: Source) -> list[str]:
    """Why the tensors of two sources do not fit."""
    problems = []
    theirs, ours = base.weights.headers, other.weights.headers
    if missing := sorted(theirs.keys() ^ ours.keys()):
        problems.append(
            f"all sources must have the same tensors, but {other.name} and {base.name} differ in {len(missing)}, such "
            f"as {missing[0]}; merge full checkpoints of one architecture"
        )
    shared = [name for name in theirs if name in ours]
    if odd := [name for name in shared if theirs[name].shape != ours[name].shape]:
        problems.append(
            f"all sources must have the same shapes, but {len(odd)} tensors of {other.name} differ from {base.name}'s, "
            f"such as {odd[0]}, {list(ours[odd[0]].shape)} for {list(theirs[odd[0]].shape)}; merge models of one size "
            f"and vocabulary"
        )
    fixed = [
        name for name in shared if not theirs[name].dtype.is_floating_point or not ours[name].dtype.is_floating_point
    ]
    if unlike := [name for name in fixed if name not in odd and not _equal(base, other, name)]:
        problems.append(
            f"tensors of whole numbers must be equal in all sources, but {len(unlike)} of {other.name} differ from "
            f"{base.name}'s, such as {unlike[0]}, {_plain(ours[unlike[0]].dtype)}; merge models tuned from one base"
        )
    return problems


def _resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the defaults that some versions of transformers write and others leave out."""
    resolved = dict(config)
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if heads and not config.get("num_key_value_heads"):
        resolved["num_key_value_heads"] = heads
    if heads and width and not config.get("head_dim"):
        resolved["head_dim"] = width // heads
    resolved["tie_word_embeddings"] = is_tied(config)
    if (rope := config.get("rope_parameters")) and "rope_theta" in rope:
        resolved["rope_theta"] = rope["rope_theta"]
    return resolved


def _plain_checkpoint(weights: Weights) -> Weights:
    return weights.base if isinstance(weights, Adapted) else weights


def _is_known(dtype: torch.dtype) -> bool:
    return dtype in MERGEABLE or not (dtype.is_floating_point or dtype.is_complex)


def _equal(base: Source, other: Source, name: str) -> bool:
    return base.dtypes[name] == other.dtypes[name] and torch.equal(base.tensor(name), other.tensor(name))


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
