"""Where weights are found, what is said where they are not, and what is never read."""

import pickle

import pytest
import torch

from labeling.tagger import TaggerError
from labeling.weights import Models, read_tensors

HUB = "https://huggingface.co/timm/vit_large_patch14_clip_224.openai"
PAGE = "https://example.org/how-to-get-it"
FILE = "https://example.org/weights/head.pth"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub and of torch."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    """Every way out is an error that the test sees."""

    def refuse(*args, **kwargs):
        raise AssertionError("a file was fetched")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


def test_the_folder_comes_before_the_caches(caches, no_network):
    models, cached = caches / "models", caches / "torch/checkpoints/head.pth"
    for path in (models / "sub/head.pth", cached):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    assert Models(str(models)).file("sub/head.pth", FILE) == models / "sub/head.pth"
    assert Models(str(models)).file("head.pth", FILE) == cached, "only the very path below the folder is meant"
    assert Models().file("head.pth", FILE) == cached
    assert Models().find("head.pth", PAGE) is None, "a page has no cached file"


def test_a_file_of_the_hub_cache_is_found_without_the_network(caches, no_network):
    kept = caches / "hub/models--timm--vit_large_patch14_clip_224.openai"
    (kept / "snapshots/abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text("abc")
    (kept / "snapshots/abc/open_clip_model.safetensors").write_bytes(b"x")
    assert Models().file("any/open_clip_model.safetensors", HUB) == kept / "snapshots/abc/open_clip_model.safetensors"
    assert Models().find("any/open_clip_pytorch_model.bin", HUB) is None


@pytest.mark.parametrize(("source", "can_fetch"), [(HUB, True), (FILE, True), (PAGE, False)])
def test_a_missing_file_is_one_line_that_says_what_to_do(source, can_fetch, caches, no_network):
    with pytest.raises(TaggerError) as caught:
        Models(str(caches)).file("head.pth", source)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("head.pth", source, "--models DIR", str(caches)))
    assert ("--allow-download" in message) == can_fetch


def test_a_page_is_not_fetched_though_it_is_allowed(no_network):
    with pytest.raises(TaggerError, match="--models DIR"):
        Models(allow_download=True).file("head.pth", PAGE)


def test_what_is_allowed_is_fetched_once_and_whole(caches, monkeypatch):
    """torch's real download, over file:// in place of https://, since tests have no network."""
    original = caches / "head.pth"
    original.write_bytes(b"weights")
    models = Models(allow_download=True)
    path = models.file("head.pth", original.as_uri())
    assert path == caches / "torch/checkpoints/head.pth" and path.read_bytes() == b"weights"
    original.unlink()
    assert models.file("head.pth", original.as_uri()) == path
    assert Models().find("head.pth", original.as_uri()) == path
    assert [one.name for one in path.parent.iterdir()] == ["head.pth"]


def test_a_failed_download_is_one_line_and_leaves_nothing(caches):
    source = (caches / "nowhere/head.pth").as_uri()
    with pytest.raises(TaggerError, match="could not be fetched from file:") as caught:
        Models(allow_download=True).file("head.pth", source)
    assert "\n" not in str(caught.value)
    assert not list((caches / "torch/checkpoints").iterdir())


class _Harmful:
    def __reduce__(self):
        return eval, ("(_ for _ in ()).throw(SystemExit('a pickle ran code'))",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_only_tensors_are_read(tmp_path):
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "good.pth")
    assert torch.equal(read_tensors(tmp_path / "good.pth")["weight"], torch.ones(2, 3))
    torch.save({"weight": _Harmful()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Harmful()))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:300])
    for bad in ("zip.pth", "plain.pth", "cut.pth"):
        with pytest.raises(TaggerError, match=f"{bad} is refused"):
            read_tensors(tmp_path / bad)
