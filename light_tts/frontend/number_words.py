"""Whole numbers spelled in English, as the language models were trained to read them. Pure.

The spelling is that of the `inflect` package with its defaults ("one thousand and one", "two hundred and thirty-four
thousand"), since the reference front end feeds the models with it (spec: frontend, section 2).
"""

from __future__ import annotations

from light_tts.frontend.text_units import has_digit

_SMALL = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = (
    "",
    " thousand",
    " million",
    " billion",
    " trillion",
    " quadrillion",
    " quintillion",
    " sextillion",
    " septillion",
    " octillion",
    " nonillion",
    " decillion",
)


def number_to_words(digits: str) -> str:
    """Spell a run of digits: "1001" to "one thousand and one", "007" to "seven".

    Decimal digits of any script count; other characters (superscripts, circled numbers) are left out, and a run
    without any decimal digit is "zero". Above decillions, where the reference raises, digits are read one by one.
    """
    values = [int(char) for char in digits if char.isdecimal()]
    while len(values) > 1 and values[0] == 0:
        values.pop(0)
    if len(values) > 3 * len(_SCALES):
        return " ".join(_SMALL[value] for value in values)
    number = int("".join(map(str, values)) or "0")
    if number == 0:
        return _SMALL[0]
    groups: list[str] = []
    rest = number
    for scale in _SCALES:
        rest, group = divmod(rest, 1000)
        if group:
            groups.insert(0, _below_thousand(group) + scale)
    last = number % 1000
    if len(groups) > 1 and 0 < last < 100:
        return ", ".join(groups[:-1]) + " and " + groups[-1]
    return ", ".join(groups)


def spell_out_numbers(text: str) -> str:
    """Replace every maximal run of `str.isdigit()` characters by its English spelling, and nothing else."""
    if not has_digit(text):
        return text
    out: list[str] = []
    run = ""
    for char in text:
        if char.isdigit():
            run += char
            continue
        if run:
            out.append(number_to_words(run))
            run = ""
        out.append(char)
    if run:
        out.append(number_to_words(run))
    return "".join(out)


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest)
    tail = f" and {_below_hundred(rest)}" if rest else ""
    return f"{_SMALL[hundreds]} hundred{tail}"


def _below_hundred(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens] + (f"-{_SMALL[unit]}" if unit else "")
