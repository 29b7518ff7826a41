"""Shallow baselines of Uninformed Students (Bergmann et al., CVPR 2020): classifiers on frozen patch descriptors.

The paper compares its students with classifiers that are fitted to descriptors of normal images (section 4.2 and
appendix C): vectors drawn from all training images, reduced by PCA to 95 % of their variance, and then

    nn      the distance to the nearest of 5000 stored vectors (1-NN)
    kmeans  the distance to the nearest of 10 centres (K-Means)
    ocsvm   rho - sum_i alpha_i exp(-gamma |x - x_i|^2), a one-class SVM (Schoelkopf et al. 2001), negated
    gmm     the negative log-likelihood of a mixture of Gaussians, which the paper does not have

Each is a component of its own, measured alone; `score` says which is the method's.  The table's CNN feature dictionary
(Napoletano et al. 2018) is K-Means on an ImageNet network's features: `backbone=resnet18.tv_in1k score=kmeans`.

Deviation: the descriptors are those of the shipped teacher for patches of 33 pixels; the paper's table is for 65.
Deviation: descriptors have a stride of 4 pixels, and maps are interpolated between them.
Deviation: the largest value of a map is the image's score; the paper defines none for MVTec AD.
Deviation: the feature dictionary sees features at the network's own stride, not patches of 65 pixels, 4 pixels apart.
Unknown: nu and gamma of the one-class SVM, and how K-Means was started; see the yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.config.ranges import BatchSize, Count, ImageSize, Positive
from anomaly_bench.contracts import COMPUTED, Method, NormalBatch, NormalData, Scores, Stage
from anomaly_bench.errors import UserError
from anomaly_bench.nets.blocks import blocks, one_by_one
from anomaly_bench.nets.fitted_buffers import FittedBuffers
from anomaly_bench.nets.frozen import Layers, frozen_network, frozen_weight_files
from anomaly_bench.nets.patch_descriptors import upsample
from anomaly_bench.nets.precision import in_float32

Name = Literal["nn", "kmeans", "gmm", "ocsvm"]
ITERATIONS = 100  # of K-Means and of the mixture, at most
GAIN = 1e-3  # of the mean log-likelihood, below which the mixture's iterations end
ROWS = 1024  # vectors that are compared with all stored ones at once


class UsShallow(Method):
    """Classifiers of descriptors, fitted to vectors that are drawn from the normal training images.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.image_size=32", "method.weights=random", "method.clusters=2"]
    >>> method = build("method", validate(compose(["method=us_shallow", "dataset=mtd", *small])).method)
    >>> _ = torch.manual_seed(0)
    >>> method.fit([{"image": torch.rand(2, 3, 32, 32)}], images=2)
    >>> scores = method.score(torch.rand(2, 3, 32, 32))
    >>> scores.map.shape, list(scores.components)
    (torch.Size([2, 32, 32]), ['nn', 'kmeans', 'gmm'])
    """

    result_state = COMPUTED

    def __init__(
        self,
        image_size: ImageSize,
        batch_size: BatchSize,
        backbone: str,
        layers: Layers,
        weights: str | None,
        classifiers: Annotated[tuple[Name, ...], Field(min_length=1)],
        score: Name,
        samples: Count,
        variance: Annotated[float, Field(gt=0, le=1)],
        neighbours: Count,
        clusters: Count,
        ridge: Positive,
        nu: Annotated[float, Field(gt=0, le=1)],
        gamma: Positive | None,
    ) -> None:
        super().__init__()
        if score not in classifiers or len(set(classifiers)) < len(classifiers):
            what = f"{score} given, method.classifiers are {list(classifiers)}; needed: one of them, each of them once"
            raise UserError("method.score", what)
        if clusters > samples:
            what = f"{clusters} given, of {samples} vectors"
            raise UserError("method.clusters", what, "at most as many as method.samples")
        self.image_size, self.batch_size, self.weights = image_size, batch_size, weights
        self.samples, self.variance, self.chosen = samples, variance, score
        self.network = frozen_network(backbone, layers)
        self.projection = Projection()
        built = {
            "nn": NearestNeighbour(neighbours),
            "kmeans": KMeans(clusters),
            "gmm": Mixture(clusters, ridge),
            "ocsvm": OneClassSVM(nu, gamma),
        }
        self.classifiers = nn.ModuleDict({name: built[name] for name in classifiers})

    def stages(self, data: NormalData) -> Iterator[Stage]:
        if "ocsvm" in self.classifiers and not find_spec("sklearn"):
            hint = "pip install 'anomaly_bench[shallow]', or method.classifiers=[nn,kmeans,gmm]"
            raise UserError("method.classifiers", "ocsvm needs scikit-learn, which is not installed", hint)
        self.network.load(self.weights)
        loader = data.loader("train", self.batch_size)
        self.fit(loader, len(loader.dataset))  # type: ignore[arg-type]
        yield from ()

    @torch.no_grad()
    def fit(self, batches: Iterable[NormalBatch], images: int) -> None:
        """Fit the projection and each classifier to vectors drawn from `batches` of so many normal images.

        No more than `samples` vectors and the descriptors of a batch are in memory.  Raises UserError where vectors are
        too few or all the same.
        """
        generator = torch.Generator().manual_seed(torch.initial_seed())
        share = -(-self.samples // images)
        described = (self.describe(batch["image"].to(self.device)).flatten(2) for batch in batches)  # [B, C, h w]
        drawn = [drawn_rows(image.T, share, generator) for maps in described for image in maps]  # [share, C] each
        vectors = drawn_rows(torch.cat(drawn), self.samples, generator)
        self.projection.fit(vectors, self.variance)
        vectors = self.projection(vectors)  # [n, d]
        for classifier in self.classifiers.values():  # each draws the same whichever others there are
            classifier.fit(vectors, torch.Generator().manual_seed(torch.initial_seed()))  # type: ignore[operator]

    def describe(self, images: Tensor) -> Tensor:
        """Return descriptors [B, C, h, w] of images [B, 3, H, W]: the features of all layers, in the finest's size."""
        finest, *coarser = self.network(images)
        size = finest.shape[2:]
        return torch.cat([finest, *(F.interpolate(f, size, mode="bilinear") for f in coarser)], 1)

    def score(self, images: Tensor) -> Scores:
        maps: dict[str, list[Tensor]] = {name: [] for name in self.classifiers}
        for some in one_by_one(images):
            described = self.describe(some)  # [1, C, h, w]
            vectors = self.projection(described.flatten(2).transpose(1, 2).flatten(0, 1))  # [h w, d]
            for name, classifier in self.classifiers.items():
                small = classifier(vectors).view(-1, 1, *described.shape[2:])
                maps[name].append(enlarged(small, self.network.reductions[0], (images.shape[2], images.shape[3])))
        scores = {name: Scores(each.amax((1, 2)), each) for name, found in maps.items() for each in [torch.cat(found)]}
        return scores[self.chosen]._replace(components=scores if len(scores) > 1 else None)

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return frozen_weight_files(values, fetch)

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.network.name, "backbone_sha256": self.network.sha256}


def enlarged(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return maps [B, 1, h, w] at full size [B, H, W], interpolated between positions `stride` pixels apart."""
    if tuple(maps.shape[2:]) == tuple(-(-side // stride) for side in size):
        return upsample(maps, stride, size)[:, 0]
    return F.interpolate(maps, size, mode="bilinear")[:, 0]  # a network that cuts the border off


class Projection(FittedBuffers):
    """PCA: the fewest leading directions that hold a share of the variance."""

    mean: Tensor
    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0))  # [C]
        self.register_buffer("basis", torch.empty(0, 0))  # [C, d]

    def fit(self, vectors: Tensor, variance: float) -> None:
        """Fit to vectors [n, C].  variance: the share to keep.  Raises UserError where all vectors are the same."""
        exact = vectors.double()
        mean = exact.mean(0)
        values, directions = torch.linalg.eigh((exact - mean).T @ (exact - mean) / len(exact))  # ascending
        kept = values.flip(0).clamp_min(0).cumsum(0)
        if not kept[-1] > torch.finfo(vectors.dtype).eps * mean.square().sum():
            raise UserError("dataset", "all descriptors of the normal training images are the same", "other images")
        d = min(int((kept < variance * kept[-1]).sum()) + 1, len(values))
        self.mean, self.basis = mean.to(vectors.dtype), directions.flip(1)[:, :d].to(vectors.dtype).contiguous()

    @in_float32
    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors [n, C] as [n, d]."""
        return (vectors - self.mean) @ self.basis


class NearestNeighbour(FittedBuffers):
    """1-NN: the Euclidean distance to the nearest of the stored vectors."""

    stored: Tensor

    def __init__(self, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("stored", torch.empty(0, 0))  # [neighbours, d]

    def fit(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Store `neighbours` of the vectors [n, d], which come in random order; all where there are fewer."""
        self.stored = vectors[: self.neighbours].clone()

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the distances [n] of vectors [n, d]."""
        return nearest(vectors, self.stored)[0]


class KMeans(FittedBuffers):
    """K-Means: the Euclidean distance to the nearest centre."""

    centres: Tensor

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.register_buffer("centres", torch.empty(0, 0))  # [K, d]

    def fit(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Fit to vectors [n, d].  Raises what `k_means` raises."""
        self.centres = k_means(vectors, self.clusters, generator)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the distances [n] of vectors [n, d]."""
        return nearest(vectors, self.centres)[0]


class Mixture(FittedBuffers):
    """A mixture of Gaussians with full covariances: the negative log-likelihood, in nats."""

    means: Tensor
    whitening: Tensor
    offsets: Tensor

    def __init__(self, clusters: int, ridge: float) -> None:
        super().__init__()
        self.clusters, self.ridge = clusters, ridge
        self.register_buffer("means", torch.empty(0, 0))  # [K, d]
        self.register_buffer("whitening", torch.empty(0, 0, 0))  # [K, d, d], W with W^T W = inverse covariance
        self.register_buffer("offsets", torch.empty(0))  # [K], log of weight |W| / (2 pi)^(d/2)

    def fit(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Fit to vectors [n, d] by expectation maximisation, started from K-Means.  Raises what `k_means` raises."""
        members = nearest(vectors, k_means(vectors, self.clusters, generator))[1]
        exact, before = vectors.double(), -torch.inf
        shares = F.one_hot(members, self.clusters).double()  # [n, K]
        for _ in range(ITERATIONS):
            self._maximise(exact, shares)
            logs = self._logs(exact)  # [n, K]
            mean = float(logs.logsumexp(1).mean())
            if mean - before < GAIN:
                break
            before, shares = mean, logs.softmax(1)
        self.to(vectors.dtype)

    def _maximise(self, vectors: Tensor, shares: Tensor) -> None:
        """Set the Gaussians from each vector's shares [n, K]."""
        counts = shares.sum(0).clamp_min(torch.finfo(shares.dtype).tiny)  # [K]
        self.means = shares.T @ vectors / counts[:, None]  # [K, d]
        floor = self.ridge * vectors.var(0, unbiased=False).mean() * torch.eye(vectors.shape[1]).to(vectors)
        whitening = []
        for k, mean in enumerate(self.means):
            apart = vectors - mean
            covariance = (shares[:, k, None] * apart).T @ apart / counts[k] + floor
            whitening.append(torch.linalg.inv(torch.linalg.cholesky(covariance)))
        self.whitening = torch.stack(whitening)
        logdet = self.whitening.diagonal(dim1=1, dim2=2).log().sum(1)  # [K]
        constant = vectors.shape[1] / 2 * torch.log(torch.tensor(2 * torch.pi, dtype=vectors.dtype))
        self.offsets = (counts / len(vectors)).log() + logdet - constant

    def _logs(self, vectors: Tensor) -> Tensor:
        """Return log of weight times density of each Gaussian [n, K]."""
        parts = zip(self.means, self.whitening, self.offsets, strict=True)
        return torch.stack([offset - ((vectors - m) @ W.T).pow(2).sum(1) / 2 for m, W, offset in parts], 1)

    @in_float32
    def forward(self, vectors: Tensor) -> Tensor:
        """Return the negative log-likelihoods [n] of vectors [n, d]."""
        return -self._logs(vectors).logsumexp(1)


class OneClassSVM(FittedBuffers):
    """A one-class SVM with a Gaussian kernel, fitted by scikit-learn; what scores is kept in buffers.

    nu: bound on the share of training vectors outside.  gamma: of the kernel; None: 1 / (d times the mean variance).
    """

    support: Tensor
    alphas: Tensor
    rho: Tensor
    width: Tensor

    def __init__(self, nu: float, gamma: float | None) -> None:
        super().__init__()
        self.nu, self.gamma = nu, gamma
        self.register_buffer("support", torch.empty(0, 0))  # [S, d]
        self.register_buffer("alphas", torch.empty(0))  # [S]
        self.register_buffer("rho", torch.zeros(()))
        self.register_buffer("width", torch.ones(()))  # gamma

    def fit(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Fit to vectors [n, d]."""
        from sklearn.svm import OneClassSVM as Solver

        width = self.gamma or 1 / float(vectors.shape[1] * vectors.var(unbiased=False))
        solved = Solver(kernel="rbf", nu=self.nu, gamma=width).fit(vectors.double().cpu().numpy())
        for name, value in {
            "support": solved.support_vectors_,
            "alphas": solved.dual_coef_[0],
            "rho": -solved.intercept_[0],
            "width": width,
        }.items():
            setattr(self, name, torch.as_tensor(value, dtype=vectors.dtype, device=vectors.device))

    @in_float32
    def forward(self, vectors: Tensor) -> Tensor:
        """Return how far beyond the boundary vectors [n, d] are: [n], negative inside."""
        kernels = (torch.exp(-self.width * torch.cdist(rows, self.support).pow(2)) for rows in blocks(vectors, ROWS))
        return self.rho - torch.cat([kernel @ self.alphas for kernel in kernels])


def drawn_rows(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of vectors [n, d] in random order; all where there are fewer."""
    return vectors[torch.randperm(len(vectors), generator=generator)[:count].to(vectors.device)]


def nearest(vectors: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of each of vectors [n, d] to the nearest of others [m, d], and that one's index: [n], [n]."""
    index = torch.cat([torch.cdist(rows, others).argmin(1) for rows in blocks(vectors, ROWS)])
    return (vectors - others[index]).norm(dim=1), index  # cdist subtracts squares, which is inexact


def k_means(vectors: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return K centres [K, d] of vectors [n, d], by Lloyd's iterations from the start of k-means++.

    Raises UserError for fewer vectors than clusters.
    """
    if len(vectors) < clusters:
        what = f"{clusters} given, but only {len(vectors)} vectors to cluster"
        raise UserError("method.clusters", what, f"at most {len(vectors)}, or more samples")
    centres = vectors[:1]  # they come in random order
    for _ in range(clusters - 1):
        squares = nearest(vectors, centres)[0].pow(2).cpu()
        weights = squares if bool(squares.any()) else torch.ones_like(squares)
        centres = torch.cat([centres, vectors[torch.multinomial(weights, 1, generator=generator).to(vectors.device)]])
    members = None
    for _ in range(ITERATIONS):
        found = nearest(vectors, centres)[1]
        if members is not None and torch.equal(found, members):
            break
        members = found
        counts = torch.bincount(members, minlength=clusters)[:, None]
        sums = torch.zeros_like(centres, dtype=torch.float64).index_add_(0, members, vectors.double())
        centres = torch.where(counts > 0, (sums / counts.clamp_min(1)).to(vectors.dtype), centres)
    return centres
