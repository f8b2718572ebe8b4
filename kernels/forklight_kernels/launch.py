"""What every Triton launch needs: a context on this thread, the number of multiprocessors, an early start."""

import threading
from functools import cache

import torch
from torch import Tensor

INTERPRETED_MULTIPROCESSORS = 2
"""Programs of a persistent grid under the interpreter: more than one, so that their partition is tested."""

_ready = threading.local()


def prepare_launch(tensor: Tensor) -> None:
    """Call once before a launch with host-made tensor descriptors.

    Such a descriptor is encoded by the driver for the thread's current context, and autograd's own thread has
    none until it has touched the runtime. One tiny kernel a thread and device does that.
    """
    if not tensor.is_cuda:
        return
    devices: set[int] = _ready.__dict__.setdefault("devices", set())
    if tensor.get_device() not in devices:
        tensor.new_zeros(1)
        devices.add(tensor.get_device())


def early_start(tensor: Tensor) -> dict[str, bool]:
    """Options of a launch whose kernel begins with `triton_order.follow`, and may start before its turn."""
    if not tensor.is_cuda or not _starts_early(tensor.get_device()):
        return {"EARLY": False}
    return {"EARLY": True, "launch_pdl": True}


@cache
def _starts_early(device: int) -> bool:
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (9, 0)


def num_multiprocessors(tensor: Tensor) -> int:
    """Programs that run at once when each takes a whole multiprocessor."""
    if not tensor.is_cuda:
        return INTERPRETED_MULTIPROCESSORS
    return _multiprocessors(tensor.get_device())


@cache
def _multiprocessors(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
