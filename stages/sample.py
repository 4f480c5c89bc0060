"""Nothing -> frames/*.png, truth/*.png and truth/classes.json: the generated clip with exact ground truth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stages.common import cli

FILE = "sample.json"


def run(out: Path, seed: int = 0, frames: int = 42) -> Path:
    """Make the sample clip in a folder; its own earlier output is replaced, anything else is left alone.

    Returns:
        the folder of frames.

    Raises:
        DataError: `out` holds something else.
    """
    import json

    from pipeline.datasets.sample import FPS, make_sample
    from pipeline.files import Mark, refuse_foreign, replacing_folder
    from pipeline.media.pictures import write_image, write_label_png

    refuse_foreign(out, Mark(FILE, holds=frozenset({"frames", "truth", FILE})))
    clip = make_sample(seed, frames)
    listing = {"classes": [asdict(entry) for entry in clip.classes], "ignore": [255]}
    with replacing_folder(out) as made:
        for index, (image, labels) in enumerate(zip(clip.frames, clip.labels, strict=True)):
            write_image(made / "frames" / f"{index:05d}.png", image)
            write_label_png(made / "truth" / f"{index:05d}.png", labels)
        (made / "truth" / "classes.json").write_text(json.dumps(listing, indent=1) + "\n")
        (made / FILE).write_text(json.dumps({"seed": seed, "frames": frames, "fps": FPS}) + "\n")
    return out / "frames"


app = cli.new_app("Make the sample clip with exact ground truth.")


@app.command()
def main(
    out_dir: Annotated[Path, typer.Argument(help="folder for frames/ and truth/")],
    seed: Annotated[int, typer.Option(min=0, help="seed of textures and places")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="number of frames; a second car enters at frame 18")] = 42,
) -> None:
    """Make the sample clip: frames/*.png, truth/*.png and truth/classes.json.

    Example: vidseg sample sample && vidseg run sample/frames -o result --ground-truth sample/truth
    """
    cli.note(f"sample: {run(out_dir, seed, frames)}")


if __name__ == "__main__":
    cli.run_app(app)
