"""`goodbunch datagen`: questions -> clean -> answers -> clean -> verdicts -> rows -> splits -> files.

Each stage writes its records before the next begins and is skipped when they are there, so a killed run goes on with
the stage it was in. What a stage depends on is hashed into its file; a changed config redoes the stages it affects.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from datagen.answers import answer_questions
from datagen.card import Facts
from datagen.cleaning import clean_answers, clean_questions, near_clusters
from datagen.cleaning.evaluations import evaluation_texts
from datagen.config import BunchConfig, DataConfig, EngineConfig
from datagen.engines.base import open_engine
from datagen.errors import ConfigError, DataError
from datagen.frozen import Frozen
from datagen.judging import judge, pick
from datagen.progress import console
from datagen.questions import expert_of, question_kinds, write_questions
from datagen.records import Answered, Judged, Question
from datagen.rows import Row, write_text
from datagen.splits import split
from datagen.writing import write_data

Record = TypeVar("Record", bound=Frozen)


def generate(
    bunch: BunchConfig,
    config: DataConfig,
    engine: EngineConfig,
    folder: Path,
    seed: int,
    say: Callable[[str], None] = console.print,
) -> Path:
    """Writes `folder/<split>/<kind>.jsonl` and `folder/summary.json`.

    Args:
        folder: where the data goes; finished stages in it are not repeated.
        seed: of everything random.
        say: told one line per stage.

    Returns:
        `folder`.

    Raises:
        ConfigError: a domain names an expert that is not in the bunch, or evaluation files are not there.
        DataError: nothing of some kind was left to keep.
    """
    models = bunch.models() | {"generator": config.generator}
    for name, domain in config.domains.items():
        if expert_of(name, domain) not in bunch.experts:
            raise ConfigError(
                f"data.domains.{name}: its expert must be in the bunch, but {expert_of(name, domain)!r} is not among "
                f"{', '.join(bunch.experts)}; set data.domains.{name}.expert"
            )
    tested = evaluation_texts(config.cleaning.overlap)
    stages = folder / "stages"
    counts: Counter[str] = Counter()
    with open_engine(engine) as writer:
        everyone = models | {"guard": config.guard.model}
        writer.check(everyone.values())
        identities = {name: writer.identity(model) for name, model in everyone.items()}
        own = config.model_dump_json(exclude={"folder", "generator", "guard", "cleaning"})
        stamp = _hash(seed, identities, own, engine.kind, engine.dtype)
        questions = _stage(
            stages / "questions.jsonl",
            stamp,
            Question,
            lambda: write_questions(writer, config, models, seed, counts),
            counts,
        )
        say(f"questions: {len(questions)} written")
        clean = clean_questions(questions, config.cleaning, seed, counts, tested=tested)
        say(f"clean: {len(clean)} left")
        stamp = _hash(stamp, config.cleaning.model_dump(exclude={"overlap": {"files", "folder"}}), tested)
        answered = _stage(
            stages / "answers.jsonl",
            stamp,
            Answered,
            lambda: answer_questions(writer, config, bunch.models(), clean),
            counts,
        )
        say(f"answers: {sum(len(a.answers) for a in answered)} from {len(bunch.models())} models")
        sound = clean_answers(answered, config.cleaning, counts)
        stamp = _hash(stamp, config.guard.model_dump_json(exclude={"model"}))
        judged = _stage(stages / "verdicts.jsonl", stamp, Judged, lambda: judge(writer, config, sound), counts)
        say(f"verdicts: {sum(len(j.unsafe) for j in judged)} exchanges judged")
    picked = pick(config, judged, seed, counts)
    near = config.cleaning.near
    labels = near_clusters([row.question for row in picked], near, seed) if near else None
    rows = split(config, picked, seed, counts, labels)
    _check_search_rows(folder, config, rows, counts)
    facts = Facts(counts=dict(sorted(counts.items())), models=everyone, seed=seed, hashes=identities)
    write_data(folder, rows, question_kinds(config), facts, judged)
    write_text(folder / "summary.json", json.dumps(facts.counts, indent=2) + "\n")
    say(f"rows: {len(rows)} kept in {folder}")
    return folder


def _stage(
    path: Path, stamp: str, record: type[Record], make: Callable[[], Sequence[Record]], counts: Counter[str]
) -> list[Record]:
    """Reads a stage's records where they are whole and of the same stamp, else makes and writes them.

    The first line of the file holds the stamp and what the stage counted.
    """
    if path.is_file():
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        written = json.loads(head)
        if written["stamp"] == stamp:
            counts.update(written["counts"])
            return [record.model_validate_json(line) for line in lines]
    before = counts.copy()
    records = list(make())
    head = json.dumps({"stamp": stamp, "counts": dict(counts - before)})
    write_text(path, "\n".join([head, *(r.model_dump_json() for r in records)]) + "\n")
    return records


def _check_search_rows(folder: Path, config: DataConfig, rows: Sequence[Row], counts: Counter[str]) -> None:
    there = {row.kind for row in rows if row.split == "search"}
    for kind in question_kinds(config):
        if kind not in there:
            raise DataError(
                f"{kind}: at least one row must be left to search on, but of {counts[f'{kind}/asked']} asked none "
                f"was kept ({_reasons(kind, counts)}); ask for more, or look at {folder / 'stages'}"
            )


def _reasons(kind: str, counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key.split('/')[1]} {n}" for key, n in counts.items() if key.startswith(f"{kind}/") and n)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
