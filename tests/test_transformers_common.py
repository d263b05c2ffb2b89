"""transformers' own tests of a model, its configuration and an image processor, run over our three classes."""

import unittest

import pytest
import torch
from tiny_zoo import tiny_layout
from transformers_source import common_tests

from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, SmallCNNImageProcessor
from hyperrep.representation import HyperRepConfig, HyperRepModel, HyperRepOutput


ModelTesterMixin = common_tests("test_modeling_common").ModelTesterMixin
ConfigTester = common_tests("test_configuration_common").ConfigTester
image_processing = common_tests("test_image_processing_common")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class HyperRepTester:
    batch_size = 4
    is_training = True
    num_views = 2  # so that every parameter has a gradient

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent
        self.hidden_size, self.num_attention_heads, self.num_hidden_layers = 16, 2, 2

    def get_config(self) -> HyperRepConfig:
        return HyperRepConfig(
            layout=tiny_layout().to_list(),
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=24,
            num_hidden_layers=self.num_hidden_layers,
            latent_size=8,
            projection_hidden_size=12,
            projection_num_layers=2,
            projection_size=6,
        )

    def prepare_config_and_inputs_for_common(self):
        weights = torch.randn(self.batch_size, tiny_layout().num_params)
        return self.get_config(), {"weights": weights, "num_views": self.num_views}


class SmallCNNTester:
    batch_size = 4
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self) -> SmallCNNConfig:
        return SmallCNNConfig(initializer="kaiming_uniform")

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.randn(self.batch_size, 1, 28, 28)}


class HyperRepModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (HyperRepModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = HyperRepTester(self)

    def record(self, **asked) -> HyperRepOutput:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return HyperRepModel._from_config(config, attn_implementation="eager")(**inputs, **asked)

    # theirs are for one stack of blocks, or for a decoder that attends to the encoder
    def test_attention_outputs(self):
        output = self.record(output_attentions=True)
        tokens = self.model_tester.get_config().num_tokens
        assert [a.shape[-2:] for a in output.encoder_attentions] == [(tokens + 1, tokens + 1), (1, tokens + 1)]
        assert [a.shape[-2:] for a in output.decoder_attentions] == [(tokens, tokens)] * 2

    def test_hidden_states_output(self):
        output = self.record(output_hidden_states=True)
        tokens = self.model_tester.get_config().num_tokens
        assert [h.shape[1] for h in output.encoder_hidden_states] == [tokens + 1, tokens + 1, 1]
        assert [h.shape[1] for h in output.decoder_hidden_states] == [tokens] * 3

    def test_retain_grad_hidden_states_attentions(self):
        output = self.record(output_hidden_states=True, output_attentions=True)
        kept = [output.encoder_hidden_states[0], output.decoder_hidden_states[0]]
        kept += [output.encoder_attentions[0], output.decoder_attentions[0]]
        for tensor in kept:
            tensor.retain_grad()
        output.loss.backward()
        assert all(tensor.grad is not None for tensor in kept)

    def test_batching_equivalence(self):
        self.model_tester.num_views = 1  # it takes single rows
        super().test_batching_equivalence()

    def test_model_get_set_embeddings(self):
        self.skipTest("weights are embedded by linear maps, not looked up by token")

    def test_config(self):
        ConfigTester(self, config_class=HyperRepConfig, has_text_modality=False).run_common_tests()


class SmallCNNModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SmallCNNForImageClassification,)
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        self.model_tester = SmallCNNTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        # theirs knows by name which of transformers' own models take labels
        labels = {"labels": torch.zeros(self.model_tester.batch_size, dtype=torch.long)} if return_labels else {}
        return super()._prepare_for_class(inputs_dict, model_class) | labels

    def test_hidden_states_output(self):
        self.skipTest("no blocks of one width, whose states could be returned")

    def test_retain_grad_hidden_states_attentions(self):
        self.skipTest("no blocks of one width, whose states could be returned")

    def test_model_get_set_embeddings(self):
        self.skipTest("nothing is embedded")

    def test_config(self):
        tester = ConfigTester(self, config_class=SmallCNNConfig, has_text_modality=False, common_properties=[])
        tester.run_common_tests()


class SmallCNNImageProcessorTester(image_processing.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 20, "width": 20})
        kwargs.setdefault("image_mean", [0.5, 0.5, 0.5])
        kwargs.setdefault("image_std", [0.5, 0.5, 0.5])
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return {"torchvision": SmallCNNImageProcessor}


class SmallCNNImageProcessorTest(image_processing.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = SmallCNNImageProcessorTester
