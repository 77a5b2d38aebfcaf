"""What the vetoes know of English words beside opposites: stems, equals, function words, people."""

from functools import cache

import Stemmer

NEGATING_PREFIXES = frozenset("un non in im ir il dis de mis anti ab mal".split())
_OPPOSED = """up-down in-out in-ex im-ex pre-post over-under hyper-hypo inter-intra en-dis in-de
on-off pro-anti micro-macro mini-maxi mono-poly brady-tachy endo-exo sub-super im-em as-de ac-de
fore-hind"""
OPPOSED_PREFIXES = frozenset(
    pair
    for line in _OPPOSED.split()
    for pair in (tuple(line.split("-")), tuple(reversed(line.split("-"))))
)
PREFIXES = tuple(
    sorted(NEGATING_PREFIXES | {prefix for pair in OPPOSED_PREFIXES for prefix in pair})
)

NEGATIONS = frozenset(
    """not no never none nobody nothing nowhere neither nor without cannot unable except excluding
    unless hardly lack nicht kein keine keinen ohne niemals pas jamais sans nunca""".split()
)
AUXILIARIES = """do does did is are was were has have had can could should would will must might
need ai""".split()

# What a question is made of beside what it is about.
FUNCTION_WORDS = frozenset(
    """a an the this that these those there here it its i me my mine myself we us our ours you your
    yours yourself he him his she her hers they them their theirs one ones someone somebody anyone
    anybody something anything everyone everybody
    am is are was were be been being do does did doing done have has had having can could may might
    must shall should will would ought
    what which who whom whose when where why how whether
    and or but nor so yet if then than as because while of in on at to from by for with about into
    onto upon over under between among through during before after above below up down out off
    against per via within toward towards across along around behind beside near since until till
    not no never none neither without cannot
    also just only even still ever already very too quite really actually usually generally
    basically exactly possibly maybe perhaps simply often
    any some all both each every either much many more most few less least several such same
    other another else
    hi hello hey please thank thanks sorry um uh er like yeah ok okay well quick question silly
    wondering wonder team know tell let lets
    get got go going gonna want wanna able possible
    there's etc vs s t d ll re ve m time""".split()
)

PEOPLE = """
wife
husband
spouse partner
mother mom mum
father dad
son
daughter
child kid children
brother
sister
baby infant
grandmother grandma
grandfather grandpa
uncle
aunt
nephew
niece
cousin
boyfriend
girlfriend
roommate flatmate
boss
colleague coworker
"""
"""Whose account, whose visa: one person a line."""

RELATING = frozenset(
    """of in on at to from by for into onto over under before after above below through against
    than as like toward towards without until via""".split()
)
"""Prepositions whose two sides are not exchangeable; with, and, or, between are left out."""
DIRECTIONS = frozenset(
    "from to into onto than over under before after above below against toward towards".split()
)
COORDINATING = frozenset("and or vs versus between with".split())

# Inflections that no rule of spelling undoes: lemma, then its forms.
_IRREGULAR = """
be been; become became; begin began begun; bind bound; bite bit bitten; break broke broken;
bring brought; build built; burn burnt; buy bought; catch caught; choose chose chosen;
come came; deal dealt; draw drew drawn; dream dreamt; drink drank drunk; drive drove driven;
eat ate eaten; fall fell fallen; feel felt; fight fought; find found; fly flew flown;
forget forgot forgotten; freeze froze frozen; get got gotten; give gave given; go went gone;
grow grew grown; hear heard; hide hid hidden; hold held; keep kept; know knew known;
learn learnt; lend lent; lose lost; make made; mean meant; meet met; pay paid; ride rode ridden;
ring rang rung; rise rose risen; run ran; say said; see saw seen; sell sold; send sent;
shoot shot; show shown; sing sang sung; sink sank sunk; sleep slept; speak spoke spoken;
spend spent; stand stood; steal stole stolen; swim swam swum; take took taken; teach taught;
tear tore torn; tell told; think thought; throw threw thrown; understand understood;
wake woke woken; wear wore worn; win won; write wrote written;
man men; woman women; child children; foot feet; tooth teeth; goose geese; mouse mice;
criterion criteria; phenomenon phenomena; analysis analyses; crisis crises; wife wives;
life lives; knife knives; leaf leaves; half halves
"""
_LEMMAS = {
    form: lemma
    for line in _IRREGULAR.replace("\n", " ").split(";")
    for lemma, *forms in [line.split()]
    for form in forms
}

_stemmer = Stemmer.Stemmer("english")
_stemmer.maxCacheSize = 20_000


def stem(word: str) -> str:
    stemmed: str = _stemmer.stemWord(_LEMMAS.get(word, word))
    return stemmed


@cache
def people() -> dict[str, int]:
    """Stem → its line in PEOPLE."""
    lines = enumerate(PEOPLE.strip().splitlines())
    return {stem(word): person for person, line in lines for word in line.split()}
