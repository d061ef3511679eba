"""Families of ESPnet's task `asr_transducer`, cut and recognising."""

import importlib
import shutil
import sys
import zipfile

import pytest
import soundfile
import torch
import yaml
from chunked import BODY, MODEL, SEARCH, batch, build, config, trained_family
from espnet2.asr_transducer.beam_search_transducer import Hypothesis
from espnet2.asr_transducer.frontend import online_audio_processor
from espnet2.bin import asr_transducer_inference
from soundfile import write
from speech import in_parts, noise

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.bin.run import TRANSDUCER_MODULE, mend_streaming
from espnet_dynsize.core.bounded import bounded
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.latency import listen
from espnet_dynsize.deploy.online import OnlineAudio
from espnet_dynsize.deploy.pack import pack
from espnet_dynsize.train.streaming import check_chunked
from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "asr"
    model = trained_family(folder)
    assert main(["extract", "--asr_exp", str(folder), "--size", "all"]) == 0
    return folder, model


def test_cut_sizes_and_stock_models_train(trained):
    """With the loss that ESPnet lacks."""
    small, _ = load_model(trained[0].with_name("asr_size3"), "")
    small.train()
    audio = torch.randn(3, 16_000), torch.tensor([16_000, 15_000, 14_000])
    data = batch() | dict(speech=audio[0], speech_lengths=audio[1])
    small(**data)[0].sum().backward()
    assert any(p.grad is not None for p in small.encoder.parameters())
    plain = {
        "encoder_conf": {"body_conf": [BODY]},
        "model_conf": {"fastemit_lambda": 0.2},
    }
    stock = build(config(encoder=None, model=None) | plain)
    assert stock.criterion_transducer.fastemit_lambda == 0.2
    stock(**batch())[0].sum().backward()


def test_hostile_configs_are_not_built(trained):
    states = trained[1].state_dict()
    given = config(input_size=None, frontend="default")
    for section, changes in [
        ("encoder_conf", {"body_conf": [BODY | {"num_blocks": 10**6}]}),
        ("encoder_conf", {"body_conf": 2000 * [BODY]}),
        ("encoder_conf", {"main_conf": {"pos_enc_max_len": 10**9}}),
        ("joint_network_conf", {"joint_space_size": 10**9}),
    ]:
        hostile = given | {section: given[section] | changes}
        with (
            pytest.raises(ConfigError, match="must be at most"),
            bounded(hostile, states),
        ):
            pytest.fail("would have been built")
    with bounded(given, states):
        pass


def test_every_size_is_cut(trained):
    folder, model = trained
    audio = torch.randn(1, 16_000), torch.tensor([16_000])
    for size in (3, 5, 8):
        small, written = load_model(folder.with_name(f"asr_size{size}"), "")
        assert written["model"] is None and "sizes" not in written["model_conf"]
        found = []
        for each in (small, model):
            torch.manual_seed(0)  # the same chunk
            with torch.no_grad(), model.activate(size):
                found.append(each.encode(*audio)[0])
        torch.testing.assert_close(*found, atol=1e-6, rtol=0)
        assert len(small.state_dict()) < len(model.state_dict())


def decode(folder, output, *options):
    """The text that ESPnet's script hears."""
    output.mkdir(parents=True)
    write(output / "a.wav", noise(5), 16_000)
    (output / "wav.scp").write_text(f"a {output / 'a.wav'}\n")
    # ESPnet takes the type of the search from a file only.
    (output / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    arguments = [
        *("--asr_train_config", str(folder / "config.yaml")),
        *("--asr_model_file", str(folder / MODEL), "--token_type", "char"),
        *("--output_dir", str(output)),
        *("--config", str(output / "search.yaml")),
        *("--data_path_and_name_and_type", f"{output / 'wav.scp'},speech,sound"),
        *options,
    ]
    DynSizeASRTransducerTask.register()
    # As `run -m` does
    mend_streaming(arguments)
    sys.modules.pop(TRANSDUCER_MODULE, None)  # it would know the stock task
    script = importlib.import_module(TRANSDUCER_MODULE)
    streams = "--streaming" in options
    assert (script.OnlineAudioProcessor is OnlineAudio) == streams
    script.main(arguments)
    return (output / "1best_recog" / "text").read_text().split(maxsplit=1)[-1]


@pytest.fixture
def restored(monkeypatch):
    """What `mend_streaming` changes is undone."""
    stock = online_audio_processor.OnlineAudioProcessor
    monkeypatch.setattr(online_audio_processor, "OnlineAudioProcessor", stock)
    monkeypatch.setitem(sys.modules, TRANSDUCER_MODULE, asr_transducer_inference)


def test_report_and_packing(trained, tmp_path, capsys):
    folders = [str(trained[0].with_name(f"asr_size{size}")) for size in (3, 8)]
    assert main(["report", *folders, "--output_dir", str(tmp_path / "report")]) == 0
    table = (tmp_path / "report" / "report.md").read_text()
    assert "asr_size3" in table and "asr_size8" in table
    assert main(["pack", "--asr_exp", folders[0]]) == 0
    (packed,) = trained[0].with_name("asr_size3").glob("*.zip")
    with zipfile.ZipFile(packed) as files:
        card = files.read("README.md").decode()
        written = yaml.safe_load(files.read("exp/asr_size3/config.yaml"))
    assert "espnet2.bin.asr_transducer_inference" in card
    assert written["encoder"] == "dynsize_chunked"


@pytest.mark.parametrize("size", [3, 8])
def test_espnet_s_script_decodes_whole_and_streaming(trained, tmp_path, size, restored):
    folder = trained[0].with_name(f"asr_size{size}")
    heard = decode(folder, tmp_path / "whole")
    streamed = decode(folder, tmp_path / "streamed", "--streaming", "true")
    assert heard.strip() and streamed.strip()
    # All options in the decoding config
    path = tmp_path / "decode.yaml"
    path.write_text(f"streaming: true\nasr_train_config: {folder / 'config.yaml'}\n")
    arguments = ["--config", str(path), "--output_dir", str(tmp_path)]
    arguments += ["--data_path_and_name_and_type", "a,speech,sound"]
    stock = importlib.reload(online_audio_processor).OnlineAudioProcessor
    mend_streaming(arguments)
    assert online_audio_processor.OnlineAudioProcessor is OnlineAudio is not stock
    with pytest.raises(ConfigError, match="streaming=false must be true, or left out"):
        mend_streaming([*arguments, "--streaming", "false"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"main_conf": {}}, "dynamic_chunk_training=False must be true in training"),
        ({"input_conf": {"vgg_like": True}}, "vgg_like=True must be false to stream"),
    ],
)
def test_encoders_that_do_not_stream(changes, message):
    given = config(input_size=None, frontend="default")
    check_chunked("config.yaml", given)
    given["encoder_conf"] = given["encoder_conf"] | changes
    with pytest.raises(ConfigError, match=message):
        check_chunked("config.yaml", given)
    with pytest.raises(ConfigError, match="normalize=utterance_mvn must be global_mvn"):
        normalized = {"normalize": "utterance_mvn"}
        check_chunked("c", config(input_size=None, frontend="default") | normalized)


# -- recognisers --


def decoded_audio(folder):
    return soundfile.read(folder / "a.wav", dtype="float32")[0]


@pytest.mark.parametrize("size", [3, 8])
def test_loaded_sizes_hear_what_espnet_s_script_hears(
    trained, tmp_path, size, restored
):
    expected = decode(trained[0].with_name(f"asr_size{size}"), tmp_path / "whole")
    for path, chosen in ((trained[0], size), (f"{trained[0]}_size{size}", None)):
        recogniser = espnet_dynsize.load(path, chosen, **SEARCH)
        ((text, tokens, ids, _),) = recogniser(decoded_audio(tmp_path / "whole"))
        assert text == expected.strip() and len(tokens) == len(ids) > 3
        assert recogniser.transcribe(noise(5), 16_000)
        assert [found[0][0] for found in recogniser([noise(5), noise(2.0)])] == [
            recogniser(noise(5))[0][0],
            recogniser(noise(2.0))[0][0],
        ]
    recogniser = espnet_dynsize.load(trained[0], **SEARCH)
    with recogniser.asr_model.activate(size):
        assert recogniser(decoded_audio(tmp_path / "whole"))[0][0] == text


@pytest.mark.parametrize("size", [3, 8])
def test_parts_of_any_length_are_heard_as_by_the_script(
    trained, tmp_path, size, restored
):
    options = dict(decoding_window=320, left_context=8)
    flags = [f"--{key}={value}" for key, value in options.items()]
    folder = trained[0].with_name(f"asr_size{size}")
    expected = decode(folder, tmp_path / "out", "--streaming", "true", *flags).strip()
    speech = decoded_audio(tmp_path / "out")
    for path, chosen in ((trained[0], size), (folder, None)):
        recogniser = espnet_dynsize.load(
            path, chosen, streaming=True, **SEARCH, **options
        )
        # One after another: nothing is left of the one before.
        for samples in (100, 5_120, 9_999, len(speech)):
            text, heard = in_parts(recogniser, speech, samples)
            assert text == expected == recogniser.join(recogniser.tokens)
            assert heard[0] == "" or samples >= 5_120
            assert any(heard[:-1]) or samples > 9_999
    other = espnet_dynsize.load(trained[0], size, streaming=True, **SEARCH)
    assert in_parts(other, speech, 5_120)[0] != expected  # windows of 640 ms


def test_an_utterance_that_fails_or_is_too_short_leaves_nothing(trained, monkeypatch):
    recogniser = espnet_dynsize.load(trained[0], 3, streaming=True, **SEARCH)
    expected, _ = in_parts(recogniser, noise(5), 4_000)
    assert recogniser.finish() == "" == recogniser.finish()
    recogniser.accept(noise(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(recogniser, "streaming_decode", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recogniser.accept(noise(1.0))
    assert recogniser.text == ""
    for samples in (1, 320, 10_240):  # one sample, a part of a window, one window
        in_parts(recogniser, noise(5)[:samples], 320)
    assert in_parts(recogniser, noise(5), 4_000)[0] == expected
    with pytest.raises(ConfigError, match="sampling rate=8000 must be 16000"):
        recogniser.accept(noise(5), 8_000)


def test_two_streams_at_once(trained):
    first, second = (
        espnet_dynsize.load(trained[0], 8, streaming=True, **SEARCH) for _ in range(2)
    )
    speech = noise(3.0)
    expected = in_parts(first, speech, 4_000)[0], in_parts(first, speech[8_000:], 99)[0]
    for begin in range(0, len(speech), 4_000):
        first.accept(speech[begin : begin + 4_000])
        if begin >= 8_000:
            second.accept(speech[begin : begin + 4_000])
    assert (first.finish(), second.finish()) == expected


# Frames of 40 ms: the last of a window waits for the next one; windows that are not a
# whole number of frames end anywhere in one.
@pytest.mark.parametrize(
    "conf, window, delay",
    [
        ({}, 320, 0.4),
        ({}, 640, 0.72),
        ({}, 333, 0.448),
        ({"n_fft": 1024}, 640, 0.76),
        ({"fs": 8000, "n_fft": 256, "win_length": 200, "hop_length": 80}, 640, 0.72),
    ],
    ids=str,
)
def test_what_a_window_waits_for(tmp_path, conf, window, delay):
    front = dict(n_fft=512, win_length=400, hop_length=160, n_mels=20) | conf
    trained_family(tmp_path / "asr", frontend_conf=front)
    options = dict(streaming=True, decoding_window=window)
    recogniser = espnet_dynsize.load(tmp_path / "asr", 3, **options)
    assert recogniser.rate == conf.get("fs", 16_000)
    assert recogniser.frame_seconds == pytest.approx(0.04)
    assert recogniser.delay == pytest.approx(delay)


@pytest.mark.parametrize("samples", [1, 100, 800, 12_000])
def test_listening_to_little(trained, samples):
    recogniser = espnet_dynsize.load(trained[0], 8, streaming=True, **SEARCH)
    text, latency = listen(recogniser, [noise(1)[:samples]])
    # Words of which the alignment says when they end, some of them after the audio
    assert bool(text) == (latency.words is not None) and samples < 12_000 or text


def test_parts_are_ranked_as_the_whole(trained, monkeypatch):
    config = SEARCH["beam_search_config"] | {"score_norm": True}
    options = SEARCH | {"beam_search_config": config}
    recogniser = espnet_dynsize.load(trained[0], 3, streaming=True, **options)
    likely, longer = Hypothesis(-2.0, [0, 2]), Hypothesis(-2.5, [0, 3, 3])
    monkeypatch.setattr(recogniser, "streaming_decode", lambda *a: [likely, longer])
    assert recogniser.accept(noise(1)) == "BB"  # -2.5 / 3 is more than -2 / 2


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(streaming=True, decoding_window=0), "decoding_window=0 must be a whole"),
        (dict(streaming=True, decoding_window=40), "decoding_window=40 must be longer"),
        (dict(streaming=True, left_context=-1), "left_context=-1 must be a whole"),
        (dict(streaming=True, nbest=2), "nbest=2 must be left out with streaming"),
        (dict(decoding_window=640), "decoding_window=640 must be left out without"),
        (dict(ctc_weight=0.3), "ctc_weight=0.3 must be left out"),
        (dict(beam_size=6), "beam_size=6 must be at most 5, the number of tokens wi"),
        (dict(beam_search_config="tsd"), "beam_search_config=tsd must be a section"),
        (dict(beam_search_config={"nbest": 1}), "nbest=1 is not an option of ESPnet"),
        (dict(beam_search_config={"search_type": "x"}), "search_type=x must be one of"),
        (dict(beam_search_config={"search_type": "maes"}), "beam_size=5 must be at mo"),
        (
            dict(streaming=True, beam_search_config={"search_type": "alsd"}),
            "search_type=alsd must be another to stream",
        ),
        (dict(streaming=True, decoding_window=64_000), "decoding_window=64000 must be"),
        (dict(context="whole"), "context=whole must be left out"),
    ],
)
def test_what_load_refuses(trained, options, message):
    with pytest.raises(ConfigError, match=message):
        espnet_dynsize.load(trained[0], **options)


def test_options_that_are_none_are_left_out(trained):
    recogniser = espnet_dynsize.load(trained[0], 3, beam_size=None, lm_file=None)
    assert recogniser.beam_search.beam_size == 5


def test_a_packed_model_decodes_as_it_was_scored(trained, tmp_path):
    folder = shutil.copytree(f"{trained[0]}_size3", tmp_path / "asr_size3")
    search = SEARCH | {"decoding_window": 320, "left_context": 8}
    packed = pack(folder, MODEL, tmp_path / "asr.zip", search=search)
    recogniser = espnet_dynsize.load(packed, streaming=True)
    assert recogniser.beam_search.search_algorithm.__name__ == "time_sync_decoding"
    assert recogniser.delay == pytest.approx(0.4) and recogniser.left_context == 8
    assert espnet_dynsize.load(packed).beam_search.beam_size == 2


def test_the_command(trained, tmp_path, capsys):
    folder = shutil.copytree(trained[0], tmp_path / "asr")
    states = torch.load(folder / MODEL)
    states["joint_network.lin_out.bias"][0] += 3.0  # ESPnet's search is to end
    torch.save(states, folder / MODEL)
    path = tmp_path / "a.wav"
    write(path, noise(5), 16_000)
    arguments = ["transcribe", str(folder), "--size", "3", str(path)]
    assert main(arguments) == 0
    name, text, *_ = capsys.readouterr().out.split("\t")
    assert name == str(path) and text
    more = ["--streaming", "--decoding_window", "320", "--left_context", "8"]
    assert main([*arguments, *more]) == 0
    name, text, waits, *_, words = capsys.readouterr().out.split("\t")
    assert text and waits == "waits 0.40 s"
    assert words.strip().endswith(" s")  # of an alignment
    assert main([*arguments, "--decoding_window", "320"]) == 2
