"""The base of everything that is read from a file or written to one."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Read once, never changed, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(Frozen):
    """What a user chooses: its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)
