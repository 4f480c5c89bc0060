"""Parameters: typed, validated dataclasses, one per section of params.yaml.

Later layers win: the dataclasses' defaults, the preset of the chosen backbone (`presets/<backbone.name>.yaml`),
the file given with `--params`, and `--set section.key=value`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from pipeline.errors import UsageError
from pipeline.parameters import SECTIONS, BackboneParams
from stages.common import yaml_files
from stages.common.resources import resource


def backbone_names() -> tuple[str, ...]:
    """The backbones that there are."""
    names: tuple[str, ...] = BackboneParams.__dataclass_fields__["name"].metadata["choices"]
    return names


@dataclass(frozen=True)
class Settings:
    """All sections, validated. `settings["segment"]` is the frozen `Params` of that stage."""

    sections: Mapping[str, Any]

    def __getitem__(self, section: str) -> Any:
        return self.sections[section]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return {name: plain(params) for name, params in self.sections.items()}


def load(params_file: Path | None = None, sets: Iterable[str] = ()) -> Settings:
    """Read and validate parameters.

    Args:
        params_file: a YAML file like params.yaml; None = built-in defaults.
        sets: `section.key=value` strings, values in YAML syntax; they win over the file.

    Raises:
        UsageError: unknown section or key, wrong type, or a value out of range; the message names the key.
    """
    given, backbones = _read_yaml(params_file) if params_file is not None else ({}, None)
    where = {(section, key): str(params_file) for section, values in given.items() for key in values}
    for text in sets:
        section, key, value = _parse_set(text)
        given.setdefault(section, {})[key] = value
        where[section, key] = "--set"
    check_backbone(given, backbones, str(params_file))
    layers = [_backbone_preset(given), given]
    merged: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for layer in layers:
        for section, values in layer.items():
            if section not in SECTIONS:
                raise UsageError(f"unknown section '{section}' in the parameters{_suggest(section, SECTIONS)}")
            merged[section].update(values)
    return Settings(
        {section: from_mapping(section, SECTIONS[section], values, where) for section, values in merged.items()}
    )


def from_mapping(
    section: str, cls: type, values: Mapping[str, Any], where: Mapping[tuple[str, str], str] | None = None
) -> Any:
    """Build a frozen `Params` from a mapping, refusing unknown keys, wrong types and values out of range."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        source = (where or {}).get((section, key))
        at = f" (in {source})" if source else ""
        if key not in fields:
            raise UsageError(f"unknown parameter '{section}.{key}'{at}{_suggest(key, fields)}")
        arguments[key] = _check(f"{section}.{key}", value, hints[key], fields[key].metadata, at)
    return cls(**arguments)


def plain(params: Any) -> dict[str, Any]:
    """A `Params` as a dict of YAML-friendly values."""
    values = dataclasses.asdict(params)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def preset_files() -> dict[str, Path]:
    """The presets that there are, by name."""
    return {file.stem: file for file in resource("presets").glob("*.yaml")}


def read_preset(name: str) -> dict[str, dict[str, Any]]:
    """The sections that a preset of that name sets.

    Raises:
        UsageError: there is no such preset; the message lists those that exist.
    """
    return _preset(name)[0]


def preset_backbones(name: str) -> tuple[str, ...] | None:
    """The backbones that a preset of that name is for (its key `for`); None = any."""
    return _preset(name)[1]


def preset_for(kind: str, backbone: str) -> str:
    """The preset of a kind for a backbone: of that name, or one of its variants `<kind>_...`."""
    for name in sorted(preset_files()):
        backbones = preset_backbones(name) if name == kind or name.startswith(f"{kind}_") else ()
        if backbones is None or backbone in backbones:
            return name
    raise UsageError(
        f"there is no preset '{kind}' for backbone '{backbone}'; there are: {', '.join(sorted(preset_files()))}"
    )


def check_backbone(given: Mapping[str, Mapping[str, Any]], backbones: tuple[str, ...] | None, what: str) -> None:
    """Refuse parameters that are for other backbones than the one that is named.

    Args:
        given: sections; without `backbone.name` it is the default one.
        backbones: those that the parameters are for; None = any.
        what: is refused.

    Raises:
        UsageError: names the remedy.
    """
    name = _backbone_name(given)
    if backbones is not None and name not in backbones:
        raise UsageError(
            f"{what} is for backbone {' or '.join(backbones)}, but backbone.name is '{name}'; "
            f"`vidseg preset apply {backbones[-1]}` first, or choose another of `vidseg preset list`"
        )


def _preset(name: str) -> tuple[dict[str, dict[str, Any]], tuple[str, ...] | None]:
    known = preset_files()
    if name not in known:
        raise UsageError(f"unknown preset '{name}'; there are: {', '.join(sorted(known))}")
    return _read_yaml(known[name])


def _backbone_name(given: Mapping[str, Mapping[str, Any] | None]) -> str:
    return str((given.get("backbone") or {}).get("name", BackboneParams.name))


def _backbone_preset(given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    name = _backbone_name(given)
    return read_preset(name) if name in backbone_names() else {}


def _read_yaml(path: Path) -> tuple[dict[str, dict[str, Any]], tuple[str, ...] | None]:
    """Sections, and the backbones that they are for."""
    content = yaml_files.load(Path(path), "give a parameter file like params.yaml") or {}
    backbones = content.pop("for", None) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not all(isinstance(v, dict | None) for v in content.values()):
        raise UsageError(f"{path}: expected sections with keys, like `segment: {{clusters: 20}}`")
    sections = {
        str(section): {str(key): value for key, value in (values or {}).items()} for section, values in content.items()
    }
    return sections, tuple(backbones) if backbones else None


def _parse_set(text: str) -> tuple[str, str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise UsageError(f"--set {text}: expected section.key=value, e.g. --set segment.clusters=12")
    parsed = yaml_files.parse(value, f"--set {text}: the value")
    # No parameter is a mapping; `ingest.frames=9:` only looks like one.
    return section, key, value.strip() if isinstance(parsed, dict) else parsed


def _check(name: str, value: Any, hint: Any, limits: Mapping[str, Any], at: str) -> Any:
    converted = _convert(value, hint)
    if converted is _BAD:
        raise UsageError(f"{name} must be {_describe(hint)}, not {_shown(value)}{at}")
    if limits["choices"] and converted is not None and converted not in limits["choices"]:
        raise UsageError(f"{name} must be one of {', '.join(limits['choices'])}, not {_shown(value)}{at}")
    numbers = converted if isinstance(converted, tuple) else (converted,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        low, high = limits["low"], limits["high"]
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UsageError(f"{name} must be {bounds if low is not None else f'at most {high}'}, not {number}{at}")
    return converted


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


_BAD = object()


def _convert(value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        candidates = (_convert(value, option) for option in typing.get_args(hint))
        return next((candidate for candidate in candidates if candidate is not _BAD), _BAD)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return _BAD
        items = tuple(_convert(item, typing.get_args(hint)[0]) for item in value)
        return _BAD if _BAD in items else items
    if hint is type(None):
        return None if value is None else _BAD
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if value == value and abs(value) != float("inf") else _BAD
    if hint is int and isinstance(value, bool):
        return _BAD
    return value if isinstance(value, hint) else _BAD


def _describe(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a word",
        type(None): "null",
    }
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "a list"
    return names[hint]


def _suggest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(known)}"
