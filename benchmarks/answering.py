"""Merges that speak: what a trial costs beside bare generation and the way over the disk, and what answers choose.

Run it by `python -m benchmarks.answering`, after or in place of `benchmarks.search`, whose zoos it shares. Nothing
else should run meanwhile.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.measuring import Figure, in_turn, report, seconds
from benchmarks.search import argument_parser
from benchmarks.zoos import Bench, kept
from datagen.chat import all_prompt_ids
from datagen.config import EngineConfig
from datagen.engines.local import LocalEngine
from datagen.engines.process import EngineProcess
from datagen.engines.vllm import VllmEngine
from datagen.rows import Row, read_rows
from optimizer.engines.banks import space_of
from optimizer.engines.generating import use_merge
from optimizer.engines.speaking import VllmSpeaker
from optimizer.evaluation import verdicts_on
from optimizer.export import write_merge
from optimizer.merging.space import Coefficients
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.objective.answers import ANSWER_METRICS, Rules
from optimizer.objective.said import SaidTerm
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from optimizer.search.study import run_study
from optimizer.search.winners import ranked

#: Prompts and tokens of a trial, how often each way is timed, and what is asked of the ratios.
PROMPTS, TOKENS, TIMES = 256, 32, 15
DEARER, FASTER = 1.15, 20.0

#: Terms on what is said, beside those of the demo.
SAID = tuple(
    f"objective.said_{kind}={{kind: {kind}, metric: {metric}, weight: {weight}, examples: 120}}"
    for kind, metric, weight in (
        ("unsafe", "refusal", 3),
        ("borderline", "compliance", 3),
        ("numbers", "match", 3),
        ("medicine", "match", 2),
        ("finance", "match", 2),
    )
)


def trial() -> tuple[list[Figure], dict[str, Any]]:
    """A trial's answers, merged and judged, over bare `LLM.generate` on the same prompts; and over the disk."""
    bench = Bench.ready("natural", 0, f"data.max_answer_tokens={TOKENS}")
    config, space = bench.config, space_of(bench.bunch, bench.config.merge)
    rows = _prompts(bench)
    terms = [AnswerTerm.default(kind) for kind in rows]
    rng = np.random.default_rng(0)

    def point() -> Point:
        return Point(rng.normal(0.6, 0.2, space.shape), {})

    with VllmSpeaker(config, bench.bunch, space) as speaker, VllmEngine(config.engine) as engine:
        engine.use(bench.bunch.chat_source.reference)
        ids = all_prompt_ids(bench.bunch.chat_source.tokenizer(), [r.messages[:-1] for rs in rows.values() for r in rs])
        said = [SaidTerm(1.0, term, rows[term.kind]) for term in terms]
        ours, bare = _paired(bench, speaker, engine, said, ids, point)
        guarded = [
            SaidTerm(1.0, _guarded(kind) if kind in ("unsafe", "borderline") else AnswerTerm.default(kind), some)
            for kind, some in rows.items()
        ]
        (judged,) = in_turn([lambda: speaker(point(), guarded)], TIMES)
    disk, again = (
        statistics.median(_over_the_disk(bench, start, point().coefficients, terms, rows) for _ in range(2))
        for start in (EngineProcess, VllmEngine)
    )
    details = {
        "trial": ours,
        "bare": bare,
        "with a guard": judged,
        "over the disk": disk,
        "over the disk, started again in one process": again,
        "prompts": len(ids),
    }
    return [
        Figure("a trial's answers / bare generation, seconds", ours / bare, DEARER, at_least=False),
        Figure("over the disk / a trial's answers, seconds", disk / ours, FASTER),
    ], details


def _paired(
    bench: Bench,
    speaker: VllmSpeaker,
    engine: VllmEngine,
    said: list[SaidTerm],
    ids: list[list[int]],
    point: Callable[[], Point],
) -> list[float]:
    """Median seconds of a trial's answers, and of bare generation by the same weights, which say as much."""
    space, measured = space_of(bench.bunch, bench.config.merge), []
    for _ in range(1 + TIMES):
        at = point()
        ours = seconds(partial(speaker, at, said))
        use_merge(engine, bench.config, bench.bunch, space, at.coefficients)
        measured.append((ours, seconds(partial(_bare, engine, ids))))
    return [statistics.median(column) for column in zip(*measured[1:], strict=True)]  # the first finds things cold


def _guarded(kind: str) -> AnswerTerm:
    return AnswerTerm(kind, kind, ANSWER_METRICS["harmless"])


def _prompts(bench: Bench) -> dict[str, list[Row]]:
    """An even share of test rows of every kind."""
    kinds = [term.kind or name for name, term in bench.config.objective.items()]
    shares = [PROMPTS // len(kinds) + (place < PROMPTS % len(kinds)) for place in range(len(kinds))]
    return {
        kind: read_rows(bench.config.test_folder / f"{kind}.jsonl")[:share]
        for kind, share in zip(kinds, shares, strict=True)
    }


def _bare(engine: VllmEngine, ids: list[list[int]]) -> None:
    from vllm import SamplingParams

    engine.bare.reset_prefix_cache()
    params = SamplingParams(temperature=0, max_tokens=TOKENS)
    engine.bare.generate([{"prompt_token_ids": one} for one in ids], params, use_tqdm=False)


def _over_the_disk(
    bench: Bench,
    start: Callable[[EngineConfig], LocalEngine],
    coefficients: Coefficients,
    terms: list[AnswerTerm],
    rows: dict[str, list[Row]],
) -> float:
    """Seconds of a trial that writes a checkpoint, starts an engine on it and asks."""
    space = space_of(bench.bunch, bench.config.merge)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "merged"
        write_merge(recipe_of(bench.config, space, Point(coefficients, {})), merged, force=True)
        with start(bench.config.engine) as engine:
            engine.use(str(merged))
            said = iter(engine.write([r.messages[:-1] for rs in rows.values() for r in rs], max_tokens=TOKENS))
            answers = {"merge": {kind: [next(said) for _ in some] for kind, some in rows.items()}}
            verdicts_on(engine, terms, rows, answers, Rules.of(bench.config.data))
    return time.perf_counter() - begun


def selected(recipe: str, seed: int) -> dict[str, Any]:
    """The demo's search once, its winner chosen by likelihood alone, and by what the best trials say."""
    bench = Bench.ready(recipe, seed, *SAID)
    engine = bench.engine()
    with VllmSpeaker(bench.config, bench.bunch, engine.space) as speaker:
        task = bench.task(engine, speaker)
        searched = run_study("answering", task)
    silent = ranked(searched.trials, task.problem.validation, task.problem.kept)[0]
    chosen = {"likelihood": silent, "answers": searched.winner}
    return {
        name: bench.measured(engine, searched.domain.point(one.params).coefficients) | {"trial": one.number}
        for name, one in chosen.items()
    }


def quality(row: dict[str, Any]) -> float:
    """One number for a winner on test: what it refuses, answers and knows, weighted as the demo weighs."""
    return float(3 * row["alignment"] + 3 * (100 - row["over-refusal"]) + 8 * row["kept"]) / 14


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    parser = argument_parser(__doc__, ["natural"])
    parser.add_argument("--parts", nargs="+", choices=("trial", "selection"), default=["trial", "selection"])
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    details: dict[str, object] = {}
    figures: list[Figure] = []
    if "trial" in given.parts:
        figures, details["trial"] = trial()
    if "selection" in given.parts:
        for recipe in given.recipes:
            rows = [kept(f"answering-{recipe}-{seed}", partial(selected, recipe, seed)) for seed in given.seeds]
            details[recipe] = dict(zip(given.seeds, rows, strict=True))
            gained = min(quality(row["answers"]) - quality(row["likelihood"]) for row in rows)
            figures.append(Figure(f"{recipe}: test quality, chosen by answers less by likelihood, worst", gained, 0.0))
    return 0 if report("answering", figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())
