"""The bank of a run and its space. A process opens one bank, which the torch engine and a vLLM in it share."""

import gc
from functools import lru_cache

import torch

from datagen.config import BunchConfig
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import MergeConfig
from optimizer.merging.bank import Bank
from optimizer.merging.methods import METHODS
from optimizer.merging.space import Space


def open_bank(bunch: BunchConfig, merge: MergeConfig) -> Bank:
    """The sources of a bunch, as they are merged."""
    return named_bank(bunch.model_dump_json(), merge.model_dump_json())


@lru_cache(maxsize=1)
def named_bank(bunch_config: str, merge_config: str) -> Bank:
    """A bank by what it is made of, as JSON, which is how a vLLM worker in another process hears of it."""
    merge = MergeConfig.model_validate_json(merge_config)
    return bank_of(open_bunch(BunchConfig.model_validate_json(bunch_config)), merge)


def forget_bank() -> None:
    """Gives back the memory of the process's bank, and of engines over it that nobody holds any more."""
    named_bank.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def space_of(bunch: Bunch, merge: MergeConfig) -> Space:
    """The coefficients of a bunch's merges."""
    return Space.of(bunch, merge.groups, merge.anchors, merge.blocks)


def bank_of(bunch: Bunch, merge: MergeConfig) -> Bank:
    """A new bank."""
    return Bank(
        METHODS[merge.method],
        bunch.base,
        bunch.experts,
        merge.parameters,
        dtype=getattr(torch, merge.dtype) if merge.dtype else None,
        residency=merge.residency,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        seed=merge.seed,
    )
