"""Words that may stand for one another in a question, one group a line, as lemmas.

In a question that is otherwise the same, any other exchanged word is another question.
"""

from functools import cache

from retrieval.language.vocabulary import stem

SYNONYMS = """
get obtain acquire receive request order apply
start begin commence
stop end finish quit
change update modify edit alter amend
fix repair solve resolve
find locate see view check look
buy purchase
send submit post
make create generate build
remove delete erase
show display tell explain
use utilise utilize
register enrol enroll sign
need require necessary
want wish
help assist
fast quick rapid
big large huge
good great nice fine well better best top excellent wonderful decent
effective efficient
way method step process
price cost fee charge
phone mobile cell telephone
photo picture image
film movie
car vehicle auto
job work career
house home
kid child children
mum mom mother
dad father
people person human man
country nation
company business firm
doctor physician
medicine drug medication
book reserve
journey trip travel
grade result mark score
meaning mean define definition
important significant essential
different differ difference distinguish
advantage benefit
disadvantage drawback
similar same like
begin start
learn study
happen occur
reason cause why
become be
write author
recommend suggest
prevent avoid stop
answer solution
website site
app application
pro advantage
biggest largest greatest
strangest weirdest
faster quicker
keep maintain
internet online web
series show
picture pic photo
impact affect influence
company agency
break crack
travel visit
help support
favourite favorite best
calculate compute
hard difficult tough
earn make
lose loss reduce
increase improve boost
like love
study prepare
fastest quickest
greatest best
rich wealthy
sign symptom
look seem appear
see watch
effect impact consequence
government govt
gender sex
compare differ
form cause
risky dangerous hazardous
mute silence
wrong incorrect
right correct
ill sick
small little
woman girl lady
man guy
student pupil
shop store
holiday vacation
lift elevator
flat apartment
luggage baggage
bin rubbish trash garbage
chemist pharmacy
paperwork document
hire rent
permit license licence
reduce decrease lower
make design develop
member part
allow enable permit let
major main biggest key
talk speak
true real actual genuine
determine find identify discover
option opportunity prospect
come return
enhance improve boost
curb reduce
destination place spot
believe think
necessary important need
become turn
effect affect
rise increase
guide tutorial manual
book novel
language tongue
mistake fault
plan strategy
method technique approach
skill ability
example instance sample
trait characteristic feature
requirement qualification criteria
difficulty challenge
hotel accommodation
dish food meal recipe
symptom indication
workout exercise
picture photograph
laptop notebook computer
cellphone smartphone phone mobile
lawyer attorney
taxi cab
petrol gasoline
postcode zip
cv resume
girl woman female lady
boy male guy
easy simple
world earth globe
scary creepy frightening
manage handle control deal cope overcome
tip advice suggestion guidance
benefit profit
purpose use point
kind type sort
fact thing
amazing awesome incredible interesting fascinating cool crazy
hate dislike
glad happy
angry mad
tired exhausted
smart intelligent clever
beautiful pretty
famous popular
weird strange odd
rude impolite
start found establish
choose pick select
keep hold
close shut
gift present
error mistake
test exam examination
location place spot
cash money
salary wage pay
staff employee worker
customer client
firm organisation organization
road street
town city
illness disease sickness
pain ache
cancel call
return give
delay postpone
verify confirm check
forget lose
reset recover restore
enable activate
disable deactivate
link connect attach
view see display
contact reach
complain complaint
deliver ship delivery
dispatch send
purchase order
bill invoice
instalment installment
speed pace
aim goal target objective
idea thought
opinion view think
issue problem trouble
area region
chance probability likelihood odds
occur take
cause lead result
eventually finally
usually normally typically
approximately about roughly
currently presently
completely totally fully entirely
"""


@cache
def synonyms() -> dict[str, frozenset[int]]:
    """Stem → the groups of SYNONYMS that hold it."""
    found: dict[str, frozenset[int]] = {}
    for group, line in enumerate(SYNONYMS.strip().splitlines()):
        for word in {stem(word) for word in line.split()}:
            found[word] = found.get(word, frozenset()) | {group}
    return found
