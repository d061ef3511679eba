"""The streaming encoders: what they have besides `test_every_encoder.py`."""

import copy
import pickle

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.tasks.asr import encoder_choices

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder.contextual_block import BlockRows
from espnet_dynsize.train.choices import ENCODERS

SHAPE = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=2)
BLOCKS = dict(block_size=8, hop_size=3, look_ahead=2)
MACARON = dict(macaron_style=True, cnn_module_kernel=5)
CASES = [
    ("conformer", MACARON),
    ("conformer", {"input_layer": "linear"}),
    ("conformer", {"input_layer": "conv2d6", "ctx_pos_enc": False}),
    ("conformer", {**BLOCKS, "hop_size": 8, "look_ahead": 0}),
    ("transformer", {"input_layer": "conv2d8"}),
    ("transformer", {"normalize_before": False, "concat_after": True}),
    ("transformer", {"input_layer": "linear", "ctx_pos_enc": False}),
]
every_case = pytest.mark.parametrize("name, options", CASES, ids=str)
# Of 8 frames and fewer after subsampling, and of more
LENGTHS = [131, 24, 70, 36, 44, 98]


def supernet(name="conformer", **options):
    encoder = ENCODERS[f"dynsize_contextual_block_{name}"]
    return encoder(20, **{**SHAPE, **BLOCKS, **options})


def pair(name, options):
    """A supernet and its stock encoder with random statistics of norms."""
    stock = encoder_choices.get_class(f"contextual_block_{name}")
    stock = stock(20, **{**SHAPE, **BLOCKS, **options})
    for module in stock.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    ours = supernet(name, **options)
    ours.load_state_dict(stock.state_dict())
    return ours, stock


def utterance(frames):
    return torch.randn(1, frames, 20), torch.tensor([frames])


@torch.no_grad()
def in_chunks(encoder, x, frames):
    """What it puts out for [1, L, D], so many frames at a time."""
    state, outputs = None, []
    chunks = x.split(frames, dim=1)
    for number, chunk in enumerate(chunks, 1):
        length = torch.tensor([chunk.size(1)])
        final = number == len(chunks)
        y, _, state = encoder(chunk.clone(), length, state, final, infer_mode=True)
        outputs.append(y)
    assert state is None
    return torch.cat(outputs, dim=1)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_one_utterance_equals_stock_bit_for_bit(name, options, training):
    encoders = [encoder.train(training) for encoder in pair(name, options)]
    for frames in (31, 36, 40, 43, 44, 131):
        x, length = utterance(frames)
        found = []
        for encoder in encoders:
            torch.manual_seed(1)  # the same dropout
            y, lengths, _ = encoder(x.clone(), length)
            found.append((y, lengths))
        (ours, our_lengths), (theirs, their_lengths) = found
        assert torch.equal(ours, theirs) and torch.equal(our_lengths, their_lengths)


@every_case
def test_chunks_equal_stock_chunks_bit_for_bit_and_the_whole(name, options):
    ours, stock = (encoder.eval() for encoder in pair(name, options))
    for frames in (31, 40, 131):
        x, length = utterance(frames)
        whole = ours(x, length)[0]
        for chunk in (7, 16, 50, 131):
            found = in_chunks(ours, x, chunk)
            if ours.subsample > 1:  # without subsampling, ESPnet repeats frames
                assert torch.equal(found, in_chunks(stock, x, chunk))
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@every_case
def test_an_utterance_in_a_padded_batch_is_encoded_as_alone(name, options):
    encoder, _ = pair(name, options)
    encoder.eval()
    x, lengths = torch.randn(6, 131, 20), torch.tensor(LENGTHS)
    # All lengths; none long; of one block and a bit
    for chosen in ([0, 1, 2, 3, 4, 5], [1, 3], [1, 4, 3]):
        longest = int(lengths[chosen].max())
        together, counts, _ = encoder(x[chosen, :longest], lengths[chosen])
        for i, y, count in zip(chosen, together, counts):
            alone, (own,), _ = encoder(x[i : i + 1, : LENGTHS[i]], lengths[i : i + 1])
            assert own == count
            torch.testing.assert_close(y[:count], alone[0], atol=1e-5, rtol=0)


@every_case
def test_of_whole_utterances_it_equals_stock_bit_for_bit(name, options):
    ours, stock = pair(name, options | {"block_size": 0})
    x, lengths = utterance(131)
    for encoder in (ours, stock):
        encoder.eval()
    assert torch.equal(ours(x.clone(), lengths)[0], stock(x.clone(), lengths)[0])
    assert ours.context.whole


def test_padding_changes_what_espnet_computes():
    """Or the test above would show nothing."""
    encoder = supernet(**MACARON, respect_lengths=False).eval()
    x, lengths = torch.randn(2, 131, 20), torch.tensor([131, 70])
    together, counts, _ = encoder(x, lengths)
    alone, _, _ = encoder(x[1:, :70], lengths[1:])
    assert (together[1, : counts[1]] - alone[0]).abs().max() > 0.01


@pytest.mark.parametrize("front_end", ["separable_conv2d", "embed"])
def test_other_front_ends_stream(front_end):
    encoder = supernet("transformer", input_layer=front_end).eval()
    if front_end == "embed":
        x, length = torch.randint(20, (1, 131)), torch.tensor([131])
    else:
        x, length = utterance(131)
    whole = encoder(x, length)[0]
    for chunk in (1, 2, 3, 30):
        found = in_chunks(encoder, x, chunk)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["conformer", "transformer"])
@pytest.mark.parametrize("kept", [[], [0], [1, 2], [3]])
def test_subnets_stream_as_they_encode(name, kept):
    encoder = supernet(name).eval()
    subnet = Subnet.of([k for k in kept if k < encoder.num_units], encoder.num_units)
    x, length = utterance(131)
    with encoder.activate(subnet), torch.no_grad():
        whole = encoder(x, length)[0]
        found = in_chunks(encoder, x, 30)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_the_maximum_of_a_block_can_begin_its_context():
    encoder = supernet(init_average=False).eval()
    x, length = utterance(131)
    whole = encoder(x, length)[0]
    torch.testing.assert_close(in_chunks(encoder, x, 30), whole, atol=1e-5, rtol=0)
    mean = supernet().eval()
    mean.load_state_dict(encoder.state_dict())
    assert (mean(x, length)[0] - whole).abs().max() > 0.01


@pytest.mark.parametrize("init_average", [True, False])
def test_gradients_are_finite_also_with_an_utterance_without_frames(init_average):
    encoder = supernet(init_average=init_average).train()
    x, lengths = torch.randn(3, 131, 20), torch.tensor([131, 70, 5])
    y, counts, _ = encoder(x, lengths)
    assert counts.tolist() == [32, 16, 0] and (y[2] == y[2, 0]).all()
    y[:2].square().sum().backward()
    gradients = [p.grad for p in encoder.parameters()]
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


@pytest.mark.parametrize("chunks", [[5], [3, 2]])
def test_too_short_for_the_subsampling(chunks):
    encoder = supernet().eval()
    with pytest.raises(TooShortUttError):
        in_chunks(encoder, torch.randn(1, sum(chunks), 20), chunks[0])
    with pytest.raises(TooShortUttError):
        encoder(*utterance(sum(chunks)))
    assert encoder(*utterance(7))[1].tolist() == [1]


def test_copies_and_threads_have_locks_of_their_own():
    encoder = supernet().eval()
    x, length = utterance(131)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(encoder)))
    assert torch.equal(copied(x, length)[0], encoder(x, length)[0])
    assert copied.pos_enc.switch.lock is not encoder.pos_enc.switch.lock


def test_a_block_s_context_comes_from_the_one_before():
    """Two layers hand on what the first block has seen, not only its neighbours."""
    encoder = supernet("transformer", input_layer="linear", ctx_pos_enc=False).eval()
    x = torch.randn(1, 17, 20)
    changed = x.clone()
    changed[:, 0] += 1.0
    outputs = [encoder(i, torch.tensor([17]))[0] for i in (x, changed)]
    different = (outputs[0] != outputs[1]).any(-1)[0]
    # Blocks begin at 0, 3, 6 and 9, and put out frames until 6, 9, 12 and 17: the first
    # one has the frame, the next two its context over one layer and over two.
    assert different.tolist() == [True] * 12 + [False] * 5


def test_rows_follow_each_other_within_an_utterance():
    rows = BlockRows.of([3, 1, 2], torch.device("cpu"))
    assert rows.utterance.tolist() == [0, 0, 0, 1, 2, 2]
    assert rows.number.tolist() == [0, 1, 2, 0, 0, 1]
    assert rows.previous.tolist() == [0, 0, 1, 3, 4, 4]


def test_stochastic_depth_drops_a_layer_for_a_whole_utterance():
    encoder = supernet(dropout_rate=0.0, positional_dropout_rate=0.0).train()
    x, lengths = torch.randn(4, 131, 20), torch.tensor([131, 131, 98, 24])
    everything = Subnet((True,) * encoder.num_units)
    dropped = Sampled(everything, drop=(0.5, *[0.0] * (encoder.num_units - 1)))
    block = encoder.blocks[0]
    drawn = []
    own = type(block)._rows
    type(block)._rows = lambda *a: drawn.append(own(*a)) or drawn[-1]
    try:
        with encoder.activate(dropped):
            encoder(x, lengths)
    finally:
        type(block)._rows = own
    counts = [len(range(0, n - 5, 3)) for n in (32, 32, 23)] + [1]
    rows = BlockRows.of(counts, torch.device("cpu"))
    through = set(drawn[0].index.tolist())
    assert 0 < len(through) < len(rows.utterance)
    for number in range(4):
        of_utterance = set((rows.utterance == number).nonzero().flatten().tolist())
        assert of_utterance <= through or not of_utterance & through


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"block_size": None}, "encoder_conf: block_size=None must be written in"),
        ({"hop_size": None}, "encoder_conf: hop_size=None must be written in"),
        ({"look_ahead": None}, "encoder_conf: look_ahead=None must be written in"),
        (
            {"block_size": 4},
            "encoder_conf: block_size=4 must be 0 .whole .+ least hop_size .+ = 5",
        ),
        ({"block_size": -1}, "encoder_conf: block_size=-1 must be"),
        ({"hop_size": 0}, "encoder_conf: hop_size=0 must be"),
        ({"look_ahead": -1}, "encoder_conf: look_ahead=-1 must be"),
        ({"block_size": 8.0}, "encoder_conf: block_size=8.0 must be"),
        ({"input_layer": None}, "encoder_conf: input_layer=None must be a layer"),
        ({"input_layer": "vgg"}, "encoder_conf: unknown input_layer: vgg"),
        (
            {"positionwise_layer_type": "conv1d"},
            "positionwise_layer_type=conv1d needs respect_lengths: false",
        ),
        ({"respect_lengths": 1}, "encoder_conf: respect_lengths=1 must be"),
        (
            {"init_average": False, "ctx_pos_enc": False},
            "encoder_conf: ctx_pos_enc=False must be true with init_average=false",
        ),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        supernet(**changes)
