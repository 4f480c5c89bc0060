"""The settings of a sweep: `--over section.key=value,value,...` as a grid, checked before anything is queued."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from pipeline.errors import UsageError
from stages.common import yaml_files
from stages.common.encoders import check_weights
from stages.common.settings import Settings, load
from stages.tables.experiments import PARAMS, PIPELINE, TARGETS
from stages.tables.rows import RowSpec

#: More settings than this are taken for a slip: each takes a minute or more.
MOST_SETTINGS = 500


@dataclass(frozen=True)
class Swept:
    """One parameter and the values that it takes.

    Attributes:
        name: whole name, like `segment.clusters`.
        texts: its values as they are written.
    """

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """All combinations of the values of some parameters; the first parameter changes slowest.

    Attributes:
        names: the parameters, in the order that they were given.
        sets: what holds for all settings beside params.yaml, as `section.key=value`.
        rows: one per combination.
        settings: row -> all of its parameters.
    """

    names: tuple[str, ...]
    sets: tuple[str, ...]
    rows: tuple[RowSpec, ...]
    settings: Mapping[str, Settings]

    def configured(self) -> str | None:
        """The row that has the values of params.yaml; None = no row has."""
        now = load(PARAMS).flat()
        for key, settings in self.settings.items():
            made = settings.flat()
            if all(made[name] == now[name] for name in self.names):
                return key
        return None


def parse(over: Sequence[str], sets: Sequence[str]) -> Grid:
    """Read `--over` and check every setting.

    Args:
        over: `section.key=value,value,...`; values and ranges as in DVC's own grids: `range(4,21,4)`, `[6,7,8],[7]`.
        sets: `section.key=value` of all settings.

    Raises:
        UsageError: names everything that is wrong: what cannot be read, values that are repeated or refused, parameters
            that lead to no score, combinations that do not fit.
    """
    problems: list[str] = []
    base = load(PARAMS, sets)
    swept = [one for text in over if (one := _attempt(problems, partial(_parse, text)))]
    names = tuple(one.name for one in swept)
    problems += [f"--over {name} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    fixed = [text.partition("=")[0].strip() for text in sets]
    problems += [f"{name} is given by --over and by --set" for name in names if name in fixed]
    count = math.prod(len(one.texts) for one in swept)
    if count > MOST_SETTINGS:
        problems.append(f"--over makes {count} settings, more than {MOST_SETTINGS}; give fewer values")
    else:
        for one in swept:
            problems += _problems(one, sets, base)
    _refuse(problems)
    rows = tuple(
        RowSpec(" ".join(made), texts, (*sets, *made))
        for texts in product(*(one.texts for one in swept))
        for made in [[f"{name}={text}" for name, text in zip(names, texts, strict=True)]]
    )
    checked = {row.key: _attempt(problems, partial(_check, row)) for row in rows}
    _refuse(problems)
    _refuse_idle(names, checked)
    return Grid(names, tuple(sets), rows, checked)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UsageError("; ".join(dict.fromkeys(problems)))


def _parse(text: str) -> Swept:
    """One `--over`, by the grammar that DVC reads `-S` with."""
    from dvc.utils.hydra import to_hydra_overrides

    where, (name, equals, values) = f"--over {text}", text.partition("=")
    name = name.strip()
    if not (equals and "." in name and values.strip()):
        raise UsageError(f"{where}: expected section.key=value,value,..., e.g. --over segment.clusters=8,12,20")
    if not re.fullmatch(r"\w+(\.\w+)+", name):
        raise UsageError(f"{where}: '{name}' is no name of a parameter")
    try:
        (override,) = to_hydra_overrides([f"{name}={values.strip()}"])
    except Exception as error:  # of the grammar's own kinds, which DVC does not name
        raise UsageError(f"{where}: values that cannot be read, or an empty one between commas") from error
    if not override.is_sweep_override():
        raise UsageError(f"{where}: one value is no sweep; give several, or `--set {text}`")
    if not override.is_discrete_sweep():
        raise UsageError(f"{where}: give the values themselves, e.g. 4,8,12 or range(4,21,4)")
    return Swept(name, tuple(_text(value) for value in override.sweep_iterator()))


def _text(value: Any) -> str:
    """A value as `--set` and a parameter file take it."""
    if isinstance(value, str):
        return value
    quoted = getattr(value, "text", None)
    return quoted if isinstance(quoted, str) else json.dumps(value)


def _problems(one: Swept, sets: Sequence[str], base: Settings) -> list[str]:
    """What is wrong with the values of one parameter."""
    found: list[str] = []
    section = one.name.partition(".")[0]
    if section in base.sections and section not in (read := scored_sections()):
        return [f"--over {one.name}: no score depends on `{section}` ({', '.join(read)} lead to scores)"]
    if section == "evaluate":
        return [f"--over {one.name}: is about how labels are scored; scores by different rules cannot be compared"]
    values: dict[str, str] = {}
    for text in one.texts:
        made = _attempt(found, partial(load, PARAMS, [*sets, f"{one.name}={text}"]))
        if made is None:
            if found[-1].startswith("unknown"):
                return found
            continue
        value = json.dumps(made.flat()[one.name])
        if value in values:
            found.append(f"--over {one.name}: {text} is given twice")
        values[value] = text
    return found


def scored_sections() -> list[str]:
    """Sections of params.yaml that the stages on the way to scores read, as dvc.yaml says."""
    stages = yaml_files.load(PIPELINE, "run in the project's folder")["stages"]
    found = (param for name in TARGETS for param in (stages[name].get("do") or stages[name]).get("params", ()))
    return sorted({param for param in found if isinstance(param, str)})


def _check(row: RowSpec) -> Settings:
    """Its parameters; refuses what sections refuse together, and stages when they begin."""
    from pipeline.upsampling.rules import Rules

    settings = load(PARAMS, row.sets)
    check_weights(settings, ("segment", "correspond"))
    if settings["upsample"].method == "modulation":
        Rules(settings["diffusion"], settings["upsample"]).check()
    return settings


#: Parameters that do nothing unless others say so: how their names begin -> others, whether they do, how to make them.
_IDLE: tuple[tuple[str, str, Callable[[Settings], bool], str], ...] = (
    ("correspond.", "", lambda made: made["segment"].vote == "none", "segment.vote=forward"),
    (
        "upsample.",
        "upsample.method",
        lambda made: made["upsample"].method != "modulation",
        "upsample.method=modulation",
    ),
    ("upsample.fast.", "", lambda made: made["upsample"].mode != "fast", "upsample.mode=fast"),
)


def _refuse_idle(names: Sequence[str], settings: Mapping[str, Settings]) -> None:
    """Refuse a parameter that nothing reads in any of the settings."""
    for name in names:
        for start, but, is_idle, remedy in _IDLE:
            if name.startswith(start) and name != but and all(map(is_idle, settings.values())):
                raise UsageError(f"--over {name}: changes nothing with these parameters; add `--set {remedy}`")


def _attempt(problems: list[str], step: Callable[[], Any]) -> Any:
    """The step's result; None where it refuses, which is then among the problems."""
    try:
        return step()
    except UsageError as error:
        problems.append(str(error).replace("(in --set)", "(in --over)"))
        return None
