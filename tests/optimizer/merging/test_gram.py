"""Inner products against numpy in float64."""

import numpy as np
import pytest
import torch

from optimizer.merging import gram as module
from optimizer.merging.gram import gram, gram_by_row

CPU = torch.device("cpu")


def vectors(shape: tuple[int, ...], count: int = 3, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def test_products_by_hand() -> None:
    one, two = torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 2.0], [1.0, 0.0]])
    assert gram([one, two]).tolist() == [[25.0, 7.0], [7.0, 6.0]]
    assert gram([one, two], base=torch.ones(2, 2)).tolist() == [[15.0, 0.0], [0.0, 2.0]]
    assert gram_by_row([one, two]).tolist() == [[[9.0, 3.0], [3.0, 5.0]], [[16.0, 4.0], [4.0, 1.0]]]


@pytest.mark.parametrize("based", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("step", [64, 1 << 20])
def test_products_are_those_of_numpy(
    based: bool, dtype: torch.dtype, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", step)
    *sources, base = vectors((37, 53), 4, dtype)
    flat = np.stack([((source.float() - base.float()) if based else source.float()).numpy() for source in sources])
    whole = flat.reshape(3, -1).astype(np.float64)
    found = gram(sources, base if based else None)
    assert found.dtype == torch.float64 and found.device == CPU
    np.testing.assert_allclose(found.numpy(), whole @ whole.T, rtol=1e-13)
    rows = flat.astype(np.float64).transpose(1, 0, 2)
    np.testing.assert_allclose(
        gram_by_row(sources, base if based else None), rows @ rows.transpose(0, 2, 1), rtol=1e-12
    )


def test_small_terms_are_not_lost() -> None:
    # In float32 no further 1 could be added to 2**26.
    vector = torch.ones(5000)
    vector[0] = 2.0**13
    assert gram([vector]).item() == 2.0**26 + 4999


def test_sources_of_several_types_and_layouts() -> None:
    one, two = vectors((5, 7), 2)
    mixed = [one.to(torch.bfloat16), two.T.contiguous().T]
    assert torch.equal(gram(mixed), gram([one.to(torch.bfloat16).float(), two]))
