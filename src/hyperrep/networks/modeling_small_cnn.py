"""The small CNN of the poster as a Hugging Face image-classification model."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from .configuration_small_cnn import SmallCNNConfig
from .initialization import initialize_parameter


class SmallCNNPreTrainedModel(PreTrainedModel):
    config: SmallCNNConfig
    config_class = SmallCNNConfig
    base_model_prefix = "small_cnn"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                initialize_parameter(parameter, self.config.initializer)


class SmallCNNForImageClassification(SmallCNNPreTrainedModel):
    """Convolution, max-pool, activation, three times; then two fully connected layers (`method` of the poster, Zoo
    Generation Details). Parameters in forward order, each weight before its bias: this order is the weight vector."""

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
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **kwargs
    ) -> ImageClassifierOutputWithNoAttention | tuple:
        r"""
        Args:
            pixel_values (`Tensor`): (batch, num_channels, image_size, image_size), preprocessed images.
            labels (`Tensor`, *optional*): (batch,), class indices; with them the mean cross-entropy is returned.
        """
        hidden_states = pixel_values
        for conv, pool_size in zip(self.convs, self.config.pool_sizes, strict=True):
            hidden_states = conv(hidden_states)
            if pool_size > 1:
                hidden_states = nn.functional.max_pool2d(hidden_states, pool_size)
            hidden_states = self.activation(hidden_states)
        hidden_states = hidden_states.flatten(1)
        for linear in self.linears[:-1]:
            hidden_states = self.activation(linear(hidden_states))
        logits = self.linears[-1](hidden_states)  # (batch, num_labels)

        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


__all__ = ["SmallCNNForImageClassification", "SmallCNNPreTrainedModel"]
