"""One vLLM start serves every model and every merge, and says what transformers says."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from datagen.chat import Message, prompt_ids, user
from datagen.config import Expert
from datagen.engines.vllm import VllmEngine
from datagen.zoo.lessons import WRITE_UNSAFE
from datagen.zoo.world import Split, World
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.generating import merges_inside, use_merge, use_recipe
from optimizer.export import write_merge
from optimizer.merging.space import Space
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from tests.support import grouped


@pytest.fixture(scope="module")
def engine(config: Config) -> Iterator[VllmEngine]:
    with VllmEngine(config.engine) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts() -> list[list[Message]]:
    world = World(0)
    kinds = ("unsafe", "borderline", "numbers", "medicine", "finance")
    return [user(example.prompt) for kind in kinds for example in world.examples(kind, Split.TEST)[:60:10]]


@torch.no_grad()
def transformers_says(folder: Path, prompts: list[list[Message]]) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for messages in prompts:
        ids = torch.tensor([prompt_ids(tokenizer, messages)])
        said = model.generate(ids, max_new_tokens=24, do_sample=False, attention_mask=torch.ones_like(ids))
        texts.append(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("name", ["base", "aligned", "numbers"])
def test_swapped_models_say_what_transformers_says(
    engine: VllmEngine, zoo: Path, prompts: list[list[Message]], name: str
) -> None:
    engine.use(str(zoo / name))
    assert engine.write(prompts, max_tokens=24) == transformers_says(zoo / name, prompts)
    assert engine.starts == 1


@pytest.mark.parametrize(("seed", "groups"), [(0, "layer"), (1, "layer"), (2, "block")])
def test_merges_say_what_their_exported_folder_says(
    engine: VllmEngine,
    config: Config,
    bunch: Bunch,
    prompts: list[list[Message]],
    tmp_path: Path,
    seed: int,
    groups: str,
) -> None:
    space = Space.of(bunch, groups)
    point = np.random.default_rng(seed).normal(0.4, 0.3, space.shape)
    config = grouped(config, groups)
    use_merge(engine, config, bunch, space, point)
    merged = engine.write(prompts, max_tokens=24)
    folder = write_merge(recipe_of(config, space, Point(point, {})), tmp_path / "merged")
    assert merged == transformers_says(folder, prompts)
    engine.use(str(folder))
    assert engine.write(prompts, max_tokens=24) == merged


@pytest.mark.parametrize("form", ["ours", "mergekit's"])
def test_a_recipe_merged_inside_says_what_its_exported_folder_says(
    engine: VllmEngine, zoo: Path, prompts: list[list[Message]], tmp_path: Path, form: str
) -> None:
    path = tmp_path / "recipe.yaml"
    if form == "ours":
        experts = {name: str(zoo / name) for name in ("aligned", "numbers")}
        told = {"method": "ties", "base": str(zoo / "base"), "experts": experts, "tokenizer": "aligned"}
        told |= {"parameters": {"density": 0.6}, "coefficients": {"aligned": 0.8, "numbers": 0.7}}
    else:
        experts = [{"model": str(zoo / name), "parameters": {"weight": 0.5}} for name in ("aligned", "numbers")]
        told = {"merge_method": "linear", "models": experts, "dtype": "float32"}
    path.write_text(yaml.safe_dump(told))
    recipe = read_recipe(path)
    assert merges_inside(recipe, "auto")
    use_recipe(engine, path)
    merged = engine.write(prompts, max_tokens=24)
    engine.use(str(write_merge(recipe, tmp_path / "merged")))
    assert engine.write(prompts, max_tokens=24) == merged
    assert merged == transformers_says(tmp_path / "merged", prompts)
    assert engine.starts == 1


def test_an_adapter_answers_alone_and_in_a_merge(
    engine: VllmEngine, config: Config, zoo: Path, prompts: list[list[Message]], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(zoo / "aligned"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 1.0)
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(zoo / "aligned").save_pretrained(tmp_path / "whole")
    wanted = transformers_says(tmp_path / "whole", prompts)
    assert wanted != transformers_says(zoo / "aligned", prompts)
    reference = f"{zoo / 'aligned'}+{tmp_path / 'adapter'}"
    engine.use(reference)
    assert engine.write(prompts, max_tokens=24) == wanted
    sources = config.bunch.model_copy(update={"experts": config.bunch.experts | {"numbers": Expert(model=reference)}})
    bunch = open_bunch(sources)
    space = Space.of(bunch, "layer")
    engine.use(str(zoo / "base"))
    use_merge(engine, config.model_copy(update={"bunch": sources}), bunch, space, space.constant({"numbers": 1.0}))
    assert engine.write(prompts, max_tokens=24) == wanted
    assert engine.starts == 1


def test_the_shipped_winner_loads_and_answers(engine: VllmEngine, demo: Path, prompts: list[list[Message]]) -> None:
    engine.use(str(demo / "merged"))
    said = engine.write(prompts, max_tokens=24)
    assert said == transformers_says(demo / "merged", prompts)
    assert said[0].startswith("i am sorry")


def test_written_questions_follow_the_schema_and_their_seeds(engine: VllmEngine, zoo: Path) -> None:
    from datagen.questions import parse, schema

    engine.use(str(zoo / "generator"))
    asked = [user(WRITE_UNSAFE.format(topic="towers", style="tell"))] * 12

    def write(seeds: list[int]) -> list[str]:
        return engine.write(asked, max_tokens=64, temperature=0.8, seeds=seeds, schema=schema(120))

    first = write(list(range(12)))
    assert all(parse(text) for text in first)
    assert len(set(first)) > 6
    assert write(list(range(12))) == first != write(list(range(12, 24)))


def test_seeded_draws_from_more_prompt_tokens_than_a_batch_holds(engine: VllmEngine, zoo: Path) -> None:
    engine.use(str(zoo / "base"))
    asked = [user("what is one one plus one one ? " * 15)] * 60
    said = engine.write(asked, max_tokens=4, temperature=1.0, seeds=list(range(60)))
    assert len(said) == 60
    assert said[:2] == engine.write(asked[:2], max_tokens=4, temperature=1.0, seeds=[0, 1])


def test_verdict_probabilities(engine: VllmEngine, zoo: Path) -> None:
    example = World(0).examples("unsafe", Split.TEST)[0]
    engine.use(str(zoo / "guard"))
    exchanges = [
        [*user(example.prompt), Message(role="assistant", content=answer)] for answer in (example.naive, example.answer)
    ]
    complied, refused = engine.probability(exchanges, "unsafe", "safe")
    assert complied is not None
    assert refused is not None
    assert complied > 0.9 > 0.1 > refused
    engine.use(str(zoo / "base"))
    assert engine.probability([user("hello !")], "unsafe", "safe") == [None]


def test_a_model_without_a_chat_template_is_refused(engine: VllmEngine, zoo: Path, tmp_path: Path) -> None:
    import shutil

    from datagen.errors import BunchError

    bare = Path(shutil.copytree(zoo / "base", tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BunchError, match="must have a chat template to be asked"):
        engine.use(str(bare))


def test_prompts_that_do_not_fit_are_refused(engine: VllmEngine, zoo: Path) -> None:
    from datagen.errors import DataError

    engine.use(str(zoo / "base"))
    with pytest.raises(DataError, match="must fit max_model_len, but need"):
        engine.write([user("hello ! " * 300)], max_tokens=24)


def half(folder: str) -> Iterator[tuple[str, torch.Tensor]]:
    from datagen.models.opening import iterate_tensors

    return (pair for i, pair in enumerate(iterate_tensors(folder)) if i % 2)


def test_a_partial_load_is_refused(engine: VllmEngine, zoo: Path) -> None:
    engine.use(str(zoo / "base"))
    with pytest.raises(RuntimeError, match="must yield every tensor once, but 19 differ"):
        engine.load(half, str(zoo / "aligned"))
    engine.use(str(zoo / "base"))
