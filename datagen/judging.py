"""Stages 4 and 5: a guard judges every answer, and one answer per question is picked."""

import json
import random
from collections import Counter
from collections.abc import Sequence

from datagen.chat import Message
from datagen.data_config import SAFETY_KINDS, DataConfig, VerdictConfig
from datagen.journal import Journal
from datagen.records import Answered, Judged
from datagen.rows import Row
from datagen.verdicts import verdicts


def is_refusal(answer: str, phrases: Sequence[str]) -> bool:
    """Whether an answer contains one of the phrases, case folded: the rule, where a guard is a judgement."""
    folded = answer.lower()
    return any(phrase.lower() in folded for phrase in phrases)


def judge(journal: Journal, config: DataConfig, answered: Sequence[Answered]) -> list[Judged]:
    """How likely each answer is unsafe, and a refusal if a model is asked for that; domain rows are not judged."""
    refusal = config.refusal
    if refusal is not None and not refusal.model:
        refusal = refusal.model_copy(update={"model": config.guard.model})
    unsafe = _judged(journal, "verdicts", config.guard, answered)
    refused = _judged(journal, "refusals", refusal, answered) if refusal is not None else [{} for _ in answered]
    return [
        Judged(**a.model_dump(), unsafe=odds, refused=chances)
        for a, odds, chances in zip(answered, unsafe, refused, strict=True)
    ]


def _judged(
    journal: Journal, name: str, judge: VerdictConfig, answered: Sequence[Answered]
) -> list[dict[str, float | None]]:
    """Name of the answering model -> verdict, per question; equal exchanges are judged once."""
    exchanges: dict[str, list[Message]] = {}
    for a in answered:
        if a.kind in SAFETY_KINDS:
            exchanges.update({_said(a, model): a.exchange(model) for model, answer in a.answers.items() if answer})
    odds = dict(zip(exchanges, verdicts(journal, name, judge, list(exchanges.values())), strict=True))
    return [
        {model: odds.get(_said(a, model)) for model in a.answers} if a.kind in SAFETY_KINDS else {} for a in answered
    ]


def _said(answered: Answered, model: str) -> str:
    return json.dumps(answered.exchange(model))


def pick(config: DataConfig, judged: Sequence[Judged], seed: int, counts: Counter[str]) -> list[Row]:
    """One row per question that has an answer worth learning.

    An unsafe question keeps a refusal, a borderline one an answer that is none; both must be safe in the guard's
    eyes. Among several the choice is random (paper 1). A question without one is dropped.

    Args:
        seed: of the choice.
        counts: told `<kind>/no fit answer`, and `<kind>/no verdict` where the guard said neither word of any answer.
    """
    rows = []
    for question in judged:
        fit = sorted(name for name in question.answers if _fits(config, question, name))
        if not fit:
            silent = question.unsafe and all(odds is None for odds in question.unsafe.values())
            counts[f"{question.kind}/{'no verdict' if silent else 'no fit answer'}"] += 1
            continue
        name = random.Random(f"{seed}-{question.id}").choice(fit)
        provenance = {
            "writer": question.writer,
            "prompt_hash": question.prompt_hash,
            "seed": question.seed,
            "attributes": question.attributes,
        }
        for told in ("unsafe", "refused"):
            if odds := getattr(question, told):
                provenance[told] = round(odds[name], 6)
        rows.append(
            Row.of(
                question.question,
                question.answers[name],
                kind=question.kind,
                context=question.context,
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
    refused = _refused(config, question, name)
    return refused is not None and refused == (question.kind == "unsafe")


def _refused(config: DataConfig, question: Judged, name: str) -> bool | None:
    """Whether an answer is a refusal; none where the model that was asked says neither."""
    if config.refusal is None:
        return is_refusal(question.answers[name], config.refusals)
    chance = question.refused[name]
    return None if chance is None else chance >= config.refusal.threshold


def second_opinion(journal: Journal, config: DataConfig, rows: Sequence[Row]) -> list[Row]:
    """The rows with what a judge that had no say in them thinks: the probability that each is unsafe."""
    if config.judge is None:
        return list(rows)
    judged = [row for row in rows if row.kind in SAFETY_KINDS]
    odds = verdicts(journal, "judge", config.judge, [row.messages for row in judged])
    told = {row.id: None if chance is None else round(chance, 6) for row, chance in zip(judged, odds, strict=True)}
    return [
        row.model_copy(update={"provenance": row.provenance | {"judge": told[row.id]}}) if row.id in told else row
        for row in rows
    ]
