"""Renders images like 3DIdent's without Blender: a teapot of ellipsoids over a ground plane, lit by one spotlight that is aimed at it.

Letters: n images, R resolution (pixels per side), m pixels or rays, k parts of the object. World axes: z up, lengths in the units of the published scene.

Kept from the published generator (spec, datasets.md section 3.3): raw latents in [-1, 1], angles and hues times pi/2; the object at (x, y, z + size/2);
the spotlight at (4 sin theta, 4 cos theta, 6 + size), its cone of 35 degrees aimed at the object, constant with distance; HSV colours of object (h, 1, 1),
spotlight (h, 0.8, 1) and ground (h, 0.6, 1) with h in turns; direct light only. Ours: the teapot of closed-form parts, positions times 1.2 in place of 3,
so that the object fills more of a small image, a plane that low objects touch, the camera, ambient light, a softer edge of the cone.

Every part is an ellipsoid {p: (p - c)' Q (p - c) = 1}, so a ray o + t d meets it where a t^2 + 2 b t + e = 0 with a = d'Qd, b = d'Q(o - c),
e = (o - c)'Q(o - c) - 1. The camera, hence the point of the ground behind every pixel, is the same in all images: only pixels that may show the object
or its shadow (bounding sphere) send rays, four each; the others are smooth and take one sample.
"""

import functools
from collections.abc import Iterator

import numpy as np

from causal_ctx.data import generated

LATENTS = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "spotlight_angle", "object_hue", "spotlight_hue", "background_hue")
POSITION, ANGLE = 1.2, np.pi / 2  # a raw latent of 1, in units of length and in radians
SIZE = 1.5  # radius of the sphere around the object
GROUND = -POSITION - SIZE / 2  # height of the plane: the sphere around the lowest object touches it
CAMERA, AIM, HALF_VIEW = np.array([0.0, 5.2, 4.6]), np.array([0.0, 0.0, -0.1]), float(np.tan(np.radians(24.5)))
CONE, BLEND = float(np.cos(np.radians(17.5))), 0.4  # cosine at the edge; fraction of the cone over which light fades in
AMBIENT, POWER = 0.22, 0.78

_BLOCK = 16  # images drawn at a time: their arrays of pixels stay in the second-level cache
_SUBPIXELS = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))


def render(raw_latents: np.ndarray, resolution: int = 64, threads: int | None = None) -> np.ndarray:
    """Draws raw latents [n, 10] in [-1, 1], columns `LATENTS`, as uint8 images [n, R, R, 3], in `threads` threads (None: one per core).

    An image depends on its own latents alone. Raises ValueError for latents of another shape or outside [-1, 1], and for a resolution below 2.
    """
    raw = np.asarray(raw_latents, np.float64)
    if raw.ndim != 2 or raw.shape[1] != len(LATENTS) or not np.all(np.abs(raw) <= 1):
        raise ValueError(f"Raw latents must be [n, {len(LATENTS)}] with values in [-1, 1], got shape {raw.shape}; scale them first.")
    if resolution < 2:
        raise ValueError(f"The resolution of 3dident/procedural must be at least 2 pixels, got {resolution}; use 64.")
    return generated.in_blocks(_render_block, raw, resolution, _BLOCK, threads)


def colour(hue: np.ndarray, saturation: float) -> np.ndarray:
    """RGB [..., 3] in [0, 1] of hues [...] in radians at value 1."""
    ramp = np.abs((hue[..., None] / (2 * np.pi) * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return 1 - saturation * (1 - np.clip(ramp, 0, 1))


class _Scene:
    """What differs between n images, as float32 arrays: `centre`, `light` [3, n] in the world, `turn` [3, 3, n] from world to object axes."""

    def __init__(self, raw: np.ndarray):
        position = POSITION * raw[:, :3].T + np.array([[0], [0], [SIZE / 2]])
        theta = ANGLE * raw[:, 6]
        light = np.stack([4 * np.sin(theta), 4 * np.cos(theta), np.full(len(raw), 6 + SIZE)])
        self.distance = np.linalg.norm(position - light, axis=0).astype(np.float32)  # from the light to the object
        self.axis = ((position - light) / self.distance).astype(np.float32)
        self.centre, self.light = position.astype(np.float32), light.astype(np.float32)
        self.turn = _to_object_axes(ANGLE * raw[:, 3:6]).astype(np.float32)
        self.camera_seen, self.light_seen = (self.to_object(p - self.centre) for p in (CAMERA.astype(np.float32)[:, None], self.light))
        object_rgb, lamp, ground = (colour(ANGLE * raw[:, 7 + i], s).T.astype(np.float32) for i, s in enumerate((1.0, 0.8, 0.6)))
        self.object_ambient, self.object_lit = AMBIENT * object_rgb, POWER * lamp * object_rgb
        self.ground_ambient, self.ground_lit = AMBIENT * ground, POWER * lamp * ground

    def to_object(self, vectors: np.ndarray, images: slice | np.ndarray = slice(None)) -> np.ndarray:
        """World vectors [3, ..] in the axes of the object of `images`, [3, ..]."""
        turn = self.turn[..., images]
        turn = turn.reshape(*turn.shape, *[1] * (vectors.ndim - 2))
        return np.stack([row[0] * vectors[0] + row[1] * vectors[1] + row[2] * vectors[2] for row in turn])


def _to_object_axes(angles: np.ndarray) -> np.ndarray:
    """Transposed rotation matrices [3, 3, n] of Euler angles [n, 3]: about x first, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles).T, np.sin(angles).T
    return np.array([
        [cy * cz, cy * sz, -sy],
        [sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy],
        [cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy],
    ])


@functools.cache
def _parts() -> list[tuple[np.ndarray, np.ndarray]]:
    """(c [3], Q [3, 3]) of every ellipsoid, float64, in object axes: x along the spout, z up; all inside the sphere of radius SIZE."""
    handle = [(-0.72, 0.50), (-1.28, 0.58), (-1.62, 0.20), (-1.42, -0.26), (-0.80, -0.50)]
    shapes = [  # centre x, z; semi-axes; degrees by which the first axis rises
        (0, 0, (1.0, 1.0, 0.78), 0),
        (0, -0.70, (0.62, 0.62, 0.16), 0),
        (0, 0.70, (0.56, 0.56, 0.15), 0),
        (0, 0.92, (0.16, 0.16, 0.16), 0),
        (1.10, 0.10, (0.60, 0.20, 0.20), 45),
        (1.50, 0.50, (0.24, 0.17, 0.10), 20),
    ]
    for (x0, z0), (x1, z1) in zip(handle, handle[1:]):
        length = np.hypot(x1 - x0, z1 - z0)
        shapes.append(((x0 + x1) / 2, (z0 + z1) / 2, (0.66 * length, 0.13, 0.13), np.degrees(np.arctan2(z1 - z0, x1 - x0))))
    scale = SIZE / 1.84
    return [_ellipsoid(np.array([x, 0, z]) * scale, np.array(axes) * scale, np.radians(rise)) for x, z, axes, rise in shapes]


def _ellipsoid(centre: np.ndarray, semi_axes: np.ndarray, rise: float) -> tuple[np.ndarray, np.ndarray]:
    axes = np.array([[np.cos(rise), 0, np.sin(rise)], [0, 1, 0], [-np.sin(rise), 0, np.cos(rise)]])
    return centre, axes.T @ np.diag(semi_axes**-2.0) @ axes


@functools.cache
def _view(resolution: int) -> dict[str, np.ndarray]:
    """Of every pixel (flat, R * R): rays [3, R^2, 4], the points of the ground behind them, the same at its centre, and how far these lie apart."""
    forward = (AIM - CAMERA) / np.linalg.norm(AIM - CAMERA)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)

    def rays(row: float, column: float) -> np.ndarray:
        y, x = (((np.arange(resolution) + 0.5 + offset) / resolution * 2 - 1) * HALF_VIEW for offset in (row, column))
        directions = forward[:, None, None] + x * right[:, None, None] - y[:, None] * up[:, None, None]
        return (directions / np.linalg.norm(directions, axis=0)).reshape(3, -1)

    def ground(directions: np.ndarray) -> np.ndarray:
        return CAMERA.reshape(3, *[1] * (directions.ndim - 1)) + directions * ((GROUND - CAMERA[2]) / directions[2])

    centre, corners = rays(0, 0), np.stack([rays(*offset) for offset in _SUBPIXELS], -1)
    apart = np.linalg.norm(ground(corners) - ground(centre)[..., None], axis=0).max(-1)
    view = {"centre": centre, "centre_ground": ground(centre), "rays": corners, "ground": ground(corners), "apart": apart}
    return {name: array.astype(np.float32) for name, array in view.items()}


def _render_block(raw: np.ndarray, images: np.ndarray) -> None:
    """Draws raw latents [n, 10] into images [n, R, R, 3]."""
    n, resolution = images.shape[:2]
    scene, view = _Scene(raw), _view(resolution)
    strength, cosine = _spot(scene.axis[..., None], view["centre_ground"][:, None] - scene.light[..., None])
    pixels = np.empty((3, n, resolution**2), np.float32)
    for channel in range(3):
        np.multiply(strength, scene.ground_lit[channel][:, None], out=pixels[channel])
        pixels[channel] += scene.ground_ambient[channel][:, None]
    image, pixel = np.nonzero(_may_show_object(scene, view) | _may_be_in_shadow(scene, view, cosine))
    pixels[:, image, pixel] = _shade(scene, view["rays"][:, pixel], view["ground"][:, pixel], image).mean(-1)
    np.clip(pixels, 0, 1, out=pixels)
    images[...] = np.rint(255 * pixels).astype(np.uint8).transpose(1, 2, 0).reshape(images.shape)


def _spot(axis: np.ndarray, ray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light that reaches the ground along `ray` [3, ..] from the lamp, without shadow, in [0, 1]; and the cosine between ray and axis."""
    inverse = 1 / np.sqrt(_dot(ray, ray))
    cosine = _dot(axis, ray) * inverse
    return _cone(cosine) * (-ray[2] * inverse), cosine


def _cone(cosine: np.ndarray) -> np.ndarray:
    """The lamp's strength at an angle to its axis: smooth from 0 at the edge of the cone to 1."""
    rise = np.clip((cosine - CONE) * (1 / ((1 - CONE) * BLEND)), 0, 1)
    return rise * rise * (3 - 2 * rise)


def _may_show_object(scene: _Scene, view: dict[str, np.ndarray]) -> np.ndarray:
    """bool [n, R^2]: the ray through the centre passes the bounding sphere within a pixel."""
    towards = scene.centre - CAMERA.astype(np.float32)[:, None]
    distance = np.sqrt(_dot(towards, towards))
    pixel = 2 * HALF_VIEW / np.sqrt(len(view["apart"]))  # radians, at the centre, where it is largest
    limit = np.cos(np.arcsin(SIZE / distance) + np.float32(0.36 * pixel))  # subpixels are 0.354 pixels away
    return _dot((towards / distance)[..., None], view["centre"][:, None]) >= limit[:, None]


def _may_be_in_shadow(scene: _Scene, view: dict[str, np.ndarray], cosine: np.ndarray) -> np.ndarray:
    """bool [n, R^2]: the line from the lamp to the ground passes the bounding sphere, to whose centre the lamp's axis runs."""
    return (1 - cosine * cosine) * (scene.distance**2)[:, None] <= (SIZE + view["apart"]) ** 2


def _shade(scene: _Scene, rays: np.ndarray, ground: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Colours [3, m, 4] of rays [3, m, 4] of the images [m], behind which the plane has the points `ground`."""
    along = scene.to_object(rays, image)
    nearest, part = _first_hit(scene.camera_seen, along, image)
    hit = part >= 0
    colours = np.empty(rays.shape, np.float32)
    owner = np.broadcast_to(image[:, None], hit.shape)
    colours[:, hit] = _shade_object(scene, along[:, hit] * nearest[hit], part[hit], owner[hit])
    missed = ~hit
    colours[:, missed] = _shade_ground(scene, ground[:, missed], owner[missed])
    return colours


def _first_hit(origin: np.ndarray, along: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices of the parts that rays [3, m, ..] from the images' origins [3, n] meet first; index -1 where they meet none."""
    nearest, first = np.full(along.shape[1:], np.inf, np.float32), np.full(along.shape[1:], -1, np.int8)
    for index, (a, b, e) in enumerate(_quadratics(origin, along, image)):
        inside = b * b - a * e
        distance = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)
        nearer = distance < nearest
        first[nearer] = index
        np.minimum(distance, nearest, out=nearest)
    return nearest, first


def _quadratics(origin: np.ndarray, along: np.ndarray, image: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields a, b, e of a t^2 + 2 b t + e = 0 for every part: rays `along` [3, m, ..] from origins [3, n] of their images [m]."""
    x, y, z = along
    xx, yy, zz, xz = x * x, y * y, z * z, x * z
    spread = (slice(None), *[None] * (x.ndim - 1))
    for centre, q in _parts_32():
        from_centre = origin - centre[:, None]
        q_from_centre = _times(q, from_centre)
        qx, qy, qz = (row[image][spread] for row in q_from_centre)
        e = (_dot(from_centre, q_from_centre) - 1)[image][spread]
        yield q[0, 0] * xx + q[1, 1] * yy + q[2, 2] * zz + (2 * q[0, 2]) * xz, x * qx + y * qy + z * qz, e


@functools.cache
def _parts_32() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(centre.astype(np.float32), q.astype(np.float32)) for centre, q in _parts()]


def _shade_object(scene: _Scene, offset: np.ndarray, part: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Colours [3, m] of points on the object at `offset` [3, m] from the camera, in the axes of the object of the images [m]."""
    points = offset + scene.camera_seen[:, image]
    normal = np.empty_like(points)
    for index, (centre, q) in enumerate(_parts_32()):
        chosen = part == index
        normal[:, chosen] = _times(q, points[:, chosen] - centre[:, None])
    lamp = scene.light_seen[:, image]
    ray = points - lamp
    inverse = 1 / np.sqrt(_dot(ray, ray))
    cosine = -_dot(lamp, ray) * inverse / scene.distance[image]
    facing = -_dot(normal, ray) * inverse / np.sqrt(_dot(normal, normal))
    strength = np.maximum(facing, 0) * _cone(cosine)
    lit = np.flatnonzero(strength > 0)
    strength[lit[_self_shadow(points[:, lit], -ray[:, lit])]] = 0
    return scene.object_ambient[:, image] + scene.object_lit[:, image] * strength


def _self_shadow(points: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """bool [m]: another part lies between points [3, m] of the surface that face the lamp and the lamp, which is outside the bounding sphere.

    A point's own part has b > 0 and e = 0, so it never counts, whatever the rounding.
    """
    shadow = np.zeros(points.shape[1], bool)
    x, y, z = towards
    xx, yy, zz, xz = x * x, y * y, z * z, x * z
    for centre, q in _parts_32():
        from_centre = points - centre[:, None]
        q_from_centre = _times(q, from_centre)
        a = q[0, 0] * xx + q[1, 1] * yy + q[2, 2] * zz + (2 * q[0, 2]) * xz
        b = _dot(towards, q_from_centre)
        shadow |= (b < 0) & (b * b > a * (_dot(from_centre, q_from_centre) - 1))
    return shadow


def _shade_ground(scene: _Scene, points: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Colours [3, m] of world points [3, m] of the ground in the images [m]."""
    ray = points - scene.light[:, image]
    strength, cosine = _spot(scene.axis[:, image], ray)
    near = np.flatnonzero((strength > 0) & ((1 - cosine * cosine) * scene.distance[image] ** 2 <= SIZE**2))
    owner = image[near]
    shadow = np.zeros(len(near), bool)
    for a, b, e in _quadratics(scene.light_seen, scene.to_object(ray[:, near], owner), owner):
        shadow |= b * b > a * e  # the line meets the part, which lies between lamp and ground
    strength[near[shadow]] = 0
    return scene.ground_ambient[:, image] + scene.ground_lit[:, image] * strength


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _times(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q v for v [3, ..] and a symmetric q that leaves the y axis alone."""
    return np.stack([q[0, 0] * v[0] + q[0, 2] * v[2], q[1, 1] * v[1], q[0, 2] * v[0] + q[2, 2] * v[2]])
