"""A model on the devices that an engine gives it: whether it fits, what would make it fit, how long it takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from datagen.config import EngineConfig
from datagen.planning.hardware import Machine
from datagen.planning.roofline import Running, batch_size
from datagen.planning.sizes import Size

#: Bytes of a GPU that an engine needs besides weights and cache, and of a CPU's memory that vLLM takes for the cache.
WORKSPACE, CPU_CACHE = 2e9, 2.0**30

#: Bytes per second that weights are read from a disk at.
DISK = 1e9

#: Share of the devices' memory that remedies propose.
_SHARE = 0.9


@dataclass(frozen=True)
class Placement:
    """A model on the devices that an engine gives it.

    Attributes:
        parameters: how many the model has.
        stored: bytes of its files.
        weights: bytes in memory.
        cache: bytes per token of context.
    """

    engine: EngineConfig
    machine: Machine
    parameters: float
    stored: float
    weights: float
    cache: float

    @property
    def devices(self) -> int:
        """How many devices share the model."""
        return self.engine.tensor_parallel if self._on_gpus_of_vllm else 1

    @property
    def taken(self) -> float:
        """Bytes that the engine takes of every device."""
        return self.machine.device.memory * (self.engine.memory if self._on_gpus_of_vllm else 1)

    @property
    def room(self) -> float:
        """Bytes that are left for the cache, on all devices together; negative if the weights alone are too large."""
        if self.machine.device.cpu:
            left = self.taken - self.weights
            return min(left, CPU_CACHE) if self.engine.kind == "vllm" else left
        return self.devices * (self.taken - WORKSPACE) - self.weights

    @property
    def fits(self) -> bool:
        """Whether there are so many devices, with room for one conversation of full length."""
        return self.devices <= self.machine.count and self.room >= self.cache * self.engine.max_model_len

    def remedy(self) -> str:
        """The least change of the config by which the model fits; empty if it does already."""
        if self.fits:
            return ""
        for change in self._changes():
            better = self._with(change)
            if better.fits:
                more = better.machine.count > self.machine.count
                on = f", on {better.machine.count} of these devices" if more else ""
                return "set " + " ".join(f"engine.{key}={value}" for key, value in change.items()) + on
        return "take larger devices (--gpu NAME plans for others), or a server (engine.kind=server)"

    def batch(self, prompt: float, new: float) -> int:
        """Conversations at a time.

        Args:
            prompt: tokens of each.
            new: tokens of each answer.
        """
        engine, device = self.engine, self.machine.device
        if engine.kind == "transformers":
            return batch_size(self.room, self.cache * (prompt + new), engine.parallel)
        # What vLLM takes at a time unless it is told otherwise.
        large = device.memory >= 70 * 2**30 and not device.cpu and "A100" not in device.name
        return batch_size(self.room, self.cache * (prompt + new), min(engine.chunk, 1024 if large else 256))

    def seconds(self, conversations: int, prompt: float, new: float) -> float | None:
        """How long a stage takes, reading the weights included; none where the device's speed is not known.

        Args:
            conversations: how many.
            prompt: tokens of each.
            new: tokens of each answer.
        """
        running = Running(self.machine.device, self.devices, self.weights, self.parameters, self.cache)
        read = running.prefill(conversations * prompt)
        written = running.decode(conversations, self.batch(prompt, new), prompt, new)
        return None if read is None or written is None else self.stored / DISK + read + written

    @property
    def _on_gpus_of_vllm(self) -> bool:
        return self.engine.kind == "vllm" and not self.machine.device.cpu

    def _changes(self) -> Iterator[dict[str, Any]]:
        engine = self.engine
        if self.devices > self.machine.count:
            yield {"tensor_parallel": self.machine.count}
        share = {"memory": _SHARE} if self._on_gpus_of_vllm and engine.memory < _SHARE else {}
        narrow = {"dtype": "bfloat16"} if self.weights > 2 * self.parameters else {}
        yield from (change for change in (share, narrow, narrow | share) if change)
        if self._on_gpus_of_vllm:
            # Heads are shared out evenly, so that the numbers of devices are powers of 2.
            yield from ({"tensor_parallel": count} | share | narrow for count in (2, 4, 8) if count > self.devices)

    def _with(self, change: dict[str, Any]) -> "Placement":
        engine = self.engine.model_copy(update=change)
        narrower = 2 * self.parameters / self.weights if "dtype" in change else 1
        machine = replace(self.machine, count=max(self.machine.count, change.get("tensor_parallel", 1)))
        return replace(
            self, engine=engine, machine=machine, weights=self.weights * narrower, cache=self.cache * narrower
        )


def place(size: Size, engine: EngineConfig, machine: Machine) -> Placement | None:
    """A model on the devices that an engine gives it; none where its size is not known."""
    if size.parameters is None or size.stored is None or size.cache is None:
        return None
    width = size.width(engine.dtype)
    return Placement(engine, machine, size.parameters, size.stored, size.parameters * width, size.cache * width)
