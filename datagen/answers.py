"""Stage 3: answers, greedy, each model through its own chat template."""

from collections.abc import Mapping, Sequence

from datagen.data_config import DataConfig
from datagen.journal import Journal
from datagen.records import Answered, Question


def answer_questions(
    journal: Journal, config: DataConfig, bunch: Mapping[str, str], questions: Sequence[Question]
) -> list[Answered]:
    """Unsafe and borderline questions are put to every model of the bunch, a domain's only to its expert.

    One model after another is loaded, so the bunch may be larger than the memory.

    Args:
        bunch: name -> model.
    """
    answers: list[dict[str, str]] = [{} for _ in questions]
    for name, model in bunch.items():
        asked = [i for i, question in enumerate(questions) if config.expert(question.kind) in (None, name)]
        texts = journal.write(
            f"answers/{name}",
            model,
            [questions[i].conversation for i in asked],
            max_tokens=config.max_answer_tokens,
        )
        for i, text in zip(asked, texts, strict=True):
            # Half of a surrogate pair, which a server may send, could neither be judged nor be written.
            answers[i][name] = text.encode("utf-8", "replace").decode().strip()
    return [Answered(**question.model_dump(), answers=some) for question, some in zip(questions, answers, strict=True)]
