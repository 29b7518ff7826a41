"""The shallow baselines against their definitions, and what they keep, draw and refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import QUICK
from torch import Tensor

from anomaly_bench import load
from anomaly_bench.commands.main import main
from anomaly_bench.config import build, compose, validate
from anomaly_bench.errors import UserError
from anomaly_bench.methods import us_shallow
from anomaly_bench.methods.us_shallow import (
    KMeans,
    Mixture,
    NearestNeighbour,
    OneClassSVM,
    Projection,
    UsShallow,
    enlarged,
    k_means,
    nearest,
)
from anomaly_bench.runs.folder import find
from tests.references import us_shallow as slow

EVERY = "method.classifiers=[nn,kmeans,gmm,ocsvm]"
SMALL = ("method.image_size=32", "method.weights=random", "method.clusters=3", "method.samples=120")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def method(*overrides: str) -> UsShallow:
    cfg = validate(compose(["method=us_shallow", "dataset=mtd", *SMALL, *overrides])).method
    return build("method", cfg).eval()  # type: ignore[no-any-return]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(n: int, d: int = 4, seed: int = 0) -> Tensor:
    """Vectors [n, d] around three points, in random order."""
    generator = draw(seed)
    centres = 6 * torch.randn(3, d, generator=generator)
    return centres[torch.randint(3, (n,), generator=generator)] + torch.randn(n, d, generator=generator)


def pictures(n: int, seed: int, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=draw(seed))


def fitted(*overrides: str, images: Tensor | None = None) -> UsShallow:
    built = method(*overrides)
    built.network.load("random")  # always the same
    torch.manual_seed(0)
    images = pictures(4, 0) if images is None else images
    built.fit([{"image": batch, "path": []} for batch in images.split(3)], len(images))
    return built


@pytest.mark.parametrize("variance", [0.5, 0.95, 1.0])
def test_projection_is_the_svd_of_the_centred_vectors(variance: float) -> None:
    vectors, new = clouds(60, 6) + 5, clouds(7, 6, seed=1)
    projection = Projection()
    projection.fit(vectors, variance)
    mean, directions = slow.pca(vectors.double().numpy(), variance)
    assert projection.basis.shape == directions.shape
    expected = (new.double().numpy() - mean) @ directions
    found = projection(new).numpy()
    signs = np.sign((found * expected).sum(0))  # a direction's sign is nobody's choice
    np.testing.assert_allclose(found * signs, expected, **CLOSE)


def test_distances_are_to_the_nearest_of_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(us_shallow, "ROWS", 3)
    vectors, new = clouds(50), clouds(8, seed=1)
    few, every = NearestNeighbour(20), NearestNeighbour(1000)
    for classifier in (few, every):
        classifier.fit(vectors, draw())
    for classifier, n in ((few, 20), (every, 50)):
        np.testing.assert_allclose(classifier(new).numpy(), slow.nearest(new.numpy(), vectors[:n].numpy()), **CLOSE)
    far = vectors + 1000  # where the difference of squares has no digit left
    assert nearest(far[:5], far)[0].tolist() == [0.0] * 5


def test_k_means_ends_where_lloyds_steps_stand_still() -> None:
    vectors, new = clouds(80), clouds(6, seed=1)
    classifier = KMeans(3)
    classifier.fit(vectors, draw())
    once_more = slow.lloyd(vectors.double().numpy(), classifier.centres.numpy(), 1)
    np.testing.assert_allclose(once_more, classifier.centres.numpy(), **CLOSE)
    np.testing.assert_allclose(classifier(new).numpy(), slow.nearest(new.numpy(), classifier.centres.numpy()), **CLOSE)
    assert float(classifier(vectors).square().mean()) < 6  # one centre a cloud: four dimensions of variance 1
    assert torch.equal(k_means(vectors, 3, draw(5)), k_means(vectors, 3, draw(5)))


def test_k_means_takes_as_many_steps_as_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(us_shallow, "ITERATIONS", 0)
    vectors = torch.rand(60, 2, generator=draw())
    start = k_means(vectors, 4, draw())
    monkeypatch.setattr(us_shallow, "ITERATIONS", 3)
    expected = slow.lloyd(vectors.double().numpy(), start.double().numpy(), 3)
    assert not np.allclose(slow.lloyd(expected, expected, 1), start)
    np.testing.assert_allclose(k_means(vectors, 4, draw()).numpy(), expected, **CLOSE)


def test_k_means_of_equal_vectors_has_equal_centres() -> None:
    assert torch.equal(k_means(torch.ones(9, 2), 3, draw()), torch.ones(3, 2))


def test_mixture_takes_em_steps_and_scores_by_its_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(us_shallow, "ITERATIONS", 2)
    monkeypatch.setattr(us_shallow, "GAIN", -1.0)
    vectors, new = torch.randn(70, 3, generator=draw()), torch.randn(9, 3, generator=draw(1))
    classifier = Mixture(3, 0.01)
    classifier.fit(vectors, draw())
    exact = vectors.double().numpy()
    members = nearest(vectors, k_means(vectors, 3, draw()))[1].numpy()
    weights, means, covariances = slow.maximise(exact, np.eye(3)[members], 0.01)
    parts = [slow.mixture(exact, weights[[k]], means[[k]], covariances[[k]]) for k in range(3)]
    logs = -np.stack(parts, 1)
    shares = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    expected = slow.mixture(new.double().numpy(), *slow.maximise(exact, shares, 0.01))
    np.testing.assert_allclose(classifier(new).numpy(), expected, **CLOSE)
    assert classifier(new).dtype == torch.float32


def test_mixture_ends_once_the_likelihood_rests() -> None:
    vectors = clouds(300)
    classifier = Mixture(3, 1e-6)
    classifier.fit(vectors, draw())
    from sklearn.mixture import GaussianMixture

    peer = GaussianMixture(3, random_state=0, n_init=3).fit(vectors.double().numpy())
    assert float(-classifier(vectors).mean()) == pytest.approx(peer.score(vectors.double().numpy()), abs=0.01)


def test_a_mixture_of_equal_vectors_is_finite() -> None:
    classifier = Mixture(2, 0.001)
    classifier.fit(torch.cat([torch.zeros(8, 2), torch.ones(1, 2)]), draw())
    assert bool(classifier(torch.rand(5, 2)).isfinite().all())


@pytest.mark.parametrize("gamma", [None, 0.05])
def test_one_class_svm_scores_without_scikit_learn_as_it_does(gamma: float | None, monkeypatch: Any) -> None:
    from sklearn.svm import OneClassSVM as Peer

    monkeypatch.setattr(us_shallow, "ROWS", 4)
    vectors, new = clouds(90), clouds(10, seed=1)
    classifier = OneClassSVM(0.3, gamma)
    classifier.fit(vectors, draw())
    peer = Peer(kernel="rbf", nu=0.3, gamma=gamma or "scale").fit(vectors.double().numpy())
    np.testing.assert_allclose(classifier(new).numpy(), -peer.decision_function(new.double().numpy()), **CLOSE)
    stored = [classifier.support.numpy(), classifier.alphas.numpy(), float(classifier.rho), float(classifier.width)]
    np.testing.assert_allclose(classifier(new).numpy(), slow.one_class(new.numpy(), *stored), **CLOSE)  # type: ignore[arg-type]


def test_scores_are_those_of_each_descriptor() -> None:
    shallow, images = fitted(EVERY, "method.score=kmeans"), pictures(2, 7)
    scores = shallow.score(images)
    assert scores.components is not None
    assert list(scores.components) == ["nn", "kmeans", "gmm", "ocsvm"]
    assert torch.equal(scores.map, scores.components["kmeans"].map)  # type: ignore[arg-type]
    stored = {key: value.double().numpy() for key, value in shallow.classifiers.state_dict().items()}
    mean, basis = (v.double().numpy() for v in (shallow.projection.mean, shallow.projection.basis))
    for i, image in enumerate(images):
        described = shallow.network(image[None])[0][0].double().numpy()  # [C, 8, 8]
        vectors = (described.reshape(len(described), -1).T - mean) @ basis
        expected = {
            "nn": slow.nearest(vectors, stored["nn.stored"]),
            "kmeans": slow.nearest(vectors, stored["kmeans.centres"]),
            "ocsvm": slow.one_class(vectors, *(stored[f"ocsvm.{k}"] for k in ("support", "alphas", "rho", "width"))),
        }
        for name, values in expected.items():
            found = scores.components[name]
            at_positions = found.map[i, ::4, ::4].numpy()  # type: ignore[index]
            np.testing.assert_allclose(at_positions, values.reshape(8, 8), rtol=1e-5, atol=1e-5 * np.abs(values).max())
            assert float(found.image[i]) == pytest.approx(values.max(), rel=1e-5)


def test_vectors_come_from_every_image_and_no_more_than_samples() -> None:
    class Numbered(us_shallow.Projection):
        seen: Tensor

        def fit(self, vectors: Tensor, variance: float) -> None:
            self.seen = vectors
            super().fit(vectors, variance)

    shallow = method("method.samples=30", "method.classifiers=[nn]")
    shallow.projection = Numbered()
    images = pictures(4, 0)
    shallow.fit([{"image": batch, "path": []} for batch in images.split(3)], len(images))
    own = [shallow.describe(image[None])[0].flatten(1).T for image in images]  # [64, 128] each
    counts = [sum(bool((vectors == row).all(1).any()) for row in shallow.projection.seen) for vectors in own]
    assert sum(counts) == 30
    assert min(counts) >= 30 - 3 * 8  # at most ceil(30 / 4) of each
    assert len({tuple(row.tolist()) for row in shallow.projection.seen}) == 30


def test_the_seed_decides_what_is_drawn() -> None:
    one, again = fitted(), fitted()
    assert torch.equal(one.classifiers["nn"].stored, again.classifiers["nn"].stored)  # type: ignore[arg-type]
    torch.manual_seed(1)
    again.fit([{"image": pictures(4, 0), "path": []}], 4)
    assert not torch.equal(one.classifiers["nn"].stored, again.classifiers["nn"].stored)  # type: ignore[arg-type]


def test_a_classifier_is_the_same_whichever_others_there_are() -> None:
    alone, among = fitted("method.classifiers=[gmm]", "method.score=gmm"), fitted("method.score=gmm")
    assert torch.equal(alone.score(pictures(2, 1)).image, among.score(pictures(2, 1)).image)
    assert alone.score(pictures(1, 1)).components is None  # it would be the scores themselves


def test_layers_of_other_sizes_stand_side_by_side() -> None:
    shallow = fitted("method.backbone=resnet18", "method.layers=[1,3]", images=pictures(3, 0, 50))
    described, scores = shallow.describe(pictures(1, 0, 50)), shallow.score(pictures(2, 1, 50))
    assert described.shape == (1, 64 + 256, 13, 13)
    assert torch.equal(described[:, :64], shallow.network(pictures(1, 0, 50))[0])
    assert scores.map is not None
    assert scores.map.shape == (2, 50, 50)


def test_maps_are_enlarged_between_their_positions() -> None:
    ramp = torch.arange(13.0).expand(1, 1, 13, 13)
    assert torch.allclose(enlarged(ramp, 4, (50, 50))[0, 7, :49], torch.arange(49.0) / 4)
    assert enlarged(ramp[..., :12, :12], 4, (50, 50)).shape == (1, 50, 50)  # of a network that cuts the border off


def test_what_cannot_be_fitted_is_named() -> None:
    with pytest.raises(UserError, match=r"method.clusters: 500 given, of 120 vectors"):
        method("method.clusters=500")
    with pytest.raises(UserError, match=r"method.clusters: 500 given, but only 256 vectors"):
        fitted("method.clusters=500", "method.samples=1000")  # four images of 64 positions
    with pytest.raises(UserError, match=r"descriptors of the normal training images are the same"):
        Projection().fit(torch.full((9, 3), 1e4), 0.95)
    with pytest.raises(UserError, match=r"method.score: ocsvm given, .* one of them"):
        method("method.score=ocsvm")
    with pytest.raises(UserError, match=r"each of them once"):
        method("method.classifiers=[nn,nn]")


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(us_shallow, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'anomaly_bench[shallow]'")):
        list(method(EVERY).stages(None))  # type: ignore[arg-type]
    loaded = method(EVERY)
    loaded.load_state_dict(fitted(EVERY).state_dict())
    assert loaded.score(pictures(1, 0)).components is not None  # a finished run needs none


def test_a_run_measures_each_classifier_alone(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    words = ["method=us_shallow", *SMALL, EVERY, "dataset=folder", f"dataset.root={images}", "hardware=cpu"]
    assert main(["train", *words, *QUICK]) == 0
    (folder,) = find("outputs")
    assert set(folder.manifest["parts"]) == {"nn", "kmeans", "gmm", "ocsvm"}
    assert folder.manifest["parts"]["nn"]["image_auroc"] == folder.metrics["image_auroc"]
    assert folder.manifest["provenance"] == {"backbone": "p33", "backbone_sha256": "random"}
    results = load(folder.path).predict([images / row.path for row in folder.scores])
    assert [result.score for result in results] == [row.score for row in folder.scores]
