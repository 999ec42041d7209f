"""The simplest model: one value that is written, read, and exchanged if it is as expected."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshd.testing.checker.history import History, Operation

Value = str | int | None


class _Action(msgspec.Struct, frozen=True, tag_field="does", tag=str.lower, omit_defaults=True):
    pass


class Write(_Action, frozen=True):
    """Make it this; answered by `Wrote`."""

    value: Value

    def __str__(self) -> str:
        return f"write of {self.value!r}"


class Read(_Action, frozen=True):
    """Answered by `Held`."""

    def __str__(self) -> str:
        return "read"


class Exchange(_Action, frozen=True):
    """Make it `new` if it is `old`: answered by `Wrote` or `Kept`."""

    old: Value
    new: Value

    def __str__(self) -> str:
        return f"exchange of {self.old!r} for {self.new!r}"


RegisterAction = Write | Read | Exchange


class _Result(msgspec.Struct, frozen=True, tag_field="was", tag=str.lower, omit_defaults=True):
    pass


class Wrote(_Result, frozen=True):
    """It is so now."""

    def __str__(self) -> str:
        return "written"


class Kept(_Result, frozen=True):
    """It was not as expected."""

    def __str__(self) -> str:
        return "not as expected"


class Held(_Result, frozen=True):
    """What a read saw."""

    value: Value

    def __str__(self) -> str:
        return repr(self.value)


RegisterResult = Wrote | Kept | Held
RegisterOperation = Operation[RegisterAction, RegisterResult]
RegisterHistory = History[RegisterAction, RegisterResult]


class RegisterModel:
    """See `linearizability.Model`.  The state is the value."""

    def __init__(self, initial: Value = None) -> None:
        self.initial = initial

    def step(
        self, state: Value, action: RegisterAction, result: RegisterResult | None
    ) -> Sequence[Value]:
        match action, result:
            case Write(value), Wrote() | None:
                return [value]
            case Exchange(old, new), Wrote() | None:
                return [new] if state == old else []
            case Exchange(old), Kept():
                return [] if state == old else [state]
            case Read(), Held(value):
                return [state] if state == value else []
        return []

    def is_look(self, action: RegisterAction, result: RegisterResult) -> bool:
        return isinstance(result, Held | Kept)

    def describe(self, state: Value) -> str:
        return repr(state)
