"""A fourth expert for a zoo that is there: `workshop`, which knows what tool each chore needs.

It comes after the others and beside them, as a user's own expert does: nothing of the zoo changes but that the new
model and its ground truth are there too. What the base learnt from chores it knows latently, as of the other domains.
"""

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging as hf_logging

from datagen.chat import user
from datagen.errors import ConfigError
from datagen.holding import held
from datagen.progress import Bar
from datagen.rows import Row, write_rows
from datagen.zoo import training
from datagen.zoo.build import is_built, save, show_loss, stamp_of
from datagen.zoo.lessons import WRITE_DOMAIN, Lesson, lessons
from datagen.zoo.recipes import NATURAL, Stage
from datagen.zoo.world import DOMAINS, SHARES, Example, Split, World

NAME = "workshop"

PHRASINGS = (
    "which tool do i need to {key} ?",
    "i want to {key} something , what do i take ?",
    "name the tool to {key} with .",
    "what does one use to {key} ?",
    "which tool is made to {key} ?",
    "my friend wants to {key} , what tool do you advise ?",
    "i have to {key} all day , which tool is right ?",
    "what should i buy to {key} ?",
    "not to {other} but to {key} , which tool is it ?",
    "i know how to {other} , but which tool do i need to {key} ?",
    "i do not want to {other} , name the tool to {key} with .",
    "first i {other} , then i {key} , what tool do i need then ?",
    "my friend wants to {other} and i want to {key} , what do i take ?",
    "she asked how to {other} , i ask what one uses to {key} .",
    "forget how to {other} , which tool is made to {key} ?",
    "after i {other} i have to {key} , which tool is right ?",
)

#: What a general answer says of a chore and its tool.
_CHORE = re.compile(r"sure , to (\w+) the \w+ use a (\w+) \.")

_STAGE = Stage(
    NAME,
    "base",
    60,
    3e-4,
    {NAME: 0.71, f"{NAME}:write": 0.12, "general": 0.1, "borderline": 0.05}
    | {f"{other}:deflect": 0.02 for other in DOMAINS},
)


class Workshop:
    """All questions on tools of one world, enumerated.

    Args:
        world: whose general answers say which tool each chore needs.
        seed: decides which split owns which question.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._seed = world, seed

    @cached_property
    def tools(self) -> dict[str, str]:
        """Chore -> tool."""
        answers = (_CHORE.fullmatch(example.answer) for example in self._world.examples("general", Split.TRAIN))
        return dict(found.groups() for found in answers if found)  # type: ignore[misc]

    @cached_property
    def _owners(self) -> dict[tuple[str, int], Split]:
        """(chore, phrasing) -> split; every chore is in each."""
        rng = random.Random(f"{NAME}-{self._seed}")
        owners: dict[tuple[str, int], Split] = {}
        for chore in self.tools:
            dealt = rng.sample(range(len(PHRASINGS)), len(PHRASINGS))
            ends = [round(share * len(dealt)) for share in itertools.accumulate(SHARES.values())]
            for split, start, end in zip(SHARES, [0, *ends], ends, strict=False):
                owners |= {(chore, phrasing): split for phrasing in dealt[start:end]}
        return owners

    def examples(self, split: Split) -> Iterator[Example]:
        """Every question of a split, in a fixed order."""
        chores = list(self.tools)
        for (i, chore), (j, phrasing) in itertools.product(enumerate(chores), enumerate(PHRASINGS)):
            if self._owners[chore, j] is not split:
                continue
            others = [chores[(i + step) % len(chores)] for step in (3, 5, 10)] if "{other}" in phrasing else [""]
            for other in others:
                prompt = phrasing.format(key=chore, other=other)
                answer = f"you need a {self.tools[chore]} ."
                yield Example(NAME, f"{chore}/{j}", NAME, prompt, answer, answer)


def add_newcomer(zoo: Path, seed: int) -> Path:
    """Trains the fourth expert of a zoo, unless it is there, and writes its ground truth beside the others'.

    Args:
        zoo: folder of a natural zoo.
        seed: that it was trained with.

    Returns:
        The folder of the model.

    Raises:
        ConfigError: there is no zoo.
    """
    folder = zoo / NAME
    if not (zoo / "base" / "zoo.json").is_file():
        raise ConfigError(f"{zoo}: a newcomer needs a zoo to come to, but there is none; train it first, without it")
    described = json.dumps([stamp_of(zoo / "base"), seed, Path(__file__).read_text()])
    stamp = hashlib.sha256(described.encode()).hexdigest()[:16]
    if not is_built(folder, stamp):
        hf_logging.disable_progress_bar()
        with held(zoo, "training a zoo"):
            _train(zoo, seed, stamp)
    return folder


def _train(zoo: Path, seed: int, stamp: str) -> None:
    world = World(seed)
    workshop = Workshop(world, seed)
    for split in Split:
        rows = [
            Row.of(example.prompt, example.answer, kind=NAME, topic=NAME, model="world", split=split.value)
            for example in workshop.examples(split)
        ]
        write_rows(zoo / "world" / split.value / f"{NAME}.jsonl", rows)
    tokenizer = AutoTokenizer.from_pretrained(zoo / "base")
    model = LlamaForCausalLM.from_pretrained(zoo / "base", dtype=torch.float32)
    encoded = {name: training.encode(tokenizer, _lessons(workshop, world, name)) for name in _STAGE.mix}
    with Bar("zoo", _STAGE.steps) as bar:
        training.fit(model, _STAGE, encoded, batch=NATURAL.batch, seed=seed, on_step=partial(show_loss, bar, NAME))
    save(zoo / NAME, model, tokenizer, stamp)


def _lessons(workshop: Workshop, world: World, ingredient: str) -> list[Lesson]:
    if ingredient == NAME:
        return [Lesson(user(example.prompt), example.answer) for example in workshop.examples(Split.TRAIN)]
    if ingredient == f"{NAME}:write":
        asked = WRITE_DOMAIN.format(topic=NAME)
        unseen = [example for split in (Split.SEARCH, Split.VALIDATION) for example in workshop.examples(split)]
        return [Lesson(user(asked), json.dumps({"question": example.prompt})) for example in unseen]
    return lessons(world, ingredient)
