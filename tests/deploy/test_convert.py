import pytest
import torch
from conftest import batch, build, encoder_conf, model_config, randomise, stock_config
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_dynsize.bin.main import main
from espnet_dynsize.deploy.convert import to_layer_norm
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.norm import ChannelLayerNorm


@pytest.mark.parametrize("module", ["conv_module", "conv_mod"])
def test_norms_agree_where_frames_are_as_the_statistics_say(module):
    channels, frames = 6, 4
    mean = torch.randn(channels)
    batch_norm = torch.nn.BatchNorm1d(channels, eps=1e-5).eval()
    torch.nn.init.normal_(batch_norm.weight)
    torch.nn.init.normal_(batch_norm.bias)
    # Two values a channel around its mean, such that every frame has the same mean
    # and deviation over the channels.
    signs = torch.tensor([1.0, -1.0] * (channels // 2))
    mean[1::2] = mean[::2]
    spread = 0.7 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    x = (mean[:, None] + signs[:, None] * spread[None])[None]
    batch_norm.running_mean.copy_(x[0].mean(1))
    batch_norm.running_var.copy_(x[0].var(1, unbiased=False))
    prefix = f"encoder.encoders.0.{module}.norm."
    states = {prefix + n: v for n, v in batch_norm.state_dict().items()}
    converted = to_layer_norm(states)
    assert set(converted) == {prefix + "weight", prefix + "bias"}
    layer_norm = ChannelLayerNorm(channels)
    layer_norm.load_state_dict({n[len(prefix) :]: v for n, v in converted.items()})
    assert x.shape == (1, channels, frames)
    torch.testing.assert_close(layer_norm(x), batch_norm(x))


def stock_checkpoint(path):
    model = build(stock_config())
    randomise(model, 0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    torch.save(model.state_dict(), path)
    return model.eval()


@torch.no_grad()
def log_probs(model, data):
    return model.ctc.log_softmax(
        model.encode(data["speech"], data["speech_lengths"])[0]
    )


def test_a_supernet_starts_from_a_stock_checkpoint(tmp_path):
    stock = stock_checkpoint(tmp_path / "stock.pth")
    model = build(model_config(conv_norm="batch_norm"))
    load_pretrained_model(str(tmp_path / "stock.pth"), model, False)
    model.schedule.selection.plan(10)
    model.begin_update(0)
    data = batch()
    assert torch.equal(log_probs(model.eval(), data), log_probs(stock, data))
    # Every size has the pretrained statistics, too.
    states, wanted = model.state_dict(), stock.state_dict()
    copies = [name for name in states if ".by_size." in name]
    assert any("running" in name for name in copies)
    for name in copies:
        head, tail = name.split(".by_size.")
        assert torch.equal(states[name], wanted[f"{head}.{tail.partition('.')[2]}"])


def test_converted_checkpoint_fits_a_supernet_with_layer_norm(tmp_path, capsys):
    stock = stock_checkpoint(tmp_path / "stock.pth")
    arguments = ["convert", "--model_file", str(tmp_path / "stock.pth"), "--output"]
    assert main([*arguments, str(tmp_path / "new.pth")]) == 0
    assert "2 norms converted" in capsys.readouterr().out
    model = build(model_config())
    load_pretrained_model(str(tmp_path / "new.pth"), model, False)
    for name, value in stock.named_parameters():
        if "conv_module.norm" not in name:
            assert torch.equal(model.state_dict()[name], value)
    assert main([*arguments, str(tmp_path / "new.pth")]) == 2
    assert "exists; remove or rename it" in capsys.readouterr().err


def test_a_checkpoint_without_batch_norm_is_refused(tmp_path, capsys):
    torch.save(build(model_config()).state_dict(), tmp_path / "x.pth")
    arguments = ["convert", "--model_file", str(tmp_path / "x.pth")]
    assert main([*arguments, "--output", str(tmp_path / "y.pth")]) == 2
    assert "nothing to convert" in capsys.readouterr().err
    assert not (tmp_path / "y.pth").exists()
    arguments[-1] = str(tmp_path / "none.pth")
    assert main([*arguments, "--output", str(tmp_path / "y.pth")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_conversion_changes_little_where_channels_are_alike():
    """The whole encoder, on the data that its statistics are of."""
    torch.manual_seed(0)
    conf = encoder_conf(output_size=64, linear_units=64, cnn_module_kernel=7)
    stock = ConformerEncoder(20, **conf)
    x, lengths = torch.randn(4, 200, 20), torch.tensor([200] * 4)
    for module in stock.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None  # cumulative
    with torch.no_grad():
        stock.train()(x, lengths)
        expected = stock.eval()(x, lengths)[0]
    states = {f"encoder.{n}": v for n, v in stock.state_dict().items()}
    converted = {n[8:]: v for n, v in to_layer_norm(states).items()}
    errors = {}
    for name, given in (("converted", converted), ("dropped", stock.state_dict())):
        supernet = DynSizeConformerEncoder(20, conv_norm="layer_norm", **conf).eval()
        given = {n: v for n, v in given.items() if n in supernet.state_dict()}
        supernet.load_state_dict(given, strict=False)
        with torch.no_grad():
            errors[name] = float((supernet(x, lengths)[0] - expected).norm())
    assert errors["converted"] < 0.75 * errors["dropped"]


@pytest.mark.parametrize(
    "part, odd",
    [
        ("running_mean", torch.ones(8, 1)),
        ("running_var", torch.ones(3)),
        ("weight", torch.ones(8, dtype=torch.int64)),
        ("bias", torch.ones(())),
    ],
)
def test_odd_norms_are_refused(tmp_path, part, odd, capsys):
    stock_checkpoint(tmp_path / "x.pth")
    states = torch.load(tmp_path / "x.pth")
    norm = "encoder.encoders.0.conv_module.norm."
    torch.save(states | {f"{norm}{part}": odd}, tmp_path / "x.pth")
    arguments = ["convert", "--model_file", str(tmp_path / "x.pth")]
    assert main([*arguments, "--output", str(tmp_path / "y.pth")]) == 2
    wanted = f"{norm}* must be as many real numbers each"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "y.pth").exists()
