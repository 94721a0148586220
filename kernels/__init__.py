"""Triton kernels, one file per family and pass; ``table`` lists them, ``limits`` says what they cannot do."""

if __name__ != "convbound.kernels":
    raise ImportError(f"import convbound.kernels, not {__name__}: a second copy would compile every kernel twice")
