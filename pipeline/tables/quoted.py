"""Scores that the papers print, to stand beside measured ones; in percent.

VidSeg (CVPR 2025), Tables 1 and 2; SMITE (ICLR 2025), Tables 1 to 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Quoted:
    """mIoU, mVC_8, mVC_16 and the contour measure F as printed; None = not reported."""

    miou: float | None = None
    vc8: float | None = None
    vc16: float | None = None
    f_mean: float | None = None


#: Table 1: method -> data set -> figures.
TABLE_1: Mapping[str, Mapping[str, Quoted]] = {
    "TMANet (ResNet-50, supervised)": {"cityscapes": Quoted(80.3), "camvid": Quoted(76.5)},
    "UniVS (Swin-T, supervised)": {"vspw": Quoted(59.8, 92.3)},
    "DVIS++ (ViT-L, supervised)": {"vspw": Quoted(63.8, 95.7, 95.1)},
    "CLIPpy (T5 + DINO, unsupervised)": {
        "vspw": Quoted(17.7, 72.4, 68.4), "cityscapes": Quoted(4.7), "camvid": Quoted(2.6, 44.4, 35.6),
    },
    "EmerDiff (SVD)": {
        "vspw": Quoted(39.7, 82.1, 78.5), "cityscapes": Quoted(11.0), "camvid": Quoted(7.3, 71.7, 64.4),
    },
    "EmerDiff (SD)": {
        "vspw": Quoted(43.4, 68.9, 64.3), "cityscapes": Quoted(21.5), "camvid": Quoted(6.9, 39.8, 32.9),
    },
    "Ours (SVD)": {
        "vspw": Quoted(53.2, 89.3, 88.0), "cityscapes": Quoted(36.2), "camvid": Quoted(16.6, 87.4, 85.8),
    },
    "Ours (SD)": {
        "vspw": Quoted(60.6, 90.7, 89.6), "cityscapes": Quoted(37.3), "camvid": Quoted(20.6, 92.3, 91.9),
    },
}  # fmt: skip

#: Rows of Table 1 with an image and with a video model: (the method, EmerDiff).
IMAGE_ROWS, VIDEO_ROWS = ("Ours (SD)", "EmerDiff (SD)"), ("Ours (SVD)", "EmerDiff (SVD)")

#: Table 2, SD 2.1: (B = 14, masked modulation, feature aggregation, CBR) -> figures; in the paper's order.
TABLE_2: Mapping[tuple[bool, bool, bool, bool], Quoted] = {
    (False, False, False, False): Quoted(33.4, 70.6, 60.2),
    (True, False, False, False): Quoted(43.4, 76.9, 73.8),
    (True, True, False, False): Quoted(45.6, 87.5, 85.5),
    (True, False, True, False): Quoted(45.2, 78.4, 75.6),
    (True, False, False, True): Quoted(44.6, 79.3, 76.8),
    (True, True, True, False): Quoted(46.6, 87.6, 85.7),
    (True, True, False, True): Quoted(47.4, 89.2, 87.5),
    (True, True, True, True): Quoted(46.5, 89.8, 88.4),
}

#: Table 2, Stable Video Diffusion.
TABLE_2_VIDEO: Mapping[tuple[bool, bool, bool, bool], Quoted] = {
    (False, False, False, False): Quoted(26.6, 82.2, 78.3),
    (True, False, False, False): Quoted(38.9, 90.2, 88.7),
    (True, True, False, False): Quoted(38.6, 90.5, 89.0),
    (True, False, True, False): Quoted(39.0, 89.8, 88.6),
    (True, False, False, True): Quoted(38.4, 90.4, 89.1),
    (True, True, True, False): Quoted(39.4, 90.2, 89.2),
    (True, True, False, True): Quoted(37.1, 91.5, 90.3),
    (True, True, True, True): Quoted(38.2, 92.3, 91.3),
}

#: SMITE's ladder, ten references, means over SMITE-50: preset -> figures. mIoU is Table 2's; F, and all of
#: Baseline-II, which Table 2 lacks, are the means of Table 1 (where Baseline-I has 66.62).
SMITE_LADDER: Mapping[str, Quoted] = {
    "baseline1": Quoted(66.22, f_mean=67.0),
    "baseline2": Quoted(65.50, f_mean=67.0),
    "baseline3": Quoted(69.36, f_mean=70.0),
    "smite_ca": Quoted(71.70),
    "smite_track": Quoted(72.64),
    "smite": Quoted(75.14, f_mean=82.0),
}

#: SMITE's Table 3: number of references -> figures.
SMITE_REFERENCES: Mapping[int, Quoted] = {1: Quoted(58.55), 5: Quoted(73.88), 10: Quoted(75.14)}
