"""The benchmark suite: convbound's kernels against PyTorch's on the layers of real models.

Run it with ``python -m convbound.bench``. ``tables`` reads the layers, ``plan`` chooses among them, ``cases`` turns
them into tensors and calls, ``check`` compares results with fp64, ``timer`` times, ``measure`` does both for one case,
``roofs`` and ``machine`` measure and name the machine, ``devices`` and ``cuda`` hold what differs between a CPU and a
GPU, ``runner`` puts these together, ``rows`` keeps what was measured, ``summary``, ``report`` and ``plot`` show it.
"""
