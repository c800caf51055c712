"""Many small fits at once: Levenberg–Marquardt for the Huber loss of a sum of three exponentials."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

DELTA = 1e-3
"""Distances beyond which the Huber loss grows in a line (Hoffmann et al. 2022, appendix D.3)."""
ROUNDS, LARGEST_STEP = 1000, 2.0
STILL, STUCK = 1e-10, 1e12
"""A fit is done when its objective falls by less than this share, or its damping is above this."""


def huber(distances: Numbers) -> Numbers:
    """The Huber loss of each (…, P), summed over the last axis."""
    size = np.abs(distances)
    each: Numbers = np.where(size <= DELTA, distances**2 / 2, DELTA * (size - DELTA / 2))
    return np.asarray(each.sum(-1))


def predicted(numbers_S5: Numbers, x_P: Numbers, y_P: Numbers) -> tuple[Numbers, Numbers]:
    """log(exp(a - α·x) + exp(b - β·y) + exp(e)) for each row (a, α, b, β, e), (S, P), and the share that each
    of the three terms has in the sum, (S, P, 3)."""
    a, alpha, b, beta, e = (column[:, None] for column in numbers_S5.T)
    terms_SP3 = np.stack([a - alpha * x_P, b - beta * y_P, np.broadcast_to(e, (len(e), len(x_P)))], -1)
    largest_SP1 = terms_SP3.max(-1, keepdims=True)
    parts_SP3 = np.exp(terms_SP3 - largest_SP1)
    sums_SP1 = parts_SP3.sum(-1, keepdims=True)
    return (largest_SP1 + np.log(sums_SP1))[..., 0], parts_SP3 / sums_SP1


def descend(x_P: Numbers, y_P: Numbers, log_loss: Numbers, starts_S5: Numbers) -> tuple[Numbers, Numbers]:
    """From each start to a minimum of the summed Huber loss between `predicted` and `log_loss`, (P,) or
    (S, P): the five numbers of each (S, 5), and its objective (S,).

    Gauss–Newton steps, damped until the objective falls (Marquardt 1963); a distance beyond `DELTA` weighs
    DELTA / distance, which makes the steps those of the Huber loss (Huber 1981, section 7.8). Five unknowns
    and a few dozen points: all fits in one array take less time than one by a general optimizer.
    """
    numbers_S5 = starts_S5.astype(np.float64).copy()
    target_SP = np.broadcast_to(log_loss, (len(numbers_S5), len(x_P)))
    damping_S = np.full(len(numbers_S5), 1e-2)
    fitted_SP, shares_SP3 = predicted(numbers_S5, x_P, y_P)
    objective_S = huber(fitted_SP - target_SP)
    busy = np.arange(len(numbers_S5))
    quiet_S = np.zeros(len(numbers_S5), dtype=int)
    for _ in range(ROUNDS):
        if not len(busy):
            break
        step = _step(fitted_SP[busy] - target_SP[busy], shares_SP3[busy], x_P, y_P, damping_S[busy])
        tried = numbers_S5[busy] + step
        fitted, shares = predicted(tried, x_P, y_P)
        objective = huber(fitted - target_SP[busy])
        better = objective < objective_S[busy]
        gain = np.where(better, objective_S[busy] - objective, 0.0)
        quiet_S[busy] = np.where(better & (gain <= STILL * objective_S[busy]), quiet_S[busy] + 1, 0)
        taken = busy[better]
        numbers_S5[taken], objective_S[taken] = tried[better], objective[better]
        fitted_SP[taken], shares_SP3[taken] = fitted[better], shares[better]
        damping_S[busy] = np.where(better, np.maximum(damping_S[busy] * 0.3, 1e-12), damping_S[busy] * 4)
        busy = busy[(quiet_S[busy] < 3) & (damping_S[busy] < STUCK) & (objective_S[busy] > 0)]
    return numbers_S5, objective_S


def _step(
    distances_SP: Numbers, shares_SP3: Numbers, x_P: Numbers, y_P: Numbers, damping_S: Numbers
) -> Numbers:
    """One damped Gauss–Newton step of each fit, (S, 5)."""
    size_SP, data_SP, rest_SP = np.moveaxis(shares_SP3, -1, 0)
    slopes_SP5 = np.stack([size_SP, -size_SP * x_P, data_SP, -data_SP * y_P, rest_SP], -1)
    weights_SP = DELTA / np.maximum(np.abs(distances_SP), DELTA)
    weighted_SP5 = slopes_SP5 * weights_SP[..., None]
    curvature_S55 = np.swapaxes(weighted_SP5, 1, 2) @ slopes_SP5
    gradient_S5 = (weighted_SP5 * distances_SP[..., None]).sum(1)
    own_S5 = np.diagonal(curvature_S55, axis1=1, axis2=2)
    damped_S5 = damping_S[:, None] * own_S5 + 1e-14
    step_S5 = -np.linalg.solve(curvature_S55 + damped_S5[:, None] * np.eye(5), gradient_S5[..., None])[..., 0]
    return np.clip(step_S5, -LARGEST_STEP, LARGEST_STEP)
