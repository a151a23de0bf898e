"""The quad renderer against hand-checked pixels and against a pixel-by-pixel second implementation."""

import numpy as np
import pytest

from causal_ctx.data.quad_renderer import SHAPES, palette_colour, render

RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA = ([255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255])


def mask(shape: str, size: float = 1.0, turns: float = 0.0, resolution: int = 64) -> np.ndarray:
    """Pixels [R, R] of a red shape on cyan."""
    factors = [0.6, 0.6, 0.6, 0.6, size, 0.0, SHAPES.index(shape) / 3, turns]
    image = render(np.array([factors]), resolution)[0]
    inside = (image == RED).all(-1)
    assert (inside | (image == CYAN).all(-1)).all()
    return inside


def test_palette_anchors_midpoints_and_truncation():
    anchors = palette_colour(np.array([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    assert anchors.tolist() == [RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA]
    between = palette_colour(np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert between.tolist() == [[255, 127, 0], [127, 255, 0], [0, 255, 127], [0, 127, 255], [127, 0, 255]]
    assert palette_colour(np.array(0.2 * 0.999)).tolist() == [255, 254, 0]  # 254.745 is truncated


def test_quadrants_and_their_borders():
    image = render(np.array([[0.0, 0.2, 0.4, 0.8, 0.0, 1.0, 0.0, 0.0]]))[0]
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    for row, column, colour in [(63, 0, RED), (32, 0, RED), (63, 31, RED), (63, 63, YELLOW), (63, 32, YELLOW), (32, 63, YELLOW)]:
        assert image[row, column].tolist() == colour  # quad1 bottom left, quad2 bottom right
    for row, column, colour in [(0, 0, GREEN), (31, 0, GREEN), (0, 31, GREEN), (0, 63, BLUE), (0, 32, BLUE), (31, 63, BLUE)]:
        assert image[row, column].tolist() == colour  # quad3 top left, quad4 top right
    assert image[32, 32].tolist() == MAGENTA


def test_disc_radius():
    inside = mask("disc")
    assert np.flatnonzero(inside[32]).tolist() == list(range(8, 57))
    assert np.flatnonzero(inside[:, 32]).tolist() == list(range(8, 57))
    assert inside.sum() == 1793  # lattice points within 24 of the origin (OEIS A000328)
    assert not inside[32 + 17, 32 + 17] and inside[32 + 16, 32 + 17]  # 24.04 and 23.3
    assert mask("disc", size=0.0).sum() == 69  # radius 4.8: dx^2 + dy^2 <= 23
    assert np.flatnonzero(mask("disc", size=0.5)[32]).tolist() == list(range(18, 47))  # radius 14.4


def test_shapes_are_rounded_thirds():
    values = [0.0, 0.16, 0.17, 0.49, 0.51, 0.83, 0.84, 1.0]
    images = render(np.array([[0.6, 0.6, 0.6, 0.6, 1.0, 0.0, value, 0.0] for value in values]))
    areas = (images == RED).all(-1).sum((1, 2))
    disc, square, triangle, ellipse = (mask(shape).sum() for shape in SHAPES)
    assert areas.tolist() == [disc, disc, square, square, triangle, triangle, ellipse, ellipse]


def test_square_straight_and_rotated():
    assert np.argwhere(mask("square")).min(0).tolist() == [8, 8] and mask("square").sum() == 49 * 49
    diamond = mask("square", turns=1 / 8)  # |dx| + |dy| <= 33.94
    assert diamond[32].all() and diamond[:, 32].all()
    assert np.flatnonzero(diamond[0]).tolist() == [31, 32, 33]
    assert np.flatnonzero(diamond[63]).tolist() == [30, 31, 32, 33, 34]
    assert np.array_equal(mask("square", 0.7, 0.05), mask("square", 0.7, 0.30))  # a quarter turn


def test_triangle_points_where_its_orientation_says():
    right = mask("triangle")  # vertices (56, 32), (20, 32 +- 20.78)
    assert np.flatnonzero(right[32]).tolist() == list(range(20, 57))
    assert np.flatnonzero(right[:, 20]).tolist() == list(range(12, 53))
    assert not right[:, 19].any() and not right[:, 57].any() and right[32, 56]
    down = mask("triangle", turns=0.25)
    assert np.array_equal(down, right.T)
    assert down[56, 32] and not down[8, 32]


def test_ellipse_axes_and_sense_of_rotation():
    flat = mask("ellipse")
    assert np.flatnonzero(flat[32]).tolist() == list(range(8, 57))
    assert np.flatnonzero(flat[:, 32]).tolist() == list(range(20, 45))
    assert np.array_equal(mask("ellipse", turns=0.25), flat.T)
    tilted = mask("ellipse", turns=1 / 8)  # from right towards down
    assert tilted[32 + 16, 32 + 16] and not tilted[32 - 16, 32 + 16]


def brute_force(factors: np.ndarray, resolution: int) -> np.ndarray:
    """Pixels [R, R] of one shape: +1 inside, -1 outside, 0 within 1e-5 pixels of the outline."""
    y, x = np.mgrid[:resolution, :resolution] - resolution / 2
    radius = 24 * (0.2 + 0.8 * factors[4]) * resolution / 64
    turn = 2 * np.pi * factors[7]
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    shape = SHAPES[round(3 * factors[6])]
    if shape == "square":
        depth = radius - np.maximum(abs(u), abs(v))
    elif shape == "triangle":
        vertices = [radius * np.array([np.cos(turn + k * 2 * np.pi / 3), np.sin(turn + k * 2 * np.pi / 3)]) for k in range(3)]
        sides = [(b - a, a) for a, b in zip(vertices, vertices[1:] + vertices[:1])]
        depth = np.min([(e[0] * (y - a[1]) - e[1] * (x - a[0])) / np.hypot(*e) for e, a in sides], axis=0)
    else:
        depth = radius * (1 - np.hypot(u / radius, v / (radius * (0.5 if shape == "ellipse" else 1))))
    return np.sign(depth) * (abs(depth) > 1e-5)


@pytest.mark.parametrize("resolution", [16, 64, 128])
def test_equals_brute_force(resolution):
    rng = np.random.default_rng(0)
    factors = rng.random((200, 8))
    factors[:, 6] = np.arange(200) % 4 / 3
    factors[:20, 7] = rng.integers(0, 8, 20) / 8
    images = render(factors, resolution)
    half = resolution // 2
    for row, image in zip(factors, images):
        background = np.empty_like(image)
        background[half:, :half], background[half:, half:], background[:half, :half], background[:half, half:] = palette_colour(row[:4])
        truth = brute_force(row, resolution)
        assert (image[truth > 0] == palette_colour(row[5])).all()
        assert np.array_equal(image[truth < 0], background[truth < 0])


def test_does_not_depend_on_threads_or_blocks():
    factors = np.random.default_rng(0).random((131, 8))
    together = render(factors, threads=3)
    assert np.array_equal(together, render(factors, threads=1))
    assert np.array_equal(together[100:101], render(factors[100:101]))
    assert render(factors[:0]).shape == (0, 64, 64, 3)


def test_bad_input_is_refused():
    for factors in (np.zeros((2, 7)), np.full((1, 8), 1.1), np.full((1, 8), np.nan), np.zeros(8)):
        with pytest.raises(ValueError, match="Factors must be"):
            render(factors)
    for resolution in (0, -2, 33):
        with pytest.raises(ValueError, match="positive even number"):
            render(np.zeros((1, 8)), resolution)
