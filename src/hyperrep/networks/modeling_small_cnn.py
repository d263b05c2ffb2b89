"""The small CNN of the poster as a Hugging Face image-classification model."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from ..errors import UserError
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

    # so that the Trainer tells of num_items_in_batch without **kwargs, which would hide misspellings
    accepts_loss_kwargs = True

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
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        dropout_factors: Tensor | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple:
        r"""
        Args:
            pixel_values (`Tensor`): (batch, num_channels, image_size, image_size), preprocessed images.
            labels (`Tensor`, *optional*): with them a loss is returned, which one says `config.problem_type`, as in
                transformers' own classifiers: `single_label_classification` (cross-entropy with class indices
                (batch,)), `multi_label_classification` (binary cross-entropy with (batch, num_labels) of 0 and 1) or
                `regression` (squared error). Where it says nothing, the labels' shape and type decide: whole numbers
                (batch,) are classes, (batch, num_labels) several of them; with one output it is a regression.
            num_items_in_batch (`Tensor` or `int`, *optional*): numbers in the labels of all the batches whose
                gradients are summed up for one step; the loss is then their part of the mean over that number instead
                of this batch's mean. [`~transformers.Trainer`] passes it.
            output_hidden_states (`bool`, *optional*): return the image, every map and every hidden layer.
            return_dict (`bool`, *optional*): `False` returns a tuple.
            dropout_factors (`Tensor`, *optional*): (batch, hidden units), what every hidden activation is multiplied
                by, in forward order: for engines that draw dropout from seeds.

        Raises:
            UserError: if the labels do not have the shape of the outputs where the loss compares them one by one.
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
        hidden_layers = [maps[-1].flatten(1)]
        for linear in self.linears[:-1]:
            hidden_layers.append(self._drop(self.activation(linear(hidden_layers[-1])), factors))
        logits = self.linears[-1](hidden_layers[-1])  # (batch, num_labels)

        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = ImageClassifierOutputWithNoAttention(
            loss=self._loss(logits, labels, num_items_in_batch) if labels is not None else None,
            logits=logits,
            hidden_states=(*maps, *hidden_layers[1:]) if wanted else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        kind = self.config.problem_type
        single = kind == "single_label_classification"
        if not labels.is_floating_point():  # any type of whole number is as good as another
            single = single or (not kind and logits.shape[1] > 1 and labels.ndim < 2)
            labels = labels.long() if single else labels.to(logits.dtype)
        if labels.is_floating_point() and (single or labels.numel() != logits.numel()):
            raise UserError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}: class indices are whole numbers (batch,), "
                f"anything else needs one number for each of the outputs {tuple(logits.shape)}."
            )
        if labels.is_floating_point():
            loss = self.loss_function(labels, logits, self.config)
            # transformers' means do not know of batches that are summed up
            return loss if num_items_in_batch is None else loss * labels.numel() / num_items_in_batch
        return self.loss_function(labels, logits, self.config, num_items_in_batch=num_items_in_batch)

    def _drop(self, hidden_states: Tensor, factors: Iterator[Tensor]) -> Tensor:
        factor = next(factors, None)
        if factor is not None:
            return hidden_states * factor.reshape(hidden_states.shape)
        return nn.functional.dropout(hidden_states, self.config.dropout, self.training)


__all__ = ["SmallCNNForImageClassification", "SmallCNNPreTrainedModel"]
