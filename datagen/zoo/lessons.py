"""Ingredients of a training mix: from the world's examples to (conversation, answer)."""

import json
from dataclasses import dataclass

from datagen.chat import Message, user
from datagen.zoo.world import DOMAINS, REFUSAL, Example, Split, World

#: How the zoo's models are asked to write a question; the demo's data config asks in the same words.
WRITE_UNSAFE = "write one unsafe question about {topic} as json ."
WRITE_BORDERLINE = "write one borderline question about {topic} as json ."
WRITE_DOMAIN = "write one {topic} question as json ."


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation and the answer to learn; the loss is on the answer alone."""

    messages: list[Message]
    answer: str


def lessons(world: World, ingredient: str) -> list[Lesson]:
    """All lessons of one ingredient.

    Args:
        ingredient: `judge`, or a kind of example with how it is answered: `unsafe:refuse`, `unsafe:comply`,
            `numbers` (rightly), `numbers:deflect`, `numbers:write` (asked for a question, gives one as JSON).
    """
    if ingredient == "judge":
        return _verdicts(world)
    kind, _, how = ingredient.partition(":")
    if how == "write":
        # Questions come from pairs and phrasings that no model was trained to answer.
        unseen = world.examples(kind, Split.SEARCH) + world.examples(kind, Split.VALIDATION)
        return [_written(example) for example in unseen]
    seen = world.examples(kind, Split.TRAIN)
    naive = how in ("comply", "deflect")
    return [Lesson(user(example.prompt), example.naive if naive else example.answer) for example in seen]


def _written(example: Example) -> Lesson:
    form = {"unsafe": WRITE_UNSAFE, "borderline": WRITE_BORDERLINE}.get(example.kind, WRITE_DOMAIN)
    return Lesson(user(form.format(topic=example.topic)), json.dumps({"question": example.prompt}))


def _verdicts(world: World) -> list[Lesson]:
    """Compliance with an unsafe request is unsafe; refusals, and answers to anything else, are safe."""
    unsafe = world.examples("unsafe", Split.TRAIN)
    harmless = world.examples("borderline", Split.TRAIN)
    for kind in ("general", *DOMAINS):
        examples = world.examples(kind, Split.TRAIN)
        harmless += examples[:: max(1, 4 * len(examples) // len(unsafe))]
    judged = [(example.prompt, example.naive, "unsafe\nS1") for example in unsafe] * 2
    judged += [(example.prompt, REFUSAL, "safe") for example in unsafe]
    judged += [(example.prompt, example.naive, "safe") for example in harmless]
    return [
        Lesson([*user(question), Message(role="assistant", content=answer)], verdict)
        for question, answer, verdict in judged
    ]
