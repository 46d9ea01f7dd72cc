"""Findings: the results of the checks. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. advice: what to do, if anything."""

    area: str  # settings, database, an embedding's name, server
    state: State
    text: str
    advice: str = ""


def judge(area: str, right: bool, text: str, advice: str, otherwise: State = State.WRONG) -> Finding:
    """A finding that is OK if `right`; otherwise it has the other state, and the advice."""
    return Finding(area, State.OK if right else otherwise, text, "" if right else advice)
