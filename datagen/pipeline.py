"""`goodbunch datagen`: questions -> distinct -> answers -> verdicts -> rows -> splits.

Each stage writes its records before the next begins and is skipped when they are there, so a killed run goes on with
the stage it was in. What a stage depends on is hashed into its file; a changed config redoes the stages it affects.
"""

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from datagen.answers import answer_questions
from datagen.checkpoints import fingerprint
from datagen.config import BunchConfig, DataConfig, EngineConfig, Frozen
from datagen.engines.vllm import VllmEngine
from datagen.errors import ConfigError, DataError
from datagen.judging import judge, pick
from datagen.progress import console
from datagen.questions import distinct, expert_of, question_kinds, write_questions
from datagen.records import Answered, Judged, Question
from datagen.rows import Row, normalised, read_rows, write_rows, write_text
from datagen.splits import split

Record = TypeVar("Record", bound=Frozen)
SPLITS = ("search", "validation", "test")


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
        ConfigError: a domain names an expert that is not in the bunch, or an exclude pattern matches nothing.
        DataError: nothing of some kind was left to keep.
    """
    models = bunch.models() | {"generator": config.generator}
    for name, domain in config.domains.items():
        if expert_of(name, domain) not in bunch.experts:
            raise ConfigError(
                f"data.domains.{name}: its expert must be in the bunch, but {expert_of(name, domain)!r} is not among "
                f"{', '.join(bunch.experts)}; set data.domains.{name}.expert"
            )
    excluded, exclusions = _excluded(config.exclude)
    identities = {name: fingerprint(model) for name, model in (models | {"guard": config.guard.model}).items()}
    stages = folder / "stages"
    stamp = _hash(
        seed, identities, config.model_dump_json(exclude={"folder", "generator", "guard", "exclude"}), engine.dtype
    )
    counts: Counter[str] = Counter()
    with VllmEngine(engine) as vllm:
        questions = _stage(
            stages / "questions.jsonl",
            stamp,
            Question,
            lambda: write_questions(vllm, config, models, seed, counts),
            counts,
        )
        say(f"questions: {len(questions)} written")
        distinct_questions = distinct(questions, excluded, counts)
        say(f"distinct: {len(distinct_questions)} left")
        stamp = _hash(stamp, exclusions)
        answered = _stage(
            stages / "answers.jsonl",
            stamp,
            Answered,
            lambda: answer_questions(vllm, config, bunch.models(), distinct_questions),
            counts,
        )
        say(f"answers: {sum(len(a.answers) for a in answered)} from {len(bunch.models())} models")
        stamp = _hash(stamp, config.guard.model_dump_json(exclude={"model"}))
        judged = _stage(stages / "verdicts.jsonl", stamp, Judged, lambda: judge(vllm, config, answered), counts)
        say(f"verdicts: {sum(len(j.unsafe) for j in judged)} exchanges judged")
    rows = split(config, pick(config, judged, seed, counts), seed, counts)
    _write(folder, config, rows, counts)
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


def _write(folder: Path, config: DataConfig, rows: Sequence[Row], counts: Counter[str]) -> None:
    kinds = list(question_kinds(config))
    for name in SPLITS:
        for kind in kinds:
            some = [row for row in rows if row.split == name and row.kind == kind]
            path = folder / name / f"{kind}.jsonl"
            if some:
                write_rows(path, some)
            else:
                path.unlink(missing_ok=True)
            if name == "search" and not some:
                raise DataError(
                    f"{kind}: at least one row must be left to search on, but of {counts[f'{kind}/asked']} asked none "
                    f"was kept ({_reasons(kind, counts)}); ask for more, or look at {folder / 'stages'}"
                )
    write_text(folder / "summary.json", json.dumps(dict(sorted(counts.items())), indent=2) + "\n")


def _reasons(kind: str, counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key.split('/')[1]} {n}" for key, n in counts.items() if key.startswith(f"{kind}/") and n)


def _excluded(patterns: Iterable[str]) -> tuple[frozenset[str], str]:
    """All questions of the files that match, and a hash of them."""
    texts: set[str] = set()
    for pattern in patterns:
        paths = sorted(glob.glob(pattern))  # noqa: PTH207 - patterns may be absolute
        if not paths:
            raise ConfigError(f"data.exclude: a pattern must match a file, but {pattern!r} matches none")
        for path in paths:
            texts.update(normalised(row.question) for row in read_rows(Path(path)))
    return frozenset(texts), _hash(sorted(texts))


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
