"""Stage 2: the writer, or another model, is asked whether each question is what was asked for.

Self-reflection after ProgGen (arXiv 2403.11103): a model that drifts from its topic or form often sees that it did.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from datagen.chat import user
from datagen.journal import Journal
from datagen.questions import Brief
from datagen.records import Question
from datagen.verdicts import verdicts


def check_questions(
    journal: Journal,
    briefs: Sequence[Brief],
    models: Mapping[str, str],
    questions: Sequence[Question],
    counts: Counter[str],
) -> list[Question]:
    """Drops questions that do not fit their brief; kinds without a check pass.

    Args:
        models: writer -> model.
        counts: told `<kind>/misses its brief` and `<kind>/no self-check verdict`.
    """
    fits = {id(question): True for question in questions}
    for brief in briefs:
        if (check := brief.config.check) is None:
            continue
        checker = check if check.model else check.model_copy(update={"model": models[brief.writer]})
        own = [question for question in questions if question.kind == brief.kind]
        about = {assignment.topic.name: assignment.topic.about for assignment in brief.assignments}
        values = [
            {**q.attributes, "topic": q.topic, "about": about.get(q.topic, ""), "question": q.question} for q in own
        ]
        odds = verdicts(journal, f"checks/{brief.kind}", checker, [user(q.question) for q in own], values)
        for question, fit in zip(own, odds, strict=True):
            if fit is None or fit < check.threshold:
                fits[id(question)] = False
                counts[f"{brief.kind}/{'no self-check verdict' if fit is None else 'misses its brief'}"] += 1
    return [question for question in questions if fits[id(question)]]
