"""Which ops ran: to tell whether a native kernel or torch served a call."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Dispatched(TorchDispatchMode):
    """Collects the names of the convolution ops that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        if name.startswith("convbound::") or "conv" in name:
            self.names.append(name)
        return func(*args, **(kwargs or {}))

    @property
    def native(self) -> list[str]:
        """The native ones among them, as ``cpu_fprop``."""
        return [name.removeprefix("convbound::") for name in self.names if name.startswith("convbound::")]
