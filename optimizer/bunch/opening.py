"""Opens source models lazily and checks, before any work, that they belong together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from datagen.config import BunchConfig
from datagen.errors import BunchError
from optimizer.bunch.source import Source
from optimizer.bunch.tensors import config_differences, own_problems, tensor_differences
from optimizer.bunch.tokens import has_tokenizer, template_differences, token_differences


@dataclass(frozen=True)
class Bunch:
    """A base and its experts, known to fit.

    Attributes:
        base: what task vectors are taken against.
        experts: in the config's order, which is the order of the rows of every coefficient array.
        aligned: name of the expert whose refusals are to be kept.
        chat: name of the source whose tokenizer and chat template the merged model gets.
    """

    base: Source
    experts: tuple[Source, ...]
    aligned: str
    chat: str

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base, then the experts."""
        return (self.base, *self.experts)

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names, in the order of the base's files."""
        return self.base.names

    @property
    def chat_source(self) -> Source:
        """The one whose tokenizer and chat template the merged model gets."""
        return next(source for source in self.sources if source.name == self.chat)


def open_bunch(config: BunchConfig) -> Bunch:
    """Opens all sources and checks that they can be merged and asked alike.

    Raises:
        BunchError: some source is missing, damaged, or of another architecture, vocabulary or chat template; all
            problems of all sources are told at once.
    """
    speakers = [config.tokenizer] if config.tokenizer else list(config.models())
    sources = _open(config.models(), "base", aligned=config.chat, speakers=speakers, accept=config.accept)
    return Bunch(sources["base"], tuple(sources[name] for name in config.experts), config.aligned, chat=config.chat)


def compare_papers(models: Mapping[str, str], config: BunchConfig) -> None:
    """Checks sources by config.json and tokenizer alone, before their weights are downloaded.

    Args:
        models: name -> folder of a source, for some or all of the bunch.
        config: of the bunch.

    Raises:
        BunchError: some are of another architecture, vocabulary or chat template; all problems are told at once.
    """
    base = "base" if "base" in models else next(iter(models))
    speakers = [config.tokenizer] if config.tokenizer else list(models)
    aligned = config.chat if config.chat in models else None
    _open(models, base, aligned=aligned, speakers=speakers, accept=config.accept, weights=False)


def open_sources(models: Mapping[str, str], base: str, *, chat: bool) -> dict[str, Source]:
    """Opens sources that no role is given to.

    Args:
        models: name -> folder, Hugging Face name, or `MODEL+ADAPTER`.
        base: name of the one that the others are compared with.
        chat: whether every source must have a tokenizer.

    Returns:
        Name -> source, in the order of `models`.

    Raises:
        BunchError: some source is missing, damaged, or of another architecture or vocabulary; all problems of all
            sources are told at once.
    """
    return _open(models, base, aligned=None, speakers=list(models), chat=chat)


def _open(
    models: Mapping[str, str],
    base: str,
    *,
    aligned: str | None,
    speakers: Sequence[str],
    chat: bool = True,
    accept: Sequence[str] = (),
    weights: bool = True,
) -> dict[str, Source]:
    """Opens sources and checks them.

    Args:
        aligned: name of the source whose chat template is kept; none where no one is asked anything.
        speakers: names of the sources whose tokenizers are of use.
        chat: whether these must be there.
        accept: keys of config.json in which sources may differ.
        weights: whether tensors are looked at too.
    """
    sources = {name: Source(name, model) for name, model in models.items()}
    collected = _Problems()
    # Each check asks only for what it needs, so that one that fails hides no other.
    found = [source for source in sources.values() if collected.reads(source, "folder")]
    configured = [source for source in found if collected.reads(source, "config")]
    opened = [source for source in found if weights and collected.reads(source, "weights")]
    for source in opened:
        if source in configured:
            collected.add(own_problems, source)
    configs = partial(config_differences, accept=accept)
    for sound, differences in ((configured, configs), (opened, tensor_differences)):
        for source in sound:
            if sources[base] in sound and source.name != base:
                collected.add(differences, sources[base], source)
    asked = [source for source in found if source.name in speakers]
    speaking = [source for source in asked if has_tokenizer(source)]
    if chat:
        collected.problems += [_no_tokenizer(source) for source in asked if source not in speaking]
    # Where the base brings no tokenizer, the others are compared with the first that does.
    speaking.sort(key=lambda source: source.name != base)
    collected.add(token_differences, speaking)
    if aligned is not None:
        collected.add(template_differences, speaking, aligned, base)
    if collected.problems:
        raise BunchError("; ".join(dict.fromkeys(collected.problems)))
    return sources


def _no_tokenizer(source: Source) -> str:
    return (
        f"{source.tokenizer_folder}: every source must have a tokenizer, but {source.name} has none; copy the base's "
        f"tokenizer files there, or name a source that has one by bunch.tokenizer"
    )


class _Problems:
    """Collects what is wrong with sources."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def reads(self, source: Source, what: str) -> bool:
        """Whether a part of a source can be read."""
        try:
            getattr(source, what)
        except BunchError as error:
            self.problems.append(str(error))
            return False
        return True

    def add(self, check: Callable[..., list[str]], *arguments: object) -> None:
        """Runs a check that may itself come upon something unreadable."""
        try:
            self.problems += check(*arguments)
        except BunchError as error:
            self.problems.append(str(error))
