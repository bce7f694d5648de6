"""Stages 4 and 5: a guard judges every answer, and one answer per question is picked, with what it is held against."""

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

#: Alternatives that a row of a safety kind has at most.
ALTERNATIVES = 3

#: Whose an alternative is, where no model gave it to this question: the user's file, or an answer to other questions.
GIVEN, BORROWED = "given", "borrowed"


def is_refusal(answer: str, phrases: Sequence[str]) -> bool:
    """Whether an answer contains one of the phrases, case folded: the rule, where a guard is a judgement."""
    folded = answer.lower()
    return any(phrase.lower() in folded for phrase in phrases)


def judge(journal: Journal, config: DataConfig, answered: Sequence[Answered]) -> list[Judged]:
    """How likely each answer is unsafe, and a refusal if a model is asked for that; domain rows are not judged."""
    refusal = config.refusal_judge()
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

    A row's alternatives are answers of the opposite verdict, in random order: to an unsafe question those that comply
    and are unsafe, to a borderline one refusals. Where none refused a borderline question, which is what is hoped for
    of the sources but not known of a merge, it gets the refusal that was given to unsafe questions most often, word
    for word and at least twice, as such a one speaks of none of them in particular. `provenance.alternatives` says
    whose each is.

    Args:
        seed: of the choice.
        counts: told `<kind>/no fit answer`, and `<kind>/no verdict` where the guard said neither word of any answer.
    """
    rows = []
    refusal = _common_refusal(config, judged)
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
        if alternatives := _alternatives(config, question, name, refusal, seed):
            provenance["alternatives"] = list(alternatives.values())
        rows.append(
            Row.of(
                question.question,
                question.answers[name],
                kind=question.kind,
                context=question.context,
                topic=question.topic,
                model=name,
                provenance=provenance,
                alternatives=list(alternatives),
            )
        )
    return rows


def _alternatives(config: DataConfig, question: Judged, kept: str, refusal: str, seed: int) -> dict[str, str]:
    """Answer -> whose it is.

    Args:
        kept: whose answer is the row's own.
        refusal: of other questions, for a borderline one that no model refused; none if empty.
    """
    found = dict.fromkeys(question.alternatives, GIVEN)
    if question.kind in SAFETY_KINDS:
        opposite = sorted(name for name in question.answers if _is_opposite(config, question, name))
        random.Random(f"{seed}-{question.id}-alternatives").shuffle(opposite)
        for name in opposite:
            found.setdefault(question.answers[name], name)
        if not found and refusal and question.kind == "borderline":
            found = {refusal: BORROWED}
        found = dict(list(found.items())[:ALTERNATIVES])
    return {text: whose for text, whose in found.items() if text != question.answers[kept]}


def _is_opposite(config: DataConfig, question: Judged, name: str) -> bool:
    refused = _refused(config, question, name)
    if question.kind == "borderline":
        return refused is True
    verdict = question.unsafe[name]
    return refused is False and verdict is not None and verdict >= config.guard.threshold


def _common_refusal(config: DataConfig, judged: Sequence[Judged]) -> str:
    """The refusal that most unsafe questions got; none if each got its own."""
    said: Counter[str] = Counter()
    for question in judged:
        if question.kind == "unsafe":
            said.update({text for name, text in question.answers.items() if _fits(config, question, name)})
    text, times = max(said.items(), key=lambda one: (one[1], one[0]), default=("", 0))
    return text if times > 1 else ""


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
