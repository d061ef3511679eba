"""Any subnet can be cut out, not only the named sizes."""

import pickle

import pytest
import soundfile
import torch
import yaml
from conftest import batch, build, fix_masks, log_probs, model_config, randomise
from experiment import AVERAGED, MODEL, experiment, posteriors

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.calibrate import calibrate, inputs
from espnet_dynsize.deploy.cut import cut, states_of_head
from espnet_dynsize.deploy.experiment import build_model, load_model, load_states
from espnet_dynsize.deploy.pack import pack


def random_model(**changes):
    config = model_config(**changes)
    model = build(config)
    fix_masks(model.schedule)
    randomise(model, 0.2)
    return model.eval(), config


def small_model(config, states):
    small = build_model(config)
    load_states(small, states, "the cut model")
    return small


def unlisted(model) -> Subnet:
    """Four layers that are no size's, with size 5's output layer."""
    masks = {subnet.units for subnet in model.schedule.selection.subnets()}
    subnet = Subnet.of([0, 3, 5, 6], model.encoder.num_units, "5")
    assert subnet.units not in masks
    return subnet


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalize_before": False},
        {"granularity": "component", "sizes": None, "budgets": {"params": [0.5, 1]}},
    ],
    ids=str,
)
def test_a_cut_subnet_computes_what_the_supernet_does(changes):
    model, config = random_model(**changes)
    head = model.schedule.selection.family.head(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        drawn = torch.rand(model.encoder.num_units, generator=generator) < 0.6
        subnet = Subnet(tuple(drawn.tolist()), head)
        data = batch()
        with model.activate(subnet), torch.no_grad():
            expected = log_probs(model, data)
        small = small_model(*cut(model, config, subnet))
        torch.testing.assert_close(log_probs(small, data), expected, atol=1e-6, rtol=0)


def test_heads_differ():
    model, config = random_model(conv_norm="batch_norm")
    for block in model.encoder.encoders:
        block.conv_module.norm.running_mean.fill_(1.0)
        block.conv_module.norm.by_size["5"].running_mean.fill_(2.0)
    for head, mean in (("5", 2.0), ("full", 1.0)):
        states = states_of_head(model.state_dict(), head)
        for number in range(2):
            name = f"encoder.encoders.{number}.conv_module.norm.running_mean"
            assert (states[name] == mean).all()


def test_somebody_else_s_statistics_are_not_used_in_silence():
    model, config = random_model(conv_norm="batch_norm")
    subnet = unlisted(model)  # keeps a convolution: unit 6
    for use in (lambda: cut(model, config, subnet), lambda: model.activate(subnet)):
        with pytest.raises(ConfigError, match="has no statistics for it: `espnet"):
            use()
    without = Subnet.of([0, 1, 3, 7], 8, "5")
    cut(model, config, without)  # nothing there has statistics


def test_calibrated_statistics_are_those_of_the_audio():
    model, config = random_model(conv_norm="batch_norm")
    subnet = unlisted(model)
    audio = [torch.randn(40, 5) for _ in range(6)]
    for name, count in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            count.fill_(1000)  # as training leaves it: a new average must not know it
    small = small_model(*cut(model, config, subnet, audio))
    norm = small.encoder.blocks[1].conv_module.norm
    means = []
    norm.register_forward_hook(lambda _, x, y: means.append(x[0].mean(dim=(0, 2))))
    for speech in audio:
        log_probs(small, dict(speech=speech[None], speech_lengths=torch.tensor([40])))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(dim=0))
    assert norm.momentum == 0.1 and not norm.training


def test_calibration_changes_nothing_but_norms():
    model, config = random_model(conv_norm="batch_norm")
    small = small_model(*cut(model, config, unlisted(model), [torch.randn(40, 5)]))
    before = {n: v.clone() for n, v in small.state_dict().items()}
    assert calibrate(small, [torch.randn(30, 5)]) == 1
    changed = {
        n for n, v in small.state_dict().items() if not torch.equal(v, before[n])
    }
    assert changed and all(".norm." in name for name in changed)


@pytest.mark.parametrize(
    "subnet, message",
    [
        (Subnet((True,) * 7), "num_units=7 must be 8"),
        (Subnet((True,) * 8, "4"), r"head=4 must be one of \['full', '3', '5'\]"),
        (Subnet((True,) * 8, "8"), r"head=8 must be one of"),
    ],
)
def test_subnets_of_other_supernets(subnet, message):
    model, config = random_model()
    with pytest.raises(ConfigError, match=message):
        cut(model, config, subnet)
    with pytest.raises(ConfigError, match=message):
        model.activate(subnet)


def test_a_subnet_of_the_search_phase_is_refused():
    config = model_config()
    model = build(config)
    subnet = Subnet.of([0, 2, 6], 8, "5")
    for use in (lambda: cut(model, config, subnet), lambda: model.activate(subnet)):
        with pytest.raises(ConfigError, match="has not trained yet: the checkpoint is"):
            use()
    with model.activate(8):  # the full network always trains
        pass


def test_a_cut_encoder_is_no_supernet():
    with pytest.raises(ConfigError, match="not for an encoder with keep_layers"):
        build(model_config(keep_layers=[0, 1, 2], sizes=[1, 2, 8]))


def test_calibration_needs_audio():
    model, config = random_model(conv_norm="batch_norm")
    with pytest.raises(ConfigError, match="must be at least one audio file"):
        cut(model, config, unlisted(model), [])


def test_models_can_be_pickled():
    config = model_config({"ctc_weight": 0.3}) | {"decoder": "transformer"}
    config["decoder_conf"] = {"linear_units": 8, "attention_heads": 2, "num_blocks": 1}
    model = build(config).eval()
    fix_masks(model.schedule)
    data = batch()
    for one in (model, small_model(*cut(model, config, model.subnet(3)))):
        twin = pickle.loads(pickle.dumps(one))
        assert torch.equal(log_probs(twin, data), log_probs(one, data))
        losses = [m.eval()(**batch_copy(data))[0] for m in (one, twin)]
        assert torch.equal(*losses)


def batch_copy(data):
    return {key: value.clone() for key, value in data.items()}


def test_only_a_supernet_can_be_cut():
    model, config = random_model()
    small_config, states = cut(model, config, model.subnet(3))
    with pytest.raises(ConfigError, match="only a supernet"):
        cut(small_model(small_config, states), small_config, Subnet((True,) * 8))


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, model = experiment(tmp_path / "asr")
    path = tmp_path / "tiny.yaml"
    path.write_text("{num_units: 8, kept: [0, 2, 3], head: 3}")
    command = ["extract", "--asr_exp", "asr", "--subnet", "tiny.yaml"]
    assert main(command) == 2
    assert "extract --calibrate" in capsys.readouterr().err
    assert not (tmp_path / "asr_tiny").exists()
    soundfile.write(tmp_path / "a.wav", torch.randn(8000).numpy(), 8000)
    assert main([*command, "--calibrate", "a.wav"]) == 0
    assert "asr_tiny: subnet tiny, 3 layers kept" in capsys.readouterr().out
    record = origin.read(tmp_path / "asr_tiny")
    assert Subnet.from_yaml(record["subnet"]) == Subnet.of([0, 2, 3], 8, "3")
    small, config = load_model(tmp_path / "asr_tiny", MODEL)
    assert config["encoder_conf"]["keep_layers"] == [0, 2, 3]
    with pytest.raises(ConfigError, match="size=3 is not in"):
        espnet_dynsize.load(tmp_path / "asr_tiny", 3)  # three layers, but not size 3
    espnet_dynsize.load(tmp_path / "asr_tiny", Subnet.of([0, 2, 3], 8, "3"))
    zipped = pack(tmp_path / "asr_tiny", MODEL)
    audio = torch.randn(8000)
    loaded = espnet_dynsize.load(zipped).asr_model
    torch.testing.assert_close(posteriors(loaded, audio), posteriors(small, audio))
    assert main(["extract", "--asr_exp", "asr", "--size", "3", "--calibrate", "a"]) == 2
    assert main([*command[:-1], "nowhere.yaml"]) == 2
    assert "nowhere.yaml does not exist" in capsys.readouterr().err


def test_audio_to_calibrate_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment(tmp_path / "asr", dict(input_layer="conv2d"))
    (tmp_path / "tiny.yaml").write_text("{num_units: 8, kept: [0, 2, 3], head: 3}")
    command = ["extract", "--asr_exp", "asr", "--subnet", "tiny.yaml", "--calibrate"]
    for samples, said in (
        (80, "a.wav: speech is too short: it has 80 samples (5 ms), and the model "),
        (1280, "input 1 cannot be used: Expected more than 1 value per channel"),
        (0, "a.wav: has no samples"),
    ):
        soundfile.write("a.wav", torch.randn(samples).numpy(), 16000)
        assert main([*command, "a.wav"]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "asr_tiny").exists()
    front = dict(input_size=20, frontend=None, frontend_conf={}, normalize=None)
    experiment(tmp_path / "features", normalize_conf={}, **front)
    assert main(["extract", "--asr_exp", "features", *command[3:], "a.wav"]) == 2
    assert "takes features [frames, 20], not audio" in capsys.readouterr().err


def test_long_audio_to_calibrate_on_is_cut(tmp_path):
    folder, _ = experiment(tmp_path / "asr")
    soundfile.write(tmp_path / "a.wav", torch.randn(70_000).numpy(), 1000)
    heard = inputs(*load_model(folder, MODEL), [tmp_path / "a.wav"] * 2)
    lengths = [len(speech) for speech in heard]
    assert sum(lengths) == 2 * 70 * 16000 and max(lengths) <= 30 * 16000


def test_load_takes_a_subnet(tmp_path):
    folder, model = experiment(tmp_path / "asr", {"conv_norm": "layer_norm"})
    subnet = unlisted(model)
    audio = torch.randn(8000)
    with model.activate(subnet):
        expected = posteriors(model, audio)
    loaded = espnet_dynsize.load(folder, subnet, AVERAGED).asr_model
    torch.testing.assert_close(posteriors(loaded, audio), expected, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="num_units=20 must be 8, the encoder's"):
        loaded.encoder.activate(Subnet((True,) * 20))
    small = loaded.encoder
    with pytest.raises(ConfigError, match="takes a Subnet; a supernet's"):
        small.activate(5)


def test_building_under_inference_mode(tmp_path):
    folder, model = experiment(tmp_path / "asr")
    audio = torch.randn(8000)
    with model.activate(5):
        expected = posteriors(model, audio)
    with torch.inference_mode():
        loaded = espnet_dynsize.load(folder, 5).asr_model
        torch.testing.assert_close(posteriors(loaded, audio), expected)


def test_opening_a_model_imports_nothing(tmp_path, monkeypatch):
    """A config says which selector; configs come from strangers."""
    package = tmp_path / "hostile"
    folder, model = experiment(package)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model_conf"]["selector"] = "hostile.evil.Selector"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (package / "evil.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    audio = torch.randn(8000)
    for size in (None, 5):
        loaded = espnet_dynsize.load(folder, size).asr_model
        with model.activate(size or 8):
            expected = posteriors(model, audio)
        torch.testing.assert_close(posteriors(loaded, audio), expected)
    assert main(["extract", "--asr_exp", str(folder), "--size", "all"]) == 0


def test_a_checkpoint_of_version_0_1_is_read(tmp_path):
    folder, model = experiment(tmp_path / "asr")
    states = torch.load(folder / AVERAGED)
    old = {}
    for name, value in states.items():
        name = name.replace("schedule.selection.", "encoder.schedule.")
        old[
            name.replace("schedule.update", "encoder.schedule.update").replace(
                "schedule.joint_epochs", "encoder.schedule.joint_epochs"
            )
        ] = value
    assert "encoder.schedule.update" in old and "encoder.schedule.fixed_masks" in old
    torch.save(old, folder / AVERAGED)
    audio = torch.randn(8000)
    for size in (3, None):
        loaded = espnet_dynsize.load(folder, size).asr_model
        with model.activate(size or 8):
            expected = posteriors(model, audio)
        torch.testing.assert_close(posteriors(loaded, audio), expected)
