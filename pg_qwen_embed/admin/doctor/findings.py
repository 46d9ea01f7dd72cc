"""What a look has found. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """advice: what to do, where there is something to do."""

    area: str  # settings, database, an embedding's name, server
    state: State
    text: str
    advice: str = ""


def judge(area: str, right: bool, text: str, advice: str, otherwise: State = State.WRONG) -> Finding:
    """A finding with advice only where something is not right."""
    return Finding(area, State.OK if right else otherwise, text, "" if right else advice)
