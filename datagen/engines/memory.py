"""What vLLM says when memory is short, in one line that says which setting to change; read off vLLM 0.32's sources."""

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from datagen.config import EngineConfig

if TYPE_CHECKING:
    from re import Match

#: GiB for keys and values on a CPU, where `engine.memory` has no say while this is set.
CPU_SPACE = "VLLM_CPU_KVCACHE_SPACE"

_GIB = r"(-?[\d.]+)"

#: Matches out-of-memory errors of CUDA and of the CPU alike.
_NO_MEMORY = r"[^\n]*(?:out of memory|can't allocate memory)[^\n]*"


def shortage(said: str, settings: EngineConfig, on_gpu: bool) -> str | None:
    """What to change so that an engine starts; none if it is not for want of memory that it does not.

    Args:
        said: by vLLM when it failed.
        settings: it was to start with.
        on_gpu: rather than on a CPU.
    """
    for pattern, told in _SHORTAGES.items():
        if found := re.search(pattern, said):
            return told(found, settings, on_gpu)
    return None


def crowded(said: str, settings: EngineConfig) -> str | None:
    """What to change so that weights can be loaded; none if it is not for want of memory that they cannot."""
    if not (found := re.search(_NO_MEMORY, said)):
        return None
    return (
        f"what is loaded, and the sources of a merge, must fit beside vLLM, which holds "
        f"engine.memory={settings.memory} of the device, but {_short(found[0])}; lower engine.memory, or set "
        f"merge.residency=host"
    )


def _keys_too_long(found: "Match[str]", settings: EngineConfig, on_gpu: bool) -> str:
    wanted, needed, there, fitting = found.groups()
    fit = f"set engine.max_model_len={fitting}" if fitting else "lower engine.max_model_len"
    return (
        f"the keys and values of engine.max_model_len={wanted} tokens must fit vLLM's share of the memory, but take "
        f"{needed} GiB of {there}; {fit}, or raise {_share(settings, on_gpu)}"
    )


def _model_alone(_: "Match[str]", settings: EngineConfig, on_gpu: bool) -> str:
    return (
        f"the model must leave vLLM's share of the memory some room for keys and values, but leaves none; raise "
        f"{_share(settings, on_gpu)}"
    )


def _share_not_free(found: "Match[str]", settings: EngineConfig, _: bool) -> str:
    free, total = map(float, found.groups())
    return (
        f"engine.memory={settings.memory} of {total} GiB must be free when vLLM starts, but only {free} are; set "
        f"engine.memory={max(int(100 * free / total) / 100, 0.01)}, free the device, or set merge.residency=host"
    )


def _space_not_free(found: "Match[str]", *_: object) -> str:
    free, wanted = found.groups()
    return (
        f"the memory for keys and values must be free, but takes {wanted} GiB of {free}; lower {CPU_SPACE} from "
        f"{os.environ.get(CPU_SPACE)}"
    )


def _warming(_: "Match[str]", settings: EngineConfig, *__: object) -> str:
    return (
        f"vLLM must have room to sample beside its share of the memory, but has none; lower engine.memory from "
        f"{settings.memory}"
    )


def _longer_than_made(found: "Match[str]", *_: object) -> str:
    wanted, made = found.groups()
    return (
        f"engine.max_model_len must be at most what the model was made for, but is {wanted} of {made}; set "
        f"engine.max_model_len={made}"
    )


def _no_memory(found: "Match[str]", settings: EngineConfig, _: bool) -> str:
    return (
        f"the model must fit the device beside what else is there, but {_short(found[0])}; lower engine.max_model_len "
        f"from {settings.max_model_len}, free the device, set merge.residency=host, or raise engine.tensor_parallel"
    )


#: What vLLM says -> what is told. The first that matches counts.
_SHORTAGES: "dict[str, Callable[[Match[str], EngineConfig, bool], str]]" = {
    rf"max seq len \((\d+)\), \({_GIB} GiB KV cache is needed, .*?KV cache memory \({_GIB} GiB\)\."
    r"(?: Based on the available memory, the estimated maximum model length is (\d+))?": _keys_too_long,
    "No available memory for the cache blocks": _model_alone,
    rf"\({_GIB}/{_GIB} GiB\) on startup is less than desired": _share_not_free,
    rf"\({_GIB}/[\d.]+ GiB\) on kv cache allocation is less than requested memory for kv \({_GIB}": _space_not_free,
    "out of memory occurred when warming up": _warming,
    r"max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)": _longer_than_made,
    _NO_MEMORY: _no_memory,
}


def _share(settings: EngineConfig, on_gpu: bool) -> str:
    return f"engine.memory from {settings.memory}" if on_gpu else f"{CPU_SPACE} from {os.environ.get(CPU_SPACE)} GiB"


def _short(line: str, most: int = 160) -> str:
    """The part of a line that says it; what CUDA adds on its settings is left out."""
    return " ".join(line.split())[:most].strip(" .")
