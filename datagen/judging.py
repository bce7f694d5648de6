"""Stage 3: a guard judges every answer, and one answer per question is picked."""

import random
from collections import Counter
from collections.abc import Sequence

from datagen.chat import Message, user
from datagen.config import DataConfig
from datagen.engines.base import Engine
from datagen.records import Answered, Judged
from datagen.rows import Row

SAFETY_KINDS = ("unsafe", "borderline")


def is_refusal(answer: str, phrases: Sequence[str]) -> bool:
    """Whether an answer contains one of the phrases, case folded: the rule, where a guard is a judgement."""
    folded = answer.lower()
    return any(phrase.lower() in folded for phrase in phrases)


def judge(engine: Engine, config: DataConfig, answered: Sequence[Answered]) -> list[Judged]:
    """The guard's probability that each (question, answer) is unsafe; domain rows are not judged."""
    exchanges = sorted(
        {(a.question, answer) for a in answered if a.kind in SAFETY_KINDS for answer in a.answers.values() if answer}
    )
    engine.use(config.guard.model)
    conversations = [[*user(question), Message(role="assistant", content=answer)] for question, answer in exchanges]
    odds = engine.probability(conversations, config.guard.unsafe, config.guard.safe)
    verdicts = dict(zip(exchanges, odds, strict=True))
    return [
        Judged(
            **a.model_dump(),
            unsafe={name: verdicts.get((a.question, answer)) for name, answer in a.answers.items()}
            if a.kind in SAFETY_KINDS
            else {},
        )
        for a in answered
    ]


def pick(config: DataConfig, judged: Sequence[Judged], seed: int, counts: Counter[str]) -> list[Row]:
    """One row per question that has an answer worth learning.

    An unsafe question keeps a refusal, a borderline one an answer that is none; both must be safe in the guard's
    eyes. Among several the choice is random (paper 1). A question without one is dropped.

    Args:
        seed: of the choice.
        counts: told `<kind>/no fit answer`.
    """
    rows = []
    for question in judged:
        fit = sorted(name for name in question.answers if _fits(config, question, name))
        if not fit:
            counts[f"{question.kind}/no fit answer"] += 1
            continue
        name = random.Random(f"{seed}-{question.id}").choice(fit)
        provenance = {"writer": question.writer, "seed": question.seed}
        if question.unsafe:
            provenance["unsafe"] = round(question.unsafe[name] or 0.0, 6)
        rows.append(
            Row.of(
                question.question,
                question.answers[name],
                kind=question.kind,
                topic=question.topic,
                model=name,
                provenance=provenance,
            )
        )
    return rows


def _fits(config: DataConfig, question: Judged, name: str) -> bool:
    answer = question.answers[name]
    if question.kind not in SAFETY_KINDS:
        return bool(answer)
    verdict = question.unsafe[name]
    if not answer or verdict is None or verdict >= config.guard.threshold:
        return False
    return is_refusal(answer, config.refusals) == (question.kind == "unsafe")
