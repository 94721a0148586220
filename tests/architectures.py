"""The models of bench/layers, as modules to run on shapes alone: transformers' where it has them, else short ones.

The short ones have the layers that a table lists, in the sizes at which the model runs them, and stand-ins for others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convbound.convolutions import Convolution, record, unchanged
from convbound.problem import ConvProblem


def pw(c: int, k: int) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(c, k, 1)


def dw(c: int, r: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A depthwise convolution that keeps the size, but for its stride."""
    return nn.Conv2d(c, c, r, stride, dilation * (r // 2), dilation, groups=c)


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers in a row, by name; a double underscore stands for a dot."""
    found = nn.Sequential()
    for name, layer in layers.items():
        found.add_module(name, layer)
    return found


def of_transformers(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of transformers with these options."""

    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return build


class Bottlenecks(nn.Sequential):
    """The grouped layers of ResNeXt-50 (32x4d) behind its stem; the first block of a stage carries the stride."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 128, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
        width = 128
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                if stage and not block:
                    layers.append(pw(width, 2 * width))
                    width *= 2
                layers.append(nn.Conv2d(width, width, 3, 2 if stage and not block else 1, 1, groups=32))
        super().__init__(*layers)


class Branches(nn.ModuleDict):
    """Layers that all read the same input."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.values()]


def aspp() -> nn.Module:
    """DeepLabV3's pyramid on the 33 x 33 map that ResNet-50 makes of 513 x 513 at output stride 16."""
    return Branches({f"rate{rate}": nn.Conv2d(2048, 256, 3, padding=rate, dilation=rate) for rate in (6, 12, 18)})


class DeepLabV3Plus(nn.Module):
    """The separable layers behind Xception-65 at 513 x 513 and output stride 16: pyramid at 33 x 33, decoder at 129."""

    def __init__(self) -> None:
        super().__init__()
        self.aspp = Branches({f"rate{rate}": dw(2048, dilation=rate) for rate in (6, 12, 18)})
        self.project = pw(2048, 304)
        self.decoder = named(conv0=dw(304), mix=pw(304, 256), conv1=dw(256))

    def forward(self, x: Tensor) -> Tensor:
        self.aspp(x)
        # 256 channels of the pyramid and 48 of the low-level features.
        return self.decoder(nn.functional.interpolate(self.project(x), (129, 129)))


def dcgan() -> nn.Module:
    """DCGAN's generator."""
    widths = (100, 512, 256, 128, 64, 3)
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(nn.ConvTranspose2d(c, k, 4, 2 if i else 1, 1 if i else 0) for i, (c, k) in enumerate(pairs)))


def alexnet() -> nn.Module:
    """AlexNet's convolutions; two groups, once for two GPUs."""
    return named(
        conv1=nn.Conv2d(3, 96, 11, 4),
        pool1=nn.MaxPool2d(3, 2),
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
        pool2=nn.MaxPool2d(3, 2),
        conv3=nn.Conv2d(256, 384, 3, padding=1),
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
    )


class Fcn(nn.Module):
    """The upsampling of FCN-32s and FCN-8s; one layer and pooling stand for VGG-16, whose first layer pads by 100."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 21, 3, padding=100)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.fc6 = nn.Conv2d(21, 21, 7)
        self.fcn32s_upscore = nn.ConvTranspose2d(21, 21, 64, 32, bias=False)
        self.fcn8s_upscore2 = nn.ConvTranspose2d(21, 21, 4, 2, bias=False)
        self.fcn8s_upscore_pool4 = nn.ConvTranspose2d(21, 21, 4, 2, bias=False)
        self.fcn8s_upscore8 = nn.ConvTranspose2d(21, 21, 16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        for _ in range(5):
            x = self.pool(x)
        score = self.fc6(x)
        self.fcn32s_upscore(score)
        return self.fcn8s_upscore8(self.fcn8s_upscore_pool4(self.fcn8s_upscore2(score)))


class UNet(nn.Module):
    """U-Net of 2015: unpadded convolutions, so skip connections are cropped."""

    def __init__(self) -> None:
        super().__init__()

        def block(c: int, k: int) -> nn.Module:
            return named(conv1=nn.Conv2d(c, k, 3), conv2=nn.Conv2d(k, k, 3))

        widths = (64, 128, 256, 512, 1024)
        self.down = nn.ModuleList(block(c, k) for c, k in itertools.pairwise((1, *widths)))
        self.upconv = nn.ModuleList(nn.ConvTranspose2d(k, k // 2, 2, 2) for k in reversed(widths[1:]))
        self.up = nn.ModuleList(block(k, k // 2) for k in reversed(widths[1:]))
        self.head = pw(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, down in enumerate(self.down):
            x = down(nn.functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for skip, upconv, up in zip(reversed(skips[:-1]), self.upconv, self.up, strict=True):
            x = upconv(x)
            border = (skip.shape[-1] - x.shape[-1]) // 2
            size = x.shape[-1]
            skip = skip.narrow(2, border, size).narrow(3, border, size)
            x = up(torch.cat([skip, x], 1))
        return self.head(x)


def xception() -> nn.Module:
    """Xception's depthwise layers; 'same' pooling of 3 and stride 2 rounds the size up."""
    found, width = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.Conv2d(32, 64, 3)), 64
    # The results of the separable layers of each block, of which the last ones may be pooled.
    blocks = [(128, 128), (256, 256), (728, 728), *[(728, 728, 728)] * 8, (728, 1024), (1536, 2048)]
    for block, results in enumerate(blocks, start=2):
        for i, k in enumerate(results, start=1):
            found.add_module(f"block{block}_sepconv{i}", dw(width))
            found.append(pw(width, k))
            width = k
        if block in (2, 3, 4, 13):
            found.append(nn.MaxPool2d(3, 2, 1))
    return found


def mobilenet_v3_large() -> nn.Module:
    """MobileNetV3-Large's depthwise layers: filter, channels of the depthwise layer, stride."""
    blocks = [(3, 16, 1), (3, 64, 2), (3, 72, 1), (5, 72, 2), (5, 120, 1), (5, 120, 1), (3, 240, 2), (3, 200, 1)]
    blocks += [(3, 184, 1), (3, 184, 1), (3, 480, 1), (3, 672, 1), (5, 672, 2), (5, 960, 1), (5, 960, 1)]
    found, width = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1)), 16
    for i, (r, c, stride) in enumerate(blocks, start=1):
        found.append(pw(width, c))
        found.add_module(f"block{i}_dw", dw(c, r, stride))
        width = c
    return found


def mobilenet_v4_conv_medium() -> nn.Module:
    """The universal inverted bottlenecks of MobileNetV4-Conv-M: first and middle filter, stride, width, expansion."""
    blocks = [(3, 5, 2, 80, 4), (3, 3, 1, 80, 2), (3, 5, 2, 160, 6), (3, 3, 1, 160, 4), (3, 3, 1, 160, 4)]
    blocks += [(3, 5, 1, 160, 4), (3, 3, 1, 160, 4), (3, 0, 1, 160, 4), (0, 0, 1, 160, 2), (3, 0, 1, 160, 4)]
    blocks += [(5, 5, 2, 256, 6), (5, 5, 1, 256, 4), (3, 5, 1, 256, 4), (3, 5, 1, 256, 4), (0, 0, 1, 256, 4)]
    blocks += [(3, 0, 1, 256, 4), (3, 5, 1, 256, 2), (5, 5, 1, 256, 4), (0, 0, 1, 256, 4), (0, 0, 1, 256, 4)]
    blocks += [(5, 0, 1, 256, 2)]
    found, width = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 48, 3, 2, 1)), 48
    for i, (first, middle, stride, k, expansion) in enumerate(blocks, start=1):
        if first:
            found.add_module(f"uib{i}_start", dw(width, first))
        found.append(pw(width, width * expansion))
        if middle:
            found.add_module(f"uib{i}_middle", dw(width * expansion, middle, stride))
        found.append(pw(width * expansion, k))
        width = k
    return found


class ShuffleV1Block(nn.Module):
    """ShuffleNetV1's unit of 3 groups; a strided one leaves room for its input beside the result."""

    def __init__(self, c: int, k: int, stride: int, first: bool) -> None:
        super().__init__()
        self.pw1 = nn.Conv2d(c, k // 4, 1, groups=1 if first else 3)
        self.dw = dw(k // 4, stride=stride)
        self.pw2 = nn.Conv2d(k // 4, k - c if stride == 2 else k, 1, groups=3)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.pw2(self.dw(self.pw1(x)))
        return torch.cat([nn.functional.avg_pool2d(x, 3, 2, 1), y], 1) if self.stride == 2 else x + y


class ShuffleV2Block(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, or both halves are computed with a stride."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.main = named(pw1=pw(c if stride == 2 else c // 2, k // 2), dw=dw(k // 2, stride=stride))
        self.proj = named(dw=dw(c, stride=2), pw=pw(c, k // 2)) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.proj is not None:
            return torch.cat([self.proj(x), self.main(x)], 1)
        passed, rest = x.chunk(2, 1)
        return torch.cat([passed, self.main(rest)], 1)


def shufflenet(version: int) -> nn.Module:
    """ShuffleNetV1 1x of 3 groups, or ShuffleNetV2 1x."""
    found, c = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.MaxPool2d(3, 2, 1)), 24
    widths = (240, 480, 960) if version == 1 else (116, 232, 464)
    for stage, (k, blocks) in enumerate(zip(widths, (4, 8, 4), strict=True), start=2):
        for i in range(blocks):
            stride = 1 if i else 2
            first = stage == 2 and not i
            block = ShuffleV1Block(c, k, stride, first) if version == 1 else ShuffleV2Block(c, k, stride)
            found.add_module(f"stage{stage}_{i}", block)
            c = k
    return found


def replknet_31b() -> nn.Module:
    """RepLKNet-31B's depthwise layers, its small filters merged into the large ones as for inference."""
    found = named(stem0=nn.Conv2d(3, 128, 3, 2, 1), stem1=dw(128), stem3=dw(128, stride=2))
    stages = zip((31, 29, 27, 13), (2, 2, 18, 2), (128, 256, 512, 1024), strict=True)
    for i, (r, blocks, c) in enumerate(stages):
        if i:
            found.append(pw(c // 2, c))
            found.add_module(f"transition{i - 1}", dw(c, stride=2))
        for block in range(blocks):
            found.add_module(f"stage{i}_{block}", dw(c, r))
    return found


def unireplknet_t() -> nn.Module:
    """UniRepLKNet-T's depthwise layers, dilated branches merged into the large filters as for inference."""
    found = named(stem=nn.Conv2d(3, 80, 7, 4, 3))
    filters = ((3,) * 3, (13,) * 3, (13, 3) * 9, (13,) * 3)
    for i, (stage, c) in enumerate(zip(filters, (80, 160, 320, 640), strict=True)):
        if i:
            found.append(nn.Conv2d(c // 2, c, 3, 2, 1))
        for block, r in enumerate(stage):
            found.add_module(f"stage{i}_{block}", dw(c, r))
    return found


class Causal(nn.Conv3d):
    """A causal convolution of Wan's VAE on a later chunk: the frames before it come from a cache, not from padding."""

    def __init__(self, c: int, k: int, r: int = 3, stride: int = 1) -> None:
        super().__init__(c, k, (3, r, r), (stride, 1, 1), (0, r // 2, r // 2))
        self.cached = 3 - stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x.new_empty(*x.shape[:2], self.cached, *x.shape[3:]), x], 2))


def wan_vae_encoder() -> nn.Module:
    """The layers with a filter in time of Wan 2.1's VAE encoder, on a chunk of four frames."""
    found, c = named(conv1=Causal(3, 96)), 96
    for i, k in enumerate((96, 192, 384, 384)):
        for block in range(2):
            found.add_module(f"down{i}_{block}_conv1", Causal(c, k))
            found.add_module(f"down{i}_{block}_conv2", Causal(k, k))
            c = k
        if i < 3:
            found.append(nn.MaxPool3d((1, 2, 2)))  # for a strided 2-D convolution
        if i in (1, 2):
            found.add_module(f"down{i}_time_conv", Causal(k, k, 1, stride=2))
    for block in range(2):
        found.add_module(f"middle{block}_conv1", Causal(384, 384))
        found.add_module(f"middle{block}_conv2", Causal(384, 384))
    found.add_module("head", Causal(384, 32))
    return found


class NnUNet(nn.Module):
    """nnU-Net's plain 3-D U-Net of six stages, as its plans have it for patches of 128 x 128 x 128."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256, 320, 320)

        def block(c: int, k: int, stride: int) -> nn.Module:
            return named(conv1=nn.Conv3d(c, k, 3, stride, 1), conv2=nn.Conv3d(k, k, 3, 1, 1))

        pairs = list(itertools.pairwise((1, *widths)))
        self.encoder = nn.ModuleList(block(c, k, 2 if i else 1) for i, (c, k) in enumerate(pairs))
        back = list(itertools.pairwise(reversed(widths)))
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(c, k, 2, 2) for c, k in back)
        self.decoder = nn.ModuleList(block(2 * k, k, 1) for _, k in back)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for skip, up, stage in zip(reversed(skips[:-1]), self.transpconvs, self.decoder, strict=True):
            x = stage(torch.cat([up(x), skip], 1))
        return x


class Mamba(nn.Conv1d):
    """The convolution of a Mamba mixer; transformers' whole model scans its positions in Python, for minutes."""

    def __init__(self) -> None:
        super().__init__(5120, 5120, 4, padding=3, groups=5120)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : x.shape[-1]]


def mamba_2_8b() -> nn.Module:
    """The convolutions of the 64 layers of Mamba-2.8B, which is 2560 wide and expands by 2."""
    return nn.Sequential(*(Mamba() for _ in range(64)))


def dense_too(problem: ConvProblem, transposed: bool) -> bool:
    """Keeps every layer, for models whose dense layers are the point."""
    return True


def of_our_families(problem: ConvProblem, transposed: bool) -> bool:
    """Keeps depthwise, grouped, dilated and transposed layers."""
    return problem.groups > 1 or max(problem.dilation) > 1 or transposed


@dataclass(frozen=True)
class Architecture:
    """A model, the shape of one image or sequence, which layers its table has, and what it runs on shapes alone."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    keep: Callable[[ConvProblem, bool], bool] = of_our_families
    device: str = "meta"

    def convolutions(self) -> tuple[Convolution, ...]:
        """The convolutions of a forward pass that its table lists."""
        with torch.device(self.device):
            model, x = self.build(), torch.zeros(1, *self.shape)
        with unchanged(model):
            return tuple(one for one in record(model, (x,)) if self.keep(one.problem, one.transposed))


IMAGE = (3, 224, 224)
ARCHITECTURES = {
    "alexnet": Architecture(alexnet, (3, 227, 227)),
    "conformer": Architecture(
        of_transformers(
            "Wav2Vec2ConformerModel",
            "Wav2Vec2ConformerConfig",
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
        ),
        (160000,),
    ),
    "convnext_t": Architecture(of_transformers("ConvNextModel", "ConvNextConfig"), IMAGE),
    "dac_44khz": Architecture(of_transformers("DacModel", "DacConfig"), (1, 44032)),
    "dcgan": Architecture(dcgan, (100, 1, 1)),
    "deeplabv3_aspp": Architecture(aspp, (2048, 33, 33)),
    "deeplabv3plus": Architecture(DeepLabV3Plus, (2048, 33, 33)),
    "efficientnet_b0": Architecture(
        of_transformers(
            "EfficientNetModel",
            "EfficientNetConfig",
            image_size=224,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=1280,
        ),
        IMAGE,
    ),
    # It asks for values of a tensor, which has none on the device meta.
    "encodec_24khz": Architecture(of_transformers("EncodecModel", "EncodecConfig"), (1, 24000), device="cpu"),
    "fcn": Architecture(Fcn, (3, 500, 500)),
    "hifigan_v1": Architecture(
        of_transformers(
            "SpeechT5HifiGan",
            "SpeechT5HifiGanConfig",
            upsample_rates=[8, 8, 2, 2],
            upsample_kernel_sizes=[16, 16, 4, 4],
            upsample_initial_channel=512,
        ),
        (128, 80),
    ),
    "mamba_2_8b": Architecture(mamba_2_8b, (5120, 512)),
    "mobilenet_v1": Architecture(of_transformers("MobileNetV1Model", "MobileNetV1Config", tf_padding=False), IMAGE),
    "mobilenet_v2": Architecture(of_transformers("MobileNetV2Model", "MobileNetV2Config", tf_padding=False), IMAGE),
    "mobilenet_v3_large": Architecture(mobilenet_v3_large, IMAGE),
    "mobilenet_v4_conv_m": Architecture(mobilenet_v4_conv_medium, (3, 256, 256)),
    "nnunet_3d": Architecture(NnUNet, (1, 128, 128, 128), dense_too),
    "replknet_31b": Architecture(replknet_31b, IMAGE),
    "resnext50": Architecture(Bottlenecks, IMAGE),
    "shufflenet_v1": Architecture(partial(shufflenet, 1), IMAGE),
    "shufflenet_v2": Architecture(partial(shufflenet, 2), IMAGE),
    "unet": Architecture(UNet, (1, 572, 572), dense_too),
    "unireplknet_t": Architecture(unireplknet_t, IMAGE),
    "videomae_b": Architecture(of_transformers("VideoMAEModel", "VideoMAEConfig"), (16, *IMAGE), dense_too),
    "vit_b16": Architecture(of_transformers("ViTModel", "ViTConfig"), IMAGE, dense_too),
    "wan_vae": Architecture(wan_vae_encoder, (3, 4, 256, 256), dense_too),
    "xception": Architecture(xception, (3, 299, 299)),
}
