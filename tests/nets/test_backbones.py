from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import WEIGHTS_VARIABLE, Backbone, find_weights, timm_name

REAL_WEIGHTS = Path(os.environ.get(WEIGHTS_VARIABLE, ".")) / "resnet18.layer1-3.safetensors"


@pytest.fixture(autouse=True)
def no_folder_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A whole ResNet-18, layer4 and fc included: timm's and torchvision's keys are the same."""
    torch.manual_seed(7)
    net = timm.create_model("resnet18", pretrained=False)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    return net.state_dict()


def three_layers() -> Backbone:
    return Backbone("resnet18", (1, 2, 3))


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def pyramid(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """ResNet-18 layer by layer, the ImageNet normalisation written out."""
    net: Any = timm.create_model("resnet18", pretrained=False).eval()
    missing, _ = net.load_state_dict(state, strict=False)
    assert all(k.startswith(("layer4", "fc")) or k.endswith("num_batches_tracked") for k in missing)
    x = torch.stack([(x[:, c] - m) / s for c, (m, s) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])], 1)
    x = net.maxpool(net.bn1(net.conv1(x)).relu())
    features = []
    for layer in (net.layer1, net.layer2, net.layer3):
        x = layer(x)
        features.append(x)
    return features


def assert_features_of(backbone: Backbone, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for ours, plain in zip(backbone(images()), pyramid(state, images()), strict=True):
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "net.pt", "outer.pth"])
def test_files(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / name
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "epoch": 90} if name == "outer.pth" else state, file)
    backbone = three_layers()
    backbone.load(str(file))
    assert_features_of(backbone, state)
    assert backbone.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not any(k.startswith(("net.layer4", "net.fc")) for k in backbone.state_dict())


def test_counters_may_be_missing(state: dict[str, Tensor], tmp_path: Path) -> None:  # as in torchvision's first files
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    backbone = three_layers()
    backbone.load(str(tmp_path / "old.pth"))
    assert_features_of(backbone, state)


def test_missing_key_and_wrong_shape(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    torch.save({k: v for k, v in state.items() if k not in ("layer3.0.conv1.weight", "layer3.0.bn1.bias")}, file)
    with pytest.raises(UserError, match=r"method.weights: .*net.pth .*resnet18.tv_in1k: 2 keys .*'layer3.0.bn1.bias'"):
        three_layers().load(str(file))
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, file)
    with pytest.raises(UserError, match=r"net.pth .*'conv1.weight' has shape \[64, 1, 7, 7\], needed \[64, 3, 7, 7\]"):
        three_layers().load(str(file))


def test_a_refused_file_changes_nothing(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**state, "layer3.0.conv1.weight": torch.zeros(1)}, tmp_path / "net.pth")
    backbone = three_layers()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(UserError):
        backbone.load(str(tmp_path / "net.pth"))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off"])
def test_unreadable_file(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"method.weights: .*{name} cannot be read as weights"):
        three_layers().load(str(tmp_path / name))


def test_no_state_dict_and_no_file(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net.pth cannot be read as weights"):
        three_layers().load(str(tmp_path / "net.pth"))
    with pytest.raises(UserError, match=r"method.weights: no such file: .*gone.pth"):
        three_layers().load(str(tmp_path / "gone.pth"))


# The folder of weights


@pytest.mark.parametrize("name", ["resnet18.pth", "resnet18-f37072fd.pth", "resnet18.layer1-3.safetensors"])
def test_one_candidate(name: str, folder: Path) -> None:
    for other in (name, "resnet18.txt", "wide_resnet50_2.pth", "resnet180.pth", "resnet34-b627a593.pth"):
        (folder / other).touch()
    assert find_weights("resnet18.tv_in1k", None) == folder / name


def test_several_candidates(folder: Path) -> None:
    for name in ("resnet18.pth", "resnet18-f37072fd.pth"):
        (folder / name).touch()
    message = r"several files .*resnet18.tv_in1k: resnet18-f37072fd.pth, resnet18.pth \(name one: method.weights=FILE\)"
    with pytest.raises(UserError, match=message):
        find_weights("resnet18.tv_in1k", None)
    (folder / "resnet18.tv_in1k.safetensors").touch()  # the whole name, tag included, decides
    assert find_weights("resnet18.tv_in1k", None) == folder / "resnet18.tv_in1k.safetensors"
    assert find_weights("resnet18.tv_in1k", str(folder / "resnet18.pth")) == folder / "resnet18.pth"


def test_a_file_of_another_training_is_no_candidate(folder: Path) -> None:
    (folder / "resnet18.a1_in1k.safetensors").touch()
    assert find_weights("resnet18.tv_in1k", None) is None
    assert find_weights("resnet18.a1_in1k", None) == folder / "resnet18.a1_in1k.safetensors"


def test_found_in_the_folder(state: dict[str, Tensor], folder: Path) -> None:
    save_file(state, folder / "resnet18.safetensors")
    backbone = three_layers()
    backbone.load(None)
    assert_features_of(backbone, state)


# The hub, without a network: its cache is a folder

SCRIPT = """
import pathlib, socket, sys
def refuse(*_): sys.exit("tried the network")
socket.socket.connect = socket.getaddrinfo = refuse
from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import Backbone
backbone, (filled, hub) = Backbone("resnet18", (1, 2, 3)), sys.argv[1:]
try:
    backbone.load(None)
except UserError as error:
    print(error)
pathlib.Path(filled).rename(hub)
backbone.load(None)
print(backbone.sha256, float(backbone.net.state_dict()["layer3.1.bn2.running_mean"].double().sum()))
"""


def test_no_weights_anywhere_and_then_from_the_hubs_cache(state: dict[str, Tensor], tmp_path: Path) -> None:
    repository, revision = tmp_path / "filled" / "models--timm--resnet18.tv_in1k", "0" * 40
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    save_file(state, snapshot / "model.safetensors")
    expected = hashlib.sha256((snapshot / "model.safetensors").read_bytes()).hexdigest()
    home = tmp_path / "home"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if k != WEIGHTS_VARIABLE and not k.startswith("HF_")}
    env |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TORCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "filled"), str(home / "hub")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, loaded = done.stdout.splitlines()
    assert said.startswith("method.weights: no ImageNet weights for resnet18.tv_in1k")
    for way in ("network access", "method.weights=FILE", "resnet18.* in $ANOMALY_BENCH_WEIGHTS"):
        assert way in said
    sha256, total = loaded.split()
    assert sha256 == expected
    assert float(total) == float(state["layer3.1.bn2.running_mean"].double().sum())


def test_names() -> None:
    assert timm_name("wide_resnet50_2") == "wide_resnet50_2.tv_in1k"  # timm's own default is another training
    assert timm_name("resnet18.a1_in1k") == "resnet18.a1_in1k"
    with pytest.raises(UserError, match=r"timm has no network 'resnet81' \(did you mean 'resnet18'\?\)"):
        timm_name("resnet81")
    with pytest.raises(UserError, match=r"no network 'resnet18.tv' with that tag; its tags: .*resnet18.tv_in1k"):
        timm_name("resnet18.tv")


def test_normalisation_is_the_tags() -> None:
    imagenet, halves = Backbone("resnet34", (1,)), Backbone("resnet34.ra4_e3600_r224_in1k", (1,))
    assert imagenet.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert imagenet.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert {*halves.mean.flatten().tolist(), *halves.std.flatten().tolist()} == {0.5}
    halves.net.load_state_dict(imagenet.net.state_dict())
    same = halves((images() - imagenet.mean) / imagenet.std * 0.5 + 0.5)[0]  # undoes the one, then the other is done
    torch.testing.assert_close(same, imagenet(images())[0], rtol=0, atol=1e-5)


def test_frozen(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    backbone = three_layers()
    outer = nn.Sequential(backbone)
    backbone.load(str(tmp_path / "net.safetensors"))
    assert outer.train().training
    assert not any(m.training for m in backbone.modules())
    features = outer(images().requires_grad_())
    assert not any(f.requires_grad for f in features)
    assert [tuple(f.shape) for f in features] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    assert (backbone.channels, backbone.reductions) == ([64, 128, 256], [4, 8, 16])
    assert not any(p.requires_grad for p in backbone.parameters())
    assert_features_of(backbone, state)  # batch norms did not follow the batch


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_WEIGHTS.is_file(), reason="needs resnet18.layer1-3.safetensors in $ANOMALY_BENCH_WEIGHTS")
def test_real_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(REAL_WEIGHTS.parent))
    backbone = three_layers()
    backbone.load(None)
    assert_features_of(backbone, load_file(REAL_WEIGHTS))
    assert backbone.sha256 == hashlib.sha256(REAL_WEIGHTS.read_bytes()).hexdigest()
