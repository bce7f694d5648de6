"""`goodbunch zoo`: trains the whole bunch into ordinary Hugging Face folders, and writes its ground truth."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from datagen.batches import Encoded
from datagen.holding import held
from datagen.progress import Bar
from datagen.rows import Row, write_rows
from datagen.zoo import lessons as lessons_module
from datagen.zoo import training
from datagen.zoo import world as world_module
from datagen.zoo.lessons import lessons
from datagen.zoo.recipes import JUDGES, Recipe, Stage
from datagen.zoo.tokenizer import CHAT_TEMPLATE, GUARD_TEMPLATE, train_tokenizer
from datagen.zoo.world import DOMAINS, Split, World

#: File of a model of the zoo that says what it was trained by.
_MARKER = "zoo.json"

KINDS = ("unsafe", "borderline", *DOMAINS)


def build_zoo(out: Path, recipe: Recipe, seed: int) -> Path:
    """Trains whatever of the zoo is not there yet.

    A model is trained again only when its recipe, the seed or the code that trains it has changed; an interrupted
    build goes on with the first model that is missing.

    Args:
        out: gets one Hugging Face folder per model and `world/<split>/<kind>.jsonl` with the ground truth.
        seed: of the world, the first weights and the order of examples.

    Returns:
        `out`.
    """
    stamp = fingerprint(recipe, seed)
    todo = [stage for stage in recipe.stages if not is_built(out / stage.name, stamp)]
    if not todo and (out / "world").is_dir():
        return out
    hf_logging.disable_progress_bar()
    with held(out, "training a zoo"):
        _build(out, recipe, seed, todo, stamp)
    return out


def _build(out: Path, recipe: Recipe, seed: int, todo: Sequence[Stage], stamp: str) -> None:
    world = World(seed)
    _write_world(out / "world", world)
    ingredients = {name: lessons(world, name) for stage in recipe.stages for name in stage.mix}
    texts = [
        t for some in ingredients.values() for lesson in some for t in (lesson.messages[0]["content"], lesson.answer)
    ]
    tokenizer = train_tokenizer(texts)
    encoded: dict[tuple[str, str], list[Encoded]] = {}  # by template and ingredient, which stages share
    with Bar("zoo", sum(stage.steps for stage in todo)) as bar:
        for stage in todo:
            tokenizer.chat_template = template = GUARD_TEMPLATE if stage.name in JUDGES else CHAT_TEMPLATE
            if stage.parent is None:
                model = training.new_model(recipe.architecture, tokenizer, seed)
            else:
                model = LlamaForCausalLM.from_pretrained(out / stage.parent, dtype=torch.float32)
            for name in stage.mix:
                if (template, name) not in encoded:
                    encoded[template, name] = training.encode(tokenizer, ingredients[name])
            training.fit(
                model,
                stage,
                {name: encoded[template, name] for name in stage.mix},
                batch=recipe.batch,
                seed=seed,
                on_step=partial(show_loss, bar, stage.name),
            )
            save(out / stage.name, model, tokenizer, stamp)


def show_loss(bar: Bar, name: str, loss: float) -> None:
    """Shows a step of a model's training."""
    bar.advance(f"loss {loss:.3f}", f"zoo: training {name}")


def fingerprint(recipe: Recipe, seed: int) -> str:
    """A hash of all that decides the zoo's weights: recipe, seed, and the code that reads them."""
    sources = [Path(str(module.__file__)).read_text() for module in (world_module, lessons_module, training)]
    described = json.dumps([asdict(recipe), seed, sources, torch.__version__], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def is_built(folder: Path, stamp: str) -> bool:
    """Whether a model is there that was trained by this very recipe."""
    return (folder / _MARKER).is_file() and stamp_of(folder) == stamp


def stamp_of(folder: Path) -> str:
    """The fingerprint of what a model was trained by."""
    return str(json.loads((folder / _MARKER).read_text())["fingerprint"])


def save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, stamp: str) -> None:
    """Writes beside and renames, so that a model folder is either whole or not there."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    (beside / _MARKER).write_text(json.dumps({"fingerprint": stamp}))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def _write_world(folder: Path, world: World) -> None:
    for split in Split:
        for kind in KINDS:
            rows = [
                Row.of(example.prompt, example.answer, kind=kind, topic=example.topic, model="world", split=split.value)
                for example in world.examples(kind, split)
            ]
            write_rows(folder / split.value / f"{kind}.jsonl", rows)
