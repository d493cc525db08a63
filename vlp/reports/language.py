"""Which language a report is written in, told by its little words.

Small and honest: English, German, Spanish, French, Portuguese and Italian are known by the words that every sentence
needs (articles, "no", "without", the commonest nouns of a chest report).  Anything else, and a text too short to tell,
is "und".  Latin words that all of them use ("pneumothorax", "normal") count for none.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache

ENGLISH = "en"
UNDETERMINED = "und"

_WORDS: Mapping[str, str] = {
    "en": """the is are was were and of with without no not there has have been seen within limits right left lung lungs
        heart size chest view views this that which from for to at on by may be effusion clear unremarkable normal mild
        small evidence unchanged stable acute impression findings lobe lower upper bilateral tube rib ribs enlarged""",
    "de": """der die das und kein keine keinen keiner nicht mit ohne ist sind im des dem den zum zur vom ein eine einer
        eines auf bei beidseits rechts links befund beurteilung lunge lungen herz erguss pleuraerguss nachweis hinweis
        auf unauffällig regelrecht verschattung thorax vergrößert""",
    "es": """el la los las un una de del y con sin en se no por para que hay derrame pulmonar pulmonares izquierdo
        izquierda derecho derecha hallazgos hallazg impresión conclusión observa observan signos corazón silueta
        cardiaca cardíaca normales alteraciones signific otr derram torax tórax radiografía neumotórax neumonía""",
    "fr": """le la les un une des du de et avec sans pas dans au aux est sont épanchement poumon poumons droit droite
        gauche coeur cœur normale absence silhouette cardiaque pleural conclusion foyer visible ce il""",
    "pt": """o os as um uma de do da dos das e com sem em no na não há derrame pulmão pulmões direito direita esquerdo
        esquerda coração área cardíaca achados impressão conclusão ausência seios""",
    "it": """il lo la gli le un una di del della dei e con senza in non si è polmone polmoni polmonare destro destra
        sinistro sinistra cuore versamento reperti conclusioni nei limiti assenza ombra cardiaca""",
}
_WORD = re.compile(r"[^\W\d_]+")
_LOOKED_AT = 4000
"""Characters of a report that decide."""
_LEAST = 2
"""Words of a language that a text must have to be in it."""


@cache
def _languages() -> Mapping[str, tuple[str, ...]]:
    """Word -> the languages it counts for."""
    words: dict[str, tuple[str, ...]] = {}
    for language, text in _WORDS.items():
        for word in set(text.split()):
            words[word] = (*words.get(word, ()), language)
    return words


def detect_language(text: str) -> str:
    """One of "en", "de", "es", "fr", "pt", "it"; "und" where too little is there to tell.

    The language most of whose words occur, counted with repetition; a tie is English where English takes part.
    """
    known = _languages()
    counts: Counter[str] = Counter()
    for word in _WORD.findall(text[:_LOOKED_AT].lower()):
        for language in known.get(word, ()):
            counts[language] += 1
    if not counts:
        return UNDETERMINED
    best = max(counts, key=lambda language: (counts[language], language == ENGLISH))
    return best if counts[best] >= _LEAST or best == ENGLISH else UNDETERMINED


def is_foreign(language: str) -> bool:
    """Whether rules for English must stay away; a text too short to tell is read as English."""
    return language.lower().split("-")[0] not in {ENGLISH, "eng", UNDETERMINED, ""}
