"""Inner products of the sources of a tensor, which is all that spherical methods need to know their weights."""

import torch

_STEP = 1 << 20


def gram(vectors: list[torch.Tensor], base: torch.Tensor | None = None) -> torch.Tensor:
    """Inner products over all elements, accumulated in float64.

    Args:
        vectors: of one shape.
        base: subtracted from each, in float32, if given.

    Returns:
        [vectors, vectors], float64, on the CPU.
    """
    flat = [vector.reshape(-1) for vector in vectors]
    origin = None if base is None else base.reshape(-1)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat[0].device)
    for begin in range(0, flat[0].numel(), _STEP):
        part = _doubles([vector[begin : begin + _STEP] for vector in flat], _sliced(origin, begin, begin + _STEP))
        total += part @ part.T
    return total.cpu()


def gram_by_row(vectors: list[torch.Tensor], base: torch.Tensor | None = None) -> torch.Tensor:
    """Inner products over the last dimension of matrices, in float64.

    Args:
        vectors: [rows, columns] each.
        base: [rows, columns], subtracted from each, in float32, if given.

    Returns:
        [rows, vectors, vectors].
    """
    step = max(1, _STEP // max(1, vectors[0].shape[1]))
    parts = []
    for begin in range(0, vectors[0].shape[0], step):
        part = _doubles([vector[begin : begin + step] for vector in vectors], _sliced(base, begin, begin + step))
        parts.append(torch.einsum("arc,brc->rab", part, part))
    return torch.cat(parts).cpu()


def _sliced(base: torch.Tensor | None, begin: int, end: int) -> torch.Tensor | None:
    return None if base is None else base[begin:end]


def _doubles(vectors: list[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
    each = [vector.float() for vector in vectors]
    return torch.stack([vector if base is None else vector - base.float() for vector in each]).double()
