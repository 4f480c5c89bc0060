"""Every recorded array of SMITE's authors' released code against the library (see docs/explanation/paper-and-code.md).

`VIDSEG_SMITE_REFERENCE` names the folder of the recorded files; without it ../shared/reference/smite beside the
checkout is used, and where that is absent the tests are skipped. Each file is computed from recorded inputs:
`pytest tests/reference/test_smite.py -s` prints how many of its arrays are compared and how many differ.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.features.noise import TurnNoise
from pipeline.fewshot.apply import REFERENCE_SPAN
from pipeline.fewshot.chunks import chunks, groups
from pipeline.fewshot.energies import total_energy
from pipeline.fewshot.latent_update import AdamState, update_rate, updated
from pipeline.fewshot.losses import class_weights, cross_entropy, map_error, noise_error, spectral_error
from pipeline.fewshot.voting import vote
from pipeline.scoring.smite import score_parts, shared_frames
from pipeline.tracking.tracks import Tracks
from tests.reference import smite_learn
from tests.reference.cases import Tally, within
from tests.reference.smite import DEFAULT_FOLDER, FOLDER, GIVEN_FOLDER, META, VARIABLE, Recorded, Rule, compared
from tests.reference.smite_energy import ENERGY
from tests.reference.smite_guidance import CHAIN_BOUNDS, CHAIN_INPUTS, GUIDANCE_BOUNDS, GUIDANCE_INPUTS, chain, guidance
from tests.reference.smite_maps import MAPS, UNIT_MAPS
from tests.reference.smite_network import NETWORK
from tests.reference.smite_vote import VOTE

ABSENT = GIVEN_FOLDER is None and not DEFAULT_FOLDER.is_dir()
RECORDED = (NETWORK, MAPS, UNIT_MAPS, VOTE, ENERGY)
OTHERS = ("slicing.json", "metrics.json")


def present(file: str) -> Any:
    """A file of the folder, read; the test is skipped where it is absent."""
    if ABSENT:
        pytest.skip(f"the recorded arrays are not here: no ../shared/reference/smite, and {VARIABLE} is not set")
    path = FOLDER / file
    if not path.is_file():
        pytest.skip(f"no {file} in {FOLDER.name}")
    return json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path))


def test_the_folder_holds_files() -> None:
    present_files = [name for name in (*(recorded.file for recorded in RECORDED), *OTHERS) if (FOLDER / name).is_file()]
    if ABSENT:
        present(VOTE.file)
    assert present_files, f"{FOLDER} holds none of the recorded files; {VARIABLE} must name a folder of them"


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.file)
def test_every_array(recorded: Recorded) -> None:
    recorded.tally(present(recorded.file)).report()


@pytest.mark.parametrize("file", ["learn.npz", pytest.param("learn64.npz", marks=pytest.mark.slow)])
def test_learning(file: str) -> None:
    arrays = present(file)
    computed, bounds = smite_learn.Recording(arrays).computed(), smite_learn.bounds(arrays)
    compared(file.removesuffix(".npz"), arrays, computed, bounds, smite_learn.INPUTS).report()


def test_guidance() -> None:
    arrays = present("guidance.npz")
    compared("guidance", arrays, guidance(arrays), GUIDANCE_BOUNDS, GUIDANCE_INPUTS).report()


@pytest.mark.slow
def test_chain() -> None:
    arrays = present("chain.npz")
    compared("chain", arrays, chain(arrays), CHAIN_BOUNDS, CHAIN_INPUTS).report()


def test_noise_by_the_order_of_chunks() -> None:
    """Each chunk's draws, in order and alone: the reference pass has its timestep and noise of the same sequence."""
    arrays = present("chain.npz")
    meta = json.loads(str(arrays[META]))
    frames, *shape = arrays["chunk0_noise"].shape
    last = meta["timesteps"][0]
    given = (meta["seed"], (frames, *shape), range(last - REFERENCE_SPAN + 1, last + 1))
    in_order, numbers = TurnNoise(*given), range(len(meta["chunks"]))
    tally = Tally("noise", 6 * len(numbers))
    for number, turns in [
        *((number, in_order) for number in numbers),
        *((number, TurnNoise(*given)) for number in numbers),
    ]:
        found, drawn = turns.of(number)
        parts = {"noise": found.epsilon, "noise_reference": found.posterior, "reference_timestep": torch.tensor(drawn)}
        for name, ours in parts.items():
            recorded = arrays[f"chunk{number}_{name}"]
            tally.add(f"chunk{number}_{name}", within(1e-5)(ours.numpy(), recorded))
    tally.report()


@pytest.mark.parametrize("file", ["learn.npz", "learn64.npz"])
def test_losses_of_the_first_step(file: str) -> None:
    """From the recorded maps and noise prediction, without the network."""
    arrays = {name: torch.from_numpy(value) for name, value in present(file).items() if value.dtype.kind in "fiu"}
    mask, cross = arrays["mask"][None], arrays["cross"][None]
    weights = class_weights(mask, cross.shape[1])
    maps, noise = arrays["was_training"][None], arrays["noises"][0].float()
    ours = {
        "CE": cross_entropy(cross, mask, weights),
        "MSE": map_error(maps, mask),
        "LDM": noise_error(arrays["noise_prediction_guided"][0, :, 0], noise),
        "Fourier": spectral_error(maps, mask),
    }
    tally = Tally(f"losses of {file}", 5)
    tally.add("class_weights", within(1e-5)(weights.numpy(), arrays["class_weights"].numpy()))
    beside = {"Fourier": smite_learn.spectral_bound(arrays["mask"].numpy())}
    for (name, value), recorded in zip(ours.items(), arrays["losses_phase1"][0, 1:].numpy(), strict=True):
        allowed = 1e-4 * max(1.0, float(recorded)) + beside.get(name, 0)
        tally.add(name, within(allowed)(value.numpy(), recorded))
    tally.report()


def test_guidance_without_the_network() -> None:
    """The vote, the energies of the first and last maps, and the first update of the latents."""
    arrays = {
        name: torch.from_numpy(value) for name, value in present("guidance.npz").items() if value.dtype.kind in "fiub"
    }
    meta = json.loads(str(present("guidance.npz")[META]))
    yx = arrays["tracks_xy"].numpy()[..., ::-1].astype(np.int16)
    tracks = Tracks(yx, arrays["visible"].numpy(), np.zeros(len(yx), np.int32))
    voted = vote(arrays["S_cur"], tracks, meta["vote_window"])
    start, rate = arrays["z_start"][0], update_rate(1 / (1 + meta["rate"] / 10), 10)
    gradient = arrays["both_gradient_first"][0]
    moved, _ = updated(start, gradient, AdamState.zeros_like(start), rate)
    tally = Tally("guidance without the network", 4)
    tally.add("S_trk", within(1e-5)(voted.numpy(), arrays["S_trk"].numpy()))
    for place, number in (("first", 0), ("last", -1)):
        found = total_energy(
            arrays[f"both_S_{place}"], arrays["S_trk"], arrays["S_ref"],
            lambda_track=meta["lambda_track"], lambda_reg=meta["lambda_reg"], threshold=0.4,
        )  # fmt: skip
        ours = np.array([found.total, found.track, found.regularisation])
        tally.add(f"both_energies, {place}", within(1e-5)(ours, arrays["both_energies"][number].numpy()))
    tally.add("both_latents, first", within(1e-5)(moved.numpy(), arrays["both_latents"][0].numpy()))
    tally.report()


def test_slicing() -> None:
    """Chunks, what is carried between them and taken from each, and groups: equal for all recorded lengths."""
    content = present("slicing.json")
    tally = Tally("slicing", len(content["chunks"]) + len(content["groups"]))
    for entry in content["chunks"]:
        found = chunks(entry["frames"], entry["size"], entry["overlap"])
        ours = {
            "slices": [[chunk.frames.start, chunk.frames.stop] for chunk in found],
            "carried_to_next": [chunk.carried for chunk in found[1:]],
            "output_taken": [[chunk.taken.start, chunk.taken.stop] if chunk.taken else [] for chunk in found],
        }
        name = f"chunks of {entry['frames']} frames by {entry['size']} and {entry['overlap']}"
        wrong = [key for key, value in ours.items() if value != entry[key]]
        tally.add(name, f"{', '.join(wrong)}: {ours}, recorded {entry}" if wrong else None)
    for entry in content["groups"]:
        ours_groups = [[group.start, group.stop] for group in groups(entry["frames"], entry["size"])]
        complaint = None if ours_groups == entry["slices"] else f"{ours_groups}, recorded {entry['slices']}"
        tally.add(f"groups of {entry['frames']} frames by {entry['size']}", complaint)
    tally.report()


def test_metrics() -> None:
    scores, arrays = present("metrics.json"), present("metrics.npz")
    ours = metrics(arrays["gt"], arrays["pred"], scores)
    tally = Tally("metrics", len(leaves(scores)))
    for name, value in leaves(scores).items():
        if name not in ours:
            tally.add(name, "no rule knows this name")
        elif isinstance(value, float):
            tally.add(name, within(1e-12)(np.array(ours[name]), np.array(value)))
        else:
            tally.add(name, None if ours[name] == value else f"{ours[name]}, recorded {value}")
    tally.report()


def metrics(truth: np.ndarray, prediction: np.ndarray, recorded: dict[str, Any]) -> dict[str, Any]:
    names, annotated = recorded["part_names"], recorded["annotated"]
    score = score_parts(truth, prediction, names)
    shared = shared_frames(annotated["gt_inds"], annotated["frame_inds"])
    of_truth, of_prediction = ([annotated[key].index(frame) for frame in shared] for key in ("gt_inds", "frame_inds"))
    every_second = truth[[annotated["frame_inds"].index(frame) for frame in annotated["gt_inds"]]]
    some = score_parts(every_second[of_truth], prediction[of_prediction], names)
    ious = [
        [iou if (frame == part).any() else None for part, iou in enumerate(iou_of_parts(frame, other, names))]
        for frame, other in zip(truth, prediction, strict=True)
    ]
    return leaves(
        {
            "part_names": names,
            "all_frames": summary(score),
            "annotated": {**annotated, "scores": {"shared_frames": shared, **summary(some)}},
            "f_frames_objects": score.contour.tolist(),
            "jaccard_frames_objects": score.region.tolist(),
            "iou_frames_parts": ious,
            "tolerance_radius": math.ceil(0.008 * math.hypot(*truth.shape[1:])),
        }
    )


def iou_of_parts(truth: np.ndarray, prediction: np.ndarray, names: list[str]) -> list[float]:
    return list(score_parts(truth[None], prediction[None], names).iou_per_part.values())


def summary(score: Any) -> dict[str, Any]:
    return {
        "f_measure": score.f_measure,
        "jaccard": score.jaccard,
        "iou_per_part": {f"iou_{part}": value for part, value in score.iou_per_part.items()},
        "mean_iou": score.mean_iou,
        "mae": score.mean_absolute_error,
    }


def leaves(content: Any, name: str = "") -> dict[str, Any]:
    """The numbers and words of a nested record, by their path."""
    if isinstance(content, dict):
        parts = content.items()
    elif isinstance(content, list):
        parts = enumerate(content)  # type: ignore[assignment]
    else:
        return {name: content}
    return {path: leaf for key, value in parts for path, leaf in leaves(value, f"{name}.{key}".strip(".")).items()}


def test_an_unknown_or_wrong_array_fails() -> None:
    """So that nothing recorded goes uncompared."""
    double = Rule(r"double", lambda arrays, match: 2 * arrays["single"], within(0.5))
    recorded = Recorded("few.npz", (double,), {"single": "double"})
    arrays = {META: np.array("{}"), "single": np.array([1.0]), "double": np.array([2.0])}
    tally = recorded.tally(arrays)
    assert (tally.total, tally.compared, tally.complaints) == (2, 2, [])
    wrong = recorded.tally({**arrays, "single": np.array([1.5]), "other": np.zeros(1)})
    assert wrong.complaints == ["double: off by up to 1, allowed 0.5", "other: no rule knows this name"]
    assert recorded.tally({"single": np.zeros(1)}).complaints == ["single: double, which shows it, is missing"]
    with pytest.raises(AssertionError, match="few: 3 of 3 arrays compared, 2 differ"):
        wrong.report()
