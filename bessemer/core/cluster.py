"""The same jobs on many machines: each is a task of a Ray cluster, which runs it as this machine would, in a process of its own.

`bessemer run RECIPE --cluster ADDRESS`, where the address is that of a running cluster ("auto" for the one that this machine is part
of, "ray://host:10001" from outside), or "local" to start one on this machine alone. Jobs exchange files, nothing else, so every machine
must see the store under the same path and have the same version of Bessemer installed. Ray brings the scheduling, the retry of tasks
whose machine was lost, and a dashboard.
"""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

RETRIES = 3  # of a task whose machine or Ray process was lost; a document that kills its parser is no such case
# Ray reports its use to its makers unless told not to.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Item(Protocol):
    """What a task works on."""

    @property
    def size(self) -> float: ...


def run(task: Callable[[Any], None], items: Sequence[Item], at_once: int, reached: Callable[[float], None], address: str) -> None:
    """Call `task` on every item, on the cluster at `address`, at most `at_once` at a time (0: as many as it has cores for).

    `reached` hears how many units of size are done. An item's exception is raised here.
    """
    ray = _connected(address)
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(lambda item: task(item))  # a partial is no function to Ray
    waiting, finished = list(reversed(items)), 0.0
    running: dict[Any, Item] = {}
    # Some more than there are cores, so that none waits for us; not all, since a million tasks are a load of their own.
    most = at_once or 2 * int(ray.cluster_resources().get("CPU", 1))
    try:
        while waiting or running:
            while waiting and len(running) < most:
                item = waiting.pop()
                running[remote.remote(item)] = item
            done, _ = ray.wait(list(running), timeout=1.0)
            for reference in done:
                finished += running.pop(reference).size
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
            reached(finished)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _connected(address: str) -> Any:
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    try:
        import ray
    except ImportError:
        raise RuntimeError(f"--cluster {address} needs Ray: pip install 'bessemer[cluster]'") from None
    if not ray.is_initialized():
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:
            _reach(host, port, address)  # Ray itself would go on trying for minutes
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 1 << 28}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == "local" else {}))
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from None
    return ray


def _reach(host: str, port: str, address: str) -> None:
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster at {address!r}: {error}") from None
