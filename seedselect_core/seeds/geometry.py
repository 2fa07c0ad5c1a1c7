"""Norm-aware geometry of noise (NAO: Samuel et al., NeurIPS 2023, arXiv 2306.08687).

The norm of Gaussian noise in d dimensions is all but fixed: `L(r) = norm_log_density(r, d)` peaks
at R = sqrt(d - 1) and is `L(R) - (r - R)^2` near it. NAO therefore asks for paths and centroids
whose points are of a likely norm, and finds them in up to 10,000 steps of Adam. Because L depends
on the norm alone, hardly anything is left to be optimized:

Path, as published: n points from a to b that maximise

    J = sum_i L(|x_i|) - weight * sum_i max(0, |x_{i+1} - x_i| - eps),    eps = 2 |a - b| / n

Every term is bounded, by L(R) and by 0. Points on the shell |x| = R with gaps of at most eps reach
all the bounds at once, so they are a global optimum, and not the only one. The great circle is such
a path: its gaps are R theta / (n - 1), at most pi / 2 of the chord's, and eps allows 2 (so from
n = 5 on for any two ends). Ends off the shell only add that no point's norm can be nearer to R than
`|r_a - R| - i eps` (triangle inequality, likewise from b), which walking along the radius reaches.
`shell_path` is that.

Path, as a true line integral of f = -L > 0 along it: the shortest path for the length f(|x|) |dx|,
a conformal metric. By symmetry it lies in the plane of 0, a and b, and by Clairaut's relation
`r f(r) cos(slope)` is constant on it. A circle is such a path where r f(r) is stationary,

    f(r) + r f'(r) = 0  with  f'(r) = r - (d - 1) / r,  so  r = R - f(R) / (2 R) + ...

with f(R) all but ln(pi) / 2, which is a hair inside the shell (0.02 of 16 for d = 256, see
`geodesic_radius`): inner circles are shorter. `shell_path` neglects that.

Centroid, as published: the point c that maximises L(|c|) plus J of its paths to the seeds. By the
above every c on the shell from which eps lets the paths go reaches all bounds, so the objective
hardly says which one. The ascent starts at the seeds' mean and its gradient points along the
radius, so it ends about where the mean is carried to the shell (Adam's scaling of each value turns
it by 0.3 radians or so): its answer is due to its start. As a true line integral the objective is
`f(R) R sum_k theta_k`: it asks for the smallest sum of angles, the *geometric median* of the seeds
on the sphere, and not for the Frechet mean, which has the smallest sum of their squares.
`shell_centroid` is that median, which is an optimum of the published objective too. Where all seeds
lie at equal angles to each other, as random ones in many dimensions all but do, median, Frechet
mean and the mean carried to the shell are one and the same.

Noise here is [C, h, w], or [B, C, h, w] where a function says so; that of videos has its frames
after the channels, [C, T, h, w]. Paths and centroids are computed in float64 on the CPU, and given
back in the kind and on the device that they came; so is white noise.
"""

import math

import torch

from ..errors import SeedSelectError
from ..likeness.losses import norm_log_density

FREQUENCIES = 16  # in a block of `white`


def shell_radius(d: int) -> float:
    """The likeliest norm of Gaussian noise in d dimensions."""
    return math.sqrt(d - 1)


def geodesic_radius(d: int) -> float:
    """The radius, for d > 1, of the circle that is a shortest path of the line integral."""
    r = torch.tensor(shell_radius(d), dtype=torch.float64)
    for _ in range(20):  # Newton's method
        slope = -norm_log_density(r, d) + r.square() - (d - 1)
        r = r - slope / (3 * r - (d - 1) / r)
    return float(r)


def norms(noise: torch.Tensor) -> torch.Tensor:
    """[B, ...] to the norm of each sample, [B]."""
    return noise.flatten(1).norm(dim=1)


def to_shell(noise: torch.Tensor) -> torch.Tensor:
    """Scale each sample of ``noise`` [B, ...] to the likeliest norm sqrt(d - 1)."""
    scale = shell_radius(noise[0].numel()) / norms(noise).clamp_min(1e-12)
    return noise * scale.view(-1, *[1] * (noise.ndim - 1))


def standardize_channels(noise: torch.Tensor) -> torch.Tensor:
    """Give each channel of each sample of ``noise`` [B, C, ...] zero mean and unit variance.

    The norm is then sqrt(d), which is the shell's but for 1 / (2 sqrt(d)). A channel of one value
    becomes 0.
    """
    places = tuple(range(2, noise.ndim))
    centered = noise - noise.mean(dim=places, keepdim=True)
    spread = centered.square().mean(dim=places, keepdim=True).sqrt()
    return centered / spread.clamp_min(1e-6)


def white(noise: torch.Tensor) -> torch.Tensor:
    """The white noise nearest to each sample of ``noise`` [B, ...] (GPER, arXiv 2602.08646).

    Of d Gaussian values the orthonormal Fourier transform has moduli of mean square 1 and of mean
    sqrt(pi) / 2. Each block of 16 frequencies is given both, by taking the same from all its moduli
    (or adding it), none below 0, and scaling; phases stay. A sample of zeros stays one.
    """
    flat = noise.detach().cpu().flatten(1).double()
    values = flat.shape[1]
    spectrum = torch.fft.rfft(flat, norm="ortho")
    # The first frequency is real, and of an even number the last: one complex value together.
    last = spectrum[:, -1].real if values % 2 == 0 else torch.zeros_like(spectrum[:, 0].real)
    ends = torch.complex(spectrum[:, 0].real, last)[:, None] / math.sqrt(2)
    middle = spectrum[:, 1 : (values + 1) // 2]
    bins = torch.cat([ends, middle], 1)
    moduli = bins.abs()
    wanted = torch.cat([_of_noise(block) for block in moduli.split(FREQUENCIES, 1)], 1)
    bins = bins * (wanted / moduli.clamp_min(1e-300))
    spectrum[:, 1 : (values + 1) // 2] = bins[:, 1:]
    spectrum[:, 0] = bins[:, 0].real * math.sqrt(2)
    if values % 2 == 0:
        spectrum[:, -1] = bins[:, 0].imag * math.sqrt(2)
    whitened = torch.fft.irfft(spectrum, n=values, norm="ortho")
    whitened = torch.where(flat.any(1, keepdim=True), whitened, torch.zeros_like(whitened))
    return whitened.to(noise).view_as(noise)


def _of_noise(moduli: torch.Tensor) -> torch.Tensor:
    """Moduli [B, n] as near as can be whose mean square is 1 and whose mean is sqrt(pi) / 2."""
    count = moduli.shape[1]
    flattest = math.sqrt(math.pi) / 2 * math.sqrt(count)  # the 1-norm's share of the 2-norm
    if flattest <= 1:  # a block of one frequency
        return torch.ones_like(moduli)
    high = moduli.max(1, keepdim=True).values
    low = -count * high
    for _ in range(60):  # the more is taken, the less is the mean's share
        middle = (low + high) / 2
        left = (moduli - middle).clamp_min(0)
        flat = left.sum(1, keepdim=True) > flattest * left.norm(dim=1, keepdim=True)
        low = torch.where(flat, middle, low)
        high = torch.where(flat, high, middle)
    left = (moduli - low).clamp_min(0)
    return left * (math.sqrt(count) / left.norm(dim=1, keepdim=True).clamp_min(1e-300))


def rotate_towards(noise: torch.Tensor, other: torch.Tensor, angle: float) -> torch.Tensor:
    """Turn each sample of ``noise`` [B, ...] by ``angle`` radians towards ``other``, norm kept.

    Two Gaussian draws are nearly orthogonal, so that towards a fresh one pi / 2 leaves nothing of
    the sample.
    """
    flat = noise.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    along = flat / length.clamp_min(1e-12)
    away = other.flatten(1)
    away = away - (away * along).sum(1, keepdim=True) * along
    away = away / away.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (math.cos(angle) * flat + math.sin(angle) * length * away).view_as(noise)


def resized(
    noise: torch.Tensor, height: int, width: int, generator: torch.Generator
) -> torch.Tensor:
    """``noise`` [..., h, w] at another size, [..., height, width], with the same composition.

    Noise is taken for the integrals of one continuous white noise over the latent's pixels
    ("integral noise": Chang et al., "How I Warped Your Noise", ICLR 2024), so that a larger latent
    draws only the detail anew, and a smaller one leaves detail out. White noise gives white noise,
    exactly: no interpolation has that, which lowers the variance and correlates neighbours.

    Args:
        generator: of the CPU, for the detail.
    """
    wide = _integrated(noise.double(), width, generator)
    tall = _integrated(wide.transpose(-1, -2), height, generator).transpose(-1, -2)
    return tall.to(noise.dtype).contiguous()


def _integrated(noise: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`resized` along the last axis: [..., n] to [..., count].

    The sums along a row are a Brownian motion, seen at the pixels' edges. Between two edges it is a
    Brownian bridge, which is drawn where the new edges are (Deng et al., arXiv 2411.01212).
    """
    n = noise.shape[-1]
    # All edges as whole numbers, the old ones at multiples of count and the new ones of n.
    edges = torch.tensor(sorted({*range(0, n * count + 1, count), *range(0, n * count + 1, n)}))
    lengths = edges.diff().double()
    pixels = edges[:-1] // count
    free = torch.randn(*noise.shape[:-1], len(lengths), generator=generator, dtype=noise.dtype)
    free = free * lengths.sqrt()
    sums = torch.zeros_like(noise).index_add_(-1, pixels, free)
    # What the parts of a pixel have in common is what the pixel has.
    parts = free + (noise * math.sqrt(count) - sums)[..., pixels] * (lengths / count)
    made = torch.zeros(*noise.shape[:-1], count, dtype=noise.dtype)
    return made.index_add_(-1, edges[:-1] // n, parts) / math.sqrt(n)


def angle_between(a: torch.Tensor, b: torch.Tensor) -> float:
    """Angle in radians, 0 to pi, exact also for small ones: a and b of one shape."""
    return _plane(_flat(a), _flat(b))[2]


def linear_path(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    """``n`` points [n, C, h, w] on the straight line from ``a`` to ``b`` [C, h, w], ends included.

    Halfway between two random seeds the norm is that of noise divided by sqrt(2): flat pictures.
    """
    _require_points(n)
    t = torch.linspace(0, 1, n, dtype=torch.float64).view(-1, 1)
    return _ended(a, b, (1 - t) * _flat(a) + t * _flat(b))


def spherical_path(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    """``n`` points [n, C, h, w] from ``a`` to ``b``: angle and norm change evenly (slerp).

    Ends that are opposite are joined through a direction that is always the same.
    """
    _require_points(n)
    first = _flat(a)
    last = _flat(b)
    u, v, theta = _plane(first, last)
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    radii = (1 - t) * first.norm() + t * last.norm()
    return _ended(a, b, _in_plane(u, v, radii, t * theta))


def shell_path(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    """``n`` points [n, C, h, w] from ``a`` to ``b``: NAO's optimum in closed form.

    The great circle in even steps with all inner points on the shell. Where an end is off the shell
    by so much that its gap would be over eps, the path first walks to the shell along the radius.
    Where ``n`` points are too few for that, the gap at the end stays over eps.
    """
    _require_points(n)
    first = _flat(a)
    last = _flat(b)
    u, v, theta = _plane(first, last)
    shell = torch.tensor(shell_radius(len(first)), dtype=torch.float64)
    eps = _eps(first, last, n)
    radii = torch.full((n,), float(shell), dtype=torch.float64)
    radii[0] = first.norm()
    radii[-1] = last.norm()
    angles = torch.linspace(0, theta, n, dtype=torch.float64)
    path = _in_plane(u, v, radii, angles)
    if eps > 0 and _gaps(path).max() > eps:
        walks = [_walk(end, shell, eps, n) for end in (radii[0], radii[-1])]
        arc = n - len(walks[0]) - len(walks[1])  # points of the arc, its two ends included
        if arc >= 2 and 2 * shell * math.sin(theta / (2 * (arc - 1))) <= eps:
            radii = torch.cat([walks[0], shell.expand(arc), walks[1].flip(0)])
            angles = torch.zeros(n, dtype=torch.float64)
            angles[len(walks[0]) : n - len(walks[1])] = torch.linspace(
                0, theta, arc, dtype=torch.float64
            )
            angles[n - len(walks[1]) :] = theta
            path = _in_plane(u, v, radii, angles)
    return _ended(a, b, path)


def _walk(radius: torch.Tensor, shell: torch.Tensor, eps: float, most: int) -> torch.Tensor:
    """Radii from an end towards the shell in steps of ``eps``, the shell itself left out."""
    steps = math.ceil(float((radius - shell).abs()) / eps)
    return radius + torch.sign(shell - radius) * eps * torch.arange(min(steps, most)).double()


def path_objective(path: torch.Tensor, eps: float, weight: float = 10.0) -> torch.Tensor:
    """NAO's J of a path [n, ...]: log densities of the norms, less ``weight`` times gaps over eps.

    Where a path can reach all bounds, the optimum is the same for any positive weight. Where an end
    is off the shell, a weight below the slope of L there, 2 |r - R|, would buy likelier norms with
    wider gaps; above it the gaps are kept, as `shell_path` keeps them.
    """
    flat = path.flatten(1)
    density = norm_log_density(flat.norm(dim=1), flat.shape[1]).sum()
    return density - weight * (_gaps(flat) - eps).clamp_min(0).sum()


def optimized_path(
    a: torch.Tensor, b: torch.Tensor, n: int, steps: int = 10_000, lr: float = 0.01
) -> torch.Tensor:
    """``n`` points [n, C, h, w] from ``a`` to ``b``: NAO as published, to compare with.

    Adam from the straight line, stopped early when the objective rises no more.
    """
    _require_points(n)
    first = _flat(a)
    last = _flat(b)
    eps = _eps(first, last, n)
    inner = _off_zero(_flat_path(linear_path(first, last, n)))[1:-1]

    def objective(inner):
        return path_objective(torch.cat([first[None], inner, last[None]]), eps)

    (inner,) = _ascend(objective, [inner], steps, lr)
    return _ended(a, b, torch.cat([first[None], inner, last[None]]))


def shell_centroid(
    seeds: torch.Tensor, weights: torch.Tensor | None = None, iterations: int = 200
) -> torch.Tensor:
    """The point [C, h, w] on the shell with the least weighted sum of angles to ``seeds``.

    That is the geometric median on the sphere, by Weiszfeld's iteration (Fletcher et al.,
    NeuroImage 45, 2009) from the mean direction. Of two seeds with equal weights it is the one
    halfway, though all points between them would do; of opposite ones a point halfway that is
    always the same.

    Args:
        seeds: [k, C, h, w]; of each only the direction counts.
        weights: [k], positive; equal if None.
    """
    units = torch.nn.functional.normalize(_flat_path(seeds), dim=1)
    weights = torch.ones(len(units)) if weights is None else weights
    weights = weights.detach().cpu().double().view(-1, 1)
    mean = (weights * units).sum(0) / weights.sum()
    c = _other(units[0]) if mean.norm() < 1e-7 else mean / mean.norm()
    for _ in range(iterations):
        cosines = units @ c
        across = units - cosines[:, None] * c
        sines = across.norm(dim=1)
        # A seed that is the centroid already has no direction to pull in.
        pull = weights * across / sines.clamp_min(1e-12)[:, None]
        angles = torch.atan2(sines, cosines)[:, None]
        move = pull.sum(0) / (weights / angles.clamp_min(1e-6)).sum()
        step = move.norm()
        if step < 1e-9:
            break
        c = torch.cos(step) * c + torch.sin(step) * move / step
        c = c / c.norm()
    return (shell_radius(len(c)) * c).view(seeds.shape[1:]).to(seeds)


def optimized_centroid(
    seeds: torch.Tensor, n: int = 50, steps: int = 10_000, lr: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """NAO's centroid as published, to compare with: Adam from the mean and straight lines.

    Args:
        seeds: [k, C, h, w].
        n: points of each path, ends included.

    Returns:
        The centroid [C, h, w], and the paths [k, n, C, h, w] from the seeds to it.
    """
    _require_points(n)
    ends = _flat_path(seeds)
    mean = _off_zero(ends.mean(0, keepdim=True))[0]
    inner = torch.stack([_off_zero(_flat_path(linear_path(end, mean, n)))[1:-1] for end in ends])
    eps = [_eps(end, mean, n) for end in ends]

    def paths(c, inner):
        c = c.expand(len(ends), 1, -1)
        return torch.cat([ends[:, None], inner, c], dim=1)

    def objective(c, inner):
        return centroid_objective(c, paths(c, inner), eps)

    c, inner = _ascend(objective, [mean, inner], steps, lr)
    joined = paths(c, inner).view(len(ends), n, *seeds.shape[1:])
    return c.view(seeds.shape[1:]).to(seeds), joined.to(seeds)


def centroid_objective(c: torch.Tensor, paths: torch.Tensor, eps: list[float]) -> torch.Tensor:
    """NAO's objective of a centroid: L(|c|) plus J of every path [k, n, ...] to it."""
    flat = c.flatten()
    parts = [path_objective(path, e) for path, e in zip(paths, eps, strict=True)]
    return norm_log_density(flat.norm(), len(flat)) + sum(parts)


def _ascend(objective, start: list[torch.Tensor], steps: int, lr: float) -> list[torch.Tensor]:
    """Adam on ``objective`` of tensors; the best point met."""
    with torch.inference_mode(False), torch.enable_grad():
        points = [part.clone().requires_grad_() for part in start]
        adam = torch.optim.Adam(points, lr)
        best = [part.detach().clone() for part in points]
        found = -math.inf
        last_gain = 0
        for step in range(steps):
            value = objective(*points)
            reached = float(value.detach())
            if reached > found + 1e-4:
                last_gain = step
            if reached > found:
                found = reached
                best = [part.detach().clone() for part in points]
            if step - last_gain >= 50:
                break
            adam.zero_grad()
            (-value).backward()
            adam.step()
    return best


def _flat(noise: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):
        return noise.detach().cpu().clone().double().flatten()


def _flat_path(noise: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):
        return noise.detach().cpu().clone().double().flatten(1)


def _require_points(n: int) -> None:
    if n < 2:
        raise SeedSelectError(f"points: a path has its two ends at least, got {n}. Ask for 2.")


def _eps(a: torch.Tensor, b: torch.Tensor, n: int) -> float:
    return 2 * float((a - b).norm()) / n


def _gaps(path: torch.Tensor) -> torch.Tensor:
    return (path[1:] - path[:-1]).norm(dim=1)


def _off_zero(points: torch.Tensor) -> torch.Tensor:
    """Points [n, d], those at the origin moved off it: log |x| has no gradient there."""
    lost = points.norm(dim=1, keepdim=True) < 1e-3
    return torch.where(lost, points + 0.1 * _fixed(points.shape[1]), points)


def _fixed(d: int) -> torch.Tensor:
    """A direction [d] that is always the same, and as random as any."""
    direction = torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return direction / direction.norm()


def _other(u: torch.Tensor) -> torch.Tensor:
    """A unit vector orthogonal to the unit vector ``u``, always the same."""
    v = _fixed(len(u))
    v = v - (v @ u) * u
    return v / v.norm()


def _plane(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Orthonormal u, v [d] and angle theta: b points along `cos(theta) u + sin(theta) v`."""
    u = a / a.norm()
    w = b / b.norm()
    across = w - (w @ u) * u
    v = across / across.norm() if across.norm() > 1e-7 else _other(u)
    return u, v, 2 * math.atan2(float((u - w).norm()), float((u + w).norm()))


def _in_plane(u, v, radii: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    directions = torch.cos(angles)[:, None] * u + torch.sin(angles)[:, None] * v
    return radii[:, None] * directions


def _ended(a: torch.Tensor, b: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
    """The path in the shape and kind of its ends, which are kept bit by bit."""
    path = path.view(-1, *a.shape).to(a)
    path[0] = a
    path[-1] = b
    return path
