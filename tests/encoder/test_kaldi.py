"""Kaldi's features, next to two programs that make them."""

import numpy as np
import pytest
import torch
from torchaudio.compliance.kaldi import fbank

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.encoder.kaldi import KaldiFrontend, mirrored


def noise(samples, offset=0.05):
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, generator=generator) / 10 + offset


def of(frontend, samples):
    features, lengths = frontend(samples[None], torch.tensor([len(samples)]))
    assert len(features[0]) == lengths[0]
    return features[0]


# Of 4,300, frames of an odd hop; of 20,480, of a whole power of two
@pytest.mark.parametrize(
    "rate, named", [(16000, "16k"), (8000, 8000), (11025, 11025), (4300, 4300)]
)
@pytest.mark.parametrize("samples", [1040, 5000, 16001])
def test_torchaudio_s(rate, named, samples):
    told = dict(num_mel_bins=40, low_freq=20, high_freq=-400, snip_edges=False)
    x = noise(samples)
    theirs = fbank(x[None], sample_frequency=float(rate), **told)
    ours = of(KaldiFrontend(named, 40), x)
    assert ours.shape == theirs.shape and ours.size(1) == 40
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [80, 90, 333, 5000])
def test_sherpa_onnx_s(samples):
    knf = pytest.importorskip("kaldi_native_fbank")
    told = knf.FbankOptions()
    told.frame_opts.dither, told.frame_opts.snip_edges = 0, False
    told.mel_opts.num_bins, told.mel_opts.high_freq = 80, -400
    program = knf.OnlineFbank(told)
    x = noise(samples)
    program.accept_waveform(16000, x.tolist())
    program.input_finished()
    frames = [program.get_frame(i) for i in range(program.num_frames_ready)]
    ours = of(KaldiFrontend(), x).numpy()
    np.testing.assert_allclose(ours, np.array(frames), atol=1e-4)


def test_frames_that_are_a_power_of_two():
    assert KaldiFrontend(20480).n_fft == 512 == KaldiFrontend(20480).size


def test_half_precision():
    frontend, x = KaldiFrontend(n_mels=20), noise(4000)
    expected = of(frontend, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(of(frontend, x), expected)
    for dtype in (torch.bfloat16, torch.float16):
        ours = of(KaldiFrontend(n_mels=20).to(dtype), x.to(dtype))
        assert ours.dtype == dtype and (ours - expected).abs().mean() < 0.1


def test_an_utterance_without_samples():
    frontend = KaldiFrontend(n_mels=20)
    x = torch.stack([noise(4000), noise(4000)])
    features, lengths = frontend(x, torch.tensor([4000, 0]))
    assert lengths.tolist() == [25, 0] and not features[1].any()
    torch.testing.assert_close(features[0], of(frontend, x[0]))
    empty, lengths = frontend(x[:, :0], torch.tensor([0, 0]))
    assert empty.shape == (2, 0, 20) and lengths.tolist() == [0, 0]


def test_it_moves_with_its_model():
    frontend = KaldiFrontend(n_mels=20).to("meta")
    assert {frontend.mel.device.type, frontend.window.device.type} == {"meta"}


def test_silence_is_the_least_power():
    features = of(KaldiFrontend(n_mels=8), torch.zeros(400))
    expected = torch.tensor(1.1920929e-07).log().expand(3, 8)  # 400 / 160 rounded
    torch.testing.assert_close(features, expected)


def test_a_mirror_at_both_ends():
    # Frames of 6 every 2: a frame's middle is that of its two samples.
    x = torch.tensor([[1.0, 2, 3, 4, 9]])
    made = mirrored(x, torch.tensor([4]), 6, 2)
    assert made[0, :8].tolist() == [2, 1, 1, 2, 3, 4, 4, 3]
    # Of one sample, everything is that.
    assert mirrored(x, torch.tensor([1]), 6, 2)[0].unique().tolist() == [1]


def test_padding_in_a_batch_changes_nothing():
    frontend = KaldiFrontend(n_mels=20)
    x = torch.stack([noise(5000), noise(5000)])
    lengths = torch.tensor([5000, 3111])
    features, frames = frontend(x, lengths)
    assert features.shape == (2, 31, 20) and frames.tolist() == [31, 19]
    torch.testing.assert_close(features[1, :19], of(frontend, x[1, :3111]))
    assert not features[1, 19:].any()


def test_the_first_of_several_channels():
    frontend = KaldiFrontend(n_mels=20)
    channels = torch.stack([noise(2000), noise(2001)[:2000]], dim=-1)[None]
    ours, _ = frontend(channels, torch.tensor([2000]))
    torch.testing.assert_close(ours[0], of(frontend, channels[0, :, 0]))


def test_the_shortest_audio():
    frontend = KaldiFrontend(n_mels=20)
    for frames in (1, 2, 7):
        least = frontend.least_samples(frames)
        assert len(of(frontend, noise(least))) == frames
        assert len(of(frontend, noise(least - 1))) == frames - 1


def test_it_adds_nothing_to_a_checkpoint():
    assert not KaldiFrontend().state_dict() and not list(KaldiFrontend().parameters())


@pytest.mark.parametrize(
    "conf, message",
    [
        (dict(fs=1999), "fs=1999 must be a whole number of at least 2000"),
        (dict(fs="fast"), "fs=fast must be a rate"),
        (dict(fs=16000.5), "fs=16000.5 must be"),
        (dict(n_mels=3), "n_mels=3 must be a whole number from 4 to 256"),
        (dict(n_mels=257), "n_mels=257"),
        (dict(n_mels=40.0), "n_mels=40.0"),
        (dict(fs=8000, n_mels=129), "from 4 to 128"),
        (dict(n_fft=512), "n_fft=512 must be left out with frontend: kaldi"),
    ],
    ids=str,
)
def test_bad_options(conf, message):
    with pytest.raises(ConfigError, match=message):
        KaldiFrontend(**conf)
