"""Figures of finished runs of CT-VAE. Every function takes a run (`data`: TransitionData, `predictor`: CodePredictor, `workdir`) and returns a Picture, or None
where the run has not what it shows.

Letters: n examples, K codebooks, h, w grid of nodes, A = 2V actions: action f raises factor f, action f + V lowers it.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from causal_ctx.data.transitions import moved
from causal_ctx.models.causal_transition import mask_logits
from causal_ctx.models.graph_discovery import positions
from causal_ctx.reports.canvas import ACCENT, above, beside, label, label_width, padded, tiles
from causal_ctx.reports.charts import curves, logged, panels
from causal_ctx.reports.figures import SECTION_GAP, Picture, logged_by, seeds_of
from causal_ctx.reports.reading import read_results
from causal_ctx.reports.transition_charts import Point, by_frequency, confusion, graphs, usage

MOST_STEPS = 5  # of a chain
MOST_AVERAGED = 64  # images behind a map
MOST_MAPPED = 24  # images behind a graph
MOST_EDGES = 2**23  # probabilities held at a time
WIDEST = 2000  # pixels


def reconstructions(run, num: int = 24) -> Picture:
    """Test images above what their codes are decoded to, in rows of twelve."""
    images = _some(run.data.images["test"], num)
    pairs = list(zip(tiles(images), tiles(run.predictor.reconstruct(images))))
    rows = [above([beside(side) for side in zip(*pairs[i : i + 12])]) for i in range(0, len(pairs), 12)]
    return Picture(
        "reconstructions", "Reconstructions", above(rows, gap=20),
        "Test images (upper row of each pair) above their reconstructions from codes. What is lost here, no transition can bring back.",
        f"{len(pairs)} test images of {run.data.name} and their reconstructions.",
    )


def actions(run, num: int = 2, seed: int = 0) -> Picture | None:
    """For every action `num` test pairs: the image before, the one that is expected after the action, that of the likeliest codes, and the true one."""
    if run.predictor.transition is None:
        return None
    pairs = run.data.pairs("test")
    rows = [_spread(np.flatnonzero(pairs.actions == action), num, (seed, action)) for action in range(len(run.data.actions))]
    chosen = np.concatenate(rows)
    before, after = (run.data.factors.images(ends[chosen]) for ends in (pairs.inputs, pairs.outputs))
    found = run.predictor.predict(run.predictor.encode(before), pairs.actions[chosen])
    made = found.images, run.predictor.decode(found.codes)
    groups = [beside(four) for four in zip(*map(tiles, (before, *made, after)))]
    clear, places = Image.new("RGBA", groups[0].size), np.cumsum([0, *map(len, rows)])
    strips = [[*groups[a:b], *[clear] * (num - (b - a))] for a, b in zip(places, places[1:])]
    heading = beside([_over(clear.width, ("start", "expected", "likeliest", "true"))] * num, gap=24)
    return Picture(
        "actions", "Actions", _both_ways(run, [beside(strip, gap=24) for strip in strips], heading),
        "Each group of four: a test image, the image that the model expects after the action of its row (a mean of what may follow, blurred where it is in doubt), "
        "that of the likeliest codes, and the true image. One factor alone should change, by one step; everything else should stay.",
        f"Test images before and after each of the actions {', '.join(run.data.actions)}, predicted and true.",
    )


def chains(run, seed: int = 0) -> Picture | None:
    """Every action again and again on the codes of one test image, from the end of its factor, above the true images."""
    if run.predictor.transition is None:
        return None
    data, names = run.data.factors, run.data.actions
    ways = [_way(run, action, seed) for action in range(len(names))]
    codes, made = run.predictor.encode(data.images(np.array([way[0] for way in ways]))), []
    for step in range(1, max(map(len, ways))):
        codes = run.predictor.predict(codes, np.arange(len(names)), seed=step).codes
        made.append(run.predictor.decode(codes))
    side = tiles(np.zeros((1, *run.data.image_shape)))[0]
    clear, depth = Image.new("RGBA", side.size), max(map(len, ways))
    blocks = []
    for action, way in enumerate(ways):
        true = [tiles(data.images(np.array([row])))[0] if row >= 0 else clear for row in way]
        ours = [true[0], *(tiles(images[action : action + 1])[0] for images in made[: len(way) - 1])]
        rest = [clear] * (depth - len(way))
        blocks.append(above([beside([*ours, *rest]), beside([clear, *true[1:], *rest])]))
    heading = _over(blocks[0].width, ["start", *(f"× {i}" for i in range(1, depth))])
    return Picture(
        "chains", "Chains", _both_ways(run, blocks, heading, gap=20),
        "Upper row of each action: a test image, then the likeliest codes after the action once, twice and so on, each from those of the one before. "
        "Lower row: the true images, where there are any. Errors add up along a chain.",
        f"Predicted and true images after repeated actions, for each of {', '.join(names)}.",
    )


def masks(run, seed: int = 0) -> Picture | None:
    """For every action the probability of every node to be touched, a map over an image that takes the action, averaged over such test images."""
    if run.predictor.transition is None:
        return None
    names, (taken, images, codes) = run.data.actions, _taking(run, MOST_AVERAGED, seed)
    touched = mask_probabilities(run.predictor, codes, taken)
    maps = {action: touched[taken == action].mean(0) for action in np.unique(taken)}
    examples = {action: tiles(images[taken == action][:1])[0] for action in maps}
    top = max(float(m.max()) for m in maps.values()) or 1
    books = len(next(iter(maps.values())))
    cells = [beside([example, *(_overlay(example, own / top) for own in maps[action])]) for action, example in examples.items()]
    width = max(cells[0].width, label_width([names[action] for action in examples]))
    cells = [above([label(names[action], width, 0.5), padded(cell, width)]) for action, cell in zip(examples, cells)]
    ways = [[cell for action, cell in zip(examples, cells) if (action < len(names) // 2) == up] for up in (True, False)]
    ramp = _overlay(Image.new("RGBA", (256, 28), "black"), np.linspace(0, 1, 128)[None])
    scale = beside([label("probability  0"), ramp, label(f"{top:.2g}")], gap=12)
    beyond = f" Right of each image its {books} codebooks side by side." if books > 1 else " Right of each image its map."
    return Picture(
        "masks", "Masks", above([scale, *(_grid(way, width) for way in ways if way)], gap=24),
        f"Where an action touches: the probability that it changes how a node comes about, averaged over up to {MOST_AVERAGED} test images that take the "
        f"action, over one of them.{beyond} A good mask lies on what the action changes.",
        f"Maps of mask probabilities for each of the actions {', '.join(names[action] for action in examples)}.",
    )


def graph(run, seed: int = 0) -> Picture | None:
    """Edge probabilities among the nodes of the first codebook without an action and under the one that changes them most, on the same test images."""
    if run.predictor.transition is None:
        return None
    names, (taken, _, codes) = run.data.actions, _taking(run, MOST_MAPPED, seed)
    found = {}
    for action in np.unique(taken):
        own = np.resize(codes[taken == action], (MOST_MAPPED, *codes.shape[1:]))  # again from the first where there are fewer: one shape for all actions
        found[action] = tuple(_edges(run.predictor, own, asked, seed) for asked in (None, np.full(len(own), action)))
    action = max(found, key=lambda action: np.abs(found[action][1] - found[action][0]).mean())
    base, acted = found[action]
    axes = ("hearing node", "speaking node")
    axes = axes if run.predictor.transition.settings.edge_convention == "row_target" else axes[::-1]
    (h, w), number = codes.shape[2:], min(MOST_MAPPED, (taken == action).sum())
    image = graphs({"no action": base, names[action]: acted}, (f"{names[action]} − no action", acted - base), axes)
    return Picture(
        "graph", "Graph", image,
        f"Probability of an edge between the {h * w} nodes of the first codebook, numbered along the rows of their {h} × {w} grid; mean over {number} "
        f"test images that take the action, with drawn masks. Of all actions {names[action]} changes edges most. Stripes of the speaking side: "
        "nodes that matter to all others.",
        f"Heat maps of edge probabilities without an action, under {names[action]}, and of their difference.",
    )


def codebooks(run) -> Picture | None:
    """Shares of the codes of every codebook, sorted."""
    shares = [np.asarray(own, float) for own in _scores(run).get("codes", {}).get("shares") or []]
    if not shares:
        return None
    dead = [int((own == 0).sum()) for own in shares]
    title = lambda k: f"{f'codebook {k + 1}: ' if len(shares) > 1 else ''}{dead[k]} of {len(shares[k])} dead"
    return Picture(
        "codebooks", "Codebooks", usage({title(k): own for k, own in enumerate(shares)}),
        "Share of the nodes that take each code, from the most to the least used; dotted: the share if all were used equally. Dead codes were never taken.",
        f"Bar charts of code shares; {sum(dead)} of {sum(map(len, shares))} codes are dead.",
    )


def mistakes(run) -> Picture | None:
    """Retrieved against true actions, in percent of the pairs of the true one."""
    counts = np.asarray(_scores(run).get("confusion") or [], float)
    if not counts.size:
        return None
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    return Picture(
        "confusion", "Confusion", confusion(shares, tuple(run.data.actions)),
        "Of the test pairs of each true action (row), the percentage that each action (column) was retrieved for. The diagonal is right; the two diagonals "
        "half the actions away from it are the right factor moved the wrong way.",
        f"Confusion matrix of the actions {', '.join(run.data.actions)}; {100 * np.nanmean(np.diag(shares)):.0f} percent right in the mean over actions.",
    )


def frequencies(run) -> Picture | None:
    """Accuracy on every action against its share of the training pairs."""
    rows = [row for row in _scores(run).get("per_action") or [] if row.get("accuracy") is not None]
    if not rows:
        return None
    points = [Point(row["name"], row["frequency"], row["accuracy"], row.get("interval") and tuple(row["interval"])) for row in rows]
    return Picture(
        "accuracy_by_frequency", "Accuracy by frequency", by_frequency(points, 1 / len(run.data.actions)),
        "Retrieval accuracy on the test pairs of each action against the share of the training pairs that the action has, with 95 % intervals. Triangles up "
        "raise a factor, triangles down lower it. Dotted: guessing evenly. Rare actions that fall behind would lie low on the left.",
        f"Scatter of accuracy against training frequency for the actions {', '.join(row['name'] for row in rows)}.",
    )


def training_curves(runs: dict[str, list]) -> Picture | None:
    """All that was logged of runs {label: its seeds} against the images seen; None while nothing was."""
    records = logged_by(runs)
    keys = logged(records)
    if not keys:
        return None
    thin = " A thin line is a seed." if any(len(logs) > 1 for logs in records.values()) else ""
    return Picture(
        "training_curves", "Training", curves(records, keys=keys),
        "Terms of training, those of a mode (base, action, retrieval) beside one another, and what validation measured, against images seen." + thin,
        f"Line charts of {len(keys)} logged numbers of {', '.join(name or 'the run' for name in records)}.",
        panels(records, seeds_of(runs), keys),
    )


def pictures(run) -> list[Picture]:
    """Every figure of one run, without those that its method does not have."""
    makers = (actions, chains, reconstructions, masks, graph, mistakes, frequencies, codebooks)
    return [picture for maker in makers if (picture := maker(run))]


def mask_probabilities(predictor, codes: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """How likely actions int [n] touch each node of codes [n, K, h, w]: float32 of their shape."""
    weights = predictor.transition.apply({"params": predictor.params})
    flat = jnp.asarray(codes.reshape(len(codes), -1), jnp.int32)
    place = positions(flat.shape[1], len(weights.mask_bias))
    logits = jax.vmap(lambda own, action: mask_logits(weights, own, place) + weights.mask_action[action][own])(flat, jnp.asarray(actions))
    return np.asarray(jax.nn.sigmoid(logits)).reshape(codes.shape)


def _edges(predictor, codes: np.ndarray, actions: np.ndarray | None, seed: int) -> np.ndarray:
    """Mean edge probabilities among the h w nodes of the first codebook, [h w, h w]; a mask is drawn for every example."""
    nodes, first = int(np.prod(codes.shape[1:])), int(np.prod(codes.shape[2:]))
    size, total = max(1, MOST_EDGES // nodes**2), 0.0
    for start in range(0, len(codes), size):
        part = slice(start, start + size)
        total = total + predictor.graphs(codes[part], None if actions is None else actions[part], seed + start).present[:, :first, :first].sum(0)
    return total / len(codes)


def _taking(run, num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most `num` test images that take each action: the actions [n], the images [n, H, W, C] and their codes [n, K, h, w]."""
    pairs = run.data.pairs("test")
    rows = np.concatenate([_spread(np.flatnonzero(pairs.actions == action), num, (seed, action)) for action in range(len(run.data.actions))])
    images = run.data.factors.images(pairs.inputs[rows])
    return pairs.actions[rows], images, run.predictor.encode(images)


def _way(run, action: int, seed: int) -> list[int]:
    """Indices of a test image at the end of the action's factor and of those that the repeated action leads to, -1 where there is none."""
    data, factor = run.data.factors, action % run.data.num_factors
    rows = _spread(run.data.images["test"].rows, 1024, (seed, action))
    values = data.factors(rows)[:, factor]
    start = values.min() if action < run.data.num_factors else values.max()
    way = [rows[values == start][:64]]
    for _ in range(min(MOST_STEPS, data.factor_sizes[factor] - 1)):
        there, found = way[-1] >= 0, np.full(len(way[-1]), -1)
        found[there] = moved(data, way[-1][there], np.full(there.sum(), action))
        way.append(found)
    return [int(step[np.argmax((np.stack(way) >= 0).sum(0))]) for step in way]


def _some(images, num: int) -> np.ndarray:
    """At most `num` images, evenly from all."""
    return images[np.unique(np.linspace(0, len(images) - 1, num).round().astype(int))]


def _spread(rows: np.ndarray, num: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """At most `num` of the rows, drawn at random."""
    return np.random.default_rng(seed).permutation(rows)[:num]


def _both_ways(run, strips: Sequence[Image.Image], heading: Image.Image, gap: int = 8) -> Image.Image:
    """Named strips of all actions below a heading: those that raise a factor left, those that lower it right."""
    half, names = run.data.num_factors, run.data.actions
    columns = []
    for part in (slice(0, half), slice(half, None)):
        width = label_width(names[part])
        rows = [beside([label(name, width, 1.0), strip], gap=20) for name, strip in zip(names[part], strips[part])]
        columns.append(above([beside([label("", width), heading], gap=20), *rows], gap=gap))
    return beside(columns, gap=SECTION_GAP, align=0.0)


def _over(width: int, words: Iterable[str]) -> Image.Image:
    """A word over each of the tiles that together are so wide."""
    words = list(words)
    return padded(beside([label(word, width // len(words) - 4, 0.5) for word in words]), width, 0.0)


def _grid(cells: Sequence[Image.Image], width: int) -> Image.Image:
    """Cells in rows of nearly equal length, none wider than WIDEST."""
    rows = -(-len(cells) // max(1, WIDEST // (width + 24)))
    columns = -(-len(cells) // rows)
    rows = [beside(cells[i : i + columns], gap=24, align=0.0) for i in range(0, len(cells), columns)]
    return above(rows, gap=16)


def _overlay(image: Image.Image, shares: np.ndarray) -> Image.Image:
    """A map [h, w] in [0, 1] over the darkened grey image: the accent colour, as strong as the share."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] * 0.45
    at = np.asarray(Image.fromarray(np.asarray(shares, np.float32)).resize(image.size, Image.Resampling.NEAREST))[..., None]
    mixed = (1 - at) * grey + at * 255 * np.array(to_rgb(ACCENT), np.float32)
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).convert("RGBA")


def _scores(run) -> dict:
    return read_results(run.workdir).get("scores", {})
