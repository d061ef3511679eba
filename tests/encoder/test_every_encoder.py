"""What must hold for every encoder that can be a supernet."""

import inspect

import pytest
import torch
import yaml
from conftest import batch, build, fix_masks, model_config, randomise, split
from espnet2.tasks.asr import encoder_choices
from espnet2.utils.get_default_kwargs import get_default_kwargs

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.choices import ENCODERS

MODEL = "valid.loss.ave.pth"
SHAPE = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=3,
    input_layer="linear",
)
CGMLP = dict(cgmlp_linear_units=16, cgmlp_conv_kernel=3)
MACARON = dict(use_ffn=True, macaron_ffn=True, **CGMLP)
BLOCKS = dict(block_size=8, hop_size=3, look_ahead=2)
# Encoder, options that differ from its defaults, layers in a block
CASES = [
    ("conformer", {"macaron_style": True, "cnn_module_kernel": 3}, 4),
    ("e_branchformer", MACARON, 3),
    ("e_branchformer", {**CGMLP, "use_ffn": True}, 2),
    ("e_branchformer", CGMLP, 1),
    (
        "e_branchformer",
        {
            **MACARON,
            "attention_layer_type": "fast_selfattn",
            "pos_enc_layer_type": "abs_pos",
        },
        3,
    ),
    ("e_branchformer", {**MACARON, "rel_pos_type": "legacy"}, 3),
    (
        "e_branchformer",
        {**CGMLP, "use_linear_after_conv": True, "gate_activation": "tanh"},
        1,
    ),
    ("e_branchformer", {**MACARON, "interctc_layer_idx": [1]}, 3),
    ("transformer", {}, 2),
    ("transformer", {"normalize_before": False, "concat_after": True}, 2),
    ("transformer", {"positionwise_layer_type": "conv1d"}, 2),
    ("transformer", {"input_layer": "conv2d"}, 2),
    ("transformer", {"interctc_layer_idx": [1]}, 2),
    (
        "contextual_block_conformer",
        {**BLOCKS, "macaron_style": True, "cnn_module_kernel": 3},
        4,
    ),
    ("contextual_block_conformer", {**BLOCKS, "use_cnn_module": False}, 2),
    ("contextual_block_transformer", BLOCKS, 2),
    (
        "contextual_block_transformer",
        {**BLOCKS, "normalize_before": False, "concat_after": True},
        2,
    ),
]
every_case = pytest.mark.parametrize("name, options, layers", CASES, ids=str)


def make(name, options, **changes):
    """A supernet, and its stock encoder."""
    conf = {**SHAPE, **options}
    if "contextual" in name:
        # As ESPnet, to which padding is a part of an utterance
        changes["respect_lengths"] = False
    supernet = ENCODERS[f"dynsize_{name}"](20, **conf, **changes)
    return supernet, encoder_choices.get_class(name)(20, **conf)


def features(*lengths):
    lengths = lengths or (60, 52, 44)
    return torch.randn(3, 60, 20), torch.tensor(lengths)


def outputs(encoder, inputs):
    out, lengths, _ = encoder(*inputs)
    if isinstance(out, tuple):
        return [out[0], *(x for _, x in out[1]), lengths]
    return [out, lengths]


@every_case
def test_full_size_equals_stock_bit_for_bit(name, options, layers):
    changes = {"conv_norm": "batch_norm"} if "conformer" in name else {}
    supernet, stock = make(name, options, **changes)
    supernet.load_state_dict(stock.state_dict())
    inputs = features()
    for mode in (True, False):
        pair = []
        for encoder in (supernet.train(mode), stock.train(mode)):
            torch.manual_seed(1)  # the same dropout
            pair.append(outputs(encoder, inputs))
        assert all(torch.equal(a, b) for a, b in zip(*pair))


@every_case
def test_blocks_have_the_layers_in_order(name, options, layers):
    supernet, _ = make(name, options)
    assert [layer.units for layer in supernet.layers] == [
        range(i, i + 1) for i in range(3 * layers)
    ]


@every_case
@pytest.mark.parametrize("form", ["plugin", "stock"])
def test_extracted_equals_masked(tmp_path, name, options, layers, form):
    model, config = random_model(name, options, layers, conv_norm="batch_norm")
    exp = tmp_path / "asr"
    exp.mkdir()
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / MODEL)
    # ESPnet's streaming encoders need no padding to be right.
    data = features(60, 60, 60) if "contextual" in name else features()
    for extracted in extract(exp, MODEL, [], format=form):
        small, small_config = load_model(extracted.directory, MODEL)
        if form == "stock":
            assert small_config["encoder"] == name
        with model.activate(model.subnet(int(extracted.name))):
            expected = log_probs(model, data)
        torch.testing.assert_close(log_probs(small, data), expected, atol=1e-6, rtol=0)
        assert len(small.state_dict()) < len(model.state_dict())


def random_model(name, options, layers, conv_norm):
    encoder, family = split({**SHAPE, **options})
    if "conformer" in name:
        encoder["conv_norm"] = conv_norm
    config = model_config(sizes=[3 * layers // 2, 3 * layers], **family) | dict(
        input_size=20, encoder=f"dynsize_{name}", encoder_conf=encoder
    )
    model = build(config)
    fix_masks(model.schedule)
    randomise(model, 0.1)
    return model.eval(), config


@torch.no_grad()
def log_probs(model, inputs):
    out, _ = model.encode(*inputs)
    return model.ctc.log_softmax(out[0] if isinstance(out, tuple) else out)


@every_case
def test_trains_in_both_phases(name, options, layers):
    model, _ = random_model(name, options, layers, conv_norm="layer_norm")
    model.train().schedule.selection.fixed_masks.fill_(float("nan"))
    model.schedule.selection.plan(4)
    model.schedule.selection.search_updates.fill_(2)
    data = batch()
    data["speech"], data["speech_lengths"] = features()
    phases = []
    for _ in range(4):
        model.begin_update(0)
        model.zero_grad()
        loss, stats, _ = model(**data)
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        phases.append(float(stats["phase"]))
        if phases[-1] == 0:
            assert (model.schedule.selection.selector.scores.grad != 0).any()
    assert phases == [0, 0, 1, 1]


@every_case
@pytest.mark.parametrize("phase", ["search", "joint"])
def test_half_precision_trains_like_single(name, options, layers, phase):
    """What `--use_amp` does, which ESPnet offers on GPUs only."""
    if options.get("attention_layer_type") == "fast_selfattn":
        pytest.skip("ESPnet's fast_selfattn has no bfloat16")
    model, _ = random_model(name, options, layers, conv_norm="layer_norm")
    if phase == "search":
        model.schedule.selection.fixed_masks.fill_(float("nan"))
    model.train().begin_update(0)
    data = batch()
    data["speech"], data["speech_lengths"] = features()
    losses, gradients = [], []
    for half in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            losses.append(model(**data)[0].squeeze().float())
        losses[-1].backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert ("schedule.selection.selector.scores" in found) == (phase == "search")
        gradients.append(torch.cat([g.flatten() for g in found.values()]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0.0)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.97


@pytest.mark.parametrize("name", ENCODERS)
def test_espnet_sees_all_options_and_their_defaults(name):
    stock = encoder_choices.get_class(name.removeprefix("dynsize_"))
    defaults = get_default_kwargs(ENCODERS[name])
    own = get_default_kwargs(Supernet.__init__)
    wanted = {**get_default_kwargs(stock), **own}
    if "contextual" in name:  # these have to be written
        wanted |= dict.fromkeys(("block_size", "hop_size", "look_ahead"))
    wanted = {k: v for k, v in wanted.items() if k not in ("self", "stock")}
    assert {k: defaults[k] for k in wanted} == wanted
    assert "input_size" in inspect.signature(ENCODERS[name]).parameters


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("conformer", "layer_drop_rate", 0.1),
        ("conformer", "stochastic_depth_rate", 0.1),
        ("conformer", "stochastic_depth_rate", [0.1, 0.2, 0.3]),
        ("e_branchformer", "layer_drop_rate", 0.1),
        ("e_branchformer", "gradient_checkpoint_layers", [1]),
        ("transformer", "layer_drop_rate", 0.1),
    ],
)
def test_stock_options_that_do_not_go_with_subnets(name, option, value):
    with pytest.raises(ConfigError, match=f"{option}=.* is not for a supernet: "):
        make(name, {option: value})
