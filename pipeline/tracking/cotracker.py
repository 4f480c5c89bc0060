"""The tracker `cotracker`: CoTracker 3 (Karaev et al. 2024), what SMITE was published with. (This module takes paths.)

Neither the package nor its weights come with this project, and its licence forbids commercial use:
`pip install git+https://github.com/facebookresearch/co-tracker`, and the checkpoint `scaled_offline.pth`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import WeightsError
from pipeline.tracking.tracks import Clip, FrameTracks, frame_tracks, grid_points, to_cells, to_pixels

#: Frames that the published offline model looks at together.
FRAMES_TOGETHER = 60


@dataclass(frozen=True)
class CoTracker:
    """Asks CoTracker, frame by frame, where the points of a frame lie in its window.

    Attributes:
        weights: checkpoint file; None is refused when tracks are asked for.
        device: as torch names it.
    """

    weights: Path | None
    device: str = "cpu"
    name: str = "cotracker"
    needs_features: bool = False

    def stream(self, clip: Clip, asked: Sequence[int]) -> Iterator[FrameTracks]:
        """The tracks of the points of these frames.

        Raises:
            WeightsError: the package or the checkpoint is missing, or the checkpoint is of another network.
        """
        import torch

        model, size = self._model, clip.size
        starts = torch.from_numpy(to_pixels(grid_points(clip.grid), size, clip.grid)[:, ::-1].copy()).float()
        for frame in asked:
            window = clip.window_of(frame)
            video = np.stack([clip.frames[target] for target in window])
            queries = torch.cat([torch.full((len(starts), 1), float(frame - window.start)), starts], dim=1)
            with torch.inference_mode():
                xy, visible = model(
                    torch.from_numpy(video).permute(0, 3, 1, 2)[None].float().to(self.device),  # 0..255
                    queries=queries[None].to(self.device),
                    backward_tracking=True,
                )
            cells = to_cells(xy[0].flip(-1).cpu().numpy(), size, clip.grid)
            yield frame_tracks(frame, window, cells, visible[0].cpu().numpy().astype(bool), clip.grid)

    @cached_property
    def _model(self) -> Any:
        how = "see docs/how-to/get-weights.md, or choose another track.method"
        try:
            predictor = import_module("cotracker.predictor")
        except ImportError as error:
            raise WeightsError(
                f"track.method is cotracker, but its package is not installed ({error}); {how}"
            ) from error
        if self.weights is None:
            raise WeightsError(f"track.method is cotracker, but track.file names no checkpoint; {how}")
        model = predictor.CoTrackerPredictor(checkpoint=None, offline=True, v2=False, window_len=FRAMES_TOGETHER)
        try:
            model.model.load_state_dict(_read_weights(self.weights))
        except FileNotFoundError as error:
            raise WeightsError(f"{self.weights}: no such checkpoint of CoTracker; {how}") from error
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise WeightsError(f"{self.weights}: not a checkpoint of CoTracker 3 offline ({reason}); {how}") from error
        return model.to(self.device)


def _read_weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    return dict(content.get("model", content))
