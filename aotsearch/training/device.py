"""Where a trial computes, and how: threads, device, precision, memory. The only file that knows one kind of device from another.

Devices are `cpu` and `cuda` (NVIDIA's, and AMD's under ROCm). A worker that is granted a GPU sees it as its first, so `cuda` is that one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

ALIKE = "does not have a deterministic implementation"  # torch's words
FULL = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")  # where torch has no type for it


@dataclass(frozen=True)
class DeviceSettings:
    """The resources given to a trial.

    Attributes:
        threads: Of a processor.
        device: `cpu` or `cuda`.
        share: Of the memory of a GPU that others share: who takes more is out of memory, not its neighbour.
        usual: The precision of trainings that ask for none.
        deterministic: Whether what torch can compute alike every time is, so that a trial that is run again on the same kind of device
            with the same libraries gives the same losses to the last bit.
    """

    threads: int
    device: str = "cpu"
    share: float = 1.0
    usual: str = ""
    deterministic: bool = True

    def precision(self, training: Mapping[str, Any]) -> str:
        """The precision of a training on this device: the one it asks for, else the usual one (bfloat16 on a GPU, float32 on processors,
        where nothing was measured)."""
        return str(training.get("precision") or self.usual or ("float32" if self.device == "cpu" else "bfloat16"))

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Compute with these resources, and restore torch's settings after. Float32 is float32: no convolution is in TF32."""
        threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
        memory: Any = torch.utils.deterministic
        fill = memory.fill_uninitialized_memory
        torch.set_num_threads(self.threads)
        torch.set_deterministic_debug_mode("error" if self.deterministic else "default")
        memory.fill_uninitialized_memory = False  # nothing reads it
        if is_cuda(self.device):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
        if self.share < 1:
            torch.cuda.set_per_process_memory_fraction(self.share)
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=self.deterministic, allow_tf32=False):
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # float32 gains of a norm under autocast
                    yield
        finally:
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(mode)
            memory.fill_uninitialized_memory = fill
            if self.share < 1:
                torch.cuda.set_per_process_memory_fraction(1.0)


def is_cuda(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"


def gpus_here() -> int:
    """How many GPUs this process can compute on; a GPU that torch was not built for is none."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def bfloat16_instructions() -> bool:
    """Whether this processor multiplies matrices in bfloat16 itself."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: str | torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context of one forward pass with its loss, or of one evaluation; in float32 it does nothing.

    Never of more than one step: autocast keeps its bfloat16 copies of the weights until the outermost context ends.
    """
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def alike_if_possible(hardware: DeviceSettings, work: Callable[[DeviceSettings], T]) -> T:
    """What work gives on this hardware; again from its start, and not deterministic, where torch can only compute it so."""
    try:
        return work(hardware)
    except RuntimeError as e:
        if not unlike(e):
            raise
    return work(dataclasses.replace(hardware, deterministic=False))


def unlike(error: BaseException) -> bool:
    """Whether an error says that torch cannot compute something alike every time."""
    return ALIKE in str(error)


def staged(array: np.ndarray[Any, Any], device: str | torch.device) -> torch.Tensor:
    """An array as a tensor from which it is copied to the device: in pinned memory for a GPU, so that the copy waits for nothing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if is_cuda(device) else tensor


def put(items: np.ndarray[Any, Any] | torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """An array as a tensor on the device; torch keeps pinned memory until it is copied from. A tensor that is there stays."""
    tensor = items if isinstance(items, torch.Tensor) else staged(items, device)
    return tensor.to(device, non_blocking=True)


def wait(device: str | torch.device) -> None:
    """Until what was asked of the device is done, so that a clock can be read."""
    if is_cuda(device):
        torch.cuda.synchronize()


def random_state(device: str | torch.device) -> list[torch.Tensor]:
    """Where torch's random numbers are, of the processor and of the device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if is_cuda(device) else [])]


def restore_random_state(state: list[torch.Tensor], device: str | torch.device) -> None:
    torch.set_rng_state(state[0])
    if is_cuda(device):
        torch.cuda.set_rng_state(state[1])


def begin_peak(device: str | torch.device) -> None:
    """Measure the peak of memory from here: a worker runs many trials."""
    if is_cuda(device):
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # Linux
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: str | torch.device) -> int | None:
    """Bytes at the peak: of tensors on a GPU; of the whole process on a processor, where the system tells."""
    if is_cuda(device):
        return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def memory(device: str | torch.device) -> tuple[int, int, int]:
    """Bytes of a GPU: that it has; that this process and others take of it besides this one's tensors; that are reserved for those at the
    peak since `begin_peak`."""
    assert is_cuda(device), device
    free, total = torch.cuda.mem_get_info()
    return total, total - free - torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved()


def release(device: str | torch.device) -> None:
    """Give memory back of tensors that nothing holds any more, to the next trial and to neighbours on the same GPU."""
    gc.collect()
    if is_cuda(device):
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in FULL)


def lost(error: BaseException) -> bool:
    """Whether the device answers nothing more in this process, as after an index out of range in a kernel."""
    return isinstance(error, torch.AcceleratorError) and not out_of_memory(error)
