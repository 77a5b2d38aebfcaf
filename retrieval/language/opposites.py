"""Words that exclude each other: who asks with one does not want the answer to the other.

One group a line, its sides split by `|`. Words are lemmas; table and questions are stemmed
before they meet.
"""

from functools import cache

from retrieval.language.vocabulary import stem

CONTRASTS = """
allow permit accept let | ban forbid prohibit refuse disallow deny reject bar block
approve accept grant | reject decline deny refuse
include cover contain | exclude omit except
start begin open launch commence | stop end finish close terminate cease
enable activate | disable deactivate | suspend
pause suspend freeze | resume unfreeze continue
add insert attach | remove delete detach
join subscribe enrol enroll register | leave unsubscribe unregister quit
create open | delete destroy
buy purchase | sell
borrow | lend
rent lease | buy | own
deposit | withdraw withdrawal
send | receive
pay | refund | owe | earn
charge | discharge | refund
debit | credit
spend | save | invest
increase raise grow gain rise | decrease reduce lower drop fall lose loss decline shrink
expand | contract
win won | lose lost
pass | fail
succeed success | fail failure
push | pull
lock | unlock
show display reveal | hide conceal
build construct | demolish
teach | learn
give | take | keep
come | go
arrive arrival | depart departure leave
enter entry entrance | exit leave
love like enjoy | hate dislike
eat consume | avoid
avoid prevent | cause encourage
help improve benefit | harm hurt damage worsen
strengthen | weaken
treat cure | cause | prevent
heat warm | cool chill
fill | empty
merge combine join | split separate divide
encrypt | decrypt
compress | extract decompress
read | write
import | export
upload | download
input | output
client | server
good | bad
best | worst
better | worse
well | badly
big large huge | small little tiny
high | low
higher | lower
highest | lowest
top | bottom
long | short
longer | shorter
tall | short
old | new
old elder | young
older | newer younger
oldest | newest youngest
early | late
earlier | later
earliest | latest
fast quick rapid | slow
faster quicker | slower
hot warm | cold cool
hard difficult tough | easy simple
strong | weak
heavy | light
thick | thin
wide broad | narrow
deep | shallow
rich wealthy | poor
cheap inexpensive | expensive costly
loud noisy | quiet silent
wet | dry
clean | dirty
bright light | dark dim
hard firm | soft
sharp | blunt dull
full | empty
safe | dangerous risky hazardous
healthy | sick ill
happy | sad unhappy
rough | smooth
rare | common
same | different
true | false
right correct | wrong incorrect
positive | negative
alive living | dead
awake | asleep
present | absent
ancient | modern
major | minor
acute | chronic
benign | malignant
innocent | guilty
legal | illegal
compulsory mandatory required obligatory | optional voluntary
temporary | permanent
public | private
personal | business corporate commercial
single solo | joint | double | multiple
gross | net
fixed | variable floating adjustable
secured | unsecured
simple | compound
real actual | fake virtual
manual | automatic
internal | external
inside indoor | outside outdoor
domestic national | international foreign overseas
local | global remote
urban | rural
import | export
advantage benefit pro upside strength | disadvantage drawback con downside weakness risk
profit gain | loss
asset | liability
income revenue | expense expenditure cost
supply | demand
cause | effect symptom
question | answer
victory | defeat
war | peace
birth born | death die
marry marriage | divorce
love | hate
friend ally | enemy
hero | villain
ascend ascending | descend descending
vertical | horizontal
left | right
north | south | east | west
northern | southern | eastern | western
more | less fewer
most | least fewest
many | few
all every each | none
always | never | sometimes
maximum max | minimum min
before prior | after following
until | since
over above | under below beneath
up | down
in | out
on | off
inbound incoming | outbound outgoing
front | back
forward | backward
first | last | next
initial | final
previous last past | next upcoming future
when | where | who whom whose | why
was were did | will shall
he him his himself | she her hers herself
i me my mine myself | he him his she her hers their they them
male man men boy gentleman | female woman women girl lady
mother mom mum | father dad
husband | wife
son | daughter
brother | sister
uncle | aunt
king | queen
bride | groom
adult | child kid children | infant baby toddler newborn | teen teenager | senior elderly pensioner
puppy | kitten | dog | cat
beginner novice | intermediate | advanced expert
buyer purchaser customer | seller vendor merchant
tenant renter | landlord
lender creditor | borrower debtor
employer | employee worker | contractor freelancer
teacher | student pupil
doctor physician | nurse | patient
plaintiff | defendant
sender | recipient receiver
host | guest
driver | passenger
producer manufacturer | consumer
donor | recipient
parent | child
owner | renter
individual | company business
monday | tuesday | wednesday | thursday | friday | saturday | sunday
january | february | march | april | june | july | august | september | october | november |december
spring | summer | autumn fall | winter
morning | afternoon | evening | night | noon midday | midnight
weekday | weekend
day | night
yesterday | today | tomorrow
second | minute | hour | day | week | fortnight | month | quarter | year | decade | century
hourly | daily | weekly | monthly | quarterly | yearly annual annually
am | pm
red | orange | yellow | green | blue | purple | pink | brown | black | white | grey gray
gold | silver | bronze | platinum | diamond
basic standard | premium | free | pro | enterprise | plus
economy | business | first
small | medium | large
domestic | commercial | industrial
pound gbp | dollar usd | euro eur | yen jpy | rupee inr | franc chf | yuan cny
celsius | fahrenheit | kelvin
mile | kilometre kilometer km | metre meter | yard | foot feet | inch | cm | mm
kg kilogram | gram | lb | ounce oz | ton tonne
litre liter | gallon | pint | ml
mg | mcg | gram
kb | mb | gb | tb
saving savings | current checking | credit | brokerage
stock share equity | bond | fund
bull bullish | bear bearish
call | put
long | short
deductible | premium | copay
principal | interest
federal | state | municipal
part | full
breakfast | brunch | lunch | dinner supper
liquid | solid | gas
systolic | diastolic
artery arterial | vein venous
viral virus | bacterial bacteria | fungal
oral | topical | intravenous | intramuscular
type | class | stage
"""


@cache
def sides() -> dict[str, tuple[tuple[int, int], ...]]:
    """Stem → its (group, side) in CONTRASTS."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for group, line in enumerate(CONTRASTS.strip().splitlines()):
        for side, words in enumerate(line.split("|")):
            for word in {stem(word) for word in words.split()}:
                found[word] = (*found.get(word, ()), (group, side))
    return found
