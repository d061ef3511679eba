"""One sparse network: trained sparse from the beginning (MEST), or pruned gradually."""

import copy

import pytest
import torch
from conftest import batch, build, log_probs, model_config, randomise
from training import (
    Killed,
    assert_same,
    run,
    step_through,
    train,
    train_killed,
    until,
)

from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.encoder.stored import Stored
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.task import DynSizeASRTask

MEST = dict(method="mest", target=0.5, interval=0.1, mutation=[0.2, 0.1])
MEST |= dict(stages=[0.3, 0.6])
PRUNED = dict(levels=[0.5], start=0.2, ramp_end=0.4, freeze=0.6, refresh_updates=2)
SHORT = MEST | dict(interval=0.25, stages=[0.3, 0.5])
METHODS = {
    "em_s": MEST,
    "em": MEST | dict(variant="em", gradient_weight=0.1),
    "gradient": MEST | dict(growth="gradient", distribution="erk"),
    "pruned": PRUNED,
}
AVERAGE = "valid.loss.ave.pth"
NAME = "encoders.0.feed_forward.w_1"


def options(sparsity: dict, **changes) -> dict:
    """Of a config without sizes."""
    return dict(sizes=None, selector_conf=None, sparsity=sparsity, **changes)


def sparsities(states: dict) -> dict[str, float]:
    """Matrix → share of groups of four outputs that are zero."""
    found = {}
    for name, weight in states.items():
        if name.startswith("encoder.encoders.") and weight.dim() > 1:
            groups = weight.flatten(1).split(4)
            zero = sum(int((~g.any(dim=0)).sum()) for g in groups)
            found[name] = zero / sum(g.size(1) for g in groups)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_trains_resumes_averages_and_is_extracted(data, tmp_path, method, monkeypatch):
    """20 updates; mutations at 2, 4, 6, …, the last one at 12."""
    changes = options(METHODS[method])
    whole = train(data, tmp_path / "whole", 5, **changes)
    kills = (3, 7, 14)
    parts = train_killed(data, tmp_path / "parts", 5, kills, monkeypatch, **changes)
    assert_same(parts["model"], whole["model"])
    torch.testing.assert_close(
        parts["optimizers"][0]["state"], whole["optimizers"][0]["state"], rtol=0, atol=0
    )

    # Nobody has to know that it is sparse to open it: the weights are stock ones.
    exp = tmp_path / "whole"
    model, _ = load_model(exp, AVERAGE)
    assert not any(isinstance(m, Stored) for m in model.modules())
    (cut,) = extract(exp, AVERAGE, [])
    assert cut.directory.name == "whole_sparsity50"
    assert origin.read(cut.directory)["member"] == "sparsity50"
    small, _ = load_model(cut.directory, AVERAGE)
    speech = batch()
    expected = log_probs(model.eval(), speech)
    torch.testing.assert_close(log_probs(small.eval(), speech), expected)
    shares = {n: s for n, s in sparsities(small.state_dict()).items() if s}
    linear = [n for n in shares if "depthwise" not in n]
    assert len(linear) >= 10
    if method != "gradient":  # of uniform ones
        assert all(abs(shares[name] - 0.5) < 0.07 for name in linear)
    # Nearly half of the matrices, which are so small that what says where counts
    packed = torch.load(cut.directory / AVERAGE)
    sizes = [sum(v.nbytes for v in s.values()) for s in (packed, small.state_dict())]
    matrices = sum(m.weight.nbytes for m in model.encoder.matrices().values())
    assert sizes[0] < sizes[1] - 0.3 * matrices


def mest_model(**changes):
    config = model_config(options(MEST | changes), dropout_rate=0.0)
    model = build(config).train()
    model.schedule.plan(20)
    return model


def test_parameters_gradients_and_optimizer_are_those_of_what_is_stored():
    model = mest_model(target=0.8, mutation=[0.05, 0.05])
    dense = {n: m.weight.numel() for n, m in model.encoder.matrices().items()}
    optimizer = step_through(model, 3, batch())
    matrices = model.encoder.matrices()
    assert set(matrices) == set(dense)
    stored = 0
    for name, module in matrices.items():
        assert isinstance(module, Stored)
        state = optimizer.state[module.weight]
        shape = module.weight.shape
        for kept in (module.weight.grad, state["exp_avg"], state["exp_avg_sq"]):
            assert kept.shape == shape
        groups = -(-module.dense_shape[0] // 4) * module.dense_shape[1]
        # What is left of 0.2, and the soft bound's 0.05, rounded
        assert shape[0] == int(0.25 * groups + 0.5), name
        stored += module.weight.numel()
    assert stored < 0.3 * sum(dense.values())
    # And the whole of what trains: no other parameter, or place of one, is left.
    assert sum(p.numel() for p in model.encoder.encoders.parameters()) < sum(
        p.numel() for p in build(model_config()).encoder.encoders.parameters()
    ) - 0.7 * sum(dense.values())


def test_the_first_groups_are_the_seed_s_and_keep_their_weights():
    model, same, other = (mest_model() for _ in range(3))
    weight = model.encoder.get_submodule(NAME).weight.detach().clone()
    for each, seed in ((model, 3), (same, 3), (other, 4)):
        each.begin_training(seed)
    places = [m.schedule.sparsity.places.of(NAME) for m in (model, same, other)]
    assert torch.equal(places[0], places[1]) and not torch.equal(places[0], places[2])
    dense = model.state_dict()[f"encoder.{NAME}.weight"]
    left = dense != 0
    assert torch.equal(dense[left], weight[left])
    assert left.float().mean() == pytest.approx(0.7, abs=0.01)


def test_it_is_final_in_its_last_stage():
    model = mest_model()
    model.begin_training(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for update in range(1, 13):
        with pytest.raises(ConfigError, match="sparsity50 is not final: .* part 0.6"):
            model.subnet("sparsity50")
        assert model.schedule.phase is Phase.SEARCH
        model.begin_update(0)
        model.schedule.after_step(optimizer)
        assert model.schedule.now == update
    assert model.schedule.phase is Phase.JOINT
    subnet = model.subnet("sparsity50")
    assert set(dict(subnet.sparsity).values()) == {0.5}
    for wrong in ({NAME: 0.5}, dict(subnet.sparsity) | {NAME: 0.4}):
        with pytest.raises(ConfigError, match="must be 0.5, the only one there is"):
            model.activate(Subnet((True,) * 8).sparse(wrong))


def test_a_pruned_network_computes_sparse_where_nothing_is_said():
    config = model_config(options(PRUNED))
    model = build(config).train()
    model.schedule.plan(20)
    model.begin_training(0)
    randomise(model, 0.2)
    for update in range(1, 21):
        model.begin_update(0)
        (only,) = model.sampler.draw(update, model.schedule.draws())
        share = [*{*dict(only.subnet.sparsity).values()}]
        assert (only.masks is None or not only.masks) == (update <= 4)
        # Cubic from update 4 to 8: 0.5 · (1 - (1 - 1/4)³) at the first one
        assert update != 5 or share == [pytest.approx(0.5 * (1 - 0.75**3))]
        assert update < 8 or share == [0.5]
    model.eval()
    speech = batch()
    with model.activate("sparsity50"):
        expected = log_probs(model, speech)
    opened = build(config).eval()
    opened.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(log_probs(opened, speech), expected)
    with opened.activate(opened.schedule.selection.family.full):
        dense = log_probs(opened, speech)
    assert not torch.allclose(dense, expected)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(sizes=[3, 8]), "sizes, budgets=.3, 8. must be left out, with levels"),
        (dict(sparsity=MEST | {"method": "rigl"}), "method=rigl must be"),
        (dict(sparsity={"method": "mest"}), "must be with target"),
        (dict(sparsity=MEST | {"levels": [0.5]}), "levels=.* is not an option of"),
        (
            dict(sparsity=MEST | {"target": 0.999}),
            "target=0.999 must be from 0.01",
        ),
        (dict(sparsity=MEST | {"target": 1}), "target=1 must be above 0 and below 1"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(model_config({**options(MEST), **changes}))


@pytest.mark.parametrize("method", ["em_s", "pruned"])
def test_a_run_that_is_too_short_is_refused(data, tmp_path, method):
    changes = options(METHODS[method] | {"stages": [0.3, 0.95]})
    if method == "pruned":
        changes = options(PRUNED | {"freeze": 0.95})
    with pytest.raises(ConfigError, match="must be such that some of the run's 4"):
        train(data, tmp_path / "short", 1, **changes)


def test_frozen_matrices_are_refused(data, tmp_path):
    frozen = "--freeze_param=encoder.encoders.1"
    with pytest.raises(ConfigError, match="without encoders.1.*groups of weights are"):
        run(data, tmp_path / "exp", "--max_epoch=5", frozen, **options(MEST))


def test_weights_to_start_from_are_refused(data, tmp_path):
    """They would be cut at random; those of other parts are not."""
    train(data, tmp_path / "dense", 5)
    dense = tmp_path / "dense" / AVERAGE
    for part in ("encoder", "encoder.encoders.1"):
        given = f"--init_param={dense}:{part}:{part}"
        with pytest.raises(ConfigError, match="init_param=.* must be left out: mest"):
            run(data, tmp_path / "exp", "--max_epoch=5", given, **options(MEST))
    given = "--ignore_init_mismatch=true", f"--init_param={dense}:ctc:ctc"
    run(data, tmp_path / "exp", "--max_epoch=1", *given, **options(SHORT))


def test_a_step_that_a_scaler_skips_is_none():
    """Fused optimizers are called for it, too, and skip it themselves."""
    model = mest_model()
    model.begin_training(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for found, changes in ((1.0, 0), (0.0, 2)):
        model.begin_update(0)
        model.begin_update(0)
        optimizer.found_inf = torch.tensor(found)
        model.schedule.after_step(optimizer)
        assert model.schedule.sparsity.changes == changes


def test_before_it_is_final_a_pruned_network_does_not_decode(
    data, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DynSizeASRModel, "forward", until(5))
        train(data, tmp_path / "asr", 5, **options(PRUNED))
    with pytest.raises(ConfigError, match="sparsity50 is not final"):
        DynSizeASRTask.build_model_from_file(
            tmp_path / "asr" / "config.yaml", tmp_path / "asr" / "latest.pth"
        )


@pytest.mark.parametrize("encoder", ["conformer", "e_branchformer", "transformer"])
@pytest.mark.parametrize("pattern", ["4x1", "1x8", "rows", "unstructured"])
def test_what_is_stored_computes_as_what_is_opened(encoder, pattern):
    shape = dict(output_size=8, attention_heads=2, num_blocks=2, input_layer="linear")
    if encoder == "e_branchformer":
        shape |= dict(cgmlp_linear_units=12, use_ffn=True)
    config = model_config(options(MEST | {"pattern": pattern}))
    if encoder != "conformer":
        config |= dict(encoder=f"dynsize_{encoder}", encoder_conf=shape)
    model, opened, speech = build(config).train(), build(config).eval(), batch()
    model.schedule.plan(20)
    step_through(model, 12, speech)
    assert model.schedule.sparsity.final
    opened.load_state_dict(model.state_dict())
    same = dict(rtol=1e-5, atol=1e-5)
    expected = log_probs(model.eval(), speech)
    torch.testing.assert_close(log_probs(opened, speech), expected, **same)
