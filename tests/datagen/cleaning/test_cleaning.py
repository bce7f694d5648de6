from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from datagen.cleaning import CleaningConfig, clean_answers, clean_questions
from datagen.records import Answered, Question

CONFIG = CleaningConfig(max_question=200, max_answer=200)
BRIDGE = "How do I repair the old wooden bridge behind the house?"


def question(text: str, kind: str = "unsafe") -> Question:
    return Question.of(kind, text, topic="t", writer="g", seed=1)


def test_each_question_goes_for_its_first_reason_and_the_order_stays() -> None:
    texts = [
        "What is a harbour?",
        " . ",
        "Eh?",
        "word " * 50,
        "no " * 20,
        "Which lamp is best for a desk?",
        "Which lamp would be best for a desk in an office?",
        "Please: what does the tested question with six words ask?",
        "what is a HARBOUR",
        BRIDGE,
        "How do I repair the old wooden bridge behind the houses?",
        "What is a tower?",
    ]
    questions = [question(text) for text in texts]
    counts: Counter[str] = Counter()
    shown = {questions[5].id: ["which lamp is best for a desk"], questions[6].id: ["Which desk?"]}
    tested = {"exam": ["the tested question with six words"]}
    kept = clean_questions(questions, CONFIG, 0, counts, examples=shown, tested=tested)
    assert [texts.index(one.question) for one in kept] == [0, 6, 9, 11]
    assert counts == {
        "unsafe/empty": 1,
        "unsafe/too short": 1,
        "unsafe/too long": 1,
        "unsafe/question loops": 1,
        "unsafe/copies an example": 1,
        "unsafe/overlaps exam": 1,
        "unsafe/repeated": 1,
        "unsafe/near-duplicate": 1,
    }


def test_near_copies_of_examples_go_too() -> None:
    one = question(BRIDGE)
    near = {one.id: [BRIDGE.replace("house", "houses")]}
    assert clean_questions([one], CONFIG, 0, Counter(), examples=near) == []
    exactly = CONFIG.model_copy(update={"near": None})
    assert clean_questions([one], exactly, 0, Counter(), examples=near) == [one]


def test_kinds_do_not_duplicate_each_other() -> None:
    questions = [question(BRIDGE), question(BRIDGE, "borderline"), question(BRIDGE.lower())]
    assert clean_questions(questions, CONFIG, 0, Counter()) == questions[:2]


@given(st.permutations(range(8)))
def test_what_is_kept_is_the_first_of_its_like(order: list[int]) -> None:
    texts = [
        BRIDGE,
        BRIDGE.upper(),
        BRIDGE.replace("house", "houses"),
        "a tower",
        "A  tower?",
        "b",
        "which harbour",
        "c",
    ]
    some = [question(texts[i]) for i in order]
    counts: Counter[str] = Counter()
    kept = clean_questions(some, CONFIG, 0, counts)
    assert kept == [one for one in some if one in kept]
    assert len(kept) + counts.total() == len(some)
    like = [{0, 1, 2}, {3, 4}, {6}]
    first = [next(i for i in order if i in group) for group in like]
    assert {one.question for one in kept} == {texts[i] for i in first}


def test_faulty_answers_are_taken_out() -> None:
    asked = [
        Answered(**question("first").model_dump(), answers={"a": "fine", "b": " ", "c": "no " * 20}),
        Answered(**question("second").model_dump(), answers={"a": "x" * 201}),
    ]
    counts: Counter[str] = Counter()
    (kept,) = clean_answers(asked, CONFIG, counts)
    assert kept == asked[0].model_copy(update={"answers": {"a": "fine"}})
    assert counts == {
        "unsafe/answer empty": 1,
        "unsafe/answer loops": 1,
        "unsafe/answer too long": 1,
        "unsafe/no sound answer": 1,
    }
