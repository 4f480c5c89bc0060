"""Tables for people, the same on a terminal, in a pipe and in a file: never wrapped, never cut."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from stages.common.cli import printable


def counted(number: int, what: str) -> str:
    """So many of something: `1 frame`, `3 frames`."""
    return f"{number} {what}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Some names of many: `a, b, c and 5 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def in_command(path: Path | str) -> str:
    """A path as a word of a command that can be copied: quoted, and not to be taken for an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def text_table(
    rows: Iterable[Sequence[object]], heads: Sequence[str] = (), left: Collection[int] | None = None, indent: int = 0
) -> str:
    """Rows as aligned columns, two spaces apart.

    Args:
        rows: the cells of each row; None is shown as `-`.
        heads: names of the columns; without them there is no line of heads.
        left: the columns that are aligned to the left, the others to the right; None = all.
        indent: spaces before each line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[Text("-" if cell is None else printable(str(cell))) for cell in row] for row in rows]
    table = Table(box=None, show_header=bool(heads), pad_edge=False, padding=(0, 2, 0, 0))
    for number in range(len(heads) or max(map(len, cells), default=0)):
        to_left = left is None or number in left
        table.add_column(Text(heads[number]) if heads else "", justify="left" if to_left else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    # As wide as it needs to be: what reads a pipe takes lines, and a terminal breaks them itself.
    console = Console(width=1_000_000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(" " * indent + line.rstrip() for line in captured.get().splitlines())
