"""The causal transition layer: quantised codes as nodes of a graph, actions as interventions on it (Gendron et al. 2023; spec sections 2 and 3).

Three modes, each a pure function on integer codes: `base` predicts the same codes, `action` the codes after an action, `retrieve` the action between two of them.
Everything is written for one example and vmapped; the batch is the leading axis of every array that comes in or goes out.

Letters: B batch, n nodes, N codes, A actions (A/2 factors: action f raises factor f, action f + A/2 lowers it), H = A + 1 heads, c width of a head,
v nodes that only speak. Head and discovery network 0 stand for no intervention, 1 + a for action a.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx.models.convolution import torch_uniform
from causal_ctx.models.graph_attention import Attention, GraphAttention, edge_attributes, graph_attention, hear_speakers
from causal_ctx.models.graph_discovery import Discovery, Nodes, draw, dropout, edge_logits, mix, mix_touched, pair_units, positions
from causal_ctx.models.pairs import in_tiles
from causal_ctx.models.shared_attention import hear_under_actions

EDGE_CONVENTIONS = ("row_target", "row_source")
NOISES = ("off", "exo", "endo")
CHANCES = ("train", "sampled", "deterministic")
EXAMPLES, PRIOR = range(2)  # streams of a step's key
DROPOUT, MASK_DROPOUT, MASK, GRAPH, NOISE, ACTIONS = range(6)  # streams of an example's key
POOLED = 4  # times as many touched rows of all actions together are computed at once as rows of each


class Settings(NamedTuple):
    """What a transition computes, and how much of it at a time.

    edge_convention: entry (i, j) of the graph is an edge j -> i ("row_target": node i depends on node j, and on the action) or i -> j ("row_source", the
      reference: the action's node reaches nobody, so neither it nor "endo" noise has any effect; quirks Q2, Q3).
    noise: "off", "exo" (added to the features that the graph attention sees, not to those of the discovery; quirk Q27) or "endo" (one more node).
    dropout: share of the node features, codes included, that training sets to zero (quirk Q12).
    rows_at_once, actions_at_once: rows of the graph, and actions in `retrieve`, computed together (0: all actions); memory grows with them, and values stay.
    shared_draws: in `retrieve`, the actions of an example share the draws of mask and graph; otherwise each has its own, as in the reference. Features and
      their dropout are always shared. Every single action has the same distribution either way.
    """

    edge_convention: str = "row_target"
    noise: str = "off"
    dropout: float = 0.1
    rows_at_once: int = 8
    actions_at_once: int = 0
    shared_draws: bool = True


class Weights(NamedTuple):
    """The parameters as arrays: action [A, N], action_bias [N]; mask_action [A, N], mask_position [N, N], mask_bias [N]; attention: first to last layer."""

    action: jax.Array
    action_bias: jax.Array
    discovery: Discovery
    mask_action: jax.Array
    mask_position: jax.Array
    mask_bias: jax.Array
    attention: tuple[Attention, ...]


class Transition(NamedTuple):
    """log_probs [B, n, N] of the codes; mask [B, n], one where the action touches; present, absent [B, n, n]: probabilities that there is an edge, that there is
    none; graph [B, n, n], the edges in {0, 1}."""

    log_probs: jax.Array
    mask: jax.Array
    present: jax.Array
    absent: jax.Array
    graph: jax.Array


class Drawn(NamedTuple):
    """The mask [n], and the graph [n, n] with its probabilities, as in `Transition`."""

    mask: jax.Array
    present: jax.Array
    absent: jax.Array
    graph: jax.Array


class Prepared(NamedTuple):
    """What does not depend on the action, for one example: nodes; logits of mask [n] (without the action's term) and of edges [n, n] without intervention;
    what nodes listen for and say in the first layer of attention [n, H, c]; "endo" noise [v - 1, N]."""

    nodes: Nodes
    mask_logits: jax.Array
    edge_logits: jax.Array
    targets: jax.Array
    sources: jax.Array
    noise: jax.Array


def base(weights: Weights, settings: Settings, codes: jax.Array, key: jax.Array | None, chance: str = "train") -> tuple[Transition, jax.Array]:
    """No intervention on codes int [B, n]: the transition, and the log-probabilities [B, n, N] when every node is on its own (spec section 2.11).

    chance: "train" (dropout and draws), "sampled" (draws alone, as the reference evaluates; quirk Q11) or "deterministic" (thresholds at 0.5, no noise, no key).
    """
    refuse(weights, settings, chance, codes)

    def one(codes, key):
        prepared = prepare(weights, settings, codes, key, chance)
        return transition(weights, settings, prepared, None, key, chance), alone(weights, settings, prepared)

    return jax.vmap(one)(codes, example_keys(key, len(codes)))


def action(weights: Weights, settings: Settings, codes: jax.Array, actions: jax.Array, key: jax.Array | None, chance: str = "train") -> Transition:
    """The transition of codes int [B, n] under actions int [B], 0 to A - 1; `chance` as in `base`. Raises ValueError as `check_actions`."""
    refuse(weights, settings, chance, codes)
    check_actions(actions, len(weights.action), len(codes))

    def one(codes, action, key):
        return transition(weights, settings, prepare(weights, settings, codes, key, chance), action, key, chance)

    return jax.vmap(one)(codes, jnp.asarray(actions), example_keys(key, len(codes)))


def retrieve(weights: Weights, settings: Settings, before: jax.Array, after: jax.Array, key: jax.Array | None, chance: str = "train") -> jax.Array:
    """Which action leads from codes `before` to codes `after`, both int [B, n]: log-probabilities [B, A]; `chance` as in `base` (spec section 3).

    An action's logit is minus the mean over nodes of the nats that `after` costs under it.
    """
    if before.shape != after.shape:
        raise ValueError(f"Codes before and after must have one shape, got {list(before.shape)} and {list(after.shape)}; give pairs.")
    for codes in (before, after):
        refuse(weights, settings, chance, codes)
    keys, actions, at_once = example_keys(key, len(before)), jnp.arange(len(weights.action)), settings.actions_at_once or len(weights.action)
    prepared = jax.vmap(lambda codes, key: prepare(weights, settings, codes, key, chance))(before, keys)
    distances = shared_distances if settings.shared_draws and settings.edge_convention == "row_target" else own_distances
    some = lambda actions: distances(weights, settings, prepared, actions, after, keys, chance).T
    return jax.nn.log_softmax(-(some(actions) if at_once >= len(actions) else in_tiles(some, actions, at_once)).T)


def own_distances(weights, settings, prepared, actions, after, keys, chance) -> jax.Array:
    """Mean nats [B, k] of codes `after` [B, n] under actions [k], computed action by action; with shared draws or with draws for each."""

    def one(prepared, after, key):
        def distance(action):
            own = key if settings.shared_draws else jax.random.fold_in(jax.random.fold_in(key, ACTIONS), action)
            return code_nats(transition(weights, settings, prepared, action, own, chance).log_probs, after)

        return jax.vmap(distance)(actions)

    return jax.vmap(one)(prepared, after, keys)


def shared_distances(weights, settings, prepared, actions, after, keys, chance) -> jax.Array:
    """`own_distances` with shared draws in "row_target": rows of the graph that an action does not touch are those of the base graph, and are heard once."""
    rows, all_rows = settings.rows_at_once, POOLED * settings.rows_at_once
    masks = jax.vmap(lambda prepared, key: jax.vmap(lambda action: touched(weights, prepared, action, key, chance))(actions))(prepared, keys)
    tiles = lambda counts, size: (counts.max().astype(int) + size - 1) // size
    own_tiles, all_tiles = tiles(masks.sum(axis=2), rows), tiles(masks.sum(axis=(1, 2)), all_rows)

    def one(prepared, masks, after, key):
        def wire(action, mask):
            units = pair_units(weights.discovery, 1 + action, prepared.nodes)
            present, absent = mix_touched(rows, prepared.edge_logits, units, mask, own_tiles)
            return Drawn(mask, present, absent, wired(present, absent, key, chance))

        of_graph = lambda drawn: edge_attributes(drawn.present * drawn.graph, 1 + len(prepared.noise))
        drawn, base_edges = jax.vmap(wire)(actions, masks), of_graph(rewired(weights, settings, prepared, None, key, chance))
        arguments = weights.attention[0], (prepared.targets, prepared.sources), jax.lax.stop_gradient(base_edges), jax.vmap(of_graph)(drawn)
        heard = hear_under_actions((rows, all_rows), *arguments, jax.lax.stop_gradient(masks), all_tiles)
        distance = lambda action, drawn, heard: code_nats(predicted(weights, settings, prepared, action, drawn, heard), after)
        return jax.vmap(distance)(actions, drawn, heard)

    return jax.vmap(one)(prepared, masks, after, keys)


def code_nats(log_probs: jax.Array, codes: jax.Array) -> jax.Array:
    """The mean over nodes of -log p(code): log_probs [..., n, N], codes int [..., n] -> nats [...]."""
    return -jnp.take_along_axis(log_probs, codes[..., None], axis=-1)[..., 0].mean(axis=-1)


def refuse(weights: Weights, settings: Settings, chance: str, codes: jax.Array) -> None:
    """Raises ValueError for a choice that does not exist and for codes that are no integers [B, n] from 0 to N - 1."""
    choices = [("edge_convention", settings.edge_convention, EDGE_CONVENTIONS), ("noise", settings.noise, NOISES), ("chance", chance, CHANCES)]
    for name, value, allowed in choices:
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(allowed)}.")
    if codes.ndim != 2 or not jnp.issubdtype(codes.dtype, jnp.integer):
        raise ValueError(f"Codes must be integers [B, n], one per node, got {codes.dtype} {list(codes.shape)}; flatten the axes after the batch.")
    check_ids("code", codes, len(weights.mask_bias))


def check_actions(actions: jax.Array, num_actions: int, batch: int | None = None) -> None:
    """Raises ValueError unless actions are integers [B] from 0 to A - 1; their values as in `check_ids`."""
    if actions.ndim != 1 or not jnp.issubdtype(actions.dtype, jnp.integer):
        raise ValueError(f"Actions must be integers [B], got {actions.dtype} {list(actions.shape)}; give ids, not one-hot vectors.")
    if batch is not None and len(actions) != batch:
        raise ValueError(f"There are {len(actions)} actions for {batch} examples; give one per example.")
    check_ids("action", actions, num_actions)


def check_ids(name: str, ids: jax.Array, count: int) -> None:
    """Raises ValueError if an id is not from 0 to count - 1. Under jit no value is seen, and out of range is undefined: check those of a data set once."""
    if isinstance(ids, jax.core.Tracer):
        return
    ids = np.asarray(ids)
    wrong = ids[(ids < 0) | (ids >= count)]
    if wrong.size:
        raise ValueError(f"The {name} {wrong[0]} is out of range; the model has {count}, 0 to {count - 1}.")


def example_keys(key: jax.Array | None, batch: int) -> jax.Array:
    """One key per example [B], the same for example b in a batch of any size; without a key, keys that nothing may depend on."""
    root = jax.random.fold_in(jax.random.key(0) if key is None else key, EXAMPLES)
    return jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(batch))


def prepare(weights: Weights, settings: Settings, codes: jax.Array, key: jax.Array, chance: str) -> Prepared:
    """What transitions from codes [n] share (spec sections 2.2, 2.4 and 2.5)."""
    stream = partial(jax.random.fold_in, key)
    num_nodes, num_codes = len(codes), len(weights.mask_bias)
    nodes, place = Nodes(codes), positions(num_nodes, num_codes)
    if chance == "train" and settings.dropout > 0:
        nodes = Nodes(codes, dropout(nodes.dense(num_codes), settings.dropout, stream(DROPOUT)))
        place = dropout(place, settings.dropout, stream(MASK_DROPOUT))
    seen, scale = nodes, 0.0 if chance == "deterministic" else 1.0
    if settings.noise == "exo":
        seen = Nodes(codes, nodes.dense(num_codes) + scale * jax.random.normal(stream(NOISE), (num_nodes, num_codes)))
    first = weights.attention[0]
    return Prepared(
        nodes=nodes,
        mask_logits=mask_logits(weights, codes, place),
        edge_logits=edge_logits(weights.discovery, 0, nodes, settings.rows_at_once),
        targets=seen.times(first.target_kernel) + first.target_bias[None],
        sources=seen.times(first.source_kernel) + first.source_bias[None],
        noise=scale * jax.random.normal(stream(NOISE), (int(settings.noise == "endo"), num_codes)),
    )


def mask_logits(weights: Weights, codes: jax.Array, place: jax.Array) -> jax.Array:
    """The logits [n] that nodes with codes [n] at encoded positions [n, N] are touched, without the action's term: the entry of each node's own code."""
    return (weights.mask_position.T[codes] * place).sum(axis=-1) + weights.mask_bias[codes]


def transition(weights: Weights, settings: Settings, prepared: Prepared, action: jax.Array | None, key: jax.Array, chance: str) -> Transition:
    """One example under one action, or none (spec sections 2.4 to 2.9)."""
    drawn = rewired(weights, settings, prepared, action, key, chance)
    return Transition(predicted(weights, settings, prepared, action, drawn), *drawn)


def touched(weights: Weights, prepared: Prepared, action: jax.Array, key: jax.Array, chance: str) -> jax.Array:
    """The mask [n] of one example under one action (spec section 2.4)."""
    logits = prepared.mask_logits + jnp.take(weights.mask_action, action, axis=0)[prepared.nodes.codes]
    return draw(jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits), None if chance == "deterministic" else jax.random.fold_in(key, MASK))


def wired(present: jax.Array, absent: jax.Array, key: jax.Array, chance: str) -> jax.Array:
    """The edges [n, n] in {0, 1} of one example (spec section 2.6)."""
    return draw(present, absent, None if chance == "deterministic" else jax.random.fold_in(key, GRAPH))


def rewired(weights: Weights, settings: Settings, prepared: Prepared, action: jax.Array | None, key: jax.Array, chance: str) -> Drawn:
    """The mask and the graph of one example under one action, or none (spec sections 2.4 to 2.6)."""
    mask, present, absent = jnp.zeros(len(prepared.nodes.codes)), jax.nn.sigmoid(prepared.edge_logits), jax.nn.sigmoid(-prepared.edge_logits)
    if action is not None:
        mask = touched(weights, prepared, action, key, chance)
        present, absent = mix(settings.rows_at_once, prepared.edge_logits, pair_units(weights.discovery, 1 + action, prepared.nodes), mask)
    return Drawn(mask, present, absent, wired(present, absent, key, chance))


def predicted(weights: Weights, settings: Settings, prepared: Prepared, action: jax.Array | None, drawn: Drawn, heard: tuple | None = None) -> jax.Array:
    """Log-probabilities [n, N] of the codes after an action, or none (spec sections 2.7 to 2.9); heard: of nodes in the first layer, where it is known."""
    speakers, layers = speaking_nodes(weights, settings, prepared, action), layers_for(weights, action)
    edges, mask = edges_to_targets(drawn.present * drawn.graph, settings.edge_convention), drawn.mask[:, None]
    logits = network(layers, (prepared.targets, prepared.sources), speakers, edges, settings.rows_at_once, heard)
    return jax.nn.log_softmax(logits[:, 0] if action is None else (1 - mask) * logits[:, 0] + mask * logits[:, 1])


def alone(weights: Weights, settings: Settings, prepared: Prepared) -> jax.Array:
    """Log-probabilities [n, N] without intervention when the graph is the identity: each node hears itself and the nodes that only speak, nobody else."""
    speakers, layers = speaking_nodes(weights, settings, prepared, None), layers_for(weights, None)
    one = lambda target, source: network(layers, (target[None], source[None]), speakers, jnp.zeros((1, 1)), 1)[0, 0]
    return jax.nn.log_softmax(jax.vmap(one)(prepared.targets, prepared.sources))


def edges_to_targets(weights: jax.Array, convention: str) -> jax.Array:
    """The graph's weights [n, n] with the hearing node as row and the speaking one as column (spec section 2.10)."""
    return weights if convention == "row_target" else weights.T


def speaking_nodes(weights: Weights, settings: Settings, prepared: Prepared, action: jax.Array | None) -> jax.Array:
    """Features [v, N] of the nodes that every node hears and that hear nobody: the action and "endo" noise, or none under "row_source" (spec section 2.7)."""
    if settings.edge_convention == "row_source":
        return jnp.zeros((0, len(weights.action_bias)))
    embedded = weights.action_bias if action is None else weights.action[action] + weights.action_bias
    return jnp.concatenate([embedded[None], prepared.noise])


def layers_for(weights: Weights, action: jax.Array | None) -> tuple[Attention, ...]:
    """The layers of attention, the last with the heads alone whose output is used: that of no intervention, then that of the action."""
    heads = jnp.array([0]) if action is None else jnp.stack([jnp.zeros_like(action), 1 + action])
    return (*weights.attention[:-1], weights.attention[-1].heads(heads))


def network(
    layers: tuple[Attention, ...], first: tuple, speakers: jax.Array, weights: jax.Array, at_once: int, known: tuple | None = None
) -> jax.Array:
    """Logits [n, h, N] of n nodes after all layers, for the h heads of the last.

    first: what the nodes listen for and say in the first layer, [n, H, c] each; speakers [v, N]; weights [n, n], target by source. The edge of a speaker to
    any node has weight 1. A speaker hears itself alone, so that its output is what it says. known: `hear_nodes` of the first layer, computed here without it.
    """
    (targets, sources), speaking = first, layers[0].speak(speakers)
    hear = lambda layer: graph_attention(layer, targets, jnp.concatenate([sources, speaking]), weights, at_once)
    heard = hear(layers[0]) if known is None else hear_speakers(layers[0], targets, speaking, *known) + layers[0].bias[None]
    for layer, above in zip(layers, layers[1:]):
        x, spoken = (jax.nn.leaky_relu(out.reshape(len(out), layer.bias.size)) for out in (heard, speaking + layer.bias[None]))
        targets, sources, speaking = above.listen(x), above.speak(x), above.speak(spoken)
        heard = hear(above)
    return heard


class CausalTransition(nn.Module):
    """The layer's parameters, and the three modes on them: `module.apply(variables, codes, key, method="base")`, and so on.

    N codes, A actions (even: each factor is raised or lowered), hidden_widths: units of the discovery networks, then width of a head in each hidden layer of
    attention. Calling the module gives its `Weights`. Raises ValueError for an odd number of codes or of actions and for less than two widths.
    """

    num_codes: int = 64
    num_actions: int = 12
    hidden_widths: tuple[int, ...] = (800, 100)
    settings: Settings = Settings()

    @nn.compact
    def __call__(self) -> Weights:
        codes, actions, heads, (hidden, *widths) = self.num_codes, self.num_actions, self.num_actions + 1, self.hidden_widths
        if not widths:
            raise ValueError(f"hidden_widths is {self.hidden_widths}; give the discovery's width and at least one of the graph attention.")
        for name, count in (("codes", codes), ("actions", actions)):
            if count < 2 or count % 2:
                raise ValueError(f"The number of {name} must be even and positive, got {count}; change it.")
        param = lambda name, fan_in, *shape: self.param(name, torch_uniform(fan_in), shape)
        features = [codes, *(heads * width for width in widths)]
        return Weights(
            action=param("action_kernel", actions, actions, codes),
            action_bias=param("action_bias", actions, codes),
            discovery=Discovery(
                rows=param("discovery_rows", 2 * codes, heads, codes, hidden),
                columns=param("discovery_columns", 2 * codes, heads, codes, hidden),
                bias=param("discovery_bias", 2 * codes, heads, hidden),
                out=param("discovery_out", hidden, heads, hidden),
                out_bias=param("discovery_out_bias", hidden, heads),
            ),
            mask_action=param("mask_action", actions + codes, actions, codes),
            mask_position=param("mask_position", actions + codes, codes, codes),
            mask_bias=param("mask_bias", actions + codes, codes),
            attention=tuple(
                GraphAttention(fan_in, heads, width, name=f"attention_{layer}")() for layer, (fan_in, width) in enumerate(zip(features, [*widths, codes]))
            ),
        )

    def base(self, codes: jax.Array, key: jax.Array | None, chance: str = "train") -> tuple[Transition, jax.Array]:
        """`base` with these parameters."""
        return base(self(), self.settings, codes, key, chance)

    def action(self, codes: jax.Array, actions: jax.Array, key: jax.Array | None, chance: str = "train") -> Transition:
        """`action` with these parameters."""
        return action(self(), self.settings, codes, actions, key, chance)

    def retrieve(self, before: jax.Array, after: jax.Array, key: jax.Array | None, chance: str = "train") -> jax.Array:
        """`retrieve` with these parameters."""
        return retrieve(self(), self.settings, before, after, key, chance)
