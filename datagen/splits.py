"""Stage 4: search, validation and test, by question."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from datagen.config import DataConfig
from datagen.questions import question_kinds
from datagen.rows import Row


def split(config: DataConfig, rows: Sequence[Row], seed: int, counts: Counter[str]) -> list[Row]:
    """Shuffles each kind, caps it, and deals it over the splits.

    Args:
        seed: of the shuffle.
        counts: told `<kind>/kept` and `<kind>/over the cap`.
    """
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    dealt = []
    for kind, (wanted, _) in question_kinds(config).items():
        some = by_kind[kind]
        random.Random(f"{seed}-{kind}").shuffle(some)
        kept = some[: wanted.keep]
        counts[f"{kind}/over the cap"] += len(some) - len(kept)
        counts[f"{kind}/kept"] += len(kept)
        test = round(len(kept) * config.test)
        validation = test + round(len(kept) * config.validation)
        for i, row in enumerate(kept):
            name = "test" if i < test else "validation" if i < validation else "search"
            dealt.append(row.model_copy(update={"split": name}))
    return dealt
