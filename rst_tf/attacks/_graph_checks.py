"""What the graph from images to logits tells of a model, without running it."""

import tensorflow as tf

from rst_tf.attacks.outcome import Finding

_ROUNDING = ("Sign", "Round", "Rint", "Floor", "Ceil", "FloorDiv", "Bucketize")
_QUANTISING = ("FakeQuant", "Quantize")  # how the names of operations begin
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")  # whatever the values


def dynamic(graph) -> list[Finding]:
    """Whether the model takes gradients of its own while it answers."""
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    if not any(_of_gradient(node) for node in nodes):
        return []
    text = "the model takes gradients while it answers; these attacks do not see through that"
    return [Finding("dynamic", "warning", text)]


def _of_gradient(node) -> bool:
    transposed = "transpose" in node.name  # a transposed convolution is a convolution's gradient
    return "gradient_tape" in node.name or ("BackpropInput" in node.op and not transposed)


def quantised(graph, images: str) -> list[Finding]:
    """Whether what depends on the images is rounded on its way to the logits.

    Args:
        graph: Its definition.
        images: Name of the node that they come from.
    """
    functions = {f.signature.name: f for f in graph.library.function}
    found, seen = set(), set()

    def look(nodes, moving: set[str]):
        moving = _moving(nodes, moving)
        for node in nodes:
            if node.name in moving and not _of_gradient(node):
                if _is_step(node, moving) and not _is_gate(node, nodes, moving):
                    found.add(node.op)
                for function in filter(None, map(functions.get, _called(node))):
                    names = [argument.name for argument in function.signature.input_arg]
                    given = _sources(node)[-len(names) :]  # the first of a condition selects it
                    inside = {name for name, at in zip(names, given, strict=False) if at in moving}
                    if (call := (function.signature.name, frozenset(inside))) not in seen:
                        seen.add(call)
                        look(function.node_def, inside)

    look(graph.node, {images})
    if not found:
        return []
    text = f"gradients of {', '.join(sorted(found))} on the way from images to logits are 0 or"
    text += " somebody's estimate: attacks with gradients may be blind, and Square decides"
    return [Finding("quantised", "warning", text)]


def _moving(nodes, moving: set[str]) -> set[str]:
    """Names of those nodes whose values depend on the values of these."""
    found, before = set(moving), 0
    while len(found) > before:  # once more where a graph is not in order
        before = len(found)
        for node in nodes:
            if node.op not in _OF_SHAPES and not found.isdisjoint(_sources(node)):
                found.add(node.name)
    return found


def _is_step(node, moving: set[str]) -> bool:
    """Whether a node gives few values, so that its own gradient is 0 or none."""
    if node.op in ("Select", "SelectV2"):  # of two constants
        return moving.isdisjoint(_sources(node)[1:])
    if node.op == "Cast":
        given, made = (tf.as_dtype(node.attr[end].type) for end in ("SrcT", "DstT"))
        return given.is_floating and made.is_integer
    return node.op in _ROUNDING or node.op.startswith(_QUANTISING)


def _is_gate(step, nodes, moving: set[str]) -> bool:
    """Whether what is compared is only switched or turned: `x * sign(x)`, a leaky ReLU by hand."""
    compared = {_sources(step)[0]}
    if step.op in ("Select", "SelectV2"):
        compared = {name for node in nodes if node.name in compared for name in _sources(node)}
    products = [set(_sources(node)) for node in nodes if node.op == "Mul"]
    return any(step.name in product and product & compared & moving for product in products)


def _sources(node) -> list[str]:
    """Names of the nodes whose values a node takes."""
    return [at.partition(":")[0] for at in node.input if not at.startswith("^")]


def _called(node):
    """Names of the functions that a node may call."""
    for value in node.attr.values():
        yield from (f.name for f in (value.func, *value.list.func) if f.name)
