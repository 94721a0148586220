"""Small models with random weights for tests: five of transformers', shrunk by their configurations, a U-Net, a DCGAN.

All activations are smooth. At the kink of a ReLU, rounding would choose between two gradients, and errors could not be
told from noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Ronneberger et al. 2015, with dilated convolutions at the bottom; any image size, thanks to `output_size`."""

    def __init__(self, channels: int = 3, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.down1 = self._block(channels, width)
        self.down2 = self._block(width, 2 * width)
        self.bottom = self._block(2 * width, 4 * width, dilation=2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge2 = self._block(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge1 = self._block(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.pool = nn.AvgPool2d(2)

    @staticmethod
    def _block(channels: int, width: int, dilation: int = 1) -> nn.Sequential:
        layers: list[nn.Module] = []
        for c in (channels, width):
            conv = nn.Conv2d(c, width, 3, padding=dilation, dilation=dilation, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.SiLU()]
        return nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down1(image)
        coarse = self.down2(self.pool(fine))
        x = self.bottom(self.pool(coarse))
        x = self.merge2(torch.cat([coarse, self.up2(x, output_size=coarse.shape)], 1))
        x = self.merge1(torch.cat([fine, self.up1(x, output_size=fine.shape)], 1))
        return self.head(x)


class DCGAN(nn.Module):
    """Radford et al. 2016: the generator's transposed convolutions, judged by the discriminator's strided ones."""

    def __init__(self, latent: int = 16, width: int = 8) -> None:
        super().__init__()
        sizes = [latent, 4 * width, 2 * width, width, 3]
        self.generator = nn.Sequential()
        for stage, (c, k) in enumerate(pairwise(sizes)):
            stride, padding = (1, 0) if stage == 0 else (2, 1)
            self.generator.append(nn.ConvTranspose2d(c, k, 4, stride, padding, bias=False))
            self.generator.extend([nn.Tanh()] if k == 3 else [nn.BatchNorm2d(k), nn.SiLU()])
        self.discriminator = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1, bias=False),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 1, 8, bias=False),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.discriminator(self.generator(noise))


def mobilenet_v2() -> nn.Module:
    """With an output stride of 8: depthwise convolutions, the later ones dilated by 2 and 4."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(
        depth_multiplier=0.25,
        expand_ratio=2.0,
        output_stride=8,
        finegrained_output=False,
        hidden_act="silu",
        classifier_dropout_prob=0.0,
        num_labels=8,
    )
    return MobileNetV2ForImageClassification(config)


def convnext() -> nn.Module:
    """Depthwise 7x7 convolutions; a layer scale of 1 lets their gradients through."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_stages=3,
        hidden_sizes=[8, 12, 16],
        depths=[1, 2, 1],
        layer_scale_init_value=1.0,
        initializer_range=0.2,
        num_labels=8,
    )
    return ConvNextForImageClassification(config)


def regnet() -> nn.Module:
    """Grouped 3x3 convolutions and squeeze-and-excitation."""
    from transformers import RegNetConfig, RegNetForImageClassification

    config = RegNetConfig(
        embedding_size=8, hidden_sizes=[32, 48], depths=[1, 2], groups_width=8, hidden_act="silu", num_labels=8
    )
    return RegNetForImageClassification(config)


def efficientnet() -> nn.Module:
    """Depthwise convolutions as a subclass of torch.nn.Conv2d, with string padding."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=0.5,
        depth_coefficient=0.5,
        kernel_sizes=[3, 5, 3],
        in_channels=[32, 16, 24],
        out_channels=[16, 24, 32],
        strides=[1, 2, 2],
        num_block_repeats=[1, 2, 2],
        expand_ratios=[1, 4, 4],
        hidden_dim=640,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
        initializer_range=0.2,
        num_labels=8,
    )
    return EfficientNetForImageClassification(config)


def resnet() -> nn.Module:
    """Basic blocks, all dense, as in ResNet-18."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", hidden_act="silu", num_labels=8
    )
    return ResNetForImageClassification(config)


def resnet_atrous() -> nn.Module:
    """The last stage dilated instead of strided, as DeepLab uses a ResNet."""
    model = resnet()
    for conv in model.resnet.encoder.stages[-1].modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (2, 2)
    return model


@dataclass(frozen=True, eq=False)
class Model:
    """A model to build, what it takes, and how many convolutions of each family it has."""

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    families: dict[str, int]


MODELS = (
    Model("mobilenet_v2", mobilenet_v2, (2, 3, 32, 32), {"depthwise": 17, "dense": 35}),
    Model("convnext", convnext, (2, 3, 32, 32), {"depthwise": 4, "dense": 3}),
    Model("regnet", regnet, (2, 3, 32, 32), {"grouped": 3, "dense": 15}),
    Model("efficientnet", efficientnet, (2, 3, 32, 32), {"depthwise": 3, "dense": 13}),
    Model("resnet", resnet, (2, 3, 32, 32), {"dense": 8}),
    Model("resnet_atrous", resnet_atrous, (2, 3, 32, 32), {"dilated": 4, "dense": 4}),
    Model("unet", UNet, (2, 3, 30, 22), {"dilated": 2, "transposed": 2, "dense": 9}),
    Model("dcgan", DCGAN, (4, 16, 1, 1), {"transposed": 4, "dense": 3}),
)
