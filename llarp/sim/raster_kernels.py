"""Warp kernels that draw triangles, the same on the CPU and on CUDA.

A picture is made in two passes. `draw_triangles` writes, for every pixel, how near the nearest triangle is and which it
is (one 64-bit word; the larger wins, so that the order in which triangles come does not matter). `shade_pixels` looks
up texture and light. Corners are taken in the camera's axes, relative to the camera: a ray (x, y, -1) meets a triangle
a, b, c seen from its front where its products with c x b, a x c and b x a are positive (Olano and Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997), so that nothing has to be clipped; along a row they are linear.
"""

# ruff: noqa: UP018 -- Warp takes a bare literal for a constant: variables that change in a loop are declared by a call

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})

FACE_BITS, SLOT_BITS = 22, 10
"""A word holds: inverse depth as float32, slot, face of the slot's mesh."""

_FACE_SHIFT = wp.constant(wp.uint64(FACE_BITS))
_DEPTH_SHIFT = wp.constant(wp.uint64(FACE_BITS + SLOT_BITS))
_FACE_MASK = wp.constant(wp.uint64(2**FACE_BITS - 1))
_NAME_MASK = wp.constant(wp.uint64(2 ** (FACE_BITS + SLOT_BITS) - 1))
_NOTHING, _UNKNOWN = wp.constant(wp.uint64(2**63)), wp.constant(wp.uint64(2**63 + 1))  # no triangles' names
_NEAR_M = wp.constant(0.01)  # corners nearer than this are not projected: the whole picture is searched instead
_EDGE_ON_M = wp.constant(1e-7)
_GROW = wp.constant(5e-4)  # pixels by which triangles are larger than they are: neighbours leave no gap between them
_SAME_SIDE = wp.constant(0.8)  # a vertex normal further off its face than this cosine does not count, as in MuJoCo


@wp.struct
class Geometry:
    """The pool of meshes: F faces, M meshes."""

    corner: wp.array2d[wp.vec3]  # (F, 3) in the mesh's frame, whose origin is the centre of its box
    plane: wp.array[wp.vec4]  # (F,) unit normal n and n . corner
    normal: wp.array2d[wp.vec3]  # (F, 3) at the corners
    uv: wp.array2d[wp.vec2]  # (F, 3)
    plain: wp.array[wp.bool]  # (F,) all corners have the same texture coordinates
    first: wp.array[int]  # (M,) a mesh's faces
    count: wp.array[int]  # (M,)
    half: wp.array[wp.vec3]  # (M,) half extents of its box


@wp.struct
class Looks:
    """Textures one after another, and light."""

    texel: wp.array[wp.uint32]  # 0x00RRGGBB
    first: wp.array[int]  # (materials,) a texture's first texel
    width: wp.array[int]
    height: wp.array[int]
    light: wp.array[wp.vec4]  # (lights,) direction into which it shines, brightness
    ambient: float
    headlight: float
    background: wp.vec3  # 0 to 255


@wp.struct
class Placed:
    """N worlds of S slots, and their cameras."""

    mesh: wp.array2d[int]  # (N, S)
    material: wp.array2d[int]  # (N, S)
    position: wp.array2d[wp.vec3]  # (N, S)
    matrix: wp.array2d[wp.mat33]  # (N, S)
    camera_position: wp.array[wp.vec3]  # (N,)
    camera_matrix: wp.array[wp.mat33]  # (N,)


@wp.func
def _edge(v: wp.vec3, w: wp.vec3, scale: float, half: float) -> wp.vec3:
    """(x, y, 1) . result: the product of pixel (x, y)'s ray with w x v, a little enlarged."""
    n = wp.cross(w - v, v)  # = w x v, exact to a part of its own length
    x, y = n[0] * scale, -n[1] * scale
    return wp.vec3(x, y, -half * (x + y) - n[2] + _GROW * (wp.abs(x) + wp.abs(y)))


@wp.func
def _outside(t: wp.vec3, half: wp.vec3, m: wp.mat33, axis: wp.vec3) -> bool:
    """Whether a box, its axes the columns of m, lies wholly beyond the plane axis . x = 0."""
    d = wp.transpose(m) @ axis
    return wp.dot(axis, t) > wp.abs(d[0]) * half[0] + wp.abs(d[1]) * half[1] + wp.abs(d[2]) * half[2]


@wp.func
def _root(edge: wp.vec3) -> float:
    """What `_clip` multiplies by; 0 for an edge along the rows."""
    return wp.where(edge[0] == 0.0, 0.0, -1.0 / edge[0])


@wp.func
def _clip(edge: wp.vec3, root: float, y: float, low: float, high: float) -> tuple[float, float]:
    """The columns of [low, high] on the inner side of an edge in row y; high is -1 where there are none."""
    d = edge[1] * y + edge[2]
    if edge[0] > 0.0:
        low = wp.max(low, d * root)
    elif edge[0] < 0.0:
        high = wp.min(high, d * root)
    elif d < 0.0:
        high = -1.0
    return low, high


@wp.kernel
def draw_triangles(
    geometry: Geometry,
    placed: Placed,
    empty_mesh: int,
    size: int,
    tangent: float,
    two_sided: bool,
    lanes: int,
    nearest: wp.array2d[wp.uint64],
):
    """For (world, slot, lane): every lanes-th triangle of the slot's mesh into `nearest` (N, size * size)."""
    world, slot, lane = wp.tid()
    mesh = placed.mesh[world, slot]
    if mesh == empty_mesh:
        return
    axes = wp.transpose(placed.camera_matrix[world])
    m = axes @ placed.matrix[world, slot]
    t = axes @ (placed.position[world, slot] - placed.camera_position[world])
    box = geometry.half[mesh]
    if (
        _outside(t, box, m, wp.vec3(0.0, 0.0, 1.0))
        or _outside(t, box, m, wp.vec3(1.0, 0.0, tangent))
        or _outside(t, box, m, wp.vec3(-1.0, 0.0, tangent))
        or _outside(t, box, m, wp.vec3(0.0, 1.0, tangent))
        or _outside(t, box, m, wp.vec3(0.0, -1.0, tangent))
    ):
        return
    eye = -(wp.transpose(m) @ t)  # the camera in the mesh's frame
    last = float(size - 1)
    half = 0.5 * last
    scale = 2.0 * tangent / float(size)  # a pixel's step in the picture plane at depth 1
    first = geometry.first[mesh]
    for face in range(lane, geometry.count[mesh], lanes):
        plane = geometry.plane[first + face]
        n = wp.vec3(plane[0], plane[1], plane[2])
        distance = wp.dot(n, eye) - plane[3]
        if two_sided or distance > _EDGE_ON_M:
            if wp.abs(distance) <= _EDGE_ON_M:
                continue
            a = m @ geometry.corner[first + face, 0] + t
            b = m @ geometry.corner[first + face, 1] + t
            c = m @ geometry.corner[first + face, 2] + t
            if distance < 0.0:
                b, c = c, b
            if wp.min(a[2], wp.min(b[2], c[2])) >= 0.0:
                continue
            x0, x1, y0, y1 = float(0.0), float(last), float(0.0), float(last)
            if wp.max(a[2], wp.max(b[2], c[2])) < -_NEAR_M:
                ra, rb, rc = -1.0 / (a[2] * scale), -1.0 / (b[2] * scale), -1.0 / (c[2] * scale)
                xa, xb, xc = a[0] * ra, b[0] * rb, c[0] * rc
                ya, yb, yc = a[1] * ra, b[1] * rb, c[1] * rc
                x0 = wp.max(x0, wp.ceil(half + wp.min(xa, wp.min(xb, xc)) - 0.001))
                x1 = wp.min(x1, wp.floor(half + wp.max(xa, wp.max(xb, xc)) + 0.001))
                y0 = wp.max(y0, wp.ceil(half - wp.max(ya, wp.max(yb, yc)) - 0.001))
                y1 = wp.min(y1, wp.floor(half - wp.min(ya, wp.min(yb, yc)) + 0.001))
            if x0 > x1 or y0 > y1:
                continue
            e0, e1, e2 = _edge(b, c, scale, half), _edge(c, a, scale, half), _edge(a, b, scale, half)
            r0, r1, r2 = _root(e0), _root(e1), _root(e2)
            # inverse depth of the triangle's plane: -(normal . ray) / distance
            normal = (m @ n) * (-1.0 / distance)
            zx, zy = normal[0] * scale, -normal[1] * scale
            z0 = -half * (zx + zy) - normal[2]
            name = (wp.uint64(slot) << _FACE_SHIFT) | wp.uint64(face)
            for row in range(int(y0), int(y1) + 1):
                y = float(row)
                low, high = float(x0), float(x1)
                low, high = _clip(e0, r0, y, low, high)
                low, high = _clip(e1, r1, y, low, high)
                low, high = _clip(e2, r2, y, low, high)
                if low <= high:
                    z = zy * y + z0
                    for column in range(int(wp.ceil(low)), int(wp.floor(high)) + 1):
                        # never negative: a plane seen edge-on may come out so at a triangle's rim
                        inverse = wp.max(zx * float(column) + z, 0.0)
                        word = (wp.uint64(wp.cast(inverse, wp.uint32)) << _DEPTH_SHIFT) | name
                        pixel = row * size + column
                        if word > nearest[world, pixel]:
                            wp.atomic_max(nearest, world, pixel, word)


@wp.func
def _texel(looks: Looks, at: int) -> wp.vec3:
    packed = looks.texel[at]
    red, green = (packed >> wp.uint32(16)) & wp.uint32(255), (packed >> wp.uint32(8)) & wp.uint32(255)
    return wp.vec3(float(red), float(green), float(packed & wp.uint32(255)))


@wp.func
def _colour(looks: Looks, material: int, u: float, v: float) -> wp.vec3:
    """The texture at (u, v), repeated, between the four nearest texels; 0 to 255."""
    width, height, first = looks.width[material], looks.height[material], looks.first[material]
    x, y = (u - wp.floor(u)) * float(width) - 0.5, (v - wp.floor(v)) * float(height) - 0.5
    left, top = wp.floor(x), wp.floor(y)
    fx, fy = x - left, y - top
    x0, x1 = wp.max(int(left), 0), wp.min(int(left) + 1, width - 1)
    y0, y1 = first + wp.max(int(top), 0) * width, first + wp.min(int(top) + 1, height - 1) * width
    above = _texel(looks, y0 + x0) * (1.0 - fx) + _texel(looks, y0 + x1) * fx
    below = _texel(looks, y1 + x0) * (1.0 - fx) + _texel(looks, y1 + x1) * fx
    return above * (1.0 - fy) + below * fy


@wp.func
def _light(looks: Looks, normal: wp.vec3, forward: wp.vec3) -> float:
    """Brightness of a surface; all lights are white and infinitely far, the head light shines `forward`."""
    brightness = looks.ambient + looks.headlight * wp.max(0.0, -wp.dot(normal, forward))
    for i in range(looks.light.shape[0]):
        light = looks.light[i]
        brightness += light[3] * wp.max(0.0, -wp.dot(normal, wp.vec3(light[0], light[1], light[2])))
    return brightness


@wp.func
def _bytes(colour: wp.vec3) -> tuple[wp.uint8, wp.uint8, wp.uint8]:
    red, green, blue = wp.min(colour[0], 255.0), wp.min(colour[1], 255.0), wp.min(colour[2], 255.0)
    return wp.uint8(int(red)), wp.uint8(int(green)), wp.uint8(int(blue))


@wp.func
def _vertex_normal(n: wp.vec3, face: wp.vec3) -> wp.vec3:
    return wp.where(wp.dot(n, face) < _SAME_SIDE, face, n)


@wp.kernel
def shade_pixels(
    geometry: Geometry,
    placed: Placed,
    looks: Looks,
    size: int,
    tangent: float,
    smooth: bool,
    nearest: wp.array2d[wp.uint64],
    picture: wp.array3d[wp.uint8],
    seen: wp.array2d[int],
):
    """For (world, row): colours into `picture` (N, size * size, 3), slots into `seen`; `nearest` is empty afterwards.

    smooth: light from the normals at the corners. `seen` (N, size * size) gets -1 where nothing is; (N, 0): not wanted.
    """
    world, row = wp.tid()
    half = 0.5 * float(size - 1)
    scale = 2.0 * tangent / float(size)
    y = float(row)
    camera = placed.camera_matrix[world]
    forward = -wp.vec3(camera[0, 2], camera[1, 2], camera[2, 2])
    before = _UNKNOWN  # what the last pixel showed
    slot, face, material = int(-1), int(0), int(0)
    plain, side = bool(True), float(1.0)
    colour, brightness = looks.background * 1.0, float(1.0)
    red, green, blue = wp.uint8(0), wp.uint8(0), wp.uint8(0)
    d0, d1, d2 = float(0.0), float(0.0), float(0.0)
    e0, e1, e2 = wp.vec3(), wp.vec3(), wp.vec3()
    n0, n1, n2 = wp.vec3(), wp.vec3(), wp.vec3()
    for column in range(size):
        pixel = row * size + column
        word = nearest[world, pixel]
        nearest[world, pixel] = wp.uint64(0)
        name = word & _NAME_MASK
        if word == wp.uint64(0):
            name = _NOTHING
        if name != before:
            before = name
            if name == _NOTHING:
                slot, plain, brightness = int(-1), bool(True), float(1.0)
                colour = looks.background * 1.0
            else:
                slot = int(name >> _FACE_SHIFT)
                mesh = placed.mesh[world, slot]
                face = geometry.first[mesh] + int(name & _FACE_MASK)
                material = placed.material[world, slot]
                turn = placed.matrix[world, slot]
                plane = geometry.plane[face]
                bare = wp.vec3(plane[0], plane[1], plane[2])
                axes = wp.transpose(camera)
                m = axes @ turn
                t = axes @ (placed.position[world, slot] - placed.camera_position[world])
                a = m @ geometry.corner[face, 0] + t
                side = wp.where(wp.dot(m @ bare, a) > 0.0, -1.0, 1.0)
                brightness = _light(looks, turn @ bare * side, forward)
                plain = geometry.plain[face]
                if plain:
                    uv = geometry.uv[face, 0]
                    colour = _colour(looks, material, uv[0], uv[1])
                if smooth or not plain:
                    b, c = m @ geometry.corner[face, 1] + t, m @ geometry.corner[face, 2] + t
                    e0, e1, e2 = _edge(b, c, scale, half), _edge(c, a, scale, half), _edge(a, b, scale, half)
                    d0, d1, d2 = e0[1] * y + e0[2], e1[1] * y + e1[2], e2[1] * y + e2[2]
                if smooth:
                    n0 = turn @ _vertex_normal(geometry.normal[face, 0], bare)
                    n1 = turn @ _vertex_normal(geometry.normal[face, 1], bare)
                    n2 = turn @ _vertex_normal(geometry.normal[face, 2], bare)
            red, green, blue = _bytes(colour * brightness)
        if slot >= 0 and (smooth or not plain):
            x = float(column)
            b0, b1, b2 = e0[0] * x + d0, e1[0] * x + d1, e2[0] * x + d2
            share = 1.0 / (b0 + b1 + b2)
            b0, b1, b2 = b0 * share, b1 * share, b2 * share
            if not plain:
                uv = geometry.uv[face, 0] * b0 + geometry.uv[face, 1] * b1 + geometry.uv[face, 2] * b2
                colour = _colour(looks, material, uv[0], uv[1])
            if smooth:
                brightness = _light(looks, wp.normalize(n0 * b0 + n1 * b1 + n2 * b2) * side, forward)
            red, green, blue = _bytes(colour * brightness)
        picture[world, pixel, 0] = red
        picture[world, pixel, 1] = green
        picture[world, pixel, 2] = blue
        if seen.shape[1] > 0:
            seen[world, pixel] = slot
