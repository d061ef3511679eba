"""Products with sparse matrices on a CPU, compiled by llvmlite where they run.

Frames are taken in tiles, transposed so that vectors run along time: of a kept group of
four weights of one input, each weight is broadcast and multiplied with whole vectors,
and the sums of four outputs stay in registers. No compiler is needed; llvmlite comes
with ESPnet (through numba).
"""

import ctypes
import functools
import importlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROWS = 4  # outputs of a group
VECTORS = 2  # of a tile: with ROWS sums each, they fit into 16 registers
_POINTERS = ("x", "packed", "values", "index", "begin", "bias", "y")
_NUMBERS = ("frames", "inputs", "blocks")


class Kernel(NamedTuple):
    """Compiled code.

    Args:
        multiply: Called with addresses of x [T, I], scratch memory [I, tile], values
            [groups, ROWS], the input of each group, the first group of each block of
            ROWS outputs (and the end), bias [O], y [T', O]; and with T, I and O / ROWS.
            T' is T rounded up to whole tiles. All are contiguous, of float32 or int32.
        tile: Frames of a tile.
        engine: Owns the code.
    """

    multiply: ctypes._CFuncPtr
    tile: int
    engine: object


@functools.cache
def kernel() -> Kernel | None:
    """The code for this machine; None where llvmlite is not installed."""
    try:
        llvm = importlib.import_module("llvmlite.binding")
    except ImportError:
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx2") else 4
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    module = llvm.parse_assembly(source(lanes))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    kinds = [ctypes.c_void_p] * len(_POINTERS) + [ctypes.c_int64] * len(_NUMBERS)
    multiply = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("multiply"))
    return Kernel(multiply, lanes * VECTORS, engine)


class _Writer:
    """Lines of LLVM's language; a value has the number of its line for a name."""

    def __init__(self, lanes: int):
        self.lines: list[str] = []
        self.vector = f"<{lanes} x float>"

    def let(self, text: str) -> str:
        """A new value."""
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def add(self, *lines: str) -> None:
        self.lines += lines

    def address(self, base: str, offset: str, more: int = 0) -> str:
        """Of a float."""
        if more:
            offset = self.let(f"add i64 {offset}, {more}")
        return self.let(f"getelementptr float, ptr {base}, i64 {offset}")

    def load(self, base: str, offset: str, more: int = 0, kind: str = "float") -> str:
        return self.let(f"load {kind}, ptr {self.address(base, offset, more)}, align 4")

    def store(self, kind: str, value: str, address: str) -> None:
        self.add(f"  store {kind} {value}, ptr {address}, align 4")

    def broadcast(self, value: str) -> str:
        """A vector of one number."""
        one = self.let(f"insertelement {self.vector} poison, float {value}, i32 0")
        return self.shuffle(one, "poison", [0] * int(self.vector[1:].split()[0]))

    def shuffle(self, a: str, b: str, places: Sequence[int]) -> str:
        """Elements of two vectors, one after the other."""
        chosen = ", ".join(f"i32 {place}" for place in places)
        kind = f"<{len(places)} x i32> <{chosen}>"
        return self.let(f"shufflevector {self.vector} {a}, {self.vector} {b}, {kind}")


def source(lanes: int) -> str:
    """The code in LLVM's language, for vectors of so many floats."""
    w, tile = _Writer(lanes), lanes * VECTORS
    pointers = [f"ptr noalias %{name}" for name in _POINTERS]
    numbers = [f"i64 %{name}" for name in _NUMBERS]
    w.add(
        f"declare {w.vector} @llvm.fma.v{lanes}f32({w.vector}, {w.vector}, {w.vector})",
        "declare i64 @llvm.smin.i64(i64, i64)",
        f"define void @multiply({', '.join(pointers + numbers)}) {{",
        "entry:",
        "  %last = sub i64 %frames, 1",
        f"  %outputs = mul i64 %blocks, {ROWS}",
        f"  %whole = and i64 %inputs, {-lanes}",
        "  br label %tile",
        "tile:",
        "  %t = phi i64 [0, %entry], [%t_next, %tile_done]",
    )
    _pack(w, lanes, tile)
    _block(w, lanes, tile)
    w.add(
        "  %more_blocks = icmp slt i64 %b_next, %blocks",
        "  br i1 %more_blocks, label %block, label %tile_done",
        "tile_done:",
        f"  %t_next = add i64 %t, {tile}",
        "  %more_tiles = icmp slt i64 %t_next, %frames",
        "  br i1 %more_tiles, label %tile, label %done",
        "done:",
        "  ret void",
        "}",
    )
    return "\n".join(w.lines)


def _pack(w: _Writer, lanes: int, tile: int) -> None:
    """x [T, I] of a tile becomes [I, tile]: squares of vectors, then what is left."""
    rows = []
    for k in range(tile):
        # Behind the last frame, it is taken again: nobody looks at what comes of it.
        frame = w.let(f"add i64 %t, {k}")
        frame = w.let(f"call i64 @llvm.smin.i64(i64 {frame}, i64 %last)")
        rows.append(w.address("%x", w.let(f"mul i64 {frame}, %inputs")))
    w.add(
        "  %any_square = icmp sgt i64 %whole, 0",
        "  br i1 %any_square, label %square, label %squares_done",
        "square:",
        "  %c = phi i64 [0, %tile], [%c_next, %square]",
    )
    for v in range(VECTORS):
        own = rows[v * lanes : (v + 1) * lanes]
        square = [w.load(row, "%c", kind=w.vector) for row in own]
        for distance in _halves(lanes):
            square = _swapped(w, square, distance, lanes)
        for k, vector in enumerate(square):
            place = w.let(f"mul i64 {w.let(f'add i64 %c, {k}')}, {tile}")
            w.store(w.vector, vector, w.address("%packed", place, v * lanes))
    w.add(
        f"  %c_next = add i64 %c, {lanes}",
        "  %more_squares = icmp slt i64 %c_next, %whole",
        "  br i1 %more_squares, label %square, label %squares_done",
        "squares_done:",
        "  %any_left = icmp slt i64 %whole, %inputs",
        "  br i1 %any_left, label %left, label %packed_all",
        "left:",
        "  %l = phi i64 [%whole, %squares_done], [%l_next, %left]",
    )
    place = w.let(f"mul i64 %l, {tile}")
    for k, row in enumerate(rows):
        w.store("float", w.load(row, "%l"), w.address("%packed", place, k))
    w.add(
        "  %l_next = add i64 %l, 1",
        "  %more_left = icmp slt i64 %l_next, %inputs",
        "  br i1 %more_left, label %left, label %packed_all",
        "packed_all:",
        "  br label %block",
    )


def _block(w: _Writer, lanes: int, tile: int) -> None:
    """ROWS outputs of a tile: the sum over the groups that are kept."""
    w.add("block:", "  %b = phi i64 [0, %packed_all], [%b_next, %write]")
    w.add("  %b_next = add i64 %b, 1", f"  %output = mul i64 %b, {ROWS}")
    for name, number in (("first", "%b"), ("end", "%b_next")):
        found = w.let(f"getelementptr i32, ptr %begin, i64 {number}")
        found = w.let(f"load i32, ptr {found}")
        w.add(f"  %{name} = sext i32 {found} to i64")
    bias = [w.broadcast(w.load("%bias", "%output", r)) for r in range(ROWS)]
    w.add(
        "  %any = icmp slt i64 %first, %end",
        "  br i1 %any, label %group, label %write",
        "group:",
        "  %g = phi i64 [%first, %block], [%g_next, %group]",
    )
    sums = [(r, v) for r in range(ROWS) for v in range(VECTORS)]
    for r, v in sums:
        begin, again = f"[{bias[r]}, %block]", f"[%n{r}_{v}, %group]"
        w.add(f"  %a{r}_{v} = phi {w.vector} {begin}, {again}")
    found = w.let("getelementptr i32, ptr %index, i64 %g")
    found = w.let(f"sext i32 {w.let(f'load i32, ptr {found}')} to i64")
    place, weights = w.let(f"mul i64 {found}, {tile}"), w.let(f"mul i64 %g, {ROWS}")
    xs = [w.load("%packed", place, v * lanes, w.vector) for v in range(VECTORS)]
    for r in range(ROWS):
        weight = w.broadcast(w.load("%values", weights, r))
        for v in range(VECTORS):
            given = ", ".join(f"{w.vector} {a}" for a in (weight, xs[v], f"%a{r}_{v}"))
            w.add(f"  %n{r}_{v} = call {w.vector} @llvm.fma.v{lanes}f32({given})")
    w.add(
        "  %g_next = add i64 %g, 1",
        "  %more = icmp slt i64 %g_next, %end",
        "  br i1 %more, label %group, label %write",
        "write:",
    )
    for r, v in sums:
        begin, end = f"[{bias[r]}, %block]", f"[%n{r}_{v}, %group]"
        w.add(f"  %o{r}_{v} = phi {w.vector} {begin}, {end}")
    _write(w, lanes)


def _write(w: _Writer, lanes: int) -> None:
    """Sums [ROWS, tile] become y [tile, O], four outputs of a frame at once."""
    for v in range(VECTORS):
        four = [f"%o{r}_{v}" for r in range(ROWS)]
        for distance in _halves(ROWS):
            four = _swapped(w, four, distance, lanes)
        for r, vector in enumerate(four):
            for at in range(0, lanes, ROWS):
                part = w.shuffle(vector, "poison", range(at, at + ROWS))
                frame = w.let(f"add i64 %t, {v * lanes + at + r}")
                place = w.let(f"add i64 {w.let(f'mul i64 {frame}, %outputs')}, %output")
                w.store(f"<{ROWS} x float>", part, w.address("%y", place))


def _halves(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


def _swapped(w: _Writer, rows: Sequence[str], distance: int, lanes: int) -> list[str]:
    """A step of Eklundh's transposition: blocks beside the diagonal change places."""
    upper = [c if not c & distance else lanes + c - distance for c in range(lanes)]
    lower = [c + distance if not c & distance else lanes + c for c in range(lanes)]
    done = list(rows)
    for k in (k for k in range(len(rows)) if not k & distance):
        pair = rows[k], rows[k + distance]
        done[k], done[k + distance] = w.shuffle(*pair, upper), w.shuffle(*pair, lower)
    return done
