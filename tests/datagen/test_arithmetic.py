"""Products that another library makes are as exact, and nothing else is changed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from datagen import arithmetic
from datagen.arithmetic import quick_products

BACKEND: Any = torch.backends.mkldnn

#: What AVX-512 is known by, and what rounds.
ZEN = {"avx512_f": True, "amx_tile": False, "cpu_name": "AMD EPYC"}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def asked_anew() -> Iterator[None]:
    arithmetic._are_quick.cache_clear()
    yield
    arithmetic._are_quick.cache_clear()


@pytest.mark.parametrize("rows", [1, 5, 17, 64, 300])
@pytest.mark.parametrize("inner", [17, 64, 352, 1000])
@pytest.mark.parametrize("columns", [3, 17, 128, 1024])
def test_products_are_not_rounded_to_bfloat16(rows: int, inner: int, columns: int, model: PreTrainedModel) -> None:
    kept_by_float32 = 1 + 2.0**-12
    left, right = torch.full((rows, inner), kept_by_float32), torch.full((columns, inner), kept_by_float32)
    with quick_products(model, 8):
        found = [left @ right.T, torch.nn.functional.linear(left, right), torch.bmm(left[None], right.T[None])[0]]
    for product in found:
        torch.testing.assert_close(
            product.double(),
            torch.full_like(product, inner, dtype=torch.float64) * kept_by_float32**2,
            rtol=2e-6,
            atol=0,
        )


@pytest.mark.parametrize("width", [3, 40, 300])
def test_passes_are_the_same_but_for_float32s_own_rounding(width: int, model: PreTrainedModel) -> None:
    ids = torch.randint(96, (7, width), generator=torch.Generator().manual_seed(0))

    def passed() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits
        logits.logsumexp(-1).mean().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    expected = passed()
    with quick_products(model, width):
        found = passed()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_they_end_where_the_block_ends(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN)
    before = BACKEND.matmul.fp32_precision
    with quick_products(model, 8):
        within = BACKEND.matmul.fp32_precision, torch.backends.cuda.flash_sdp_enabled()
    assert within == ("bf16", False)
    with pytest.raises(KeyError), quick_products(model, 8):
        raise KeyError
    assert (BACKEND.matmul.fp32_precision, torch.backends.cuda.flash_sdp_enabled()) == (before, True)


def test_long_sequences_keep_attention_that_needs_little_memory(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN)
    with quick_products(model, 257):
        assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize(
    "can",
    [
        ZEN | {"amx_tile": True},  # rounds
        ZEN | {"cpu_name": "Intel(R) Xeon(R) Platinum 8480+"},  # MKL's own
        ZEN | {"avx512_f": False},
        {},
    ],
)
def test_other_cpus_are_left_as_they_are(
    can: dict[str, Any], model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    before = BACKEND.matmul.fp32_precision
    with quick_products(model, 8):
        assert before == BACKEND.matmul.fp32_precision
        assert torch.backends.cuda.flash_sdp_enabled()


def test_other_types_are_left_as_they_are(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN)
    halved = LlamaForCausalLM(model.config).to(torch.bfloat16)
    before = BACKEND.matmul.fp32_precision
    with quick_products(halved, 8):
        assert before == BACKEND.matmul.fp32_precision
