"""Where and with what a trial is made: versions, instruction set, processor or GPU."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import platform
import sys
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
