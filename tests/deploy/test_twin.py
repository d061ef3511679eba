"""A twin computes what ESPnet does."""

import numpy as np
import pytest
import torch
from conftest import randomise
from experiment import experiment

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import build_model, load_model
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.twin.encoder import CTC
from espnet_dynsize.deploy.twin.features import twin_features
from espnet_dynsize.train.task import DynSizeASRTask

FEATURES = 20
CGMLP = dict(cgmlp_linear_units=16, cgmlp_conv_kernel=3)
SHAPE = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    input_layer="conv2d",
)
CONFORMER = dict(macaron_style=True, cnn_module_kernel=3, use_flash_attn=False)
ABSOLUTE = dict(
    pos_enc_layer_type="abs_pos",
    selfattention_layer_type="selfattn",
    use_flash_attn=False,
)
CASES = [
    ("conformer", CONFORMER),
    ("conformer", {**CONFORMER, "rel_pos_type": "latest", "input_layer": "linear"}),
    ("conformer", {**CONFORMER, "rel_pos_type": "latest", "use_sdpa": True}),
    ("conformer", {**CONFORMER, "normalize_before": False, "concat_after": True}),
    ("conformer", {"use_cnn_module": False, "activation_type": "relu"}),
    ("conformer", {**ABSOLUTE, "cnn_module_kernel": 5, "input_layer": "conv2d1"}),
    ("e_branchformer", {**CGMLP, "input_layer": "conv2d2"}),
    ("e_branchformer", {**CGMLP, "use_ffn": True, "macaron_ffn": True}),
    (
        "e_branchformer",
        {**CGMLP, "use_linear_after_conv": True, "gate_activation": "tanh"},
    ),
    ("transformer", {}),
    ("transformer", {"input_layer": "linear", "concat_after": True}),
    ("transformer", {"input_layer": "conv2d6", "normalize_before": False}),
    ("transformer", {"input_layer": "conv2d8"}),
]
OURS = [
    ("conformer", {**CONFORMER, "conv_norm": "layer_norm", "input_layer": "vgg"}),
    ("conformer", {**CONFORMER, "input_layer": "separable_conv2d"}),
    ("conformer", {**CONFORMER, "convolution_first": True}),
    ("conformer", {**CONFORMER, "skip_empty_blocks": True}),
    ("conformer", {**CONFORMER, "normalize_before": False}),
    ("conformer", {**CONFORMER, "granularity": "component", "ffn_chunks": 2}),
    ("e_branchformer", {**CGMLP, "use_ffn": True}),
    ("transformer", {"granularity": "component", "ffn_chunks": 3}),
]


def config(encoder, options, **changes):
    return build_config(
        encoder=encoder, encoder_conf={**SHAPE, **options}, model="espnet", **changes
    )


def build_config(**changes):
    base = DynSizeASRTask.get_default_config()
    base |= dict(
        token_list=["<blank>", "<unk>", "A", "B", "<sos/eos>"],
        frontend=None,
        input_size=FEATURES,
        specaug=None,
        normalize=None,
        decoder=None,
        model_conf={"ctc_weight": 1.0},
    )
    return base | changes


def random_model(config):
    model = build_model(config)
    randomise(model, 0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@torch.no_grad()
def assert_equal(model, lengths=(83, 61), audio=False, alone=True):
    """Of a padded batch; in it, as `alone`.

    Where ESPnet's own numbers depend on what else is in a batch, they are compared with
    those of the batch.
    """
    twin = CTC(model, audio)
    shape = (max(lengths),) if audio else (max(lengths), FEATURES)
    x = torch.randn(len(lengths), *shape)
    ours, our_lengths = twin(x, torch.tensor(lengths))
    for i, length in enumerate(lengths):
        one = x[i : i + 1, :length] if alone else x
        theirs, their_lengths = model.encode(
            one.clone(), torch.tensor([length] if alone else lengths)
        )
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        theirs = model.ctc.log_softmax(theirs)
        number = int(their_lengths[0 if alone else i])
        assert int(our_lengths[i]) == number > 0
        mine, his = ours[i, :number], theirs[0 if alone else i, :number]
        torch.testing.assert_close(mine, his, atol=2e-5, rtol=1e-4)
        assert float(his.std()) > 0.1  # something to compare


@pytest.mark.parametrize("encoder, options", CASES, ids=str)
def test_stock_encoders(encoder, options):
    legacy = "conformer" in encoder and options.get("rel_pos_type", "") != "latest"
    relative = options.get("pos_enc_layer_type") != "abs_pos"
    if encoder == "e_branchformer" or (legacy and relative):
        # ESPnet's old positions wrap around, so they depend on the batch's length
        options = {"rel_pos_type": "latest", **options}
    assert_equal(random_model(config(encoder, options)))


def test_legacy_positions():
    options = {**CONFORMER, "rel_pos_type": "legacy"}
    model = random_model(config("conformer", options))
    assert_equal(model, alone=False)
    assert_equal(model, (83,))


@pytest.mark.parametrize("encoder, options", OURS, ids=str)
def test_random_subnets(encoder, options):
    if encoder != "transformer":
        options = {"rel_pos_type": "latest"} | options
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        model = random_model(config(f"dynsize_{encoder}", options))
        kept = torch.rand(model.encoder.num_units, generator=generator) < 0.5
        model.encoder.keep_units(kept.nonzero().flatten().tolist() or [0])
        assert_equal(model, (97, 62))


def test_the_full_network_of_a_supernet(tmp_path):
    _, model = experiment(tmp_path / "asr")
    assert_equal(model, (4000, 2500), audio=True)


@pytest.mark.parametrize("size", [3, 5])
def test_extracted_sizes(tmp_path, size):
    folder, supernet = experiment(tmp_path / "asr")
    extract(folder, "", [size])
    model, _ = load_model(tmp_path / f"asr_size{size}", "")
    assert_equal(model.eval(), (4000, 2500), audio=True)


FRONT_ENDS = [
    {},
    dict(n_fft=256, win_length=200, hop_length=80, normalized=True),
    dict(n_fft=400, hop_length=100, window="hamming", fmin=80, fmax=3800, htk=True),
    dict(n_fft=128, hop_length=64, window=None, center=False, fs="8k"),
    dict(fs="16k"),  # Kaldi's
    dict(fs=8000),
]


@pytest.mark.parametrize("conf", FRONT_ENDS, ids=str)
@pytest.mark.parametrize(
    "normalize, options",
    [
        (None, {}),
        ("utterance_mvn", {}),
        ("utterance_mvn", dict(norm_vars=True)),
        ("utterance_mvn", dict(norm_vars=True, norm_means=False)),
    ],
    ids=str,
)
def test_front_ends(conf, normalize, options):
    kaldi = conf.get("hop_length") is None and "fs" in conf
    options = dict(
        frontend="kaldi" if kaldi else "default",
        frontend_conf=dict(n_mels=FEATURES, **conf),
        input_size=None,
        normalize=normalize,
        normalize_conf=options,
    )
    model = random_model(config("transformer", {}, **options))
    assert_equal(model, (8000, 6123), audio=True)


@pytest.mark.parametrize("frontend", ["default", "kaldi"])
def test_silence(frontend):
    conf = dict(n_mels=FEATURES)
    changes = dict(frontend=frontend, frontend_conf=conf, input_size=None)
    model = random_model(config("transformer", {}, **changes))
    twin = twin_features(model.frontend)
    silence, lengths = torch.zeros(2, 4000), torch.tensor([4000, 2000])
    theirs, _ = model.frontend(silence, lengths)
    torch.testing.assert_close(twin(silence, lengths)[0][0], theirs[0])


@pytest.mark.parametrize(
    "options", [{}, dict(norm_vars=False), dict(norm_means=False)], ids=str
)
def test_global_statistics(tmp_path, options):
    count, mean = 7.0, np.arange(FEATURES) / 3
    square = mean**2 + np.linspace(0.5, 2, FEATURES)
    stats = dict(count=count, sum=mean * count, sum_square=square * count)
    np.savez(tmp_path / "stats.npz", **stats)
    options = dict(stats_file=str(tmp_path / "stats.npz"), **options)
    changes = dict(normalize="global_mvn", normalize_conf=options)
    assert_equal(random_model(config("transformer", {}, **changes)))


@pytest.mark.parametrize(
    "encoder, options, changes, message",
    [
        ("conformer", dict(positionwise_layer_type="conv1d"), {}, "positionwise_layer"),
        ("conformer", dict(qk_norm=True, **ABSOLUTE), {}, "qk_norm"),
        ("conformer", dict(zero_triu=True, rel_pos_type="latest"), {}, "zero_triu"),
        ("conformer", dict(input_layer=None), {}, "input_layer"),
        (
            "conformer",
            ABSOLUTE | dict(pos_enc_layer_type="scaled_abs_pos"),
            {},
            "pos_enc_layer",
        ),
        (
            "conformer",
            dict(interctc_layer_idx=[1], interctc_use_conditioning=True),
            dict(model_conf=dict(ctc_weight=1.0, interctc_weight=0.3)),
            "interctc_use_conditioning",
        ),
        (
            "e_branchformer",
            dict(
                attention_layer_type="fast_selfattn",
                pos_enc_layer_type="abs_pos",
                **CGMLP,
            ),
            {},
            "FastSelfAttention",
        ),
        ("rnn", None, {}, "encoder="),
        ("transformer", {}, dict(preencoder="sinc"), "preencoder"),
        ("conformer", dict(interctc_layer_idx=[1], ctc_trim=True), {}, "ctc_trim"),
    ],
    ids=str,
)
def test_what_is_refused(encoder, options, changes, message):
    made = config(encoder, options or {}, **changes)
    if options is None:
        made["encoder_conf"] = {}
    with pytest.raises(ConfigError, match=message):
        CTC(build_model(made), False)
