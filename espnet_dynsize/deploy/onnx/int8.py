"""8-bit integers in place of an ONNX file's matrices."""

from pathlib import Path

from espnet_dynsize.deploy.onnx.graph import package, tell


def quantise(source: Path, target: Path, about: dict) -> None:
    """Write a file whose matrix products are of 8-bit integers.

    Weights are signed with 7 bits, a scale for each output: with 8, processors without
    dot products (AVX2) add up past 16 bits and clip. Inputs are quantised as they come.

    Args:
        source: The file of floats.
        target: Is written.
        about: Its metadata.

    Raises:
        ConfigError: a package is missing.
    """
    onnx, quantization = package("onnx"), package("onnxruntime.quantization")
    # Powers range over many magnitudes: one scale would leave nothing of most.
    names = [node.name for node in onnx.load(source).graph.node]
    quantization.quantize_dynamic(
        source,
        target,
        nodes_to_exclude=[name for name in names if name.startswith("/logmel/")],
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=quantization.QuantType.QInt8,
    )
    model = onnx.load(target)
    before_patches(model)
    tell(model, about)
    onnx.save(model, target)


def before_patches(model) -> None:
    """Quantise what a convolution's patches are cut from, not every patch.

    With the scale of the whole, of which patches are parts: a few times less to do.

    Args:
        model: An ONNX model; is changed.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    for node in [n for n in graph.node if n.op_type == "DynamicQuantizeLinear"]:
        joined = made.get(node.input[0])
        source = _source(joined, made)
        if source is None:
            continue
        quantised, *_ = node.output
        for user in graph.node:
            for slot, name in enumerate(user.input):
                if name == quantised:
                    user.input[slot] = joined.output[0]
        of_source = f"{source}_quantised"
        for cut in _cuts(joined, made):
            for slot, name in enumerate(cut.input):
                if name == source:
                    cut.input[slot] = of_source
        # Types that are no longer those of the tensors
        del graph.value_info[:]
        node.input[0], node.output[0] = source, of_source
        graph.node.remove(node)
        place = list(graph.node).index(made[source]) + 1
        graph.node.insert(place, node)


def _cuts(joined, made: dict) -> list:
    """All `Slice` between a `Concat` and what it joins parts of."""
    found, names = [], list(joined.input)
    while names:
        node = made.get(names.pop())
        if node is not None and node.op_type == "Slice" and node not in found:
            found.append(node)
            names.append(node.input[0])
    return found


def _source(joined, made: dict) -> str | None:
    """What a `Concat` joins parts of; None if these are parts of several, or it none.

    Args:
        joined: A node, or None.
        made: Tensor → the node whose output it is.
    """
    if joined is None or joined.op_type != "Concat":
        return None
    cuts = _cuts(joined, made)
    within = {name for cut in cuts for name in cut.output}
    roots = {n for n in joined.input if n not in within}
    roots |= {cut.input[0] for cut in cuts if cut.input[0] not in within}
    return roots.pop() if cuts and len(roots) == 1 else None
