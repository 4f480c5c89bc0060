"""How a parameter is declared, and what can be asked of declarations."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any


def param(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    stored: str | None = None,
    before: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field: its default, a one-line description and its range; its choices are those of its `Literal`.

    Args:
        stored: its name in stores, where that is another: stores keep the flat names of earlier versions, so that what
            these have written stays valid.
        before: what versions before this parameter did. At this value stores leave it out, so that what those have
            written stays valid; it never changes, the default may.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "low": low, "high": high, "stored": stored, "before": before}
    )


@dataclass(frozen=True)
class Declared:
    """What is declared of one parameter.

    Attributes:
        kind: its type, as annotated.
        default, help, low, high: as given to `param`.
        stored: its name within the section in stores.
        before: the value at which stores leave it out; `dataclasses.MISSING` = they have it always.
    """

    kind: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    stored: str
    before: Any


def declared(section: type) -> Mapping[str, Declared]:
    """The parameters of a section's class by their names within it, like `clusters` and `parity.label_merge`."""
    kinds = typing.get_type_hints(section)
    found: dict[str, Declared] = {}
    for field in dataclasses.fields(section):
        kind, given = kinds[field.name], field.metadata
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= {f"{field.name}.{name}": inner for name, inner in declared(kind).items()}
        else:
            stored = given["stored"] or field.name
            found[field.name] = Declared(
                kind, field.default, given["help"], given["low"], given["high"], stored, given["before"]
            )
    return found


def choices(section: type, name: str) -> tuple[str, ...]:
    """What a parameter of a section's class may be, where it has choices."""
    return typing.get_args(declared(section)[name].kind)


def groups(section: type) -> tuple[str, ...]:
    """The groups of a section's class, like `parity`."""
    return tuple(dict.fromkeys(name.partition(".")[0] for name in declared(section) if "." in name))


def flat(params: Any) -> dict[str, Any]:
    """The values of a section by their names within it, like `clusters` and `parity.label_merge`."""
    return {name: attrgetter(name)(params) for name in declared(type(params))}


def of_stored(section: type, stored: Mapping[str, Any]) -> Any:
    """The section of a class whose values a store keeps, under the flat names of `Declared.stored`.

    What the store lacks has the value of `Declared.before`, or else the default.
    """
    values = {}
    for name, one in declared(section).items():
        missing = one.default if one.before is dataclasses.MISSING else one.before
        value = stored.get(one.stored, missing)
        values[name] = tuple(value) if isinstance(value, list) else value
    kinds = typing.get_type_hints(section)
    own = {name: value for name, value in values.items() if "." not in name}
    for group in groups(section):
        inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{group}.")}
        own[group] = kinds[group](**inner)
    return section(**own)
