"""Recorded arrays of SMITE's authors' code, file by file, and what computes them.

A `Recorded` answers for every array of one file: by a rule, or as an input, which others are computed from: they show
whether it is read rightly. All computations start from recorded inputs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference.cases import Compare, Tally
from tests.support.places import SHARED

VARIABLE = "VIDSEG_SMITE_REFERENCE"
DEFAULT_FOLDER = SHARED / "reference" / "smite"
GIVEN_FOLDER = os.environ.get(VARIABLE)
FOLDER = Path(GIVEN_FOLDER) if GIVEN_FOLDER is not None else DEFAULT_FOLDER
META = "meta_json"

Arrays = Mapping[str, np.ndarray]
Compute = Callable[[Arrays, re.Match[str]], Any]


@dataclass(frozen=True)
class Rule:
    """How arrays of a pattern of names are computed from others of the file, and compared with the recorded ones."""

    pattern: str
    compute: Compute
    compare: Compare


@dataclass(frozen=True)
class Recorded:
    """One file of recorded arrays.

    Attributes:
        file: name of the .npz file.
        rules: what computes its arrays.
        inputs: pattern of an input -> name of an array that is computed from it, and shows whether it is read rightly;
            may hold groups of the pattern (\\1).
    """

    file: str
    rules: tuple[Rule, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)

    def complaint(self, arrays: Arrays, name: str) -> str | None:
        """What is wrong with our version of an array; None when it agrees."""
        for pattern, shows in self.inputs.items():
            if match := re.fullmatch(pattern, name):
                return None if match.expand(shows) in arrays else f"{match.expand(shows)}, which shows it, is missing"
        for rule in self.rules:
            if match := re.fullmatch(rule.pattern, name):
                return rule.compare(np.asarray(rule.compute(arrays, match)), arrays[name])
        return "no rule knows this name"

    def tally(self, arrays: Arrays) -> Tally:
        names = [name for name in arrays if name != META]
        tally = Tally(self.file.removesuffix(".npz"), len(names))
        for name in names:
            tally.add(name, self.complaint(arrays, name))
        return tally


def compared(
    title: str, arrays: Arrays, computed: Mapping[str, np.ndarray], bounds: Mapping[str, Compare], inputs: str
) -> Tally:
    """The arrays of a file that are computed together: those of the pattern `inputs` are what the others come from.

    Args:
        bounds: pattern of names -> how close these must come; the first that fits counts.
    """
    names = [name for name in arrays if name != META]
    tally = Tally(title, len(names))
    for name in names:
        compare = next((bound for pattern, bound in bounds.items() if re.fullmatch(pattern, name)), None)
        if re.fullmatch(inputs, name):
            tally.add(name, None)
        elif compare is None or name not in computed:
            tally.add(name, "no rule knows this name")
        else:
            tally.add(name, compare(computed[name], arrays[name]))
    return tally
