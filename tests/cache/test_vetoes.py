import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.features import read_question
from api.cache.vetoes import veto

TRAPS = {
    "number": """
What is the status of dispute D-7781? | What is the status of dispute D-7782?
Freeze the card ending 4417 | Freeze the card ending 4471
What was revenue in Q3 2022? | What was revenue in Q3 2023?
What was revenue in Q2? | What was revenue in Q3?
Is v1.2 supported? | Is v1.3 supported?
Take it twice a day | Take it three times a day
Who was the first president? | Who was the second president?
Wait half an hour | Wait an hour
A room for 2 adults with 3 children | A room for 3 adults with 2 children
Is it open at 7am? | Is it open at 7pm?
Transfer 500 to savings | Transfer 5,000 to savings
Is Type I curable? | Is Type II curable?
""",
    "negation": """
Which items can be recycled? | Which items can't be recycled?
Is it safe in pregnancy? | Is it not safe in pregnancy?
Is ibuprofen safe with alcohol? | Is ibuprofen unsafe with alcohol?
Does the plan include dental? | Does the plan exclude dental?
Ist Kaffee gesund? | Ist Kaffee nicht gesund?
How do I block a payment? | How do I unblock a payment?
What are the symptoms of hypothyroidism? | What are the symptoms of hyperthyroidism?
Is it free for members? | Is it free for non-members?
Can I travel with a visa? | Can I travel without a visa?
How do I upload a file? | How do I download a file?
""",
    "antonym": """
How do I turn on dark mode? | How do I turn off dark mode?
Can I take it before meals? | Can I take it after meals?
What causes high blood pressure? | What causes low blood pressure?
Which transfers were approved? | Which transfers were declined?
How do I activate my debit card? | How do I activate my credit card?
Is it open on Monday? | Is it open on Tuesday?
Is the employer liable? | Is the employee liable?
How much does he owe? | How much do I owe?
What is the daily limit? | What is the monthly limit?
When is it paid? | Where is it paid?
Earnings over £10,000 | Earnings over $10,000
""",
    "entity": """
What is the capital of Australia? | What is the capital of Austria?
Can I use my Nationwide card abroad? | Can I use my Barclays card abroad?
What's the drinking age in the UK? | What's the drinking age in the US?
What did the Fed decide? | What did the ECB decide?
""",
    "person": """
What visa do I need? | What visa does my wife need?
Can my spouse see my account? | Can I see my spouse's account?
""",
    "order": """
flights from New York to Florida | flights from Florida to New York
flights from New York to New Jersey | flights from New Jersey to New York
Is Alice older than Bob? | Is Bob older than Alice?
How do I move from MySQL to Postgres? | How do I move from Postgres to MySQL?
Does Google own YouTube? | Does YouTube own Google?
Can my tenant sue my landlord? | Can my landlord sue my tenant?
Was YouTube bought by Google? | Was Google bought by YouTube?
""",
    "substitution": """
Does aspirin interact with warfarin? | Does ibuprofen interact with warfarin?
What was the margin for tesla that year? | What was the margin for ford that year?
What vaccines does my terrier need? | What vaccines does my parrot need?
Was bedeutet 无语? | Was bedeutet 装逼?
如何重置我的密码 | 如何重置我的手机密码
""",
}

SAME = """
How do I reset my password? | How can I reset my password?
What is the USA's population? | What is the U.S. population?
How many days in 2 weeks? | How many days are in two weeks?
Is the shop open at 7 p.m.? | is the shop open at 19:00
How much is 1,000 dollars in euro? | How much is $1000 in euros?
I can't log in to my account | I cannot log into my account
how do i set up wifi | How do I set up Wi-Fi?
On my phone, how do I set up voicemail? | How do I set up voicemail on my phone?
What is the difference between tea and coffee? | What is the difference between coffee and tea?
What does the United Nations do? | What does the UN do?
Was YouTube bought by Google? | Did Google buy YouTube?
Trains to Paris from London | Trains from London to Paris
WHAT IS THE CAPITAL OF FRANCE | What is the capital of France?
How can kids open an account? | How can children open an account?
How do I pay 40k in tax? | How do I pay 40,000 in tax?
Why won't my card work? | Why doesn't my card work?
Should it be banned or not? | Should it be banned?
Is it banned in the United States? | Is it banned in the US?
How does GST affect prices in India? | How will GST impact prices in India?
如何重置我的密码 | 如何重置我的密码？
Is one year enough? | Is 1 year enough?
What is the color of the flag? | What's the colour of the flag?
How do I reqest a repeat perscription? | How do I request a repeat prescription?
Hi, how do I bleed a radiator please? | How do I bleed a radiator?
How do I delete the file? | How do I remove the file?
"""


def pairs(table: str) -> list[tuple[str, str]]:
    split = (line.partition(" | ") for line in table.strip().splitlines())
    return [(a, b) for a, _, b in split]


@pytest.mark.parametrize(
    ("reason", "a", "b"), [(reason, *pair) for reason, t in TRAPS.items() for pair in pairs(t)]
)
def test_veto_trap_is_told(reason: str, a: str, b: str) -> None:
    assert veto(read_question(a), read_question(b)) == reason
    assert veto(read_question(b), read_question(a)) == reason


@pytest.mark.parametrize(("a", "b"), pairs(SAME))
def test_veto_same_question_passes(a: str, b: str) -> None:
    assert veto(read_question(a), read_question(b)) is None
    assert veto(read_question(b), read_question(a)) is None


questions = st.lists(
    st.sampled_from(
        "how do I not pay 2 two 3rd from to London Paris by before after US 7pm my wife's £5 "
        "non-member e-mail one and or card cards is was the D-7781 I'm can't v1.2 II half 1,000 "
        "' - ... ? hundred and six C++ 5G".split()
    ),
    max_size=12,
).map(" ".join)


@given(questions, questions)
def test_veto_any_pair_is_symmetric(a: str, b: str) -> None:
    there, back = veto(read_question(a), read_question(b)), veto(read_question(b), read_question(a))
    assert (there is None) == (back is None)


scribbles = st.text(alphabet="aAbnotsS'’.-_/,:0129+# ?½²٣ßİ", max_size=25)


@settings(max_examples=1000, deadline=None)
@given(scribbles, scribbles)
def test_veto_scribbles_never_raise(a: str, b: str) -> None:
    veto(read_question(a), read_question(b))
    assert all(read_question(a).words)


@given(st.one_of(questions, st.text(max_size=80)))
def test_veto_with_itself_never_speaks(question: str) -> None:
    assert veto(read_question(question), read_question(question + " ")) is None


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("twenty-five thousand and six hundred", ("25600",)),
        ("£1.50 and 007 and 2.0", ("1.5", "7", "2")),
        ("at 9:15 or 3pm or 12 am", ("09:15", "15:00", "00:00")),
        ("the 3rd of May, the third time", ("3", "3")),
        ("10MB, 23kg, Q3, COVID-19, 5G", ("10", "23", "q3", "19", "5")),
        ("2024-03-01", ("2024", "3", "1")),
        ("30 seconds, one second, the second", ("30", "2")),
        ("one of the best", ()),
        ("2 million", ("2000000",)),
    ],
)
def test_numbers_have_one_form(text: str, numbers: tuple[str, ...]) -> None:
    assert read_question(text).numbers == numbers


def test_names_are_told_by_capitals() -> None:
    assert read_question("Where does Jane use an iPhone in the UK?").entities == (
        "jane",
        "iphon",
        "uk",
    )
    assert read_question("WHERE DOES JANE LIVE").entities == ()
    assert read_question("Where do I live?").entities == ()


def test_veto_is_fast() -> None:
    features = [(read_question(a), read_question(b)) for t in TRAPS.values() for a, b in pairs(t)]
    started = time.thread_time()
    for _ in range(20):
        for a, b in features:
            veto(a, b)
    assert (time.thread_time() - started) / (20 * len(features)) < 0.0005  # 25 µs when quiet
