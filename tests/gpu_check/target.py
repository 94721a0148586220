"""What is checked: the backends, and the devices that their tensors are on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from support import device as registry

from convbound.choice.backends import our_backends


@dataclass(frozen=True)
class Target:
    """Where the checks run.

    Parameters
    ----------
    devices
        The devices; all but the checks of a second one run on the first.
    registry_backend
        The backend whose op ``<backend>_run_row`` runs rows of the CUDA registry; empty where it is absent.
    backends
        The backends whose ops are checked.
    arch, shared_per_block, sms
        Of the devices, as the dispatcher asks for them.
    busy_edge
        Size of the matrix products that keep a stream busy for some milliseconds.
    """

    devices: tuple[torch.device, ...]
    registry_backend: str
    backends: tuple[str, ...]
    arch: int
    shared_per_block: int
    sms: int
    busy_edge: int

    @property
    def device(self) -> torch.device:
        """The device that most checks run on."""
        return self.devices[0]


def gpu() -> Target:
    """The GPUs of this machine."""
    properties = torch.cuda.get_device_properties(0)
    names = tuple(our_backends("cuda"))
    return Target(
        tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count())),
        "cuda" if "cuda" in names else "",
        names,
        10 * properties.major + properties.minor,
        properties.shared_memory_per_block_optin,
        properties.multi_processor_count,
        busy_edge=2048,
    )


def emulator() -> Target:
    """The emulator on the CPU: it checks these checks where there is no GPU."""
    arch, shared, sms = registry.introspect.simt_profile("sm_90")
    return Target((torch.device("cpu"),), "simt", ("simt",), arch, shared, sms, busy_edge=8)


def find_target(name: str) -> Target:
    """``gpu`` or ``emulator``."""
    return emulator() if name == "emulator" else gpu()
