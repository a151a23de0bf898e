"""The objective and the ELBO against closed forms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from causal_ctx.models.conv_vae import Posterior
from causal_ctx.objectives import vae
from causal_ctx.objectives.objective import ImageBatch
from causal_ctx.start import build_trainer, hyper
from tests import tiny


def test_kl_against_numerical_integration():
    mean, log_variance = 0.7, -0.4
    x = np.linspace(-12, 12, 200_001)
    q = scipy.stats.norm(mean, np.exp(0.5 * log_variance))
    expected = np.trapezoid(q.pdf(x) * (q.logpdf(x) - scipy.stats.norm.logpdf(x)), x)
    posterior = Posterior(jnp.full((2, 3), mean), jnp.full((2, 3), log_variance))
    np.testing.assert_allclose(vae.kl_nats(posterior), [3 * expected] * 2, rtol=1e-5)


def test_elbo_equals_the_exact_evidence_at_the_exact_posterior(key):
    """z ~ N(0, I), x | z ~ N(a z, s^2): with q the true posterior, E_q[log p(x|z)] - KL = log N(x; 0, a^2 + s^2), and any other q lies below."""
    a, s, x = 1.7, 0.6, jnp.array([[0.3], [-2.0]])
    variance = s**2 / (a**2 + s**2)
    exact = Posterior(a * x / (a**2 + s**2), jnp.full_like(x, np.log(variance)))

    def elbo(q: Posterior):
        squares = (x - a * q.mean) ** 2 + a**2 * jnp.exp(q.log_variance)  # E_q (x - a z)^2
        return (-0.5 * np.log(2 * np.pi * s**2) - squares / (2 * s**2)).sum(-1) - vae.kl_nats(q)

    evidence = scipy.stats.norm(0, np.hypot(a, s)).logpdf(np.asarray(x)[:, 0])
    np.testing.assert_allclose(elbo(exact), evidence, rtol=1e-5)
    assert (elbo(Posterior(exact.mean + 0.1, exact.log_variance)) < evidence - 1e-3).all()
    assert (elbo(Posterior(exact.mean, exact.log_variance + 0.5)) < evidence - 1e-3).all()
    samples = jax.vmap(exact.sample)(jax.random.split(key, 20_000))
    np.testing.assert_allclose(samples.mean(0), exact.mean, atol=0.02)
    np.testing.assert_allclose(samples.var(0), np.full((2, 1), variance), rtol=0.05)


def test_reconstruction_is_binary_cross_entropy_and_meets_the_entropy_floor():
    images = jnp.array([0.0, 0.25, 1.0, 0.5]).reshape(1, 2, 2, 1)
    p = np.clip(np.asarray(images), 1e-7, 1 - 1e-7)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    np.testing.assert_allclose(vae.reconstruction_nats(jnp.log(p / (1 - p)), images), [entropy], rtol=1e-3)
    np.testing.assert_allclose(vae.reconstruction_nats(jnp.zeros_like(images), images), [4 * np.log(2)], rtol=1e-6)


def test_penalties_on_a_hand_computed_matrix():
    """K = 2, w = 1: blocks 3, 4, 0, 1 have norms summing to 8 and a total norm of sqrt(26); the gradient at the zero block is zero, not nan."""
    blocks = jnp.array([[3.0, 4.0], [0.0, 1.0]]).reshape(2, 1, 2, 1)
    group, l2 = vae.causal_penalties(blocks)
    np.testing.assert_allclose([group, l2], [8.0, np.sqrt(26)], rtol=1e-6)
    gradient = jax.grad(lambda b: vae.causal_penalties(b)[0])(blocks)
    np.testing.assert_allclose(np.asarray(gradient).reshape(2, 2), [[1, 1], [0, 1]], rtol=1e-6)


def test_moment_distance_is_the_mean_over_pairs(key):
    """Against the matrices A_i = m_i m_i' + diag(s_i) - I themselves, pair by pair; zero where every posterior is the prior."""
    mean, log_variance = 2 * jax.random.normal(key, (5, 3)), jax.random.normal(jax.random.key(1), (5, 3))
    means, variances = np.asarray(mean, np.float64), np.exp(np.asarray(log_variance, np.float64))
    surplus = [np.outer(m, m) + np.diag(s) - np.eye(3) for m, s in zip(means, variances)]
    pairs = [means[i] @ means[j] / 2 + (surplus[i] * surplus[j]).sum() / 4 for i in range(5) for j in range(5) if i != j]
    together = np.ones((5, 5), bool)
    np.testing.assert_allclose(vae.moment_distance(Posterior(mean, log_variance), together), np.mean(pairs), rtol=1e-5)
    assert vae.moment_distance(Posterior(jnp.zeros((5, 3)), jnp.zeros((5, 3))), together) == 0
    of_two = vae.of_one_context(jnp.array([[0, 0], [1, 0], [0, 0], [1, 0], [0, 1]]))
    first, second = (surplus[i] for i in (0, 2)), (surplus[i] for i in (1, 3))
    np.testing.assert_allclose(
        vae.moment_distance(Posterior(mean, log_variance), of_two),
        np.mean([means[i] @ means[j] / 2 + (a * b).sum() / 4 for (i, j), (a, b) in {(0, 2): first, (1, 3): second}.items()]),
        rtol=1e-5,
    )
    alone = vae.of_one_context(jnp.eye(5))
    assert vae.moment_distance(Posterior(mean, log_variance), alone) == 0


def test_moment_distance_has_no_bias_and_is_the_divergence_nearby():
    """Batches of six have the population's distance on average; a law near N(0, I) has the divergence of the Gaussians of its moments."""
    random, num, latents = np.random.default_rng(0), 100_000, 2
    mean, root = np.array([0.05, -0.03]), np.array([[0.5, 0.0], [0.04, 0.45]])
    means = (mean + random.standard_normal((num, 6, latents)) @ root.T).astype(np.float32)
    posterior = Posterior(jnp.asarray(means), jnp.full((num, 6, latents), np.log(0.76), jnp.float32))
    covariance = root @ root.T + 0.76 * np.eye(latents)
    divergence = (np.trace(covariance) + mean @ mean - latents - np.linalg.slogdet(covariance)[1]) / 2
    estimates = jax.vmap(vae.moment_distance, in_axes=(0, None))(posterior, np.ones((6, 6), bool))
    error = float(estimates.std()) / np.sqrt(num)
    assert float(estimates.mean()) == pytest.approx(divergence, abs=4 * error) and divergence > 8 * error


def test_energy_distance_is_that_of_pairs_of_one_context():
    """Against sums over pairs, of images of two contexts."""
    random = np.random.default_rng(0)
    x, y, context = random.random((6, 2, 2, 1)), random.random((6, 2, 2, 1)), np.array([0, 1, 0, 0, 1, 0])
    apart = lambda a, b, i, j: np.sqrt(((a[i] - b[j]) ** 2).mean())
    mean = lambda a, b, chosen: np.mean([apart(a, b, i, j) for i in range(6) for j in range(6) if chosen(i, j)])
    pairs = lambda i, j: context[i] == context[j] and i != j
    expected = 2 * mean(x, y, pairs) - mean(x, x, pairs) - mean(y, y, pairs)
    together = vae.of_one_context(jnp.asarray(np.eye(2)[context]))
    np.testing.assert_allclose(vae.energy_distance(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), together), expected, rtol=1e-4)


def test_energy_distance_has_no_bias_and_sees_what_moments_do_not():
    """Batches of six of one law have none on average; laws of equal mean and covariance, a normal and a two-pointed one, have some. The gradient is finite at zero."""
    random, num, together = np.random.default_rng(0), 50_000, np.ones((6, 6), bool)
    normal = lambda: jnp.asarray(random.standard_normal((num, 6, 1, 1, 1)), jnp.float32)
    signs = jnp.asarray(random.choice([-1.0, 1.0], (num, 6, 1, 1, 1)), jnp.float32)
    estimate = jax.vmap(vae.energy_distance, in_axes=(0, 0, None))
    for other, far in ((normal(), False), (signs, True)):
        values = estimate(normal(), other, together)
        error = float(values.std()) / np.sqrt(num)
        assert (float(values.mean()) > 8 * error) if far else float(values.mean()) == pytest.approx(0, abs=4 * error)
    assert jnp.isfinite(jax.grad(lambda y: vae.energy_distance(jnp.ones((6, 1, 1, 3)).at[0].set(0), y, together))(jnp.ones((6, 1, 1, 3)))).all()


def test_images_are_generated_beside_the_reconstructions(key):
    """From the given noise, under the targets of the images, normalised with the reconstructions: those of one pass over both."""
    dataset = tiny.dataset()
    objective = build_trainer(tiny.config(), dataset).objective
    variables, model = objective.init(key), objective.model
    images, noise = jnp.asarray(dataset.train["red"][:6]) / 255.0, jax.random.normal(key, (6, 12))
    targets = jnp.asarray([dataset.targets(name) for name in ("red", "dark", "obs") * 2], jnp.float32)
    found, _ = model.apply(variables, images, targets, key, True, noise, mutable=["batch_stats"])
    logits, z = jnp.concatenate([found.logits, found.generated]), jnp.concatenate([found.posterior.sample(key), noise])
    expected, _ = model.apply(variables, z, jnp.tile(targets, (2, 1)), True, mutable=["batch_stats"], method="decode")
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    plain, _ = model.apply(variables, images, targets, key, True, mutable=["batch_stats"])
    assert plain[0].shape == (6, 16, 16, 3) and not np.allclose(plain[0], logits[:6], atol=1e-3)


def test_by_groups_generated_images_change_no_reconstruction(key):
    """All layers see one example at a time."""
    dataset = tiny.dataset()
    objective = build_trainer(tiny.config(method="cm_shared_noise", model__module_normalisation="group"), dataset).objective
    images, noise, targets = jnp.asarray(dataset.train["red"][:6]) / 255.0, jax.random.normal(key, (6, 12)), jnp.zeros((6, 3))
    apply = lambda *noise: objective.model.apply(objective.init(key), images, targets, key, True, *noise, mutable=["batch_stats"])[0].logits
    np.testing.assert_allclose(apply(noise), apply(), atol=1e-5)


@pytest.mark.parametrize("term", ["energy", "moment"])
def test_a_penalty_is_a_term_of_the_loss(term, key):
    """It adds its weight times what it is on, and without a weight nothing is computed."""
    dataset, found = tiny.dataset(), {}
    images, targets = dataset.train["red"][:16], jnp.tile(jnp.asarray(dataset.targets("red"), jnp.float32), (16, 1))
    for weight in (0.0, 3.0):
        config = tiny.config(**{f"objective__{term}_penalty": weight})
        objective = build_trainer(config, dataset).objective
        found[weight] = objective.loss(objective.init(key), hyper(config, dataset).objective, ImageBatch(images, targets), key)
    (plain, (_, plain_terms)), (loss, (_, terms)) = found[0.0], found[3.0]
    name = f"{term}_nats"
    assert name not in plain_terms and terms[name] != 0
    without = plain if term == "moment" else terms["reconstruction_nats"] + terms["kl_nats"]  # what is decoded beside changes the statistics of the batch
    assert float(loss) == pytest.approx(float(without + 3 * terms[name]), rel=1e-5)


def test_terms_of_a_mixed_micro_batch_are_of_its_contexts_and_its_images(key):
    """Each recomputed from what the model makes of the same noise: contexts by hand, images and no logits."""
    dataset, config = tiny.dataset(), tiny.config(method="cm_shared_noise")
    objective = build_trainer(config, dataset).objective
    variables, names = objective.init(key), ("red", "dark", "obs", "light") * 3
    images = jnp.stack([dataset.train[name][row] for row, name in enumerate(names)])
    targets = jnp.asarray([dataset.targets(name) for name in names], jnp.float32)
    _, (_, terms) = objective.loss(variables, hyper(config, dataset).objective, ImageBatch(images, targets), key)
    noise = jax.random.normal(jax.random.fold_in(key, 0), (12, objective.model.encoder.latents))
    found, _ = objective.model.apply(variables, images / 255.0, targets, key, True, noise, mutable=["batch_stats"])
    together = np.array([[one == other for other in names] for one in names])
    energy = vae.energy_distance(images / 255.0, jax.nn.sigmoid(found.generated), together)
    assert float(terms["energy_nats"]) == pytest.approx(np.prod(dataset.image_shape[:2]) * float(energy), rel=1e-4)
    assert float(terms["moment_nats"]) == pytest.approx(float(vae.moment_distance(found.posterior, together)), rel=1e-4)


def test_penalties_on_blocks_of_two_by_two():
    """K = 2, w = 2, [listener, its row, speaker, its column]: blocks of Frobenius norms 5, 2, 0 and 13."""
    blocks = np.zeros((2, 2, 2, 2), np.float32)
    blocks[0, :, 0], blocks[0, :, 1], blocks[1, :, 1] = [[3, 0], [0, 4]], [[1, 1], [1, 1]], [[5, 0], [12, 0]]
    np.testing.assert_allclose(vae.causal_penalties(jnp.asarray(blocks)), [20.0, np.sqrt(25 + 4 + 169)], rtol=1e-6)


def test_the_penalty_counts_once_per_micro_batch():
    """Per example it is the penalty over the number of examples, whatever their contexts; the identity on the diagonal counts too."""
    config, dataset = tiny.config(objective__group_penalty=2.0, objective__l2_penalty=3.0), tiny.dataset()
    objective, weights = build_trainer(config, dataset).objective, np.zeros((3, 3, 3, 3), np.float32)
    weights[1, 0, 2, 0] = 0.5  # concept 1 hears concept 2, unless it is intervened on, as the first example's is
    params = {"context_module": {"causal_obs": jnp.asarray(weights), "causal_ivn": jnp.asarray(0 * weights)}}
    targets = jnp.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], jnp.float32)
    deaf, hearing = 2 * 3 * np.sqrt(3) + 3 * 3, 2 * (3 * np.sqrt(3) + 0.5) + 3 * np.sqrt(9 + 0.25)
    np.testing.assert_allclose(objective.penalty(params, hyper(config, dataset).objective, targets), (deaf + 2 * hearing) / 3 / 3, rtol=1e-6)


@pytest.mark.parametrize("method", ["cm_end_to_end", "cm_shared_noise"])
def test_bfloat16_is_what_layers_hand_on_and_nothing_else(method, key):
    """Matrix products of layers have bfloat16 factors; loss, gradients and statistics are float32 and near those of a float32 computation."""
    dataset = tiny.dataset()
    images, targets = dataset.train["red"][:16], jnp.tile(jnp.asarray(dataset.targets("red"), jnp.float32), (16, 1))
    found = {}
    for dtype in ("float32", "bfloat16"):
        config = tiny.config(method=method, train__compute_dtype=dtype)
        trainer, numbers = build_trainer(config, dataset), hyper(config, dataset).objective
        variables = trainer.objective.init(key)
        loss = lambda params, o=trainer.objective: o.loss(variables | {"params": params}, numbers, ImageBatch(images, targets), key)
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        found[dtype] = step(variables["params"])
        products = re.findall(r"(\w+)\[[\d,]*\] = dot_general", str(jax.make_jaxpr(step)(variables["params"])))
        of_loss = {"f32"} if method == "cm_shared_noise" else set()  # distances of images, and products of moments
        assert set(products) == {{"float32": "f32", "bfloat16": "bf16"}[dtype]} | of_loss
        assert {leaf.dtype for leaf in jax.tree.leaves(found[dtype])} == {jnp.dtype("float32")}
    ((ours, (stats, _)), gradient), ((exact, (exact_stats, _)), exact_gradient) = found["bfloat16"], found["float32"]
    assert float(ours) == pytest.approx(float(exact), rel=0.01) and ours != exact
    flat = lambda tree: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    cosine = lambda a, b: a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)
    assert cosine(flat(gradient), flat(exact_gradient)) > 0.95
    assert cosine(flat(stats), flat(exact_stats)) > 0.9999
