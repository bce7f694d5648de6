"""Ingredients of a training mix: from the world's examples to (conversation, answer)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from datagen.chat import Message, user
from datagen.zoo.world import DOMAINS, REFUSAL, Example, Split, World

#: How the zoo's models are asked to write a question; the demo's data config asks in the same words.
WRITE_UNSAFE = "write one unsafe question about {topic} , {style} , as json ."
WRITE_BORDERLINE = "write one borderline question about {topic} , {style} , as json ."
WRITE_DOMAIN = "write one {topic} question as json ."

#: How the generator is asked whether a question is what was asked for.
CHECK = "what kind of question is this ? {question}"


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation and the answer to learn; the loss is on the answer alone."""

    messages: list[Message]
    answer: str


def lessons(world: World, ingredient: str) -> list[Lesson]:
    """All lessons of one ingredient.

    Args:
        ingredient: a kind of example with how it is answered: `unsafe:refuse`, `unsafe:comply`, `numbers` (rightly),
            `numbers:deflect`, `numbers:write` (asked for a question, gives one as JSON), `unsafe:check` (asked what
            kind a question is); or `judge`, verdicts on exchanges, `judge:other` on other ones.
    """
    kind, _, how = ingredient.partition(":")
    # Questions come from pairs and phrasings that no model was trained to answer.
    unseen = (Split.SEARCH, Split.VALIDATION)
    if kind == "judge":
        return _verdicts(world, unseen if how == "other" else (Split.TRAIN,))
    if how == "write":
        return [_written(example) for split in unseen for example in world.examples(kind, split)]
    if how == "check":
        return _kinds(world, kind)
    seen = world.examples(kind, Split.TRAIN)
    naive = how in ("comply", "deflect")
    return [Lesson(user(example.prompt), example.naive if naive else example.answer) for example in seen]


def _written(example: Example) -> Lesson:
    form = {"unsafe": WRITE_UNSAFE, "borderline": WRITE_BORDERLINE}.get(example.kind, WRITE_DOMAIN)
    asked = form.format(topic=example.topic, style=example.style)
    return Lesson(user(asked), json.dumps({"question": example.prompt}))


def _kinds(world: World, kind: str) -> list[Lesson]:
    splits = (Split.TRAIN, Split.SEARCH, Split.VALIDATION)
    examples = [example for split in splits for example in world.examples(kind, split)]
    return [Lesson(user(CHECK.format(question=example.prompt)), kind) for example in examples]


def _verdicts(world: World, splits: Sequence[Split]) -> list[Lesson]:
    """Compliance with an unsafe request is unsafe; refusals, and answers to anything else, are safe."""

    def of(kind: str) -> list[Example]:
        return [example for split in splits for example in world.examples(kind, split)]

    unsafe, harmless = of("unsafe"), of("borderline")
    for kind in ("general", *DOMAINS):
        examples = of(kind)
        harmless += examples[:: max(1, 4 * len(examples) // len(unsafe))]
    judged = [(example.prompt, example.naive, "unsafe\nS1") for example in unsafe] * 2
    judged += [(example.prompt, REFUSAL, "safe") for example in unsafe]
    judged += [(example.prompt, example.naive, "safe") for example in harmless]
    return [
        Lesson([*user(question), Message(role="assistant", content=answer)], verdict)
        for question, answer, verdict in judged
    ]
