"""A family of ESPnet's task `asr_transducer`."""

import argparse
import copy
import importlib
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml
from conftest import TOKENS, fix_masks, randomise
from espnet2.asr_transducer.encoder.modules.multi_blocks import MultiBlocks
from espnet2.asr_transducer.frontend import online_audio_processor
from espnet2.bin import asr_transducer_inference
from espnet2.tasks import asr_transducer
from soundfile import write
from training import assert_same, train_arguments, write_data

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.bin.run import TRANSDUCER_MODULE, mend_streaming
from espnet_dynsize.core.bounded import bounded
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.online import OnlineAudio
from espnet_dynsize.encoder.costs import flops
from espnet_dynsize.train.ahead import check_ahead
from espnet_dynsize.train.streaming import check_chunked
from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask

MODEL = "valid.loss.ave.pth"
BODY = dict(block_type="conformer", hidden_size=8, linear_size=12, heads=2)
BODY |= dict(conv_mod_kernel_size=3, num_blocks=2, dropout_rate=0.1)
SMALL = dict(
    encoder="dynsize_chunked",
    encoder_conf=dict(
        body_conf=[BODY],
        main_conf=dict(dynamic_chunk_training=True, short_chunk_size=4),
        conv_norm="layer_norm",
    ),
    decoder="rnn",
    decoder_conf=dict(embed_size=8, hidden_size=8),
    joint_network_conf=dict(joint_space_size=8),
    model="dynsize",
)
FAMILY = dict(
    sizes=[3, 5, 8],
    selector_conf={"search_updates": 0},
    auxiliary_ctc_weight=0.3,
    report_cer=True,
)


def config(model_conf=None, **changes):
    given = DynSizeASRTransducerTask.get_default_config()
    given |= dict(token_list=TOKENS, token_type="char", input_size=20, frontend=None)
    given |= dict(normalize=None, **SMALL)
    return given | dict(model_conf={**FAMILY, **(model_conf or {})}) | changes


def build(given):
    given = copy.deepcopy(given)
    return DynSizeASRTransducerTask.build_model(argparse.Namespace(**given))


def batch():
    return dict(
        speech=torch.randn(3, 60, 20),
        speech_lengths=torch.tensor([60, 52, 44]),
        text=torch.tensor([[2, 3, 4], [3, 2, -1], [3, 2, -1]]),
        text_lengths=torch.tensor([3, 2, 2]),
    )


def advance(model, updates=1):
    if not model.schedule.planned:
        model.schedule.plan(100)
    for _ in range(updates):
        model.begin_update(seed=0)


def test_the_full_network_is_the_stock_one():
    model = build(config())
    stock = build(
        config(encoder=None, model=None)
        | {
            "model_conf": {
                "auxiliary_ctc_weight": 0.3,
                "report_cer": True,
            },
            "encoder_conf": {
                k: v for k, v in SMALL["encoder_conf"].items() if k != "conv_norm"
            },
        }
    )
    assert type(stock).__name__ == "ESPnetASRTransducerModel"
    model = build(
        config()
        | {"encoder_conf": {**SMALL["encoder_conf"], "conv_norm": "batch_norm"}}
    )
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert all("schedule" in name or "by_size" in name for name in missing)
    data = batch()
    found = []
    for each in (model, stock):
        each.eval()
        torch.manual_seed(2)  # the same chunk
        with torch.no_grad():
            encoded = each.encode(data["speech"], data["speech_lengths"])
        found.append(encoded[0])
    assert torch.equal(*found)


def test_a_step_is_the_sum_of_its_subnets():
    model = build(config(dict(sandwich="whole", subnet_weight=0.25)))
    model.encoder.dynamic_chunk_training = False  # drawn anew for every batch
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    advance(model)
    data = batch()
    loss, stats, weight = model(**data)
    loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    losses = {}
    for size in (3, 5, 8):
        with torch.no_grad(), model.activate(size):
            own, _ = model.stock_loss(model._encode(data), data)
        losses[size] = float(own)
        assert float(stats[f"loss_{size}"]) == pytest.approx(losses[size], rel=1e-5)
        parts = stats[f"loss_transducer_{size}"] + 0.3 * stats[f"loss_aux_ctc_{size}"]
        assert float(parts) == pytest.approx(losses[size], rel=1e-5)
    # Nothing is distilled before the teacher emits tokens.
    total = losses[8] + 0.25 * (losses[3] + losses[5])
    assert float(loss) == pytest.approx(total, rel=1e-5) and weight == 3


@pytest.mark.parametrize("training", [True, False])
def test_subnets_of_a_batch_see_the_same_chunks(training, monkeypatch):
    seen = []

    def call(self, x, pos_enc, mask, chunk_mask=None):
        seen.append(chunk_mask)
        return stock(self, x, pos_enc, mask, chunk_mask=chunk_mask)

    stock = MultiBlocks.forward
    monkeypatch.setattr(MultiBlocks, "forward", call)
    model = build(config(dict(sandwich="whole"))).train(training)
    advance(model)
    frames = set()
    for seed in range(8):
        torch.manual_seed(seed)
        seen.clear()
        model(**batch())
        assert len(seen) == 3 and all(torch.equal(mask, seen[0]) for mask in seen)
        # How many frames the first one may see: its chunk
        frames.add(int((~seen[0][0]).sum()))
    assert len(frames) > 2 if training else frames == {4}


def test_counting_costs_draws_nothing():
    model = build(config())
    torch.manual_seed(0)
    flops(model.encoder)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_the_auxiliary_ctc_teaches():
    model = build(config(dict(sandwich="whole")))
    advance(model)
    data = batch()
    with torch.no_grad():
        model.ctc_lin.bias[0] -= 10.0  # no blanks: it emits tokens
        model.ctc_lin.weight.mul_(20.0)
    _, stats, _ = model(**data)
    assert float(stats["loss_distill_3"]) > 0
    without = build(config(dict(auxiliary_ctc_weight=0.0)))
    advance(without, 2)
    _, stats, _ = without(**data)
    assert without.ctc is None and not any("distill" in name for name in stats)


def test_validation_has_every_size():
    model = build(config()).eval()
    advance(model)
    _, stats, _ = model(**batch())
    wanted = ("loss_transducer", "cer_transducer", "loss_aux_ctc")
    assert {f"{n}_{s}" for n in wanted for s in (3, 5, 8)} <= set(stats)
    each = [float(stats[f"loss_{size}"]) for size in (3, 5, 8)]
    assert float(stats["loss"]) == pytest.approx(sum(each) / 3)


def test_sparsities_train():
    levels = dict(levels=[0, 0.5], start=0.0, ramp_end=0.0, freeze=0.1)
    given = config(dict(sizes=None, selector_conf=None, sparsity=levels))
    model = build(given)
    advance(model, 21)
    loss, stats, _ = model(**batch())
    assert loss.isfinite() and "loss_sparse" in stats
    name = "encoders.blocks.0.self_att.linear_q"
    assert name in model.schedule.sparsity.patterns
    with model.activate("sparsity50"):
        assert model.encoder.switch.now.masks[name].mean() == 0.5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_conf": {"use_k2_pruned_loss": True}}, "use_k2_pruned_loss=True must"),
        ({"model_conf": {"sises": [1]}}, "sises"),
        ({"encoder": "dynsize_conformer"}, "encoder=dynsize_conformer must be one of"),
        (
            {"encoder": None, "encoder_conf": {"body_conf": [BODY]}},
            "needs a supernet encoder",
        ),
        ({"model": None}, "sizes=.* needs model: dynsize"),
    ],
)
def test_what_is_refused(changes, message):
    given = config(changes.pop("model_conf", None), **changes)
    with pytest.raises(ConfigError, match=message):
        build(given)


# -- training, and what follows --


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), 20)


def train(data, exp, *extra):
    options = ["--keep_nbest_models=1", "--input_size=20", *extra]
    arguments = train_arguments(data, exp, options)
    conf = {**FAMILY, "selector_conf": {"search_updates": 6}}
    path = exp.parent / f"{exp.name}.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"model_conf": conf}))
    DynSizeASRTransducerTask.register()
    asr_transducer.ASRTransducerTask.main(cmd=arguments)
    return torch.load(exp / "checkpoint.pth", weights_only=False)


def test_trains_and_resumes_bit_for_bit(data, tmp_path):
    expected = train(data, tmp_path / "whole", "--max_epoch=4")
    train(data, tmp_path / "two", "--max_epoch=2")
    found = train(data, tmp_path / "two", "--max_epoch=4")
    assert_same(found["model"], expected["model"])
    assert expected["model"]["schedule.update"] == 16
    # Another family is not resumed, nor one that would be validated in other chunks.
    for given, message in (
        ("short_chunk_size: 4", "another encoder_conf"),
        ("dynamic_chunk_training: true", "short_chunk_size=None must be 4, with which"),
    ):
        extra = ["--encoder_conf", f"main_conf={{{given}}}"]
        with pytest.raises(ConfigError, match=message):
            train(data, tmp_path / "two", "--max_epoch=5", *extra)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A random family that hears audio."""
    torch.manual_seed(5)
    front = dict(n_fft=512, win_length=400, hop_length=160, n_mels=20)
    given = config(input_size=None, frontend="default", frontend_conf=front)
    model = build(given)
    fix_masks(model.schedule)
    randomise(model, 0.3)
    with torch.no_grad():
        model.joint_network.lin_out.bias[0] -= 2.0  # fewer blanks
    folder = tmp_path_factory.mktemp("trained") / "asr"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    torch.save(model.state_dict(), folder / MODEL)
    assert main(["extract", "--asr_exp", str(folder), "--size", "all"]) == 0
    return folder, model.eval()


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
    audio = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    write(output / "a.wav", 0.1 * audio, 16_000)
    (output / "wav.scp").write_text(f"a {output / 'a.wav'}\n")
    arguments = [
        *("--asr_train_config", str(folder / "config.yaml")),
        *("--asr_model_file", str(folder / MODEL), "--token_type", "char"),
        *("--output_dir", str(output), "--beam_size", "2"),
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


MVN = ("--normalize", "global_mvn")


def check(tmp_path, *arguments, **changes):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"model_conf": FAMILY} | changes))
    check_ahead(["--config", str(path), *arguments], True, transducer=True)


def test_what_a_training_would_refuse_is_found_out_ahead(tmp_path):
    check(tmp_path, *MVN)
    with pytest.raises(ConfigError, match="sizes=.* must end with the full size, 8"):
        check(tmp_path, *MVN, model_conf=FAMILY | {"sizes": [3, 9]})
    with pytest.raises(ConfigError, match="unrecognized arguments: ctc_conf"):
        check(tmp_path, *MVN, ctc_conf={})
    with pytest.raises(ConfigError, match="frontend=s3prl must be one of default"):
        whole = SMALL["encoder_conf"] | {"main_conf": {}}
        check(tmp_path, *MVN, frontend="s3prl", encoder_conf=whole)


def test_load_says_what_decodes_it(trained):
    with pytest.raises(ConfigError, match="run -m espnet2.bin.asr_transducer_infer"):
        espnet_dynsize.load(trained[0])


def test_what_would_not_stream_is_refused_before_training(data, tmp_path):
    options = ["--frontend=default", "--normalize=utterance_mvn", "--input_size=null"]
    with pytest.raises(ConfigError, match="normalize=utterance_mvn must be global_mvn"):
        train(data, tmp_path / "exp", *options)


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
