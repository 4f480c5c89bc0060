"""Parameters: typed, validated dataclasses, one per section of params.yaml.

Later layers win, key by key: the dataclasses' defaults, the preset of the chosen backbone
(`presets/<backbone.name>.yaml`), a preset that is named, the file given with `--params`, and
`--set section.key=value`. Between the layers a parameter has its whole name, like `upsample.fast.steps`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from pipeline.errors import UsageError
from pipeline.parameters import SECTIONS, BackboneParams, Declared, choices, declared, flat, groups, renamed
from stages.common import yaml_files
from stages.common.resources import resource


def backbone_names() -> tuple[str, ...]:
    """The backbones that there are."""
    return choices(BackboneParams, "name")


@dataclass(frozen=True)
class Settings:
    """All sections, validated. `settings["segment"]` is the frozen `SegmentParams`.

    Attributes:
        sections: by name.
        given: whole names of the parameters that a person gave: by a preset other than a backbone's own, in a file, or
            with `--set`.
    """

    sections: Mapping[str, Any]
    given: frozenset[str] = frozenset()

    def __getitem__(self, section: str) -> Any:
        return self.sections[section]

    def replaced(self, section: str, **values: Any) -> Settings:
        """With other values in one section."""
        return Settings({**self.sections, section: dataclasses.replace(self[section], **values)}, self.given)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Section -> key -> value, as a parameter file has them."""
        return {name: _listed(dataclasses.asdict(params)) for name, params in self.sections.items()}

    def flat(self) -> dict[str, Any]:
        """Whole name, like `upsample.fast.steps`, -> value."""
        return _listed(
            {f"{name}.{key}": value for name, params in self.sections.items() for key, value in flat(params).items()}
        )


def at_learned_size(settings: Settings, side: int) -> Settings:
    """The parameters, with frames as large as the pictures that a concept was learned from, unless `ingest.size` was
    given: segments are told best at the size that they were shown at, and guidance takes long at a larger one.

    Args:
        side: of these pictures.
    """
    if "ingest.size" in settings.given or settings["ingest"].size == side:
        return settings
    return settings.replaced("ingest", size=side)


#: Parameters that may name a folder or file of weights; what they name else is no path that exists.
WEIGHTS = ("backbone.path", "extract.encoder", "upsample.fast.small_decoder", "track.file")


def load(params_file: Path | None = None, sets: Iterable[str] = (), preset: str | None = None) -> Settings:
    """Read and validate parameters.

    Args:
        params_file: a YAML file like params.yaml; None = built-in defaults.
        sets: `section.key=value` or `section.group.key=value`, values in YAML syntax; they win over the file.
        preset: name of a preset, over which the file wins.

    Raises:
        UsageError: unknown section or key, wrong type, or a value out of range; the message names the key.
    """
    layers = [("preset", _preset(preset))] if preset is not None else []
    layers += [(str(params_file), _read_yaml(params_file))] if params_file is not None else []
    given = {name: value for _, layer in layers for name, value in layer.values.items()}
    where = {name: what for what, layer in layers for name in layer.values}
    for text in sets:
        name, value = _parse_set(text)
        given[name], where[name] = value, "--set"
    chosen = str(given.get("backbone.name", BackboneParams.name))
    merged = read_preset(chosen) if chosen in backbone_names() else {}
    for what, layer in layers:
        check_backbone(chosen, layer.backbones, f"preset '{preset}'" if what == "preset" else what)
        merged |= layer.values_for(chosen)
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in {**merged, **given}.items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    return Settings(
        {name: from_mapping(name, SECTIONS[name], values, where) for name, values in sections.items()},
        frozenset(name for name, what in where.items() if what != "preset" or preset not in backbone_names()),
    )


def from_mapping(section: str, cls: type, values: Mapping[str, Any], where: Mapping[str, str] | None = None) -> Any:
    """Build a frozen section, refusing unknown keys, wrong types and values out of range.

    Args:
        values: by name within the section, like `clusters` and `parity.label_merge`.
        where: whole name -> where the value is from, for messages.
    """
    known, inside, converted = declared(cls), groups(cls), {}
    for key, value in values.items():
        name = f"{section}.{key}"
        at = f" (in {where[name]})" if where and name in where else ""
        if key in inside:
            inner = ", ".join(one.partition(".")[2] for one in known if one.startswith(f"{key}."))
            raise UsageError(f"{name} is a group of parameters ({inner}), not {_shown(value)}{at}")
        if key not in known:
            raise UsageError(f"unknown parameter '{name}'{at}{_suggest(key, (*known, *inside), f'{section}.')}")
        converted[key] = _check(name, value, known[key], at)
    return _build(cls, converted)


def plain(params: Any) -> dict[str, Any]:
    """A section as stores keep it: a flat dict of YAML-friendly values under the names of `Declared.stored`.

    Fingerprints are made of it, so that a parameter may be renamed or moved into a group and what was computed before
    stays valid.
    """
    known = declared(type(params))
    return _listed(
        {
            known[name].stored: value
            for name, value in flat(params).items()
            if known[name].before is dataclasses.MISSING or value != known[name].before
        }
    )


@dataclass(frozen=True)
class ParameterFile:
    """What a parameter file or preset says.

    Attributes:
        values: by whole name.
        backbones: those that it is for (its key `for`); None = any.
        defaults: by backbone (its key `defaults`), what it takes where nothing else says something.
    """

    values: dict[str, Any]
    backbones: tuple[str, ...] | None = None
    defaults: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def values_for(self, backbone: str) -> dict[str, Any]:
        """The values, and the defaults for a backbone."""
        return {**self.defaults.get(backbone, {}), **self.values}


def preset_files() -> dict[str, Path]:
    """The presets that there are, by name."""
    return {file.stem: file for file in resource("presets").glob("*.yaml")}


def read_preset(name: str, backbone: str | None = None) -> dict[str, Any]:
    """The values of a preset by whole name, with its defaults for a backbone if one is given.

    Raises:
        UsageError: there is no such preset; the message lists those that exist.
    """
    found = _preset(name)
    return found.values if backbone is None else found.values_for(backbone)


def preset_backbones(name: str) -> tuple[str, ...] | None:
    """The backbones that a preset of that name is for (its key `for`); None = any."""
    return _preset(name).backbones


def preset_for(kind: str, backbone: str) -> str:
    """The preset of a kind for a backbone: of that name, or one of its variants `<kind>_...`."""
    for name in sorted(preset_files()):
        backbones = preset_backbones(name) if name == kind or name.startswith(f"{kind}_") else ()
        if backbones is None or backbone in backbones:
            return name
    raise UsageError(
        f"there is no preset '{kind}' for backbone '{backbone}'; there are: {', '.join(sorted(preset_files()))}"
    )


def check_backbone(name: str, backbones: tuple[str, ...] | None, what: str) -> None:
    """Refuse parameters that are for other backbones than the one that is named.

    Args:
        name: the backbone.
        backbones: those that the parameters are for; None = any.
        what: is refused.

    Raises:
        UsageError: names the remedy.
    """
    if backbones is not None and name not in backbones:
        raise UsageError(
            f"{what} is for backbone {' or '.join(backbones)}, but backbone.name is '{name}'; "
            f"`vidseg preset apply {backbones[-1]}` first, or choose another of `vidseg preset list`"
        )


def check_names(names: Iterable[str], path: Path) -> None:
    """Refuse a file with names of earlier versions.

    Raises:
        UsageError: names some of them and the command that rewrites the file.
    """
    old = [f"{name} -> {renamed()[name]}" for name in names if name in renamed()]
    if old:
        more = f", and {len(old) - 5} more" if len(old) > 5 else ""
        raise UsageError(
            f"{path}: {len(old)} renamed parameter{'s' if len(old) > 1 else ''}: {', '.join(old[:5])}{more}; "
            f"`vidseg preset migrate {path}` rewrites the file"
        )


def _preset(name: str) -> ParameterFile:
    known = preset_files()
    if name not in known:
        raise UsageError(f"unknown preset '{name}'; there are: {', '.join(sorted(known))}")
    return _read_yaml(known[name])


def _read_yaml(path: Path) -> ParameterFile:
    content = yaml_files.load(Path(path), "give a parameter file like params.yaml") or {}
    values = whole_names(content, path)
    check_names(values, path)
    backbones, defaults = content.get("for"), content.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise UsageError(f"{path}: defaults must be sections by backbone, like `compact: {{ingest: {{size: 256}}}}`")
    for name in defaults:
        if name not in backbone_names():
            raise UsageError(f"{path}: defaults are for an unknown backbone '{name}'{_suggest(name, backbone_names())}")
    return ParameterFile(
        values,
        tuple(backbones) if backbones else None,
        {backbone: whole_names(sections, path) for backbone, sections in defaults.items()},
    )


def whole_names(content: Any, path: Path) -> dict[str, Any]:
    """Whole name -> value of a file's sections; a section or group without keys has none.

    Raises:
        UsageError: no sections, or one that is unknown.
    """
    about = ("for", "defaults")
    sections = {key: value for key, value in content.items() if key not in about} if isinstance(content, dict) else None
    if sections is None or not all(isinstance(keys, dict | None) for keys in sections.values()):
        raise UsageError(f"{path}: expected sections with keys, like `segment: {{clusters: 20}}`")
    values = {}
    for section, keys in sections.items():
        inside = groups(_section(str(section), path))
        for key, value in (keys or {}).items():
            if key in inside and isinstance(value, dict | None):
                values.update({f"{section}.{key}.{name}": one for name, one in (value or {}).items()})
            else:
                values[f"{section}.{key}"] = value
    return values


def _section(name: str, where: str | Path) -> type:
    if name not in SECTIONS:
        raise UsageError(f"unknown section '{name}' (in {where}){_suggest(name, SECTIONS)}")
    return SECTIONS[name]


def _parse_set(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if not (equals and dot and key):
        raise UsageError(f"--set {text}: expected section.key=value, e.g. --set segment.clusters=12")
    inside = groups(_section(section, "--set"))
    if name in renamed():
        raise UsageError(f"--set {text}: {name} is now {renamed()[name]}")
    parsed = yaml_files.parse(value, f"--set {text}: the value")
    if not isinstance(parsed, dict):
        return name, parsed
    if value.lstrip().startswith("{") or key in inside:
        raise UsageError(f"--set {text}: one parameter at a time, e.g. --set upsample.fast.steps=3, not a mapping")
    return name, value.strip()  # `ingest.frames=9:` only looks like a mapping


def _check(name: str, value: Any, known: Declared, at: str) -> Any:
    converted = _convert(value, known.kind)
    if converted is _BAD:
        raise UsageError(f"{name} must be {_describe(known.kind)}, not {_shown(value)}{at}")
    numbers = converted if isinstance(converted, tuple) else (converted,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        low, high = known.low, known.high
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UsageError(f"{name} must be {bounds if low is not None else f'at most {high}'}, not {number}{at}")
    return converted


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    kinds = typing.get_type_hints(cls)
    inner = {
        group: {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{group}.")}
        for group in groups(cls)
    }
    own = {key: value for key, value in values.items() if "." not in key}
    return cls(**own, **{group: _build(kinds[group], given) for group, given in inner.items()})


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists instead of tuples, which YAML does not have."""
    return {
        key: _listed(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
    }


def _shown(value: Any) -> str:
    """The value as a parameter file has it, cut where it is long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


_BAD = object()


def _convert(value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        candidates = (_convert(value, option) for option in typing.get_args(hint))
        return next((candidate for candidate in candidates if candidate is not _BAD), _BAD)
    if origin is Literal:
        return value if isinstance(value, str) and value in typing.get_args(hint) else _BAD
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
    if typing.get_origin(hint) is Literal:
        words = typing.get_args(hint)
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    return names[hint]


def _suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    known = list(known)
    last = name.rpartition(".")[2]
    close = [one for one in known if one.rpartition(".")[2] == last] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{prefix}{close[0]}'?" if close else f"; there are: {', '.join(known)}"
