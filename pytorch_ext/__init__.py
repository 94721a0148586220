"""convbound: depthwise, grouped, dilated and transposed convolutions for PyTorch, and what binds them.

``convbound.conv2d`` and its five relatives take the arguments of their namesakes in :mod:`torch.nn.functional`;
:func:`convbound.replace_convs` puts them into a model; ``python -m convbound.bench`` times them.
"""

from convbound import nn
from convbound._version import __version__
from convbound.choice.backends import backends
from convbound.explanation import explain
from convbound.functional import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from convbound.problem import ConvProblem
from convbound.profile import profile
from convbound.replace import replace_convs, restore_convs
from convbound.tracing import trace

__all__ = [
    "ConvProblem",
    "__version__",
    "backends",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "explain",
    "nn",
    "profile",
    "replace_convs",
    "restore_convs",
    "trace",
]
