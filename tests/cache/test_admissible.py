import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cache.admissible import ADMITTED, admit_answer, admit_question, normalise


@pytest.mark.parametrize(
    "same",
    ["  What is  RAG ?", "what is rag", "WHAT IS RAG?!", "What is\tRAG...", "Ｗhat is RAG？"],
)
def test_normalise_other_writing_is_equal(same: str) -> None:
    assert normalise(same) == normalise("What is RAG?")


@pytest.mark.parametrize("other", ["What is a RAG?", "What is RAG 2?", "Is what RAG?"])
def test_normalise_other_words_differ(other: str) -> None:
    assert normalise(other) != normalise("What is RAG?")


@given(st.text())
def test_normalise_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("What is the weather tomorrow?", "time_relative"),
        ("What is the latest release?", "time_relative"),
        ("Who is the current chancellor?", "time_relative"),
        ("Is the shop open now?", "time_relative"),
        ("What changed in the last 3 days?", "time_relative"),
        ("What happened this week?", "time_relative"),
        ("Where is my order?", "personal"),
        ("What's my account balance?", "personal"),
        ("When will my parcel arrive?", "personal"),
        ("Show me my last five transactions", "personal"),
        ("What is the status of my claim?", "personal"),
        ("How much do I owe?", "personal"),
    ],
)
def test_admission_fleeting_question_is_refused(question: str, reason: str) -> None:
    admission = admit_question(question)
    assert (admission.exact, admission.semantic, admission.reason) == (False, False, reason)


@pytest.mark.parametrize(
    "question",
    [
        "How do I open a current account?",
        "How do I change the email address on my account?",
        "Can I freeze my gym membership?",
        "Where can I find my invoices?",
        "What happens if I miss my loan payment?",
        "How much is a boiler service?",
        "What is the difference between knowing and believing?",
        "When was the last king crowned?",
    ],
)
def test_admission_lasting_question_passes(question: str) -> None:
    assert admit_question(question).semantic


def test_admission_beyond_the_window_is_exact_only() -> None:
    assert admit_question("why " * 300, n_tokens=257, window_tokens=256).semantic is False
    assert admit_question("why " * 300, n_tokens=257, window_tokens=256).exact is True
    assert admit_question("why", n_tokens=256, window_tokens=256).semantic is True


@pytest.mark.parametrize(
    ("answer", "finish_reason", "is_grounded", "layers"),
    [
        ("Paris.", "stop", True, (True, True)),
        ("Paris and", "length", True, (True, True)),
        ("Paris", "cut", True, (False, False)),
        ("", "stop", True, (False, False)),
        ("Paris.", "stop", False, (False, False)),
        ("I don't know.", "stop", True, (True, False)),
        ("The documents do not mention that.", "stop", True, (True, False)),
        ("There is no information on this.", "stop", True, (True, False)),
    ],
)
def test_admission_whole_grounded_answer_alone(answer, finish_reason, is_grounded, layers) -> None:
    judged = admit_answer(ADMITTED, answer, finish_reason=finish_reason, is_grounded=is_grounded)
    assert (judged.exact, judged.semantic) == layers


def test_admission_refused_question_stays_refused() -> None:
    refused = admit_question("Where is my order?")
    assert admit_answer(refused, "Here.", finish_reason="stop", is_grounded=True) == refused
