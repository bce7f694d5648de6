"""Whole searches on tiny random models: every source knows its own answers by heart, so that there is much to lose."""

import string
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from datagen.chat import prompt_ids, user
from datagen.rows import Row, write_rows
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of, space_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.executors.inline import InlineExecutor
from optimizer.merging.methods import METHODS
from optimizer.objective.terms import Objective, load_objective
from optimizer.search.databases import open_storage
from optimizer.search.domain import numbers_of
from optimizer.search.evaluating import Evaluator, Speaker
from optimizer.search.problem import Problem
from optimizer.search.running import Task
from tests.optimizer.export.families import tokenizer
from tests.optimizer.objective.bunches import greedy

VOCABULARY = 48
EXPERTS = ("aligned", "math", "code")

#: Rows of each kind in a split.
ROWS = {"search": 12, "validation": 10, "test": 4}

_MODEL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # so that tokens differ in likelihood
    "tie_word_embeddings": False,
}

#: Changes with which vLLM runs them on a CPU.
FOR_VLLM = {"head_dim": 32}

_TEMPLATE = "{% for turn in messages %}{{ 'Q' + turn.content if turn.role == 'user' else turn.content }}{% endfor %}"

_ASKED = {"prompt": "p", "topics": ["t"], "ask": 1, "keep": 1}

#: Kind of rows -> who answers them.
KINDS = {"unsafe": "aligned", "math": "math", "code": "code"}

#: Terms of most searches.
OBJECTIVE: dict[str, Any] = {"safety": {"kind": "unsafe", "weight": 2}, "math": 1, "code": 1}


def engine_of(task: Task) -> ScoringEngine:
    """What a task's trials are merged in."""
    assert isinstance(task.executor, InlineExecutor)
    return next(iter(task.executor.evaluators.values())).engine  # type: ignore[no-any-return]


def speaking(task: Task, speaker: Speaker) -> Task:
    """A task whose merges speak."""
    evaluator = Evaluator(engine_of(task), task.problem, speaker)
    return replace(task, executor=InlineExecutor({task.study: evaluator}))


class TinyZoo:
    """A base and three experts with the answers that each gives.

    Args:
        folder: that gets models and data.
        changes: to the models' config.
    """

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        torch.manual_seed(0)
        shape = LlamaConfig(**_MODEL | changes)
        base = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()
        speaker = tokenizer(VOCABULARY, _TEMPLATE)
        for name in ("base", *EXPERTS):
            model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()
            model.load_state_dict(base.state_dict())
            if name != "base":
                for parameter in model.parameters():
                    parameter.data += 0.08 * torch.randn_like(parameter)
            model.save_pretrained(folder / name)
            speaker.save_pretrained(folder / name)
            for kind in (kind for kind, owner in KINDS.items() if owner == name):
                self._write_answers(kind, model)

    def _write_answers(self, kind: str, model: torch.nn.Module) -> None:
        speaker, rng = tokenizer(VOCABULARY, _TEMPLATE), np.random.default_rng(sum(map(ord, kind)))
        rows: dict[str, Row] = {}
        while len(rows) < sum(ROWS.values()):
            question = "".join(rng.choice(list(string.ascii_lowercase), 4))
            answer = speaker.decode(greedy(model, prompt_ids(speaker, user(question)), 3)[1])
            if answer.isalpha() and len(answer) == 3:
                rows[question] = Row.of(question, answer, kind=kind)
        kept = iter(rows.values())
        for split, count in ROWS.items():
            write_rows(self.folder / "data" / split / f"{kind}.jsonl", [next(kept) for _ in range(count)])

    def config(self, run: Path, search: dict[str, Any] | None = None, **changes: Any) -> Config:
        """A run on this bunch.

        Args:
            run: its folder.
            search: part of the config that says how.
            changes: other parts.
        """
        settings = {
            "run": str(run),
            "bunch": {
                "base": str(self.folder / "base"),
                "experts": {
                    name: {"model": str(self.folder / name), **({"role": "aligned"} if name == "aligned" else {})}
                    for name in EXPERTS
                },
            },
            "data": {
                "folder": str(self.folder / "data"),
                "generator": "g",
                "guard": {"model": "guard"},
                "unsafe": _ASKED,
                "domains": {"math": _ASKED, "code": _ASKED},
            },
            "objective": OBJECTIVE,
            "merge": {"groups": "layer"},
            "search": {"descent": {"trials": 3, "steps": 24}, "black_box": {"trials": 6}} | (search or {}),
        }
        return Config.model_validate(settings | changes)

    @cached_property
    def bunch(self) -> Bunch:
        return open_bunch(self.config(self.folder / "run").bunch)

    def engine(self, config: Config) -> ScoringEngine:
        return ScoringEngine(self.bunch, space_of(self.bunch, config.merge), bank_of(self.bunch, config.merge))

    def objective(self, config: Config, split: str, terms: Sequence[str] = ()) -> Objective:
        return load_objective(config, split, self.bunch.chat_source.tokenizer(), terms)

    def task(
        self,
        config: Config,
        storage: Path | None = None,
        terms: Sequence[str] = (),
        engine: ScoringEngine | None = None,
    ) -> Task:
        """What a study of a config is run with.

        Args:
            storage: a database; by default none.
            terms: that are searched on; all by default.
            engine: by default a new one.
        """
        problem = Problem(
            config.search,
            self.objective(config, "search", terms),
            self.objective(config, "validation", terms),
            config.constraints(),
        )
        engine = engine or self.engine(config)
        return Task(
            open_storage(storage),
            problem,
            engine.space,
            InlineExecutor({"": Evaluator(engine, problem)}),
            given=numbers_of(METHODS[config.merge.method], config.merge.parameters),
        )
