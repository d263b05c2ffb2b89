"""The small CNN of the poster as a Hugging Face image-classification model."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from .configuration_small_cnn import SmallCNNConfig
from .initialization import initialize_parameter, initializer_of
from .skips import skips_of


class SmallCNNPreTrainedModel(PreTrainedModel):
    config: SmallCNNConfig
    config_class = SmallCNNConfig
    base_model_prefix = "small_cnn"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Conv2d | nn.Linear):
            name = next(name for name, other in self.named_modules() if other is module)
            for parameter in module.parameters():
                initialize_parameter(parameter, initializer_of(name, self.config.initializer))


class SmallCNNForImageClassification(SmallCNNPreTrainedModel):
    """Convolution, max-pool, activation, three times; then two fully connected layers (`method` of the poster, Zoo
    Generation Details). Parameters in forward order, each weight before its bias: this order is the weight vector.
    Those of skips come last, so that the vector of the network without them is its beginning."""

    def __init__(self, config: SmallCNNConfig):
        super().__init__(config)
        channels = [config.num_channels, *config.conv_channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernel_size)
            for i, kernel_size in enumerate(config.conv_kernel_sizes)
        )
        widths = config.linear_sizes
        self.linears = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(len(widths) - 1))
        self.activation = ACT2FN[config.hidden_act]
        # by the number of the skip, since identity skips have no parameters
        self.skips = nn.ModuleDict(
            {
                str(i): nn.Conv2d(channels[skip.source], channels[skip.target], 1)
                for i, skip in enumerate(skips_of(config))
                if skip.kind == "conv"
            }
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        dropout_factors: Tensor | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention | tuple:
        r"""
        Args:
            pixel_values (`Tensor`): (batch, num_channels, image_size, image_size), preprocessed images.
            labels (`Tensor`, *optional*): (batch,), class indices; with them the mean cross-entropy is returned.
            dropout_factors (`Tensor`, *optional*): (batch, hidden units), what every hidden activation is multiplied
                by, in forward order: for engines that draw dropout from seeds.
        """
        factors = iter(dropout_factors.split(self.config.hidden_units, dim=1) if dropout_factors is not None else ())
        maps = [pixel_values]
        for conv, pool_size in zip(self.convs, self.config.pool_sizes, strict=True):
            hidden_states = conv(maps[-1])
            if pool_size > 1:
                hidden_states = nn.functional.max_pool2d(hidden_states, pool_size)
            hidden_states = self._drop(self.activation(hidden_states), factors)
            for i, skip in enumerate(skips_of(self.config)):
                if skip.target == len(maps):
                    shortcut = skip.subsample(maps[skip.source])
                    hidden_states = hidden_states + (self.skips[str(i)](shortcut) if skip.kind == "conv" else shortcut)
            maps.append(hidden_states)
        hidden_states = maps[-1].flatten(1)
        for linear in self.linears[:-1]:
            hidden_states = self._drop(self.activation(linear(hidden_states)), factors)
        logits = self.linears[-1](hidden_states)  # (batch, num_labels)

        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    def _drop(self, hidden_states: Tensor, factors: Iterator[Tensor]) -> Tensor:
        factor = next(factors, None)
        if factor is not None:
            return hidden_states * factor.reshape(hidden_states.shape)
        return nn.functional.dropout(hidden_states, self.config.dropout, self.training)


__all__ = ["SmallCNNForImageClassification", "SmallCNNPreTrainedModel"]
