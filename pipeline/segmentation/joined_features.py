"""What the context model and the matching see of features.zarr: the diffusion model's, an encoder's, or both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.encoder.fusion import fused
from pipeline.errors import UsageError
from pipeline.parameters import CorrespondParams, EncoderWeight, SegmentParams, TrackParams
from pipeline.segmentation.context_store import FeatureKind
from pipeline.stores.feature_codec import read_features
from pipeline.stores.store import Store, shard_frames

#: Array of an encoder's features.
ENCODER = "encoder"


@dataclass(frozen=True)
class JoinedFeatures:
    """The features of a store under a choice of parameters.

    Attributes:
        store: features.zarr.
        name: `aggregated` or `matching`: the diffusion model's part.
        weight: of the encoder's part; 0 = without it, `only` = it alone.
        normalize: whether raw queries alone are divided, token by token, by their largest absolute value.
    """

    store: Store
    name: str
    weight: EncoderWeight
    normalize: bool

    @property
    def arrays(self) -> tuple[str, ...]:
        """The arrays that are read."""
        if self.weight == "only":
            return (ENCODER,)
        return (self.name,) if self.weight == 0 else (self.name, ENCODER)

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return self.store.frames(self.arrays[0])

    @property
    def shard(self) -> int:
        """Frames per file of the store."""
        return shard_frames(self.store.array(self.arrays[0]))

    @property
    def channels(self) -> int:
        """Numbers per token."""
        return sum(int(self.store.array(name).shape[-1]) for name in self.arrays)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start..stop: (f, n, c) float32.

        `aggregated` is stored normalised (extract.parity.normalize); `matching` is stored raw. Beside an encoder's
        features either has length 1 per token.
        """
        parts = {name: read_features(self.store, name, start, stop) for name in self.arrays}
        return joined(parts.get(self.name), parts.get(ENCODER), self.weight, self.normalize)

    @property
    def kind(self) -> FeatureKind:
        """Which features these are: a context model is tied to it."""
        extract, attrs = self.store.params.get("extract", {}), self.store.attrs
        blocks = [extract.get("matching_block")] if self.name == "matching" else extract.get("blocks", [])
        normalized = "max_abs" if self.name == "matching" else extract.get("normalize")
        of_diffusion = f"blocks {', '.join(map(str, blocks))}, step {extract.get('feature_step')}"
        backbone, channels = str(attrs.get("backbone")), self.channels
        if self.weight == 0:
            return FeatureKind(backbone, self.name, f"{of_diffusion}, {normalized}", channels)
        of_encoder = f"encoder {attrs['encoder']}"
        if self.weight == "only":
            return FeatureKind("any", ENCODER, of_encoder, channels)
        return FeatureKind(backbone, self.name, f"{of_diffusion}, {of_encoder}, weight {self.weight:g}", channels)


def joined(
    diffusion: np.ndarray | None, encoder: np.ndarray | None, weight: EncoderWeight, normalize: bool = False
) -> np.ndarray:
    """Both parts as (f, n, c) float32.

    Args:
        diffusion: (f, n, c) float32; not needed where the weight is `only`.
        encoder: (f, n, c') float32, of length 1 per token; not needed where the weight is 0.
        normalize: whether to divide the diffusion part alone, token by token, by its largest absolute value.
    """
    if weight == "only":
        assert encoder is not None
        return encoder
    assert diffusion is not None
    if weight != 0:
        assert encoder is not None
        return fused(diffusion, encoder, weight)
    if not normalize:
        return diffusion
    import torch

    from pipeline.features.extraction import max_abs_normalize

    return max_abs_normalize(torch.from_numpy(diffusion)).numpy()


def context_features(store: Store, params: SegmentParams) -> JoinedFeatures:
    """What the context model sees: it compares tokens by their direction rather than by their length.

    Raises:
        UsageError: the store lacks features that the parameters name.
    """
    normalize = params.features == "matching"
    return _checked(JoinedFeatures(store, params.features, params.encoder_weight, normalize), "segment")


def match_features(store: Store, params: CorrespondParams | TrackParams) -> JoinedFeatures:
    """What is matched; raises as `context_features`."""
    section = "track" if isinstance(params, TrackParams) else "correspond"
    return _checked(JoinedFeatures(store, "matching", params.encoder_weight, normalize=False), section)


def _checked(features: JoinedFeatures, section: str) -> JoinedFeatures:
    store, weight = features.store, f"{section}.encoder_weight"
    for name in features.arrays:
        if store.has(name):
            continue
        if name == ENCODER:
            raise UsageError(
                f"{store.path}: has no encoder's features, but {weight} is {features.weight}; set {weight}=0, or "
                "re-run `vidseg extract` with an extract.encoder"
            )
        if store.has(ENCODER):
            raise UsageError(
                f"{store.path}: has only an encoder's features (extract.parts=encoder), but {weight} is "
                f"{features.weight}; set {weight}=only, or re-run `vidseg extract` with extract.parts=both"
            )
        store.array(name)  # raises: the store is damaged
    return features
