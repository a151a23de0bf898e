"""The objective and the ELBO against closed forms."""

import re
from functools import partial

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


def test_energy_distance_of_parts_is_the_mean_over_their_pairs(key):
    """4 x 6 images in 2 x 2 parts, cut by hand: two of them, or one twice, are images of their own."""
    x, y = jax.random.uniform(key, (2, 5, 4, 6, 3))
    together = np.ones((5, 5), bool)
    parts = [(slice(None), slice(2 * i, 2 * i + 2), slice(3 * j, 3 * j + 3)) for i in range(2) for j in range(2)]
    both = lambda images, i, j: jnp.concatenate([images[parts[i]], images[parts[j]]], axis=1)
    distance = lambda y: np.mean([vae.energy_distance(both(x, i, j), both(y, i, j), together) for i in range(4) for j in range(i, 4)])
    changed = x.at[parts[3]].set(y[parts[3]])
    for other in (y, changed):
        np.testing.assert_allclose(vae.energy_distance(x, other, together, patches=2), distance(other), rtol=1e-4)
    with pytest.raises(TypeError, match="reshape"):
        vae.energy_distance(x[..., :2], y[..., :2], together, patches=4)  # six columns in four would cut pixels


def test_energy_distance_of_parts_sees_how_two_hang_together():
    """Images whose four parts have equal laws, once all alike and once independent: no part by itself shows it."""
    random, num, together = np.random.default_rng(0), 20_000, np.ones((6, 6), bool)
    alike = jnp.broadcast_to(jnp.asarray(random.random((num, 6, 1, 1, 1)), jnp.float32), (num, 6, 2, 2, 1))
    free = jnp.asarray(random.random((num, 6, 2, 2, 1)), jnp.float32)
    values = jax.vmap(partial(vae.energy_distance, patches=2), in_axes=(0, 0, None))(alike, free, together)
    assert float(values.mean()) > 8 * float(values.std()) / np.sqrt(num)


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
    """Our method's layers see one example at a time."""
    dataset = tiny.dataset()
    objective = build_trainer(tiny.config(method="cm_shared_noise"), dataset).objective
    images, noise, targets = jnp.asarray(dataset.train["red"][:6]) / 255.0, jax.random.normal(key, (6, 12)), jnp.zeros((6, 3))
    apply = lambda *noise: objective.model.apply(objective.init(key), images, targets, key, True, *noise, mutable=["batch_stats"])[0].logits
    np.testing.assert_allclose(apply(noise), apply(), atol=1e-5)


def test_images_are_compared_in_the_parts_that_the_config_names(key):
    dataset, found = tiny.dataset(), {}
    images, targets = dataset.train["red"][:16], jnp.tile(jnp.asarray(dataset.targets("red"), jnp.float32), (16, 1))
    real, noise = jnp.asarray(images) / 255.0, jax.random.normal(jax.random.fold_in(key, 0), (16, 12))
    for patches in (1, 4):
        config = tiny.config(method="cm_shared_noise", train__energy_patches=patches)
        objective = build_trainer(config, dataset).objective
        variables = objective.init(key)
        _, (_, terms) = objective.loss(variables, hyper(config, dataset).objective, ImageBatch(images, targets), key)
        generated = jax.nn.sigmoid(objective.model.apply(variables, noise, targets, method="decode"))
        found[patches] = float(terms["energy_nats"])
        assert found[patches] == pytest.approx(16 * 16 * float(vae.energy_distance(real, generated, np.ones((16, 16), bool), patches)), rel=1e-4)
    assert found[1] != pytest.approx(found[4], rel=1e-3)


def test_context_share_is_none_of_a_function_of_the_image_and_all_of_free_concepts(key):
    """Two concepts of three features: the same under both contexts, and drawn anew; a third that keeps 3/4 of its variance. No scale of a feature changes it."""
    one, other = jax.random.normal(key, (2, 20_000, 3, 3))
    others = jnp.stack([one[:, 0], other[:, 1], np.sqrt(0.75) * one[:, 2] + np.sqrt(0.25) * other[:, 2]], axis=1)
    expected = (0 + 1 + 1 - np.sqrt(0.75)) / 3  # half of E(a - b)^2 is the variance less the covariance
    for scale in (jnp.ones((3, 3)), jnp.array([[1.0, 100.0, 1.0], [0.1, 1.0, 1.0], [1.0, 10.0, 0.1]])):
        assert float(vae.context_share(scale[None, None] * jnp.stack([one, others]))) == pytest.approx(expected, rel=0.02)
    assert float(vae.context_share(jnp.stack([one, -one]))) == pytest.approx(2, rel=0.02)
    of_one_feature = others.at[:, :, 0].set(30 * one[:, :, 0])
    hidden = vae.context_share(jnp.stack([one.at[:, :, 0].set(30 * one[:, :, 0]), of_one_feature]))
    assert float(hidden) == pytest.approx(expected * 2 / 3, rel=0.02)  # large and the same under both contexts, it hides no other


def test_images_are_told_the_contexts_of_other_images(key):
    """The loss has the share times its weight, of concepts under the targets of the example before; without a weight nothing is computed."""
    dataset, found = tiny.dataset(), {}
    images = jnp.concatenate([dataset.train[name][:4] for name in ("red", "dark", "obs")])
    targets = jnp.repeat(jnp.asarray([dataset.targets(name) for name in ("red", "dark", "obs")], jnp.float32), 4, axis=0)
    for weight in (0.0, 3.0):
        config = tiny.config(method="cm_shared_noise", objective__context_penalty=weight)
        objective = build_trainer(config, dataset).objective
        variables = objective.init(key)
        found[weight] = objective.loss(variables, hyper(config, dataset).objective, ImageBatch(images, targets), key)
    (plain, (_, plain_terms)), (loss, (_, terms)) = found[0.0], found[3.0]
    others = targets[np.arange(12) - 1]
    concepts = objective.model.apply(variables, images / 255.0, targets, key, True, others=others).concepts
    assert float(terms["context_share"]) == pytest.approx(float(vae.context_share(concepts)), rel=1e-4) and terms["context_share"] > 0.01
    assert "context_share" not in plain_terms and float(loss) == pytest.approx(float(plain + 3 * terms["context_share"]), rel=1e-5)


def test_interaction_is_what_no_sum_over_concepts_explains(key):
    """Images of pairs whose concepts are exchanged: none where a pixel is a sum over concepts, whatever is exchanged; by hand for a product of two."""
    concepts, swap = jax.random.normal(key, (9, 3)), jax.random.bernoulli(key, 0.5, (4, 3))  # the ninth has no partner
    one, other = concepts[:4], concepts[4:8]
    crossed = jnp.stack([jnp.where(swap, other, one), jnp.where(swap, one, other)])
    image = lambda values: jnp.broadcast_to(values[..., None, None, None], (*values.shape, 2, 2, 1))
    additive, product = lambda c: image(jnp.sin(c).sum(-1) + c[..., 2] ** 2), lambda c: image(c[..., 0] * c[..., 1])
    assert swap.any() and float(vae.interaction_nats(additive(concepts), additive(crossed))) == pytest.approx(0, abs=1e-9)
    apart = swap[:, 0] != swap[:, 1]
    second = jnp.where(apart, (one[:, 0] - other[:, 0]) * (one[:, 1] - other[:, 1]), 0.0)
    assert apart.any() and not apart.all()
    assert float(vae.interaction_nats(product(concepts), product(crossed))) == pytest.approx(4 * float((second**2).mean()) / 2, rel=1e-5)


@pytest.mark.parametrize("term", ["interaction", "energy", "moment"])
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


def test_terms_of_a_mixed_micro_batch_are_of_its_contexts_its_pairs_and_its_images(key):
    """Each recomputed from what the model makes of the same noise: contexts by hand, every pair with its own exchange, images and no logits."""
    dataset, config = tiny.dataset(), tiny.config(method="cm_shared_noise")
    objective = build_trainer(config, dataset).objective
    variables, names = objective.init(key), ("red", "dark", "obs", "light") * 3
    images = jnp.stack([dataset.train[name][row] for row, name in enumerate(names)])
    targets = jnp.asarray([dataset.targets(name) for name in names], jnp.float32)
    _, (_, terms) = objective.loss(variables, hyper(config, dataset).objective, ImageBatch(images, targets), key)
    noise = jax.random.normal(jax.random.fold_in(key, 0), (12, objective.model.encoder.latents))
    swap = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, (6, 3))
    assert len({tuple(row) for row in swap.tolist()}) > 1
    found = objective.model.apply(variables, images / 255.0, targets, key, True, noise, swap, jnp.roll(targets, 1, axis=0))
    together = np.array([[one == other for other in names] for one in names])
    energy = vae.energy_distance(images / 255.0, jax.nn.sigmoid(found.generated), together, config.train.energy_patches)
    assert float(terms["energy_nats"]) == pytest.approx(np.prod(dataset.image_shape[:2]) * float(energy), rel=1e-4)
    assert float(terms["moment_nats"]) == pytest.approx(float(vae.moment_distance(found.posterior, together)), rel=1e-4)
    assert float(terms["interaction_nats"]) == pytest.approx(float(vae.interaction_nats(*map(jax.nn.sigmoid, (found.logits, found.crossed)))), rel=1e-4)


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
    assert cosine(flat(stats), flat(exact_stats)) > 0.9999 if method == "cm_end_to_end" else not jax.tree.leaves(stats)
