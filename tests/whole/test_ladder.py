"""Rows of SMITE's ladder that must be one, from their presets to the maps that are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.fewshot.concept_store import load_concept
from pipeline.stores.schemas import LABELS, SOFT
from pipeline.stores.store import open_store
from stages import apply, learn
from stages.common.apply_task import Inputs, Sections
from stages.common.settings import load
from tests.support.concepts import make_stores

#: Steps of the first phase alone, so that `smite` has no second one.
FIRST_PHASE = ("learn.size=64", "learn.epochs=2", "apply.timesteps=[100,99]", "apply.chunk=3", "apply.overlap=1")
UNGUIDED = ("guidance.lambda_track=0", "guidance.lambda_reg=0")


def test_baseline3_is_smite_unguided_and_without_a_second_phase(tiny_model: Path, tmp_path: Path) -> None:
    stores = make_stores(tmp_path, tiny_model, 4)
    clip, found = stores.folder / "clip", {}
    for preset, sets in (("baseline3", ()), ("smite", UNGUIDED)):
        settings, out = (
            load(preset=preset, sets=[*FIRST_PHASE, *sets, f"backbone.path={tiny_model}"]),
            tmp_path / preset,
        )
        sections = (settings[name] for name in ("learn", "maps", "backbone"))
        concept = learn.run(stores.folder / "refs.zarr", out / "concept", *sections)
        assert load_concept(concept).adapter is None
        inputs = Inputs(clip / "clip.zarr", clip / "latents.zarr", clip / "tracks.zarr", concept)
        labels = open_store(apply.run(inputs, out, Sections.of(settings)), LABELS).read("labels")
        soft = open_store(out / "soft.zarr", SOFT)
        found[preset] = [settings["learn"].tune, soft.read("initial"), soft.read("maps"), labels]
    (tuned, *ours), (also, *theirs) = found.values()
    assert (tuned, also) == ("none", "cross_attention")
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)
