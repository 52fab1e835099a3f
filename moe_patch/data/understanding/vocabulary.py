"""The words by which a name is told from what stands around it."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")

PREPOSITIONS = _words(
    "of in on at by for from to with within into onto under over about as after before between among "
    "during through per via near against since until without like upon behind beyond across toward "
    "towards along around inside outside"
)

AUXILIARIES = _words(
    "is are was were be been being do does did has have had can could will would shall should may might must"
)

QUESTION_WORDS = _words("what which who whom whose when where why how")

NEGATIONS = _words(
    "not never nor neither nobody nothing nowhere isn't aren't wasn't weren't doesn't don't didn't cannot "
    "can't"
)

CONJUNCTIONS = _words("and or but because although while if unless whereas so than then")

_OTHERS = _words(
    "it its he him his she her they them their this that these those there here we our you your my me "
    "also ever originally currently now no first formerly still later best commonly usually often "
    "generally only mostly mainly too next last once typically officially primarily today again together "
    "recently"
)

SMALL_WORDS = ARTICLES | PREPOSITIONS | AUXILIARIES | QUESTION_WORDS | NEGATIONS | CONJUNCTIONS | _OTHERS
"""Words that are no part of a name, unless they stand between two parts of it."""

JOINING = _words(
    "of de la von van der den du del di da dos das do le el al bin ibn y et des ten ter zu zum zur af & - "
    "\u2013 \u2014 / ni na ja och og"
)
"""Words that join the parts of one name."""

PERHAPS_JOINING = _words("in for on at to with from by and a an the or near within")
"""Words that join the parts of one name, or stand between two names."""

MONTHS = _words("january february march april may june july august september october november december")

KIN = _words(
    "father mother parents son sons daughter daughters brother sister wife husband spouse child children"
)
"""Those who are another's, and of whom a sentence can say something in turn."""

KINDS = _words(
    "language languages religion city town village county country state province region district "
    "continent island lake river mountain street road railway station airport bridge church school house "
    "manor hall castle farm cottage museum hospital college university dynasty tribe family genus species "
    "band company party team club league instrument opera newspaper festival tournament championship "
    "virus"
)
"""Nouns for what a name names: they stand behind it ("Middleton station") or before it ("the city Lyon")."""

_VERBS = """
accept accepted accompany achieve achieved act acted acts adopt adopted affiliated air aired airs allow
allowed announce announced appear appeared appears appointed arrive arrived assassinated assigned
associated attain attained attend attended attends attributed awarded base based became become becomes
began begin begins belong belonged belongs bestowed bordered borders born bought broadcast broadcasts
build built buried burned buy called came carried carry cast categorised categorized caused ceased
celebrate celebrated celebrates change changed characterised characterized chose chosen citizen citizens
classed classified close closed co-founded collaborate come comes commissioned compete competed competes
completed compose composed composes conceived concluded conduct conducted connect connected connects
considered consist consists constructed contain contained contains continue continued contributed control
controlled controls converted costs cover covered covers create created creates credited cross crosses
debut debuted debuts declare declared declares dedicated defeated defended defined deployed derive derived
derives described design designed designs destroyed developed develops diagnosed die died dies direct
directed directs discovered dissolve dissolved distributed distributes divorced drafted draw drawn drew
drive drives earn earned edit edited educated elected emerged employ employed employs end ended ends
engaged enlisted enter entered erected established exist existed exists expire expired fall falls feature
featured features fell fight film filmed find finish finished fit flow flows follow followed follower
follows form formed forms formulated fought found founded gave get given gives go goes got governed
graduate graduated grew grow grown had happen happened happens headed headquartered hear heard held help
hold holds honored honoured host hosted hosts house housed houses identified illustrated inaugurated
include included includes incorporated influenced inhabit inhabits inherited inspired installed introduced
invent invented invents involve involved issued join joined joins keep keeps kept kill killed know known
knows lasted launch launched launches lead leads leave leaves led left lie lies linked listed live lived
lives locate located lose loses lost made maintain maintained maintains make makes managed manufactured
manufactures marketed married marry mean means meant measure measured measures meet meets member merge
merged met mined move moved moves murdered named native need needs nominated obtained occupied occupies
occupy occur occurred occurs offer offered offers officer opened opens operate operated operates orbit
orbits ordained ordered organised organized originate originated originates owned owner owns paid painted
part participate participated participates pass passed passes pay pays perform performed performing
performs planned play played playing plays portray portrayed possess possessed possesses practice
practiced practices premiere premiered premieres present presented produce produced produces professed
promoted protect protects proved provide provides publish published publishes purchased raised ran reach
reached reaches read receive received receives recognise recognised recognized record recorded records
refer referred refers regarded reign reigned reigns relate related released releases remain remained
remains renamed replace replaced represent represented represents reside resided resides resign resigned
retire retired return returned revived rule ruled rules run runs said sang sat say says sell sells sent
serve served serves set settled share shared shares shot show shown shows sign signed sing sings situated
sold speak speaker speaks specialise specialised specialises specialize specialized specializes spend
spent spoke spoken sponsored stand stands star starred stars start started starts stop stopped studied
studies study succeed succeeded succumbed suffer suffered supplied support supported supports surrounded
take taken takes taught teach teaches tell think took trained transferred translated translates travel
traveled travelled tried turned turns twinned typed understand understands understood use used uses
utilise utilised utilize utilized visit visited voiced vote voted want wants wash watch wear wears went
win wins won work worked works worn write writes written wrote
"""

VERBS = _words(_VERBS)
"""Verbs and participles that stand behind a name, and a few nouns that do likewise ("Ada, speaker of")."""

FINITE = frozenset(verb for verb in VERBS if verb.endswith("s")) - {"address", "pass"}
"""Of these, the forms that cannot follow an auxiliary ("is Rome lies")."""

ROLES = _words(
    "president vice prime minister chancellor king queen emperor empress pope mayor governor senator "
    "secretary director chairman chairwoman chair head chief ceo cfo cto founder captain coach ambassador"
)
"""What someone is to something else: "the Mayor of London" is about London."""
