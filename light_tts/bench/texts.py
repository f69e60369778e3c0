"""What the listeners ask to hear: short answers of one to three seconds, and sentences of four to eight."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Literal

from light_tts.errors import ConfigError

TextSet = Literal["short", "medium"]
Language = Literal["en", "zh", "both"]

_SHORT_EN = (
    "Hello, how can I help you?",
    "Your table is ready.",
    "Please hold the line.",
    "The door is now locked.",
    "Turn left after the bridge.",
    "It is seven degrees outside.",
    "I did not quite catch that.",
    "Your call is important to us.",
    "The next bus leaves at noon.",
    "All lights are off.",
    "You have two new messages.",
    "Thank you, and goodbye.",
)
_SHORT_ZH = (
    "您好，请问有什么可以帮您？",
    "请稍等一下。",
    "前方路口请右转。",
    "您的快递已经到了。",
    "今天最高气温二十八度。",
    "闹钟已经设好了。",
    "对不起，我没有听清楚。",
    "欢迎光临，里面请。",
    "下一站，人民广场。",
    "客厅的灯已经关上。",
    "电池电量不足，请及时充电。",
    "谢谢您，再见。",
)
_MEDIUM_EN = (
    "The museum opens at ten in the morning, and the last visitors may enter half an hour before it closes.",
    "We have received your order, and it will leave our warehouse tomorrow before the end of the day.",
    "If you would like to change your appointment, please press two, or stay on the line to speak with us.",
    "Heavy rain is expected along the coast tonight, so take care if you are driving home after dark.",
    "The recipe needs three eggs, a cup of flour, and a little patience while the oven is getting warm.",
    "Your train to the airport departs from platform four in eight minutes and stops at every station.",
    "She opened the old letter slowly, read the first line twice, and then put it back into the drawer.",
    "The meeting has been moved to Thursday afternoon because the large room is being painted this week.",
    "To reset the device, hold both buttons for five seconds until the small green light begins to blink.",
    "From the top of the hill you can see the harbour, the lighthouse, and on clear days the far islands.",
)
_MEDIUM_ZH = (
    "博物馆每天上午十点开门，闭馆前半小时停止入场，请您合理安排参观时间。",
    "我们已经收到您的订单，包裹会在明天下班之前从仓库发出，请留意物流信息。",
    "如果您需要更改预约时间，请按二号键，或者不要挂机，等待人工客服为您服务。",
    "受冷空气影响，今天夜里沿海地区将有大雨，开车回家的朋友请注意行车安全。",
    "这道菜需要三个鸡蛋和一小勺盐，等锅里的油热了以后，再慢慢地倒进去翻炒。",
    "开往机场的列车将在八分钟后从四号站台发车，请还没有上车的旅客抓紧时间。",
    "她轻轻地打开那封旧信，把第一行读了两遍，然后又小心地放回了抽屉里面。",
    "因为大会议室这周正在重新装修，原定周三的例会改到了周四下午两点钟举行。",
    "同时按住两个按钮五秒钟，等绿色的小灯开始闪烁，就说明设备已经恢复出厂设置。",
    "站在山顶上可以看见整个港口和远处的灯塔，天气好的时候还能望到海上的小岛。",
)
_SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "short": (_SHORT_EN, _SHORT_ZH),
    "medium": (_MEDIUM_EN, _MEDIUM_ZH),
}


def text_set(name: TextSet, language: Language = "both") -> tuple[str, ...]:
    """The texts of a set; with both languages they alternate."""
    english, chinese = _SETS[name]
    if language == "both":
        return tuple(chain.from_iterable(zip(english, chinese, strict=True)))
    return english if language == "en" else chinese


def read_texts(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 file that are not blank. Raises ConfigError when it cannot be read or has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The texts in {path} cannot be read: {error}.") from None
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise ConfigError(f"{path} has no texts; it should have one on each line.")
    return texts
