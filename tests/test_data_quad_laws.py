"""The latent laws of quad: sampled moments against closed forms, hand-computed moments, calibration, streams."""

import itertools

import numpy as np
import pytest

from causal_ctx.data import contexts, generated, quad, quad_independent, quad_scm

# The specification once more, typed apart from the module: cause > effect, weight; then noise variances, interventional
# means and variances in the order of the latents.
EDGES = """quad2>quad1 -1.23, quad3>quad2 1.56, quad4>quad1 1.34, quad4>quad3 -0.72, color>quad1 -0.95, color>size 1.67,
shape>quad2 0.58, shape>color -1.34, orientation>quad1 1.12, orientation>size -0.81, orientation>shape 1.45"""
EDGES = {tuple(edge.split()[0].split(">")): float(edge.split()[1]) for edge in EDGES.split(",")}
NOISE_VARIANCES = [1.3855493, 1.16426732, 1.00502177, 1.95646855, 1.27482347, 1.42, 1.31, 1.18]
MEANS = [1.16920556, 1.47496736, -1.60596209, -1.96578519, 1.0117071, -0.85, 1.23, -0.67]
VARIANCES = [1.94878138, 1.35886756, 1.57343313, 1.1021785, 1.30511067, 1.52, 1.41, 1.26]

SINGLES = [(concept,) for concept in quad_scm.CONCEPTS]
SETS = [(), *SINGLES, ("quad1", "quad2"), ("quad2", "size"), quad_scm.CONCEPTS]


@pytest.mark.parametrize("interventions", SETS, ids="+".join)
def test_sample_moments_match_the_analytic_ones(interventions):
    n = 100_000
    x = quad_scm.sample_latents(np.random.default_rng(1), n, interventions)
    mean, covariance = quad_scm.mean_covariance(interventions)
    variance = np.diag(covariance)
    mean_z = (x.mean(0) - mean) / np.sqrt(variance / n)
    covariance_error = np.sqrt((np.outer(variance, variance) + covariance**2) / n)
    covariance_z = (np.cov(x.T) - covariance) / covariance_error
    # 44 standard normal scores: beyond 4.5 once in 3,000 seeds.
    assert np.abs(mean_z).max() < 4.5
    assert np.abs(covariance_z).max() < 4.5


@pytest.mark.parametrize("interventions", SETS, ids="+".join)
def test_analytic_moments_match_a_sum_over_directed_paths(interventions):
    """Second path, without linear algebra: effects multiply along edges and add over paths."""
    position = {name: i for i, name in enumerate(quad_scm.LATENTS)}
    edges = {pair: w for pair, w in EDGES.items() if pair[1] not in interventions}

    def effect(cause, target, edges):
        through = sum(w * effect(b, target, edges) for (a, b), w in edges.items() if a == cause)
        return through + (cause == target)

    def moments(interventions, edges):
        total = np.array([[effect(a, b, edges) for b in quad_scm.LATENTS] for a in quad_scm.LATENTS])
        means, variances = np.zeros(8), np.array(NOISE_VARIANCES)
        for name in interventions:
            means[position[name]] = MEANS[position[name]]
            variances[position[name]] = VARIANCES[position[name]]
        covariance = sum(v * np.outer(t, t) for v, t in zip(variances, total))
        return sum(m * t for m, t in zip(means, total)), covariance

    deviation = np.sqrt(np.diag(moments((), EDGES)[1]))
    mean, covariance = moments(interventions, edges)
    got_mean, got_covariance = quad_scm.mean_covariance(interventions)
    np.testing.assert_allclose(got_mean, mean / deviation, atol=1e-12)
    np.testing.assert_allclose(got_covariance, covariance / np.outer(deviation, deviation), atol=1e-12)


@pytest.mark.parametrize("interventions", SETS, ids="+".join)
def test_total_effects_are_how_latents_move_with_one_noise(interventions):
    """By finite differences: the same random numbers, but one latent's noise a standard deviation higher."""

    class Raised:
        def __init__(self, column):
            self.column = column

        def standard_normal(self, shape):
            numbers = np.random.default_rng(5).standard_normal(shape)
            numbers[:, self.column] += 1.0
            return numbers

    concepts = [quad_scm.LATENTS.index(name) for name in quad_scm.CONCEPTS]
    base = quad_scm.sample_latents(np.random.default_rng(5), 3, interventions)
    moved = np.stack([quad_scm.sample_latents(Raised(column), 3, interventions) - base for column in concepts], axis=-1)
    np.testing.assert_allclose(quad_scm.total_effects(interventions), moved[0, concepts], atol=1e-12)
    np.testing.assert_allclose(moved[1:], moved[:1].repeat(2, 0), atol=1e-12)  # of a linear law, for every row the same


@pytest.mark.parametrize("interventions", SETS, ids="+".join)
def test_total_effects_are_zero_exactly_where_no_path_leads(interventions):
    """Reachability over the edges of the specification, hidden latents included."""
    into = {name: {cause for cause, effect in EDGES if effect == name and name not in interventions} for name in quad_scm.LATENTS}

    def causes(name):
        return into[name].union(*map(causes, into[name]))

    expected = [[cause == name or cause in causes(name) for cause in quad_scm.CONCEPTS] for name in quad_scm.CONCEPTS]
    np.testing.assert_array_equal(quad_scm.total_effects(interventions) != 0, expected)


def test_total_effects_by_hand():
    """Orientation reaches quad2 through the hidden shape alone, quad1 by four paths, two of them through color."""
    deviation = dict(zip(quad_scm.LATENTS, np.sqrt(np.diag(quad_scm._raw_mean_covariance((), 1.0)[1]))))
    at = lambda effects, hears, speaks: effects[quad_scm.CONCEPTS.index(hears), quad_scm.CONCEPTS.index(speaks)]
    obs, cut = quad_scm.total_effects(), quad_scm.total_effects({"quad2", "orientation"})
    paths = {"quad2": 1.45 * 0.58, "quad1": 1.12 + 1.45 * 0.58 * -1.23 + 1.45 * -1.34 * -0.95, "size": -0.81 + 1.45 * -1.34 * 1.67}
    for name, path in paths.items():
        assert at(obs, name, "orientation") == pytest.approx(path * np.sqrt(1.18) / deviation[name])
    assert at(cut, "quad2", "orientation") == at(cut, "quad2", "quad3") == at(cut, "quad1", "quad3") == 0  # quad2 hears nothing, nor hands anything on
    assert at(cut, "quad1", "orientation") == pytest.approx((1.12 + 1.45 * -1.34 * -0.95) * np.sqrt(1.26) / deviation["quad1"])
    with pytest.raises(ValueError, match="no concept 'shape' to intervene on"):
        quad_scm.total_effects({"shape"})


@pytest.mark.parametrize("concept", quad_scm.CONCEPTS)
def test_independent_latents_have_no_effect_on_one_another(concept):
    effects = quad_independent.total_effects({concept})
    samples = [quad_independent.sample_latents(np.random.default_rng(0), 100_000, names) for names in ((), {concept})]
    spread = [latents[:, [quad_scm.LATENTS.index(name) for name in quad_scm.CONCEPTS]].std(axis=0) for latents in samples]
    np.testing.assert_allclose(effects, np.diag(spread[1] / spread[0]), rtol=0.01)
    np.testing.assert_array_equal(quad_independent.total_effects(), np.eye(6))
    with pytest.raises(ValueError, match="no concept 'color'"):
        quad_independent.total_effects({"color"})


def test_moments_by_hand():
    """From the specification's numbers, not from the module's tables."""
    mean, covariance = quad_scm.mean_covariance()
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(np.diag(covariance), 1)
    deviation3 = np.sqrt(1.00502177 + 0.72**2 * 1.95646855)
    assert covariance[2, 3] == pytest.approx(-0.72 * np.sqrt(1.95646855) / deviation3)
    mean, covariance = quad_scm.mean_covariance({"quad3"}, strength=2.0)
    assert mean[2] == pytest.approx(2 * -1.60596209 / deviation3)
    assert covariance[2, 2] == pytest.approx(1.57343313 / deviation3**2)
    assert covariance[2, 3] == pytest.approx(0, abs=1e-12)  # the incoming edge is cut
    assert mean[3] == pytest.approx(0, abs=1e-12) and covariance[3, 3] == pytest.approx(1)  # a cause hears nothing of it
    mean, covariance = quad_scm.mean_covariance({"orientation", "size"})
    shape_variance = 1.31 + 1.45**2 * 1.18
    assert mean[6] == pytest.approx(1.45 * -0.67 / np.sqrt(shape_variance))
    np.testing.assert_allclose(covariance[4, [5, 7]], 0, atol=1e-12)


def test_factors_are_the_normal_distribution_function():
    values = np.tile(np.array([-40.0, -1.959963984540054, 0.0, 1.0, 2.0, 3.0, 6.0, 40.0]), (2, 1))
    expected = [0, 0.025, 0.5, 0.8413447460685429, 0.9772498680518208, 0.9986501019683699, 0.9999999990134124, 1]
    np.testing.assert_allclose(quad_scm.factors(values), np.tile(expected, (2, 1)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("law", [quad_scm, quad_independent])
def test_first_rows_do_not_depend_on_the_count_and_unknown_names_are_refused(law):
    few, many = (law.sample_latents(np.random.default_rng(0), n, {"size"}) for n in (10, 50))
    np.testing.assert_allclose(few, many[:10], rtol=1e-12)
    with pytest.raises(ValueError, match="no concept 'color' to intervene on"):
        law.sample_latents(np.random.default_rng(0), 1, {"color"})


@pytest.mark.parametrize("concept", quad_scm.CONCEPTS)
def test_independent_intervention_changes_one_latent_only(concept):
    obs = quad_independent.sample_latents(np.random.default_rng(3), 1000)
    ivn = quad_independent.sample_latents(np.random.default_rng(3), 1000, {concept})
    changed = [name for j, name in enumerate(quad_scm.LATENTS) if not np.array_equal(obs[:, j], ivn[:, j])]
    assert changed == [concept]


def test_independent_latents_are_uncorrelated():
    latents = quad_independent.sample_latents(np.random.default_rng(0), 100_000, {"quad1", "orientation"})
    correlation = np.corrcoef(latents.T) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(100_000)


def test_independent_calibration():
    """Small sample: 800 images per side, 200 directions move a distance by about 5 %, the floor is 0.02."""
    directions = np.random.default_rng(0).standard_normal((64 * 64 * 3, 200)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)

    def images(context):
        return quad.render("quad_independent", quad.sample_latents("quad_independent", "held_out", context, 800, 0))

    def projected(x):
        return np.sort(x.reshape(len(x), -1).astype(np.float32) / 255 @ directions, axis=0)

    obs = images("obs")
    reference = projected(obs)
    distance = {c: np.sqrt(np.mean((projected(images(c)) - reference) ** 2)) for c in (*quad.CONCEPTS, "quad1+quad2", "quad2+size")}
    for k in range(1, 5):
        assert distance[f"quad{k}"] == pytest.approx(0.227, abs=0.025)
    assert distance["size"] == pytest.approx(0.145, abs=0.02)
    assert distance["orientation"] < 0.035  # 0.03 and some of this sample's floor
    assert distance["quad1+quad2"] == pytest.approx(0.32, abs=0.035)
    assert distance["quad2+size"] == pytest.approx(0.248, abs=0.03)
    assert 0.41 < contexts.entropy_floor_bpp(obs) < 0.45


def test_streams_share_no_row():
    """Nor even one number: every (split, context), and every seed, has a stream of its own."""
    for name in quad.LAWS:
        streams = [quad.sample_latents(name, split, c, 200, seed) for seed in (0, 1) for split in generated.SPLITS for c in quad.CONTEXTS[split]]
        numbers = np.round(np.ravel(streams), 12)
        assert len(np.unique(numbers)) == len(numbers)


def test_all_64_sets_of_interventions_can_be_sampled():
    sets = [s for size in range(7) for s in itertools.combinations(quad.CONCEPTS, size)]
    latents = [quad.sample_latents("quad_dependent", "held_out", "+".join(s) or "obs", 2, 0) for s in sets]
    assert len(np.unique(np.concatenate(latents), axis=0)) == 2 * 64
