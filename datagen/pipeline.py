"""`goodbunch datagen`: questions -> check -> clean -> answers -> clean -> verdicts -> pick -> split -> files.

Whatever an engine says goes into a journal as it is said (`journal.py`); all else is quick, and done again. So a killed
run goes on where it was, and a changed config redoes exactly what it affects.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from datagen.answers import answer_questions
from datagen.card import Facts
from datagen.checking import check_questions
from datagen.cleaning import clean_answers, clean_questions, near_clusters
from datagen.cleaning.evaluations import evaluation_texts
from datagen.cluster import Cluster, Workers
from datagen.config import BunchConfig, EngineConfig
from datagen.data_config import DataConfig
from datagen.engines.base import Engine, open_engine
from datagen.engines.cluster import RayEngine
from datagen.errors import ConfigError, DataError
from datagen.files import write_text
from datagen.holding import held, replaced
from datagen.importing import Imported, import_file
from datagen.journal import Journal
from datagen.judging import judge, pick, second_opinion
from datagen.progress import console
from datagen.prompts import check_prompt
from datagen.questions import Brief, Written, open_briefs, write_questions
from datagen.records import Answered, Judged, Question
from datagen.rows import Row
from datagen.splits import split
from datagen.writing import write_data


class Inputs(NamedTuple):
    """Everything that a config names besides models."""

    briefs: list[Brief]
    imported: Imported
    tested: dict[str, list[str]]


def open_inputs(bunch: BunchConfig, config: DataConfig, seed: int) -> Inputs:
    """Reads topics, attributes, examples, imports and evaluation files, so that a mistake in them costs seconds.

    Raises:
        ConfigError: a domain names an expert that is not in the bunch, or something named is not there.
        DataError: a file cannot be read.
    """
    for kind in config.domains:
        if config.expert(kind) not in bunch.experts:
            raise ConfigError(
                f"data.domains.{kind}: its expert must be in the bunch, but {config.expert(kind)!r} is not among "
                f"{', '.join(bunch.experts)}; set data.domains.{kind}.expert"
            )
    for role, asked in (("guard", config.guard), ("refusal", config.refusal), ("judge", config.judge)):
        if asked is not None and asked.prompt:
            check_prompt(f"data.{role}", asked.prompt, ["question", "answer"], "answer")
    imported = Imported()
    for one in config.imports:
        found = import_file(Path(one.file), one.kind, config.kinds(), one.rename)
        imported.questions.extend(found.questions)
        imported.answered.extend(found.answered)
    return Inputs(open_briefs(config, seed), imported, evaluation_texts(config.cleaning.overlap))


def generate(
    bunch: BunchConfig,
    config: DataConfig,
    engine: EngineConfig,
    folder: Path,
    seed: int,
    say: Callable[[str], None] = console.print,
    workers: Workers | None = None,
) -> Path:
    """Writes `folder/<split>/<kind>.jsonl`, `folder/README.md` and `folder/summary.json`.

    Args:
        folder: where the data goes; what an earlier run was told, in `folder/stages`, is not asked for again.
        seed: of everything random.
        say: told one line per stage.
        workers: of a Ray cluster, which share the work; by default one engine does all.

    Returns:
        `folder`.

    Raises:
        ConfigError: a domain names an expert that is not in the bunch, or something named is not there.
        DataError: nothing of some kind was left to keep, or a file cannot be read or written.
    """
    inputs = open_inputs(bunch, config, seed)
    models = bunch.models() | config.models()
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        engines = _engines(stack, engine, bunch, workers)
        for one in engines if engine.kind == "server" else engines[:1]:
            one.check(models.values())
        stack.enter_context(held(folder, "writing data"))
        journal = Journal(engines, folder / "stages", engine.chunk, f"{engine.kind} {engine.dtype}")
        written = write_questions(journal, inputs.briefs, models, config, seed, counts)
        say(f"questions: {len(written.questions)} written")
        asked = _asked(journal, inputs, written, models, config, seed, counts)
        say(f"check and clean: {len(asked)} left")
        answered = answer_questions(
            journal, config, bunch.answering(), [q for q in asked if not isinstance(q, Answered)]
        )
        answered = [*(q for q in asked if isinstance(q, Answered)), *answered]
        say(f"answers: {sum(len(a.answers) for a in answered)} from {len(bunch.answering())} models")
        judged = judge(journal, config, clean_answers(answered, config.cleaning, counts))
        say(f"verdicts: {sum(len(j.unsafe) for j in judged)} exchanges judged")
        rows = second_opinion(journal, config, _picked(config, judged, seed, counts))
        # A server tells no fingerprint of its models, and where it stands is no one else's concern.
        hashes = {name: journal.identity(model) for name, model in models.items() if engine.kind != "server"}
        _check_search_rows(folder, config, rows, counts)
        hashes["evaluation data"] = hashlib.sha256(json.dumps(inputs.tested).encode()).hexdigest()[:16]
        facts = Facts(counts=dict(sorted(counts.items())), models=models, seed=seed, hashes=hashes)
        with replaced(folder):
            write_data(folder, rows, config.kinds(), facts, judged)
            write_text(folder / "summary.json", json.dumps(facts.counts, indent=2) + "\n")
    say(f"rows: {len(rows)} kept in {folder}")
    return folder


def _engines(stack: ExitStack, config: EngineConfig, bunch: BunchConfig, workers: Workers | None) -> list[Engine]:
    """All that share the work; what they are asked does not depend on how many there are."""
    tokenizers = bunch.tokenizers()
    if workers is not None and config.kind != "server":
        cluster = stack.enter_context(Cluster(workers, config.tensor_parallel))
        return [stack.enter_context(RayEngine(cluster, config, tokenizers)) for _ in range(cluster.count)]
    addresses = [config.address, *config.replicas]
    return [
        stack.enter_context(open_engine(config.model_copy(update={"address": one}), tokenizers)) for one in addresses
    ]


def _asked(
    journal: Journal,
    inputs: Inputs,
    written: Written,
    models: Mapping[str, str],
    config: DataConfig,
    seed: int,
    counts: Counter[str],
) -> list[Question]:
    """Questions worth answering; those of the user's, some with answers, come first and win over like ones."""
    checked = check_questions(journal, inputs.briefs, models, written.questions, counts)
    imported = [*inputs.imported.answered, *inputs.imported.questions]
    counts.update(f"{question.kind}/imported" for question in imported)
    return clean_questions(
        [*imported, *checked], config.cleaning, seed, counts, examples=written.shown, tested=inputs.tested
    )


def _picked(config: DataConfig, judged: Sequence[Judged], seed: int, counts: Counter[str]) -> list[Row]:
    """Rows with their splits."""
    picked = pick(config, judged, seed, counts)
    near = config.cleaning.near
    labels = near_clusters([row.asked for row in picked], near, seed) if near is not None else None
    return split(config, picked, seed, counts, labels)


def _check_search_rows(folder: Path, config: DataConfig, rows: Sequence[Row], counts: Counter[str]) -> None:
    there = {row.kind for row in rows if row.split == "search"}
    for kind in config.kinds():
        if kind not in there:
            raise DataError(
                f"{kind}: at least one row must be left to search on, but of {counts[f'{kind}/asked']} asked none "
                f"was ({_reasons(kind, counts)}); ask for more, or look at {folder / 'stages'}"
            )


def _reasons(kind: str, counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key.split('/')[1]} {n}" for key, n in counts.items() if key.startswith(f"{kind}/") and n)
