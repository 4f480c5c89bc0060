"""The items of a distributed run as tasks of Dask, until each has ended or been given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from distributed import Client, Future, KilledWorker

from pipeline.errors import DataError, ResourceError, VidsegError
from stages.cluster.jobs import LOOK_EVERY, Jobs, NoJobLeft
from stages.cluster.worker import TOPIC, ClonePlugin, Interrupted, NoClone, Outcome, Site, run_chain
from stages.common import cli

if TYPE_CHECKING:
    from stages.cluster.board import Board
    from stages.cluster.plan import Plan


@dataclass
class _Tasks:
    """What is under way.

    Attributes:
        waiting: items that are not done.
        places: the job of a batch system that an item runs in, where its worker said one.
        ended: tasks that are done, and items that have lost their worker, as Dask's threads tell of them.
    """

    waiting: dict[str, Future[Outcome]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    ended: SimpleQueue[Future[Outcome] | str] = field(default_factory=SimpleQueue)


def distribute(
    client: Client, plan: Plan, site: Site, gpu: bool, board: Board, retries: int, jobs: Jobs | None
) -> list[Outcome]:
    """Run every chain on some worker; one that fails does not stop the others.

    Args:
        gpu: whether each needs a worker with one.
        board: told how they go.
        retries: how many lost workers an item survives.
        jobs: of the batch system that the workers are, looked after meanwhile.
    """
    client.register_plugin(ClonePlugin(site))
    tasks = _Tasks()
    outcomes: list[Outcome] = []
    lost: Counter[str] = Counter()
    with board.shown(), _listening(client, TOPIC, lambda event: _note_event(event, board, tasks)):
        for chain in plan.chains:  # those that others wait for come first
            waits_for = [tasks.waiting[key] for key in chain.after]
            needs = {"GPU": 1} if gpu else None
            future = client.submit(run_chain, chain, *waits_for, pure=False, retries=retries, resources=needs)
            tasks.waiting[chain.key] = future
            future.add_done_callback(tasks.ended.put)
        keys = {str(future.key): key for key, future in tasks.waiting.items()}
        with _listening(client, "all", lambda event: _tell_of_lost_worker(event, keys, tasks)):
            while tasks.waiting:
                try:
                    outcome = _next(tasks, keys, lost, retries, jobs)
                except NoJobLeft as error:
                    reason = f"no job is left, {error}; the same command continues"
                    return outcomes + [_lost(key, reason) for key in tasks.waiting]
                if outcome is not None:
                    tasks.waiting.pop(outcome.key).release()  # else it runs again when its worker is lost later
                    board.finish(outcome.key, outcome.states)
                    outcomes.append(outcome)
    return outcomes


def _next(
    tasks: _Tasks, keys: Mapping[str, str], lost: Counter[str], retries: int, jobs: Jobs | None
) -> Outcome | None:
    """How the next item ended; None when nothing has ended for a while.

    Args:
        keys: Dask's name of a task -> its item.
        lost: how many workers each item has lost.
    """
    if jobs is not None:
        jobs.look(len(tasks.waiting))
    try:
        ended = tasks.ended.get(timeout=None if jobs is None else LOOK_EVERY)
    except Empty:
        return None
    if isinstance(ended, Future):
        key = keys[str(ended.key)]
        return _outcome(key, ended, retries) if key in tasks.waiting else None
    lost[ended] += 1
    # Dask counts only workers that die: a job that reaches its time limit lets its worker close in good order.
    if lost[ended] <= retries or ended not in tasks.waiting:
        return None
    tasks.waiting[ended].cancel()
    return _lost(ended, _killers(lost[ended]))


def _outcome(key: str, future: Future[Outcome], retries: int) -> Outcome:
    """How an item ended that is done."""
    error = future.exception()
    if isinstance(error, KilledWorker):
        return _lost(key, _killers(error.allowed_failures + 1))
    if isinstance(error, Interrupted):
        return _lost(key, f"{error} (tried {retries + 1} times)")
    if error:
        kind = DataError if isinstance(error, NoClone) else VidsegError
        return Outcome(key, {}, f"{error} (tried {retries + 1} times)", kind.exit_code)
    return future.result()


def _lost(key: str, reason: str) -> Outcome:
    """How an item ended that is not to blame."""
    return Outcome(key, {}, reason, ResourceError.exit_code)


def _killers(number: int) -> str:
    return f"{number} workers were lost while they ran it"


@contextmanager
def _listening(client: Client, topic: str, handler: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """While this is held, each event of a topic goes to the handler, in a thread of Dask's."""
    client.subscribe_topic(topic, lambda event: handler(event[1]))
    try:
        yield
    finally:
        client.unsubscribe_topic(topic)


def _note_event(event: Mapping[str, str], board: Board, tasks: _Tasks) -> None:
    """What a worker says of its item."""
    if "job" in event:
        tasks.places[event["key"]] = event["job"]
    else:
        board.change(event["key"], event["stage"], event["state"])


def _tell_of_lost_worker(event: Mapping[str, Any], keys: Mapping[str, str], tasks: _Tasks) -> None:
    """Tell which items a lost worker had.

    Args:
        event: what Dask's scheduler says to all.
        keys: Dask's name of a task -> its item.
    """
    if event.get("action") != "remove-worker":
        return
    for task in event["processing-tasks"]:
        if task in keys:
            key = keys[task]
            place = f" (job {tasks.places.pop(key)})" if key in tasks.places else ""
            cli.note(f"{key}: its worker {event['worker']}{place} is lost")
            tasks.ended.put(key)
