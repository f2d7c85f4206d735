"""CLIP embeddings and what is told from them. LAION's heads are the real ones; CLIP is a small random one of the real architecture."""

import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from curation.frames import decode, open_media, rgb, video_stream
from labeling.embeddings import DEFAULT_CLIP, ClipEmbedder
from labeling.tagger import ClipView, Keyframe, TaggerError
from labeling.taggers.clip import (
    ClipTagger,
    ImprovedAestheticTagger,
    ZeroShotClasses,
    caption_similarity,
    improved_head,
    laion_head,
    neighbor_similarity,
    prompt_sets,
    start_end_similarity,
    zero_shot_classes,
)
from labeling.weights import Models
from schemas.tags import TAGS
from tests.labeling.clip_model import CONFIG, NAME, write_clip

VIDEOS = ("decord_video_90.mov", "psd_counter.mp4", "torchcodec_h265_video.mp4")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder)
    return Models(str(folder))


@pytest.fixture(scope="module")
def embedder(models) -> ClipEmbedder:
    return ClipEmbedder(NAME, models, device="cpu")


@pytest.fixture(scope="module")
def pictures(corpus) -> list[np.ndarray]:
    """Frames of real videos of several shapes, uint8 [H, W, 3] BGR."""
    found = []
    for name in VIDEOS:
        with open_media(str(corpus / name)) as container:
            for picture in decode(container, video_stream(container)):
                if picture.index in (0, 4, 8):
                    found.append(np.ascontiguousarray(rgb(picture.frame)[..., ::-1]))
                if picture.index == 8:
                    break
    assert len(found) >= 7
    return found


@pytest.fixture(scope="module")
def real_weights(weights) -> Models:
    return Models(str(weights("sa_0_4_vit_l_14_linear.pth")))


def test_embeddings_are_those_of_open_clip(embedder, models, pictures):
    """Against open_clip used plainly: its own transform, its own loader, one picture at a time."""
    import open_clip
    from PIL import Image
    from safetensors.torch import load_file

    network = open_clip.model.CLIP(**CONFIG)
    network.load_state_dict(load_file(Path(models.folder, NAME, "open_clip_model.safetensors")))
    transform = open_clip.image_transform(64, is_train=False)
    wanted = []
    for picture in pictures:
        pixels = transform(Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))
        assert torch.equal(embedder._load().pixels(picture), pixels), "the very same pixels"
        with torch.no_grad():
            wanted.append(network.eval().encode_image(pixels[None], normalize=True)[0].numpy())
    found = embedder.open()(pictures)
    assert found.dtype == np.float32 and found.shape == (len(pictures), 768) == (len(pictures), embedder.size)
    np.testing.assert_allclose(found, np.array(wanted), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    tokens = open_clip.tokenize(["a dog", "a title card"])
    with torch.no_grad():
        np.testing.assert_allclose(
            embedder.encode_texts(["a dog", "a title card"]), network.encode_text(tokens, normalize=True).numpy(), atol=1e-6
        )
    assert embedder.logit_scale() == pytest.approx(100, rel=1e-4)


def test_the_batch_does_not_matter(embedder, models, pictures):
    whole = embedder.open()(pictures)
    for batch in (1, 2, 3):
        np.testing.assert_allclose(ClipEmbedder(NAME, models, "cpu", batch).open()(pictures), whole, atol=1e-5)
    assert np.array_equal(embedder.open()(pictures), whole), "the same call gives the same bits"
    assert embedder.open()([]).shape == (0, 768)
    assert embedder.encode_texts([]).shape == (0, 768)


def test_a_model_is_loaded_once_in_a_process(embedder, models, monkeypatch):
    first = embedder._load()
    monkeypatch.setattr("open_clip.create_model_and_transforms", None)
    assert ClipEmbedder(NAME, models, device="cpu", batch=7)._load() is first
    assert not first.network.training


def test_the_version_follows_weights_and_preprocessing(embedder, models, tmp_path):
    folder = Path(models.folder)
    other = write_clip(tmp_path, seed=1)
    assert ClipEmbedder(NAME, Models(str(tmp_path))).version != embedder.version
    other.write_bytes((folder / NAME / "open_clip_model.safetensors").read_bytes())
    assert ClipEmbedder(NAME, Models(str(tmp_path))).version == embedder.version, "where the file lies does not matter"
    config = tmp_path / NAME / "open_clip_config.json"
    config.write_text(config.read_text().replace("bicubic", "bilinear"))
    assert ClipEmbedder(NAME, Models(str(tmp_path))).version != embedder.version


def test_a_pickle_of_tensors_gives_the_same(embedder, tmp_path, pictures):
    write_clip(tmp_path, pickled=True)
    assert np.array_equal(ClipEmbedder(NAME, Models(str(tmp_path)), "cpu").open()(pictures), embedder.open()(pictures))


class _Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran code')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bad_weight_files_are_refused(tmp_path):
    path = write_clip(tmp_path, "harmful", pickled=True)
    for content in (pickle.dumps(_Harmful()), b"nothing of the kind"):
        path.write_bytes(content)
        with pytest.raises(TaggerError, match=f"{path.name} is refused: .*run code"):
            ClipEmbedder("harmful", Models(str(tmp_path)), "cpu").open()
    torch.save({"visual.conv1.weight": torch.ones(1), "more": _Harmful()}, path)
    with pytest.raises(TaggerError, match="is refused"):
        ClipEmbedder("harmful", Models(str(tmp_path)), "cpu").open()
    torch.save({"visual.conv1.weight": torch.ones(1)}, path)
    with pytest.raises(TaggerError, match="does not hold the weights of harmful") as caught:
        ClipEmbedder("harmful", Models(str(tmp_path)), "cpu").open()
    assert "\n" not in str(caught.value)
    cut = write_clip(tmp_path, "cut")
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(TaggerError, match="does not hold the weights of cut"):
        ClipEmbedder("cut", Models(str(tmp_path)), "cpu").open()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_missing_weights_are_one_clear_error(empty_cache, tmp_path):
    with pytest.raises(TaggerError) as caught:
        _ = ClipEmbedder(models=Models(str(tmp_path))).version
    assert str(caught.value) == (
        f"no vit_large_patch14_clip_224.openai/open_clip_model.safetensors in {tmp_path}: get it from "
        "https://huggingface.co/timm/vit_large_patch14_clip_224.openai and give its folder with --models DIR, "
        "or fetch it with --allow-download"
    )
    with pytest.raises(TaggerError, match="no sa_0_4_vit_l_14_linear.pth.*LAION-AI/aesthetic-predictor.*--models DIR"):
        laion_head(Models(str(tmp_path)), "large")
    with pytest.raises(TaggerError, match=r"no sac\+logos\+ava1-l14-linearMSE.pth.*christophschuhmann.*--models DIR"):
        improved_head(Models())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14/openai", "not trained for ViT-L-14 but for ViT-L-14-quickgelu/openai"),
        ("ViT-L-14-quickgelu/laion400m_e32", "open_clip knows no model|not trained for"),
        ("ViT-L-15/openai", f"knows no model ViT-L-15/openai; an example of one is {DEFAULT_CLIP}"),
        ("ViT-L-14-quickgelu", f"name an ARCHITECTURE/TAG of open_clip, such as {DEFAULT_CLIP}, or have"),
        ("ViT-B-16-SigLIP/webli", "a tokenizer of its own"),
    ],
)
def test_wrong_names_of_models_are_explained(name, message, models):
    with pytest.raises(TaggerError, match=message):
        _ = ClipEmbedder(name, models).version


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(models):
    with pytest.raises(TaggerError, match="--device cuda"):
        ClipEmbedder(NAME, models, device="cuda").open()


def test_the_default_model_is_the_one_of_openai():
    """QuickGELU, 768 numbers, OpenAI's preprocessing: what LAION's head was trained on."""
    import open_clip

    config, weights = open_clip.get_model_config("ViT-L-14-quickgelu"), open_clip.get_pretrained_cfg("ViT-L-14-quickgelu", "openai")
    assert DEFAULT_CLIP == "ViT-L-14-quickgelu/openai" and config["quick_gelu"] and config["embed_dim"] == 768
    assert (
        weights["mean"] == open_clip.OPENAI_DATASET_MEAN and weights["resize_mode"] == "shortest" and weights["interpolation"] == "bicubic"
    )


RATINGS = (-2.46, -0.14, 1.90, 3.58, 5.10, 6.47, 7.79, 9.05, 10.23, 11.30)


def test_laions_head_rates_laions_embeddings(real_weights):
    rate = laion_head(real_weights, "large")
    rows = [np.load(Path(real_weights.folder, f"laion_vit_l_14_rating{index}.npy"), allow_pickle=False) for index in range(10)]
    assert [round(rate(row), 2) for row in rows] == pytest.approx(RATINGS, abs=1e-6)
    assert rate(np.concatenate(rows)) == pytest.approx(np.mean(RATINGS), abs=0.01), "the mean over frames"


def test_laions_head_is_the_packages_own_and_leaves_nothing_behind(real_weights, empty_cache, tmp_path, monkeypatch):
    import aesthetic_predictor.libs as package

    monkeypatch.setattr(package, "urlretrieve", lambda *_: pytest.fail("a file was fetched"))
    built = []
    linear = package.nn.Linear
    monkeypatch.setattr(package.nn, "Linear", lambda *size: built.append(size) or linear(*size))
    laion_head(real_weights, "large"), laion_head(real_weights, "small")
    assert built == [(768, 1), (512, 1)]
    assert package.Path is Path and not (tmp_path / ".cache").exists()


def test_laions_head_is_found_where_the_package_keeps_it(real_weights, empty_cache, tmp_path):
    kept = tmp_path / ".cache/aesthetic_predictor"
    kept.mkdir(parents=True)
    (kept / "sa_0_4_vit_l_14_linear.pth").write_bytes(Path(real_weights.folder, "sa_0_4_vit_l_14_linear.pth").read_bytes())
    assert laion_head(Models(), "large")(np.eye(768, dtype=np.float32)) == laion_head(real_weights, "large")(np.eye(768, dtype=np.float32))


def test_a_head_of_another_model_is_refused(real_weights, tmp_path):
    (tmp_path / "sa_0_4_vit_l_14_linear.pth").write_bytes(Path(real_weights.folder, "sa_0_4_vit_b_32_linear.pth").read_bytes())
    with pytest.raises(TaggerError, match="does not fit"):
        laion_head(Models(str(tmp_path)), "large")


def test_the_improved_predictor_orders_laions_embeddings(real_weights):
    """No reference values are at hand; the ten embeddings of rising rating must rise, and its layers must be applied as they are."""
    rate = improved_head(real_weights)
    rows = [np.load(Path(real_weights.folder, f"laion_vit_l_14_rating{index}.npy"), allow_pickle=False) for index in range(10)]
    ratings = [rate(row) for row in rows]
    assert ratings == sorted(ratings)
    tensors = torch.load(Path(real_weights.folder, "sac+logos+ava1-l14-linearMSE.pth"), map_location="cpu", weights_only=True)
    value = rows[5].astype(np.float64)
    for layer in (0, 2, 4, 6, 7):
        value = value @ tensors[f"layers.{layer}.weight"].double().numpy().T + tensors[f"layers.{layer}.bias"].double().numpy()
    assert ratings[5] == pytest.approx(value.item(), abs=1e-4)


def test_prompts_are_averaged_and_made_unit_again():
    vectors = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    found = zero_shot_classes({"x": ["a", "b"], "y": ["c"]}, lambda texts: np.array([vectors[text] for text in texts], np.float32))
    assert found.names == ("x", "y")
    np.testing.assert_allclose(found.vectors, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]])


def test_probabilities_are_the_mean_softmax_of_frames():
    classes = ZeroShotClasses(("x", "y"), np.eye(2, dtype=np.float32))
    found = classes.probabilities(np.array([[1, 0], [0.6, 0.8]], np.float32), scale=10)
    wanted = np.mean([1 / (1 + math.exp(-10)), 1 / (1 + math.exp(2))])
    assert found == {"x": pytest.approx(wanted, abs=1e-6), "y": pytest.approx(1 - wanted, abs=1e-6)}
    assert classes.probabilities(np.eye(2, dtype=np.float32)[:1], scale=1e4) == {"x": 1.0, "y": 0.0}


def test_likeness_of_frames_and_captions():
    frames = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    assert start_end_similarity(frames) == 0
    assert neighbor_similarity(frames) == pytest.approx((0.6 + 0.8) / 2)
    assert caption_similarity(np.array([0, 1], np.float32), frames) == pytest.approx(0.6)
    assert start_end_similarity(frames[:1]) is neighbor_similarity(frames[:1]) is caption_similarity(frames[0], frames[:0]) is None


def test_the_prompts_are_those_of_the_registry():
    sets = prompt_sets()
    methods = {spec.name: spec.method for spec in TAGS}
    for name in ("source", "shot_size"):
        tag = "naturalness_source_class" if name == "source" else f"content_{name}"
        assert all(label in methods[tag] for label in sets[name])
    for name in ("scene", "subject"):
        assert f" {len(sets[name])} kinds " in methods[f"content_{name}"]
    for classes in sets.values():
        texts = [text for one in classes.values() for text in one]
        assert len(set(texts)) == len(texts) and all("{" not in text for text in texts)


def _views(embedder: ClipEmbedder, pictures: list[np.ndarray]) -> list[ClipView]:
    """A clip of three frames, one of one, one of none; embeddings rounded as they are stored."""
    vectors = embedder.open()(pictures).astype(np.float16).astype(np.float32)
    frames = [Keyframe(0.0, 0, cv2.imencode(".jpg", picture)[1].tobytes()) for picture in pictures]
    parts = {"three": slice(0, 3), "one": slice(4, 5)}
    clips = [ClipView({"clip_id": name}, {}, tuple(frames[part]), embeddings=vectors[part]) for name, part in parts.items()]
    return [*clips, ClipView({"clip_id": "none"}, {}, ())]


def test_a_clip_has_all_its_tags(models, embedder, pictures, real_weights):
    name = "sa_0_4_vit_l_14_linear.pth"
    Path(models.folder, name).write_bytes(Path(real_weights.folder, name).read_bytes())
    tagger, views = ClipTagger(embedder, head="large"), _views(embedder, pictures)
    three, one, none = tagger.open()(views)
    specs = {spec.name: spec for spec in tagger.tags}
    assert set(three) == set(specs) and {spec.group for spec in tagger.tags} == {tagger.group} == {"clip"}
    for name, value in three.items():
        if specs[name].dtype == "string":
            assert isinstance(value, str)
        else:
            assert isinstance(value, float) and (specs[name].low or -math.inf) <= value <= (specs[name].high or math.inf), name
    assert three["naturalness_source_class"] in prompt_sets()["source"]
    source = zero_shot_classes(prompt_sets()["source"], embedder.encode_texts).probabilities(views[0].embeddings, embedder.logit_scale())
    for name, label in (("naturalness_camera_footage", "camera_footage"), ("naturalness_ai_generated", "ai_generated")):
        assert three[name] == pytest.approx(source[label], abs=1e-4)
    assert three["naturalness_source_class"] == max(source, key=source.get)
    assert len({round(share, 4) for share in source.values()}) == len(source), "or the labels could be mixed up unseen"
    assert three["content_scene_probability"] >= 1 / len(prompt_sets()["scene"])
    assert {name for name, value in one.items() if value is None} == {"naturalness_start_end_similarity", "content_frame_similarity"}
    assert none == {}
    assert ClipTagger.of(embedder).head is None
    assert next(iter(ClipTagger.of(embedder).open()(_views(embedder, pictures))))["aesthetics_laion"] is None


def test_the_improved_predictor_reads_no_other_model(embedder):
    with pytest.raises(TaggerError, match=f"trained on {DEFAULT_CLIP} and cannot read tiny"):
        ImprovedAestheticTagger.of(embedder)


def test_taggers_are_made_only_where_all_their_weights_are(empty_cache, tmp_path, real_weights):
    """Asked for before any work starts; the files are looked for, not read."""
    clip = ClipEmbedder(models=Models(str(tmp_path)), device="cpu")
    steps = (
        ("vit_large_patch14_clip_224.openai/open_clip_model.safetensors", ClipTagger),
        ("sa_0_4_vit_l_14_linear.pth", ClipTagger),
        ("sac+logos+ava1-l14-linearMSE.pth", ImprovedAestheticTagger),
    )
    for name, tagger in steps:
        with pytest.raises(TaggerError, match=re.escape(f"no {name} in {tmp_path}")):
            tagger.of(clip)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert ClipTagger.of(clip) == ClipTagger(clip, "large") and ImprovedAestheticTagger.of(clip) == ImprovedAestheticTagger(clip)


def test_the_improved_predictor_is_a_group_of_its_own(embedder, models, pictures, real_weights):
    """Its layers are the real ones, its embeddings those of the small CLIP: as long as the real, so that a value comes out."""
    name = "sac+logos+ava1-l14-linearMSE.pth"
    Path(models.folder, name).write_bytes(Path(real_weights.folder, name).read_bytes())
    tagger, views = ImprovedAestheticTagger(embedder), _views(embedder, pictures)
    three, one, none = tagger.open()(views)
    assert [spec.group for spec in tagger.tags] == [tagger.group] == ["clip_mlp"]
    rate = improved_head(models)
    assert three["aesthetics_improved"] == pytest.approx(np.mean([rate(row[None]) for row in views[0].embeddings]), abs=1e-3)
    assert set(one) == {"aesthetics_improved"} and none == {}


def test_importing_the_taggers_loads_no_model_library():
    code = "import sys, labeling.taggers.clip; print([m for m in ('torch', 'open_clip', 'PIL', 'aesthetic_predictor') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"
