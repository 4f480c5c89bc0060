"""Distributed runs on a real Slurm: jobs that end well, are cancelled, run out of time, or cannot start."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from tests.support import slurm as slurms
from tests.support.cluster_project import Checkout, cluster_command, quick_project
from tests.support.slurm import Slurm
from tests.support.waiting import output_of, wait_until

pytestmark = pytest.mark.slurm
JOBS = ("--scheduler", "slurm", "--memory", "1GB")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with slurms.running() as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, slurm: Slurm) -> Callable[..., Checkout]:
    """A project whose commands know the Slurm of these tests."""

    def project(*keys: str) -> Checkout:
        (tmp_path / "site").mkdir()
        made = quick_project(tmp_path / "the project", tmp_path / "site", list(keys))
        made.environment |= slurm.environment
        return made

    return project


def held(project: Checkout, *arguments: str) -> Popen[str]:
    """A run whose item `slow` has begun, and waits until `let_go`."""
    hold = Path(f"{project.ran_file}.hold")
    hold.touch()
    run = project.start(*cluster_command(*JOBS, *arguments))
    wait_until(lambda: "extract@slow" in {stage for stage, _ in project.ran()}, run)
    return run


def let_go(project: Checkout) -> None:
    Path(f"{project.ran_file}.hold").unlink()


def logs(project: Checkout) -> Path:
    return project.folder / ".dvc/tmp/cluster/logs"


def assert_all_is_made(project: Checkout, *keys: str) -> None:
    """The bytes that one machine makes; nothing is left of jobs and clones."""
    for key in keys:
        made = (project.folder / "data/render" / key / "out").read_text()
        assert made == f"frame of {key}\nextract\nrender\n"
    assert not list((project.folder / ".dvc/tmp/cluster/clones").iterdir())


def test_three_items_end_with_the_bytes_of_one_machine(make: Callable[..., Checkout], slurm: Slurm) -> None:
    """And what a person sees: names in the queue, one log per job and per item, no job cancelled that ended well."""
    project = make("a", "b", "slow")
    run = held(project, "--workers", "2")
    queue = slurm.call("squeue", "-h", "-o", "%j|%T").splitlines()
    let_go(project)
    output = output_of(run)
    assert queue == ["vidseg-the-project|RUNNING"] * 2
    assert re.search(r"2 jobs submitted \(\d+, \d+\); items begin as soon as one of them runs", output)
    assert "3 items: 6 ran" in output and "`dvc status` is clean" in output and "Traceback" not in output
    assert_all_is_made(project, "a", "b", "slow")
    states = dict(line.split() for line in slurm.call("squeue", "-h", "-t", "all", "-o", "%i %T").splitlines())
    assert set(states.values()) == {"COMPLETED"}
    for number in states:
        log = (logs(project) / f"job-{number}.log").read_text()
        assert "Traceback" not in log and "ERROR" not in log
    assert re.match(r"job \d+ on \S+:", (logs(project) / "slow.log").read_text())


@pytest.mark.slow
def test_a_cancelled_job_leaves_its_item_to_the_others(make: Callable[..., Checkout], slurm: Slurm) -> None:
    project = make("a", "b", "slow")
    run = held(project, "--workers", "2")
    (number,) = re.findall(r"^job (\d+) on ", (logs(project) / "slow.log").read_text())
    slurm.call("scancel", number)
    wait_until(lambda: [stage for stage, _ in project.ran()].count("extract@slow") == 2, run)
    let_go(project)
    output = output_of(run)
    assert re.search(rf"^slow: its worker \S+ \(job {number}\) is lost$", output, re.MULTILINE)
    assert "3 items: 6 ran" in output
    assert_all_is_made(project, "a", "b", "slow")


@pytest.mark.slow
def test_a_run_whose_jobs_are_all_cancelled_ends_and_continues(make: Callable[..., Checkout], slurm: Slurm) -> None:
    project = make("a", "slow")
    run = held(project)
    slurm.call("scancel", *slurm.jobs())
    output = output_of(run, check=5)
    let_go(project)
    last = output.splitlines()[-1]
    assert re.match(
        r"error: . of 2 items failed: .*slow: no job is left, job \d+ was cancelled \(log: .*job-\d+\.log\)", last
    )
    assert "the same command continues" in last and "Traceback" not in output
    assert slurm.jobs() == {}
    assert "2 items:" in project.cluster(*JOBS)
    assert_all_is_made(project, "a", "slow")


@pytest.mark.slow
def test_a_lost_job_of_a_silent_batch_system_is_followed_by_another(
    make: Callable[..., Checkout], slurm: Slurm
) -> None:
    """As with those systems that are never asked."""
    project = make("slow")
    squeue = project.ran_file.parent / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    squeue.chmod(0o755)
    project.environment["PATH"] = f"{squeue.parent}{os.pathsep}{project.environment['PATH']}"
    run = held(project)
    slurm.call("scancel", *slurm.jobs())
    wait_until(lambda: len(project.ran()) == 2, run)
    let_go(project)
    output = output_of(run)
    assert output.count("what became of jobs is not known: squeue") == 1 and "failed: no controller" in output
    assert re.search(r"^job \d+ is lost \(log: \S.*\.log\); job \d+ takes its place$", output, re.MULTILINE)
    assert_all_is_made(project, "slow")


@pytest.mark.slow
def test_a_drained_node_keeps_jobs_waiting_until_it_is_resumed(make: Callable[..., Checkout], slurm: Slurm) -> None:
    project = make("a", "slow")
    run = held(project)
    slurm.drain()
    try:
        other = project.clone(project.folder.parent / "other", project.folder.parent / "site")
        other.environment |= slurm.environment
        (other.folder / "videos/a").mkdir(parents=True)
        (other.folder / "videos/a/0.png").write_text("frame of another\n")
        waiting = other.start(*cluster_command(*JOBS, "render@a"))
        wait_until(lambda: "PENDING" in slurm.jobs().values(), run, waiting)
        let_go(project)
        assert "2 items: 4 ran" in output_of(run), "what runs is not disturbed"
        for line in waiting.stdout or ():
            if line.startswith("in the queue, 1 job: "):
                break
        else:
            pytest.fail("it did not say why it waits")
    finally:
        slurm.resume()
    assert "1 items: 2 ran" in output_of(waiting)


@pytest.mark.slow
def test_a_job_that_reaches_its_time_limit_is_followed_by_another(make: Callable[..., Checkout], slurm: Slurm) -> None:
    project = make("slow")
    run = held(project, "--walltime", "00:01:00", "--retries", "1")
    wait_until(lambda: len(project.ran()) == 2, run)
    let_go(project)
    output = output_of(run)
    assert re.search(
        r"^job \d+ reached its time limit \(log: \S.*\.log\); job \d+ takes its place$", output, re.MULTILINE
    )
    assert_all_is_made(project, "slow")


@pytest.mark.slow
def test_an_item_that_no_job_has_time_for_is_given_up(make: Callable[..., Checkout], slurm: Slurm) -> None:
    project = make("slow")
    output = output_of(held(project, "--walltime", "00:01:00", "--retries", "0"), check=5)
    assert "1 of 1 items failed: slow: 1 workers were lost while they ran it (logs: " in output
    assert slurm.jobs() == {}


@pytest.mark.slow
def test_jobs_that_end_before_a_worker_begins(make: Callable[..., Checkout], slurm: Slurm) -> None:
    """A wrong module, a disk that is not there: the end of the job's log tells."""
    project = make("a")
    project.environment["DASK_JOBQUEUE__SLURM__JOB_SCRIPT_PROLOGUE"] = json.dumps(["echo no such module >&2; exit 7"])
    output = project.cluster(*JOBS, "--retries", "1", check=5)
    assert len(re.findall(r"^job \d+ failed .*; job \d+ takes its place$", output, re.MULTILINE)) == 1
    assert re.search(r"error: .*no job is left, job \d+ failed \(log: \S.*\.log, which ends: no such module\)", output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--queue", "nix"], "Invalid partition name specified"),
        (["--memory", "900GB"], "Requested node configuration is not available"),
        (["--walltime", "soon"], "Invalid --time specification"),
    ],
)
def test_refused_jobs(make: Callable[..., Checkout], slurm: Slurm, arguments: list[str], reason: str) -> None:
    (line,) = refusal(make("a").cluster(*JOBS, *arguments, check=5))
    assert line.startswith("error: --scheduler slurm: `sbatch` takes no job: ") and reason in line
    assert slurm.jobs() == {}


@pytest.mark.slow
def test_no_munge_and_no_slurm(tmp_path: Path, make: Callable[..., Checkout], slurm: Slurm) -> None:
    project = make("a")
    configuration = Path(slurm.environment["SLURM_CONF"]).read_text()
    for name, old, new, reason in (
        ("munge", "munge.socket", "nobody.socket", "munge"),
        ("slurmctld", "SlurmctldPort=", "SlurmctldPort=1#", "Unable to contact slurm controller"),
    ):
        project.environment["SLURM_CONF"] = str(tmp_path / name)
        (tmp_path / name).write_text(configuration.replace(old, new))
        (line,) = refusal(project.cluster(*JOBS, check=5))
        assert reason in line


def refusal(output: str) -> list[str]:
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_cancels_its_jobs(make: Callable[..., Checkout], slurm: Slurm, number: int) -> None:
    """By Ctrl-C, or by the end of the job that it is in itself."""
    project = make("a", "slow")
    run = held(project, "--workers", "2")
    os.kill(run.pid, number)
    assert "interrupted; run the same command again to continue" in output_of(run, check=130)
    assert slurm.jobs() == {}
    let_go(project)
    assert "2 items: " in project.cluster(*JOBS)
    assert_all_is_made(project, "a", "slow")
