"""The fast convolutions are the same functions as XLA's, in value and in gradient."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from causal_ctx import parallel
from causal_ctx.models import convolution as conv

FORMS = {
    "strided": (conv.strided_conv, conv.strided_conv_as_matmul, conv._strided_conv_native),
    "transposed": (conv.transposed_conv, conv.transposed_conv_as_matmul, conv._transposed_conv_native),
    "same": (conv.same_conv, conv.same_conv_as_matmul, conv._same_conv_native),
}


@pytest.mark.parametrize("name", FORMS)
def test_matrix_product_equals_native(key, name):
    chosen, fast, native = FORMS[name]
    x = jax.random.normal(key, (3, 6, 8, 5))
    kernel = jax.random.normal(jax.random.fold_in(key, 1), (*((3, 3) if name == "same" else (4, 4)), 5, 7))
    probe = jax.random.normal(jax.random.fold_in(key, 2), native(x, kernel).shape)
    value_and_gradients = lambda f: jax.value_and_grad(lambda x, k: (f(x, k) * probe).sum(), argnums=(0, 1))(x, kernel)
    for form in (chosen, fast):
        np.testing.assert_allclose(form(x, kernel), native(x, kernel), atol=1e-4)
        for ours, theirs in zip(jax.tree.leaves(value_and_gradients(form)), jax.tree.leaves(value_and_gradients(native))):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("most, groups", [(1, 1), (1 / 2.5, 3), (1e-9, 6)])
@pytest.mark.parametrize("name, num_bytes", [("strided", 4 * 6 * 2 * 2 * 16 * 5), ("transposed", 4 * 6 * 4 * 4 * 16 * 2), ("same", 4 * 6 * 4 * 4 * 9 * 2)])
def test_groups_of_images_change_nothing(monkeypatch, key, name, num_bytes, most, groups):
    """Value and both gradients; and there are as many groups as the patches of one may be large."""
    _, fast, native = FORMS[name]
    monkeypatch.setattr(conv, "MOST_BYTES_OF_PATCHES", most * num_bytes)
    x = jax.random.normal(key, (6, 4, 4, 5))
    kernel = jax.random.normal(jax.random.fold_in(key, 1), (*((3, 3) if name == "same" else (4, 4)), 5, 2))
    probe = jax.random.normal(jax.random.fold_in(key, 2), native(x, kernel).shape)
    value_and_gradients = lambda f: jax.value_and_grad(lambda x, k: (f(x, k) * probe).sum(), argnums=(0, 1))
    for ours, theirs in zip(*(jax.tree.leaves(value_and_gradients(f)(x, kernel)) for f in (fast, native))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    loops = [e.params["length"] for e in jaxprs(jax.make_jaxpr(value_and_gradients(fast))(x, kernel).jaxpr) if e.primitive.name == "scan"]
    assert set(loops) == ({groups} if groups > 1 else set())


@pytest.mark.parametrize("name, bytes_an_image", [("strided", 4 * 2 * 2 * 16 * 3), ("transposed", 4 * 4 * 4 * 16 * 2), ("same", 4 * 4 * 4 * 9 * 2)])
def test_groups_leave_images_on_their_devices(monkeypatch, key, name, bytes_an_image):
    """Images that are split over devices are split in every group that has one for each: none is gathered, only gradients of the kernel are summed."""
    mesh = parallel.data_mesh()
    x, kernel = jax.random.normal(key, (4 * mesh.size, 4, 4, 3)), jax.random.normal(key, (*((3, 3) if name == "same" else (4, 4)), 3, 2))
    monkeypatch.setattr(conv, "MOST_BYTES_OF_PATCHES", mesh.size * bytes_an_image)
    loss = lambda x, kernel: (FORMS[name][1](x, kernel) ** 2).sum()
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), in_shardings=(parallel.split(mesh, axis=0), parallel.replicated(mesh)))
    text = gradient.lower(x, kernel).compile().as_text()
    assert "while(" in text
    assert mesh.size == 1 or ("all-reduce" in text and "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text)


@pytest.mark.parametrize("name", FORMS)
def test_groups_work_where_every_device_computes_its_own(monkeypatch, key, name):
    """As images are generated: under shard_map, whose checks of what differs between devices stay on."""
    mesh = parallel.data_mesh()
    x, kernel = jax.random.normal(key, (4 * mesh.size, 4, 4, 3)), jax.random.normal(key, (*((3, 3) if name == "same" else (4, 4)), 3, 2))
    _, fast, native = FORMS[name]
    monkeypatch.setattr(conv, "MOST_BYTES_OF_PATCHES", 1)
    rows = parallel.split(mesh, axis=0).spec
    own = jax.shard_map(fast, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    np.testing.assert_allclose(own(x, kernel), native(x, kernel), rtol=1e-5, atol=1e-5)


def jaxprs(jaxpr):
    """The equations of a jaxpr and of those within."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from jaxprs(inner)


def test_transposed_convolution_is_the_adjoint_of_the_strided_one(key):
    """<conv(x), y> = <x, conv^T(y)> with the kernel's channels swapped: PyTorch's definition of ConvTranspose2d."""
    x, y = jax.random.normal(key, (2, 8, 8, 3)), jax.random.normal(key, (2, 4, 4, 6))
    kernel = jax.random.normal(key, (4, 4, 3, 6))
    left = (conv.strided_conv(x, kernel) * y).sum()
    right = (x * conv.transposed_conv(y, kernel.swapaxes(2, 3))).sum()
    np.testing.assert_allclose(left, right, rtol=1e-4)


def test_same_convolution_is_the_sum_of_nine_shifted_products(key):
    """With PyTorch's orientation: output (i, j) hears input (i + a - 1, j + b - 1) through kernel[a, b]; the gradients are those of that sum."""
    x, kernel = jax.random.normal(key, (2, 4, 5, 3)), jax.random.normal(key, (3, 3, 3, 2))

    def written_out(x, kernel):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(padded[:, a : a + 4, b : b + 5] @ kernel[a, b] for a in range(3) for b in range(3))

    def value_and_gradients(convolve):
        return jax.jit(jax.value_and_grad(lambda *args: (convolve(*args) ** 2).sum(), argnums=(0, 1)))(x, kernel)

    for ours, theirs in zip(jax.tree.leaves(value_and_gradients(conv.same_conv)), jax.tree.leaves(value_and_gradients(written_out))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(jax.jit(conv.same_conv)(x, kernel), jax.jit(written_out)(x, kernel), atol=1e-4)
