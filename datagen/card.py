"""The data card: what is in a data folder, how it came about, and what was left out. No dates, no paths."""

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datagen.frozen import Frozen
from datagen.licences import licence_of
from datagen.models.references import split_reference
from datagen.records import Judged
from datagen.rows import Row
from datagen.splits import SPLITS, imbalance

#: Examples of each kind, and how much of each is shown, in characters.
_EXAMPLES, _SHOWN = 3, 300

#: Upper ends of the ranges that verdicts are counted in.
_RANGES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

#: What every question passes on its way, in this order; all else in the counts is a reason to drop one.
_FIRST, _LAST = ("asked", "imported"), ("over the cap", "kept")

_COLUMNS = [
    {"name": "id", "dtype": "string"},
    {"name": "messages", "list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]},
    *({"name": name, "dtype": "string"} for name in ("kind", "topic", "model", "split")),
    {"name": "provenance", "dtype": "json"},
]

#: The same where rows have alternatives.
_MORE_COLUMNS = [*_COLUMNS, {"name": "alternatives", "list": "string"}]

_ALTERNATIVES = (
    " What stands under `alternatives` is there to be held against the answer, never to be learnt: unsafe answers to "
    "unsafe questions, refusals of borderline ones, wrong options."
)

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class Facts(Frozen):
    """What a card says beyond the rows.

    Attributes:
        title: of the card.
        counts: `<kind>/<what happened>` -> how often.
        models: what each model is called in the rows -> its reference, the guard and the generator among them.
        seed: of everything random.
        hashes: what is hashed -> its hash: models, config, evaluation data.
    """

    title: str = "Data written by Goodbunch"
    counts: dict[str, int]
    models: dict[str, str]
    seed: int
    hashes: dict[str, str] = {}


def data_card(rows: Sequence[Row], facts: Facts, judged: Sequence[Judged] = ()) -> str:
    """A data folder's README.md.

    Args:
        rows: with their splits.
        judged: every question with its verdicts; by default the verdicts of the rows are counted.
    """
    parts = [
        f"---\n{yaml.safe_dump(front_matter(rows, facts), sort_keys=False, allow_unicode=True, width=120)}---",
        f"# {facts.title}",
        "Questions and answers written by language models for merging them, split by cluster of near-duplicates. "
        "Unsafe questions are answered by a refusal, borderline ones by an answer."
        + (_ALTERNATIVES if any(row.alternatives for row in rows) else ""),
        "## Rows",
        _table(_rows(rows)),
        "## What happened to the questions",
        _table(_stages(facts.counts)),
        "## Topics",
        *_topics(rows),
        *_verdicts(rows, judged),
        "## Models",
        _table(_models(rows, facts)),
        "## Examples",
        *_examples(rows),
        "## Provenance",
        _table(
            [["what", "value"], ["seed", str(facts.seed)], *([k, f"`{v}`"] for k, v in sorted(facts.hashes.items()))]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(rows: Sequence[Row], facts: Facts) -> dict[str, Any]:
    """What `datasets` and the hub read: a configuration per kind, its splits and columns."""
    found = _by_kind(rows)
    configs = [
        {
            "config_name": kind,
            "data_files": [
                {"split": name, "path": f"{name}/{kind}.jsonl"}
                for name in SPLITS
                if any(row.split == name for row in some)
            ],
        }
        for kind, some in found.items()
    ]
    return {
        "pretty_name": facts.title,
        "task_categories": ["text-generation"],
        "size_categories": [next((size for most, size in _SIZES if len(rows) < most), "n>1M")],
        "tags": ["synthetic", "goodbunch"],
        "configs": configs,
        # Copied, as YAML would write the second mention as a reference to the first.
        "dataset_info": [
            {
                "config_name": kind,
                "features": copy.deepcopy(_MORE_COLUMNS if any(row.alternatives for row in some) else _COLUMNS),
            }
            for kind, some in found.items()
        ],
    }


def _by_kind(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.kind].append(row)
    return dict(sorted(found.items()))


def _rows(rows: Sequence[Row]) -> list[list[str]]:
    table = [["kind", *SPLITS, "all"]]
    for kind, some in _by_kind(rows).items():
        splits = Counter(row.split for row in some)
        table.append([kind, *(str(splits[name]) for name in SPLITS), str(len(some))])
    return table


def _stages(counts: Mapping[str, int]) -> list[list[str]]:
    """A column per kind, a line per thing that happened, in the order of the stages."""
    kinds = sorted({key.partition("/")[0] for key in counts})
    events = sorted({key.partition("/")[2] for key in counts})
    order = [
        *(event for event in _FIRST if event in events),
        *(event for event in events if event not in (*_FIRST, *_LAST)),
        *(event for event in _LAST if event in events),
    ]
    return [["", *kinds], *([event, *(str(counts.get(f"{kind}/{event}", 0)) for kind in kinds)] for event in order)]


def _topics(rows: Sequence[Row]) -> list[str]:
    parts = []
    for kind, some in _by_kind(rows).items():
        found = Counter((row.topic, row.split) for row in some)
        topics = sorted({row.topic for row in some})
        table = [
            ["topic", *SPLITS],
            *([topic or "none", *(str(found[topic, name]) for name in SPLITS)] for topic in topics),
        ]
        parts += [
            f"### {kind}",
            f"The topic furthest from the mean is {imbalance(Counter(row.topic for row in some).values()):.0%} off it.",
            _table(table),
        ]
    return parts


def _verdicts(rows: Sequence[Row], judged: Sequence[Judged]) -> list[str]:
    """How the guard's probabilities that an answer is unsafe are spread, and those of a judge that had no say."""
    found: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    second: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for asked in judged:
        for name, verdict in asked.unsafe.items():
            found[asked.kind, name].append(verdict)
    for row in rows:
        if not judged and "unsafe" in row.provenance:
            found[row.kind, row.model].append(row.provenance["unsafe"])
        if "judge" in row.provenance:
            second[row.kind, row.model].append(row.provenance["judge"])
    of = "all answers" if judged else "the answers that were kept"
    parts = []
    if found:
        parts += ["## Verdicts", f"The guard's probability that an exchange is unsafe, of {of}.", _spread(found)]
    if second:
        parts += [
            "### A second opinion",
            "The same of a judge that had no say, of the rows that were kept.",
            _spread(second),
        ]
    return parts


def _spread(found: Mapping[tuple[str, str], Sequence[float | None]]) -> str:
    """How many probabilities lie where, by kind and model."""
    table = [["kind", "answers of", *(f"up to {end:g}" for end in _RANGES), "none given"]]
    for (kind, name), verdicts in sorted(found.items()):
        places = Counter(next(i for i, end in enumerate(_RANGES) if v <= end) for v in verdicts if v is not None)
        cells = [*(str(places[i]) for i in range(len(_RANGES))), str(verdicts.count(None))]
        table.append([kind, name, *cells])
    return _table(table)


def _models(rows: Sequence[Row], facts: Facts) -> list[list[str]]:
    answers = Counter(row.model for row in rows)
    questions = Counter(row.provenance.get("writer", "") for row in rows)
    table = [["name", "model", "licence", "questions", "answers"]]
    for name, reference in facts.models.items():
        told = "+".join(_public(part) for part in split_reference(reference) if part is not None)
        table.append([name, f"`{told}`", licence_of(reference), str(questions[name]), str(answers[name])])
    return table


def _public(part: str) -> str:
    """A model's name; of a folder the last part, as where it lies says nothing to others."""
    folder = Path(part).expanduser()
    return folder.name if folder.is_absolute() or part.startswith(".") or folder.is_dir() else part


def _examples(rows: Sequence[Row]) -> list[str]:
    parts = []
    for kind, some in _by_kind(rows).items():
        shown = sorted(some, key=lambda row: row.id)[:_EXAMPLES]
        parts += [f"### {kind}", *(_fenced(f"{_cut(row.question)}\n\n{_cut(row.answer)}") for row in shown)]
    return parts


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


def _fenced(text: str) -> str:
    """Set in a fence that the text itself cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    heading, *rest = cells
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, ["---"] * len(heading), *rest])
