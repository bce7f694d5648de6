"""Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089): base + sum_i lambda_i (expert_i - base), per tensor."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from optimizer.bunch import Bunch


def merge_tensor(sources: Sequence[torch.Tensor], coefficients: Sequence[float], out: torch.Tensor) -> torch.Tensor:
    """Writes one merged tensor.

    Computed as the weighted sum (1 - sum lambda) base + sum lambda_i expert_i in float32, because then the end points
    are exact: all coefficients 0 give the base and a single 1 gives that expert, bit for bit, signed zeros included,
    which base + (expert - base) would not.

    Args:
        sources: base and experts, [1 + experts] tensors of one shape.
        coefficients: lambda, [experts].
        out: of the same shape; what it held is overwritten.

    Returns:
        `out`.
    """
    weights = [1.0 - sum(coefficients), *coefficients]
    used = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight != 0.0]
    if not used:
        return out.zero_()
    direct = out.dtype == torch.float32
    first, weight = used[0]
    total = torch.mul(first.float(), weight, out=out) if direct else first.float() * weight
    for source, weight in used[1:]:
        total.add_(source.float(), alpha=weight)
    return out if direct else out.copy_(total)


def coefficient_gradient(sources: Sequence[torch.Tensor], gradient: torch.Tensor, total: torch.Tensor) -> None:
    """Adds one tensor's part of d loss / d lambda, which is <gradient of the weight, expert_i - base>.

    Args:
        sources: base and experts, [1 + experts] tensors of one shape.
        gradient: of the loss with respect to the merged tensor, same shape.
        total: [experts], float64; added to.
    """
    base = sources[0].float()
    flat = gradient.float().flatten()
    for i, source in enumerate(sources[1:]):
        total[i] += torch.dot(flat, (source.float() - base).flatten()).double()


def merged_tensors(bunch: Bunch, coefficients: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, torch.Tensor]]:
    """All merged tensors, one at a time, read from disk and never held together.

    Args:
        coefficients: tensor name -> lambda, [experts].
    """
    for name in bunch.names:
        sources = [source.tensor(name) for source in bunch.sources]
        yield name, merge_tensor(sources, coefficients[name], torch.empty_like(sources[0]))
