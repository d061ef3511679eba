"""Products without the zeros of a matrix."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from espnet_dynsize.encoder import blocked
from espnet_dynsize.encoder.blocked import Blocked, leave_out_zeros
from espnet_dynsize.encoder.kernel import kernel, source

llvm = pytest.importorskip("llvmlite.binding")
LINEAR = torch.nn.functional.linear


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch):
    monkeypatch.setattr(blocked, "SMALL", 1)


def sparse(module, kept=0.3, rows=4):
    """A module with groups of zeros, and the same one without them."""
    weight = module.weight.data
    shape = -(-len(weight) // rows), weight.size(1)
    number = shape[0] * shape[1]
    groups = (torch.randperm(number) < int(kept * number)).view(shape)
    mask = groups.repeat_interleave(rows, dim=0)[: len(weight)]
    weight *= mask.view(len(weight), weight.size(1), *[1] * (weight.dim() - 2))
    both = torch.nn.ModuleList([module, copy.deepcopy(module)])
    assert leave_out_zeros(both[1:]) == (kept < 0.5)
    return both


@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("inputs", [1, 7, 8, 33, 64])
@pytest.mark.parametrize("outputs", [1, 4, 31, 64])
def test_a_linear_module(frames, inputs, outputs):
    for bias in (True, False):
        dense, ours = sparse(torch.nn.Linear(inputs, outputs, bias), 0.4)
        assert isinstance(ours, Blocked)
        x = torch.randn(frames, inputs)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), dense(x), atol=1e-6, rtol=1e-5)


def test_what_a_product_adds_up():
    module = torch.nn.Linear(3, 5)
    module.weight.data = torch.zeros(5, 3)
    module.weight.data[0, 2], module.weight.data[4, 0] = 2.0, -1.0
    module.bias.data = torch.arange(5.0)
    assert leave_out_zeros(torch.nn.ModuleList([module])) == 1
    values, index, begin, bias = blocked._groups(module).arrays
    assert values.tolist() == [[2, 0, 0, 0], [-1, 0, 0, 0]]
    assert index.tolist() == [2, 0] and begin.tolist() == [0, 1, 2]
    assert bias.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    with torch.no_grad():
        y = module(torch.tensor([[1.0, 10, 100], [3, 0, 0]]))
    assert y.tolist() == [[200, 1, 2, 3, 3], [0, 1, 2, 3, 1]]


@pytest.mark.parametrize("shape", [(64,), (2, 3, 64), (0, 64), (2, 0, 64), (5, 64)])
def test_shapes(shape):
    dense, ours = sparse(torch.nn.Linear(64, 20))
    x = torch.randn(*shape)
    with torch.no_grad():
        y = ours(x)
        torch.testing.assert_close(y, dense(x), atol=1e-6, rtol=1e-5)
    assert y.shape == (*shape[:-1], 20)


def test_a_pointwise_convolution_and_strides():
    dense, ours = sparse(torch.nn.Conv1d(24, 30, 1))
    for x in (torch.randn(2, 24, 19), torch.randn(2, 19, 24).transpose(1, 2)):
        with torch.no_grad():
            torch.testing.assert_close(ours(x), dense(x), atol=1e-6, rtol=1e-5)
    strided, ours = sparse(torch.nn.Linear(24, 30))
    x = torch.randn(40, 48)[::2, ::2]
    with torch.no_grad():
        torch.testing.assert_close(ours(x), strided(x), atol=1e-6, rtol=1e-5)


def used(monkeypatch):
    """How often the kernel is called."""
    calls, known = [], blocked.kernel()

    def counted(*given):
        calls.append(given)
        return known.multiply(*given)

    monkeypatch.setattr(blocked, "kernel", lambda: known._replace(multiply=counted))
    return calls


def test_everything_else_is_the_stock_module_s(monkeypatch):
    calls = used(monkeypatch)
    dense, ours = sparse(torch.nn.Linear(16, 12))
    x = torch.randn(3, 16)
    ours(x).sum().backward()  # gradients
    assert ours.weight.grad is not None and not calls
    with torch.no_grad():
        ours.double()(x.double())
        ours.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
        assert not calls
        ours(x)
    assert len(calls) == 1
    assert list(ours.state_dict()) == ["weight", "bias"]


def test_new_weights_are_seen():
    dense, ours = sparse(torch.nn.Linear(16, 12))
    x = torch.randn(3, 16)
    with torch.no_grad():
        ours(x)
        for module in (dense, ours):
            module.weight[0] += 1
            module.bias[3] = 7
        torch.testing.assert_close(ours(x), dense(x), atol=1e-6, rtol=1e-5)
        other = torch.nn.Linear(16, 12)
        ours.load_state_dict(other.state_dict())
        torch.testing.assert_close(ours(x), other(x), atol=1e-6, rtol=1e-5)


def test_other_weights_are_seen():
    dense, ours = sparse(torch.nn.Linear(64, 64))
    x = torch.randn(3, 64)
    with torch.no_grad():
        for _ in range(3):  # an address may be given to another tensor
            ours(x)
            ours.weight = torch.nn.Parameter(torch.randn(64, 64))
            ours.bias = torch.nn.Parameter(torch.randn(64))
            expected = LINEAR(x, ours.weight, ours.bias)
            torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)
            state = {k: torch.randn_like(v) for k, v in ours.state_dict().items()}
            ours.load_state_dict(state, assign=True)
            expected = LINEAR(x, state["weight"], state["bias"])
            torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)
        ours.bias.add_(1)
        expected = LINEAR(x, ours.weight, ours.bias)
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("inputs", [1, 63, 65])
def test_other_numbers_of_inputs_are_refused_as_by_the_stock_module(inputs):
    _, ours = sparse(torch.nn.Linear(64, 64))
    _, convolution = sparse(torch.nn.Conv1d(64, 64, 1))
    with torch.no_grad(), pytest.raises(RuntimeError, match="cannot be multiplied"):
        ours(torch.randn(3, inputs))
    with torch.no_grad(), pytest.raises((RuntimeError, TypeError)):
        convolution(torch.randn(2, inputs, 9))


def test_tracing():
    dense, ours = sparse(torch.nn.Linear(64, 64))
    x, y = torch.randn(3, 64), torch.randn(5, 64)
    with torch.no_grad():
        traced = torch.jit.trace(ours, x)
        torch.testing.assert_close(traced(y), dense(y))


def test_convolutions_with_strides_stay():
    for options in (dict(stride=2), dict(padding=1)):
        module = torch.nn.Conv1d(16, 16, 1, **options)
        module.weight.data.zero_()
        assert leave_out_zeros(torch.nn.ModuleList([module])) == 0


def test_inference_mode():
    with torch.inference_mode():
        dense, ours = sparse(torch.nn.Linear(16, 12))
        x = torch.randn(3, 16)
        torch.testing.assert_close(ours(x), dense(x), atol=1e-6, rtol=1e-5)


def test_several_threads():
    dense, ours = sparse(torch.nn.Linear(64, 60))

    @torch.no_grad()
    def heard(frames):
        x = torch.randn(frames, 64)
        torch.testing.assert_close(ours(x), dense(x), atol=1e-6, rtol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(heard, [1, 17, 160, 333] * 25))


def test_copies():
    dense, ours = sparse(torch.nn.Linear(16, 12))
    x = torch.randn(3, 16)
    with torch.no_grad():
        ours(x)
        for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            copied.weight.mul_(2)
            expected = LINEAR(x, dense.weight * 2, dense.bias)
            torch.testing.assert_close(copied(x), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ours(x), dense(x), atol=1e-6, rtol=1e-5)


def test_dense_matrices_and_others_stay(monkeypatch):
    sparse(torch.nn.Linear(40, 40), 0.7)
    others = [torch.nn.Conv1d(4, 4, 3), torch.nn.LayerNorm(4), torch.nn.Embedding(4, 4)]
    for module in others:
        module.weight.data.zero_()
    module = torch.nn.Linear(4, 4)
    module.weight.data.zero_()
    assert leave_out_zeros(torch.nn.ModuleList(others)) == 0
    monkeypatch.setattr(blocked, "kernel", lambda: None)
    assert leave_out_zeros(torch.nn.ModuleList([module])) == 0


@pytest.mark.parametrize(
    "triple, cpu, lanes",
    [
        ("x86_64-unknown-linux-gnu", "haswell", 8),
        ("x86_64-unknown-linux-gnu", "skylake-avx512", 16),
        ("aarch64-unknown-linux-gnu", "cortex-a72", 4),
    ],
)
def test_code_for_other_processors(triple, cpu, lanes):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    module = llvm.parse_assembly(source(lanes))
    module.triple = triple
    code = machine.emit_assembly(module)
    fused = {4: "fmla", 8: "vfmadd", 16: "vfmadd"}[lanes]
    assert code.count(fused) >= 8
    if lanes == 16:
        assert "zmm" in code


def test_code_of_every_width_computes_the_same():
    """On this machine, wider vectors become several, narrower ones do as well."""
    import ctypes

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    dense, ours = sparse(torch.nn.Linear(37, 22))
    x = torch.randn(70, 37)
    groups = blocked._groups(ours)
    for lanes in (4, 8, 16):
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), opt=1
        )
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source(lanes)), machine)
        engine.finalize_object()
        kinds = [ctypes.c_void_p] * 7 + [ctypes.c_int64] * 3
        multiply = ctypes.CFUNCTYPE(None, *kinds)(
            engine.get_function_address("multiply")
        )
        y, packed = torch.empty(96, 24), torch.empty(37 * 2 * lanes)
        addresses = groups.addresses
        multiply(x.data_ptr(), packed.data_ptr(), *addresses, y.data_ptr(), 70, 37, 6)
        with torch.no_grad():
            expected = dense(x)
        torch.testing.assert_close(y[:70, :22], expected, atol=1e-6, rtol=1e-5)


def test_small_matrices_stay(monkeypatch):
    monkeypatch.undo()
    for inputs, number in ((127, 0), (128, 1)):
        module = torch.nn.Linear(inputs, 256)
        module.weight.data.zero_()
        assert leave_out_zeros(torch.nn.ModuleList([module])) == number


def test_it_is_compiled_once():
    assert kernel() is kernel()
