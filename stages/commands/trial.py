"""`vidseg doctor --try`: two frames of the sample through the networks, and whether the numbers are as expected."""

from __future__ import annotations

import json
import math
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import cli
from stages.common.printing import text_table
from stages.common.run_record import package_version

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from stages.common.settings import Settings

FRAMES = 2
#: The sample is painted at this size.
SIZE = (384, 640)
#: The autoencoder of a text-to-image model gives painted frames back no worse (dB).
LEAST_PSNR = 20.0
#: The response inside a segment is at least so many times the one outside.
LEAST_RATIO = 3.0


@dataclass(frozen=True)
class Finding:
    """One number that tells whether the networks work.

    Attributes:
        least: what it should be at least.
        why: where that limit is from.
    """

    name: str
    value: float
    unit: str
    least: float
    why: str

    @property
    def is_fine(self) -> bool:
        """Whether it is a number, and no smaller than it should be."""
        return not math.isnan(self.value) and self.value >= self.least


@dataclass
class Trial:
    """What a trial found. Nothing in it names a person, a file or a folder.

    Attributes:
        about: the model, its hash, the device, precision, sizes and versions.
        seconds, memory: of each part; the most MB that the process held until its end.
    """

    about: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part."""
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 2)
        self.memory[name] = cli.peak_memory_mb()

    @property
    def is_fine(self) -> bool:
        """Whether every finding is."""
        return all(finding.is_fine for finding in self.findings)

    def record(self) -> dict[str, Any]:
        """What is printed with `--json`, and can be attached to a report of a problem."""
        findings = [{**asdict(one), "value": _or_none(one.value), "fine": one.is_fine} for one in self.findings]
        times = {"seconds": self.seconds, "peak_memory_mb": self.memory}
        return {**self.about, **times, "findings": findings, "fine": self.is_fine}

    def show(self) -> None:
        """Print it for people."""
        print(text_table([(name, value) for name, value in self.about.items() if name != "versions"]))
        print()
        rows = [(name, f"{took:.1f} s", f"{self.memory[name]} MB") for name, took in self.seconds.items()]
        print(text_table(rows, ("part", "time", "most memory so far"), left=(0,)))
        print()
        for found in self.findings:
            verdict = "as expected" if found.is_fine else "TOO LOW"
            print(f"{found.name}: {found.value:.1f} {found.unit}, {verdict} (at least {found.least:g}: {found.why})")


def run(settings: Settings) -> Trial:
    """Two frames of the sample through encoding, features, one modulated segment and decoding.

    Raises:
        UsageError, WeightsError: parameters or weights do not fit.
    """
    from stages.common import backbones

    trial = Trial()
    with trial.part("load"):
        backbone = backbones.load_backbone(settings["backbone"])
    trial.about = {
        "backbone": backbone.name,
        "hash": backbone.fingerprint[:12],
        "device": str(backbone.device).partition(":")[0],
        "precision": backbones.dtype_name(settings["backbone"]),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in ("vidseg", "torch", "diffusers", "transformers", "numpy")},
    }
    with tempfile.TemporaryDirectory() as scratch:
        _through_the_networks(trial, settings, backbone, Path(scratch))
    return trial


def _through_the_networks(trial: Trial, settings: Settings, backbone: Backbone, scratch: Path) -> None:
    import numpy as np

    from pipeline.datasets.sample import CAR, make_sample
    from pipeline.features.diffusion import clean_pass
    from pipeline.features.extraction import reconstruction_psnr
    from pipeline.media.pictures import write_image
    from pipeline.media.resize import resize_nearest
    from pipeline.stores.schemas import CLIP, FEATURES, LATENTS
    from pipeline.stores.store import open_store
    from pipeline.upsampling.contrast import contrast
    from pipeline.upsampling.modulation import to_share
    from pipeline.upsampling.responses import Passes, responses
    from pipeline.upsampling.rules import Rules
    from stages import extract, ingest
    from stages.upsample import inputs_of

    sample = make_sample(frames=FRAMES, size=SIZE)
    (scratch / "frames").mkdir()
    for number, frame in enumerate(sample.frames):
        write_image(scratch / "frames" / f"{number}.png", frame)
    diffusion = settings["diffusion"]
    # Segments alone, and whole images: what is measured is the network, not the fast mode.
    rules = Rules(diffusion, replace(settings["upsample"], method="modulation", mode="exact"))
    rules.check()
    with trial.part("frames"):
        clip = open_store(
            ingest.run(scratch / "frames", scratch, replace(settings["ingest"], frames=None, stride=1)), CLIP
        )
    seen = clip.read("frames", 0, FRAMES)
    trial.about["size"] = "{}x{}".format(*seen.shape[1:3])
    with trial.part("encode"):
        encoded = backbone.encode(seen[:1])
    with trial.part("decode"):
        psnr = reconstruction_psnr(backbone, encoded[0], seen[0])
    trial.findings.append(Finding("autoencoder", psnr, "dB", LEAST_PSNR, "what it loses cannot be segmented"))
    with trial.part("features"):
        features = open_store(
            extract.run(scratch / "clip.zarr", scratch, settings["extract"], diffusion, settings["backbone"], backbone),
            FEATURES,
        )
    low = min(features.attrs["psnr"].values(), default=float("nan"))
    trial.findings.append(
        Finding("features' clean pass", low, "dB", extract.LOW_PSNR, "paper, section 6: the limit of inversion")
    )
    latents = open_store(scratch / "latents.zarr", LATENTS)
    grid = tuple(features.attrs["grid"])
    planes = np.stack([resize_nearest((truth == CAR).astype(np.int32), grid) for truth in sample.labels])
    with trial.part("modulation"):
        inputs = inputs_of(clip, latents, planes, range(FRAMES), diffusion, backbone)
        clean = clean_pass(
            backbone, inputs.start, rules.denoising, share=to_share(rules), conditioning=inputs.conditioning,
            skip=rules.skip,
        )  # fmt: skip
        together = min(settings["extract"].frames_together or 1, FRAMES)
        found = list(responses(backbone, clean, planes, rules, Passes(rules.upsample.batch, together)))
    ratios = [contrast(one).ratio for one in found if one.frame == 0 and one.group.labels == [1]]
    ratio = ratios[0] if ratios else float("nan")
    why = "a segment's own modulation; 13 with the embedded model on real clips"
    trial.findings.append(Finding("response inside a car over outside", ratio, "times", LEAST_RATIO, why))


def _or_none(value: float) -> float | None:
    """JSON has no word for what is no number."""
    return value if math.isfinite(value) else None


def write(trial: Trial, path: Path) -> None:
    """Write the record of a trial as JSON."""
    from pipeline.files import replacing

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(trial.record(), indent=1) + "\n")
