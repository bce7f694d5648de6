"""Whether the models of a config belong together, and what of it must change for the machine it will run on."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from datagen.errors import ConfigError
from datagen.models.references import split_reference
from datagen.pipeline import open_inputs
from datagen.planning.hardware import Machine
from optimizer.bunch import open_bunch
from optimizer.bunch.opening import compare_papers
from optimizer.config import Config
from optimizer.planning.command import sizes_of
from optimizer.planning.plan import plan_search
from optimizer.planning.shape import shape_of

#: What of a model is compared without its weights.
_SMALL = ["config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template*"]


def check_models(config: Config) -> Iterator[str]:
    """Looks whether the models fit; yields what could not be checked yet, a line each.

    Of models that are not here config.json and tokenizer are downloaded and compared, if the hub can be reached.

    Raises:
        BunchError: some are damaged or do not fit, or a name is none.
        ConfigError: something named besides models is not there.
    """
    sizes = sizes_of(config)
    models = config.bunch.models()
    if all(sizes[model].here for model in models.values()):
        open_bunch(config.bunch)
    else:
        seen = {name: folder for name, model in models.items() if (folder := _papers(model, sizes[model].here))}
        if len(seen) > 1:
            compare_papers(seen, config.bunch)
        if unseen := [model for name, model in models.items() if name not in seen]:
            yield f"could not be looked at: {', '.join(unseen)}; `hf auth login`, or `hf download` them, and repeat"
    if away := [model for model in sizes if not sizes[model].here]:
        yield f"to be downloaded by `goodbunch datagen`, which looks at their weights: {', '.join(away)}"
    if config.evaluation.test:
        _check_tests(config)


def _papers(model: str, here: bool) -> str | None:
    """A model, or the folder of what of it is small; none if that cannot be had, or it is an adapter that is away."""
    if here:
        return model
    name, adapter = split_reference(model)
    if adapter is not None:
        return None
    name, _, revision = name.partition("@")
    try:
        return snapshot_download(name, revision=revision or None, allow_patterns=_SMALL)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return None


def fit(config: Config, machine: Machine) -> tuple[list[str], str]:
    """What must be changed for the search to fit a machine.

    Returns:
        Overrides, and what there is to say; no overrides and a remark if the machine is too small, or sizes unknown.
    """
    sizes = sizes_of(config)
    if unknown := [model for model in config.bunch.models().values() if sizes[model].parameters is None]:
        return [], f"the size of {unknown[0]} is not known, so whether it fits is not either"
    inputs = open_inputs(config.bunch, config.data, config.seed)
    planned = plan_search(config, inputs, sizes, shape_of(config.bunch.base), machine)
    overrides = planned.cure()
    if overrides is None:
        return [], f"{machine.device.name} is too small: {planned.remedy()}"
    return overrides, f"to fit {machine.device.name}: {' '.join(overrides)}" if overrides else ""


def _check_tests(config: Config) -> None:
    missing = [kind for kind in config.kinds if not (config.test_folder / f"{kind}.jsonl").is_file()]
    if missing:
        raise ConfigError(
            f"{Path(config.evaluation.test)}: test rows must be there for every kind, but {missing[0]}.jsonl is not; "
            f"add it, or drop evaluation.test and set data.test=0.2"
        )
