"""PatchCore: Towards Total Recall in Industrial Anomaly Detection (Roth et al., CVPR 2022, arXiv 2106.08265).

A memory bank M holds features of patches of the normal images, thinned out to a coreset.  How far a test image's patch
is away from the nearest one in the bank is its anomaly score.
"code" is github.com/amazon-science/patchcore-inspection at commit fcaa92f, the source of the published numbers.

    patch: the 3 x 3 neighbourhood of a position in two layers, averaged to fixed lengths            (eq. 1, 2)
    coreset: the patch farthest from all chosen ones is chosen next, in a random projection             (eq. 5)
    score of a patch = |m_test - m*|, m* its nearest one in M; of an image the largest, s*              (eq. 6)
    reweight: (1 - exp |m_test - m*| / sum over the b nearest m of m* in M of exp |m_test - m|) s*      (eq. 7)

As in the code: averages run over the values of a whole 3 x 3 x C neighbourhood in the order of its channels, so that
`layer_dimensions` numbers remain of each layer, then over all layers, so that `dimensions` remain; the first distance
of a patch is the mean one to ten random patches; scores are squared distances, as its search gives; no eq. 7.

Memory: the patches are seen twice.  First each one's projection is kept, from which the coreset is chosen, then the
chosen features.  Neither takes more than `memory_mib`: where the projections of all patches would, a random part of
them can be chosen; where the coreset would, it is smaller.

Deviation: the whole image is resized to `image_size`; paper and code resize to 256 pixels and crop the central 224.
Deviation: a patch is chosen once; the code can choose one again where all others are copies of chosen ones.
Deviation: the code searches with faiss, here it is a matrix product in blocks; both are exact.
Unknown: b of eq. 7, which the code does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from anomaly_bench.config.ranges import BatchSize, Count, ImageSize, Positive, Width
from anomaly_bench.console import track
from anomaly_bench.contracts import COMPUTED, Method, NormalBatch, NormalData, Scores, Stage, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.nets.blocks import blocks
from anomaly_bench.nets.fitted_buffers import FittedBuffers
from anomaly_bench.nets.frozen import Layers, frozen_network, frozen_weight_files
from anomaly_bench.nets.gaussian import gaussian
from anomaly_bench.nets.patch_averages import PatchAverages
from anomaly_bench.nets.precision import in_float32

BLOCK = 2**23  # distances that are held at once, 32 MiB
POOL = 1024  # patches among which the next ones of the coreset are looked for together
log = logging.getLogger("anomaly_bench")


class PatchCore(FittedBuffers, Method):
    """A memory bank of normal patches, whose features come from a frozen network; nothing is trained.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.backbone=p33", "method.layers=[1]", "method.weights=random", "method.image_size=32"]
    >>> method = build("method", validate(compose(["method=patchcore", "dataset=mtd", *small])).method)
    >>> method.fit([{"image": torch.rand(4, 3, 32, 32)} for _ in range(5)], images=20)
    >>> method.bank.shape  # 1 % of 20 images with 8 x 8 patches each
    torch.Size([12, 1024])
    >>> method.score(torch.rand(2, 3, 32, 32)).map.shape
    torch.Size([2, 32, 32])
    """

    result_state = COMPUTED
    bank: Tensor  # M [n, D]

    def __init__(
        self,
        backbone: str,
        weights: str | None,
        layers: Layers,
        image_size: ImageSize,
        batch_size: BatchSize,
        neighbourhood: Literal[1, 3, 5, 7, 9],
        layer_dimensions: Width,
        dimensions: Width,
        coreset_share: Annotated[float, Field(gt=0, le=1)],
        projection: Width,
        starting_points: Count,
        memory_mib: Positive,
        distance: Literal["squared", "euclidean"],
        reweight: bool,
        neighbours: Annotated[int, Field(ge=2, le=1024)],
        sigma: Positive,
    ) -> None:
        super().__init__()
        self.weights, self.image_size, self.batch_size = weights, image_size, batch_size
        self.dimensions, self.coreset_share = dimensions, coreset_share
        self.projection, self.starting_points = projection, starting_points
        self.memory, self.distance, self.sigma = int(memory_mib * 2**20), distance, sigma
        self.reweight, self.neighbours = reweight, neighbours
        self.backbone = frozen_network(backbone, layers)
        self.register_buffer("bank", torch.empty(0, dimensions))
        self.averages = PatchAverages(self.backbone.channels, neighbourhood, layer_dimensions, dimensions)

    def stages(self, data: NormalData) -> Iterator[Stage]:
        """Fill the memory bank and yield nothing: there is nothing to train."""
        self.backbone.load(self.weights)
        loader = data.loader("train", self.batch_size)
        self.fit(loader, len(loader.dataset))  # type: ignore[arg-type]
        yield from ()

    @torch.no_grad()
    def fit(self, batches: Iterable[NormalBatch], images: int) -> None:
        """Fill the bank from batches of images, which are gone through twice.  images: how many they are.

        Raises UserError where `memory_mib` holds no bank.
        """
        draw = torch.Generator().manual_seed(torch.initial_seed())  # the run's, whatever was drawn before
        positions = self.backbone(self.bank.new_zeros(1, 3, *as_size(self.image_size)))[0][0, 0].numel()
        least = self.neighbours if self.reweight else 1
        width = min(self.projection, self.dimensions)  # nothing is projected to more numbers than it has
        sizes = coreset_sizes(images * positions, self.coreset_share, self.dimensions, width, self.memory, least)
        directions = 2 * torch.rand(self.dimensions, width, generator=draw) - 1  # their length does not matter
        project = directions.to(self.bank) if width < self.dimensions else None
        candidates = torch.randperm(sizes.patches, generator=draw)[: sizes.candidates].sort().values
        starts = torch.randperm(sizes.candidates, generator=draw)[: self.starting_points]
        projected = self._rows(batches, candidates, project)
        chosen = candidates[greedy_coreset(projected, sizes.bank, starts).cpu()].sort().values
        del projected
        self.bank = self._rows(batches, chosen, None)
        log.info(
            "the bank holds %d of %d patches, chosen among %d of them", sizes.bank, sizes.patches, sizes.candidates
        )

    def _rows(self, batches: Iterable[NormalBatch], wanted: Tensor, project: Tensor | None) -> Tensor:
        """Return the features of the patches of these numbers, projected: [n, D].  wanted: [n], ascending."""
        rows = self.bank.new_empty(len(wanted), self.dimensions if project is None else project.shape[1])
        first = done = 0
        for batch in track(batches, "features of patches"):
            x = self.embed(batch["image"].to(rows.device)).flatten(0, 1)  # [B P, D]
            end = int(torch.searchsorted(wanted, first + len(x)))
            kept = x[(wanted[done:end] - first).to(x.device)]
            rows[done:end] = kept if project is None else kept @ project
            first, done = first + len(x), end
        return rows

    def embed(self, images: Tensor) -> Tensor:
        """Return the patch features of images [B, 3, H, W] in [0, 1]: [B, patches, D], row by row."""
        return patches_of(self.averages(self.backbone(images)))

    def score(self, images: Tensor) -> Scores:
        """Return the scores of images [B, 3, H, W] in [0, 1]."""
        features = self.averages(self.backbone(images))  # [B, D, h, w]
        x = patches_of(features)  # [B, P, D]
        squares, nearest = (t.view(x.shape[:2]) for t in nearest_neighbours(x.flatten(0, 1), self.bank))  # [B, P]
        patches = squares if self.distance == "squared" else squares.sqrt()
        scores, worst = patches.max(1)  # [B]
        if self.reweight:
            each = torch.arange(x.shape[0], device=x.device)
            scores = scores * self._weights(x[each, worst], nearest[each, worst])
        maps = patches.view(-1, 1, *features.shape[2:])
        maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]  # [B, H, W]
        return Scores(image=scores, map=gaussian(maps, self.sigma))

    @in_float32
    def _weights(self, m_test: Tensor, nearest: Tensor) -> Tensor:
        """Return eq. 7's factor [B] of the patches [B, D] with the largest scores.  nearest: m* in the bank, [B]."""
        m_star = self.bank[nearest]
        if torch.compiler.is_compiling():  # cdist chooses its way by the number of rows, which is open in a graph
            apart = _squared_distances(m_star, _squares(m_star), self.bank)
        else:
            apart = torch.cdist(m_star, self.bank)
        around = apart.topk(self.neighbours, largest=False).indices  # N_b(m*), with m* itself
        distances = (m_test[:, None] - self.bank[around]).norm(dim=2)  # [B, b]
        return 1 - ((m_test - m_star).norm(dim=1) - distances.logsumexp(1)).exp()

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return frozen_weight_files(values, fetch)

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.backbone.name, "backbone_sha256": self.backbone.sha256}


def patches_of(features: Tensor) -> Tensor:
    """Return features [B, D, h, w] as [B, h w, D], row by row."""
    return features.flatten(2).transpose(1, 2).contiguous()


class CoresetSizes(NamedTuple):
    """How many patches there are, how many of them can be chosen, and how many are."""

    candidates: int
    patches: int
    bank: int


def coreset_sizes(patches: int, share: float, dimensions: int, projected: int, memory: int, least: int) -> CoresetSizes:
    """Return the share of the patches, or what the memory holds of it where that is less.

    dimensions, projected: numbers of a patch in the bank, and while the coreset is chosen.  memory: bytes for either.
    least: patches that a bank needs.  Raises UserError where it would have fewer.
    """
    room, wanted = memory // (4 * dimensions), max(1, int(share * patches))
    candidates = min(patches, memory // (4 * projected + 32))  # with their squares, distances and numbers
    if min(room, candidates) < min(least, wanted):
        what = f"{memory} bytes hold {min(room, candidates)} patches of {dimensions} numbers, needed: {least}"
        whole = -(-max(4 * dimensions, 4 * projected + 32) * wanted // 2**20)
        raise UserError("method.memory_mib", what, f"{whole} MiB hold the coreset of {wanted} patches")
    if wanted < least:
        what = f"{share:g} of {patches} patches is {wanted}; {least} are needed, method.neighbours"
        raise UserError("method.coreset_share", what, f"at least {least / patches + 0.0005:.3f}")
    if (bank := min(wanted, room, candidates)) < wanted:
        log.warning("the coreset has %d patches, %d is the share: method.memory_mib holds no more", bank, wanted)
    return CoresetSizes(candidates, patches, bank)


def greedy_coreset(points: Tensor, count: int, starts: Tensor) -> Tensor:
    """Return the numbers of `count` of the points [N, d]: each the farthest from those chosen before, each only once.

    starts: numbers of points, the mean distance to which is each point's distance at first.

    A distance never grows.  So what is the farthest of a POOL of the farthest points remains the farthest of all while
    it is as far as the nearest of the pool was; until then the others need not be looked at, and then all that was
    chosen is looked at together, in one matrix product.
    """
    squares = _squares(points)
    nearest = torch.zeros_like(squares)
    for start in starts.split(1):
        nearest += _squared_distances(points, squares, points[start])[:, 0].sqrt() / len(starts)
    nearest.pow_(2)  # [N], from here on the squared distance from the nearest chosen one
    chosen: list[Tensor] = []
    missing = count
    while missing:
        far, pool = nearest.topk(min(POOL, len(points)))
        between = _squared_distances(points[pool], squares[pool], points[pool]).cpu()
        far = far.cpu()  # on a GPU the host would wait for each patch that is chosen
        bound = float(far[-1]) if len(pool) < len(points) else -1.0
        picked: list[int] = []
        while len(picked) < missing:
            value, best = far.max(0)
            if picked and float(value) < bound:
                break
            picked.append(int(best))
            far = torch.minimum(far, between[best])
            far[picked] = -1.0
        chosen.append(pool[picked])
        missing -= len(picked)
        for rows in torch.arange(len(points), device=points.device).split(max(1, BLOCK // len(picked))):
            block = slice(int(rows[0]), int(rows[-1]) + 1)
            distances = _squared_distances(points[block], squares[block], points[chosen[-1]]).amin(1)
            nearest[block] = torch.minimum(nearest[block], distances)
        nearest[chosen[-1]] = -1.0
    return torch.cat(chosen)


@in_float32
def nearest_neighbours(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distance [Q] of queries [Q, D] from the nearest row of the bank [n, D], and its number [Q].

    Exact up to rounding: found by |q|^2 - 2 qm + |m|^2 in blocks, and computed once more as |q - m|^2.
    """
    squares = _squares(bank)
    some = blocks(queries, max(1, BLOCK // len(bank)))
    nearest = torch.cat([torch.addmm(squares, q, bank.T, alpha=-2).argmin(1) for q in some])  # |q|^2 matters to none
    return (queries - bank[nearest]).pow(2).sum(1), nearest


def _squared_distances(points: Tensor, squares: Tensor, others: Tensor) -> Tensor:
    """Return |p - o|^2 of points [N, d], whose squared lengths are given, and others [M, d]: [N, M]."""
    products = torch.addmm(_squares(others), points, others.T, alpha=-2)
    return products.add_(squares[:, None]).clamp_min_(0)


def _squares(rows: Tensor) -> Tensor:
    """Return |r|^2 of each row [N], without the memory of a second matrix."""
    return torch.linalg.vector_norm(rows, dim=1).pow_(2)
