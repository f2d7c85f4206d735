"""Captions that read like a model's, drawn by a hash: what the scripted server answers with."""

import hashlib
import re

_MARKER = re.compile(r"\bclip [0-9a-f]{4,}\b")

_ENGLISH = {
    "who": (
        "a woman in a red coat",
        "an elderly man with a white beard",
        "two children in yellow raincoats",
        "a black dog with a blue collar",
        "a cyclist in a gray jersey",
        "a baker with floury hands",
        "a street musician holding a cello",
        "a gray horse with a braided mane",
        "a young man carrying a canvas bag",
        "three rowers in a narrow boat",
        "a potter in a stained apron",
        "a ginger cat with white paws",
        "a gardener wearing a straw hat",
        "a dancer in a green dress",
        "a fisherman in rubber boots",
        "a student with a stack of books",
    ),
    "does": (
        "walks slowly toward the far side and stops",
        "turns around and looks over one shoulder",
        "bends down, picks something up and stands again",
        "waits, then crosses from left to right",
        "lifts both hands and lowers them again",
        "leans forward and reaches for the rail",
        "steps aside to let others pass",
        "settles down and grows still",
        "moves in a wide circle and comes back",
        "pauses, nods twice and moves on",
        "pushes a heavy door open and enters",
        "shakes off the water and trots away",
        "climbs four steps and rests at the top",
        "glances up as a bird passes",
        "sways gently and then speeds up",
        "kneels beside a wooden crate",
    ),
    "where": (
        "on a cobbled square before noon",
        "at the edge of a pine forest",
        "in a narrow kitchen with copper pans",
        "on a windy pier under low clouds",
        "beside a canal lined with willows",
        "in an empty parking garage",
        "on a hillside of dry grass",
        "in a workshop full of tools",
        "under the roof of a railway station",
        "in a snowy courtyard at dusk",
        "along a market street with striped awnings",
        "in a bright hall with tall windows",
        "on a sandy beach at low tide",
        "in a greenhouse crowded with ferns",
        "beneath an iron bridge after rain",
        "on a quiet suburban lawn",
    ),
    "camera": (
        "Medium shot at eye level; the camera is static.",
        "Wide shot from a low angle; the camera pans left.",
        "Close view from slightly above; the camera zooms in.",
        "Long shot; the camera tilts up.",
        "Medium wide shot; the camera pans right.",
        "Handheld medium shot that sways a little.",
    ),
    "style": (
        "Live action with muted, natural colors.",
        "Documentary footage with fine grain.",
        "Polished live action, warm and cheerful.",
        "Amateur recording with strong contrast.",
        "Cinematic look with deep teal shadows.",
        "Plain footage, pale and calm.",
    ),
    "light": (
        "Soft daylight falls from the left.",
        "Hard sunlight throws short shadows.",
        "An overcast sky gives even, cool light.",
        "Warm lamps glow overhead.",
        "Low golden light comes from behind.",
        "Dim window light leaves the corners dark.",
    ),
    "detail": (
        "A thin scarf flutters in the breeze",
        "Drops of water glisten along a metal edge",
        "Dust drifts through the air",
        "A paper cup rolls past",
        "Leaves tremble at the top of the frame",
        "A distant bus slides out of view",
        "Small flags hang from a wire",
        "A shutter swings on its hinge",
        "Steam rises from a grating",
        "Pale tiles mirror every step",
        "A bell rope sways near the wall",
        "Two pigeons hop out of the way",
    ),
    "end": (
        "nothing else stirs until the last moment",
        "the background stays soft throughout",
        "a second figure appears far behind",
        "the ground looks damp and uneven",
        "a painted sign remains half hidden",
        "the sky brightens toward the end",
        "a row of bottles catches the eye",
        "shadows lengthen across the floor",
        "some loose sand blows by",
        "the pace never changes",
    ),
}
_CHINESE = {
    "who": (
        "一位穿红色大衣的女士",
        "一位留着白胡子的老人",
        "两个穿黄色雨衣的孩子",
        "一只戴蓝色项圈的黑狗",
        "一名穿灰色车衣的骑手",
        "一位双手沾满面粉的面包师",
        "一名抱着大提琴的街头乐手",
        "一匹编着鬃毛的灰马",
        "一个背着帆布包的青年",
        "一位围着旧围裙的陶艺师",
        "一只白爪的橘猫",
        "一位戴草帽的园丁",
    ),
    "does": (
        "慢慢走向远处然后停下",
        "转过身来朝后望去",
        "弯腰捡起东西又站直",
        "等了一会儿，从左侧走到右侧",
        "举起双手再缓缓放下",
        "向前探身伸手去扶栏杆",
        "侧身让别人先过",
        "安静地坐下来休息",
        "绕了一大圈又回到原处",
        "停下点点头继续前行",
        "推开一扇沉重的木门",
        "抖掉水珠小跑离开",
    ),
    "where": (
        "在上午的石板广场上",
        "在松林边缘的小路旁",
        "在挂满铜锅的狭窄厨房里",
        "在低云笼罩的码头上",
        "在柳树成行的运河边",
        "在空荡荡的地下车库",
        "在长满枯草的山坡上",
        "在堆满工具的作坊中",
        "在火车站的顶棚下",
        "在黄昏时积雪的院子里",
        "在雨后的铁桥底下",
        "在种满蕨类的温室里",
    ),
    "camera": (
        "中景，平视，镜头固定不动。",
        "全景，低角度，镜头向左摇。",
        "近景，略微俯视，镜头推近。",
        "远景，镜头向上摇。",
        "中全景，镜头向右摇。",
        "手持拍摄的中景，略有晃动。",
    ),
    "style": (
        "实拍，色彩自然柔和。",
        "纪录风格，带有细微颗粒。",
        "精致实拍，气氛温暖欢快。",
        "业余拍摄，反差强烈。",
        "电影质感，阴影偏青。",
        "朴素的实拍，色调清淡。",
    ),
    "light": (
        "柔和日光从左侧照来。",
        "强烈阳光投下短短的影子。",
        "阴天的光线均匀偏冷。",
        "头顶的灯泡散发暖光。",
        "金色的斜阳来自背后。",
        "窗边微光，角落昏暗。",
    ),
    "detail": (
        "薄围巾随风飘动",
        "水滴沿着金属边缘闪光",
        "尘埃在空气里浮动",
        "一只纸杯滚了过去",
        "树叶在上方轻轻颤抖",
        "远处有公交车驶离",
        "小旗子挂在细线上",
        "百叶窗来回摆动",
        "蒸汽从格栅升起",
        "浅色瓷砖映出脚步",
        "墙边垂着一根绳索",
        "两只鸽子跳着避让",
    ),
    "end": (
        "直到最后再无别的动静",
        "背景始终柔和模糊",
        "后方出现第二个人影",
        "地面显得潮湿不平",
        "招牌被遮住了一半",
        "天色渐渐变亮",
        "一排玻璃瓶十分显眼",
        "影子在地上越拉越长",
        "些许沙粒被吹起",
        "节奏一直没有变化",
    ),
}


def caption(seed: str, language: str, marker: str | None) -> dict[str, str]:
    """All fields of a caption, drawn by a seed; `marker` stands in the longest text, as if it were read off the picture."""
    words = {part: _drawn(seed, part, choices) for part, choices in (_ENGLISH if language == "en" else _CHINESE).items()}
    short = _sentence(words, language)
    slate = {"en": 'A slate reads "{}".', "zh": "板子上写着“{}”。"}[language].format(marker) if marker else ""
    if language == "en":
        medium = f"{short} {words['detail']}, and {words['end']}."
        more = f"{words['camera']} {words['style']} {words['light']}"
    else:
        medium = f"{short}{words['detail']}，{words['end']}。"
        more = f"{words['camera']}{words['style']}{words['light']}"
    gap = " " if language == "en" else ""
    return {
        "caption_short": short,
        "caption_medium": medium,
        "caption_dense": gap.join(part for part in (medium, more, slate) if part),
        "subject": words["who"],
        "action": words["does"],
        "scene": words["where"],
        "camera": words["camera"],
        "style": words["style"],
        "lighting": words["light"],
    }


def language_of(prompt: str) -> str:
    """zh where a prompt's letters are mostly Chinese, else en."""
    plain = _MARKER.sub("", prompt)
    return "zh" if 2 * len(re.findall(r"[\u3400-\u9fff]", plain)) > len(re.findall(r"[A-Za-z]", plain)) else "en"


def marker_of(prompt: str) -> str | None:
    """The first "clip 3f2a9c" of a prompt, by which an answer can be told from another's."""
    found = _MARKER.search(prompt)
    return found.group() if found else None


def _sentence(words: dict[str, str], language: str) -> str:
    if language == "zh":
        return f"{words['who']}{words['where']}{words['does']}。"
    # Subjects of more than one take the verb without its s, which the drawn verbs have: say it of one of them.
    who = re.sub(r"^(two|three) ", r"one of \1 ", words["who"])
    return f"{who[0].upper()}{who[1:]} {words['does']} {words['where']}."


def _drawn(seed: str, part: str, choices: tuple[str, ...]) -> str:
    return choices[int.from_bytes(hashlib.sha256(f"{seed} {part}".encode()).digest()[:8]) % len(choices)]
