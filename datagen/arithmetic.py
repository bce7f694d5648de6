"""Float32 on a CPU, by whichever library is quick on it.

torch multiplies matrices by MKL, which has AVX-512 for Intel's CPUs alone. oneDNN, which is built into torch, has it
for AMD's, too, and is 2.2 times as quick there. torch asks it for float32 only where rounding to bfloat16 is allowed,
which oneDNN takes up with AMX instructions alone: a CPU that has them is left as it is.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

#: Tokens up to which attention is quicker in a few products over all heads than in many of a block each.
_WHOLE = 256


@contextmanager
def quick_products(model: PreTrainedModel, width: int) -> Iterator[None]:
    """A model's float32 products within are made by oneDNN, where that is quicker and as exact.

    Short sequences then attend in whole products: torch's own attention multiplies blocks of a few dozen rows, and to
    ask oneDNN takes longer than such a product.

    Args:
        model: whose passes are made within.
        width: tokens of the longest sequence.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32 or not _are_quick():
        yield
        return
    backend: Any = torch.backends.mkldnn
    products = backend.matmul
    before = products.fp32_precision
    with ExitStack() as stack:
        if width <= _WHOLE:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        products.fp32_precision = "bf16"
        try:
            yield
        finally:
            products.fp32_precision = before


@cache
def _are_quick() -> bool:
    """Whether this CPU is one for which MKL has too little and oneDNN does not round."""
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fitting = can.get("avx512_f") and not can.get("amx_tile") and "AMD" in can.get("cpu_name", "")
    return bool(fitting and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
