"""One subnet computes: gates, empty blocks, threads, and the dtypes of a GPU."""

import asyncio
import copy
import pickle
import threading

import pytest
import torch
from conftest import build, dynsize_encoder, encoder_conf, fix_masks, model_config

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet

EVERYTHING = Subnet((True,) * 8)
CUT = {"layer": {}, "component": {"granularity": "component", "ffn_chunks": 3}}
STILL = dict(dropout_rate=0.0, positional_dropout_rate=0.0, conv_norm="layer_norm")


def supernet(**changes):
    return dynsize_encoder(**encoder_conf(**{**STILL, **changes})).double().train()


def features():
    return torch.randn(4, 30, 20).double(), torch.tensor([30, 28, 25, 20])


def scores_gradient(encoder, inputs, probed: bool):
    """Gradients with the closed gates' layers in the graph, or not."""
    scores = torch.full((8,), 0.3, dtype=torch.double, requires_grad=True)
    hard = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1]).double()
    subnet = Subnet(tuple((hard > 0.5).tolist())) if probed else EVERYTHING
    encoder.zero_grad()
    with encoder.activate(Sampled(subnet, gates=hard + scores - scores.detach())):
        out = encoder(*inputs)[0]
    out.square().sum().backward()
    return out, scores.grad, {n: p.grad for n, p in encoder.named_parameters()}


def test_closed_gates_get_exact_gradients_without_a_backward_pass():
    encoder, inputs = supernet(), features()
    lean, whole = (scores_gradient(encoder, inputs, probed) for probed in (True, False))
    torch.testing.assert_close(lean[0], whole[0])
    torch.testing.assert_close(lean[1], whole[1])
    assert (lean[1] != 0).all()
    closed = "encoders.0.self_attn.linear_q.weight"
    assert lean[2][closed] is None and (whole[2][closed] == 0).all()
    for name, gradient in whole[2].items():
        if lean[2][name] is not None:
            torch.testing.assert_close(lean[2][name], gradient, msg=name)


def test_a_subnet_does_not_compute_what_it_dropped():
    encoder = supernet()
    calls = []
    for block in encoder.blocks:
        for name in ("feed_forward_macaron", "self_attn", "conv_module"):
            module = getattr(block, name)
            module.register_forward_hook(lambda *_, n=name: calls.append(n))
    with encoder.activate(Subnet.of([1, 6], 8)):
        encoder(*features())
    assert calls == ["self_attn", "conv_module"]


def test_a_block_without_layers_is_skipped_with_its_final_norm():
    encoder = supernet(skip_empty_blocks=True).eval()
    inputs = features()
    with encoder.activate(Subnet.of([0, 1, 2, 3], 8)):
        before = encoder(*inputs)[0]
        encoder.blocks[1].norm_final.bias.data[0] += 3.0
        assert torch.equal(encoder(*inputs)[0], before)
    with encoder.activate(Subnet.of([0, 1, 2, 4], 8)):
        changed = encoder(*inputs)[0]
        encoder.blocks[1].norm_final.bias.data[0] += 3.0
        assert not torch.allclose(encoder(*inputs)[0], changed)
    # While searching, gates are no decisions: the norm computes.
    gates = torch.zeros(8).double()
    with encoder.activate(Sampled(Subnet.of([], 8), gates=gates)):
        gated = encoder(*inputs)[0]
    x = encoder.embed(inputs[0])[0]
    for block in encoder.blocks:
        x = block.norm_final(x)
    torch.testing.assert_close(gated, encoder.after_norm(x))


def test_the_front_end_is_run_once_for_all_subnets():
    encoder = supernet()
    calls = []
    encoder.embed[0].register_forward_hook(lambda *_: calls.append(1))
    inputs = features()
    with encoder.switch.remember():
        first = encoder(*inputs)[0]
        assert torch.equal(encoder(*inputs)[0], first)
    assert len(calls) == 1
    encoder(*inputs)
    assert len(calls) == 2


@pytest.mark.parametrize("granularity", ["layer", "component"])
def test_each_thread_has_its_own_subnet(granularity):
    """Two threads, one model: no thread computes what another one activated."""
    encoder = supernet(**CUT[granularity]).eval()
    units = encoder.num_units
    subnets = [
        None,
        Subnet(tuple(i % 3 != 0 for i in range(units))),
        Subnet(tuple(i % 2 == 0 for i in range(units))),
    ]
    inputs = features()
    expected = [compute(encoder, subnet, inputs) for subnet in subnets]
    start, wrong = threading.Barrier(len(subnets)), []

    def work(subnet, right):
        start.wait()
        try:
            for _ in range(20):
                if not torch.equal(compute(encoder, subnet, inputs), right):
                    wrong.append(subnet)
        except Exception as error:  # a thread's error fails no test by itself
            wrong.append(error)

    threads = [threading.Thread(target=work, args=a) for a in zip(subnets, expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@torch.no_grad()
def compute(encoder, subnet, inputs):
    if subnet is None:
        return encoder(*inputs)[0]
    with encoder.activate(subnet):
        return encoder(*inputs)[0]


def test_blocks_closed_out_of_order_leave_nothing_active():
    """As two coroutines in one thread do it, each in its context."""
    encoder = supernet().eval()

    async def use(subnet, first, last):
        await first.wait()
        with encoder.activate(subnet):
            last.set()
            await asyncio.sleep(0)
            return encoder.switch.now.subnet

    async def both():
        one, two, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        one.set()
        subnets = Subnet.of([0], 8), Subnet.of([1], 8)
        found = await asyncio.gather(
            use(subnets[0], one, two), use(subnets[1], two, done)
        )
        assert tuple(found) == subnets

    asyncio.run(both())
    assert encoder.switch.now is None


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_an_encoder_can_be_copied(copied):
    encoder = dynsize_encoder(**encoder_conf(**STILL)).eval()
    if copied is not copy.deepcopy:
        encoder = encoder.blocks[0].switch  # classes of swapped modules have no names
    twin = copied(encoder)
    if copied is copy.deepcopy:
        assert twin.switch is twin.blocks[0].switch is not encoder.switch
        inputs = features()
        x = inputs[0].float(), inputs[1]
        subnet = Subnet.of([0, 5], 8)
        assert torch.equal(compute(twin, subnet, x), compute(encoder, subnet, x))
    else:
        assert twin.now is None


def test_activate_takes_subnets_only():
    with pytest.raises(
        ConfigError, match=r"activate\(3\) of an encoder takes a Subnet"
    ):
        supernet().activate(3)


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"layer_drop_joint": 0.5},
        {"granularity": "component", "ffn_chunks": 3, "sizes": None},
        {"conv_norm": "batch_norm"},
        {"distill_weight": 0.5, "sandwich": "alternate"},
        {"selector": "iterative_zero_out", "selector_conf": {}},
    ],
    ids=str,
)
@pytest.mark.parametrize("phase", ["search", "joint"])
def test_trains_with_the_dtypes_of_a_gpu(conf, phase, cuda_dtypes):
    """CUDA's autocast keeps norms in float32 and matrix products in half precision."""
    if "sizes" in conf:
        conf = {**conf, "budgets": {"params": [0.5, 0.7, 1]}}
    model = build(model_config(**conf)).train()
    model.schedule.selection.plan(100)
    if phase == "joint":
        fix_masks(model.schedule)
    data = dict(
        speech=torch.randn(6, 20, 5),
        speech_lengths=torch.full((6,), 20),
        text=torch.randint(2, 5, (6, 3)),
        text_lengths=torch.full((6,), 3),
    )
    for _ in range(4):
        model.begin_update(0)
        with cuda_dtypes():
            loss = model(**data)[0]
        loss.backward()
        assert torch.isfinite(loss)
