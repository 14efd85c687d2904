"""Linear models on frozen features, their penalty chosen on layouts left out, and intervals over layouts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Model = Callable[[Tensor], Tensor]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""L2 penalties tried, in units of the mean loss; of a ridge regression, of the number of rows. The last ones leave
little but the classes' shares: features that say nothing are not to do worse than guessing."""
_ITERATIONS = 60
_RESAMPLES = 1000


def fit_classes(x: Tensor, y: Tensor, group: Tensor, classes: int) -> Model:
    """Logistic regression of classes y (n,) int64, or of sets of them y (n, C) float32, on x (n, D): a map to scores.

    The penalty is the one that does best on a fifth of the groups (n,); then all rows are fitted."""

    def loss(scores: Tensor, wanted: Tensor) -> Tensor:
        if wanted.is_floating_point():
            return F.binary_cross_entropy_with_logits(scores, wanted)
        return F.cross_entropy(scores, wanted)

    def fit(rows: Tensor, target: Tensor, penalty: float) -> Model:
        mean, std = _scale(rows)
        rows = (rows - mean) / std
        weight = torch.zeros(rows.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(rows @ weight + bias, target) + 0.5 * penalty * weight.square().sum() / classes
            value.backward()
            return value

        optimizer.step(closure)
        w, b = weight.detach(), bias.detach()
        return lambda z: (z - mean) / std @ w + b

    return _best(x, y, group, fit, loss)


def fit_positions(x: Tensor, y: Tensor, group: Tensor) -> Model:
    """Ridge regression of y (n, K) on x (n, D), penalty as above: a map to predictions."""

    def fit(rows: Tensor, target: Tensor, penalty: float) -> Model:
        mean, std = _scale(rows)
        rows = ((rows - mean) / std).double()
        middle = target.double().mean(0)
        gram = rows.T @ rows + penalty * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
        w = torch.linalg.solve(gram, rows.T @ (target.double() - middle)).float()
        return lambda z: (z - mean) / std @ w + middle.float()

    return _best(x, y, group, fit, lambda predicted, wanted: (predicted - wanted).square().mean())


def _best(
    x: Tensor, y: Tensor, group: Tensor, fit: Callable[[Tensor, Tensor, float], Model], loss: Callable[..., Tensor]
) -> Model:
    groups = group.unique()
    left_out = torch.isin(group, groups[::5])
    if len(groups) < 2 or left_out.all():
        return fit(x, y, PENALTIES[1])
    losses = [float(loss(fit(x[~left_out], y[~left_out], p)(x[left_out]), y[left_out])) for p in PENALTIES]
    return fit(x, y, PENALTIES[losses.index(min(losses))])


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    std = x.std(0, correction=0)
    return x.mean(0), torch.where(std > 1e-6, std, 1.0)


def layout_weights(layout: Tensor) -> Tensor:
    """How often each picture counts when layouts are drawn anew with replacement, (B, P), from layouts (P,)."""
    names, index = layout.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(names), (_RESAMPLES, len(names)), generator=generator)
    counts = torch.zeros(_RESAMPLES, len(names)).scatter_add_(1, drawn, torch.ones(drawn.shape))
    return counts[:, index]


def ratio_interval(above: Tensor, below: Tensor, weights: Tensor) -> list[float]:
    """95 % interval of sum(above) / sum(below), (P,) each, over the resamples of `layout_weights`."""
    values = (weights @ above) / (weights @ below).clamp(min=1e-9)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975])).tolist()
    return [low, high]


def average_precision(scores: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean over classes of average precision, (B,): scores (P, C), wanted (P, C) bool, weights (B, P).

    Average precision: the mean, over the pictures that show a class, of the share that shows it among the pictures
    with at least its score. Classes that no picture (of a resample) shows are left out."""
    total, classes = torch.zeros(len(weights)), torch.zeros(len(weights))
    for c in range(scores.shape[1]):
        order = scores[:, c].argsort(descending=True, stable=True)
        w = weights[:, order]
        hits = w * wanted[order, c]
        precision = hits.cumsum(1) / w.cumsum(1).clamp(min=1e-9)
        count = hits.sum(1)
        total += torch.where(count > 0, (precision * hits).sum(1) / count.clamp(min=1e-9), 0.0)
        classes += count > 0
    return total / classes.clamp(min=1)
