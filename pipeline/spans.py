"""Ranges of numbered things, as people write them: START:STOP, either of which may be left out."""

from __future__ import annotations

import re

from pipeline.errors import UsageError


def parse_span(text: str, what: str) -> slice:
    """`3:7` (3 to 6), `3:`, `:7` or `:` as a slice.

    Args:
        what: names the text in messages.

    Raises:
        UsageError: it is none of these, or nothing can be in it.
    """
    match = re.fullmatch(r"\s*(\d{0,18})\s*:\s*(\d{0,18})\s*", text)
    if not match:
        raise UsageError(f"{what} must be START:STOP like 0:28 (0 to 27), 10: or :5, not {text!r}")
    start, stop = (int(part) if part else None for part in match.groups())
    if stop is not None and stop <= (start or 0):
        raise UsageError(f"{what}: nothing is in {text}; START must be below STOP")
    return slice(start, stop)
