"""`goodbunch plan`: whether a search fits, what would make it fit, and the time and disk that it takes."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch

from datagen.frozen import Frozen
from datagen.pipeline import Inputs
from datagen.planning.hardware import Machine
from datagen.planning.placement import CPU_CACHE, DISK, Placement, place
from datagen.planning.plan import START
from datagen.planning.sizes import Size
from datagen.planning.workload import CHARS_PER_TOKEN, TEMPLATE
from optimizer.config import Config
from optimizer.planning.cost import Cost
from optimizer.planning.memory import CONTEXT, Held, Scoring
from optimizer.planning.rates import LINK, Rates, of_device, probe
from optimizer.planning.shape import Shape
from optimizer.planning.work import Load, Workload, mean_load, workload

AnyConfig = TypeVar("AnyConfig", bound=Frozen)

#: Bytes that a study takes for each coefficient of each trial: one of 30 trials and 964 coefficients takes 8.7 MB.
_KEPT = 300

#: Shares of a device that a remedy proposes for the engine, largest first.
_SHARES = [share / 20 for share in range(18, 0, -1)]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

RESIDENCIES = ("device", "host", "disk")


class Stage(NamedTuple):
    """A part of a search's run.

    Attributes:
        seconds: none where they cannot be told.
    """

    name: str
    seconds: float | None


class Option(NamedTuple):
    """A residency and a type, as a search would do with them.

    Attributes:
        search: bytes of the device while trials are evaluated, at most.
        compare: while models answer test questions.
        host: bytes of the host beside a GPU.
        trial: seconds; none where they are not known.
        step: seconds; none where they are not known, or there is none.
    """

    dtype: str
    residency: str
    search: float
    compare: float
    host: float
    trial: float | None
    step: float | None
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What a search will take.

    Attributes:
        sizes: of the sources, base first.
        rates: of the machine; none where they are not known.
    """

    config: Config
    machine: Machine
    shape: Shape
    work: Workload
    sizes: Mapping[str, Size]
    rates: Rates | None

    @property
    def width(self) -> int:
        """Bytes of one of the live model's numbers."""
        return dtype_of(self.config, self.shape, self.sizes).itemsize

    @cached_property
    def sources(self) -> list[float]:
        """Bytes of every source as it is kept."""
        kept = self.config.merge.dtype
        return [
            self.shape.parameters * (self.width if kept else self.sizes[model].width("auto"))
            for model in self.config.bunch.models().values()
        ]

    @cached_property
    def held(self) -> Held:
        """What the scoring engine holds."""
        return Scoring(
            self.shape,
            self.config.merge,
            self.sources,
            self.width,
            [study.step for study in self.work.studies if study.step is not None],
            _extremes(self.work.loads),
            self.config.search.descent.checkpointing,
            self.machine.device.cpu,
        ).held()

    @property
    def cost(self) -> Cost | None:
        """Of merges, passes and steps."""
        if self.rates is None:
            return None
        residency, cpu = self.config.merge.residency, self.machine.device.cpu
        link = {"device": None, "host": None if cpu else LINK, "disk": DISK}[residency]
        checkpointing = self.config.search.descent.checkpointing
        return Cost(self.shape, self.rates, self.width, sum(self.sources), link, checkpointing)

    @cached_property
    def speaking(self) -> Placement | None:
        """A model of the bunch in the engine that answers; none if that is a server."""
        size = self.sizes[self.config.bunch.base]._replace(parameters=float(self.shape.parameters))
        return None if self.config.engine.kind == "server" else place(size, self.config.engine, self.machine)

    @property
    def spoken(self) -> int:
        """Conversations of merges within the search."""
        return sum(study.spoken for study in self.work.studies)

    @property
    def engine_takes(self) -> float:
        """Bytes of the engine that answers, with the sources that its worker merges from."""
        if self.speaking is None:
            return 0.0
        on_cpu = self.machine.device.cpu
        own = self.speaking.weights + CPU_CACHE if on_cpu else self.speaking.taken
        return own + self.held.sources + self.held.masks + self.shape.largest * self.width

    @property
    def memory(self) -> dict[str, float]:
        """Stage -> bytes of a device, at most."""
        context = 0.0 if self.machine.device.cpu else CONTEXT
        beside = self.engine_takes if self.spoken else 0.0
        return {
            "search": context + self.held.device + beside,
            "compare": context + self.engine_takes,
        }

    @property
    def host(self) -> float:
        """Bytes of the host beside a GPU: scoring engine and worker have their own, side by side if merges speak."""
        return self.held.host * (2 if self.spoken else 1)

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        speaks = self.speaking is None or self.speaking.fits
        return speaks and max(self.memory.values()) <= self.machine.device.memory

    @property
    def stages(self) -> list[Stage]:
        """The parts of a run, in order."""
        cost, stored = self.cost, sum(self.stored.values())
        found = [Stage("open", stored / DISK)]
        found += [Stage(study.name, cost.study(study) if cost else None) for study in self.work.studies]
        if self.spoken:
            found.append(Stage("answers within the search", self._answers(1, self.spoken)))
        found.append(Stage("export", (stored + self.merged) / DISK))
        found.append(Stage("compare", self._answers(self.work.compared, self.work.asked)))
        return found

    @property
    def seconds(self) -> float | None:
        """Of all stages; none if one is not known."""
        known = [stage.seconds for stage in self.stages]
        return None if None in known else sum(one for one in known if one is not None)

    @property
    def stored(self) -> dict[str, float]:
        """Model -> bytes of its files."""
        return {model: self.sizes[model].stored or 0.0 for model in dict.fromkeys(self.config.bunch.models().values())}

    @property
    def merged(self) -> float:
        """Bytes of the merged checkpoint."""
        return float(self.shape.parameters * self.width)

    @property
    def study(self) -> float:
        """Bytes of the trials' database."""
        return float(self.work.trials * self.work.coefficients * _KEPT)

    def options(self) -> Iterator[Option]:
        """Every residency, in the config's type and in bfloat16."""
        own = str(dtype_of(self.config, self.shape, self.sizes)).removeprefix("torch.")
        for dtype in dict.fromkeys((own, "bfloat16")):
            for residency in RESIDENCIES:
                changed = {"residency": residency} | ({} if dtype == own else {"dtype": dtype})
                other = self.changed({"merge": changed})
                # A probe knows the type that it ran in.
                known = dtype == own or not self.machine.device.cpu
                cost, main = (other.cost if known else None), self.work.studies[0]
                yield Option(
                    dtype,
                    residency,
                    other.memory["search"],
                    other.memory["compare"],
                    other.host,
                    None if cost is None else cost.trial([*main.search, *main.validation]),
                    None if cost is None or main.step is None else cost.step(main.step),
                    other.fits,
                )

    def changed(self, settings: Mapping[str, Mapping[str, Any]]) -> "Plan":
        """The plan under other settings that change neither data nor trials.

        Args:
            settings: part of the config, such as `merge` or `search.descent` -> key -> value.
        """
        config = self.config
        for part, given in settings.items():
            config = _updated(config, part.split("."), given)
        return replace(self, config=config)

    def cure(self) -> list[str] | None:
        """Overrides that are the least change of the config by which it fits; none if nothing does."""
        if self.fits:
            return []
        for changes in self._changes():
            if self.changed(changes).fits:
                return [
                    f"{part}.{key}={_written(value)}" for part, given in changes.items() for key, value in given.items()
                ]
        return None

    def remedy(self) -> str:
        """The least change of the config by which it fits; empty if it does already."""
        if (overrides := self.cure()) is not None:
            return "set " + " ".join(overrides) if overrides else ""
        least = self.shape.parameters * 2
        return (
            f"take larger devices (--gpu NAME plans for others): a search needs its live model, "
            f"{least / 1e9:.0f} GB in bfloat16, and a gradient on one of them"
        )

    def _changes(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Changes from small to large, with the largest share for the engine that could be left to it."""
        descent = self.config.search.descent
        residency = RESIDENCIES[RESIDENCIES.index(self.config.merge.residency) :]
        merge: list[dict[str, Any]] = [{}, *({"residency": one} for one in residency[1:])]
        types: list[dict[str, Any]] = [{}, *([{"dtype": "bfloat16"}] if self.width > 2 else [])]
        kept: list[dict[str, Any]] = [{}, *([] if descent.checkpointing else [{"checkpointing": True}])]
        share = self.config.engine.memory
        shares: list[dict[str, Any]] = [{}, *({"memory": one} for one in _SHARES if one != share)]
        wide = self.speaking is not None and self.speaking.weights > 2 * self.shape.parameters
        answering: list[dict[str, Any]] = [{}, *([{"dtype": "bfloat16"}] if wide else [])]
        parallel: list[dict[str, Any]] = [{}]
        if self.speaking is not None and self.speaking.devices < self.machine.count:
            parallel.append({"tensor_parallel": self.machine.count})
        for one, dtype, other, narrow, split in itertools.product(merge, types, kept, answering, parallel):
            for part in shares:
                engine, merging = part | narrow | split, one | dtype
                changes = {"engine": engine, "merge": merging, "search.descent": other}
                yield {name: given for name, given in changes.items() if given}

    def _answers(self, models: int, conversations: int) -> float | None:
        if self.speaking is None or not self.speaking.fits:
            return None
        data = self.config.data
        prompt = data.max_question_chars / CHARS_PER_TOKEN + TEMPLATE
        each = self.speaking.seconds(max(1, conversations), prompt, data.max_answer_tokens)
        return None if each is None else START + models * each


def plan_search(config: Config, inputs: Inputs, sizes: Mapping[str, Size], shape: Shape, machine: Machine) -> Plan:
    """What a search will take; of models only headers are read, and a CPU is probed for two seconds.

    Args:
        inputs: what the files hold that the config names.
        sizes: of all sources.
        shape: of the base.
        machine: where it will run.
    """
    work = workload(config, inputs, shape)
    if machine.device.cpu:
        dtype = dtype_of(config, shape, sizes)
        batch = mean_load(work.loads) if work.loads else Load(1, 1, 1)
        rates: Rates | None = probe(shape, config.merge, len(config.bunch.experts), dtype, batch)
    else:
        rates = of_device(machine.device)
    return Plan(config, machine, shape, work, sizes, rates)


def dtype_of(config: Config, shape: Shape, sizes: Mapping[str, Size]) -> torch.dtype:
    """The live model's."""
    if config.merge.dtype:
        return _DTYPES[config.merge.dtype]
    widest = max(sizes[model].width("auto") for model in config.bunch.models().values())
    return torch.float32 if widest > 2 else shape.dtype


def _extremes(loads: Sequence[Load]) -> list[Load]:
    """Batches among which is the largest of every kind, so that the others need not be looked at."""
    return [max(loads, key=key) for key in (lambda one: one.tokens, lambda one: one.answers)] if loads else []


def _updated(config: AnyConfig, path: Sequence[str], given: Mapping[str, Any]) -> AnyConfig:
    """A part of a config with other values at a place within it."""
    if not path:
        return config.model_copy(update=dict(given))
    return config.model_copy(update={path[0]: _updated(getattr(config, path[0]), path[1:], given)})


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
