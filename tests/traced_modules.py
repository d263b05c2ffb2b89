"""Small ones of many architectures, for what shall hold of any: a module, and the shape of an input without batch."""

from collections.abc import Callable

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import make_layers
from transformers import ViTConfig, ViTForImageClassification

from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification


class Parallel(nn.Module):
    """Branches of different depth that are added, and others that are concatenated, as in Inception."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.short, self.long = nn.Conv2d(6, 8, 1), nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 8, 1))
        self.left, self.right = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 7, 1)
        self.head = nn.Linear(11 + 8, 3)

    def forward(self, x):
        x = self.stem(x).tanh()
        x = (self.short(x) + self.long(x)).relu()
        x = torch.cat([self.left(x), x, self.right(x)], dim=1)
        return self.head(x.mean(dim=(2, 3)))


class Tied(nn.Module):
    """An autoencoder's weight, used there and back, before a classifier."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(12, 7), nn.Linear(7, 12), nn.Linear(12, 4)
        self.second = nn.Linear(12, 7)
        self.second.weight = self.encoder.weight

    def forward(self, x):
        x = self.encoder(x).relu() @ self.encoder.weight + self.second(x).tanh().sum(dim=1, keepdim=True)
        return self.head(x.tanh())


class Residual20(nn.Module):
    """ResNet-20 of the CIFAR-10 experiments of He et al. (2016): shortcuts without weights, padded with zeros."""

    def __init__(self, width: int = 4):
        super().__init__()
        widths = [width] + [width] * 3 + [2 * width] * 3 + [4 * width] * 3
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(map(Block20, widths, widths[1:]))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class Block20(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.stride, self.more = after // before, after - before
        self.conv1 = nn.Conv2d(before, after, 3, stride=self.stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)

    def forward(self, x):
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return (self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + shortcut).relu()


class Bottlenecks(nn.Module):
    """Of ResNeXt, or of any normalisation."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, groups: int = 1):
        super().__init__()

        def block() -> nn.Module:
            inner = nn.Conv2d(8, 12, 1), norm(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=groups), norm(12)
            return nn.Sequential(*inner, nn.ReLU(), nn.Conv2d(12, 8, 1), norm(8))

        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3, 2), nn.ModuleList([block(), block()]), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean(dim=(2, 3)))


class Gated(nn.Module):
    """Gated linear units, squeeze and excitation, a learned scale: what is multiplied is tied."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.gate, self.head = nn.Linear(9, 16), nn.Linear(8, 9), nn.Linear(9, 9), nn.Linear(9, 3)
        self.scale = nn.Parameter(torch.ones(9))

    def forward(self, x):
        first, second = self.up(x).chunk(2, dim=1)
        x = x + self.scale * self.down(first * nn.functional.silu(second))
        x = self.down(nn.functional.glu(self.up(x)))
        return self.head(x * self.gate(x).sigmoid())


class Mixer(nn.Module):
    """MLP-Mixer's two products: over places and over channels."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 10, 4, stride=4), nn.LayerNorm(10)
        self.places, self.channels = nn.Linear(16, 16), nn.Linear(10, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.places(self.norm(x).transpose(1, 2)).relu().transpose(1, 2)
        return self.head(self.channels(x).relu().mean(dim=1))


def _vgg() -> nn.Module:
    features = make_layers([4, "M", 6, "M", 8, 8, "M", 10, 10, "M", 10, 10, "M"], batch_norm=True)
    net = models.VGG(features, num_classes=10)
    net.avgpool, net.classifier = (
        nn.AdaptiveAvgPool2d(2),
        nn.Sequential(nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 10)),
    )
    return net


_MOBILE = [
    InvertedResidualConfig(8, 3, 12, 8, True, "RE", 1, 1, 1),
    InvertedResidualConfig(8, 5, 16, 12, True, "HS", 2, 1, 1),
]
_IMAGE, _SMALL_IMAGE = (3, 32, 32), (3, 16, 16)
_VIT = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
_SKIPS = {"conv_channels": [4, 4, 4], "skips": [[0, 1, "conv"], [1, 2, "identity"]]}


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.Tanh(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3))


def _transposed() -> nn.Module:
    maps = nn.ConvTranspose2d(3, 6, 3), nn.PReLU(6), nn.ConvTranspose2d(6, 8, 2, groups=2), nn.LeakyReLU()
    return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def _convnext() -> nn.Module:
    return models.ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=10)


MODULES = {
    "MLP": lambda: (_mlp(), (3, 4, 4)),
    "poster's CNN": lambda: (SmallCNNForImageClassification(SmallCNNConfig()), (1, 28, 28)),
    "CNN with skips": lambda: (SmallCNNForImageClassification(SmallCNNConfig(**_SKIPS)), (1, 28, 28)),
    "ResNet-18": lambda: (ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10), _IMAGE),
    "ResNet-20": lambda: (Residual20(), _IMAGE),
    "ResNeXt": lambda: (Bottlenecks(groups=3), _SMALL_IMAGE),
    "VGG-11-BN": lambda: (_vgg(), _IMAGE),
    "MobileNetV3": lambda: (models.MobileNetV3(_MOBILE, last_channel=12, num_classes=10), _IMAGE),
    "ShuffleNet": lambda: (models.ShuffleNetV2([1, 2, 1], [8, 12, 24, 32, 48], num_classes=10), _IMAGE),
    "DenseNet": lambda: (models.DenseNet(4, (2, 2), 8, 2, num_classes=10), _IMAGE),
    "ConvNeXt": lambda: (_convnext(), _IMAGE),
    "ViT of transformers": lambda: (ViTForImageClassification(ViTConfig(**_VIT, intermediate_size=20)), _IMAGE),
    "ViT of torchvision": lambda: (models.VisionTransformer(32, 8, 2, 2, 16, 20, num_classes=10), _IMAGE),
    "Swin": lambda: (models.SwinTransformer([4, 4], 8, [1, 2], [2, 4], [4, 4], num_classes=10), _IMAGE),
    "GroupNorm": lambda: (Bottlenecks(lambda channels: nn.GroupNorm(4, channels)), _SMALL_IMAGE),
    "parallel branches": lambda: (Parallel(), (3, 8, 8)),
    "tied weights": lambda: (Tied(), (12,)),
    "gated": lambda: (Gated(), (9,)),
    "Mixer": lambda: (Mixer(), _SMALL_IMAGE),
    "transposed": lambda: (_transposed(), (3, 6, 6)),
}
