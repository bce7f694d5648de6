"""Random mergekit configs, for tests against mergekit itself."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Method

#: Methods by every way in which they take parameters.
METHOD_NAMES = (
    "task_arithmetic ties dare_linear della breadcrumbs linear passthrough slerp nuslerp multislerp karcher "
    "model_stock sce arcee_fusion nearswap"
).split()

#: How many layers the models have.
DEPTHS = (1, 2, 3, 5, 12)

_FILTERS = ("*", "self_attn", "mlp", ".layers.1.", "layers.1", "embed", "lm_head", "model.norm", "q_proj.weight", "zzz")

_FLOATS = st.one_of(
    st.floats(-2, 2, allow_subnormal=False), st.integers(-2, 2), st.sampled_from(["0.3", "1e-3", "-2", "0.25"])
)


def llama_names(layers: int) -> list[str]:
    """Tensor names of a Llama with a head of its own."""
    inside = [
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        "input_layernorm",
        "post_attention_layernorm",
    ]
    layered = [f"model.layers.{i}.{part}.weight" for i in range(layers) for part in inside]
    return ["model.embed_tokens.weight", *layered, "model.norm.weight", "lm_head.weight"]


def settings_of(kind: type) -> st.SearchStrategy[Any]:
    """Scalars, gradients and filters."""
    scalars = {bool: st.booleans(), int: st.integers(1, 9), float: _FLOATS}[kind]
    values = scalars if kind is int else st.one_of(scalars, st.lists(scalars, min_size=1, max_size=4))
    entry = st.fixed_dictionaries({"value": values}, optional={"filter": st.sampled_from(_FILTERS)})
    return st.one_of(values, entry, st.lists(entry, min_size=1, max_size=4))


@st.composite
def parameters_of(draw: st.DrawFn, method: Method, level: str) -> dict[str, Any]:
    """What may be set at a level: `source`, `slice` or `top`."""
    coefficient = method.coefficient
    kinds = {one.name: (type(one.default), one.per_expert) for one in method.parameters}
    if coefficient.name:
        kinds[coefficient.name] = (float, not coefficient.shared)
    allowed = {name: kind for name, (kind, per_expert) in kinds.items() if per_expert or level != "source"}
    return {
        name: draw(settings_of(kind))
        for name, kind in allowed.items()
        if draw(st.integers(0, 2)) or (level == "top" and name == coefficient.name)
    }


@st.composite
def mergekit_configs(draw: st.DrawFn, names: tuple[str, ...] = tuple(METHOD_NAMES)) -> tuple[int, dict[str, Any]]:
    """A depth, and a config over the models a, b, c, d."""
    method = METHODS[draw(st.sampled_from(names))]
    depth = draw(st.sampled_from(DEPTHS))
    least, most = method.experts
    experts = draw(st.integers(least, min(most or 3, 3)))
    has_base = method.base == "required" or (method.base == "optional" and draw(st.booleans()))
    models = draw(st.permutations("abcd"))[: experts + has_base]
    base = draw(st.sampled_from(models)) if has_base else None
    config: dict[str, Any] = {"merge_method": method.name, "parameters": draw(parameters_of(method, "top"))}

    def source(model: str) -> dict[str, Any]:
        return {"model": model} | ({} if model == base else {"parameters": draw(parameters_of(method, "source"))})

    if draw(st.booleans()):
        listed = [model for model in models if model != base or draw(st.booleans())]
        config["models"] = [source(model) for model in listed or models]
    else:
        cuts = sorted({0, depth, *draw(st.lists(st.integers(1, depth), max_size=2))})
        config["slices"] = [
            {
                "sources": [source(model) | {"layer_range": [begin, end]} for model in draw(st.permutations(models))],
                "parameters": draw(parameters_of(method, "slice")),
            }
            for begin, end in pairwise(cuts)
        ]
    return depth, config | ({"base_model": base} if base else {})


def placed(config: Any, folders: dict[str, str]) -> Any:
    """The config with models by their folders."""
    if isinstance(config, dict):
        return {
            key: folders.get(value, value) if key in ("model", "base_model") else placed(value, folders)
            for key, value in config.items()
        }
    return [placed(value, folders) for value in config] if isinstance(config, list) else config
