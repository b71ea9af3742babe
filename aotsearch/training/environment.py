"""Where and with what a trial is made: versions, instruction set, processor or GPU."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aotsearch.study.study import VERSIONS

if TYPE_CHECKING:
    from aotsearch.training.device import DeviceSettings

USABLE = 0.9  # of the memory of a machine: the system, the driver and Ray need some


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
    """Processors that each control group of this process grants it: `cpu.max`, in version 1 two files."""
    for folder, old in _control_groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):
            if old:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
            else:
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            if float(quota.replace("max", "-1")) > 0:
                yield float(quota) / float(period)


def memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may use: those of the machine, and not more than its control groups grant; None where the system
    does not tell.

    Args:
        root: Where the files of the system lie.
    """
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        return None
    for folder, old in _control_groups(root, "memory"):
        with contextlib.suppress(OSError, ValueError):  # also of `max`
            found.append(int((folder / ("memory.limit_in_bytes" if old else "memory.max")).read_text(encoding="ascii")))
    return min(found)


def memory_limit(asked: float | Literal["auto"], together: int) -> float | None:
    """Bytes that the process of a trial may take, without those of files.

    Args:
        asked: `study.resources.memory`: gigabytes, or `auto` for an equal part of what there is.
        together: How many trials train at a time on this machine.
    """
    if asked != "auto":
        return asked * 1e9
    there = memory()
    return None if there is None else USABLE * there / together


def memory_taken() -> int:
    """Bytes of memory that this process has, without those of files, which the system takes back when it needs them; 0 where the system
    does not tell."""
    try:
        _, resident, files, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:  # not Linux
        return 0
    return (int(resident) - int(files)) * os.sysconf("SC_PAGE_SIZE")


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of each control group of this process, from its own to the outermost, and whether it is of version 1."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # not Linux
        groups = []
    mounted = root / "sys/fs/cgroup"
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounted / controller if controllers else mounted
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents[: len(inner.relative_to(base).parts)]):  # in a container the outer path may not be there
            yield folder, bool(controllers)


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
