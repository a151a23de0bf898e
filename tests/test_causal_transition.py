"""The causal transition layer against loops in double precision, its causal structure by gradients, retrieval, and what it keeps in memory."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx.models import causal_transition as ct
from causal_ctx.models import graph_discovery as gd
from causal_ctx.objectives import transition as objective
from tests.test_graph_attention import edge_list_layer, edges_of, leaky

B, n, N, A, WIDTHS = 3, 5, 8, 4, (6, 3)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling takes longer than running
jit = partial(jax.jit, compiler_options=QUICKLY)
base, action, retrieve = (jit(mode, static_argnames=("settings", "chance")) for mode in (ct.base, ct.action, ct.retrieve))
sigmoid = lambda x: 1 / (1 + np.exp(-x))


def shapes(num_codes=N, num_actions=A, widths=WIDTHS) -> ct.Weights:
    return jax.eval_shape(ct.CausalTransition(num_codes, num_actions, widths).init_with_output, jax.random.key(0))[0]


@cache
def weights() -> ct.Weights:
    """Weights without zeros, those of edges and masks large enough that hardly a probability is close to 0.5."""
    rng = np.random.default_rng(0)
    w = jax.tree.map(lambda like: jnp.asarray(0.4 * rng.normal(size=like.shape), jnp.float32), shapes())
    discovery = w.discovery._replace(out=5 * w.discovery.out)
    return w._replace(discovery=discovery, mask_action=4 * w.mask_action, mask_position=4 * w.mask_position)


def codes(seed=0, batch=B, nodes=n, num_codes=N) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(num_codes, size=(batch, nodes)), jnp.int32)


def double(w: ct.Weights) -> ct.Weights:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), w)


def looped(w: ct.Weights, convention: str, codes: np.ndarray, chosen: int | None) -> ct.Transition:
    """One example pair by pair and edge by edge, with every threshold at 0.5; edges on the padded graph of the reference, all heads computed."""
    d, place = double(w).discovery, np.array([[(np.cos if k % 2 else np.sin)(p * 10_000 ** (-(k // 2 * 2) / N)) for k in range(N)] for p in range(n)])
    w, one_hot = double(w), np.eye(A)[chosen] if chosen is not None else np.zeros(A)
    features = np.eye(N)[codes] + place

    def network(r, i, j):
        first = np.concatenate([d.rows[r], d.columns[r]]).T @ np.concatenate([features[i], features[j]]) + d.bias[r]
        return sigmoid(d.out[r] @ leaky(first, 0.01) + d.out_bias[r])

    mask, present = np.zeros(n), np.zeros((n, n))
    for i in range(n):
        if chosen is not None:
            gates = sigmoid(np.concatenate([w.mask_action, w.mask_position]).T @ np.concatenate([one_hot, place[i]]) + w.mask_bias)
            mask[i] = gates[codes[i]] > 0.5
        for j in range(n):
            present[i, j] = (1 - mask[i]) * network(0, i, j) + (mask[i] * network(1 + chosen, i, j) if mask[i] else 0)
    graph = present > 0.5
    padded = np.block([[present * graph, np.ones((n, 1))], [np.zeros((1, n + 1))]])
    edges = edges_of(padded, convention)
    x = np.concatenate([features, [one_hot @ w.action + w.action_bias]])
    hidden = leaky(edge_list_layer(w.attention[0], x, edges), 0.01).reshape(n + 1, -1)
    heads = edge_list_layer(w.attention[1], hidden, edges)[:n]
    logits = heads[:, 0] if chosen is None else np.where(mask[:, None] == 1, heads[:, 1 + chosen], heads[:, 0])
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return ct.Transition(log_probs, mask, present, 1 - present, graph)


@pytest.mark.parametrize("num_actions, count", [(6, 1_455_539), (10, 2_848_135), (12, 3_698_033), (18, 6_862_127), (20, 8_121_625)])
def test_parameter_counts_are_those_of_the_reference(num_actions, count):
    variables = jax.eval_shape(ct.CausalTransition(num_actions=num_actions).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


def test_initial_weights_fill_the_ranges_of_the_reference(key):
    w = jit(lambda key: ct.CausalTransition(num_actions=6).init_with_output(key)[0])(key)
    layer = w.attention[1]
    bounds = {128**-0.5: w.discovery.rows, 800**-0.5: w.discovery.out, 70**-0.5: w.mask_position, 6**-0.5: w.action, 700**-0.5: layer.source_bias}
    bounds |= {(6 / (700 + 448)) ** 0.5: layer.target_kernel, (6 / (1 + 448)) ** 0.5: layer.edge, (6 / (7 + 64)) ** 0.5: layer.score}
    for bound, values in bounds.items():
        assert 0.95 * bound < jnp.abs(values).max() <= bound
    assert (layer.bias == 0).all()


@pytest.mark.parametrize("convention", ct.EDGE_CONVENTIONS)
@pytest.mark.parametrize("chosen", [None, 0, 3])
def test_transition_against_loops(convention, chosen):
    settings = ct.Settings(convention)
    if chosen is None:
        ours, _ = base(weights(), settings, codes(), None, "deterministic")
    else:
        ours = action(weights(), settings, codes(), jnp.full(B, chosen), None, "deterministic")
    for b in range(B):
        expected = looped(weights(), convention, np.asarray(codes()[b]), chosen)
        for name in ("mask", "graph"):
            np.testing.assert_array_equal(getattr(ours, name)[b], getattr(expected, name), err_msg=name)
        for name in ("present", "absent", "log_probs"):
            np.testing.assert_allclose(getattr(ours, name)[b], getattr(expected, name), atol=1e-5, err_msg=name)
    if chosen is not None:
        assert 0 < ours.mask.mean() < 1 and 0 < ours.graph.mean() < 1, "the example shows both sides"


@pytest.mark.parametrize("convention", ct.EDGE_CONVENTIONS)
def test_alone_is_the_network_on_the_identity_graph(convention):
    """The identity's edges are loops, which graph attention replaces, so that it is the graph without edges (quirk Q4)."""
    settings = ct.Settings(convention)
    no_edges = weights()._replace(discovery=weights().discovery._replace(out_bias=jnp.full(A + 1, -1e4)))
    _, alone = base(weights(), settings, codes(), None, "deterministic")
    empty, _ = base(no_edges, settings, codes(), None, "deterministic")
    assert not empty.graph.any()
    np.testing.assert_allclose(alone, empty.log_probs, atol=1e-5)


def test_look_ups_are_the_product_with_one_hot_codes(key):
    kernel, nodes = jax.random.normal(key, (N, 3, 2)), gd.Nodes(codes()[0])
    np.testing.assert_allclose(nodes.times(kernel), gd.Nodes(codes()[0], nodes.dense(N)).times(kernel), atol=1e-5)
    np.testing.assert_allclose(nodes.dense(N), np.eye(N)[codes()[0]] + gd.positions(n, N), atol=1e-6)


def test_dropout_zeroes_and_rescales_and_only_in_training(key):
    dropped = np.asarray(gd.dropout(jnp.ones((100, 100)), 0.1, key))
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.9], rtol=1e-6)
    np.testing.assert_allclose((dropped == 0).mean(), 0.1, atol=0.01)
    run = lambda rate, chance: action(weights(), ct.Settings(dropout=rate), codes(), jnp.arange(B), key, chance)
    for name, trained, sampled, dropped in zip(ct.Transition._fields, run(0.0, "train"), run(0.1, "sampled"), run(0.1, "train")):
        np.testing.assert_allclose(trained, sampled, atol=1e-5, err_msg=name)
        assert name in ("mask", "graph") or not np.allclose(dropped, sampled, atol=1e-3), f"{name} feels dropout"


def test_draws_have_their_probabilities_and_the_gradient_of_the_relaxed_draw(key):
    present = jnp.array([0.02, 0.3, 0.5, 0.9])
    draws = jit(lambda present: gd.draw(present, 1 - present, key))(jnp.tile(present, (20_000, 1)))
    assert set(np.unique(draws)) == {0, 1}
    np.testing.assert_allclose(draws.mean(0), present, atol=0.012)
    np.testing.assert_array_equal(gd.draw(present, 1 - present, None), [0, 0, 0, 1])

    logits = jnp.array([-3.0, 0.4, 2.0])
    noise = jax.random.logistic(key, (3,))
    gradient = jit(jax.grad(lambda x: gd.draw(jax.nn.sigmoid(x), jax.nn.sigmoid(-x), key).sum()))(logits)
    relaxed = sigmoid(np.asarray(logits + noise))
    np.testing.assert_allclose(gradient, relaxed * (1 - relaxed), rtol=1e-4)


def test_certain_probabilities_have_finite_gradients(key):
    certain = lambda x: gd.draw(jax.nn.sigmoid(x), jax.nn.sigmoid(-x), key).sum()
    assert jnp.isfinite(jit(jax.grad(certain))(jnp.array([-200.0, -30, 30, 200]))).all()


def test_chance_is_keyed_per_example(key):
    run = lambda key, chance: action(weights(), ct.Settings(), codes(), jnp.arange(B), key, chance)
    np.testing.assert_array_equal(run(None, "deterministic").log_probs, run(key, "deterministic").log_probs)
    np.testing.assert_array_equal(run(key, "train").graph, run(key, "train").graph)
    assert (run(key, "train").graph != run(jax.random.key(1), "train").graph).any()
    two, three = (np.asarray(jax.random.key_data(ct.example_keys(key, batch))) for batch in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    assert len(np.unique(three, axis=0)) == 3


def test_the_action_node_speaks_in_row_target(key):
    moved = weights()._replace(action=weights().action + 1, action_bias=weights().action_bias - 2)
    run = lambda w, noise="off": action(w, ct.Settings(noise=noise), codes(), jnp.arange(B), key, "sampled").log_probs
    for change in (run(moved) - run(weights()), run(weights(), "endo") - run(weights())):
        assert (jnp.abs(change).max(axis=-1) > 1e-4).all(), "every node hears it"


@pytest.mark.parametrize("convention", ct.EDGE_CONVENTIONS)
def test_a_masked_node_has_other_parents_and_the_same_children(convention):
    """In "row_target"; in "row_source" it is the other way round (quirk Q3)."""
    touched = jnp.array(B * [[3, 1, 4, 0, 6]])  # codes that occur once
    only_node_2 = jnp.full(N, -1e4).at[4].set(1e4)
    settings, w = ct.Settings(convention), weights()._replace(mask_bias=only_node_2)
    before, _ = base(w, settings, touched, None, "deterministic")
    after = action(w, settings, touched, jnp.arange(B), None, "deterministic")
    np.testing.assert_array_equal(after.mask[0], [0, 0, 1, 0, 0])
    heard = lambda out: np.asarray(ct.edges_to_targets(out.present[0], convention))
    changed = ~np.isclose(heard(before), heard(after), atol=1e-6)  # the edges' probabilities; their draws may agree by chance
    others = [0, 1, 3, 4]
    parents, children = changed[2, others], changed[others, 2]
    assert not changed[np.ix_(others, others)].any()
    if convention == "row_target":
        assert parents.any() and not children.any()
    else:
        assert children.any() and not parents.any()


@pytest.mark.parametrize("noise", ["exo", "endo"])
def test_noise_reaches_the_codes_and_not_the_discovery(key, noise):
    run = lambda noise, chance="sampled": action(weights(), ct.Settings(noise=noise), codes(), jnp.arange(B), key, chance)
    np.testing.assert_array_equal(run(noise).present, run("off").present)
    assert not np.allclose(run(noise).log_probs, run("off").log_probs, atol=1e-4)


def shifts(num_codes=8) -> tuple[ct.Weights, np.ndarray]:
    """Weights under which action a shifts every code by the a-th number: all nodes masked, no edges, and a permutation of codes in each head."""
    w, by = jax.tree.map(lambda like: jnp.zeros(like.shape), shapes(num_codes, 4, (2, num_codes))), np.array([1, 2, -1, -2])
    permutations = np.stack([np.roll(np.eye(num_codes), shift, axis=1) for shift in [0, *by]], axis=1)  # [N, H, N]
    first, last = w.attention
    first = first._replace(source_kernel=first.source_kernel.at[:, 0].set(4 * jnp.eye(num_codes)))
    last = last._replace(source_kernel=last.source_kernel.at[:num_codes].set(4 * permutations))
    certain = w.discovery._replace(out_bias=jnp.full(5, -1e4))
    return w._replace(discovery=certain, mask_bias=jnp.full(num_codes, 1e4), attention=(first, last)), by


def test_retrieval_finds_the_known_action():
    w, by = shifts()
    before, actions = codes(batch=16, nodes=8), jnp.arange(16) % 4
    after = (before + jnp.asarray(by)[actions][:, None]) % 8
    log_probs = retrieve(w, ct.Settings(), before, after, None, "deterministic")
    np.testing.assert_allclose(jnp.exp(log_probs).sum(axis=1), 1, rtol=1e-5)
    loss, metrics = objective.retrieval_loss(log_probs, actions)
    assert metrics["action_accuracy"] == 1 and metrics["factor_accuracy"] == 1 and loss < np.log(4)


def test_one_call_over_all_actions_is_a_loop_over_actions(key):
    after = codes(1)
    distances = [objective.code_nats(action(weights(), ct.Settings(), codes(), jnp.full(B, a), key, "train").log_probs, after) for a in range(A)]
    expected = jax.nn.log_softmax(-jnp.stack(distances, axis=1))
    np.testing.assert_allclose(retrieve(weights(), ct.Settings(), codes(), after, key, "train"), expected, atol=1e-5)


def looped_retrieval(w: ct.Weights, settings: ct.Settings, key: jax.Array) -> jax.Array:
    """`retrieve` as a loop over actions: log-probabilities [B, A]."""
    nats = jax.lax.map(lambda a: ct.code_nats(ct.action(w, settings, codes(), jnp.full(B, a), key, "train").log_probs, codes(1)), jnp.arange(A))
    return jax.nn.log_softmax(-nats.T)


@pytest.mark.parametrize("settings", [ct.Settings(noise="endo", rows_at_once=1), pytest.param(ct.Settings(actions_at_once=3), marks=pytest.mark.slow)])
def test_one_call_has_the_values_and_gradients_of_a_loop_at_any_mask_rate(key, settings):
    """What all actions share is computed once, and rows that an action touches for it alone; the mask has gradients from both."""
    probe = jnp.arange(1.0, 1 + B * A).reshape(B, A) % 5
    one_call = lambda w: ct.retrieve(w, settings, codes(), codes(1), key)
    both = [jit(jax.value_and_grad(lambda w, mode=mode: (mode(w) * probe).sum())) for mode in (one_call, lambda w: looped_retrieval(w, settings, key))]
    rate = jit(lambda w: jax.lax.map(lambda a: ct.action(w, settings, codes(), jnp.full(B, a), key).mask, jnp.arange(A)).mean())
    for bias, low, high in [(-1e3, 0, 0), (-3, 0.03, 0.2), (4, 0.4, 0.7), (1e3, 1, 1)]:
        w = weights()._replace(mask_bias=weights().mask_bias + bias)
        assert low <= rate(w) <= high
        (value, gradient), (expected, wanted) = both[0](w), both[1](w)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(wanted)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * max(1, np.abs(theirs).max()), err_msg=jax.tree_util.keystr(path))


def test_how_much_is_computed_at_once_changes_nothing_and_own_draws_do(key):
    run = lambda **fields: retrieve(weights(), ct.Settings(**fields), codes(), codes(1), key, "train")
    np.testing.assert_allclose(run(actions_at_once=3, rows_at_once=2), run(), atol=1e-5)
    assert not np.allclose(run(shared_draws=False), run(), atol=1e-4)


TAKEN = jnp.array([0, 2, 2])
LOSSES = {
    "base": lambda w, settings, key: objective.base_loss(*ct.base(w, settings, codes(), key), codes(), objective.Coefficients())[0],
    "action": lambda w, settings, key: objective.action_loss(ct.action(w, settings, codes(), TAKEN, key), codes(1), objective.Coefficients(), key)[0],
    "retrieve": lambda w, settings, key: objective.retrieval_loss(ct.retrieve(w, settings, codes(), codes(1), key), TAKEN)[0],
}


@pytest.mark.parametrize("mode, networks", [("base", [0]), ("action", [0, 1, 3]), ("retrieve", [0, 1, 2, 3, 4])])
def test_gradients_flow_to_what_a_mode_uses(key, mode, networks):
    """Through straight-through draws to the discovery networks; no network of an action is asked for in base mode (quirk Q20)."""
    w, often = weights(), jnp.full(N, 2.0)  # what is not drawn has no gradient: with these weights every network has masked rows and edges
    w = w._replace(mask_bias=often, mask_action=w.mask_action / 9, mask_position=w.mask_position / 9, discovery=w.discovery._replace(out=w.discovery.out / 10))
    gradient = jit(jax.grad(LOSSES[mode]), static_argnums=1)(w, ct.Settings(), key)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    used = lambda leaf, head_axis: np.flatnonzero(np.moveaxis(np.asarray(leaf), head_axis, 0).reshape(A + 1, -1).any(axis=1))
    np.testing.assert_array_equal(used(gradient.discovery.rows, 0), networks)
    np.testing.assert_array_equal(used(gradient.attention[1].source_kernel, 1), networks, err_msg="heads of the last layer")
    assert gradient.mask_position.any() == (mode != "base")
    np.testing.assert_array_equal(np.flatnonzero(gradient.action.any(axis=1)), [r - 1 for r in networks[1:]], err_msg="the action's node")
    assert (gradient.action_bias != 0).all()


def test_the_action_node_has_no_gradient_in_row_source(key):
    """It reaches nobody, so it is left out, and "endo" noise with it (quirk Q2)."""
    settings = ct.Settings("row_source", noise="endo")
    gradient = jit(jax.grad(LOSSES["action"]), static_argnums=1)(weights(), settings, key)
    assert not gradient.action.any() and not gradient.action_bias.any()
    assert gradient.mask_action.any() and gradient.discovery.rows.any()
    assert ct.speaking_nodes(weights(), settings, None, 0).shape == (0, N)


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_discovery_in_rows_is_the_direct_form(key, at_once):
    rows, columns, out = (jax.random.normal(jax.random.fold_in(key, i), shape) for i, shape in enumerate([(9, 5), (9, 5), (5,)]))
    direct = lambda rows, columns, out: jax.nn.leaky_relu(rows[:, None] + columns[None]) @ out
    tiled = lambda *arrays: gd.pair_logits(*arrays, at_once)
    probe = jnp.arange(81.0).reshape(9, 9)
    value_and_gradients = lambda f: jit(jax.value_and_grad(lambda *arrays: (f(*arrays) * probe).sum(), argnums=(0, 1, 2)))(rows, columns, out)
    for ours, theirs in zip(jax.tree.leaves(value_and_gradients(tiled)), jax.tree.leaves(value_and_gradients(direct))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def peak(loss, *arguments) -> int:
    """Bytes of intermediate values of the compiled gradient; nothing is run."""
    return jit(jax.grad(loss)).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_hidden_units_of_all_pairs_are_never_stored():
    batch = 2

    def of_discovery(nodes, hidden):
        networks = shapes(widths=(hidden, 2)).discovery
        one = lambda networks, codes, network: gd.edge_logits(networks, network, gd.Nodes(codes), 8)
        loss = lambda networks, codes: (jax.vmap(one, in_axes=(None, 0, 0))(networks, codes, jnp.arange(batch)) ** 2).sum()
        return peak(loss, networks, jax.ShapeDtypeStruct((batch, nodes), jnp.int32))

    pairs = lambda nodes: 4 * batch * nodes**2
    per_hidden = {nodes: (of_discovery(nodes, 256) - of_discovery(nodes, 128)) / 128 for nodes in (64, 128)}
    assert per_hidden[128] < pairs(128) / 4, "the direct form holds one number per pair and hidden unit"
    assert per_hidden[128] < 2.5 * per_hidden[64], "a hidden unit costs memory in proportion to n, not to its square"


@pytest.mark.slow
def test_a_whole_step_never_holds_the_hidden_units_of_all_pairs():
    batch, nodes, hidden, width = 2, 192, 256, 64
    w = shapes(widths=(hidden, width))
    loss = lambda w: ct.action(w, ct.Settings(), jnp.zeros((batch, nodes), int), jnp.arange(batch), jax.random.key(0)).log_probs.sum()
    assert peak(loss, w) < 4 * batch * nodes**2 * hidden / 2


def test_wrong_choices_and_ids_are_refused():
    w, c = weights(), codes()
    for settings, chance, message in [
        (ct.Settings(edge_convention="both"), "train", "edge_convention is 'both'; choose one of row_target, row_source."),
        (ct.Settings(noise="loud"), "train", "noise is 'loud'; choose one of off, exo, endo."),
        (ct.Settings(), "test", "chance is 'test'; choose one of train, sampled, deterministic."),
    ]:
        with pytest.raises(ValueError, match=message):
            ct.base(w, settings, c, None, chance)
    with pytest.raises(ValueError, match="The action 4 is out of range; the model has 4, 0 to 3."):
        ct.action(w, ct.Settings(), c, jnp.array([0, 4, 1]), None, "deterministic")
    with pytest.raises(ValueError, match="There are 2 actions for 3 examples; give one per example."):
        ct.action(w, ct.Settings(), c, jnp.array([0, 1]), None)
    with pytest.raises(ValueError, match="The code 8 is out of range; the model has 8, 0 to 7."):
        ct.base(w, ct.Settings(), c.at[1, 2].set(8), None)
    with pytest.raises(ValueError, match="The action -1 is out of range"):
        ct.check_actions(np.array([-1]), A)
    with pytest.raises(ValueError, match="give ids, not one-hot vectors"):
        ct.action(w, ct.Settings(), c, jnp.eye(A), None)
    with pytest.raises(ValueError, match=r"Codes must be integers \[B, n\], one per node, got int32 \[3, 1, 5\]; flatten the axes after the batch."):
        ct.base(w, ct.Settings(), c[:, None], None)
    with pytest.raises(ValueError, match=r"Codes before and after must have one shape, got \[3, 5\] and \[2, 5\]; give pairs."):
        ct.retrieve(w, ct.Settings(), c, c[:2], None)
    with pytest.raises(ValueError, match="number of codes must be even and positive, got 7"):
        ct.CausalTransition(7, 4).init(jax.random.key(0))
    with pytest.raises(ValueError, match="number of actions must be even and positive, got 3"):
        ct.CausalTransition(8, 3).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"hidden_widths is \(800,\)"):
        ct.CausalTransition(8, 4, (800,)).init(jax.random.key(0))


def test_module_runs_the_modes_on_its_parameters(key, monkeypatch):
    for mode in ("base", "action", "retrieve"):
        monkeypatch.setattr(ct, mode, lambda *arguments: arguments)
    module = ct.CausalTransition(N, A, WIDTHS, ct.Settings(noise="exo"))
    variables = {"params": jax.tree.map(lambda like: jnp.zeros(like.shape), jax.eval_shape(module.init, key)["params"])}
    for mode, arguments in {"base": (codes(),), "action": (codes(), TAKEN), "retrieve": (codes(), codes(1))}.items():
        w, settings, *rest = module.apply(variables, *arguments, key, "sampled", method=mode)
        assert isinstance(w, ct.Weights) and settings == module.settings
        assert all(a is b for a, b in zip(rest, (*arguments, key, "sampled"), strict=True))
