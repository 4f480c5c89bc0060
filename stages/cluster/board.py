"""How a distributed run is going: a table of items and stages on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stages.common import cli
from stages.common.printing import text_table

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from stages.cluster.plan import Plan

MARKS = {
    "waiting": "·",
    "running": "[yellow]running[/]",
    "ran": "[green]ran[/]",
    "restored": "[cyan]restored[/]",
    "failed": "[red]failed[/]",
}
#: Which items are drawn when not all fit on the screen: those with such a stage, in this order.
URGENT = ("running", "failed", "waiting")
#: Lines of the screen that are no items: the head, the caption, the cursor's.
OTHER_LINES = 3


class Board:
    """States of the stages of all items, shown while they change."""

    def __init__(self, plan: Plan) -> None:
        self._columns = plan.stages
        self._states = {chain.key: dict.fromkeys(chain.stages, "waiting") for chain in plan.chains}
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the table while this is held, if there is a terminal to draw on."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        with Live(self.table(console.height - OTHER_LINES), console=console, refresh_per_second=2) as live:
            self._live = live
            yield
        self._live = None

    def change(self, key: str, stage: str, state: str) -> None:
        """Note the state of an item's stage; stages of other items, e.g. shared ones, are not shown."""
        before = self._states.get(key, {}).get(stage, state)
        if before == state or (before, state) == ("ran", "restored"):  # an item that is tried again restores what ran
            return
        self._states[key][stage] = state
        if self._live is not None:
            self._live.update(self.table(self._live.console.height - OTHER_LINES))
        else:
            cli.note(f"{key}: {stage} {state}")

    def finish(self, key: str, states: Mapping[str, str]) -> None:
        """Note how an item's stages ended, also those whose events got lost with their worker."""
        for stage, state in states.items():
            self.change(key, stage.partition("@")[0], state)

    def table(self, most: int) -> Table:
        """Items by stages; no more than `most` items, those that have something to tell."""
        from rich.table import Table

        left_out = set(sorted(self._states, key=self._urgency)[max(most, 1) :])
        caption = f"and {len(left_out)} more items; all: {self.summary()}" if left_out else None
        table = Table("item", *self._columns, box=None, caption=caption, caption_justify="left")
        for key, states in self._states.items():
            if key not in left_out:
                table.add_row(key, *(MARKS.get(states.get(stage, ""), "") for stage in self._columns))
        return table

    def _urgency(self, key: str) -> int:
        states = self._states[key].values()
        return next((rank for rank, state in enumerate(URGENT) if state in states), len(URGENT))

    def summary(self) -> str:
        """How many stages run, ran, were restored, failed, wait."""
        counts: Counter[str] = Counter(state for states in self._states.values() for state in states.values())
        return ", ".join(
            f"{counts[state]} {state}" for state in ("running", "ran", "restored", "failed", "waiting") if counts[state]
        )


def plain_plan(plan: Plan, rest: Sequence[tuple[str, Any]]) -> str:
    """The plan as lines of text."""
    facts = [
        ("revision", plan.revision),
        ("project", plan.project),
        ("DVC cache", plan.cache),
        ("clones", plan.clones),
        ("logs", plan.logs),
        ("unfinished", plan.scratch),
        *rest,
        ("items", len(plan.chains)),
    ]
    chains = [(chain.key, " ".join(chain.stages), f"<- dvc repro {' '.join(chain.targets)}") for chain in plan.chains]
    here = " ".join(["dvc repro", *plan.targets])
    return f"{text_table(facts)}\n{text_table(chains, indent=2)}\nthen, here  {here}"
