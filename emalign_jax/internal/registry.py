"""Classes by the names that command lines and configs call them: protocols, users, families, mechanisms."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from emalign_jax.internal.arguments import shown

T = TypeVar("T")


class Registry(dict[str, type[T]]):
    """The named subclasses of one base class, which calls `add` in its `__init_subclass__`.

    what:     what one of them is called in messages, such as "protocol"
    reserved: names that none may have
    """

    def __init__(self, what: str, reserved: tuple[str, ...] = ()):
        super().__init__()
        self.what, self.reserved = what, reserved

    def add(self, cls: type) -> None:
        """Register a class under its own `name`; a class without one of its own is left out.

        The same class may be defined again, as a notebook does. Raises `ValueError` for a name that is taken.
        """
        name = vars(cls).get("name")
        if name is None:
            return
        if not (isinstance(name, str) and name.replace("_", "").isalnum()):
            raise ValueError(f"name: expected letters, digits and _, got {shown(name)}")
        if name in self.reserved:
            raise ValueError(f"name: expected another name than {name!r}, which configs have a section of")
        known = self.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"name: there is a {self.what} {name!r} already, {known.__qualname__}")
        self[name] = cls

    def of(self, name: str, field: str) -> type[T]:
        """The class of that name. Raises `ValueError` that begins with `field`."""
        if name not in self:
            raise ValueError(f"{field}: expected {', '.join(sorted(self))}, got {shown(name)}")
        return self[name]

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """What the class of that name is made with."""
        found = inspect.signature(self[name]).parameters
        return {key: one for key, one in found.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}

    def make(self, name: str, given: dict[str, Any], field: str) -> T:
        """An instance of the class of that name, made with `given`.

        Raises `ValueError` that begins with `field`, or with `what` and a parameter.
        """
        self.of(name, field)
        known = self.parameters(name)
        for key in given:
            if key not in known:
                raise ValueError(f"{self.what}.{key}: {name} has no such parameter; {_expected(known)}")
        missing = [key for key, one in known.items() if one.default is one.empty and key not in given]
        if missing:
            raise ValueError(f"{self.what}.{missing[0]}: {name} needs a value of it")
        try:
            return self[name](**given)
        except (ValueError, TypeError) as error:
            text = str(error)
            raise ValueError(text if text.startswith(f"{self.what}.") else f"{self.what}.{text}") from None


def _expected(known: dict[str, Any]) -> str:
    return f"expected {', '.join(known)}" if known else "it has none"
