"""How long a model takes where nothing but memory and arithmetic slows it (arXiv 2402.16363).

No engine is as fast: these are floors for the tokens that are given.
"""

from dataclasses import dataclass

from datagen.planning.hardware import Device


@dataclass(frozen=True)
class Running:
    """A model on devices that share its work evenly.

    Attributes:
        devices: how many.
        weights: in bytes, all of them.
        parameters: how many; each takes a multiplication and an addition per token.
        cache: bytes per token of context.
    """

    device: Device
    devices: int
    weights: float
    parameters: float
    cache: float

    def prefill(self, tokens: float) -> float | None:
        """Seconds to read prompts, bound by arithmetic; none where that of the device is not known."""
        if self.device.flops is None:
            return None
        return 2 * self.parameters * tokens / (self.device.flops * self.devices)

    def step(self, batch: float, context: float) -> float | None:
        """Seconds for one more token of every conversation; none where the device is not known.

        The longer of reading weights and cache, and of calculating:
        max((weights + batch * context * cache) / bandwidth, batch * 2 * parameters / flops).

        Args:
            batch: conversations at a time.
            context: tokens of each so far.
        """
        if self.device.flops is None or self.device.bandwidth is None:
            return None
        read = (self.weights + batch * context * self.cache) / (self.device.bandwidth * self.devices)
        return max(read, batch * 2 * self.parameters / (self.device.flops * self.devices))

    def decode(self, conversations: int, batch: int, prompt: float, new: float) -> float | None:
        """Seconds to write answers; a conversation that ends makes room for the next.

        Args:
            batch: conversations at a time.
            prompt: tokens of each.
            new: tokens of each answer.
        """
        batch = min(batch, conversations)
        step = self.step(batch, prompt + new / 2)
        return None if step is None else conversations * new / batch * step


def batch_size(room: float, per_conversation: float, most: int) -> int:
    """Conversations whose cache there is room for at a time; at least one, which waits for none.

    Args:
        room: in bytes.
        per_conversation: bytes of the cache of one of full length.
        most: that an engine takes at a time.
    """
    return max(1, min(int(room // per_conversation), most))
