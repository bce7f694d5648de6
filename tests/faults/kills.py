"""Kills commands at random moments, runs them again, and holds what is there against an undisturbed run."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datagen.holding import HOLDER, LOCK
from tests.datagen.engines.servers import Writer, serving
from tests.faults.commands import Command, Ended
from tests.faults.scenarios import Datagen, Merge, Report, Scenario, Search, tiny_zoo

#: How often each signal is sent, and of which command how many of all kills are.
SIGNALS = {signal.SIGKILL: 3, signal.SIGTERM: 1, signal.SIGINT: 1}
SHARES = {"datagen": 0.3, "search": 0.3, "merge": 0.25, "report": 0.15}

#: What a search has done when only the comparison is left, which takes much longer than all before.
_EXPORTED = "merged"


class Killer:
    """Kills a scenario's command again and again.

    Args:
        scenario: the command.
        rng: draws moments and signals.

    Attributes:
        kills: how many fell while a command ran, by signal.
        finished: how many runs were brought to their end.
        lost: how many signals had to be sent again.
    """

    def __init__(self, scenario: Scenario, rng: random.Random) -> None:
        self.scenario, self._rng = scenario, rng
        self.kills: Counter[signal.Signals] = Counter()
        self.finished = self.lost = 0
        self._run, self._here, self._seen = "", 0, {}
        self._spans: list[float] = []

    def measure(self) -> None:
        """Runs the command undisturbed: what it leaves, and how long it takes."""
        self.scenario.begin("undisturbed")
        command = Command(*self.scenario.arguments("undisturbed"))
        while command.runs(0.02) and not (self.scenario.folder / "undisturbed" / _EXPORTED).is_dir():
            pass
        self._spans = [time.monotonic() - command.begun]
        to_end(self.scenario, "undisturbed", command)
        self._spans.append(time.monotonic() - command.begun)
        self.scenario.undisturbed = self.scenario.left("undisturbed")
        assert self.scenario.undisturbed

    def kill(self) -> bool:
        """Begins or goes on with a run and kills it; false if it has ended before."""
        if not self._run:
            self._run, self._here = f"killed-{self.finished}", 0
            self.scenario.begin(self._run)
            self._seen = self.scenario.kept(self._run)
        span = self._spans[self._rng.random() < 0.1]
        how = self._rng.choices([*SIGNALS], [*SIGNALS.values()])[0]
        before = self._hidden()
        command = Command(*self.scenario.arguments(self._run))
        if not command.runs(self._rng.uniform(0, span)):
            command.ended().done()
            if not self._here:  # the machine was busier when it was measured
                self._spans = [min(span, time.monotonic() - command.begun) for span in self._spans]
            self._check_end()
            return False
        ended = command.struck(how)
        if ended.code == 0:  # it had just ended
            self._check_end()
            return False
        _check_told(ended, how)
        assert how == signal.SIGKILL or self._hidden() <= before, "it did not clean up"
        self.kills[how] += 1
        self.lost += command.blows - 1
        self._here += 1
        self._check()
        if self._here == self.scenario.in_line:
            self.finish()
        return True

    def finish(self) -> None:
        """Brings a run that was killed to its end."""
        if self._run:
            to_end(self.scenario, self._run)
            self._check_end()

    def _check(self) -> None:
        """Nothing that was finished is lost, and nothing is half-written."""
        seen = self.scenario.kept(self._run)
        for name, before in self._seen.items():
            now = seen.get(name)
            same = now.startswith(before) if isinstance(now, bytes) else now == before
            assert same, f"{self._run}: {name} was finished and is lost: {before!r} is {now!r}"
        self._seen = seen
        for name, now in self.scenario.left(self._run).items():
            wanted = self.scenario.undisturbed.get(name)
            assert now == wanted, f"{self._run}: {name} is half-written: {now!r} is not {wanted!r}"

    def _hidden(self) -> set[Path]:
        """Files under way, and what was killed leaves of them."""
        found = {path for path in self.scenario.folder.rglob(f"*{self._run}*/.*") if path.name != LOCK}
        return found | {*self.scenario.folder.glob(f".{self._run}.*")}

    def _check_end(self) -> None:
        self._check()
        assert self.scenario.left(self._run) == self.scenario.undisturbed
        hidden = {path for path in self._hidden() if path.name != HOLDER or not self.scenario.is_done(self._run)}
        assert not hidden, f"{hidden} are left over"
        self.scenario.check_work(self._here)
        self._run, self.finished = "", self.finished + 1


def to_end(scenario: Scenario, run: str, command: Command | None = None) -> None:
    """Waits until a command has done what it must.

    Args:
        command: by default it is begun here.
    """
    command = command or Command(*scenario.arguments(run))
    while command.runs(0.02):
        if scenario.is_done(run):
            command.struck(signal.SIGKILL)
            return
    command.ended().done()


@contextmanager
def killers(folder: Path, seed: int, compares: bool) -> Iterator[Callable[[str], Killer]]:
    """Command -> what kills it.

    Args:
        folder: for all that is made.
        compares: whether searches go on to the comparison, for which vLLM is started.
    """
    zoo = tiny_zoo(folder / "zoo")
    made: dict[str, Killer] = {}

    def of(name: str) -> Killer:
        if name not in made:
            made[name] = Killer(scenarios[name](), random.Random(f"{seed} {name}"))
            made[name].measure()
        return made[name]

    with serving(Writer()) as writer:
        scenarios: dict[str, Callable[[], Scenario]] = {
            "datagen": lambda: Datagen(folder / "datagen", writer),
            "search": lambda: Search(folder / "search", zoo, compares),
            "merge": lambda: Merge(folder / "merge", zoo),
            "report": lambda: Report(folder / "report"),
        }
        yield of


def kill_all(folder: Path, kills: int, seed: int, names: Sequence[str] = tuple(SHARES)) -> int:
    """Kills commands so often, and says so.

    Returns:
        How many kills there were.
    """
    total: Counter[str] = Counter()
    with killers(folder, seed, compares=True) as make:
        for name in names:
            killer, begun = make(name), time.monotonic()
            wanted = max(1, round(kills * SHARES[name] / sum(SHARES[one] for one in names)))
            while killer.kills.total() < wanted:
                killer.kill()
                print(f"\r{name}: {killer.kills.total()}/{wanted}", end="", flush=True)
            killer.finish()
            told = ", ".join(f"{how.name} {count}" for how, count in sorted(killer.kills.items()))
            print(
                f"\r{name}: killed {killer.kills.total()} times ({told}), {killer.finished} runs ended as undisturbed "
                f"ones, {killer.lost} signals were lost, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            total[name] = killer.kills.total()
    print(f"{total.total()} kills with seed {seed}: nothing that was finished was lost, nothing was half-written")
    return total.total()


def _check_told(ended: Ended, how: signal.Signals) -> None:
    """A command that is killed says nothing; one that is interrupted says how to go on."""
    if how == signal.SIGKILL:
        assert ended.code == -how, ended
        return
    assert ended.code == 130, ended
    assert "Traceback" not in ended.errors, ended.errors
    assert ended.errors.splitlines()[-1].startswith("goodbunch: stopped; ")
