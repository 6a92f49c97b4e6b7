"""What makes a class a value: nobody changes its fields. The type checker holds that, for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

__all__ = ["value"]

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, slots: bool, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
        """``dataclass`` for what is made many times for each message; ``frozen`` and with ``slots``.

        A frozen dataclass sets each field through ``object.__setattr__``, three times the price of an
        assignment: a twentieth of all work on a message.  mypy holds the promise instead.
        """
        return dataclass(unsafe_hash=frozen, slots=slots, kw_only=kw_only)
