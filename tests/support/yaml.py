"""YAML of tests, as the stages read it."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML


def safe_load(text: str) -> Any:
    """The plain values of a text."""
    return YAML(typ="safe").load(text)


def safe_dump(content: Any) -> str:
    """Plain values as text, a line each."""
    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(content, stream)
    return stream.getvalue()


def videos(items: Any) -> dict[str, Any]:
    """The content of a videos.yaml of these items, without concepts."""
    return {"items": items, "concepts": {}, "applied": {}}
