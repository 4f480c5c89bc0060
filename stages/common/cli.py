"""What all commands share: options, exit codes, one-line errors, progress."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import DataError, ResourceError, UsageError, VidsegError, is_out_of_memory
from stages.common.memory import keep_freed_memory
from stages.common.threads import let_waiting_threads_sleep

ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        help="Parameter file like params.yaml; without it the built-in defaults.",
        rich_help_panel="Parameters",
    ),
]


def set_option(help: str) -> Any:
    """`--set`, for commands in which its values win over something else than `--params`."""
    return typer.Option("--set", metavar="SECTION.KEY=VALUE", help=help, rich_help_panel="Parameters")


SetOption = Annotated[
    list[str] | None,
    set_option("Value of one parameter; wins over --params. Repeatable."),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="named set of parameters (`vidseg preset list`); --params wins over it"),
]


def _item_option(what: str) -> Any:
    """`--item`: which entry of videos.yaml, in words."""
    return typer.Option(
        "--item",
        envvar="DVC_STAGE",
        help=f"{what}, instead of paths (DVC gives it by itself).",
        rich_help_panel="Pipeline",
    )


ItemOption = Annotated[str | None, _item_option("Item of videos.yaml")]
AppliedOption = Annotated[str | None, _item_option("Name under `applied` in videos.yaml")]
ConceptOption = Annotated[str | None, _item_option("Concept of videos.yaml")]
ShardsOption = Annotated[
    str | None,
    typer.Option(
        "--shards",
        metavar="FROM:TO",
        help="Numbers of the shards (files of frames) to write, so that several machines share a long video.",
        rich_help_panel="Pipeline",
    ),
]
GroundTruthOption = Annotated[Path | None, typer.Option(help="folder of label PNGs, to score the video's result")]
ClassesOption = Annotated[Path | None, typer.Option(help="class list of the ground truth (JSON)")]
NamesOption = Annotated[
    Path | None,
    typer.Option("--names", help="names.json of `vidseg name` or of a report.html: names, merged and dropped segments"),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        metavar="PNG|DIR|FRAME=PNG",
        help="label PNG of the first frame, folder of label PNGs named like frames, or FRAME=PNG for a frame of the "
        "video, from 0 (repeatable): labels that are carried through the video by segment.init=mask",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="print plan, time and disk estimate, and stop")]
OpenOption = Annotated[bool, typer.Option("--open", help="open the page in the browser when it is done")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


#: What stands in the way of an output.
UNWRITABLE = {
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "read-only disk",
    errno.ENOTDIR: "a file is in the way",
    errno.EEXIST: "a file is in the way",
}

#: Reports that many more units as done.
Advance = Callable[[int], None]
#: Shows the progress of a label's frames (or steps), so many in all.
Progress = Callable[[str, int], AbstractContextManager[Advance]]


def new_app(help: str) -> typer.Typer:
    """A Typer app with the project's conventions (no tracebacks with local variables, no completion)."""
    return typer.Typer(help=help, add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)


def run_app(app: typer.Typer) -> None:
    """Run a Typer app and end the process with the documented exit code.

    0 ok, 1 internal error, 2 usage, 3 bad input data, 4 missing weights, 5 out of memory or disk, 130 interrupted.
    `--debug` anywhere on the command line shows the traceback behind an error, `--strict` ends the command at its
    first warning. What was warned of is said again at the end.
    """
    let_waiting_threads_sleep()
    keep_freed_memory()
    debug = _taken_from_command_line("--debug")
    strict = _taken_from_command_line("--strict")
    earlier = os.environ.get(STRICT, "")
    os.environ[STRICT] = "1" if strict else earlier  # a variable: for the commands that this one runs, too
    _WARNED.clear()
    started = time.monotonic()
    try:
        result = typer.main.get_command(app).main(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == 130:  # newer Typers catch the interruption themselves
            raise KeyboardInterrupt
        if code == 0:
            warnings_again()
            _log_cost(time.monotonic() - started)
        sys.exit(code)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # Typer's usage errors, whether they come from click or from the copy that newer Typers carry.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        if debug:
            raise
        code, message = explain(error)
        print(f"error: {printable(message)}", file=sys.stderr)
        sys.exit(code)
    finally:
        os.environ[STRICT] = earlier


def _taken_from_command_line(option: str) -> bool:
    """Whether an option that works anywhere is there; taken away, as the commands do not know it.

    What follows `--` is no option.
    """
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, rest = sys.argv[:end], sys.argv[end:]
    sys.argv = [word for word in options if word != option] + rest
    return option in options


def refuse(given: Mapping[str, object], why: str) -> None:
    """Refuse what would be dropped without a word.

    Args:
        given: names of arguments -> their values; None, empty or false = not given.
        why: continues the name of the first that is.

    Raises:
        UsageError: one is.
    """
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} {why}")


def refuse_together(given: Mapping[str, object]) -> None:
    """Refuse more than one of several ways to say which segments there are.

    Args:
        given: names of arguments -> their values; None = not given.

    Raises:
        UsageError: two are.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{names[1]} says which segments there are, as {names[0]} does; give one of them")


def refuse_beside_item(given: Mapping[str, object]) -> None:
    """Refuse paths (`refuse`) beside an entry of videos.yaml, which has its own.

    Raises:
        UsageError: one is given.
    """
    refuse(given, "does not go with --item, whose paths stand in videos.yaml")


def _log_cost(seconds: float) -> None:
    """Append the stage's wall time and memory to the file that `VIDSEG_TIMINGS` names; artifacts hold neither."""
    if file := os.environ.get("VIDSEG_TIMINGS"):
        names = {"experiment": os.environ.get("DVC_EXP_NAME"), "stage": os.environ.get("DVC_STAGE")}
        with Path(file).open("a") as stream:
            stream.write(json.dumps({**names, "seconds": round(seconds, 3), "peak_memory_mb": peak_memory_mb()}) + "\n")


def peak_memory_mb(of_children: bool = False) -> int | None:
    """The most main memory that this process has held so far; None where nothing tells it.

    Args:
        of_children: instead, the most that one process has held which it started, or they did, and which has ended.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the one-line message for an exception."""
    if isinstance(error, VidsegError):
        return error.exit_code, " ".join(str(error).split())
    if is_out_of_memory(error):
        return ResourceError.exit_code, (
            "out of memory; lower diffusion.batch and upsample.batch (e.g. --set diffusion.batch=1 "
            "--set upsample.batch=2) or ingest.size"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            ResourceError.exit_code,
            f"disk full while writing {error.filename or 'an output'}; free space and run again",
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        reason = UNWRITABLE[error.errno]
        return ResourceError.exit_code, f"{error.filename}: cannot be written ({reason}); choose another output folder"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return DataError.exit_code, f"{error.filename}: longer than names of files may be; choose a shorter one"
    text = " ".join(str(error).split())
    return 1, f"internal error: {type(error).__name__}: {text} (--debug shows the traceback)"


#: Environment variable: a warning ends the command. `--strict` sets it.
STRICT = "VIDSEG_STRICT"
#: What this command has warned of so far, each once.
_WARNED: dict[str, None] = {}
#: Those who want to know what is warned of; `warnings_heard`.
_LISTENERS: list[Callable[[str], None]] = []


def warn(message: str) -> None:
    """Say that something given is left out or guessed, or that a result may be poor; said again at the command's end.

    Called before the output that it is about is at its place.

    Raises:
        DataError: with `--strict`.
    """
    if os.environ.get(STRICT, "0") not in ("", "0"):
        raise DataError(f"{message} (a warning: --strict ends the command at the first)")
    for listener in _LISTENERS:
        listener(message)
    _WARNED[message] = None
    note(f"warning: {message}")


def warnings_again() -> None:
    """Say once more what was warned of, if anything was: a command's end, or just before its last lines."""
    if _WARNED:
        note(f"warnings: {len(_WARNED)}")
    for message in _WARNED:
        note(f"  {message}")
    _WARNED.clear()


def note(message: str) -> None:
    """One line for the reader on stderr, named after the DVC stage when there is one."""
    stage = os.environ.get("DVC_STAGE")
    print(printable(f"{stage}: {message}" if stage else message), file=sys.stderr, flush=True)


@contextmanager
def warnings_heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Tell a listener of every warning while this is held."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def printable(message: str) -> str:
    """The message with control characters escaped: names of files may hold what a terminal obeys."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message)


@contextmanager
def progress(label: str, total: int, unit: str = "frames") -> Iterator[Advance]:
    """Yield `advance(n)`: a progress bar on a terminal, else a log line every 30 seconds with rate and ETA."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
        return
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        if now - last >= 30:
            last = now
            rate = done / (now - started)
            note(f"{label}: {done}/{total} {unit}, {rate:.2g} {unit}/s, {(total - done) / rate:.0f} s left")

    yield advance


def steps(label: str, total: int) -> AbstractContextManager[Advance]:
    """`progress` of steps of learning."""
    return progress(label, total, "steps")


def announced(announce: Callable[[], None], shown: Progress = progress) -> Progress:
    """Progress that is shown as usual, or as `shown`, after `announce` was called once."""
    waiting = [announce]

    def first_announced(label: str, total: int) -> AbstractContextManager[Advance]:
        while waiting:
            waiting.pop()()
        return shown(label, total)

    return first_announced
