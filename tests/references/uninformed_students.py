"""Uninformed Students' losses, statistics and scores written a second way: sums over images, pixels and dimensions.

Source: sections 3.1 to 3.3 of Bergmann et al., CVPR 2020.  All in float64; nothing is shared with the package.
Descriptors of a teacher or of one student: [B, d, h, w].
"""

import numpy as np


def squared_distance(a, b):
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


# Section 3.1: the teacher


def knowledge(decoded, target):
    return sum(squared_distance(a, b) for a, b in zip(decoded, target, strict=True)) / len(decoded)


def metric_terms(t, positive, negative, margin):
    """One for each triplet."""
    terms = []
    for a, p, n in zip(t, positive, negative, strict=True):
        hardest = min(squared_distance(a, n), squared_distance(p, n))
        terms.append(max(0.0, margin + squared_distance(a, p) - hardest))
    return terms


def correlation(a, b):
    """Pearson's; 0 where one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a * a).sum() * (b * b).sum())
    return (a * b).sum() / spread if spread else 0.0


def compactness(t, kind):
    """t [B, d]: over pairs of dimensions, each pair twice."""
    total, d = 0.0, t.shape[1]
    for i in range(d):
        for j in range(d):
            if i != j:
                c = correlation(t[:, i], t[:, j])
                total += {"square": c * c, "abs": abs(c), "signed": c}[kind]
    return total


# Section 3.2: the students


def statistics(batches):
    """Arrays [B, C, h, w] of any B, h and w -> mean and deviation [C] over all images and pixels."""
    columns = [pixel for batch in batches for image in batch for pixel in image.reshape(len(image), -1).T]
    return np.mean(columns, axis=0), np.std(columns, axis=0)


def student_loss(student, teacher, mu, sigma):
    B, _, h, w = teacher.shape
    total = 0.0
    for b in range(B):
        for r in range(h):
            for c in range(w):
                total += squared_distance(student[b, :, r, c], (teacher[b, :, r, c] - mu) / sigma)
    return total / (B * h * w)


# Section 3.3: scores


def errors(students, teacher, mu, sigma):
    """students: a list.  e and v, [B, h, w] each; v as the paper has it, a difference of squares."""
    B, d, h, w = teacher.shape
    e, v, nothing = np.empty((B, h, w)), np.empty((B, h, w)), np.zeros(d)
    for b in range(B):
        for r in range(h):
            for c in range(w):
                answers = [s[b, :, r, c] for s in students]
                mean = sum(answers) / len(answers)
                e[b, r, c] = squared_distance(mean, (teacher[b, :, r, c] - mu) / sigma)
                v[b, r, c] = sum(squared_distance(a, nothing) for a in answers) / len(answers)
                v[b, r, c] -= squared_distance(mean, nothing)
    return e, v


def score(e, v, calibration):
    """calibration: (e_mu, e_sigma), (v_mu, v_sigma); the latter None where there is one student."""
    (e_mu, e_sigma), of_v = calibration
    total = (e - e_mu) / e_sigma
    return total if of_v is None else total + (v - of_v[0]) / of_v[1]


def upsample(score_map, stride, size):
    """[h, w] at every `stride`-th pixel -> [H, W]: linear between two of them, the last ones repeated."""
    h, w = score_map.shape
    out = np.empty(size)
    for y in range(size[0]):
        for x in range(size[1]):
            i, j = y // stride, x // stride
            below, right = min(i + 1, h - 1), min(j + 1, w - 1)
            s, t = (y - i * stride) / stride, (x - j * stride) / stride
            upper = (1 - t) * score_map[i, j] + t * score_map[i, right]
            lower = (1 - t) * score_map[below, j] + t * score_map[below, right]
            out[y, x] = (1 - s) * upper + s * lower
    return out
