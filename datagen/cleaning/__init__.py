"""Stage 5: drops what is not worth learning, and says why.

Each question is dropped for the first reason that holds, in the order in which they are checked; the order of what is
left does not change.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from datagen.cleaning.degenerate import degenerate
from datagen.cleaning.grams import plain
from datagen.cleaning.near import near_clusters, near_duplicates, similarity
from datagen.cleaning.overlap import overlaps
from datagen.cleaning_config import CleaningConfig, DegenerateConfig, NearConfig, OverlapConfig
from datagen.records import Answered

__all__ = [
    "CleaningConfig",
    "DegenerateConfig",
    "NearConfig",
    "OverlapConfig",
    "clean_answers",
    "clean_questions",
    "near_clusters",
]

REPEATED, NEAR, COPIED = "repeated", "near-duplicate", "copies an example"


class Asked(Protocol):
    """Anything that was asked: `Question`, `Answered`, `Judged`, `Row`."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def asked(self) -> str: ...


Some = TypeVar("Some", bound=Asked)


def clean_questions(
    questions: Sequence[Some],
    config: CleaningConfig,
    seed: int,
    counts: Counter[str],
    *,
    examples: Mapping[str, Sequence[str]] | None = None,
    tested: Mapping[str, Sequence[str]] | None = None,
) -> list[Some]:
    """Drops questions for their form, as copies, as overlaps with evaluation data and as duplicates within a kind.

    Args:
        seed: of MinHash.
        counts: told `<kind>/<reason>`.
        examples: id -> the in-context examples that its writer was shown.
        tested: name -> evaluation texts, as `evaluation_texts` reads them.
    """
    texts = [question.asked for question in questions]
    shown = examples or {}
    reasons = [
        _form(text, config) or (stuck and f"question {stuck}") or _copied(text, shown.get(asked.id, ()), config)
        for asked, text, stuck in zip(questions, texts, degenerate(texts, config.degenerate), strict=True)
    ]
    sources = overlaps(texts, tested, config.overlap) if tested else [""] * len(texts)
    reasons = [why or (source and f"overlaps {source}") for why, source in zip(reasons, sources, strict=True)]
    for kind in dict.fromkeys(question.kind for question in questions):
        left = [i for i, why in enumerate(reasons) if not why and questions[i].kind == kind]
        left = _mark_repeated(left, texts, reasons)
        if config.near is not None:
            for place in near_duplicates([texts[i] for i in left], config.near, seed):
                reasons[left[place]] = NEAR
    return _kept(questions, reasons, counts)


def clean_answers(answered: Sequence[Answered], config: CleaningConfig, counts: Counter[str]) -> list[Answered]:
    """Takes answers out that are empty, too long or degenerate, and drops questions that are left without any.

    Args:
        counts: told `<kind>/answer <reason>` of every answer and `<kind>/no sound answer` of every question.
    """
    answers = [(asked, name) for asked in answered for name in asked.answers]
    reasons = answer_faults([asked.answers[name] for asked, name in answers], config)
    faulty = {(id(asked), name): why for (asked, name), why in zip(answers, reasons, strict=True) if why}
    kept = []
    for asked in answered:
        sound = {name: text for name, text in asked.answers.items() if (id(asked), name) not in faulty}
        counts.update(f"{asked.kind}/answer {faulty[id(asked), name]}" for name in asked.answers if name not in sound)
        if sound:
            kept.append(asked.model_copy(update={"answers": sound}))
        else:
            counts[f"{asked.kind}/no sound answer"] += 1
    return kept


def answer_faults(texts: Sequence[str], config: CleaningConfig) -> list[str]:
    """What is wrong with every answer; empty if nothing is."""
    return [
        "empty" if not text.strip() else "too long" if len(text) > config.max_answer else stuck
        for text, stuck in zip(texts, degenerate(texts, config.degenerate), strict=True)
    ]


def _form(text: str, config: CleaningConfig) -> str:
    length = len(text.strip())
    if not plain(text):
        return "empty"
    if length < config.min_question:
        return "too short"
    return "too long" if length > config.max_question else ""


def _copied(text: str, examples: Sequence[str], config: CleaningConfig) -> str:
    for example in examples:
        if plain(example) == plain(text):
            return COPIED
        if config.near is not None and similarity(text, example, config.near) >= config.near.similarity:
            return COPIED
    return ""


def _mark_repeated(places: Sequence[int], texts: Sequence[str], reasons: list[str]) -> list[int]:
    """Those of the places whose text was not there before; the others are marked."""
    seen: set[str] = set()
    left = []
    for place in places:
        text = plain(texts[place])
        if text in seen:
            reasons[place] = REPEATED
        else:
            seen.add(text)
            left.append(place)
    return left


def _kept(asked: Sequence[Some], reasons: Sequence[str], counts: Counter[str]) -> list[Some]:
    counts.update(f"{one.kind}/{why}" for one, why in zip(asked, reasons, strict=True) if why)
    return [one for one, why in zip(asked, reasons, strict=True) if not why]
