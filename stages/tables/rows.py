"""The rows of each table, as parameters of the pipeline's own stages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

from pipeline.tables.quoted import (
    IMAGE_ROWS,
    SMITE_LADDER,
    SMITE_REFERENCES,
    TABLE_1,
    TABLE_2,
    TABLE_2_VIDEO,
    VIDEO_ROWS,
    Quoted,
)
from pipeline.tables.table import ALL, Pair
from stages.common.settings import Settings, preset_backbones, preset_for, read_preset

#: Baselines, presets of that name.
BASELINES = {"coarse": "bilinear", "joint_bilateral": "joint bilateral", "emerdiff": "EmerDiff"}
#: Switches of the ablation: (B = 14, masked modulation, feature aggregation, CBR) as in a row's key.
SWITCHES = ("B 14", "masked modulation", "feature aggregation", "CBR")
#: What the paper does not have.
WITHOUT_ENCODER = (
    *("extract.parts=both", "extract.encoder=none", "extract.padding=none"),
    *("correspond.encoder_weight=0", "segment.encoder_weight=0"),
    "segment.balance=0",
)
#: SMITE's ladder, presets of that name.
LADDER = {
    "slime": "SLiMe by its own rule",
    "baseline1": "I: tokens, frame by frame",
    "baseline2": "II: I, votes along tracks",
    "baseline3": "III: I, frames together",
    "smite_ca": "III + cross-attention",
    "smite_track": "+ tracks",
    "smite": "+ low-pass: SMITE",
}
#: What is made of SMITE for one backbone, presets of that name.
TUNED = {"smite_compact": "as tuned for compact: tracks, no low-pass, along edges"}
#: Rows of what is propagated, and how its labels are upsampled: as configured, or as those of the ladder are.
PROPAGATED: dict[str, tuple[str, tuple[str, ...]]] = {
    "knn": ("VidSeg, given the references", ()),
    "knn_bilinear": ("VidSeg, given the references, bilinear", ("upsample.method=bilinear",)),
}
#: How labels of segments that were shown are scored, whatever params.yaml says of others.
SHOWN = ("evaluate.assignment=none", "evaluate.objects=parts")
#: lambda without blending, as in EmerDiff [5.2].
UNMASKED_STRENGTH = 10.0


@dataclass(frozen=True)
class RowSpec:
    """A row before it is measured.

    Attributes:
        key: its short name, for `--rows` and in DVC.
        cells: its leading columns.
        sets: what differs from params.yaml, as `section.key=value`.
        quoted: data set as the paper names it -> the paper's figures; `ALL` for those beside any data set.
    """

    key: str
    cells: tuple[str, ...]
    sets: tuple[str, ...]
    quoted: Mapping[str, Quoted] = field(default_factory=dict)


def method_rows(settings: Settings) -> tuple[RowSpec, ...]:
    """Table 1: the method as configured, and the baselines, beside the paper's figures of this kind of model."""
    ours, emerdiff = quoted_rows(settings)
    backbone = settings["backbone"].name
    return (
        RowSpec("ours", ("ours",), (), TABLE_1[ours]),
        *(
            RowSpec(
                name,
                (title,),
                preset_sets(preset_for(name, backbone)),
                TABLE_1[emerdiff] if name == "emerdiff" else {},
            )
            for name, title in BASELINES.items()
        ),
    )


def quoted_rows(settings: Settings) -> tuple[str, str]:
    """The rows of the paper's Table 1 that stand beside the method and EmerDiff."""
    return VIDEO_ROWS if is_video(settings) else IMAGE_ROWS


def is_video(settings: Settings) -> bool:
    """Whether the parameters are a video model's."""
    return settings["extract"].frames_together is not None


def ablation_rows(settings: Settings) -> tuple[RowSpec, ...]:
    """Table 2: the paper's eight combinations, of the diffusion model's features alone.

    Rows with masked modulation use the configured `upsample.strength`, those without 10 and no blending. Rows with
    refinement use the configured vote and filter, those without neither: the filter belongs to it in the authors' code.
    """
    return tuple(
        RowSpec(_key(switches), ("14" if switches[0] else "1", *map(_tick, switches[1:])), sets, {ALL: figures})
        for switches, figures in (TABLE_2_VIDEO if is_video(settings) else TABLE_2).items()
        for sets in [_ablation_sets(switches, settings)]
    )


def _ablation_sets(switches: tuple[bool, bool, bool, bool], settings: Settings) -> tuple[str, ...]:
    batched, masked, aggregated, refined = switches
    vote = settings["segment"].vote
    return (
        *WITHOUT_ENCODER,
        *_video_sets(batched, aggregated, settings),
        f"segment.window={14 if batched else 1}",
        f"segment.features={'aggregated' if aggregated else 'matching'}",
        f"segment.vote={('forward' if vote == 'none' else vote) if refined else 'none'}",
        "upsample.method=modulation",
        f"upsample.blend={_text(masked)}",
        f"upsample.strength={settings['upsample'].strength if masked else UNMASKED_STRENGTH}",
        f"upsample.filter={settings['upsample'].filter if refined else 1.0}",
    )


def _video_sets(batched: bool, aggregated: bool, settings: Settings) -> tuple[str, ...]:
    """What an ablation changes before the features: a video model's depend on B, and its single block is another."""
    if not is_video(settings):
        return ()
    window = () if batched else ("extract.frames_together=1",)
    return window if aggregated else (*window, f"extract.matching_block={settings['upsample'].block}")


def ablation_pairs(rows: tuple[RowSpec, ...]) -> tuple[Pair, ...]:
    """All two rows of which the second has one switch more."""
    keys = {row.key: switches for switches in TABLE_2 for row in rows if row.key == _key(switches)}
    return tuple(
        Pair(f"{_names(switches) or 'nothing'} + {SWITCHES[added[0]]}", base, other)
        for (base, switches), (other, more) in permutations(keys.items(), 2)
        for added in [[place for place in range(4) if switches[place] != more[place]]]
        if len(added) == 1 and more[added[0]]
    )


def propagation_rows() -> tuple[RowSpec, ...]:
    """Where points are lost, the part that the pipeline runs: the first frame's truth propagated, and the method."""
    given = ("ingest.seed=truth", "segment.init=mask", "segment.parity.label_merge=none")
    return (
        RowSpec("mask_nearest", ("truth of frame 1, propagated", "nearest"), (*given, "upsample.method=nearest")),
        RowSpec(
            "mask_modulation", ("truth of frame 1, propagated", "modulation"), (*given, "upsample.method=modulation")
        ),
        RowSpec("full", ("clusters of frame 1, propagated: the method", "modulation"), ("upsample.method=modulation",)),
    )


#: What each step of the chain from the truth to the method costs.
ERROR_PAIRS = (
    Pair("token grid: truth → coarse truth, nearest", "truth", "oracle_nearest"),
    Pair("upsampler: coarse truth, nearest → bilinear", "oracle_nearest", "oracle_bilinear"),
    Pair("upsampler: coarse truth, nearest → joint bilateral", "oracle_nearest", "oracle_joint_bilateral"),
    Pair("upsampler: coarse truth, nearest → modulation", "oracle_nearest", "oracle_modulation"),
    Pair("propagation: coarse truth → truth of frame 1, nearest", "oracle_nearest", "mask_nearest"),
    Pair("propagation: coarse truth → truth of frame 1, modulation", "oracle_modulation", "mask_modulation"),
    Pair("clustering: truth of frame 1 → clusters of frame 1, modulation", "mask_modulation", "full"),
)


def ladder_rows(settings: Settings) -> tuple[RowSpec, ...]:
    """SMITE's Table 2 with SLiMe and Baseline-II, and what stands beside it.

    That is SMITE's labels along edges, SMITE as it is tuned for the backbone, params.yaml itself, its labels by masked
    modulation, and VidSeg's context model given the same references.
    """
    ladder = (
        RowSpec(key, (title,), _shown(key, settings), {ALL: SMITE_LADDER[key]} if key in SMITE_LADDER else {})
        for key, title in LADDER.items()
    )
    tuned = (key for key in TUNED if settings["backbone"].name in (preset_backbones(key) or ()))
    configured = (
        RowSpec("smite_guided", ("SMITE, along edges",), (*_shown("smite", settings), "apply.upsample=guided")),
        *(RowSpec(key, (TUNED[key],), _shown(key, settings)) for key in tuned),
        RowSpec("configured", ("as configured",), SHOWN),
        RowSpec("modulation", ("as configured, masked modulation",), ("apply.upsample=modulation", *SHOWN)),
    )
    given = ("segment.init=mask", "segment.parity.label_merge=none")
    propagated = (
        RowSpec(key, (f"{title}: {_features(settings)}",), (*given, *SHOWN, *sets))
        for key, (title, sets) in PROPAGATED.items()
    )
    return (*ladder, *configured, *propagated)


def _shown(preset: str, settings: Settings) -> tuple[str, ...]:
    return (*preset_sets(preset, settings), *SHOWN)


def _features(settings: Settings) -> str:
    """What VidSeg's context model tells tokens apart by, in words."""
    extract, weight, backbone = settings["extract"], settings["segment"].encoder_weight, settings["backbone"].name
    encoder = Path(extract.encoder).name
    if encoder == "none" or weight == 0:
        return str(backbone)
    return encoder if weight == "only" or extract.parts == "encoder" else f"{backbone} and {encoder}"


def reference_rows(counts: Iterable[int]) -> tuple[RowSpec, ...]:
    """SMITE's Table 3: what params.yaml has, learned from these numbers of references."""
    return tuple(
        RowSpec(
            f"references_{count}",
            (str(count),),
            SHOWN,
            {ALL: SMITE_REFERENCES[count]} if count in SMITE_REFERENCES else {},
        )
        for count in counts
    )


#: Steps of the ladder, what guidance gives in all, and the two systems beside each other.
LADDER_PAIRS = (
    Pair("SLiMe's rule → SMITE's maps (I)", "slime", "baseline1"),
    Pair("I → II: votes along tracks", "baseline1", "baseline2"),
    Pair("I → III: frames together", "baseline1", "baseline3"),
    Pair("III → + cross-attention", "baseline3", "smite_ca"),
    Pair("→ + tracks", "smite_ca", "smite_track"),
    Pair("→ + low-pass", "smite_track", "smite"),
    Pair("I → SMITE", "baseline1", "smite"),
    Pair("as configured → as tuned for compact", "configured", "smite_compact"),
    Pair("as configured → masked modulation", "configured", "modulation"),
    Pair("VidSeg, given the references, bilinear → I", "knn_bilinear", "baseline1"),
    Pair("VidSeg, given the references, bilinear → SMITE", "knn_bilinear", "smite"),
    Pair("VidSeg, given the references → SMITE, both along edges", "knn", "smite_guided"),
    Pair("VidSeg, given the references → as configured", "knn", "configured"),
)


def preset_sets(name: str, settings: Settings | None = None) -> tuple[str, ...]:
    """A preset as `section.key=value` texts.

    Args:
        settings: with its defaults for the backbone of these, of which params.yaml says nothing.
    """
    values = read_preset(name)
    if settings is not None:
        defaults = read_preset(name, settings["backbone"].name)
        values |= {key: value for key, value in defaults.items() if key not in settings.given}
    return tuple(f"{key}={_text(value)}" for key, value in values.items())


def _key(switches: tuple[bool, bool, bool, bool]) -> str:
    return "_".join(
        [
            "b14" if switches[0] else "b1",
            *(part for part, on in zip(("mask", "aggr", "cbr"), switches[1:], strict=True) if on),
        ]
    )


def _names(switches: tuple[bool, bool, bool, bool]) -> str:
    return " + ".join(name for name, on in zip(SWITCHES, switches, strict=True) if on)


def _tick(on: bool) -> str:
    return "✓" if on else "✗"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
