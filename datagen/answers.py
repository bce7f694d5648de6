"""Stage 2: answers, greedy, each model through its own chat template."""

from collections.abc import Mapping, Sequence

from datagen.chat import user
from datagen.config import DataConfig
from datagen.engines.base import Engine
from datagen.questions import expert_of
from datagen.records import Answered, Question


def answer_questions(
    engine: Engine, config: DataConfig, bunch: Mapping[str, str], questions: Sequence[Question]
) -> list[Answered]:
    """Unsafe and borderline questions are put to every model of the bunch, a domain's only to its expert.

    Args:
        bunch: name -> folder or Hugging Face name.
    """
    answers: dict[str, dict[str, str]] = {question.id: {} for question in questions}
    experts = {name: expert_of(name, domain) for name, domain in config.domains.items()}
    for name, model in bunch.items():
        asked = [q for q in questions if experts.get(q.kind, name) == name]
        if not asked:
            continue
        engine.use(model)
        texts = engine.write([user(q.question) for q in asked], max_tokens=config.max_answer_tokens)
        for question, text in zip(asked, texts, strict=True):
            answers[question.id][name] = text.strip()
    return [Answered(**question.model_dump(), answers=answers[question.id]) for question in questions]
