"""How a film moves, and where that carries its last frame: optical flow and semi-Lagrangian advection; or how it stays.

Sources: Lucas and Kanade 1981 (An iterative image registration technique) in the pyramids of Bouguet 2001 (Pyramidal
implementation of the affine Lucas Kanade feature tracker), on the corners of Shi and Tomasi 1994 (Good features to track), all as
OpenCV has them; Kalal, Mikolajczyk and Matas 2010 (Forward-backward error) for corners that were lost; Shepard 1968 (A
two-dimensional interpolation function for irregularly-spaced data) from corners to pixels; Germann and Zawadzki 2002
(Scale-dependence of the predictability of precipitation from continental radar images) for the advection.

A motion is ``(B, 2, H, W)``: pixels a frame to the right (columns), then down (rows).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# Chosen by the CSI of radar forecasts of up to an hour at 1 km and 5 minutes, and by the error on moving digits; dense optical flow
# (DIS, Farneback), a merging of near vectors and a fixed scale in dB did worse on radar.
_CORNERS = 1000  # at most, in an image
_QUALITY = 0.01  # of a corner, relative to the best
_APART = 5  # pixels between two corners
_BLOCK = 5  # pixels across which a corner is one
_MARGIN = 5  # pixels from what is missing, so that its edge, which stands still, is no corner
_WINDOW = 30  # pixels, of the part of an image that is found again
_HALVINGS = 3  # of an image, for motion larger than the window
_STOP = (cv2.TERM_CRITERIA_COUNT, 10, 0.0)  # after ten iterations
_RETURN = 1.0  # pixels from a corner within which its way back must end
_NEIGHBOURS = 30  # vectors with which one is compared
_DEVIATIONS = 3.0  # from their mean, beyond which it is an outlier
_NOISE = 1.0  # pixels by which vectors may differ without any being an outlier
_NEAREST = 20  # vectors that make a pixel's motion
_SPACING = 8  # pixels between the nodes at which motion is worked out; between them it is linear
_AT_ONCE = 8192  # nodes, to keep the distances of a large image in bounds
_COVERED = 0.49  # of a pixel that must be valid: a shade below a half, so that rounding tears no hole

NEWEST = 3
"""Frames from which motion is taken: older ones moved otherwise."""


def motion_and_last(films: Tensor) -> tuple[Tensor, Tensor]:
    """Return how films ``(B, K, C, H, W)``, NaN = missing, move, ``(B, 2, H, W)``, and their last frame ``(B, C, H, W)``.

    A pixel lost in the last frame takes what moves there from those before.
    """
    motion = estimate_motion(films.nanmean(2))
    last = films[:, 0]
    for frame in films[:, 1:].unbind(1):
        lost = frame.isnan() & ~last.isnan()
        last = torch.where(lost, advect(last, motion, 1)[:, 0], frame) if lost.any() else frame
    return motion, last


def hold(films: Tensor) -> Tensor:
    """Return films ``(B, K, C, H, W)``, NaN = missing, in which a missing pixel keeps its newest valid value, if it has had one."""
    held = [films[:, 0]]
    for time in range(1, films.shape[1]):
        held.append(torch.where(films[:, time].isnan(), held[-1], films[:, time]))
    return torch.stack(held, 1)


def estimate_motion(frames: Tensor) -> Tensor:
    """Return the motion ``(B, 2, H, W)`` of films ``(B, K, H, W)``, NaN = missing, pooled over all pairs of successive frames.

    The films may be in any units: the scale on which they are compared comes from their own values. Where nothing can be followed - in
    a dry field, in one that stays the same all over, in a single frame - the motion is zero.
    """
    films = frames.detach().to("cpu", torch.float32).numpy()
    workers = min(len(films), torch.get_num_threads())
    if workers < 2:
        return torch.stack([_motion_of_film(film) for film in films]).to(frames)
    with ThreadPoolExecutor(workers) as pool:  # OpenCV lets other threads run
        return torch.stack(list(pool.map(_motion_of_film, films))).to(frames)


def _motion_of_film(film: NDArray[np.float32]) -> Tensor:
    valid = np.isfinite(film)
    images = _brightness(film, valid)
    pairs = range(len(film) - 1)
    vectors = np.concatenate(
        [np.zeros((0, 4), np.float32), *(_follow(images[pair], images[pair + 1], valid[pair] & valid[pair + 1]) for pair in pairs)]
    )
    places, steps = torch.from_numpy(vectors).chunk(2, dim=1)
    kept = _agreeing(places, steps)
    return _interpolate(places[kept], steps[kept], *film.shape[1:])


def _brightness(film: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a film as 8-bit images on a logarithmic scale, which shows light rain beside heavy; what is missing is black.

    The scale starts at the film's least value and bends at the median of the values above it, so it is the same in all units.
    """
    height = np.where(valid, film, np.nan).astype(np.float64)
    height = np.nan_to_num(height - np.min(height, initial=np.inf, where=valid))
    above = height[height > 0]
    if not above.size:
        return np.zeros(film.shape, dtype=np.uint8)
    bright = np.log1p(height / np.median(above))
    return np.asarray(255 * (bright / bright.max()), dtype=np.uint8)  # the largest is 255, however it is rounded


def _follow(image: NDArray[np.uint8], following: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return ``(N, 4)``: the places (column, row) of corners in an image, and their steps to the following one."""
    inside = cv2.erode(valid.astype(np.uint8), np.ones((2 * _MARGIN + 1, 2 * _MARGIN + 1), np.uint8))
    corners = cv2.goodFeaturesToTrack(image, _CORNERS, _QUALITY, _APART, mask=inside, blockSize=_BLOCK)
    if corners is None:
        return np.zeros((0, 4), np.float32)
    start = np.asarray(corners, dtype=np.float32)
    ends, found = _track(image, following, start)
    back, found_back = _track(following, image, ends)
    kept = found & found_back & (np.linalg.norm(back - start, axis=2)[:, 0] < _RETURN)
    vectors: NDArray[np.float32] = np.concatenate([start, ends - start], axis=2)[kept, 0]
    return vectors


def _track(
    image: NDArray[np.uint8], following: NDArray[np.uint8], places: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where the surroundings of places ``(N, 1, 2)`` lie in the following image, and which of them were found."""
    ends, found, _ = cv2.calcOpticalFlowPyrLK(
        image, following, places, np.empty_like(places), winSize=(_WINDOW, _WINDOW), maxLevel=_HALVINGS, criteria=_STOP
    )
    return np.asarray(ends, dtype=np.float32), np.asarray(found)[:, 0] == 1


def _agreeing(places: Tensor, steps: Tensor) -> Tensor:
    """Return which of the vectors lie within :data:`_DEVIATIONS` (of Mahalanobis) of the mean of their neighbours."""
    count = min(len(places) - 1, _NEIGHBOURS)
    if count < 3:
        return torch.ones(len(places), dtype=torch.bool)
    nearest = _distances(places, places).topk(count + 1, largest=False).indices[:, 1:]
    neighbours = steps[nearest]
    mean = neighbours.mean(1, keepdim=True)
    spread = (neighbours - mean).mT @ (neighbours - mean) / (count - 1) + _NOISE**2 * torch.eye(2)
    away = (steps - mean[:, 0]).unsqueeze(2)
    squared: Tensor = away.mT @ torch.linalg.solve(spread, away)
    return squared.flatten() <= _DEVIATIONS**2


def _interpolate(places: Tensor, steps: Tensor, height: int, width: int) -> Tensor:
    """Return the motion ``(2, H, W)``: of the nearest vectors, the nearer the more, by the inverse of the squared distance."""
    if not len(places):
        return torch.zeros(2, height, width)
    rows, columns = 2 + (height - 2) // _SPACING, 2 + (width - 2) // _SPACING
    nodes = torch.cartesian_prod(torch.linspace(0, height - 1, rows), torch.linspace(0, width - 1, columns)).flip(1)
    motion = torch.cat([_mean_of_nearest(some, places, steps) for some in torch.split(nodes, _AT_ONCE)])
    coarse = motion.T.reshape(1, 2, rows, columns)
    return functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]


def _mean_of_nearest(nodes: Tensor, places: Tensor, steps: Tensor) -> Tensor:
    distance, nearest = _distances(nodes, places).topk(min(len(places), _NEAREST), largest=False)
    weight = (distance + 0.5) ** -2  # half a pixel away at least: no division by zero at a corner
    return (steps[nearest] * weight.unsqueeze(2)).sum(1) / weight.sum(1, keepdim=True)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    # By matrix products, as is the default, distances of a pixel would be lost in the rounding of coordinates of thousands.
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def advect(frame: Tensor, motion: Tensor, steps: int, inflow: float = math.nan) -> Tensor:
    """Carry a frame along a motion that stays as it is: semi-Lagrangian, backward.

    Each step's path alpha solves ``alpha = motion(x - alpha / 2)`` (Germann and Zawadzki 2002) by one iteration from the path of the step
    before, which is exact to the second order. The frame is sampled once for each lead, so it is not smoothed over and over.

    Args:
        frame: ``(B, C, H, W)``, NaN = missing; missing stays apart: a value comes from valid pixels alone, and is missing where they cover
            less than half of it.
        motion: ``(B, 2, H, W)``, pixels a frame to the right and down.
        steps: frames to give.
        inflow: what comes in from outside: missing (NaN), or a value such as 0 for no rain.

    Returns:
        ``(B, steps, C, H, W)``, of the kind of ``frame``; gradients flow to both.
    """
    height, width = frame.shape[2:]
    # In units of grid_sample: the image reaches from -1 to 1, from the outer edge of its first pixel to that of its last.
    size = torch.tensor([width, height], dtype=motion.dtype, device=motion.device).view(2, 1, 1)
    rows, columns = (torch.arange(length, dtype=motion.dtype, device=motion.device) for length in (height, width))
    motion = motion * (2 / size)
    origin, path = ((2 * torch.stack(torch.meshgrid(columns, rows, indexing="xy")) + 1) / size - 1).expand_as(motion), motion

    ringed = functional.pad(frame, (1, 1, 1, 1), value=inflow)
    valid = ~ringed.isnan()
    values = torch.cat([torch.where(valid, ringed, 0.0), valid.to(frame)], 1)
    to_ringed = size / (size + 2)
    forecast = []
    for _ in range(steps):
        path = _sample(motion, origin - path / 2)
        origin = origin - path
        total, cover = _sample(values, origin * to_ringed).chunk(2, 1)
        covered = cover > _COVERED
        forecast.append(torch.where(covered, total / torch.where(covered, cover, 1.0), math.nan))
    return torch.stack(forecast, 1)


def _sample(image: Tensor, places: Tensor) -> Tensor:
    """Return an image ``(B, C, H, W)`` at places ``(B, 2, h, w)``, bilinear; beyond its edge it is as at the edge."""
    return functional.grid_sample(image, places.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False)
