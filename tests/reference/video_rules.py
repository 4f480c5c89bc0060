"""Rules of the recorded arrays of the authors' video scripts: every name has one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Offset, Tap
from pipeline.backbone.attention import tapped_module
from pipeline.backbone.base import Layer
from pipeline.features.diffusion import add_noise, conditional_half
from pipeline.features.extraction import aggregate, max_abs_normalize
from pipeline.upsampling import difference as maps
from pipeline.upsampling.responses import Passes, responses
from pipeline.upsampling.rules import Rules
from tests.reference import rules
from tests.reference.cases import Rule, equal_share, grey_levels, within
from tests.reference.maps import SEG, label_maps, root
from tests.reference.segmentation import NEIGHBORS, context_before, nearest_tokens
from tests.reference.video_cases import ALL_SELF, TEMPORAL, VideoCase
from tests.support.params import changed

Match = re.Match[str]
LAYER: dict[str, Layer] = {"self": "self", "temporal_self": "temporal_self", "cross": "cross"}
#: Deviations from the released rules that have a recorded array of their own.
VARIANTS: dict[str, dict[str, object]] = {
    "bilinear_blend": {"mask_resize": "bilinear"},
    "no_blend": {"blend": False},
    "blend_until_23": {"blend_last_step": 23},
    "no_injection": {"inject": False},
    "inject_all_qk": {},
    "offset_before_projection": {"offset": "inside"},
    "spatial_only": {"attention": "self_spatial"},
    "temporal_only": {"attention": "self_temporal"},
    "spatial_cross": {"attention": "cross_spatial"},
    "spatial_temporal_self": {"attention": "self_spatial_temporal"},
    "start_17": {},
}
#: The rows of the decoder's raw output that are recorded.
ROWS = slice(64, 128)


def picked(case: VideoCase, values: Tensor, name: str) -> np.ndarray:
    """What was recorded of the frames: all, or the first and the last."""
    few = name in case.recorded and len(case.recorded[name]) == 2 < len(values)
    return (values[[0, -1]] if few else values).numpy()


# --- steps 1-4


def noise(case: VideoCase, index: int, match: Match) -> np.ndarray:
    draws, image = case.draws
    values = {"posterior_noise": draws.posterior, "eps": draws.epsilon, "image_noise": image}[match[1]]
    if match[2] == "_rows01":
        return values[:, :2].numpy()
    return (values[:2] if match[2] else values).numpy()


def image_embedding(case: VideoCase, index: int, match: Match) -> np.ndarray:
    return case.vectors.backbone.embed(first_frame(case, index)).numpy()


def cond_latent(case: VideoCase, index: int, match: Match) -> np.ndarray:
    backbone = case.vectors.backbone
    conditioning = backbone.condition(first_frame(case, index), case.tensor("image_noise"), case.diffusion.video)
    assert conditioning.latent is not None
    return conditioning.latent.numpy()


def first_frame(case: VideoCase, index: int) -> np.ndarray:
    return case.vectors.network_frames[case.frames(index)[0]]


def latent(case: VideoCase, index: int, match: Match) -> np.ndarray:
    frames = case.vectors.network_frames[case.frames(index)]
    return case.vectors.backbone.encode(frames, case.tensor("posterior_noise")).numpy()


def x_start(case: VideoCase, index: int, match: Match) -> np.ndarray:
    latents, epsilon = case.tensor(f"p{index}_latent"), case.tensor("eps")
    return add_noise(latents, epsilon, case.diffusion, case.vectors.backbone).numpy()


def state(case: VideoCase, index: int, match: Match) -> np.ndarray:
    return picked(case, case.clean(index).states[int(match[2])], match[0])


def query(case: VideoCase, index: int, block: int) -> Tensor:
    taps = case.clean(index).taps[case.meta["feature_step"]]
    return conditional_half(taps[Tap(block, "self", "query")], case.frame_count).float()


def block_query(case: VideoCase, index: int, match: Match) -> np.ndarray:
    return picked(case, query(case, index, int(match[2])), match[0])


def feature_norm(case: VideoCase, index: int, match: Match) -> np.ndarray:
    averaged = aggregate([query(case, index, block) for block in case.meta["feature_blocks"]])
    return max_abs_normalize(averaged).numpy()


def spatial_tensor(case: VideoCase, index: int, match: Match) -> np.ndarray:
    layer, kind = match.groups()[1:]
    tap = Tap(8, LAYER[layer], "query" if kind == "q" else "key")
    values = case.clean(index).taps[24][tap].unflatten(0, (-1, case.frame_count))
    return values[:, 0, ::4].numpy()


def temporal_tensor(case: VideoCase, index: int, match: Match) -> np.ndarray:
    tap = Tap(8, "temporal_self", "query" if match[2] == "q" else "key")
    return by_token(case, case.clean(index).taps[17][tap])[:, ::12].numpy()


def by_token(case: VideoCase, values: Tensor) -> Tensor:
    """(halves, n, f, c) of a temporal tensor."""
    return values.unflatten(0, (-1, case.grid[0] * case.grid[1]))


def output_before(case: VideoCase, index: int, match: Match) -> np.ndarray:
    layer = LAYER[match[2]]
    return of_first_frame(case, case.clean(index).taps[17][Tap(8, layer, "output")], layer)


def of_first_frame(case: VideoCase, values: Tensor, layer: Layer) -> np.ndarray:
    """Every 4th token of the first frame, both halves: (halves, n / 4, c)."""
    if layer == "temporal_self":
        return by_token(case, values)[:, ::4, 0].numpy()
    return values.unflatten(0, (-1, case.frame_count))[:, 0, ::4].numpy()


# --- step 5


def frame_index(case: VideoCase, index: int, match: Match) -> np.ndarray:
    return np.array(case.frames(index))


def coarse_labels(case: VideoCase, index: int, match: Match) -> np.ndarray:
    if case.is_single:
        return case["p0_kmeans_labels_all_frames"]
    return rules.knn_labels(case, index, match)


def knn_gap(case: VideoCase, index: int, match: Match) -> np.ndarray:
    """Distance from the 4th to the 5th neighbour, relative to the 4th (in the image cases: to the 5th)."""
    memory = context_before(case, index).features
    features = case[f"p{index}_feature_norm"]
    queries = features.reshape(-1, features.shape[-1])
    around = memory[nearest_tokens(memory, queries, NEIGHBORS + 1)[:, -2:]].astype(np.float64)
    fourth, fifth = np.linalg.norm(around - queries[:, None], axis=-1).T
    gap = (fifth - fourth) / np.maximum(fourth, np.finfo(np.float64).tiny)
    return gap.reshape(-1, *case.grid)


# --- step 7


def modulated_state(case: VideoCase, index: int, match: Match) -> np.ndarray:
    label, sign, step, unblended = match.groups()[1:]
    result = case.modulated(index, int(label), sign)[int(step)]
    return picked(case, result.unblended if unblended else result.latents, match[0])


def variant(case: VideoCase, index: int, match: Match) -> np.ndarray:
    label, sign, strength, name, step = match.groups()[1:]
    values = {**VARIANTS[name], **({"strength": float(strength)} if strength else {})}
    rules = Rules(case.diffusion, changed(case.rules.upsample, **values))
    injected = ALL_SELF if name == "inject_all_qk" else TEMPORAL
    result = case.modulated(index, int(label), sign, rules, injected, early=name != "start_17")
    return picked(case, result[int(step)].latents, match[0])


def shifted_output(case: VideoCase, index: int, match: Match) -> np.ndarray:
    """The attention outputs of block 8 at the modulated step, both halves."""
    label, sign, layer = int(match[2]), match[3], LAYER[match[4]]
    todo, params = case.jobs(index, label, sign), case.rules.upsample
    values = (params.strength * todo.signs[:, None, None] * todo.masks).flatten(1)
    offset = Offset(values, params.parity.offset, params.video.attention)
    module = tapped_module(case.vectors.backbone.unet, Tap(8, layer, "output"))
    with every_output(module) as outputs:
        clean = case.met_early(case.clean(index), index)
        kept = clean.repeatable[params.modulate_step].variants(todo.frames)
        kept.denoise(case.before(index), todo.frames, offset)
    return of_first_frame(case, torch.cat(outputs), layer)


@contextmanager
def every_output(module: Any) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    yield outputs
    handle.remove()


# --- steps 8 and 9


def decoded_positions(case: VideoCase, index: int) -> list[int]:
    """Where in a pass images are stored."""
    positions: list[int] = case.recorded.get(f"p{index}_decoded_frames", np.empty(0, int)).tolist()
    return positions


def last_frame(case: VideoCase, index: int, match: Match) -> np.ndarray:
    """Images are stored of a pass' last frame."""
    return np.array([len(case.frames(index)) - 1])


def final_latents(case: VideoCase, index: int, label: int, sign: str) -> Tensor:
    """Final latents of a label in all frames, recorded where they are given."""
    name = f"p{index}_mod_l{label}_{sign}_x24"
    if name in case.given and name in case.recorded and len(case.recorded[name]) == case.frame_count:
        return case.tensor(name)
    return case.modulated(index, label, sign)[24].latents


def decoder_rows(case: VideoCase, index: int, match: Match) -> np.ndarray:
    backbone = case.vectors.backbone
    if match[2] == "unmodulated":
        return backbone.decode(case.clean(index).final[:1])[0, :, ROWS].numpy()
    latents = final_latents(case, index, int(match[3]), match[4])
    together = case.frame_count if match[5] else 1
    return backbone.decode(latents[:together], together)[0, :, ROWS].numpy()


def image_pair(case: VideoCase, index: int, label: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    """The 8-bit images I+ and I- (H, W, 3), recorded where they are given."""
    plus, minus = (image(case, index, label, sign, position) for sign in ("pos", "neg"))
    return plus, minus


def image(case: VideoCase, index: int, label: int, sign: str, position: int) -> np.ndarray:
    name = f"p{index}_decoded_l{label}_{sign}"
    positions = decoded_positions(case, index)
    if position in positions and name in case.given and name in case.recorded:
        return case.recorded[name][positions.index(position)]
    return decoded_image(case, index, label, sign, position)


def decoded_image(case: VideoCase, index: int, label: int, sign: str, position: int) -> np.ndarray:
    if not case.is_recorded:
        return pass_pairs(case, index)[position][label][sign == "neg"]
    latents = final_latents(case, index, label, sign)[position : position + 1]
    return maps.image_in_8_bits(case.vectors.backbone.decode(latents)[0].numpy(), case.frame_size)


def decoded(case: VideoCase, index: int, match: Match) -> np.ndarray:
    label, sign = int(match[1]), match[2]
    return np.stack([decoded_image(case, index, label, sign, at) for at in decoded_positions(case, index)])


def difference(case: VideoCase, index: int, match: Match) -> np.ndarray:
    nowrap, label, quantised = match.groups()
    planes = []
    for position in decoded_positions(case, index):
        plus, minus = image_pair(case, index, int(label), position)
        values = maps.blur(root(plus, minus)) if nowrap else maps.wrapped_difference(plus, minus)
        planes.append(maps.jpeg_stored(values) if quantised else values)
    return np.stack(planes)


def pass_pairs(case: VideoCase, index: int) -> dict[int, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Position -> label -> I+, I- of a pass, all through `responses`; an absent label's are equal."""
    key = ("pairs", index)
    if key not in case.memo:
        coarse = case[f"p{index}_cbr_labels"].reshape(-1, *case.grid)
        clean = case.met_early(case.clean(index), index)
        passes = Passes(case.frame_count, together=case.frame_count)
        nothing = np.zeros((*case.frame_size, 3), np.uint8)
        pairs = {at: dict.fromkeys(case.labels, (nothing, nothing)) for at in range(len(coarse))}
        for pair in responses(case.vectors.backbone, clean, coarse, case.rules, passes):
            plus, minus = (maps.image_in_8_bits(image.numpy(), case.frame_size) for image in (pair.plus, pair.minus))
            pairs[pair.frame][pair.group.labels[0]] = plus, minus
        case.memo[key] = pairs
    return case.memo[key]


def final_map(case: VideoCase, index: int, match: Match) -> np.ndarray:
    return final_maps(case, index)[f"{match[1] or ''}_{match[2]}"]


def final_maps(case: VideoCase, index: int) -> dict[str, np.ndarray]:
    """All recorded kinds of final maps of a pass, (b, H, W); frames that are not computed are masked."""
    key = ("maps", index)
    if key in case.memo:
        return case.memo[key]
    found = [match for name in case.recorded if (match := re.fullmatch(rf"p{index}_{SEG}", name))]
    variants = sorted({match[1] or "" for match in found})
    shape = len(case.frames(index)), *case.frame_size
    result = {f"{name}_{kind}": np.ma.masked_all(shape, np.int64)
              for name in variants for kind in ("unfiltered", "filtered")}  # fmt: skip
    for position in map_positions(case, index):
        coarse = case[f"p{index}_cbr_labels"].reshape(-1, *case.grid)[position]
        pairs = {label: image_pair(case, index, label, position) for label in case.labels}
        for name, labels in label_maps(pairs, coarse, case.meta["filter_s"], variants).items():
            result[name][position] = labels
    case.memo[key] = result
    return result


def map_positions(case: VideoCase, index: int) -> Sequence[int]:
    """Where final maps are computed: freely everywhere, from recorded inputs where images are recorded."""
    return decoded_positions(case, index) if case.is_recorded else range(len(case.frames(index)))


def segmentation(rule: Rule) -> Rule:
    """A rule of the image scripts, where its step is the same code."""
    return Rule(rule.pattern, rule.compute, equal_share(0.98) if "trajectories" in rule.pattern else rule.compare)


FEW, OUTPUT = within(5e-5), r"block8_(self|temporal_self|cross)_out_frame0"
DECODED = r"(?:decoded_(unmodulated)|(?:variant_|decoded_)l(\d+)_(pos|neg)(_decoded_jointly)?)_float_first_frame"
RULES = (
    Rule(r"(posterior_noise|eps|image_noise)(_frames01|_rows01|)", noise, within(0)),
    Rule(r"p(\d+)_image_embedding", image_embedding, within(1e-6)),
    Rule(r"p(\d+)_cond_latent", cond_latent, within(5e-4)),
    Rule(r"p(\d+)_latent", latent, within(1e-4)),
    Rule(r"p(\d+)_x_start", x_start, within(1e-4)),
    Rule(r"p(\d+)_xt(\d+)", state, FEW),
    Rule(r"p(\d+)_q_block(\d+)", block_query, within(2e-5)),
    Rule(r"p(\d+)_feature_norm", feature_norm, within(2e-5)),
    Rule(r"p(\d+)_block8_step24_frame0_spatial_(self|cross)_(q|k)", spatial_tensor, FEW),
    Rule(r"p(\d+)_block8_step17_temporal_self_(q|k)", temporal_tensor, FEW),
    Rule(rf"p(\d+)_{OUTPUT}_before", output_before, FEW),
    Rule(r"p\d+_frame_index", frame_index, within(0)),
    Rule(r"p\d+_decoded_frames", last_frame, within(0)),
    Rule(r"p\d+_knn_gap", knn_gap, within(1e-3)),
    Rule(r"p\d+_knn_labels", coarse_labels, equal_share(0.995)),
    *(segmentation(rule) for rule in rules.SEGMENTATION_RULES if "_cbr_" in rule.pattern),
    Rule(r"p(\d+)_mod_l(\d+)_(pos|neg)_x(\d+)(_unblended)?", modulated_state, FEW),
    Rule(rf"p(\d+)_mod_l(\d+)_(pos|neg)_{OUTPUT}", shifted_output, FEW),
    Rule(rf"p(\d+)_variant_l(\d+)_(pos|neg)_(?:lambda(\d+)_)?({'|'.join(VARIANTS)})_x(\d+)", variant, FEW),
    Rule(rf"p(\d+)_{DECODED}", decoder_rows, within(1e-3)),
    Rule(r"p\d+_decoded_l(\d+)_(pos|neg)", decoded, grey_levels(0.01, 3)),
    Rule(r"p\d+_difference_(nowrap_)?l(\d+)()", difference, equal_share(0.95, 0.5), within(1e-3)),
    Rule(r"p\d+_difference_()l(\d+)_(stored)", difference, equal_share(0.95), equal_share(0.9999)),
    Rule(r"p\d+_seg_()(unfiltered|filtered)", final_map, equal_share(0.98)),
    Rule(rf"p\d+_{SEG}", final_map, equal_share(0.99)),
)
