"""What data is written, by whom, and what it must pass."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from datagen.cleaning_config import CleaningConfig
from datagen.config import Name
from datagen.frozen import Settings
from datagen.prompts import placeholders
from datagen.topics import Topic

Share = Annotated[float, Field(ge=0, lt=1)]

#: Kinds of data that every bunch has; all others are domains.
SAFETY_KINDS = ("unsafe", "borderline")


class VerdictConfig(Settings):
    """A model that is asked for one of two words; the probability of the first is read off its tokens.

    Attributes:
        model: a folder, a Hugging Face name, or `MODEL+ADAPTER`.
        prompt: what it is asked, with `{question}` and `{answer}`; by default it is shown the exchange itself through
            its chat template, as Llama Guard is.
        after: what its answer says before the word, such as WildGuard's `Harmful response:`; by default nothing.
        word: what is looked for.
        other: its opposite.
        threshold: from this probability of `word` on, it counts.
    """

    model: str
    prompt: str = ""
    after: str = ""
    word: str = Field("yes", min_length=1)
    other: str = Field("no", min_length=1)
    threshold: float = Field(0.5, gt=0, lt=1)

    @field_validator("word", "other", mode="before")
    @classmethod
    def _is_quoted(cls, word: object) -> object:
        if isinstance(word, bool):
            raise ValueError("word and other must be texts, but YAML reads yes and no as true and false; quote them")
        return word

    @model_validator(mode="after")
    def _words_differ(self) -> Self:
        if self.word.startswith(self.other) or self.other.startswith(self.word):
            raise ValueError(
                f"word and other must begin differently, but are {self.word!r} and {self.other!r}; change one"
            )
        return self


class GuardConfig(VerdictConfig):
    """A guard model: `word` is what it calls an unsafe exchange, `other` a safe one.

    Llama Guard 2 to 4 need no more than `model`. ShieldGemma says `Yes` and `No`. WildGuard's own form goes into
    `prompt`, and `after` says which of its three verdicts is meant.
    """

    word: str = Field("unsafe", min_length=1)
    other: str = Field("safe", min_length=1)


class RefusalConfig(VerdictConfig):
    """A model that tells refusals from answers: `word` is what it says of a refusal.

    Attributes:
        model: by default the guard.
    """

    model: str = ""


class CheckConfig(VerdictConfig):
    """A model that is asked whether a written question is what was asked for.

    Attributes:
        model: by default the one that wrote it.
        prompt: with `{question}`, and whatever the question was asked for by: `{topic}`, `{about}`, attributes.
    """

    model: str = ""
    prompt: str


class QuestionsConfig(Settings):
    """How one kind of question is asked for.

    Attributes:
        prompt: what the writer is told; `{topic}` and `{about}` stand for the topic and the clause about it,
            `{examples}` for the examples, and each attribute's name for its value.
        topics: name of a shipped list (`beavertails`, `mlcommons`, `xstest`), a YAML file, or the topics themselves;
            asked for in turn, so that each gets its share.
        attributes: what questions are to differ in besides: `default`, a YAML file, or name -> values.
        examples: JSONL file of questions; some are shown with every prompt, and none of them is kept.
        shots: how many examples a prompt shows.
        check: the writer, or another model, looks at each question before it is answered.
        ask: how many questions are asked for.
        keep: how many rows are kept at most, of those that pass every check.
    """

    prompt: str
    topics: Annotated[str | list[str | Topic], Field(min_length=1)]
    attributes: str | dict[Name, list[str]] = {}
    examples: str = ""
    shots: int = Field(3, ge=1)
    check: CheckConfig | None = None
    ask: int = Field(ge=1)
    keep: int = Field(ge=1)

    @model_validator(mode="after")
    def _examples_are_shown(self) -> Self:
        if bool(self.examples) != ("examples" in placeholders(self.prompt)):
            raise ValueError(
                "a prompt must show its examples by {examples}, and `examples` must name their file, but only "
                f"{'`examples`' if self.examples else '{examples}'} is there; add the other"
            )
        return self


class DomainConfig(QuestionsConfig):
    """Questions that an expert writes and answers itself.

    Attributes:
        expert: name of the expert in the bunch; by default the domain's own name.
    """

    expert: str = ""


class ImportConfig(Settings):
    """A file of rows to join those that are written.

    Attributes:
        file: JSONL; `datagen.importing` says what lines may look like.
        kind: of rows that do not say theirs.
        rename: kind in the file -> kind here.
    """

    file: str
    kind: str = ""
    rename: dict[str, str] = {}


class DataConfig(Settings):
    """What data is written, by whom, and how it is split.

    Attributes:
        folder: where it goes; by default `data` in the run folder.
        generator: the uncensored model that writes unsafe and borderline questions.
        guard: picks which answers to unsafe questions are refusals.
        refusal: a model that tells refusals from answers; by default the phrases of `refusals` do.
        judge: a second guard that has no say in what is kept; the data card reports what it thinks of it.
        unsafe: questions that must be refused.
        borderline: questions that only look unsafe and must be answered.
        domains: by name.
        imports: files of rows that join those that are written.
        cleaning: what is dropped: duplicates, overlaps with evaluation files, degenerate and misshapen texts.
        balance: how far a topic may be off the mean of its kind, 0.2 is twenty per cent; by default what rare topics
            lack is made up by others.
        validation: share of the questions that go to the validation split.
        test: share that go to the test split; 0 where a test set is at hand.
        temperature: of question writing; answers are greedy.
        max_question_chars: longest question.
        max_answer_tokens: longest answer.
        refusals: phrases by which an answer counts as a refusal, case folded.
    """

    folder: str = ""
    generator: str
    guard: GuardConfig
    refusal: RefusalConfig | None = None
    judge: GuardConfig | None = None
    unsafe: QuestionsConfig
    borderline: QuestionsConfig | None = None
    domains: dict[Name, DomainConfig] = Field(min_length=1)
    imports: list[ImportConfig] = []
    cleaning: CleaningConfig = CleaningConfig()
    balance: float | None = Field(None, gt=0, lt=1)
    validation: Share = 0.2
    test: Share = 0.2
    temperature: float = Field(0.8, gt=0)
    max_question_chars: int = Field(400, ge=10)
    max_answer_tokens: int = Field(512, ge=1)
    refusals: list[str] = Field(
        ["i cannot", "i can't", "i can’t", "i am unable", "i'm unable", "i am sorry", "i'm sorry", "i won't"],
        min_length=1,
    )

    @model_validator(mode="after")
    def _splits_leave_a_search_set(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation + test < 1 must hold, but got {self.validation} + {self.test}; the rest is searched on"
            )
        return self

    @model_validator(mode="after")
    def _domains_are_named_apart(self) -> Self:
        if taken := sorted({*SAFETY_KINDS} & {*self.domains}):
            raise ValueError(f"a domain must not be called {taken[0]!r}, which is a kind of its own; rename it")
        return self

    @model_validator(mode="after")
    def _the_judge_did_not_pick(self) -> Self:
        if self.judge is not None and (self.judge.model, self.judge.prompt) == (self.guard.model, self.guard.prompt):
            raise ValueError(
                f"data.judge must be another model than data.guard, which picked the data, but both are "
                f"{self.guard.model}; name another, or drop it"
            )
        return self

    def kinds(self) -> dict[str, QuestionsConfig]:
        """Every kind of question, by name: unsafe, borderline, then the domains."""
        found: dict[str, QuestionsConfig] = {"unsafe": self.unsafe}
        if self.borderline is not None:
            found["borderline"] = self.borderline
        return found | self.domains

    def expert(self, kind: str) -> str | None:
        """Which expert of the bunch writes and answers a domain's questions; none if it is no domain."""
        return self.domains[kind].expert or kind if kind in self.domains else None

    def refusal_judge(self) -> RefusalConfig | None:
        """The model that tells refusals from answers; none if the phrases do."""
        if self.refusal is None or self.refusal.model:
            return self.refusal
        return self.refusal.model_copy(update={"model": self.guard.model})

    def models(self) -> dict[str, str]:
        """Every model that is asked besides the bunch, by the role it has: the generator, the guard, ..."""
        found = {"generator": self.generator, "guard": self.guard.model}
        if self.refusal is not None and self.refusal.model:
            found["refusal judge"] = self.refusal.model
        if self.judge is not None:
            found["judge"] = self.judge.model
        for kind, wanted in self.kinds().items():
            if wanted.check is not None and wanted.check.model:
                found[f"{kind} checker"] = wanted.check.model
        return found
