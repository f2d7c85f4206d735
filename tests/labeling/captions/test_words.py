"""What captions are worth: what they say of the camera, and those that fit the schema and are still nothing."""

import pytest

from labeling.captions.answer import FIELDS, AnswerError, Caption, json_schema, parse_answer
from labeling.captions.camera import camera_agrees, named_motions
from labeling.captions.degenerate import degeneration, is_foreign, is_refusal, is_repetitive
from schemas.records import NullReason

GOOD = {
    "caption_short": "Brown dog leaping over a garden fence",
    "caption_medium": "A brown dog runs across a wet lawn and leaps over a low white fence beside an old apple tree.",
    "caption_dense": (
        "A brown dog with a red collar gallops across a wet lawn toward a low white fence. Grass and drops fly up behind its paws. "
        "It gathers itself, leaps, clears the boards with room to spare and lands among fallen apples under an old tree, where it turns "
        "and looks back. The camera follows from the right at knee height. Low evening sun lights the scene from behind."
    ),
    "subject": "a brown dog with a red collar",
    "action": "runs and leaps over a fence",
    "scene": "a garden with an apple tree",
    "camera": "tracking shot to the right, low angle",
    "style": "live action, warm colors",
    "lighting": "low evening sun from behind",
}
CHINESE = {
    "caption_short": "棕色小狗跃过花园栅栏",
    "caption_medium": "一只棕色的小狗跑过湿漉漉的草坪，纵身跃过老苹果树旁低矮的白色栅栏，落在满地的苹果中间。",
    "caption_dense": (
        "一只戴红色项圈的棕色小狗在雨后的草坪上飞奔，四爪带起水珠与草屑。它奔向低矮的白色木栅栏，收身一跃，轻松越过，"
        "落在老苹果树下散落的果实之间，随后转身回望。镜头从右侧低角度跟拍，傍晚的阳光从背后斜照，毛发边缘泛着金光。"
    ),
    "subject": "戴红色项圈的棕色小狗",
    "action": "奔跑并跃过栅栏",
    "scene": "有苹果树的花园",
    "camera": "低角度向右跟拍",
    "style": "实拍，暖色调",
    "lighting": "傍晚逆光",
}


def caption(language="en", **changes):
    return Caption(**({"en": GOOD, "zh": CHINESE}[language] | changes))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_good_caption_is_kept(language):
    assert degeneration(caption(language), language) is None


@pytest.mark.parametrize(
    "language, changes, reason",
    [
        ("en", {"caption_dense": "the dog runs and " * 12}, NullReason.REPETITION),
        ("en", {"caption_dense": "A dog runs over the lawn. It is brown. A dog runs over the lawn."}, NullReason.REPETITION),
        ("en", {"caption_short": "dog dog dog dog dog"}, NullReason.REPETITION),
        ("en", {"caption_dense": "I'm sorry, but I cannot describe people in images."}, NullReason.REFUSAL),
        ("en", {"caption_medium": "As an AI language model, I have no eyes to see this."}, NullReason.REFUSAL),
        ("en", {"caption_dense": "The video shows a brown dog that runs over a lawn."}, NullReason.BOILERPLATE),
        ("en", {"caption_short": "In this clip, a dog runs"}, NullReason.BOILERPLATE),
        ("en", {"caption_short": "caption short"}, NullReason.EMPTY),
        ("en", {"caption_dense": "N/A"}, NullReason.EMPTY),
        ("en", {"caption_dense": "Un chien brun traverse la pelouse mouillée, puis saute par-dessus la clôture."}, NullReason.LANGUAGE),
        ("en", {"caption_short": "一只小狗跃过栅栏"}, NullReason.LANGUAGE),
        ("zh", {"caption_dense": GOOD["caption_dense"]}, NullReason.LANGUAGE),
        ("zh", {"caption_medium": "视频中，一只棕色的小狗跑过草坪，跃过栅栏。"}, NullReason.BOILERPLATE),
        ("zh", {"caption_dense": "抱歉，我无法描述该内容。"}, NullReason.REFUSAL),
        ("zh", {"caption_dense": "小狗在草地上奔跑，" * 8}, NullReason.REPETITION),
    ],
)  # fmt: skip
def test_degenerate_captions_say_why(language, changes, reason):
    assert degeneration(caption(language, **changes), language) is reason


def test_ordinary_words_are_not_degenerate():
    sign = 'A neon sign that reads "营业中 二十四小时" glows over a narrow street where a man folds an umbrella.'
    assert degeneration(caption(caption_medium=sign), "en") is None  # what is quoted is not the caption's language
    assert not is_repetitive("A brown dog runs over a lawn and then it jumps over a fence.")
    assert not is_foreign("Kitesurfer, Tarifa", "en")
    for text in ("Sorry-looking dog in the rain", "A woman sorry for her friend", "Clipped hedges frame a garden", "Scene of a crash"):
        assert not is_refusal(text)
        assert degeneration(caption(caption_short=text), "en") is None


@pytest.mark.parametrize(
    "language, words, said",
    [
        ("en", "static camera on a tripod, eye level", {"static"}),
        ("en", "The camera does not move", {"static"}),
        ("en", "slow pan to the left, wide shot", {"pan_left"}),
        ("en", "camera moves slowly to the right", {"pan_right"}),
        ("en", "pans across the square", {"moving"}),
        ("en", "tilts up from the shoes", {"tilt_up"}),
        ("en", "slow push-in, shallow focus", {"zoom_in"}),
        ("en", "the camera pulls back", {"zoom_out"}),
        ("en", "handheld tracking shot, no zoom", {"handheld", "moving"}),
        ("en", "the shot is not static, it tracks right", {"pan_right"}),
        ("en", "medium close-up at eye level", set()),
        ("zh", "固定镜头，中景", {"static"}),
        ("zh", "镜头缓慢向左平移", {"pan_left"}),
        ("zh", "推近，浅景深", {"zoom_in"}),
        ("zh", "手持拍摄，没有变焦", {"handheld"}),
        ("zh", "平视中景", set()),
    ],
)
def test_words_about_the_camera(language, words, said):
    assert named_motions(words, language) == said


@pytest.mark.parametrize(
    "words, measured, agrees",
    [
        ("static shot", "static", True),
        ("static shot", "pan_left", False),
        ("pans left", "pan_left", True),
        ("pans left", "pan_right", False),
        ("pans left", "static", False),
        ("pans", "pan_right", True),
        ("tracking shot", "zoom_in", True),
        ("handheld", "handheld", True),
        ("static shot", "handheld", False),
        ("pans left while zooming in", "mixed", True),
        ("static", "mixed", False),
        ("eye level", "static", None),
        ("static", None, None),
    ],
)
def test_words_are_checked_against_what_was_measured(words, measured, agrees):
    assert camera_agrees(words, "en", measured) is agrees


def test_answers_are_read_and_checked():
    import json

    text = json.dumps(GOOD)
    for wrapped in (text, f"```json\n{text}\n```", f"<think>{{hm}}</think>Here it is: {text} Done.", json.dumps(GOOD, indent=1)):
        assert parse_answer(wrapped) == Caption(**GOOD)
    for wrong, message in [
        ("no object", "no JSON object"),
        (text[:80], "cannot be read"),
        (json.dumps({**GOOD, "mood": "calm"}), "mood: Extra inputs"),
        (json.dumps({name: GOOD[name] for name in FIELDS if name != "style"}), "style: Field required"),
        (json.dumps({**GOOD, "camera": 3}), "camera: Input should be a valid string"),
        (json.dumps({**GOOD, "camera": "  "}), "camera: String should have at least 1 character"),
        (json.dumps([GOOD])[:1] + "1]", "no JSON object"),
        ("{" * 100_000, "cannot be read"),
    ]:
        with pytest.raises(AnswerError, match=message):
            parse_answer(wrong)
    with pytest.raises(AnswerError, match="too long"):
        parse_answer(text[:80], was_cut=True)
    schema = json_schema(dict.fromkeys(FIELDS, "what"))
    assert schema["required"] == list(FIELDS) and not schema["additionalProperties"]
