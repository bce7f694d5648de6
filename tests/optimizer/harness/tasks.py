"""lm-eval tasks as local YAML over JSON, on what a tiny model answers: right on every other doc."""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.optimizer.objective.bunches import greedy

#: Docs of each split.
DOCS = {"train": 24, "test": 10}

_SHARED: dict[str, Any] = {
    "dataset_path": "json",
    "training_split": "train",
    "test_split": "test",
    "fewshot_split": "train",
    "doc_to_text": "{{q}}",
    "target_delimiter": "",
    "fewshot_delimiter": "Z",
}

_SHARE = {"aggregation": "mean", "higher_is_better": True}

TASKS: dict[str, dict[str, Any]] = {
    "says": {
        "output_type": "generate_until",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["Z", "S"], "max_gen_toks": 3, "do_sample": False},
        "metric_list": [{"metric": "exact_match", **_SHARE}],
        "filter_list": [
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {
                "name": "start",
                "filter": [{"function": "regex", "regex_pattern": "^(...?)"}, {"function": "take_first"}],
            },
        ],
    },
    "chooses": {
        "output_type": "multiple_choice",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc", **_SHARE}, {"metric": "acc_norm", **_SHARE}, {"metric": "mcc"}],
    },
    "likes": {
        "output_type": "loglikelihood",
        "doc_to_target": "{{a}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **_SHARE},
        ],
    },
    "reads": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}{{a}}{{q}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


def write_tasks(folder: Path, model: Path, more: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Writes YAML files and data.

    Args:
        folder: that gets them.
        model: that is right on every other doc.
        more: task -> what it has beside, or in place of, what `says` has.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    docs = _docs(model)
    start = 0
    files = {}
    for split, count in DOCS.items():
        files[split] = str(folder / f"{split}.json")
        (folder / f"{split}.json").write_text("\n".join(map(json.dumps, docs[start : start + count])))
        start += count
    kwargs = {"data_files": files, "cache_dir": str(folder / "cache")}
    every = TASKS | {name: {**TASKS["says"], **own} for name, own in (more or {}).items()}
    for name, own in every.items():
        task = {**_SHARED, "task": name, "dataset_kwargs": kwargs, "metadata": {"version": 1}, **own}
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump({key: value for key, value in task.items() if value is not None})
        )
    return folder


def write_group(folder: Path, name: str, tasks: Sequence[str], metric: str) -> None:
    """Adds a group to a folder of tasks."""
    group = {"group": name, "task": list(tasks), "aggregate_metric_list": [{"metric": metric, "weight_by_size": True}]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))


def _docs(folder: Path) -> list[dict[str, Any]]:
    model, speaker = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    docs: list[dict[str, Any]] = []
    while len(docs) < sum(DOCS.values()):
        question, other, third = ("".join(rng.choice(list(string.ascii_lowercase), n)) for n in (4, 3, 2))
        said = speaker.decode(greedy(model, speaker.encode(question), 3)[1])
        if said.isalpha() and len(said) == 3 and not {"Z", "S"} & set(said):
            answer = said if len(docs) % 2 else other
            docs.append({"q": question, "a": answer, "choices": [answer, other[::-1], third], "gold": len(docs) % 3})
    return docs
