"""A winner as an ordinary Hugging Face folder, with the recipe that made it."""

import json
import shutil
from pathlib import Path

import safetensors.torch
import torch
import yaml

from datagen.checkpoints import INDEX, tensor_files
from optimizer.bunch import Bunch
from optimizer.merging.space import Coefficients, Space
from optimizer.merging.task_arithmetic import merged_tensors

#: Files of the aligned model that say how to talk to it.
_CHAT_FILES = ("generation_config.json",)


def export(bunch: Bunch, space: Space, coefficients: Coefficients, out: Path) -> Path:
    """Writes the merged model, shard by shard as the base is sharded.

    It is written beside and renamed when whole, so `out` is never half a model.

    Args:
        coefficients: [experts, groups].
        out: folder; an earlier export in it is replaced.

    Returns:
        `out`.
    """
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    left = {name: path.name for name, path in bunch.base.files.items()}
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in merged_tensors(bunch, space.by_tensor(coefficients)):
        shard[name] = tensor
        file = left.pop(name)
        if file not in left.values():
            safetensors.torch.save_file(shard, beside / file, metadata={"format": "pt"})
            shard = {}
    if (index := bunch.base.folder / INDEX).is_file():
        shutil.copy(index, beside / INDEX)
    shutil.copy(bunch.base.folder / "config.json", beside / "config.json")
    bunch.chat_source.tokenizer().save_pretrained(beside)
    for name in _CHAT_FILES:
        if (source := bunch.chat_source.folder / name).is_file():
            shutil.copy(source, beside / name)
    (beside / "recipe.yaml").write_text(yaml.safe_dump(recipe(bunch, space, coefficients), sort_keys=False))
    (beside / "README.md").write_text(_card(bunch))
    tensor_files(beside)  # raises if what was written cannot be read
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)
    return out


def recipe(bunch: Bunch, space: Space, coefficients: Coefficients) -> dict[str, object]:
    """What is needed to make the merge again."""
    rows = dict(zip(space.experts, coefficients.tolist(), strict=True))
    return {
        "method": "task_arithmetic",
        "base": str(bunch.base.folder),
        "experts": {expert.name: str(expert.folder) for expert in bunch.experts},
        "tokenizer": bunch.aligned,
        "coefficients": {name: dict(zip(space.groups, row, strict=True)) for name, row in rows.items()},
    }


def _card(bunch: Bunch) -> str:
    front = {
        "library_name": "transformers",
        "base_model": [str(source.folder) for source in bunch.sources],
        "tags": ["mergekit", "merge", "goodbunch"],
    }
    sources = "\n".join(f"- {source.name}: `{source.folder}`" for source in bunch.sources)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# A Goodbunch merge\n\nTask arithmetic over\n\n{sources}"
        f"\n\nwith the coefficients in `recipe.yaml`. Scores and intervals stand in the run's `result.json`.\n"
    )


def is_exported(bunch: Bunch, space: Space, coefficients: Coefficients, out: Path) -> bool:
    """Whether a folder already holds this very merge."""
    written = out / "recipe.yaml"
    wanted = json.loads(json.dumps(recipe(bunch, space, coefficients)))
    return written.is_file() and yaml.safe_load(written.read_text()) == wanted
