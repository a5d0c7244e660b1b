"""The workers of a Dask cluster, to share a run."""

from __future__ import annotations

import functools

from .. import how_to_install
from . import operators
from .processes import Workers

# To find the scheduler in, in seconds.
_TIMEOUT = 10


def workers(address: str) -> Workers:
    """Return the workers of the cluster whose scheduler is at an address, such as ``tcp://host:8786``.

    They see the files of a run by the same paths, and have the same versions of all packages that take part.

    Raises:
        ImportError: ``distributed`` is not installed here, or ms2torch_roi is not where a worker is.
        OSError: no scheduler answers.
        ValueError: the address is none, the cluster has no workers, or one has another version.
    """
    try:
        import distributed
        from distributed.comm import addressing
    except ModuleNotFoundError as error:
        raise ImportError(f"distributed is not installed. {how_to_install('dask')}") from error
    try:
        addressing.get_address_host_port(address)  # with a wrong one, a client hangs, and complains when it is removed
    except ValueError as error:
        raise ValueError(f"{address!r} is no address such as tcp://host:8786: {error}") from error
    client = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False)
    try:
        count = len(client.nthreads())
        if not count:
            raise ValueError(f"the cluster at {address} has no workers")
        here = operators.versions()
        for worker, versions in client.run(operators.versions).items():
            for package in here.keys() & versions.keys():
                if versions[package] != here[package]:
                    raise ValueError(
                        f"the worker {worker} has {package} {versions[package]}, and this process has {here[package]}"
                    )
    except BaseException:
        client.close()
        raise
    # Not pure: what has killed a worker would be remembered, and not be run again.
    start = functools.partial(client.get_executor, pure=False)
    return Workers(start, count, lost=(distributed.KilledWorker,), end=client.close)
