"""Scores that the papers print, to stand beside measured ones; in percent.

VidSeg (CVPR 2025), Tables 1 and 2; SMITE (ICLR 2025), Tables 1 to 3, 6, 7, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Quoted:
    """mIoU, mVC_8, mVC_16, DAVIS' region measure J and contour measure F as printed; None = not reported."""

    miou: float | None = None
    vc8: float | None = None
    vc16: float | None = None
    f_mean: float | None = None
    j_mean: float | None = None


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

#: What SMITE's tables hold beside the ladder. Table 1: by category, ten references of other individuals. DAVIS-2016,
#: one object in each video: learned from a frame of it (Table 10), or from a frame of each training video (Table 9);
#: SMITE+ leaves out 2 of the 20 videos.
SMITE_BESIDE: Mapping[str, Quoted] = {
    **{
        f"{method}, {category} (Table 1)": Quoted(miou, f_mean=f_mean)
        for method, figures in {
            "Baseline-I": ((72.95, 81.0), (65.48, 64.0), (61.38, 57.0), (66.69, 67.0)),
            "SMITE": ((77.28, 89.0), (75.09, 79.0), (75.10, 82.0), (73.08, 77.0)),
        }.items()
        for category, (miou, f_mean) in zip(("faces", "horses", "cars", "non-text"), figures, strict=True)
    },
    "GSAM2, by names, without non-text (Table 1)": Quoted(66.53, f_mean=71.0),
    "SMITE, DAVIS-2016, a frame of the video (Table 10)": Quoted(j_mean=83.4, f_mean=80.7),
    "SMITE+: without 2 videos (Table 10)": Quoted(j_mean=92.0, f_mean=88.7),
    "AOT, trained on videos (Table 10)": Quoted(j_mean=91.1, f_mean=92.1),
    "XMem, trained on videos (Table 10)": Quoted(j_mean=91.5, f_mean=92.7),
    "SMITE, DAVIS-2016, frames of other videos (Table 9)": Quoted(j_mean=80.8, f_mean=82.9),
    "SMITE+: without 2 videos (Table 9)": Quoted(j_mean=82.39, f_mean=87.6),
}

#: What SMITE's Tables 6 and 7 hold beside Table 3: references are frames of the video itself; means of seven clips of
#: PUMaVOS.
SMITE_REFERENCES_BESIDE: Mapping[str, Quoted] = {
    "SMITE, PUMaVOS, 1 frame of the video": Quoted(82.14, f_mean=69.0),
    "SMITE, PUMaVOS, 5 frames": Quoted(90.44, f_mean=90.0),
    "SMITE, PUMaVOS, 10 frames": Quoted(91.56, f_mean=94.0),
    "Baseline-I, PUMaVOS, 1 frame": Quoted(74.91, f_mean=50.0),
    "GSAM2, PUMaVOS, by names": Quoted(74.84, f_mean=63.0),
    "XMem++, trained on videos, PUMaVOS, 1 frame": Quoted(80.65, f_mean=69.0),
    "XMem++, 5 frames": Quoted(90.80, f_mean=89.0),
    "XMem++, 10 frames": Quoted(94.48, f_mean=94.0),
}
