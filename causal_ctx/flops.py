"""Arithmetic of matrix products and convolutions, counted in what a function traces to: the same on every platform, loops included."""

import math
from collections.abc import Callable, Iterator

import jax


def matrix_flops(function: Callable, *arguments) -> float:
    """Floating-point operations of the matrix products and convolutions in one call of `function`; arguments are arrays or their shapes.

    A product is two operations. Of branches the mean counts; of those that compute the same for different platforms, the cheapest. The body of a loop whose
    length is not known before it runs counts once, and what a compiler would leave out counts too.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = [_of_jaxpr(one) for one in _inner(eqn.params)]
        match eqn.primitive.name:
            case "dot_general":
                contracted = eqn.params["dimension_numbers"][0][0]
                total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            case "conv_general_dilated":
                kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
                taps = math.prod(kernel) / kernel[spec[0]] / math.prod(eqn.params["lhs_dilation"])  # zeros put between pixels cost nothing
                total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * taps
            case "scan":
                total += eqn.params["length"] * sum(inner)
            case "cond":
                total += min(inner) if eqn.params.get("branches_platforms") else sum(inner) / len(inner)
            case _:
                total += sum(inner)
    return total


def _inner(params: dict) -> Iterator:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one
