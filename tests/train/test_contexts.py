"""One network for whole utterances and for blocks of several sizes."""

import argparse
import copy

import numpy as np
import pytest
import torch
import yaml
from conftest import batch, build, encoder_conf, log_probs, model_config
from experiment import AVERAGED, STREAMING, experiment
from soundfile import write

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.checkpoint import misfit
from espnet_dynsize.core.context import Context
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.deploy import card
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.train.check import check_training
from espnet_dynsize.train.resume import check_same_blocks
from espnet_dynsize.train.task import DynSizeASRTask

ENCODER = "dynsize_contextual_block_conformer"
BLOCKS = dict(block_size=8, hop_size=4, look_ahead=2)
CONTEXTS = ["whole", "8/4/2", "6/2/2"]
SPARSITY = dict(levels=[0, 0.5], start=0.0, ramp_end=0.0, freeze=0.1)


def config(model_conf=None, **encoder):
    encoder = {"conv_norm": "layer_norm", **BLOCKS, **encoder}
    conf = encoder_conf(**encoder)
    del conf["rel_pos_type"]
    given = {"contexts": CONTEXTS, "selector_conf": {"search_updates": 0}}
    changes = dict(encoder=ENCODER, encoder_conf=conf)
    return model_config(given | (model_conf or {})) | changes


def advance(model, updates=1):
    if not model.schedule.planned:
        model.schedule.plan(100)
    for _ in range(updates):
        model.begin_update(seed=0)


def drawn(model, updates):
    found = []
    for _ in range(updates):
        advance(model)
        samples = model.sampler.draw(model.schedule.now, model.schedule.draws())
        found.append(samples)
    return found


@pytest.mark.parametrize(
    "sizes, sandwich, expected",
    [
        ([8], "alternate", [["8", "8_again"]]),
        ([3, 8], "alternate", [["8", "8_again"], ["8", "3"]]),
        (
            [3, 5, 8],
            "alternate",
            [["8", name] for name in ("3", "5", "8_again", "5", "3", "8_again")],
        ),
        ([3, 5, 8], "whole", [["8", "8_again", "5", "3"]]),
    ],
)
def test_the_full_network_leads_with_whole_utterances(sizes, sandwich, expected):
    model = build(config(dict(sizes=sizes, sandwich=sandwich, subnet_weight=0.25)))
    found = drawn(model, 12)
    names = [[s.name for s in samples] for samples in found]
    assert names == 12 // len(expected) * expected
    streaming = set()
    for leader, *others in found:
        assert leader.context == Context(0) and leader.weight == 1.0
        assert {s.weight for s in others} == {0.25}
        (context,) = {s.context for s in others}
        streaming.add(context.name)
        assert all(s.subnet == leader.subnet for s in others if "again" in s.name)
    assert streaming == {"8/4/2", "6/2/2"}


def test_contexts_are_the_same_on_every_rank_and_when_resumed():
    conf = dict(sizes=[3, 5, 8], sandwich="alternate", layer_drop_joint=0.5)
    first = drawn(build(config(conf)), 12)
    torch.manual_seed(1234)  # other dropout elsewhere
    second = drawn(build(config(conf)), 12)
    assert [[s.context for s in x] for x in first] == [
        [s.context for s in x] for x in second
    ]
    # Stochastic depth is for layers that smaller sizes lack, while they learn.
    again = [o for _, *o in first if o[0].name == "8_again"]
    assert again and all(s.drop is None for o in again for s in o)
    assert all(leader.drop is not None for leader, *_ in first)


def test_without_whole_utterances_all_see_blocks():
    model = build(config(dict(contexts=["6/2/2", "8/4/2"])))
    found = drawn(model, 12)
    assert {leader.context.name for leader, *_ in found} == {"6/2/2"}
    assert {s.context.name for _, *o in found for s in o} == {"6/2/2", "8/4/2"}


def test_while_searching_the_gated_subnet_keeps_its_turns():
    conf = dict(sandwich="alternate", selector_conf={"search_updates": 12})
    names = [[s.name for s in samples] for samples in drawn(build(config(conf)), 12)]
    assert names == 6 * [["8", "gated"], ["8", "8_again"]]


def test_sparse_subnets_see_blocks():
    conf = dict(sizes=None, selector_conf=None, sparsity=SPARSITY)
    conf["sandwich"] = "alternate"
    found = drawn(build(config(conf)), 6)
    names = [[s.name for s in samples] for samples in found]
    assert names == 3 * [["8", "sparse"], ["8", "8_again"]]
    for leader, other in found:
        assert leader.masks is None and leader.context.whole
        assert not other.context.whole


def test_a_network_that_is_pruned_is_so_in_every_context():
    conf = dict(sizes=None, selector_conf=None)
    model = build(config(conf | dict(sparsity=SPARSITY | {"levels": [0.5]})))
    advance(model, 20)
    leader, again = model.sampler.draw(20, model.schedule.draws())
    assert leader.masks and again.masks is leader.masks
    watched = dict(model._watched())
    assert set(watched) == {"sparsity50", "whole", "6_2_2"}
    assert {s.subnet for s in watched.values()} == {leader.subnet}
    # It has trained with whole utterances.
    assert model.context("whole", leader.subnet) == Context(0)


def test_a_context_computes_what_an_encoder_that_is_built_so_does():
    model = build(config()).eval()
    data = batch(frames=23)
    full = model.schedule.selection.family.full
    seen = []
    for name in CONTEXTS:
        context = Context.read(name, "")
        sizes = dict(zip(BLOCKS, context if not context.whole else (0, 4, 2)))
        # Of another context, the same checkpoint: the identity has no block sizes.
        other = build(config(**sizes)).eval()
        other.load_state_dict(model.state_dict())
        with model.activate(full):
            active = model.encoder.switch.now
            chosen = copy.copy(active)
            object.__setattr__(chosen, "context", context)
            with model.encoder.activate(chosen):
                found = log_probs(model, data)
        torch.testing.assert_close(found, log_probs(other, data), rtol=0, atol=0)
        seen.append(found)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(seen, seen[1:]))


def test_a_step_is_the_sum_of_its_contexts():
    """Each loss with its own context, and the first teaches."""
    conf = dict(sandwich="alternate", subnet_weight=0.5, distill_weight=0.5)
    model = build(config(conf | dict(sizes=[8])))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    advance(model)
    data = batch(frames=23)
    loss, stats, _ = model(**data)
    losses = []
    for name in ("whole", "8/4/2", "6/2/2"):
        sampled = copy.copy(model.sampler.draw(1, model.schedule.draws())[0])
        object.__setattr__(sampled, "context", Context.read(name, ""))
        with torch.no_grad(), model.encoder.activate(sampled):
            own, _ = model.stock_loss(model._encode(data), data)
        losses.append(float(own))
    assert float(stats["loss_8"]) == pytest.approx(losses[0], rel=1e-5)
    again = float(stats["loss_8_again"])
    assert any(again == pytest.approx(own, rel=1e-5) for own in losses[1:])
    total = losses[0] + 0.5 * (again + 0.5 * float(stats["loss_distill_8_again"]))
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_validation_has_a_loss_for_the_full_network_in_every_context():
    model = build(config()).eval()
    advance(model, 1)
    _, stats, _ = model(**batch(frames=23))
    losses = {name for name in stats if name.startswith("loss_ctc_")}
    expected = ("3", "5", "8", "whole", "6_2_2")
    assert losses == {f"loss_ctc_{name}" for name in expected}
    found = [float(stats[f"loss_ctc_{name}"]) for name in ("8", "whole", "6_2_2")]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"contexts": ["whole"]}, "contexts=.'whole'. must be several, each there"),
        ({"contexts": ["8/4/2", "8/4/2"]}, "must be several, each there once"),
        ({"contexts": ["8/4/2", "8/4"]}, "contexts=8/4 must be whole, or block_size/"),
        (
            {"contexts": ["8/4/2", "-8/4/2"]},
            "contexts=-8/4/2 must be whole, or block_s",
        ),
        ({"contexts": ["8/4/2", "5/4/2"]}, "contexts=5/4/2 must be .* at least hop_si"),
        ({"contexts": ["8/4/2", "8/0/2"]}, "contexts=8/0/2 must be a hop_size above 0"),
        ({"contexts": ["whole", "6/2/2"]}, "must be with 8/4/2, as the encoder is bu"),
        ({"contexts": ["8/4/2", "whole"]}, r"must be \[whole, 8/4/2\]"),
        ({"contexts": "whole"}, "contexts=whole must be"),
        ({"contexts": ["8/4/2", "08/4/2"]}, "contexts=08/4/2 must be whole, or bloc"),
        ({"contexts": ["8/4/2", "²/1/0"]}, "contexts=²/1/0 must be whole, or bloc"),
        ({"sandwich": "pairs"}, "sandwich=pairs must be whole or alternate with con"),
    ],
)
def test_bad_contexts_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(config(changes))


def test_another_order_or_other_contexts_are_another_family():
    model = build(config())
    for named in (["whole", "6/2/2", "8/4/2"], ["whole", "8/4/2"], None):
        other = build(config(dict(contexts=named)))
        message = misfit(other, model.state_dict())
        assert message and "another contexts than" in message


def test_training_begins_in_blocks(tmp_path):
    conf = config(**{**BLOCKS, "block_size": 0})
    build(conf)  # what extract writes
    args = argparse.Namespace(**{**DynSizeASRTask.get_default_config(), **conf})
    args.ngpu, args.collect_stats, args.use_tensorboard = 0, False, False
    args.input_size, args.frontend, args.normalize = None, "default", None
    with pytest.raises(ConfigError, match="block_size=0 must be above 0 with contexts"):
        check_training(args)


def test_blocks_are_those_with_which_the_run_began(tmp_path):
    conf = config()
    args = argparse.Namespace(**config(block_size=6, hop_size=2))
    check_same_blocks(argparse.Namespace(**conf), conf, tmp_path)
    with pytest.raises(ConfigError, match="block_size=6 must be 8, with which the run"):
        check_same_blocks(args, conf, tmp_path)


def test_chunks_are_encoded_in_the_encoder_s_own_context():
    encoder = build(config()).encoder.eval()
    x, length = torch.randn(1, 20, 5), torch.tensor([20])
    full = Subnet((True,) * 8)
    with (
        encoder.activate(Sampled(full, context=Context(6, 2, 2))),
        pytest.raises(ConfigError, match="context=6/2/2 must be the encoder's own"),
    ):
        encoder(x, length, infer_mode=True)
    whole = build(config(block_size=0)).encoder.eval()
    with pytest.raises(ConfigError, match="context=whole must be the encoder's own"):
        whole(x, length, infer_mode=True)


def test_contexts_need_an_encoder_that_streams_and_no_batch_norm():
    with pytest.raises(ConfigError, match="contexts=.* must be left out: the encoder"):
        build(model_config({"contexts": CONTEXTS}))
    with pytest.raises(ConfigError, match="contexts=.* left out with conv_norm: batch"):
        build(config(conv_norm="batch_norm"))


# -- after training --


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(1)
    conf = dict(ctc_weight=1.0, sizes=[3, 5, 8], contexts=CONTEXTS)
    folder = tmp_path_factory.mktemp("contexts") / "asr"
    changes = dict(encoder=ENCODER, normalize=None, model_conf=conf)
    changes["encoder_conf"] = {**STREAMING, **BLOCKS, "conv_norm": "layer_norm"}
    experiment(folder, **changes)
    return folder


def outputs(model, audio):
    with torch.no_grad():
        return model.encode(audio[None], torch.tensor([len(audio)]))[0]


def test_extract_and_load_in_a_context(trained, capsys):
    audio = torch.randn(16_000)
    for size, context, suffix in [
        (8, "whole", "size8_whole"),
        (8, "6/2/2", "size8_6_2_2"),
        (3, "6/2/2", "size3_6_2_2"),
    ]:
        command = ["extract", "--asr_exp", str(trained), "--context", context]
        command += [] if size == 8 else ["--size", str(size)]
        assert main(command) == 0
        folder = trained.with_name(f"asr_{suffix}")
        assert f"{folder}: size {size}" in capsys.readouterr().out
        record = yaml.safe_load((folder / "origin.yaml").read_text())
        assert (record["size"], record["context"]) == (size, context)
        assert f"in the context {context}." in card._origin(record)
        # By its size, as a cut one, and with the supernet's own checkpoint
        espnet_dynsize.load(folder, size)
        config = yaml.safe_load((trained / f"config_{suffix}.yaml").read_text())
        assert config["model_conf"]["subnet"] == size
        blocks = 0 if context == "whole" else 6
        assert config["encoder_conf"]["block_size"] == blocks
        model, written = load_model(folder, "")
        assert "contexts" not in written["model_conf"]
        loaded = espnet_dynsize.load(trained, size, context=context).asr_model
        found = outputs(loaded, audio)
        torch.testing.assert_close(outputs(model, audio), found, rtol=0, atol=0)
        (usual,) = (espnet_dynsize.load(trained, size).asr_model,)
        assert (outputs(usual, audio) - found).abs().max() > 1e-3
        # Once more, it is there.
        assert main(command) == 0 and "was there before" in capsys.readouterr().out
    # The full network, without a size
    loaded = espnet_dynsize.load(trained, context="whole").asr_model
    whole, _ = load_model(trained.with_name("asr_size8_whole"), "")
    torch.testing.assert_close(outputs(loaded, audio), outputs(whole, audio))


def test_the_config_of_the_supernet_can_say_another_context(trained):
    audio = torch.randn(16_000)
    path = trained / "config.yaml"
    written = path.read_text()
    expected = espnet_dynsize.load(trained, context="whole").asr_model
    try:
        changed = yaml.safe_load(written)
        changed["encoder_conf"]["block_size"] = 0
        path.write_text(yaml.safe_dump(changed))
        found = espnet_dynsize.load(trained).asr_model
        torch.testing.assert_close(outputs(found, audio), outputs(expected, audio))
        # Sizes that have not trained with it
        with pytest.raises(ConfigError, match="context=whole must be that of the full"):
            espnet_dynsize.load(trained, 3)
        model, _ = load_model(trained, "")
        with pytest.raises(ConfigError, match="context=whole must be that"):
            model.activate(3)
        with pytest.raises(ConfigError, match="context=whole must be that"):
            extract(trained, "", [3])
        chosen = copy.deepcopy(changed)
        chosen["model_conf"]["subnet"] = 3
        path.write_text(yaml.safe_dump(chosen))
        with pytest.raises(ConfigError, match="context=whole must be that"):
            espnet_dynsize.load(trained)
        # But with another context, they can be had.
        path.write_text(written)
        expected = espnet_dynsize.load(trained, 3, context="6/2/2").asr_model
        chosen["encoder_conf"]["block_size"] = 8
        path.write_text(yaml.safe_dump(chosen))
        found = espnet_dynsize.load(trained, context="6/2/2").asr_model
        torch.testing.assert_close(outputs(found, audio), outputs(expected, audio))
        changed["encoder_conf"]["block_size"] = 7  # has not trained
        path.write_text(yaml.safe_dump(changed))
        with pytest.raises(ConfigError, match="must be with 7/4/2"):
            espnet_dynsize.load(trained)
    finally:
        path.write_text(written)


def test_a_subnet_and_its_context(trained, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    subnet = dict(num_units=8, kept=[0, 2, 5], head="full")
    path.write_text(yaml.safe_dump(subnet))
    command = ["extract", "--asr_exp", str(trained), "--subnet", str(path)]
    assert main([*command, "--context", "6/2/2"]) == 0
    folder = trained.with_name("asr_mine_6_2_2")
    audio = torch.randn(16_000)
    found, written = load_model(folder, "")
    assert written["encoder_conf"]["block_size"] == 6
    chosen = Subnet.from_yaml(subnet)
    expected = espnet_dynsize.load(trained, chosen, context="6/2/2").asr_model
    torch.testing.assert_close(outputs(found, audio), outputs(expected, audio))
    assert main([*command, "--context", "whole"]) == 2


def test_nothing_is_written_where_one_folder_is_another_s(trained, capsys):
    other = trained.with_name("asr_size8_8_4_2")
    other.mkdir()
    command = ["extract", "--asr_exp", str(trained), "--size", "all"]
    assert main([*command, "--context", "8/4/2"]) == 2
    assert not trained.with_name("asr_size3_8_4_2").exists()
    # Not all sizes have trained with whole utterances.
    assert main([*command, "--context", "whole"]) == 2
    assert "must be that of the full network alone" in capsys.readouterr().err


def test_transcribe_in_a_context(trained, tmp_path, capsys):
    write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(16_000), 16_000)
    command = ["transcribe", str(trained), str(tmp_path / "a.wav"), "--context"]
    assert main([*command, "whole"]) == 0
    assert main([*command, "7/4/2"]) == 2
    assert "context=7/4/2 must be one of" in capsys.readouterr().err


def test_a_sparse_member_has_no_whole_utterances():
    conf = dict(sizes=None, selector_conf=None, sparsity=SPARSITY)
    model = build(config(conf))
    advance(model, 20)
    sparse = model.subnet("sparsity50")
    assert model.context("6/2/2", sparse) == Context(6, 2, 2)
    with pytest.raises(ConfigError, match="context=whole must be that of the full net"):
        model.context("whole", sparse)


def test_streams_in_blocks_of_another_size(trained):
    audio = torch.randn(16_000).numpy()
    recogniser = espnet_dynsize.load(trained, 5, streaming=True, context="6/2/2")
    assert recogniser.delay == pytest.approx(4 * recogniser.frame_seconds)
    recogniser.accept(audio)
    recogniser.finish()
    with pytest.raises(ConfigError, match="block_size=0 must be above 0: whole utt"):
        espnet_dynsize.load(trained, streaming=True, context="whole")


@pytest.mark.parametrize(
    "size, context, message",
    [
        (3, "whole", "context=whole must be that of the full network alone"),
        (8, "7/4/2", "context=7/4/2 must be one of .'whole', '8/4/2', '6/2/2'"),
    ],
)
def test_what_has_not_trained_is_refused(trained, size, context, message):
    with pytest.raises(ConfigError, match=message):
        espnet_dynsize.load(trained, size, context=context)


def test_a_family_with_one_context_has_no_others(trained, tmp_path):
    (cut,) = extract(trained, AVERAGED, [3])
    with pytest.raises(ConfigError, match="context=whole must be left out: .* has one"):
        espnet_dynsize.load(cut.directory, context="whole")
