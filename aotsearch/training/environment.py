"""Where and with what a trial is made: versions, instruction set, processor or GPU."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.study.study import VERSIONS

if TYPE_CHECKING:
    from aotsearch.training.device import DeviceSettings


def environment(hardware: DeviceSettings) -> dict[str, Any]:
    """What may move a loss in its last digits where two trials do not share it: versions, instruction set, threads, device; with the data,
    which a worker on another machine opens there."""
    import torch  # which a start that has nothing to train does not wait for

    from aotsearch.training import device as devices

    amx = [name for name, known in (("bf16", torch.cpu._is_avx512_bf16_supported), ("amx", torch.cpu._is_amx_tile_supported)) if known()]
    return {
        **{name: found for name in VERSIONS if (found := version(name))},
        "instruction_set": " ".join([torch.backends.cpu.get_cpu_capability(), *amx]),
        "threads": hardware.threads,
        "device_name": torch.cuda.get_device_name() if devices.is_cuda(hardware.device) else _processor(),
    }


def processors(root: Path = Path("/")) -> int:
    """How many processors this process may use: those it may be scheduled on (affinity), and not more than the time that its control
    groups grant it, rounded down; at least 1.

    Args:
        root: Where the files of the system lie.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([here, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Processors that each control group of this process grants it, from its own to the outermost, in version 2 (`cpu.max`) or 1."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # not Linux
        groups = []
    mounted = root / "sys/fs/cgroup"
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mounted / "cpu" if controllers else mounted
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents[: len(inner.relative_to(base).parts)]):  # in a container the outer path may not be there
            try:
                if controllers:
                    quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
                else:
                    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
                if float(quota.replace("max", "-1")) > 0:
                    yield float(quota) / float(period)
            except (OSError, ValueError):
                continue


def version(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    if package == "aotsearch":  # what is installed to be edited keeps the version that it was installed with
        return str(sys.modules["aotsearch"].__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return ""


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine()
    )


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
