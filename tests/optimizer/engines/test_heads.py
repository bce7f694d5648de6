"""The live model says at an answer what transformers' own says, whatever comes after its head."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
)

from datagen.batches import pack
from optimizer.bunch import Bunch
from optimizer.bunch.source import Source
from optimizer.config import MergeConfig
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from tests.optimizer.objective.bunches import is_greedy, log_likelihoods

_SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}

#: What is done to logits after the head: nothing, a cap, and two kinds of scaling; and heads that a checkpoint calls by
#: another name than the live model, and layers whose matrices are fused.
CONFIGS: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config(**_SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**_SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5),
    "granite": GraniteConfig(**_SMALL, num_key_value_heads=2, logits_scaling=4.0),
    "cohere": CohereConfig(**_SMALL, num_key_value_heads=2, logit_scale=0.25),
    "gpt_neox": GPTNeoXConfig(**_SMALL, tie_word_embeddings=False),
    "phi3": Phi3Config(**_SMALL, num_key_value_heads=2, tie_word_embeddings=False),
}

SEQUENCES = [([5, 6, 7], [8, 9]), ([3], [4, 4, 4]), ([11, 12, 13, 14, 15], [16]), ([7, 7], [21, 22, 23, 24])]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_loaded_source_scores_as_transformers_has_it(family: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "a")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32).save_pretrained(tmp_path / name)
    bunch = Bunch(Source("base", str(tmp_path / "base")), (Source("a", str(tmp_path / "a")),), "a", "a")
    engine = ScoringEngine(bunch, Space.of(bunch, "layer"), bank_of(bunch, MergeConfig()))
    engine.load("a")
    found = engine.score(pack(SEQUENCES))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a").eval()
    by_hand = [-log_likelihoods(model, sequence).sum().item() for sequence in SEQUENCES]
    assert found.losses.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert found.tokens.tolist() == [2, 3, 1, 4]
    assert found.exact.tolist() == [is_greedy(model, sequence) for sequence in SEQUENCES]
