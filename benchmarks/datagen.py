"""Writing data with the zoo: what it takes beside bare vLLM, and what the world's ground truth says of it.

Run it by `make bench`, or by `python -m benchmarks.datagen`; it takes about four minutes, and three more to train the
zoo if `.cache/demo/zoo` is not there. Nothing else should run meanwhile.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from benchmarks.measuring import Figure, report, seconds
from datagen.answers import answer_questions
from datagen.chat import Message, all_prompt_ids
from datagen.engines.local import open_chat
from datagen.engines.vllm import VllmEngine
from datagen.journal import Journal
from datagen.records import Question
from datagen.rows import Row, read_rows
from datagen.splits import SPLITS, imbalance
from datagen.zoo.build import build_zoo
from datagen.zoo.recipes import NATURAL
from datagen.zoo.world import DOMAINS, REFUSAL, Split, World
from optimizer.config import Config
from optimizer.loading import load_config

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "demo.yaml"
RUN = ROOT / ".cache" / "demo"

#: Kind -> rows to be kept, and questions asked for so that as many pass every check.
WANTED = {
    "unsafe": (1000, 4200),
    "borderline": (500, 2600),
    "domains.numbers": (300, 480),
    "domains.medicine": (300, 560),
    "domains.finance": (300, 480),
}

#: How far a topic may be off the mean of its kind.
BALANCE = 0.2


def ready() -> Config:
    """The demo's config, its zoo trained."""
    build_zoo(RUN / "zoo", NATURAL, 0)
    return load_config(CONFIG, [f"run={RUN}"])


def throughput(times: int = 3) -> bool:
    """Tokens per second of the answer stage, journal and changes of model included, over bare `LLM.generate`."""
    config = ready()
    bunch = config.bunch.models()
    questions = [
        Question.of(kind, example.prompt, topic=example.topic, writer="world")
        for kind in ("unsafe", "borderline", *DOMAINS)
        for example in World(0).examples(kind, Split.TEST)[:1500]
    ]
    spoken: Counter[str] = Counter()
    with VllmEngine(config.engine) as engine, tempfile.TemporaryDirectory() as folder:

        def stage() -> float:
            shutil.rmtree(folder)
            journal = Journal([engine], Path(folder), config.engine.chunk, "")
            return seconds(lambda: answer_questions(journal, config.data, bunch, questions))

        def bare(tokenized: bool) -> float:
            """Generating alone: weights are loaded and chat templates filled in before."""
            took = 0.0
            for name, model in bunch.items():
                asked = [q.conversation for q in questions if config.data.expert(q.kind) in (None, name)]
                engine.use(model)
                seconds_taken, spoken[name] = _bare(engine, open_chat(model)[1], asked, config, tokenized)
                took += seconds_taken
            return took

        stage()  # the engine starts
        measured = [(stage(), bare(tokenized=False), bare(tokenized=True)) for _ in range(times)]
    ours, texts, ids = (statistics.median(column) for column in zip(*measured, strict=True))
    tokens = spoken.total()
    details = {
        "tokens": tokens,
        "tokens per second": {"stage": tokens / ours, "bare": tokens / texts, "bare, tokenized before": tokens / ids},
        "stage over bare that was tokenized before": ids / ours,
        "seconds": measured,
    }
    print(details)
    return report("datagen-throughput", [Figure("answer stage / bare, tokens per second", texts / ours, 0.95)], details)


def _bare(
    engine: VllmEngine,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[Message]],
    config: Config,
    tokenized: bool,
) -> tuple[float, int]:
    """Seconds that vLLM takes for prompts, texts or tokens, and the tokens that it gives."""
    from vllm import SamplingParams

    texts = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    ids = all_prompt_ids(tokenizer, conversations)
    prompts = [{"prompt_token_ids": one} for one in ids] if tokenized else [{"prompt": text} for text in texts]
    params = SamplingParams(temperature=0, max_tokens=config.data.max_answer_tokens)
    begun = time.perf_counter()
    outputs = engine.bare.generate(prompts, params, use_tqdm=False, tokenization_kwargs={"add_special_tokens": False})
    took = time.perf_counter() - begun
    if [list(output.prompt_token_ids) for output in outputs] != ids:
        raise RuntimeError("both must be asked the same")
    return took, sum(len(output.outputs[0].token_ids) for output in outputs)


def quality() -> bool:
    """A large set by the command as a user runs it, engine starts included; judged by the world, not by the guard."""
    ready()
    command = [str(Path(sys.executable).parent / "goodbunch"), "datagen", str(CONFIG), f"vars.zoo={RUN / 'zoo'}"]
    command += [
        f"data.{kind}.{key}={n}" for kind, both in WANTED.items() for key, n in zip(("keep", "ask"), both, strict=True)
    ]
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        subprocess.run([*command, f"data.balance={BALANCE}", "--out", out], cwd=ROOT, check=True)  # noqa: S603
        took = time.perf_counter() - begun
        rows = [
            row for name in SPLITS for path in (Path(out) / "data" / name).glob("*.jsonl") for row in read_rows(path)
        ]
    kinds = {kind.removeprefix("domains."): keep for kind, (keep, _) in WANTED.items()}
    by_kind = {kind: [row for row in rows if row.kind == kind] for kind in kinds}
    truth = {
        example.prompt: example.kind
        for kind in by_kind
        for split in Split
        for example in World(0).examples(kind, split)
    }
    figures = [Figure("seconds in all", took, 240, at_least=False)]
    figures += [Figure(f"{kind} rows", len(some), kinds[kind]) for kind, some in by_kind.items()]
    for kind in ("unsafe", "borderline"):
        some = by_kind[kind]
        off = imbalance(Counter(row.topic for row in some).values())
        figures.append(Figure(f"{kind}: a topic off the mean", off, BALANCE, at_least=False))
        refused = sum(row.answer == REFUSAL for row in some) / len(some)
        named = "refusals" if kind == "unsafe" else "no refusals"
        figures.append(Figure(f"{kind} answers that are {named}", refused if kind == "unsafe" else 1 - refused, 0.95))
    fitting = {kind: _share(some, truth) for kind, some in by_kind.items() if kind in ("unsafe", "borderline")}
    return report("datagen-quality", figures, {"questions that are of their kind": fitting})


def _share(rows: list[Row], truth: dict[str, str]) -> float:
    return sum(truth.get(row.question) == row.kind for row in rows) / len(rows)


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"throughput": throughput, "quality": quality}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    met = [parts[name]() for name in parser.parse_args().parts]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
