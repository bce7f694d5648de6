"""Want of memory is told by the setting to change, from what vLLM 0.32 says on a GPU and on a CPU."""

import re

import pytest

from datagen.config import EngineConfig
from datagen.engines.memory import crowded, shortage

SETTINGS = EngineConfig(memory=0.6, max_model_len=4096)

KEYS = (
    "To serve at least one request with the model's max seq len (4096), (2.50 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (1.75 GiB). {fitting}Try increasing `gpu_memory_utilization` (which also "
    "controls CPU memory on the CPU backend) or decreasing `max_model_len` when initializing the engine."
)
FITTING = "Based on the available memory, the estimated maximum model length is 2867. "
FREE = (
    "Free memory on device cuda:0 (33.97/79.19 GiB) on startup is less than desired GPU memory utilization (0.6, 47.51 "
    "GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.10 GiB is "
    "free. Of the allocated memory 70 GiB is allocated by PyTorch."
)
CPU = "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."

CASES = {
    "keys": (
        KEYS.format(fitting=FITTING),
        "4096 tokens .* take 2.50 GiB of 1.75; set engine.max_model_len=2867, or raise",
    ),
    "keys that never fit": (KEYS.format(fitting=""), "; lower engine.max_model_len, or raise engine.memory from 0.6$"),
    "no room": ("No available memory for the cache blocks. Try increasing", "raise engine.memory from 0.6$"),
    "not free": (FREE, "only 33.97 are; set engine.memory=0.42, free the device, or set merge.residency=host$"),
    "sampling": (
        "CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering",
        "must have room to sample .*; lower engine.memory from 0.6$",
    ),
    "made shorter": (
        "User-specified max_model_len (4096) is greater than the derived max_model_len (max_position_embeddings=2048 "
        "or model_max_length=None in model's config.json).",
        "is 4096 of 2048; set engine.max_model_len=2048$",
    ),
    "weights": (CUDA, "Tried to allocate 2.00 GiB.*; lower engine.max_model_len from 4096, free the device, set merge"),
    "weights on a CPU": (CPU, "can't allocate memory"),
    "told by another process": (
        f"Engine core initialization failed. See root cause above.\nERROR 11-25 [core.py:1] Traceback\n"
        f"ValueError: {FREE}\nERROR",
        "set engine.memory=0.42",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_start_without_memory_names_what_to_change(case: str) -> None:
    said, told = CASES[case]
    assert_line(shortage(said, SETTINGS, on_gpu=True), told)


def test_on_a_cpu_the_space_for_keys_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    told = "set engine.max_model_len=2867, or raise VLLM_CPU_KVCACHE_SPACE from 3 GiB$"
    assert_line(shortage(KEYS.format(fitting=FITTING), SETTINGS, on_gpu=False), told)
    said = (
        "Available memory on node 0 (1.20/24.00 GiB) on kv cache allocation is less than requested memory for kv (3.0 "
        "GiB). Decrease --kv-cache-memory-bytes"
    )
    assert_line(shortage(said, SETTINGS, on_gpu=False), "takes 3.0 GiB of 1.20; lower VLLM_CPU_KVCACHE_SPACE from 3$")


def test_what_is_no_want_of_memory_is_left_alone() -> None:
    said = "ValueError: Model architectures ['Odd'] are not supported for now."
    assert shortage(said, SETTINGS, on_gpu=True) is None
    assert crowded(said, SETTINGS) is None


def test_a_merge_that_does_not_fit_beside_vllm_names_what_to_change() -> None:
    assert_line(crowded(CUDA, SETTINGS), "holds engine.memory=0.6 .* lower engine.memory, or set merge.residency=host$")


def assert_line(line: str | None, told: str) -> None:
    assert line is not None
    assert "\n" not in line
    assert re.search(told, line)
