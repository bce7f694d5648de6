"""A tiny bunch of random models, and the same computed by plain transformers in float64, one sequence at a time."""

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from datagen.batches import Encoded
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from tests.optimizer.export.families import tokenizer

VOCABULARY = 48
EXPERTS = ("aligned", "skill")

_MODEL = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,  # so that tokens differ in likelihood
    tie_word_embeddings=False,
)

#: A question is its letters after a `Q`, an answer ends with the end of a sequence.
_TEMPLATE = (
    "{% for turn in messages %}{{ 'Q' + turn.content if turn.role == 'user' else turn.content + '</s>' }}{% endfor %}"
)

_ASKED = {"prompt": "p", "topics": ["t"], "ask": 1, "keep": 1}


class TinyBunch:
    """A base and two experts.

    Args:
        folder: that gets a folder of each.
        model: its architecture.
        dtype: of the weights.
    """

    def __init__(self, folder: Path, model: PretrainedConfig = _MODEL, dtype: torch.dtype = torch.float32) -> None:
        self.folder = folder
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(model, dtype=torch.float32)
        for name in ("base", *EXPERTS):
            made = copy.deepcopy(base)
            if name != "base":
                for parameter in made.parameters():
                    parameter.data += 0.1 * torch.randn_like(parameter)
            made.to(dtype).save_pretrained(folder / name)
            tokenizer(VOCABULARY, _TEMPLATE).save_pretrained(folder / name)

    def config(self, objective: dict[str, Any], **changes: Any) -> Config:
        """A run on this bunch, with its data in `data`."""
        return Config.model_validate(
            {
                "run": str(self.folder),
                "bunch": {
                    "base": str(self.folder / "base"),
                    "experts": {
                        "aligned": {"model": str(self.folder / "aligned"), "role": "aligned"},
                        "skill": str(self.folder / "skill"),
                    },
                },
                "data": {
                    "generator": "g",
                    "guard": {"model": "guard"},
                    "unsafe": _ASKED,
                    "borderline": _ASKED,
                    "domains": {"skill": _ASKED},
                },
                "objective": objective,
            }
            | changes
        )

    @cached_property
    def bunch(self) -> Bunch:
        return open_bunch(self.config({"unsafe": 1}).bunch)

    def engine(self, groups: str = "module", **merge: Any) -> ScoringEngine:
        config = self.config({"unsafe": 1}, merge={"groups": groups, **merge})
        return ScoringEngine(self.bunch, Space.of(self.bunch, groups), bank_of(self.bunch, config.merge))

    def plain(self, name: str) -> torch.nn.Module:
        """A source as transformers loads it, in float64."""
        return AutoModelForCausalLM.from_pretrained(self.folder / name, dtype=torch.float64).eval()

    @cached_property
    def sources(self) -> dict[str, dict[str, torch.Tensor]]:
        return {name: self.plain(name).state_dict() for name in ("base", *EXPERTS)}

    def merged(self, space: Space, point: np.ndarray) -> torch.nn.Module:
        """A sum of task vectors by the definition, in float64."""
        model = self.plain("base")
        base, *experts = self.sources.values()
        model.load_state_dict(
            {
                name: base[name] + sum(c * (e[name] - base[name]) for c, e in zip(factors, experts, strict=True))
                for name, factors in space.by_tensor(point).items()
            }
        )
        return model


def answer_logs(model: torch.nn.Module, sequence: Encoded) -> torch.Tensor:
    """Log-probabilities of the next token wherever an answer token is told, [answer tokens, vocabulary]."""
    prompt, answer = sequence
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double()
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def log_likelihoods(model: torch.nn.Module, sequence: Encoded) -> torch.Tensor:
    """Of every token of an answer."""
    return answer_logs(model, sequence).gather(1, torch.tensor(sequence[1])[:, None])[:, 0]


def is_greedy(model: torch.nn.Module, sequence: Encoded) -> bool:
    """Whether an answer is what greedy decoding gives, token by token."""
    prompt, answer = sequence
    said: list[int] = []
    for _ in answer:
        with torch.no_grad():
            said.append(int(model(input_ids=torch.tensor([prompt + said])).logits[0, -1].argmax()))
    return said == answer


def greedy(model: torch.nn.Module, prompt: list[int], tokens: int) -> Encoded:
    """A prompt with what a model answers."""
    said: list[int] = []
    for _ in range(tokens):
        with torch.no_grad():
            said.append(int(model(input_ids=torch.tensor([prompt + said])).logits[0, -1].argmax()))
    return prompt, said
