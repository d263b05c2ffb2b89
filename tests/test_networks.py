"""The networks of a zoo: their size, their initial weights, and their life as ordinary Hugging Face models."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, SmallCNNImageProcessor, initial_weights
from hyperrep.networks.initialization import INITIALIZERS
from hyperrep.weights import WeightLayout


def test_the_posters_network_has_the_published_number_of_parameters():
    assert SmallCNNForImageClassification(SmallCNNConfig()).num_parameters() == 2464
    assert SmallCNNForImageClassification(SmallCNNConfig(num_channels=3)).num_parameters() == 2864


def test_parameters_are_listed_in_forward_order_each_weight_before_its_bias():
    model = SmallCNNForImageClassification(SmallCNNConfig())
    modules = ["convs.0", "convs.1", "convs.2", "linears.0", "linears.1"]
    assert list(model.state_dict()) == [f"{name}.{kind}" for name in modules for kind in ("weight", "bias")]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_forward_pass_is_convolution_pool_activation(channels):
    model = SmallCNNForImageClassification(SmallCNNConfig(num_channels=channels, initializer="kaiming_uniform")).eval()
    reference = nn.Sequential(
        *(model.convs[0], nn.MaxPool2d(2), nn.Tanh()),
        *(model.convs[1], nn.MaxPool2d(2), nn.Tanh()),
        *(model.convs[2], nn.Tanh()),
        *(nn.Flatten(), model.linears[0], nn.Tanh(), model.linears[1]),
    )
    images = torch.randn(5, channels, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 9, 9, 1])
    output = model(images, labels=labels)
    torch.testing.assert_close(output.logits, reference(images))
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(reference(images), labels))


def test_conv_skips_are_those_of_the_2022_code():
    """ResCNN: a max-pool and a 1x1 convolution around each block, added after the activation."""
    skips = [[0, 1, "conv"], [1, 2, "conv"], [2, 3, "conv"]]
    model = SmallCNNForImageClassification(SmallCNNConfig(skips=skips, initializer="kaiming_uniform")).eval()
    assert model.num_parameters() == 2562  # 16 + 54 + 28 more
    main = [
        nn.Sequential(model.convs[0], nn.MaxPool2d(2), nn.Tanh()),
        nn.Sequential(model.convs[1], nn.MaxPool2d(2), nn.Tanh()),
        nn.Sequential(model.convs[2], nn.Tanh()),
    ]
    pools = [nn.MaxPool2d(5, 2), nn.MaxPool2d(5, 2), nn.MaxPool2d(2, 1)]
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    hidden = images
    for i in range(3):
        hidden = main[i](hidden) + model.skips[str(i)](pools[i](hidden))
    hidden = torch.tanh(model.linears[0](hidden.flatten(1)))
    torch.testing.assert_close(model(images).logits, model.linears[1](hidden))


def test_an_identity_skip_is_that_of_the_2022_code():
    """CNN_more_layers_residual: the second map, cropped by a pixel and every other position, joins the fourth."""
    config = SmallCNNConfig(
        conv_channels=[8, 4, 6, 4],
        conv_kernel_sizes=[5, 5, 4, 3],
        pool_sizes=[2, 1, 1, 1],
        hidden_sizes=[18],
        skips=[[2, 4, "identity"]],
        initializer="kaiming_uniform",
    )
    model = SmallCNNForImageClassification(config).eval()
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    second = torch.tanh(model.convs[1](torch.tanh(nn.functional.max_pool2d(model.convs[0](images), 2))))
    fourth = torch.tanh(model.convs[3](torch.tanh(model.convs[2](second))))
    joined = fourth + second[:, :, 1:-1, 1:-1][:, :, ::2, ::2]
    expected = model.linears[1](torch.tanh(model.linears[0](joined.flatten(1))))
    torch.testing.assert_close(model(images).logits, expected)


def test_the_weight_vector_of_a_network_with_skips_begins_with_that_of_the_network_without():
    plain, skipped = SmallCNNConfig(), SmallCNNConfig(skips=[[0, 1, "conv"]])
    weights = initial_weights(skipped, [3])
    assert torch.equal(weights[:, :2464], initial_weights(plain, [3]))
    kernel = weights[0, 2464:2472]
    assert kernel.min() < 0  # Kaiming, although the others start from U(0, 1)
    state = SmallCNNForImageClassification(skipped).state_dict()
    assert state["skips.0.weight"].min() < 0 < state["convs.0.weight"].min()


def test_dropout_acts_in_training_only_and_can_be_given():
    torch.manual_seed(0)
    model = SmallCNNForImageClassification(SmallCNNConfig(dropout=0.5, initializer="kaiming_uniform"))
    plain = SmallCNNForImageClassification(SmallCNNConfig()).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(3, 1, 28, 28)
    expected = plain(images).logits
    assert not torch.allclose(model.train()(images).logits, expected)
    torch.testing.assert_close(model.eval()(images).logits, expected)
    units = sum(model.config.hidden_units)
    assert units == 8 * 144 + 6 * 16 + 4 * 9 + 20
    torch.testing.assert_close(model(images, dropout_factors=torch.ones(3, units)).logits, expected)
    nothing = model(images, dropout_factors=torch.zeros(3, units)).logits
    torch.testing.assert_close(nothing, model.linears[-1].bias.expand(3, -1))


def test_without_convolutions_it_is_an_mlp():
    config = SmallCNNConfig(image_size=4, conv_channels=[], conv_kernel_sizes=[], pool_sizes=[], hidden_sizes=[7, 5])
    model = SmallCNNForImageClassification(config)
    assert [tuple(linear.weight.shape) for linear in model.linears] == [(7, 16), (5, 7), (10, 5)]
    assert model(torch.zeros(2, 1, 4, 4)).logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conv_channels": [8, 6]}, "one entry for each convolution"),
        ({"image_size": 10}, "10 pixels is too small"),
        ({"hidden_act": "swish"}, "'swish' is unknown; choose from tanh"),
        ({"initializer": "zeros"}, "'zeros' is unknown; choose from uniform"),
        ({"hidden_sizes": [0]}, "must be positive"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"skips": [[0, 4, "conv"]]}, r"skip \[0, 4, 'conv'\] is not \[from, to, kind\] with 0 <= from < to <= 3"),
        ({"skips": [[1, 1, "identity"]]}, "is not"),
        ({"skips": [[0, 1, "dense"]]}, "is not"),
        ({"skips": [[0, 2, "conv"]]}, "a conv skip goes around one block"),
        ({"skips": [[1, 2, "identity"]]}, "equally many channels, not 8 and 6"),
    ],
)
def test_an_impossible_architecture_is_refused(arguments, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        SmallCNNConfig(**arguments)


@pytest.mark.parametrize("channels", [1, 3])
def test_auto_classes_load_what_was_saved(channels, tmp_path):
    config = SmallCNNConfig(
        num_channels=channels,
        hidden_act="gelu",
        initializer="kaiming_normal",
        id2label={0: "cat", 1: "dog", 2: "owl"},
        label2id={"cat": 0, "dog": 1, "owl": 2},
    )
    model = SmallCNNForImageClassification(config).eval()
    processor = SmallCNNImageProcessor(
        num_channels=channels, fit="crop", image_mean=[0.2] * channels, image_std=[0.4] * channels
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is SmallCNNForImageClassification
    assert loaded.config.to_dict() == loaded.config.to_dict() | {"id2label": config.id2label, "hidden_act": "gelu"}
    for name, tensor in model.state_dict().items():  # the checkpoint's weights, not fresh random ones
        assert torch.equal(tensor, loaded.state_dict()[name]), name

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    loaded_processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = loaded_processor(image, return_tensors="pt")["pixel_values"]
    assert type(loaded_processor) is SmallCNNImageProcessor
    assert torch.equal(pixels, processor(image)["pixel_values"])
    # the loaded weights lie elsewhere in memory, and some processors' matrix products then round another way
    torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits)


# The loss, and the Trainer


def small_model(num_labels: int = 4, **config) -> SmallCNNForImageClassification:
    network = {"image_size": 6, "conv_channels": [3], "conv_kernel_sizes": [3], "pool_sizes": [2], "hidden_sizes": [5]}
    torch.manual_seed(0)
    config |= {"initializer": "kaiming_uniform", "num_labels": num_labels}
    return SmallCNNForImageClassification(SmallCNNConfig(**network, **config))


IMAGES = torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 3, 2, 2, 1, 0, 3])
SEVERAL = torch.randint(0, 2, (7, 4), generator=torch.Generator().manual_seed(1))
NUMBERS = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
F = nn.functional


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "by_hand"),
    [
        ("single_label_classification", 4, CLASSES, F.cross_entropy),
        ("single_label_classification", 4, CLASSES.int(), lambda x, y: F.cross_entropy(x, y.long())),
        ("single_label_classification", 4, CLASSES.byte(), lambda x, y: F.cross_entropy(x, y.long())),
        ("multi_label_classification", 4, SEVERAL.float(), F.binary_cross_entropy_with_logits),
        ("multi_label_classification", 4, SEVERAL, lambda x, y: F.binary_cross_entropy_with_logits(x, y.float())),
        (
            "multi_label_classification",
            4,
            SEVERAL.bool(),
            lambda x, y: F.binary_cross_entropy_with_logits(x, y.float()),
        ),
        ("regression", 1, NUMBERS[:, 0], lambda x, y: ((x[:, 0] - y) ** 2).mean()),
        ("regression", 1, NUMBERS[:, :1], lambda x, y: ((x - y) ** 2).mean()),
        ("regression", 1, CLASSES, lambda x, y: ((x[:, 0] - y) ** 2).mean()),
    ],
)
def test_the_loss_is_that_of_the_problem_type(problem_type, num_labels, labels, by_hand, told):
    """Told in the configuration, or found from the labels."""
    model = small_model(num_labels, **({"problem_type": problem_type} if told else {}))
    output = model(IMAGES, labels=labels)
    torch.testing.assert_close(output.loss, by_hand(output.logits, labels))
    assert model.config.problem_type == problem_type
    # the part of a mean over more numbers than this batch has
    part = model(IMAGES, labels=labels, num_items_in_batch=3 * labels.numel()).loss
    torch.testing.assert_close(part, output.loss / 3)


def test_a_regression_may_have_several_outputs():
    output = small_model(problem_type="regression")(IMAGES, labels=NUMBERS)
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits, NUMBERS))


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        (None, CLASSES.float()),
        ("single_label_classification", SEVERAL.float()),
        ("multi_label_classification", CLASSES),
        ("regression", NUMBERS[:, 0]),  # torch would spread them over the outputs
    ],
)
def test_labels_that_do_not_fit_the_loss_are_refused(problem_type, labels):
    with pytest.raises(UserError, match="labels are torch"):
        small_model(problem_type=problem_type)(IMAGES, labels=labels)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", CLASSES),
        ("multi_label_classification", SEVERAL.float()),
        ("regression", NUMBERS),
    ],
)
def test_the_trainer_takes_the_same_step_whatever_it_accumulates(problem_type, labels, tmp_path):
    """Seven images in one batch, in seven, and in four of which the last is smaller."""
    rows = Dataset.from_dict({"pixel_values": IMAGES.tolist(), "labels": labels.tolist()}).with_format("torch")
    steps = []
    for batch_size, accumulated in [(7, 1), (1, 7), (2, 4)]:
        model = small_model(problem_type=problem_type)
        before = WeightLayout.of(model).vectorize(model.state_dict()).clone()
        arguments = TrainingArguments(
            output_dir=tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=rows).train()
        steps.append(WeightLayout.of(model).vectorize(model.state_dict()) - before)
    assert steps[0].norm() > 1e-2
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0], rtol=1e-4, atol=1e-6)


def test_a_misspelt_argument_is_an_error():
    with pytest.raises(TypeError, match="label"):
        small_model()(IMAGES, label=CLASSES)


def test_outputs_come_as_a_tuple_and_with_hidden_states_where_they_are_asked_for():
    model = small_model()
    output = model(IMAGES, labels=CLASSES, output_hidden_states=True)
    assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(7, 1, 6, 6), (7, 3, 2, 2), (7, 5)]
    loss, logits = model(IMAGES, labels=CLASSES, return_dict=False)
    torch.testing.assert_close((loss, logits), (output.loss, output.logits))
    model.config.return_dict = False
    assert len(model(IMAGES)) == 1


def test_initial_weights_depend_on_the_seed_alone():
    config = SmallCNNConfig()
    torch.manual_seed(1)
    alone = initial_weights(config, [7])
    torch.manual_seed(2)  # the global generator must not matter
    together = initial_weights(config, [3, 7, 7, 2])
    assert alone.shape == (1, 2464)
    assert alone.dtype == torch.float32
    assert torch.equal(alone[0], together[1])
    assert torch.equal(together[1], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_initial_weights_have_the_initializers_range_and_biases_of_a_hundredth(initializer):
    config = SmallCNNConfig(initializer=initializer)
    layout = WeightLayout.of(SmallCNNForImageClassification(config))
    weights = initial_weights(config, list(range(50)))
    for name, tensor in layout.unvectorize(weights).items():
        if name.endswith("bias"):
            assert (tensor == 0.01).all()
            continue
        receptive = math.prod(tensor.shape[3:])  # (networks, out, in, *kernel)
        fan_in, fan_out = tensor.shape[2] * receptive, tensor.shape[1] * receptive
        # the textbook standard deviation and bound of each initializer
        std = {
            "uniform": 1 / math.sqrt(12),
            "normal": 1.0,
            "kaiming_uniform": math.sqrt(2 / fan_in),
            "kaiming_normal": math.sqrt(2 / fan_in),
            "xavier_uniform": math.sqrt(2 / (fan_in + fan_out)),
            "xavier_normal": math.sqrt(2 / (fan_in + fan_out)),
        }[initializer]
        mean = 0.5 if initializer == "uniform" else 0.0
        # 1,200 draws or more: a mean is off by 0.03 std at one sigma, four sigma are never reached with these seeds
        assert tensor.mean().item() == pytest.approx(mean, abs=0.12 * std)
        assert tensor.std().item() == pytest.approx(std, rel=0.1)
        if initializer == "uniform":
            assert 0 <= tensor.min() < 0.05
            assert 0.95 < tensor.max() <= 1
        elif initializer.endswith("uniform"):
            assert tensor.abs().max() <= std * math.sqrt(3) * 1.0001


def test_from_pretrained_without_a_checkpoint_starts_like_initial_weights():
    """`SmallCNNForImageClassification(config)` follows the same initializer as the zoo's networks."""
    model = SmallCNNForImageClassification(SmallCNNConfig())
    state = model.state_dict()
    assert all((tensor == 0.01).all() for name, tensor in state.items() if name.endswith("bias"))
    weights = torch.cat([tensor.flatten() for name, tensor in state.items() if name.endswith("weight")])
    assert weights.min() >= 0
    assert 0.9 < weights.max() <= 1


@pytest.mark.parametrize(
    "image",
    [
        np.full((10, 12), 51, np.uint8),
        torch.full((10, 12), 51, dtype=torch.uint8),
        torch.full((3, 10, 12), 51, dtype=torch.uint8),
        Image.new("L", (12, 10), 51),
        Image.new("RGB", (12, 10), (51, 51, 51)),
        Image.new("RGBA", (12, 10), (51, 51, 51, 255)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_processor_takes_every_common_kind_of_image(image, channels):
    processor = SmallCNNImageProcessor(
        num_channels=channels, image_size=6, image_mean=[0.1] * channels, image_std=[0.5] * channels
    )
    pixels = processor(image)["pixel_values"]
    assert pixels.shape == (1, channels, 6, 6)
    expected = torch.full_like(pixels, (51 / 255 - 0.1) / 0.5)
    # torchvision rounds down when it turns bytes grey, which can cost one grey level of 255
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1.01 / 255 / 0.5 if channels == 1 else 1e-6)


def test_the_processor_crops_the_centre_or_resizes_the_whole():
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    image[:, 2:6, 2:6] = 255
    arguments = {"num_channels": 1, "image_size": 4, "image_mean": [0.0], "image_std": [1.0]}
    cropped = SmallCNNImageProcessor(fit="crop", **arguments)(image)["pixel_values"]
    assert torch.equal(cropped, torch.ones(1, 1, 4, 4))
    resized = SmallCNNImageProcessor(fit="resize", **arguments)(image)["pixel_values"]
    assert resized.mean().item() == pytest.approx(0.25, abs=0.02)  # the dark border is still there


def test_grey_weighs_the_colours_by_their_luma():
    processor = SmallCNNImageProcessor(num_channels=1, image_size=2, image_mean=[0.0], image_std=[1.0])
    for colour, luma in [((255, 0, 0), 0.299), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114)]:
        pixels = processor(Image.new("RGB", (2, 2), colour))["pixel_values"]
        assert pixels.mean().item() == pytest.approx(luma, abs=1 / 255)


def test_the_processor_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="'pad' is unknown; choose resize or crop"):
        SmallCNNImageProcessor(fit="pad")
    with pytest.raises(ValueError, match=r"need 3 value\(s\)"):
        SmallCNNImageProcessor(num_channels=3)
