"""transformers' own tests of a model, its configuration and an image processor, run over our three classes."""

import unittest

import pytest
import torch
from tiny_zoo import tiny_layout
from transformers_source import common_tests

from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, SmallCNNImageProcessor
from hyperrep.representation import HyperRepConfig, HyperRepModel


ModelTesterMixin = common_tests("test_modeling_common").ModelTesterMixin
ConfigTester = common_tests("test_configuration_common").ConfigTester
image_processing = common_tests("test_image_processing_common")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class HyperRepTester:
    batch_size = 4
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent
        self.hidden_size, self.num_attention_heads, self.num_hidden_layers = 16, 2, 2
        tokens = sum(shape[0] for name, shape in tiny_layout().to_list() if name.endswith("weight"))
        self.encoder_seq_length, self.seq_length, self.key_length = tokens + 1, tokens + 1, tokens + 1

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
        return self.get_config(), {"weights": weights}


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
    is_encoder_decoder = False

    def setUp(self):
        self.model_tester = HyperRepTester(self)

    def test_config(self):
        ConfigTester(self, config_class=HyperRepConfig, has_text_modality=False).run_common_tests()


class SmallCNNModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SmallCNNForImageClassification,)
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        self.model_tester = SmallCNNTester(self)

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
