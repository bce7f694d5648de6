"""Cleaning and splitting of many rows: seconds and peak memory.

Run it by `python -m benchmarks.cleaning`, which takes about three minutes. Nothing else should run meanwhile. The rows
are made up of a vocabulary whose frequencies fall as in real text; a tenth repeat an earlier question, a tenth change a
word of it, and one in fifty holds a sentence of the evaluation data.
"""

import argparse
import sys
from collections import Counter
from itertools import islice

import numpy as np

from benchmarks.measuring import Figure, memory, peak, report, reset_peak, seconds
from datagen.cleaning import CleaningConfig, clean_answers, clean_questions, near_clusters
from datagen.cleaning_config import NearConfig
from datagen.records import Answered
from datagen.rows import Row
from datagen.splits import Shares, balanced, deal

#: Rows that the bounds hold for.
ROWS = 200_000

KINDS = ("unsafe", "borderline", "finance", "medicine")
TOPICS = 14


def made_up(count: int, tested: list[str]) -> list[Answered]:
    """Rows whose questions have about 25 words and whose answers about 120."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 10))) for _ in range(30_000)]
    shares = 1 / np.arange(1, len(words) + 1)
    stream = iter(rng.choice(len(words), count * 160, p=shares / shares.sum()).tolist())

    def text(length: int) -> str:
        return " ".join(words[i] for i in islice(stream, length))

    rows: list[Answered] = []
    for i, chance in enumerate(rng.random(count).tolist()):
        if chance < 0.2 and i > 100:
            told = rows[int(rng.integers(i // len(KINDS))) * len(KINDS) + i % len(KINDS)].question.split()
            if chance < 0.1:
                told[int(rng.integers(len(told)))] = "changed"
            question = " ".join(told)
        elif chance < 0.22:
            question = f"{text(5)} {tested[int(rng.integers(len(tested)))]} {text(5)}"
        else:
            question = text(int(rng.integers(8, 42)))
        answers = {"a": text(int(rng.integers(40, 200)))}
        topic = str(rng.integers(TOPICS))
        rows.append(Answered.of(KINDS[i % len(KINDS)], question, topic=topic, writer="w", answers=answers))
    return rows


def evaluation(count: int) -> list[str]:
    """Sentences of twenty words."""
    rng = np.random.default_rng(1)
    return [" ".join(f"tested{i}" for i in rng.integers(0, 5000, 20)) for _ in range(count)]


def main() -> int:
    """Measures each step; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    tested = evaluation(20_000)
    rows = made_up(given.rows, tested)
    held = memory()
    reset_peak()
    counts: Counter[str] = Counter()
    config = CleaningConfig()
    found: dict[str, list[Answered]] = {}
    labels: list[int] = []
    shares = Shares(validation=0.2, test=0.2)

    def cluster() -> None:
        labels.extend(near_clusters([row.asked for row in found["questions"]], NearConfig(), 0))

    def split() -> None:
        some = [Row.of(q.question, q.answers["a"], kind=q.kind, topic=q.topic) for q in found["questions"]]
        kept = balanced(list(zip(some, labels, strict=True)), dict.fromkeys(KINDS, given.rows // 8), 0, counts)
        deal(kept, shares, 0)

    took = {
        "answers": seconds(lambda: found.update(answers=clean_answers(rows, config, counts))),
        "questions": seconds(
            lambda: found.update(
                questions=clean_questions(found["answers"], config, 0, counts, tested={"made up": tested})
            )
        ),
        "clusters": seconds(cluster),
        "split": seconds(split),
    }
    figures = [
        Figure(f"seconds for {given.rows} rows", sum(took.values()), 180, False),
        Figure("peak memory in GB, the rows included", peak() / 1e9, 2, False),
    ]
    details = {"seconds": took, "GB of the rows": held / 1e9, "counts": dict(sorted(counts.items()))}
    print(details)
    name = "cleaning" if given.rows == ROWS else f"cleaning-{given.rows}"
    return 0 if report(name, figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())
