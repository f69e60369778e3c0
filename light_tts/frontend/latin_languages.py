"""English, or another language in Latin letters? Only as sure as reading numbers aloud needs. Pure.

A text in another language keeps its digits for the model to read; spelled in English they would be heard in English.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that hold sentences together; one that is also English speaks for English.
_ENGLISH = _words("""
    the of and to in is it you that he was for on are with as his they at be this have from or had by not but what all
    were we when your can said there use an each which she do how their if will up other about out many then them these
    so some her would make like him into time has look two more go see no way could people my than been call who its now
    find long down day did get come made may part over new please i'm it's don't hello thanks room order number
""")
_OTHERS = (
    _words("""
        der das und ist nicht ein eine einen dem den des wir sie ich mit auf für von zu im auch nach bei noch wie oder
        aber sind wird werden haben hat kann bitte uhr jahre über zum zur vom aus durch heute morgen gestern danke
    """)
    | _words("""
        le les un une et est pas pour dans que qui sur avec ce cette il elle nous vous ils au aux du sont être avoir
        plus mais ou où donc très bonjour merci heures ans jour
    """)
    | _words("""
        el los las una y es que por para con del se lo como más pero sus este esta son está también hay muy hola
        gracias años días horas
    """)
    | _words("""
        il gli della di che è e per con non una sono questo questa anche ma come più nel alla dei delle ciao grazie
        anni ore
    """)
    # Portuguese, Dutch, Polish, Swedish, Turkish: enough to be told from English
    | _words("""
        não uma os em com mais você obrigado het een van dat niet zijn wij jaar nie jest się och att det som inte på är
        bir ve bu için
    """)
) - _ENGLISH
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def is_english(text: str) -> bool:
    """False when the words, or the letters that English does not write with, speak for another Latin language.

    Texts that say nothing either way are English.
    """
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    english = sum(map(_ENGLISH.__contains__, words))
    other = sum(map(_OTHERS.__contains__, words))
    if english or other:
        return english >= other
    return all(word.isascii() for word in words)
