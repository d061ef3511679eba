"""The encoder of ESPnet's `asr_transducer`, whole and chunk by chunk."""

import copy
import pickle

import pytest
import torch
from espnet2.asr_transducer.encoder.encoder import Encoder
from espnet2.asr_transducer.utils import make_chunk_mask, make_source_mask

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.identity import that_matter
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder.chunked import DynSizeChunkedEncoder
from espnet_dynsize.encoder.kinds import layer_kinds

SHAPE = dict(hidden_size=8, linear_size=12, heads=2, conv_mod_kernel_size=3)
KINDS = {"conformer": 4, "branchformer": 1, "ebranchformer": 3}
every_kind = pytest.mark.parametrize("kind", KINDS)
CHUNK, LEFT = 4, 2
BODY = dict(block_type="conformer", hidden_size=8, linear_size=12)
BODY |= dict(conv_mod_kernel_size=3)
CONV1D = dict(block_type="conv1d", output_size=8, kernel_size=3, batch_norm=True)


def conf(*kinds, blocks=2, main=None, **block):
    body = [
        dict(block_type=kind, num_blocks=blocks, dropout_rate=0.1, **SHAPE, **block)
        for kind in kinds
    ]
    causal = dict(dynamic_chunk_training=True, short_chunk_size=4)
    return dict(body_conf=body, input_conf={}, main_conf=causal | (main or {}))


def pair(*kinds, **changes):
    """A supernet and its stock encoder with random statistics of norms."""
    options = conf(*kinds, **changes)
    stock = Encoder(20, **copy.deepcopy(options))
    for module in stock.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    ours = DynSizeChunkedEncoder(20, **options)
    ours.load_state_dict(stock.state_dict())
    return ours, stock


def batch():
    return torch.randn(3, 80, 20), torch.tensor([80, 71, 47])


@every_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_the_full_size_equals_stock_bit_for_bit(kind, training, causal):
    encoders = pair(kind, main={"dynamic_chunk_training": causal})
    x, lengths = batch()
    found = []
    for encoder in encoders:
        torch.manual_seed(1)  # the same dropout and chunks
        y, counts = encoder.train(training)(x.clone(), lengths)
        y.square().sum().backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters()}
        found.append((y, counts, gradients))
    (ours, counts, gradients), (theirs, their_counts, others) = found
    assert torch.equal(ours, theirs) and torch.equal(counts, their_counts)
    assert all(torch.equal(gradients[name], others[name]) for name in others)


def test_blocks_of_all_kinds_and_convolutions_before():
    options = conf("conformer", "ebranchformer", "branchformer", blocks=1)
    first = dict(block_type="conv1d", output_size=8, kernel_size=3)
    options["body_conf"].insert(0, first)
    encoder = DynSizeChunkedEncoder(20, **options)
    assert [len(block.layers) for block in encoder.blocks] == [4, 3, 1]
    assert "input_size" not in first  # the config is the user's
    stock = Encoder(20, **copy.deepcopy(options))
    encoder.load_state_dict(stock.state_dict())
    x, lengths = batch()
    torch.manual_seed(1)
    expected = stock.eval()(x, lengths)[0]
    torch.manual_seed(1)
    assert torch.equal(encoder.eval()(x, lengths)[0], expected)
    names = list(encoder.matrices())
    assert names[0] == "encoders.blocks.1.feed_forward_macaron.w_1"
    known = dict(encoder.named_modules())
    assert all(known[name] is m for name, m in encoder.matrices().items())


@every_kind
def test_layers_of_a_stock_block_are_named(kind):
    labels = {
        "conformer": ["feed_forward_macaron", "self_att", "conv_mod", "feed_forward"],
        "branchformer": ["merged_branch"],
        "ebranchformer": ["feed_forward_macaron", "merged_branch", "feed_forward"],
    }
    _, stock = pair(kind)
    found = layer_kinds(stock.encoders.blocks[0])
    assert sorted(found) == sorted(labels[kind])


@torch.no_grad()
def in_chunks(encoder, x):
    """What it puts out for [1, L, D] in chunks, and how many frames that is."""
    left = LEFT * CHUNK
    encoder.reset_cache(left, x.device)
    again, step, seen = 11, 4 * CHUNK, torch.tensor([[0]])
    outputs, begin = [], 0
    # One frame of the encoder is lost at each end of a chunk.
    while begin + again + step <= x.size(1):
        part = x[:, begin : begin + again + step]
        length = torch.tensor([part.size(1)])
        y = encoder.chunk_forward(part, length, seen, left_context=left)
        seen += y.size(1)
        outputs.append(y)
        begin += step
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def whole(encoder, x, frames):
    """The same of the whole utterance, in which chunks see what they would."""
    mask = make_source_mask(torch.tensor([x.size(1)]))
    x, mask = encoder.embed(x, mask)
    x, mask = x[:, 1 : frames + 1], mask[:, 1 : frames + 1]
    hidden = make_chunk_mask(frames, CHUNK, num_left_chunks=LEFT)
    y, _ = encoder.encoders(x, encoder.pos_enc(x), mask, chunk_mask=hidden)
    return y


@every_kind
def test_chunks_equal_stock_chunks_and_the_whole_at_every_size(kind):
    ours, stock = (encoder.eval() for encoder in pair(kind))
    x, number = torch.randn(1, 140, 20), ours.num_units
    full = in_chunks(ours, x)
    assert torch.equal(full, in_chunks(stock, x)) and full.size(1) > 4 * CHUNK
    for kept in ([*range(number)], [0], [number - 1], [*range(0, number, 2)]):
        subnet = Subnet.of(kept, number)
        with ours.activate(subnet):
            found = in_chunks(ours, x)
            expected = whole(ours, x, found.size(1))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        # Cut, it is the same.
        small = copy.deepcopy(ours)
        small.keep_units(kept)
        assert torch.equal(in_chunks(small, x), found)


@every_kind
def test_an_utterance_leaves_nothing_behind(kind):
    encoder, _ = pair(kind)
    encoder.eval()
    first, second = torch.randn(1, 140, 20), torch.randn(1, 140, 20)
    expected = in_chunks(encoder, second)
    in_chunks(encoder, first)
    assert torch.equal(in_chunks(encoder, second), expected)


def test_no_frames_before_a_chunk():
    ours, stock = (encoder.eval() for encoder in pair("conformer"))
    x, seen = torch.randn(1, 27, 20), torch.tensor([[0]])
    for encoder in (ours, stock):
        encoder.reset_cache(0, x.device)
    for _ in range(2):
        found, expected = (
            e.chunk_forward(x, torch.tensor([27]), seen, left_context=0)
            for e in (ours, stock)
        )
        assert torch.equal(found, expected)


def test_layer_norm_in_the_convolutions():
    for kind in KINDS:
        encoder = DynSizeChunkedEncoder(20, **conf(kind), conv_norm="layer_norm")
        assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in encoder.modules())
        x, lengths = batch()
        assert encoder(x, lengths)[0].isfinite().all()


def test_stochastic_depth_and_gates_reach_every_layer():
    encoder, _ = pair("conformer")
    x, lengths = batch()
    full = Subnet((True,) * encoder.num_units)
    dropped = Sampled(full, drop=(1.0 - 1e-9,) * encoder.num_units)
    with encoder.train().activate(dropped):
        found = encoder(x, lengths)[0]
    with encoder.activate(Subnet.of([], encoder.num_units)):
        torch.testing.assert_close(found, encoder(x, lengths)[0])
    gates = torch.zeros(encoder.num_units, requires_grad=True)
    with encoder.activate(Sampled(full, gates=gates)):
        encoder(x, lengths)[0].square().sum().backward()
    assert (gates.grad != 0).all()


def test_copies_and_pickles_compute_the_same():
    encoder = pair("ebranchformer")[0].eval()
    x = torch.randn(1, 140, 20)
    expected = in_chunks(encoder, x)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(in_chunks(other, x), expected)


def with_block(**changes):
    options = conf("conformer")
    options["body_conf"][0] |= changes
    return options


@pytest.mark.parametrize(
    "options, message",
    [
        (conf("conformer") | {"body_conf": []}, "body_conf=.. must be a list of bl"),
        (with_block(block_type="rnn"), "block_type=rnn must be of .'branchformer'"),
        (with_block(hiden_size=8), "body_conf: a key=hiden_size must be one of"),
        (
            conf("conformer", main={"dynamic_chunks": True}),
            "main_conf: a key=dynamic_chunks must be one of",
        ),
        (
            conf("conformer") | {"input_conf": {"factor": 2}},
            "input_conf: a key=factor must be one of",
        ),
        (
            conf("conformer", main={"blockdrop_rate": 0.1}),
            "blockdrop_rate=0.1 must be 0: use layer_drop_joint",
        ),
        (
            conf("conformer") | {"granularity": "component"},
            "granularity=component must be layer for this encoder",
        ),
        (
            conf("conformer")
            | {"body_conf": [dict(block_type="conv1d", output_size=8, kernel_size=3)]},
            "body_conf=.'conv1d'. must be of at least one block of other kinds",
        ),
        (
            dict(body_conf=[*conf("conformer")["body_conf"], CONV1D]),
            "body_conf: batch_norm=True must be false after other blocks",
        ),
        (with_block(num_blocks=2.0), "num_blocks=2.0 must be given, above 0"),
        (with_block(heads=0), "heads=0 must be given, above 0"),
        (
            with_block(linear_size=None),
            "body_conf: linear_size=None must be given, above 0",
        ),
        (
            dict(body_conf=[CONV1D | {"kernel_size": 0}, BODY]),
            "body_conf: kernel_size=0 must be given, above 0",
        ),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DynSizeChunkedEncoder(20, **options)


@pytest.mark.parametrize(
    "changes",
    [
        dict(body_conf=[BODY, BODY]),
        dict(body_conf=[dict(BODY, num_blocks=1), dict(BODY, heads=4)]),
        dict(body_conf=[dict(BODY, num_blocks=2, dropout_rate=0.3)]),
        dict(body_conf=[dict(BODY, num_blocks=2, conv_mod_norm_momentum=0.2)]),
        dict(main_conf=dict(short_chunk_size=8, num_left_chunks=3, swish_beta=1.0)),
        dict(main_conf=dict(norm_type="layer_norm", pos_enc_max_len=100)),
        dict(input_conf=dict(subsampling_factor=4, conv_size=8)),
        dict(input_conf=None, main_conf=None),
    ],
)
def test_the_same_encoder_in_other_words(changes):
    given = dict(body_conf=[dict(BODY, num_blocks=2)], input_conf={}, main_conf={})
    before = copy.deepcopy(given)
    same = that_matter({**given, **changes}, DynSizeChunkedEncoder)
    assert same == that_matter(given, DynSizeChunkedEncoder)
    assert given == before  # not written into


@pytest.mark.parametrize(
    "changes",
    [
        dict(body_conf=[BODY]),
        dict(body_conf=[dict(BODY, num_blocks=2, heads=2)]),
        dict(body_conf=[BODY, dict(BODY, linear_size=16)]),
        dict(body_conf=[dict(BODY, num_blocks=2, norm_eps=1e-3)]),
        dict(main_conf=dict(dynamic_chunk_training=True)),
        dict(main_conf=dict(swish_beta=2.0)),
        dict(input_conf=dict(subsampling_factor=6)),
        dict(conv_norm="layer_norm"),
    ],
)
def test_another_encoder(changes):
    given = dict(body_conf=[dict(BODY, num_blocks=2)], input_conf={}, main_conf={})
    other = that_matter({**given, **changes}, DynSizeChunkedEncoder)
    assert other != that_matter(given, DynSizeChunkedEncoder)
