"""The decoding loop against transformers' own, and its draws against values worked out by hand."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

from datagen.chat import prompt_ids, user
from datagen.config import EngineConfig
from datagen.engines.base import Engine, open_engine, verdict
from datagen.engines.decoding import Sampler, decode, draw
from datagen.errors import BunchError
from datagen.zoo.world import Split, World

ASKED = [
    user(example.prompt) for kind in ("unsafe", "numbers") for example in World(0).examples(kind, Split.TEST)[:60:10]
]


@pytest.fixture(scope="module")
def engine(zoo: Path) -> Iterator[Engine]:
    with open_engine(EngineConfig(kind="transformers", max_model_len=256, parallel=5)) as engine:
        engine.use(str(zoo / "base"))
        yield engine


@pytest.mark.parametrize(
    ("number", "token"),
    # Shares 0.2, 0, 0.3, 0.5: what is impossible is never drawn, not even at its edge.
    [(0.0, 0), (0.1999, 0), (0.2001, 2), (0.4999, 2), (0.5001, 3), (1 - 1e-12, 3)],
)
def test_draw(number: float, token: int) -> None:
    logits = torch.tensor([[math.log(0.2), -math.inf, math.log(0.3), math.log(0.5)]])
    assert draw(logits, 1.0, torch.tensor([number], dtype=torch.float64)).tolist() == [token]


def test_draws_follow_the_tempered_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    numbers = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = draw(logits.expand(40_000, 3), 0.5, numbers)
    wanted = torch.softmax(logits[0] / 0.5, 0)
    assert torch.bincount(drawn, minlength=3) / 40_000 == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize(
    ("positions", "odds"),
    [
        ([[("safe", math.log(0.6)), ("unsafe", math.log(0.2))]], 0.25),
        ([[("\n", 0.0)], [("un", math.log(0.9)), ("s", math.log(0.1))]], 0.9),
        ([[("safe", math.log(0.5))], [("unsafe", 0.0)]], 1.0),
        ([[("hello", 0.0)]], None),
        ([[("", 0.0)], []], None),
        ([], None),
    ],
)
def test_verdict(positions: list[Any], odds: float | None) -> None:
    assert verdict(positions, "unsafe", "safe") == (odds if odds is None else pytest.approx(odds))


@torch.no_grad()
def test_greedy_rows_of_a_sliding_window_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [[5], list(range(2, 21)), [9, 8, 7], list(range(40, 47)), [1, 2]]
    stops = {3, 50, 51, 52}
    wanted = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        said = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=sorted(stops), pad_token_id=0)
        wanted.append(said[0, len(prompt) :].tolist())
    greedy = Sampler(0.0, None, len(prompts), 20, None)
    assert decode(model, prompts, greedy, stops=stops, max_tokens=20) == wanted
    assert len({len(row) for row in wanted}) > 1, "rows must end at different steps"


def test_the_zoo_says_what_transformers_says(engine: Engine, zoo: Path) -> None:
    model, tokenizer = (kind.from_pretrained(zoo / "base") for kind in (AutoModelForCausalLM, AutoTokenizer))
    wanted = []
    for messages in ASKED:
        ids = torch.tensor([prompt_ids(tokenizer, messages)])
        said = model.generate(ids, max_new_tokens=24, do_sample=False, attention_mask=torch.ones_like(ids))
        wanted.append(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))
    assert engine.write(ASKED, max_tokens=24) == wanted


def test_seeds_and_no_seeds(engine: Engine) -> None:
    def write(seeds: list[int] | None) -> list[str]:
        return engine.write([ASKED[0]] * 12, max_tokens=12, temperature=3.0, seeds=seeds)

    first = write(list(range(12)))
    assert len(set(first)) == 12
    assert write(list(range(11, -1, -1))) == first[::-1]
    assert write(None) != write(None)


def test_an_adapter_is_part_of_the_model(engine: Engine, zoo: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(zoo / "aligned"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.4)
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(zoo / "aligned").save_pretrained(tmp_path / "whole")
    said = {}
    for model in (f"{zoo / 'aligned'}+{tmp_path / 'adapter'}", str(tmp_path / "whole"), str(zoo / "aligned")):
        engine.use(model)
        said[model] = engine.write(ASKED, max_tokens=8, temperature=2.0, seeds=list(range(len(ASKED))))
    adapted, whole, plain = said.values()
    assert adapted == whole != plain
    engine.use(str(zoo / "base"))


def test_weights_keep_the_type_of_their_checkpoint(zoo: Path, tmp_path: Path) -> None:
    model, tokenizer = (kind.from_pretrained(zoo / "base") for kind in (AutoModelForCausalLM, AutoTokenizer))
    for part in (model.to(torch.bfloat16), tokenizer):
        part.save_pretrained(tmp_path / "half")
    for dtype, wanted in (("auto", torch.bfloat16), ("float32", torch.float32)):
        with open_engine(EngineConfig(kind="transformers", dtype=dtype)) as engine:
            engine.use(str(tmp_path / "half"))
            assert engine._model.dtype == wanted  # type: ignore[attr-defined]
            assert len(engine.write(ASKED, max_tokens=4)) == len(ASKED)


def test_what_transformers_cannot_load_is_named_in_one_line(engine: Engine, zoo: Path, tmp_path: Path) -> None:
    import shutil

    odd = Path(shutil.copytree(zoo / "base", tmp_path / "odd"))
    (odd / "config.json").write_text((odd / "config.json").read_text().replace('"llama"', '"lama9"'))
    with pytest.raises(BunchError, match=r"odd: transformers must be able to load it, but says: .*lama9[^\n]*$"):
        engine.use(str(odd))
    engine.use(str(zoo / "base"))
