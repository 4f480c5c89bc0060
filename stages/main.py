"""The `vidseg` command: one sub-command per stage, and the commands around them."""

from __future__ import annotations

import typer

from stages import (
    correspond,
    evaluate,
    extract,
    ingest,
    learn,
    references,
    render,
    sample,
    segment,
    summarize,
    track,
    upsample,
)
from stages.cluster import command as cluster
from stages.commands import (
    apply,
    backbone,
    cache,
    concept,
    context,
    cost,
    dataset,
    doctor,
    export,
    figures,
    name,
    preset,
    pretrain,
    pretrain_features,
    pretrain_small_decoder,
    refine,
    report,
    videos,
)
from stages.commands import run as run_all
from stages.common import cli
from stages.sweeps import command as sweep
from stages.tables import command as table

HELP = """Training-free video segmentation from the features of a diffusion model.

Start with `vidseg run VIDEO -o DIR`. The other commands are its stages, one by one, and the tools around them.
"""
app = cli.new_app(HELP)


@app.callback(invoke_without_command=True)
def root(
    context_: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    strict: bool = typer.Option(False, "--strict", help="Stop at the first warning (exit code 3); works anywhere."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback behind an error; works anywhere."),
) -> None:
    """The options that come before a command."""
    if version:
        from importlib import metadata

        print(f"vidseg {metadata.version('vidseg')}")
    elif context_.invoked_subcommand is None:
        print(context_.get_help())


MAIN = "Main"
STAGES = "Stages"
HAND = "Around the stages"
app.command("run", rich_help_panel=MAIN)(run_all.main)
app.command("name", rich_help_panel=MAIN)(name.main)
app.command("report", rich_help_panel=MAIN)(report.main)
app.command("export", rich_help_panel=MAIN)(export.main)
app.command("doctor", rich_help_panel=MAIN)(doctor.main)
app.command("cost", rich_help_panel=MAIN)(cost.main)
app.command("sample", rich_help_panel=MAIN)(sample.main)
OF_ITEMS = (ingest, extract, correspond, segment, upsample)
OF_CONCEPTS = (references, learn, track, apply)
for module in (*OF_ITEMS, *OF_CONCEPTS, evaluate, render, summarize):
    app.command(module.__name__.rpartition(".")[2], rich_help_panel=STAGES)(module.main)
app.command("refine", rich_help_panel=HAND)(refine.main)
app.command("pretrain", rich_help_panel=HAND)(pretrain.main)
app.command("pretrain-features", rich_help_panel=HAND)(pretrain_features.main)
app.command("pretrain-small-decoder", rich_help_panel=HAND)(pretrain_small_decoder.main)
app.add_typer(context.app, name="context", rich_help_panel=HAND)
app.add_typer(concept.app, name="concept", rich_help_panel=HAND)
app.add_typer(backbone.app, name="backbone", rich_help_panel=HAND)
app.add_typer(preset.app, name="preset", rich_help_panel=HAND)
app.add_typer(videos.app, name="videos", rich_help_panel=HAND)
app.add_typer(cache.app, name="cache", rich_help_panel=HAND)
app.add_typer(dataset.app, name="dataset", rich_help_panel=HAND)
app.add_typer(figures.app, name="figures", rich_help_panel=HAND)
app.add_typer(cluster.app, name="cluster", rich_help_panel=HAND)
app.add_typer(table.app, name="table", rich_help_panel=HAND)
app.command("sweep", rich_help_panel=HAND)(sweep.main)


def main() -> None:
    """Entry point of the console script."""
    cli.run_app(app)


if __name__ == "__main__":
    main()
