"""What `vidseg cluster run` would do, what it refuses, and the script of a batch job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets.index import IGNORED
from stages.cluster.plan import make_plan
from tests.support import yaml
from tests.support.cluster_project import Checkout, quick_project
from tests.support.commands import error_line, vidseg


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("plan")
    return quick_project(folder / "project", folder, ["a", "b", "c"])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, project: Checkout) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, project.environment[name])
    monkeypatch.setenv("VIDSEG_DEVICE", "cpu")


def test_where_clones_and_unfinished_stores_lie(project: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clones may be on each machine's own disk: logs and unfinished stores stay where all see them."""
    monkeypatch.setenv("VIDSEG_SCRATCH", "/shared/scratch")
    lines = dry_run(project, "--clones", "/local/disk").stdout.splitlines()
    assert "clones      /local/disk" in lines
    assert f"logs        {project.folder}/.dvc/tmp/cluster/logs" in lines
    assert "unfinished  /shared/scratch" in lines


def test_weights_of_the_project_are_brought_to_its_workers(
    project: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whichever parameter, if git does not bring them."""
    other = project.copy(tmp_path / "project", tmp_path)
    names = [f"videos/{name}" for name in ("model", "encoder", "decoder")]
    for name in names:
        (other.folder / name).mkdir()
    params = {
        "backbone": {"path": names[0]},
        "extract": {"encoder": str(other.folder / names[1])},
        "upsample": {"fast": {"small_decoder": names[2]}},
    }
    (other.folder / "params.yaml").write_text(yaml.safe_dump(params))
    other.commit()
    monkeypatch.chdir(other.folder)
    assert [chain.inputs for chain in make_plan(["extract@b"]).chains] == [("videos/b", *names)]


def test_what_dvc_watches_instead_of_frames_is_brought(
    project: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else DVC would find another input in a worker's clone, and the project would not find what the worker made."""
    other = project.copy(tmp_path / "project", tmp_path)
    frames = [f"inputs/set/set-000/{name}/frames" for name in ("x", "y")]
    for folder in frames:
        (other.folder / folder).mkdir(parents=True)
    (other.folder / "inputs/set/.dvcignore").write_text(IGNORED)
    (other.folder / "inputs/set/set-000/index.json").touch()
    videos = yaml.safe_load((other.folder / "videos.yaml").read_text())
    videos["items"]["b"] = [{**videos["items"]["b"][0], "path": "inputs/set/set-000", "videos": ["x", "y"]}]
    (other.folder / "videos.yaml").write_text(yaml.safe_dump(videos))
    other.commit()
    monkeypatch.chdir(other.folder)
    assert [chain.inputs for chain in make_plan(["extract@b"]).chains] == [(*frames, "inputs/set/set-000/index.json")]


def test_what_is_applied_waits_for_its_item_and_its_concept(
    project: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And brings their inputs: DVC looks at those of all that it needs."""
    other = project.copy(tmp_path / "project", tmp_path)
    (other.folder / "videos/cars").mkdir()
    pipeline = yaml.safe_load((other.folder / "dvc.yaml").read_text())
    learn = {"cmd": "true", "deps": ["${item.references}"], "outs": ["data/learn/${key}"]}
    needs = ["data/extract/${item.item}", "data/learn/${item.concept}"]
    apply = {"cmd": "true", "deps": needs, "outs": ["data/apply/${key}"]}
    pipeline["stages"] |= {
        "learn": {"foreach": "${concepts}", "do": learn},
        "apply": {"foreach": "${applied}", "do": apply},
    }
    (other.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    videos = yaml.safe_load((other.folder / "videos.yaml").read_text())
    videos["concepts"] = {"cars": {"references": "videos/cars", "classes": "inputs/none"}}
    videos["applied"] = {"a-cars": {"item": "a", "concept": "cars"}}
    (other.folder / "videos.yaml").write_text(yaml.safe_dump(videos))
    other.commit()
    monkeypatch.chdir(other.folder)
    chains = {chain.key: chain for chain in make_plan(["apply"]).chains}
    assert list(chains) == ["a", "cars", "a-cars"]
    assert (chains["a"].targets, chains["cars"].targets) == (("extract@a",), ("learn@cars",))
    assert (chains["a-cars"].targets, chains["a-cars"].after) == (("apply@a-cars",), ("a", "cars"))
    assert chains["a-cars"].inputs == ("videos/a", "videos/cars")


def dry_run(project: Checkout, *arguments: str, check: int = 0):  # type: ignore[no-untyped-def]
    return vidseg("cluster", "run", "--dry-run", *arguments, cwd=project.folder, check=check)


def test_the_plan(project: Checkout) -> None:
    lines = dry_run(project, "--workers", "3", "--threads", "2").stdout.splitlines()
    revision = project.run("git", "rev-parse", "HEAD").strip()
    assert lines == [
        f"revision    {revision}",
        f"project     {project.folder}",
        f"DVC cache   {project.folder}/.dvc/cache",
        f"clones      {project.folder}/.dvc/tmp/cluster/clones",
        f"logs        {project.folder}/.dvc/tmp/cluster/logs",
        f"unfinished  {project.folder}/.dvc/tmp/cluster/scratch",
        "workers     3 of local, OMP_NUM_THREADS=2",
        "items       3",
        "  a  extract render  <- dvc repro render@a",
        "  b  extract render  <- dvc repro render@b",
        "  c  extract render  <- dvc repro render@c",
        "then, here  dvc repro",
    ]
    assert not (project.folder / ".dvc/tmp/cluster").exists()


@pytest.mark.parametrize(
    ("targets", "chains"),
    [
        (["extract"], ["a  extract  <- dvc repro extract@a", "b  extract  <- dvc repro extract@b"]),
        (["render@b"], ["b  extract render  <- dvc repro render@b"]),
        (
            ["extract@a", "render@b"],
            ["a  extract         <- dvc repro extract@a", "b  extract render  <- dvc repro render@b"],
        ),
        (["summarize"], ["a  extract render  <- dvc repro render@a", "c  extract render  <- dvc repro render@c"]),
    ],
    ids=lambda value: " ".join(value) if value[0].islower() and "  " not in value[0] else "",
)
def test_targets(project: Checkout, targets: list[str], chains: list[str]) -> None:
    output = dry_run(project, *targets).stdout
    for chain in chains:
        assert f"  {chain}\n" in output
    assert output.endswith(f"then, here  dvc repro {' '.join(targets)}\n")


SCRIPTS = {
    "slurm": [
        "#SBATCH -J vidseg-project", "#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=15G",
        "#SBATCH -t 04:00:00", "#SBATCH --gres=gpu:1", "#SBATCH --account=vision",
    ],
    "pbs": ["#PBS -N vidseg", "#PBS -q gpu", "#PBS -l walltime=04:00:00", "#PBS --account=vision"],
    "sge": ["#$ -N vidseg", "#$ -q gpu", "#$ -l h_rt=04:00:00", "#$ --account=vision"],
    "lsf": ["#BSUB -J vidseg", "#BSUB -q gpu", "#BSUB -n 4", "#BSUB -gpu num=1", "#BSUB --account=vision"],
}  # fmt: skip


@pytest.mark.parametrize("scheduler", SCRIPTS)
def test_job_scripts(project: Checkout, scheduler: str) -> None:
    output = dry_run(
        project, "--scheduler", scheduler, "--workers", "8", "--threads", "4", "--gpu", "--memory", "16GB",
        "--walltime", "04:00:00", "--queue", "gpu", "--directive", "--account=vision",
    ).stdout  # fmt: skip
    assert f"workers     3 of {scheduler}, OMP_NUM_THREADS=4, a GPU each" in output
    script = output.partition("job script of each worker:\n")[2].splitlines()
    assert script[0].startswith("#!")
    for line in SCRIPTS[scheduler]:
        assert line in script
    (command,) = [line for line in script if "distributed.cli.dask_worker" in line]
    assert command.rstrip().endswith("--nthreads 1 --resources GPU=1")


def test_a_job_without_a_gpu_asks_for_none(project: Checkout) -> None:
    output = dry_run(project, "--scheduler", "slurm", "--memory", "4GB").stdout
    assert "gpu" not in output.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "cloud"], "--scheduler cloud: give local, slurm, pbs, sge, lsf, or an address like tcp://"),
        (["--scheduler", "slurm"], "--scheduler slurm: give --memory, what a job may hold, e.g. --memory 4GB"),
        (["--queue", "gpu"], "--queue is for jobs of slurm, pbs, sge, lsf; --scheduler local starts none"),
        (["--memory", "4GB", "--scheduler", "tcp://a:1"], "--memory is for jobs of slurm, pbs, sge, lsf; --scheduler"),
        (["nothing"], "nothing: "),
        (["render@d"], "give stages of dvc.yaml, or STAGE@ITEM"),
    ],
)
def test_refused_arguments(project: Checkout, arguments: list[str], message: str) -> None:
    refused = dry_run(project, *arguments, check=2)
    assert message in error_line(refused)
    assert refused.stdout == ""


def change_a_file(project: Checkout) -> None:
    (project.folder / "stage.sh").write_text("exit 0\n")


def add_a_file(project: Checkout) -> None:
    (project.folder / "new stage.py").write_text("\n")


def lose_a_video(project: Checkout) -> None:
    (project.folder / "videos/b").rename(project.folder / "videos/gone")


def lose_git(project: Checkout) -> None:
    (project.folder / ".git").rename(project.folder / ".git-gone")


def lose_dvc(project: Checkout) -> None:
    (project.folder / "dvc.yaml").rename(project.folder / "dvc.yml")


def name_an_item(key: object) -> Callable[[Checkout], None]:
    def change(project: Checkout) -> None:
        file = project.folder / "videos.yaml"
        items = yaml.safe_load(file.read_text())["items"]
        file.write_text(yaml.safe_dump(yaml.videos({key: items["a"]})))
        project.commit()

    return change


def overlap(project: Checkout) -> None:
    file = project.folder / "dvc.yaml"
    file.write_text(file.read_text().replace("data/render/${key}\n", "data/extract/${key}\n"))
    project.commit()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (name_an_item("../x"), "item '../x': keys may hold letters, digits, '_' and '-' only"),
        (name_an_item("/tmp/x"), "item '/tmp/x': keys may hold letters, digits, '_' and '-' only"),
        (name_an_item("a;touch pwned"), "item 'a;touch pwned': keys may hold letters"),
        (name_an_item(12), "videos.yaml: the key 12 is no text to YAML; put it in quotes"),
        (overlap, "dvc.yaml: output 'data/extract/a' is specified in"),
        (change_a_file, "uncommitted changes: stage.sh; workers see only what is committed: commit, stash or ignore"),
        (add_a_file, "uncommitted changes: new stage.py; workers see only"),
        (lose_a_video, "videos.yaml: path of item 'b': no such file or folder: "),
        (lose_git, "workers clone the project: it needs git and one commit"),
        (lose_dvc, "no dvc.yaml and .dvc here; run in the project's folder"),
    ],
)
def test_refused_projects(project: Checkout, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    made = project.copy(tmp_path / "project", tmp_path)
    damage(made)
    assert message in error_line(vidseg("cluster", "run", cwd=made.folder, check=2))


def test_what_dvc_writes_is_no_change(project: Checkout) -> None:
    (project.folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project.folder / "metrics.txt").write_text("1\n")
    try:
        dry_run(project)
    finally:
        (project.folder / "dvc.lock").unlink()
        (project.folder / "metrics.txt").unlink()


def test_an_address_where_nobody_answers(project: Checkout) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = vidseg("cluster", "run", "--scheduler", "tcp://127.0.0.1:9", cwd=project.folder, check=5)
    assert "--scheduler tcp://127.0.0.1:9: no Dask scheduler answers there" in error_line(result)


@pytest.mark.parametrize(
    ("workers", "arguments", "message"),
    [
        ({"threads_per_worker": 2}, [], "its workers take several items at once; start them with --nthreads 1"),
        ({"threads_per_worker": 1}, ["--gpu"], "none of its 1 workers offers a GPU; start them with --resources GPU=1"),
    ],
)
def test_workers_that_cannot_take_an_item(
    project: Checkout, workers: dict[str, int], arguments: list[str], message: str
) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None, protocol="tcp", **workers) as cluster:
        address = cluster.scheduler_address
        result = vidseg("cluster", "run", "--scheduler", address, *arguments, cwd=project.folder, check=2)
    assert f"--scheduler {address}: {message}" in error_line(result)


def test_a_batch_system_that_is_not_here(project: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = vidseg("cluster", "run", "--scheduler", "slurm", "--memory", "2GB", cwd=project.folder, check=2)
    assert "--scheduler slurm: there is no `sbatch` here; run this where jobs are submitted" in error_line(result)


def test_more_workers_than_gpus(project: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.cluster import schedulers

    monkeypatch.setattr(schedulers, "local_gpus", lambda: ("0", "1"))
    assert "--workers 3: there are 2 GPUs, one for each" in error_line(dry_run(project, "--workers", "3", check=2))
    assert "a GPU each" in dry_run(project, "--workers", "2").stdout
    assert "a GPU each" not in dry_run(project, "--workers", "3", "--no-gpu").stdout


def test_the_table(project: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from stages.cluster.board import Board
    from stages.cluster.plan import make_plan

    monkeypatch.chdir(project.folder)
    board = Board(make_plan(()))
    with board.shown():
        for event in (("a", "extract", "running"), ("a", "extract", "running"), ("b", "sample", "running")):
            board.change(*event)
        board.finish("b", {"sample": "ran", "extract@b": "restored", "render@b": "failed"})
    assert capsys.readouterr().err == "a: extract running\nb: extract restored\nb: render failed\n"
    console = Console(width=60)
    with console.capture() as drawn:
        console.print(board.table(most=9))
    assert [line.split() for line in drawn.get().splitlines()] == [
        ["item", "extract", "render"], ["a", "running", "·"], ["b", "restored", "failed"], ["c", "·", "·"],
    ]  # fmt: skip
    assert board.summary() == "1 running, 1 restored, 1 failed, 3 waiting"


def test_the_table_of_more_items_than_the_screen_has_lines(project: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from stages.cluster.board import Board
    from stages.cluster.plan import make_plan

    monkeypatch.chdir(project.folder)
    board = Board(make_plan(["extract@a", "extract@b", "render@c"]))
    board.change("a", "extract", "ran")
    board.change("a", "extract", "restored")
    board.change("c", "extract", "running")
    console = Console(width=60)
    with console.capture() as drawn:
        console.print(board.table(most=2))
    lines = drawn.get().splitlines()
    assert [line.split() for line in lines[:3]] == [["item", "extract", "render"], ["b", "·"], ["c", "running", "·"]]
    assert " ".join(" ".join(lines[3:]).split()) == "and 1 more items; all: 1 running, 1 ran, 2 waiting"


def test_a_registration_in_the_project_has_the_names_that_dvc_gives_it(tmp_path: Path) -> None:
    """Absolute paths into the project would be other dependencies to a clone, so their results would not be found."""
    from stages.cluster.plan import relative_names

    entry = {"path": str(tmp_path / "inputs/x/frames"), "ground_truth": "/data/labels", "mask": "inputs/none", "fps": 5}
    concept = {"references": str(tmp_path / "cars"), "classes": "inputs/none"}
    content = {"items": {"x": [entry, {"path": "clip.mp4"}]}, "concepts": {"cars": concept}, "applied": {}, "other": 1}
    assert relative_names(yaml.safe_load(yaml.safe_dump(content)), tmp_path) == {
        "items": {"x": [{**entry, "path": "inputs/x/frames"}, {"path": "clip.mp4"}]},
        "concepts": {"cars": {"references": "cars", "classes": "inputs/none"}},
        "applied": {},
        "other": 1,
    }
