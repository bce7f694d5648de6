"""Tensors are found in the live model whatever it calls them, and those that a model ignores do no harm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from datagen.batches import pad
from datagen.errors import BunchError
from optimizer.bunch import Bunch, Source
from optimizer.config import MergeConfig
from optimizer.engines.banks import bank_of
from optimizer.engines.outputs import Outputs
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from tests.optimizer.export.families import Family, write_family


@pytest.fixture
def old(tmp_path: Path) -> Family:
    """GPT-NeoX as older versions of transformers saved it: another name for its head, and tables beside the weights."""
    return write_family("gpt_neox", tmp_path)


def engine_of(family: Family) -> ScoringEngine:
    base, *experts = (Source(name, family[name]) for name in ("base", "a", "b"))
    bunch = Bunch(base, tuple(experts), "a", "a")
    return ScoringEngine(bunch, Space.of(bunch, "tensor"), bank_of(bunch, MergeConfig()))


def test_all_that_transformers_reads_is_read(old: Family) -> None:
    assert {"embed_out.weight", "gpt_neox.layers.0.attention.masked_bias"} <= old.sources[1].keys()
    engine = engine_of(old)
    engine.load("a")
    wanted = AutoModelForCausalLM.from_pretrained(old["a"]).state_dict()
    live = engine.model.state_dict()
    assert live.keys() == wanted.keys()
    assert all(torch.equal(live[name], wanted[name]) for name in wanted)


def test_what_is_ignored_has_no_slope_and_the_renamed_head_has(old: Family) -> None:
    def loss(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs.losses.sum(), outputs.exact

    engine = engine_of(old)
    slopes, _ = engine.gradient(np.full(engine.space.shape, 0.3), pad([([5, 6], [7, 8])], [0]), loss)
    by_tensor = dict(zip(engine.space.tensors, slopes.T.tolist(), strict=True))
    assert by_tensor["gpt_neox.layers.1.attention.masked_bias"] == [0, 0]
    assert 0 not in by_tensor["embed_out.weight"]


def test_a_tensor_that_is_nowhere_is_refused(old: Family) -> None:
    for name in ("base", "a", "b"):
        path = Path(old[name]) / "model.safetensors"
        save_file(load_file(path) | {"adapter.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(BunchError, match=r"but adapter\.weight and 0 more are not in GPTNeoXForCausalLM; save the"):
        engine_of(old)
