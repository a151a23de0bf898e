"""MCQ-VAE: its sizes, its layers written out, that it learns, and that codes may be kept in place of images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from causal_ctx.models import quantiser
from causal_ctx.models.mcq_vae import MCQVAE, Decoder, Encoder, code_grid, encode_to_codes, revive_dead_codes
from causal_ctx.models.quantiser import Quantiser
from causal_ctx.objectives import mcq_vae as objective

WIDTHS, D, N = (8, 12), 8, 16  # of a model so small that a step takes milliseconds


def small(num_codebooks=2, output="sigmoid", **fields):
    return MCQVAE(Encoder(WIDTHS, D, blocks=1), Quantiser(D, N, num_codebooks, **fields), Decoder(WIDTHS, 3, output, blocks=1))


def images_of(n, size=16, seed=0):
    """uint8 [n, size, size, 3]: a block of one of four colours on one of four grounds."""
    rng = np.random.default_rng(seed)
    palette = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 220], [230, 210, 40]], np.uint8)
    x = np.broadcast_to(palette[rng.integers(4, size=n)][:, None, None] // 2, (n, size, size, 3)).copy()
    for image, colour, (row, column) in zip(x, palette[rng.integers(4, size=n)], rng.integers(0, size // 2, (n, 2))):
        image[row : row + size // 2, column : column + size // 2] = colour
    return x


def unit(images):
    return images.astype(np.float32) / 255


def init(model, images, uniform=np.random.default_rng(0).uniform):
    """`model.init` with NumPy's random numbers: to compile JAX's for every shape takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "uniform", lambda key, shape, dtype, low, high: jnp.asarray(uniform(low, high, shape), dtype))
        return jax.jit(model.init)(jax.random.key(0), images)


@pytest.fixture(scope="module")
def run():
    """(model, variables, images, output) of an untrained model on four images."""
    model, images = small(), unit(images_of(4))
    variables = init(model, images)
    return model, variables, images, jax.jit(model.apply)(variables, images)


@pytest.mark.parametrize("k", [1, 4])
def test_number_of_parameters_is_the_references(key, k):
    """Spec section 1.5: D = 128, widths 64, 128, 256, N = 64, colour images."""
    widths = (64, 128, 256)
    model = MCQVAE(Encoder(widths, 128), Quantiser(128, 64, k), Decoder(widths, 3))
    output, variables = jax.eval_shape(model.init_with_output, key, jnp.zeros((5, 64, 64, 3)))
    assert set(variables) == {"params"}
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in variables["params"].items()}
    assert count == {"encoder": 5_214_016, "decoder": 4_885_955, "quantiser": 8_192}
    assert (output.images.shape, output.indices.shape) == ((5, 64, 64, 3), (5, k, 8, 8))
    assert output.z.shape == output.q.shape == (5, 8, 8, 128)


def convolution(x, kernel, stride):
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def leaky(x):
    return jnp.where(x > 0, x, 0.01 * x)


def residual(x, params):
    hidden = jnp.maximum(convolution(x, params["conv_3x3"]["kernel"], 1), 0)
    return x + hidden @ params["conv_1x1"]["linear"]["kernel"]


def with_bias(y, params):
    return y + params["bias"].reshape(1, 1, 1, -1)


def test_the_encoder_written_out(run):
    """Spec section 1.1, with XLA's own convolutions."""
    _, variables, images, output = run

    @jax.jit
    def written_out(params, x):
        y = leaky(with_bias(convolution(x, params["conv_0"]["kernel"], 2), params["conv_0"]))
        y = leaky(with_bias(convolution(y, params["conv_1"]["kernel"], 2), params["conv_1"]))
        y = leaky(with_bias(convolution(y, params["conv_3x3"]["kernel"], 1), params["conv_3x3"]))
        y = leaky(residual(y, params["block_0"]))
        return leaky(with_bias(y @ params["to_latents"]["linear"]["kernel"], params["to_latents"]["linear"]))

    np.testing.assert_allclose(output.z, written_out(variables["params"]["encoder"], images), atol=1e-5)


@pytest.mark.parametrize("name, activation", [("tanh", jnp.tanh), ("sigmoid", jax.nn.sigmoid)])
def test_the_decoder_written_out(run, name, activation):
    """Spec section 1.3; a transposed convolution is the gradient of the strided one with respect to its input."""
    _, variables, _, output = run
    params = variables["params"]["decoder"]

    def transposed(x, p):
        b, h, w, _ = x.shape
        kernel = p["kernel"].swapaxes(2, 3)
        _, gradient = jax.vjp(lambda image: convolution(image, kernel, 2), jnp.zeros((b, 2 * h, 2 * w, kernel.shape[2])))
        return with_bias(gradient(x)[0], p)

    @jax.jit
    def both(params, q):
        y = leaky(with_bias(convolution(q, params["conv_3x3"]["kernel"], 1), params["conv_3x3"]))
        y = leaky(residual(y, params["block_0"]))
        written_out = activation(transposed(leaky(transposed(y, params["conv_0"])), params["to_images"]))
        return Decoder(WIDTHS, 3, name, blocks=1).apply({"params": params}, q), written_out

    np.testing.assert_allclose(*both(params, output.q), atol=1e-5)
    if name == "sigmoid":  # the default
        np.testing.assert_allclose(both(params, output.q)[1], output.images, atol=1e-5)


def test_initial_weights_are_pytorchs():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), fan_in of a transposed convolution counted over its outputs (spec section 1.3); codes U(-1/N, 1/N)."""

    def bound(low, high, shape):
        assert low == -high
        return np.full(shape, high)

    params = jax.device_get(init(small(), unit(images_of(1)), bound)["params"])
    encoder = {"conv_0": 16 * 3, "conv_1": 16 * WIDTHS[0], "conv_3x3": 9 * WIDTHS[1], "to_latents": WIDTHS[1]}
    decoder = {"conv_3x3": 9 * D, "conv_0": 16 * WIDTHS[0], "to_images": 16 * 3}
    for part, fan_in in (("encoder", encoder), ("decoder", decoder)):
        for layer, fan in fan_in.items():
            for leaf in jax.tree.leaves(params[part][layer]):
                np.testing.assert_allclose(leaf, fan**-0.5, rtol=1e-6)
        block = params[part]["block_0"]
        np.testing.assert_allclose(block["conv_3x3"]["kernel"], (9 * WIDTHS[1]) ** -0.5, rtol=1e-6)
        np.testing.assert_allclose(block["conv_1x1"]["linear"]["kernel"], WIDTHS[1] ** -0.5, rtol=1e-6)
    np.testing.assert_allclose(params["quantiser"]["codebooks"], 1 / N, rtol=1e-6)


def train(model, images, steps, beta=0.25, threshold=0.0):
    """(variables, losses) after Adam steps on all images at once."""
    adam = optax.adam(3e-3)
    variables = init(model, images)
    params, stats = variables["params"], variables.get("batch_stats", {})

    @jax.jit
    def step(params, stats, moments, key):
        def loss(params):
            output, updated = model.apply({"params": params, "batch_stats": stats}, images, key, train=True, mutable=["batch_stats"])
            value, terms = objective.loss(output, images, beta)
            return value, (updated.get("batch_stats", {}), terms)

        gradient, (moved, terms) = jax.grad(loss, has_aux=True)(params)
        change, moments = adam.update(gradient, moments)
        params = optax.apply_updates(params, change)
        if threshold:
            params, moved = revive_dead_codes(params, moved, threshold)
        return params, moved, moments, terms

    moments, terms = jax.jit(adam.init)(params), []
    for number in range(steps):
        params, stats, moments, new = step(params, stats, moments, jax.random.wrap_key_data(np.array([0, number], np.uint32)))
        terms.append(new)
    assert step._cache_size() == 1
    return {"params": params, "batch_stats": stats}, jax.tree.map(lambda *x: np.stack(x), *terms)


@pytest.mark.parametrize("fields, threshold", [({}, 0.0), ({"update": "ema", "revival": True}, 0.1)])
def test_training_reduces_the_reconstruction_error(fields, threshold):
    model, images = small(**fields), unit(images_of(32))
    variables, terms = train(model, images, 150, threshold=threshold)
    mse = terms["reconstruction_mse"]
    assert mse[-1] < 0.5 * mse[0]
    assert np.isfinite(terms["loss_squared_error"]).all()
    np.testing.assert_allclose(terms["loss_squared_error"], terms["reconstruction_mse"] + terms["vq_loss"], rtol=1e-5)


def test_every_parameter_gets_gradient(run):
    """The encoder through the straight-through estimator, each codebook through its own loss."""
    model, variables, images, _ = run
    gradient = jax.jit(jax.grad(lambda p: objective.loss(model.apply({"params": p}, images), images, 0.25)[0]))(variables["params"])
    gradient = jax.device_get(gradient)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))
    assert (gradient["encoder"]["to_latents"]["linear"]["bias"] != 0).all()  # all D channels: the slices cover them
    assert (np.abs(gradient["quantiser"]["codebooks"]).max(axis=(1, 2)) > 0).all()


def test_loss_by_hand(run):
    images, output = run[2], jax.device_get(run[3])
    value, terms = objective.loss(output, images, beta=0.1)
    mse = np.mean((output.images.astype(np.float64) - images) ** 2)
    halves = [np.mean((output.z.astype(np.float64) - output.q)[..., half] ** 2) for half in (slice(0, D // 2), slice(D // 2, D))]
    np.testing.assert_allclose(terms["reconstruction_mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(terms["vq_loss"], 1.1 * sum(halves), rtol=1e-5)
    np.testing.assert_allclose(value, mse + 1.1 * sum(halves), rtol=1e-5)
    np.testing.assert_allclose(objective.psnr_db(0.01), 20, rtol=1e-5)


def test_metrics_of_known_codes():
    """Codebook 0 uses its four codes evenly (2 bits a node), codebook 1 one of four; four nodes."""
    indices = jnp.array([[[[0, 1], [2, 3]], [[1, 1], [1, 1]]]])
    metrics = objective.code_metrics(indices, 4)
    np.testing.assert_allclose(metrics["perplexity_codes"], (4 + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["code_bits_per_image"], 4 * 2, rtol=1e-6)
    assert metrics["dead_codes"] == 3


def test_codes_are_all_that_the_decoder_sees(run):
    model, variables, images, output = run

    @jax.jit
    def steps(variables, images):
        apply = lambda x, method: model.apply(variables, x, method=method)
        indices = apply(images, "codes")
        q = apply(indices, "latents")
        return indices, q, apply(indices, "decode_codes"), apply(q, "decode"), apply(images, "encode")

    indices, q, from_codes, from_latents, z = steps(variables, images)
    np.testing.assert_array_equal(indices, output.indices)
    np.testing.assert_array_equal(q, output.q)
    np.testing.assert_allclose(from_codes, output.images, atol=1e-6)
    np.testing.assert_allclose(from_latents, output.images, atol=1e-6)
    np.testing.assert_allclose(z, output.z, atol=1e-6)


def test_cached_codes_are_the_codes_computed_on_the_fly(run):
    """In batches of 8 over 20 images. Matrix products of another size may round otherwise, so codes may differ where two are equally near."""
    model, variables, _, _ = run
    images = images_of(20)
    cached = encode_to_codes(model, variables, images, batch_size=8)
    assert (cached.shape, cached.dtype) == ((20, 2, 4, 4), np.uint8)
    now = jax.jit(model.apply)(variables, unit(images))
    codebooks = variables["params"]["quantiser"]["codebooks"]
    distance = lambda indices: quantiser.losses(now.z, quantiser.lookup(jnp.asarray(indices, jnp.int32), codebooks), 2, 0.0)
    np.testing.assert_allclose(distance(cached), distance(now.indices), rtol=1e-5)
    assert (cached == now.indices).mean() > 0.99
    np.testing.assert_array_equal(cached, encode_to_codes(model, variables, images, batch_size=8))
    assert len(encode_to_codes(model, variables, images[:0], batch_size=8)) == 0


def test_bad_images_are_refused(key, run):
    model, variables = run[:2]
    with pytest.raises(ValueError, match="Images of 18x16 pixels cannot be halved 2 times; give multiples of 4"):
        model.apply(variables, jnp.zeros((1, 18, 16, 3)))
    with pytest.raises(ValueError, match="are float32; give uint8"):
        encode_to_codes(model, variables, np.zeros((2, 16, 16, 3), np.float32))
    with pytest.raises(ValueError, match="no output 'softmax'; choose one of sigmoid, tanh"):
        Decoder(WIDTHS, 3, "softmax").init(key, jnp.zeros((1, 4, 4, D)))
    assert code_grid((64, 128), (64, 128, 256)) == (8, 16)
