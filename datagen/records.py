"""What passes between the stages; each stage adds to what the last one knew."""

from datagen.frozen import Frozen


class Question(Frozen):
    """A question, and who wrote it how."""

    id: str
    kind: str
    topic: str
    question: str
    writer: str
    seed: int


class Answered(Question):
    """A question with every asked model's answer."""

    answers: dict[str, str]


class Judged(Answered):
    """An answered question with the guard's probability that each answer is unsafe; none where it gave no verdict."""

    unsafe: dict[str, float | None]
