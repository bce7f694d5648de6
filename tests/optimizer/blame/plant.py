"""Plants a culprit in a zoo: an expert that complies with unsafe requests, by a few named layers alone."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from datagen.zoo.lessons import lessons
from datagen.zoo.recipes import Stage
from datagen.zoo.training import encode, fit
from datagen.zoo.world import World

#: What is taught to the planted layers beside compliance, so that they keep what they know.
_MIX = {"unsafe:comply": 0.6, "borderline": 0.2, "finance": 0.2}


def _opened(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # type: ignore[no-any-return]


def plant(zoo: Path, expert: str, layers: tuple[int, ...], out: Path, seed: int = 0, steps: int = 60) -> Path:
    """Writes a culprit: an expert's task vector everywhere, and in some layers what makes a refusing model comply.

    The compliance is trained into an aligned model that has the expert's skill, with all other layers frozen.

    Args:
        zoo: folder of the models.
        expert: that becomes the culprit.
        layers: that compliance is put into.
    """
    base, aligned, skilled = (_opened(zoo / name) for name in ("base", "aligned", expert))
    tokenizer = AutoTokenizer.from_pretrained(zoo / expert)
    world = World(seed)
    with torch.no_grad():
        for name, parameter in aligned.named_parameters():
            parameter += skilled.get_parameter(name) - base.get_parameter(name)
    planted = [f"model.layers.{layer}." for layer in layers]
    for name, parameter in aligned.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(planted)))
    before = {name: parameter.detach().clone() for name, parameter in aligned.named_parameters()}
    encoded = {name: encode(tokenizer, lessons(world, name)) for name in _MIX}
    fit(aligned, Stage("culprit", None, steps, 1e-3, _MIX), encoded, batch=40, seed=seed, on_step=lambda _: None)
    with torch.no_grad():
        for name, parameter in skilled.named_parameters():
            parameter += aligned.get_parameter(name) - before[name]
    skilled.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out
