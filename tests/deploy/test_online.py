"""Features of chunks for ESPnet's transducer script."""

import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr_transducer.encoder.blocks.conv_input import ConvInput
from espnet2.asr_transducer.frontend.online_audio_processor import OnlineAudioProcessor

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.online import OnlineAudio

RIGHT = dict(n_fft=512, hop_length=128)
FRONT_ENDS = [
    RIGHT,
    dict(n_fft=512, win_length=400, hop_length=160),
    dict(n_fft=255, win_length=100, hop_length=33),
    dict(fs=8000, n_fft=256, hop_length=80),
]


class Model(torch.nn.Module):
    def __init__(self, factor, **conf):
        super().__init__()
        self.frontend = DefaultFrontend(n_mels=20, **conf)
        self.normalize = None
        self.encoder = torch.nn.Module()
        self.encoder.embed = ConvInput(20, 4, factor, vgg_like=False, output_size=8)

    def _extract_feats(self, speech, lengths):
        return self.frontend(speech, lengths)

    @torch.no_grad()
    def embedded(self, features):
        """What ESPnet's encoder makes of the features of a chunk."""
        return self.encoder.embed(features)[0][:, 1:-1]


def processor(model, window, factor, conf, kind=OnlineAudio):
    arguments = (model._extract_feats, None, window, factor, conf, "cpu")
    return kind(*arguments)


def parts(audio, samples):
    """As ESPnet's script cuts it."""
    steps = len(audio) // samples
    for i in range(steps + 1):
        final = i == steps
        end = len(audio) if final else (i + 1) * samples
        yield audio[i * samples : end], final


@pytest.mark.parametrize("conf", FRONT_ENDS, ids=str)
@pytest.mark.parametrize("factor", [2, 4, 6])
@pytest.mark.parametrize("window", [640, 333])
def test_frames_of_chunks_are_those_of_the_whole(conf, factor, window):
    model = Model(factor, **conf).eval()
    audio = torch.randn(30_000)
    online = processor(model, window, factor, conf)
    for _ in range(2):  # and nothing is left of the first
        found = [
            model.embedded(online.compute_features(part, final)[0])
            for part, final in parts(audio, online.decoding_samples)
        ]
        filled = torch.nn.functional.pad(audio, (0, online._samples - len(audio)))
        lengths = torch.tensor([len(filled)])
        features, _ = model._extract_feats(filled[None], lengths)
        expected = model.embedded(features)
        torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=0)
        online.reset_cache()


def test_they_are_espnet_s_where_those_are_right():
    model = Model(4, **RIGHT).eval()
    audio = torch.randn(30_000)
    both = [
        processor(model, 640, 4, RIGHT, k) for k in (OnlineAudio, OnlineAudioProcessor)
    ]
    assert both[0].decoding_samples == both[1].decoding_samples
    for part, final in parts(audio, both[0].decoding_samples):
        (ours, number), (theirs, their_number) = (
            each.compute_features(part, final) for each in both
        )
        assert torch.equal(ours, theirs) and torch.equal(number, their_number)


def test_espnet_s_are_wrong_elsewhere():
    """Or the others would not be needed."""
    conf = FRONT_ENDS[1]
    model = Model(4, **conf).eval()
    audio = torch.randn(30_000)
    ours, stock = (
        processor(model, 640, 4, conf, k) for k in (OnlineAudio, OnlineAudioProcessor)
    )
    for part, final in list(parts(audio, ours.decoding_samples))[:2]:
        a, b = (
            ours.compute_features(part, final)[0],
            stock.compute_features(part, final)[0],
        )
    assert a.shape != b.shape or (a - b).abs().max() > 0.1


def test_a_short_utterance_is_filled_up_and_a_short_window_refused():
    model = Model(4, **RIGHT).eval()
    online = processor(model, 640, 4, RIGHT)
    features, number = online.compute_features(torch.randn(100), True)
    assert features.size(1) == number == 10_240 // 128 + 1
    online = processor(model, 40, 4, RIGHT)
    with pytest.raises(ConfigError, match="decoding_window=40 must be longer"):
        online.compute_features(torch.randn(640), False)
