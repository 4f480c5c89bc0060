"""Nothing -> frames/*.png, truth/*.png and truth/classes.json: the generated clip with exact ground truth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from stages.common import cli

MARKER = "sample.json"


def run(out: Path, seed: int = 0, frames: int = 42) -> Path:
    """Make the sample clip in a folder; its own earlier output is replaced, anything else is left alone.

    Returns:
        the folder of frames.

    Raises:
        UsageError: `out` holds something else.
    """
    import json
    import shutil

    from pipeline.datasets.sample import FPS, make_sample
    from pipeline.media.pictures import write_image, write_label_png
    from pipeline.stores.folders import replace_folder

    _refuse_foreign(out)
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    clip = make_sample(seed, frames)
    for index, (image, labels) in enumerate(zip(clip.frames, clip.labels, strict=True)):
        write_image(scratch / "frames" / f"{index:05d}.png", image)
        write_label_png(scratch / "truth" / f"{index:05d}.png", labels)
    listing = {"classes": [asdict(entry) for entry in clip.classes], "ignore": [255]}
    (scratch / "truth" / "classes.json").write_text(json.dumps(listing, indent=1) + "\n")
    (scratch / MARKER).write_text(json.dumps({"seed": seed, "frames": frames, "fps": FPS}) + "\n")
    replace_folder(scratch, out)
    return out / "frames"


def _refuse_foreign(out: Path) -> None:
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    own = MARKER in names and names <= {"frames", "truth", MARKER}
    if names and not own:
        raise UsageError(f"{out}: holds other files than an earlier sample; choose an empty or new folder")


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
