"""The folder that `vidseg run` leaves, of a scene, without the run."""

from __future__ import annotations

from pathlib import Path

from pipeline.parameters import RenderParams
from stages import render
from tests.support.scenes import Scene


def results(folder: Path) -> Scene:
    """What `vidseg run -o FOLDER/out` would leave of the scene; returns the scene, whose stores are its artifacts."""
    (folder / "out" / "artifacts").mkdir(parents=True)
    scene = Scene(folder / "out" / "artifacts")
    clip = scene.clip(Scene(folder).video_source())
    labels, features, coarse = scene.labels_store(), scene.features(), scene.coarse()
    render.run(clip, labels, folder / "out", RenderParams(extras=False, report=False), features=features, coarse=coarse)
    return scene
