"""unet.npz: forward passes of the network that sees several frames together, and their hidden states."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Conditioning, Prediction, Tap, Together
from tests.reference.cases import Compare, within
from tests.reference.smite import Arrays, Recorded, Rule
from tests.reference.smite_model import network, tensor

#: What the passes see together, by the names of their arrays.
PASSES = {
    "": Together(4),
    "_not_inflated": Together(4, attention="frame"),
    "_single_frames": Together(1),
    "_norm_frame": Together(4, norm="frame"),
}
#: Hidden states: after the middle block and after each level of the decoder.
PLACES = ("mid", "up0", "up1", "up2", "up3")


def frames_first(sample: Tensor) -> Tensor:
    """(clips, c, f, h, w) as (clips * f, c, h, w)."""
    return sample.transpose(1, 2).flatten(0, 1)


def channels_first(values: Tensor, clips: int) -> np.ndarray:
    """(clips * f, c, h, w) as (clips, c, f, h, w)."""
    return values.unflatten(0, (clips, -1)).transpose(1, 2).numpy()


@torch.inference_mode()
def passed(arrays: Arrays, sample: str = "sample", name: str = "", record: Collection[Tap] = ()) -> Prediction:
    """The pass of a recorded sample with the first context."""
    backbone, context = network(tensor(arrays, "context")), Conditioning(context=tensor(arrays, "context"))
    latents, timestep = frames_first(tensor(arrays, sample)), int(arrays["timestep"])
    return backbone.predict(latents, timestep, conditioning=context, record=record, together=PASSES[name])


@torch.inference_mode()
def passed_pair(arrays: Arrays, record: Collection[Tap] = ()) -> Prediction:
    """The guidance pair as a batch of two clips, each with its own context."""
    contexts = torch.stack([tensor(arrays, "pair_context_uncond"), tensor(arrays, "context")])
    latents = frames_first(tensor(arrays, "sample"))
    return network(contexts[1]).predict(
        latents.repeat(2, 1, 1, 1),
        int(arrays["pair_timestep"]),
        conditioning=Conditioning(context=contexts.repeat_interleave(len(latents), dim=0)),
        record=record,
        together=Together(len(latents)),
    )


def output(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return channels_first(passed(arrays, name=match[1]).noise, 1)


def rectangular(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return channels_first(passed(arrays, "rect_sample").noise, 1)


def pair(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return channels_first(passed_pair(arrays).noise, 2)


def hidden(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    unet, found = network(tensor(arrays, "context")).unet, {}
    module = unet.mid_block if match[1] == "mid" else unet.up_blocks[int(match[1][2:])]

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        found["hidden"] = output

    handle = module.register_forward_hook(keep)
    try:
        passed(arrays)
    finally:
        handle.remove()
    states = channels_first(found["hidden"], 1)
    return states[:, :, [0, -1]] if match[2] else states


#: The bound that the README of the recorded arrays suggests for network outputs.
CLOSE: Compare = within(1e-4)
NETWORK = Recorded(
    "unet.npz",
    (
        Rule(r"output((?:_not_inflated|_single_frames|_norm_frame)?)", output, CLOSE),
        Rule(rf"({'|'.join(PLACES)})(_first_last)?", hidden, CLOSE),
        Rule(r"pair_output", pair, CLOSE),
        Rule(r"rect_output", rectangular, CLOSE),
    ),
    {
        "sample|timestep|context": "output",
        "pair_timestep|pair_context_uncond": "pair_output",
        "rect_sample": "rect_output",
    },
)
