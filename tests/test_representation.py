"""The hyper-representation as a transformers model: tokens, shapes, saving and loading, and what is refused."""

import inspect
import json
import os
import re
import subprocess
import sys

import accelerate
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_zoo import tiny_layout
from transformers import AutoConfig, AutoModel

from hyperrep.representation import HyperRepConfig, HyperRepModel, HyperRepOutput, HyperRepProcessor
from hyperrep.representation.blocks import quick_dropout
from hyperrep.representation.embeddings import HyperRepTokenEmbeddings, HyperRepTokenOutputs


PAPER_MNIST = {
    "hidden_size": 1428,
    "intermediate_size": 1380,
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
    "hidden_act": "relu",
    "latent_size": 700,
    "projection_hidden_size": 400,
    "projection_num_layers": 4,
    "projection_size": 50,
}


def tiny_config(**kwargs) -> HyperRepConfig:
    settings = {
        "layout": tiny_layout().to_list(),
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "latent_size": 8,
        "projection_hidden_size": 12,
        "projection_num_layers": 2,
        "projection_size": 6,
    }
    return HyperRepConfig(**settings | kwargs)


def tiny_model(seed: int = 0, **kwargs) -> HyperRepModel:
    torch.manual_seed(seed)
    return HyperRepModel(tiny_config(**kwargs)).eval()


def some_weights(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, tiny_layout().num_params, generator=torch.Generator().manual_seed(seed))


def perturb_everything(model: HyperRepModel) -> None:
    """Move every parameter and buffer away from its initial value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            noise = torch.rand(tensor.shape, generator=generator) + 0.5
            tensor.add_(noise if tensor.is_floating_point() else 3)


def test_paper_sizes_give_the_papers_parameter_count():
    with torch.device("meta"):
        model = HyperRepModel(HyperRepConfig(**PAPER_MNIST))
    assert model.config.num_params == 2464
    assert model.config.num_tokens == 48
    assert [layer.token_size for layer in model.config.layers] == [26, 201, 25, 37, 21]
    head = sum(parameter.numel() for parameter in model.projection_head.parameters())
    assert head == 781_750
    assert model.num_parameters() - head == 98_531_390


def test_a_token_is_one_unit_with_its_bias():
    embeddings = HyperRepTokenEmbeddings(tiny_config())
    layout = tiny_layout()
    weights = some_weights(2)
    tensors = layout.unvectorize(weights)
    tokens = embeddings(HyperRepProcessor(tiny_config())(weights))
    # unit 2 of the first fully connected layer comes after the 3 kernels of the convolution
    unit = torch.cat([tensors["linears.0.weight"][:, 2], tensors["linears.0.bias"][:, 2:3]], dim=1)
    torch.testing.assert_close(tokens[:, 3 + 2], embeddings.projections[1](unit))


def test_outputs_put_every_weight_back_where_embeddings_took_it_from():
    config = tiny_config(hidden_size=64)
    embeddings, outputs = HyperRepTokenEmbeddings(config), HyperRepTokenOutputs(config)
    processor = HyperRepProcessor(config)
    with torch.no_grad():  # identity maps, padded with zeros to hidden_size
        for projection in [*embeddings.projections, *outputs.projections]:
            projection.weight.copy_(torch.eye(*projection.weight.shape))
            projection.bias.zero_()
    weights = some_weights(3)
    torch.testing.assert_close(processor.decode(outputs(embeddings(processor(weights)))), weights)


def test_layout_without_biases():
    config = tiny_config(layout=[["a.weight", [3, 5]], ["b.weight", [2, 3]]])
    weights = torch.randn(4, config.num_params)
    output = HyperRepModel(config)(weights, num_views=2)
    assert config.num_params == 21
    assert output.reconstruction.shape == weights.shape


def test_shapes_and_ranges():
    model = tiny_model()
    weights = some_weights(6)
    latents = model.encode(weights)
    assert latents.shape == (6, 8)
    assert latents.abs().max() < 1
    assert model.decode(latents).shape == weights.shape
    output = model(weights, num_views=2)
    assert output.projections.shape == (6, 6)
    torch.testing.assert_close(output.loss, 0.1 * output.contrastive_loss + 0.9 * output.reconstruction_loss)
    torch.testing.assert_close(output.reconstruction, model.decode(latents))
    recorded = model(weights, output_hidden_states=True)
    assert recorded.contrastive_loss is None
    torch.testing.assert_close(recorded.loss, recorded.reconstruction_loss)
    assert isinstance(model(weights, return_dict=False), tuple)


def test_without_contrast_there_is_no_projection_head():
    model = tiny_model(contrast_weight=0.0)
    output = model(some_weights(4), num_views=2)
    assert model.projection_head is None
    assert output.projections is None
    assert output.loss == output.reconstruction_loss


def test_encoder_sees_every_weight_and_decoder_uses_every_latent():
    model = tiny_model()
    weights = some_weights(1).requires_grad_()
    model.encode(weights).sum().backward()
    assert (weights.grad != 0).all()
    latents = torch.zeros(1, 8, requires_grad=True)
    model.decode(latents).square().sum().backward()
    assert (latents.grad != 0).all()


def test_eager_and_sdpa_attention_agree():
    model = tiny_model()
    weights = some_weights(5)
    assert model.config._attn_implementation == "sdpa"
    expected = model(weights)
    model.set_attn_implementation("eager")
    eager = model(weights, output_attentions=True)
    torch.testing.assert_close(eager.reconstruction, expected.reconstruction)
    tokens = model.config.num_tokens
    first, last = [tuple(attention.shape) for attention in eager.encoder_attentions]
    assert first == (5, 2, tokens + 1, tokens + 1)
    assert last == (5, 2, 1, tokens + 1)  # only the compression token asks
    assert [tuple(attention.shape) for attention in eager.decoder_attentions] == [(5, 2, tokens, tokens)] * 2
    assert expected.encoder_attentions is expected.decoder_hidden_states is None


@pytest.mark.parametrize("latents_per", ["network", "neuron"])
def test_hidden_states_are_those_of_their_half(latents_per):
    model = tiny_model(latents_per=latents_per)
    model.config.output_hidden_states = True
    output = model(some_weights(5))
    for states in (output.encoder_hidden_states, output.decoder_hidden_states):
        assert len(states) == 1 + model.config.num_hidden_layers
    encoder, decoder = model.encoder, model.decoder
    for i, layer in enumerate(decoder.layers):
        torch.testing.assert_close(layer(output.decoder_hidden_states[i]), output.decoder_hidden_states[i + 1])
    tokens = decoder.outputs(output.decoder_hidden_states[-1])
    torch.testing.assert_close(model.processor.decode(tokens), output.reconstruction)
    torch.testing.assert_close(encoder.layers[0](output.encoder_hidden_states[0]), output.encoder_hidden_states[1])
    latents = encoder.bottleneck(output.encoder_hidden_states[-1]).flatten(1).tanh()
    torch.testing.assert_close(latents, output.latents)
    some = model(some_weights(5), output_hidden_states=[-1])
    assert some.encoder_hidden_states[:-1] == (None, None)
    torch.testing.assert_close(some.decoder_hidden_states[-1], output.decoder_hidden_states[-1])


@pytest.mark.filterwarnings("ignore:The following device_map keys")
@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload", "device_map"])
def test_offloaded_models_do_the_same(tmp_path, how):
    settings = {"aligned": True, "standardize_weights": True}
    model, weights = tiny_model(**settings), some_weights(3)
    model.processor.reference.copy_(some_weights(1, seed=5)[0])
    model.save_pretrained(tmp_path)
    if how == "device_map":
        device_map = {"processor": "cpu", "encoder": "disk", "decoder": "cpu", "projection_head": "disk"}
        other = HyperRepModel.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
    else:
        other = HyperRepModel.from_pretrained(tmp_path)
        folder = [tmp_path / "offload"] if how == "disk_offload" else []
        getattr(accelerate, how)(other, *folder, execution_device=torch.device("cpu"))
    assert other.encoder.position_embeddings.weight.is_meta
    torch.testing.assert_close(other(weights).reconstruction, model(weights).reconstruction)
    torch.testing.assert_close(other.decode(other.encode(weights)), model.decode(model.encode(weights)))


@pytest.mark.slow
def test_the_model_can_be_published_with_its_code(tmp_path):
    script = """if True:
        import sys, torch
        sys.modules["hyperrep"] = None  # cannot be imported
        from safetensors.torch import load_file
        from transformers import AutoModel
        model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
        tensors = load_file(sys.argv[1] + "/latents.safetensors")
        torch.testing.assert_close(model.encode(tensors["weights"]), tensors["latents"])
        print(type(model).__module__)
    """
    saving = """if True:
        import sys
        from safetensors.torch import save_file
        from test_representation import HyperRepConfig, HyperRepModel, some_weights, tiny_model
        HyperRepConfig.register_for_auto_class()
        HyperRepModel.register_for_auto_class("AutoModel")
        model = tiny_model(aligned=True)
        model.save_pretrained(sys.argv[1])
        tensors = {"weights": some_weights(3), "latents": model.encode(some_weights(3)).detach()}
        save_file(tensors, sys.argv[1] + "/latents.safetensors")
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_MODULES_CACHE": str(tmp_path / "cache")}
    for code in (saving, script):
        command = [sys.executable, "-c", code, str(tmp_path / "model")]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith("transformers_modules.")


def test_what_comes_back_is_known_to_type_checkers():
    assert inspect.signature(HyperRepModel.forward).return_annotation is HyperRepOutput
    assert inspect.signature(HyperRepModel.from_pretrained).return_annotation == "HyperRepModel"


def test_of_the_last_encoder_block_only_the_compression_token_matters():
    block = tiny_model().encoder.layers[-1]
    states = torch.randn(3, 5, 16)
    torch.testing.assert_close(block(states, num_queries=1), block(states)[:, :1])


def test_quick_dropout_keeps_the_mean_and_drops_where_its_gradient_is_zero():
    torch.manual_seed(0)
    states = torch.ones(333, 333, dtype=torch.bfloat16, requires_grad=True)
    dropped = quick_dropout(states, 0.1, training=True)
    dropped.sum().backward()
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert dropped.float().mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(states.grad, dropped)
    torch.manual_seed(0)
    assert torch.equal(quick_dropout(states, 0.1, training=True), dropped)
    assert quick_dropout(states, 0.1, training=False) is states


def test_bf16_autocast_stays_close_to_float32():
    model = tiny_model(contrast_weight=0.0).train()
    weights = some_weights(8)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(weights)
        output.loss.backward()
        assert output.reconstruction.dtype == torch.float32
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("auto", [False, True])
def test_every_parameter_and_buffer_survives_saving(tmp_path, auto):
    model = tiny_model()
    perturb_everything(model)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = (AutoModel if auto else HyperRepModel).from_pretrained(tmp_path)
    assert isinstance(loaded, HyperRepModel)
    for kind in ("named_parameters", "named_buffers"):
        before, after = dict(getattr(model, kind)()), dict(getattr(loaded, kind)())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert {"processor.layer_mean", "processor.layer_std"} <= dict(loaded.named_buffers()).keys()
    weights = some_weights(2)
    # the loaded parameters lie elsewhere in memory, and some processors' matrix products then round another way
    torch.testing.assert_close(loaded(weights).reconstruction, model(weights).reconstruction)


def test_config_survives_saving(tmp_path):
    config = tiny_config(zoo={"name": "org/zoo", "revision": None, "epochs": [1]}, network={"model_type": "small_cnn"})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["layout"] == tiny_layout().to_list()


def test_statistics_stay_float32_in_a_bf16_model(tmp_path):
    model = tiny_model()
    model.processor.fit(some_weights(50) * 0.3 + 0.123456)
    model.save_pretrained(tmp_path)
    loaded = HyperRepModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.encoder.bottleneck.weight.dtype == torch.bfloat16
    assert loaded.processor.layer_std.dtype == torch.float32
    assert torch.equal(loaded.processor.layer_std, model.processor.layer_std)
    assert torch.equal(loaded.processor.layer_mean, model.processor.layer_mean)
    weights = some_weights(3)
    torch.testing.assert_close(loaded.decode(loaded.encode(weights)), model(weights).reconstruction, atol=0.05, rtol=0)


def test_layer_statistics_cover_weight_and_bias_and_have_a_floor():
    model = tiny_model()
    weights = some_weights(30)
    last = model.config.layers[-1].num_params
    weights[:, -last:] = 0.25
    model.processor.fit(weights)
    first = weights[:, : model.config.layers[0].num_params]
    assert model.processor.layer_std[0].item() == pytest.approx(first.std().item())
    assert model.processor.layer_mean[0].item() == pytest.approx(first.mean().item(), abs=1e-6)
    assert model.processor.layer_std[-1].item() == pytest.approx(1e-4)
    assert model.processor.layer_mean[-1].item() == pytest.approx(0.25)


def test_standardised_weights_make_the_model_blind_to_a_layers_scale():
    weights = some_weights(20)
    scale = torch.ones(weights.shape[1])
    scale[: tiny_config().layers[0].num_params] = 100.0
    outputs = []
    for factor in (torch.ones_like(scale), scale):
        model = tiny_model(standardize_weights=True)
        model.processor.fit(weights * factor)
        outputs.append(model(weights * factor))
    torch.testing.assert_close(outputs[1].latents, outputs[0].latents)
    torch.testing.assert_close(outputs[1].reconstruction, outputs[0].reconstruction * scale)
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss)


def test_loss_normalisation_can_be_switched_off():
    weights = some_weights(200) * 0.1
    for normalize_loss in (True, False):
        model = tiny_model(normalize_loss=normalize_loss)
        model.processor.fit(weights)
        output = model(weights)
        plain = torch.nn.functional.mse_loss(output.reconstruction, weights)
        expected = plain if not normalize_loss else plain / 0.1**2
        assert output.reconstruction_loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            # the older name warns in newer versions of transformers
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model(some_weights(4), num_views=2).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for without, with_ in zip(*gradients, strict=True):
        torch.testing.assert_close(with_, without)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden_size": 15}, "hidden_size 15 is no multiple of num_attention_heads 2"),
        ({"contrast_weight": 1.5}, r"contrast_weight is 1.5; it must lie in \[0, 1\]"),
        ({"contrast": "simclr"}, "'simclr' is unknown; choose from nt_xent, positive"),
        ({"layout": []}, "layout is empty"),
        ({"layout": [["a.weight", [3, -5]]]}, "is no name with a shape"),
        ({"layout": [["a.weight", [0, 5]]]}, "is no name with a shape"),
        ({"layout": [["a.weight", [3.0, 5]]]}, "is no name with a shape"),
        ({"layout": [["a.weight", "35"]]}, "is no name with a shape"),
        ({"layout": [["a.weight", [[3, 5]]]]}, "is no name with a shape"),
        ({"layout": [["a.weight", [3, 5], 1]]}, "is no name with a shape"),
        ({"layout": [[None, [3, 5]]]}, "is no name with a shape"),
        ({"layout": [7]}, "is no name with a shape"),
        ({"layout": {"a.weight": [3, 5]}}, "layout"),
        ({"layout": [["a.weight", [1, 1]]] * 10_001}, "10,000 are the limit"),
        ({"layout": [["a.weight", [2**30, 2**30]]]}, "parameters; 10,000,000,000 are the limit"),
        ({"hidden_size": 10**6}, "parameters; 10,000,000,000 are the limit"),
        ({"hidden_size": 10**300}, "hidden_size is 1000"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers is 1000000000; it must lie in \[1, 1,000\]"),
        ({"latent_size": -1}, "latent_size is -1"),
        ({"latent_size": "8"}, "latent_size"),
        ({"neuron_latent_size": "8", "latents_per": "neuron"}, "neuron_latent_size"),
        ({"projection_num_layers": -1}, "projection_num_layers is -1"),
        ({"hidden_act": "magic"}, "hidden_act 'magic' is unknown"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"contrast_weight": float("inf")}, "contrast_weight is inf"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"initializer_range": -1.0}, "initializer_range is -1.0"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
    ],
)
def test_impossible_configurations_are_refused(setting, message):
    with pytest.raises((StrictDataclassError, ValueError)) as error:
        tiny_config(**setting)
    assert re.search(message, str(error.value))


@pytest.mark.parametrize("latents_per", ["network", "neuron"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"contrast_weight": 0.0},
        {"projection_num_layers": 0},
        {"num_hidden_layers": 1, "layout": [["a.weight", [3, 5]], ["b.weight", [2, 3]], ["b.bias", [2]]]},
    ],
)
def test_a_models_size_is_known_before_it_is_made(settings, latents_per):
    model = tiny_model(latents_per=latents_per, **settings)
    assert model.config.model_size == model.num_parameters()


def test_a_file_cannot_choose_code(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    hostile = {
        "attn_implementation": "somebody/kernels",
        "_attn_implementation": "somebody/kernels",
        "_attn_implementation_internal": "somebody/kernels",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "fusion_config": {"patch_embeddings": True},
        "transformers_weights": "other.safetensors",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    for load in (HyperRepConfig.from_pretrained, AutoConfig.from_pretrained):
        config = load(tmp_path)
        assert not hostile.keys() & config.to_dict().keys()
        assert config._attn_implementation is None
    # a published model may bring its code, but nothing of it is run that nobody asked for
    with_code = {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | with_code))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    assert type(AutoConfig.from_pretrained(tmp_path)) is HyperRepConfig
    assert not (tmp_path / "marker").exists()
    # whoever loads may choose
    assert HyperRepConfig.from_pretrained(tmp_path, attn_implementation="eager")._attn_implementation == "eager"


def test_wrong_shapes_are_named():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"weights have shape \[2, 5\]"):
        model.encode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"latents have shape \[8\]"):
        model.decode(torch.zeros(8))
