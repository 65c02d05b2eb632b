"""The response's format, its parser, and the choice that a response makes, on texts that models write."""

import re
from itertools import product

import pytest

from schemas.answer_format import (
    LETTER_ELEMENT,
    LETTERS,
    Target,
    choice_letter,
    format_answer,
    format_response,
    instruction,
    parse_response,
)
from schemas.tables import QuestionKind
from tests.support.properties import example, given, st

PETS = ("dog", "cat", "a red bird", "fish")
NUMBERS = ("3", "3.14", "4", "-3")
LETTERED = ("vitamin B", "vitamin C", "C. elegans", "plan A")

CHOICES = [
    # a letter alone
    ("B", PETS, "B"),
    ("b", PETS, "B"),
    (" B \n", PETS, "B"),
    ("B.", PETS, "B"),
    ("(b)", PETS, "B"),
    ("(B).", PETS, "B"),
    ("[B]", PETS, "B"),
    ("B)", PETS, "B"),
    ("B!", PETS, "B"),
    ('"B"', PETS, "B"),
    ("“B”", PETS, "B"),
    ("**B**", PETS, "B"),
    ("__B__", PETS, "B"),
    ("`B`", PETS, "B"),
    ("- B", PETS, "B"),
    ("$\\boxed{B}$", PETS, "B"),
    ("\\boxed{\\text{B}}", PETS, "B"),
    ("Ｂ", PETS, "B"),  # full-width
    ("（Ｂ）。", PETS, "B"),
    ("Ⓑ", PETS, "B"),
    ("\u200bB\u200b", PETS, "B"),
    ("В", PETS, None),  # Cyrillic
    ("Β", PETS, None),  # Greek
    ("E", PETS, None),  # no such option
    ("J", tuple("0123456789"), "J"),
    ("?", PETS, None),
    ("", PETS, None),
    (" \n\t ", PETS, None),
    ("B", (), None),
    ("ß", PETS, None),
    # a letter and its option
    ("B) cat", PETS, "B"),
    ("B. cat", PETS, "B"),
    ("B.cat", PETS, "B"),
    ("B: cat.", PETS, "B"),
    ("(B) cat", PETS, "B"),
    ("b) cat", PETS, "B"),
    ("B - cat", PETS, "B"),
    ("B – Cat", PETS, "B"),
    ("B cat", PETS, "B"),
    ("**B.** cat", PETS, "B"),
    ("B. The cat", PETS, "B"),
    ("B) a cat that sleeps", PETS, "B"),
    ("B) dog", PETS, None),  # the letter of one option, the text of another
    ("B. dog", PETS, None),
    ("The answer is B) dog", PETS, None),
    ("Answer: C. a red bird", PETS, "C"),
    ("B, because it meows", PETS, "B"),
    ("A because it barks", PETS, "A"),
    ("A) dog B) cat C) a red bird D) fish", PETS, None),
    ("A. dog\nB. cat", PETS, None),
    ("A. dog\nB. cat\nAnswer: B", PETS, "B"),
    ("B\n\nExplanation: it meows.", PETS, "B"),
    ("B\nIt is not a dog.", PETS, "B"),
    ("(B)\ncat", PETS, "B"),
    ("B\ndog", PETS, None),
    ("A\nB", PETS, None),
    ("It meows and has no feathers.\n\nB", PETS, "B"),
    ("The dog barks.\n**(B)**", PETS, "B"),
    # the option's text
    ("cat", PETS, "B"),
    ("CAT.", PETS, "B"),
    ("'cat'", PETS, "B"),
    ('"Cat."', PETS, "B"),
    ("**cat**", PETS, "B"),
    ("a cat", PETS, "B"),
    ("A cat", PETS, "B"),
    ("A dog", PETS, "A"),
    ("red bird", PETS, "C"),
    ("the red  bird", PETS, "C"),
    ("The answer is the cat.", PETS, "B"),
    ("It's a cat", PETS, "B"),
    ("a bird", PETS, None),
    ("cats", PETS, None),
    ("catfish", PETS, None),
    ("dog or cat", PETS, None),
    ("not cat", PETS, None),
    ("cat", ("cat", "cat", "dog"), None),
    ("猫。", ("狗", "猫"), "B"),
    ("ПЁС", ("кот", "пёс"), "B"),
    ("STRASSE", ("Straße", "Weg"), "A"),
    # numbers
    ("3.14", NUMBERS, "B"),
    ("3", NUMBERS, "A"),
    ("3.", NUMBERS, "A"),
    ("3.1", NUMBERS, None),
    ("-3", NUMBERS, "D"),
    ("3.14", ("3", "4"), None),
    ("The answer is 3.14.", NUMBERS, "B"),
    ("B. 3.14", NUMBERS, "B"),
    ("A. 3.14", NUMBERS, None),
    (".5", ("5", "0.5"), None),
    ("<5", (">5", "<5"), "B"),
    ("10:30", ("10:30", "10"), "A"),
    # options that hold letters
    ("vitamin C", LETTERED, "B"),
    ("C. elegans", LETTERED, "C"),
    ("C", LETTERED, "C"),
    ("plan A", LETTERED, "D"),
    ("B", ("A", "C", "B"), "B"),  # a letter alone is a letter, and not the text of option C
    # sentences
    ("Option B", PETS, "B"),
    ("Option B.", PETS, "B"),
    ("option (b)", PETS, "B"),
    ("The answer is B", PETS, "B"),
    ("The answer is B.", PETS, "B"),
    ("The answer is b.", PETS, "B"),
    ("The answer is: (B)", PETS, "B"),
    ("the correct answer is **B**.", PETS, "B"),
    ("Answer: B", PETS, "B"),
    ("ANSWER：Ｂ", PETS, "B"),
    ("My final answer would be option B", PETS, "B"),
    ("The correct option is B", PETS, "B"),
    ("I choose B.", PETS, "B"),
    ("I think it's B", PETS, "B"),
    ("B is correct.", PETS, "B"),
    ("(B) is the right answer", PETS, "B"),
    ("A is correct", PETS, "A"),
    ("The answer is A.", PETS, "A"),
    ("The answer is A, because it barks.", PETS, "A"),
    ("Option A shows a dog, option C a bird. So the answer is B.", PETS, "B"),
    ("答案是B。", PETS, "B"),
    ("答案：B", PETS, "B"),
    ("正解はBです。", PETS, "B"),
    ("The letter is B.", PETS, "B"),
    ("The answer to the question is B.", PETS, "B"),
    ("Between A and B, the answer is B", PETS, "B"),
    ("Answer is (B) because A is wrong", PETS, "B"),
    ("B or not B", PETS, None),
    ("选B", PETS, "B"),
    ("The answer is E.", PETS, None),
    # no certain choice
    ("A or B", PETS, None),
    ("A, B", PETS, None),
    ("A/B", PETS, None),
    ("A B", PETS, None),
    ("AB", PETS, None),
    ("BBBB", PETS, None),
    ("ABCD", PETS, None),
    ("The answer is A or B", PETS, None),
    ("The answer is A and B.", PETS, None),
    ("The answer is A, B, or C", PETS, None),
    ("Option A or option B", PETS, None),
    ("Options A, B", PETS, None),
    ("The answer is option A or option B", PETS, None),
    ("The answer is B A C", PETS, None),
    ("The answer is A. The answer is B.", PETS, None),
    ("Both A and B are correct", PETS, None),
    ("All of the above", PETS, None),
    ("I cannot see the video.", PETS, None),
    # negations
    ("not B", PETS, None),
    ("Not (B)", PETS, None),
    ("!B", PETS, None),
    ("¬B", PETS, None),
    ("It is not B", PETS, None),
    ("The answer is not B.", PETS, None),
    ("The answer isn’t B", PETS, None),
    ("I don't think the answer is B", PETS, None),
    ("It can't be option B", PETS, None),
    ("Neither A nor B", PETS, None),
    ("Not A, B", PETS, None),
    ("B is wrong", PETS, None),
    ("Option B is incorrect", PETS, None),
    ("anything except B", PETS, None),
    ("the opposite of B", PETS, None),
    ("答案不是B", PETS, None),
    ("不选B", PETS, None),
    ("Not A. The answer is B.", PETS, "B"),
    ("It's not A, it's B.", PETS, "B"),
    ("B, not A", PETS, "B"),
    ("The answer is B (not A)", PETS, "B"),
    ("The answer is B. Option B is not shown.", PETS, None),
    # letters inside a word or a phrase
    ("Because", PETS, None),
    ("A man runs", PETS, None),
    ("I think so", tuple("0123456789"), None),
    ("vitamin C", PETS, None),
    ("Vitamin C. It is healthy", PETS, None),
    ("Team A won", PETS, None),
    ("D.C.", PETS, None),
    ("e.g. this", PETS, None),
    ("C++", PETS, None),
    ("A-10", PETS, None),
    ("B's", PETS, None),
    ("Bélier", PETS, None),
    ("The answer is a secret", PETS, None),
    ("the option a person picks", PETS, None),
    # tags
    ("<answer>B</answer>", PETS, "B"),
    ("<think>r</think><answer>B</answer>", PETS, "B"),
    ("<think>A</think>B", PETS, "B"),
    ("<think>It is A.</think>\n\nThe answer is B.", PETS, "B"),
    ("It is A.</think><answer>B</answer>", PETS, "B"),
    ("<think>r <answer>A</answer></think><answer>B</answer>", PETS, "B"),
    ("<think>r <answer>A</answer></think>", PETS, None),
    ("<answer>A</answer><think>r</think>", PETS, None),
    ("<think>r</think><answer>A</answer><answer>B</answer>", PETS, "B"),
    ("<answer><answer>B</answer></answer>", PETS, "B"),
    ("<answer>B", PETS, "B"),
    ("B</answer>", PETS, "B"),
    ("<answer>A</answer><answer>", PETS, None),
    ("<answer></answer>", PETS, None),
    ("<think>I am sure it is B", PETS, None),
    ("<think>r <answer>B</answer>", PETS, "B"),
    ("<think>maybe <answer>A</answer>? But then", PETS, None),
    ("<think>a</think><answer>A</answer><think>b</think><answer>B</answer>", PETS, "B"),
    ("<ANSWER>b</ANSWER>", PETS, "B"),
    ("<think>r</think><answer>A or B</answer>", PETS, None),
    ("</answer><answer>B</answer>", PETS, "B"),
    ("<answer>3.14</answer>", NUMBERS, "B"),
]


@pytest.mark.parametrize(("text", "options", "letter"), CHOICES)
def test_choice_letter_of_an_answer(text, options, letter):
    assert choice_letter(text, options) == letter


FORMATS = [
    # text, whether the prompt ends with <think>, thought, answer, problem
    ("<think>r</think><answer>B</answer>", False, "r", "B", None),
    ("\n<think>\nr\n</think>\n\n<answer> B </answer>\n", False, "r", "B", None),
    ("<think>1 < 2 <b></think><answer>B</answer>", False, "1 < 2 <b>", "B", None),
    ("r</think><answer>B</answer>", True, "r", "B", None),
    ("r</think><answer>B</answer>", False, "r", "B", "<think> occurs 0 times instead of once"),
    ("<think>r</think><answer>B</answer>", True, "r", "B", "the tags are <think> </think> <answer> </answer> instead"),
    ("", False, None, None, "the response is empty"),
    (" \n ", False, None, None, "the response is empty"),
    ("B", False, None, "B", "<think> occurs 0 times instead of once"),
    ("<answer>B</answer>", False, None, "B", "<think> occurs 0 times instead of once"),
    ("<think>r</think>B", False, "r", "B", "<answer> occurs 0 times instead of once"),
    ("<think></think><answer>B</answer>", False, "", "B", "the thought is empty"),
    ("<think>r</think><answer> </answer>", False, "r", None, "the answer is empty"),
    ("So: <think>r</think><answer>B</answer>", False, "r", "B", "there is text before <think>"),
    ("<think>r</think>So: <answer>B</answer>", False, "r", "B", "there is text between thought and answer"),
    ("<think>r</think><answer>B</answer>!", False, "r", "B", "there is text after </answer>"),
    (
        "<answer>B</answer><think>r</think>",
        False,
        "r",
        None,
        "the tags are <answer> </answer> <think> </think> instead",
    ),
    ("<think>r</think><answer>B", False, "r", "B", "</answer> occurs 0 times instead of once"),
    ("<think>r<answer>B</answer>", False, "r", "B", "</think> occurs 0 times instead of once"),
    ("<think>r <answer>A</answer>s", False, "r <answer>A</answer>s", None, "</think> occurs 0 times instead of once"),
    ("r <answer>A</answer>", True, "r", "A", "</think> occurs 0 times instead of once"),
    ("r", True, "r", None, "</think> occurs 0 times instead of once"),
    (
        "<think>r<answer>A</answer></think><answer>B</answer>",
        False,
        "r<answer>A</answer>",
        "B",
        "<answer> occurs 2 times instead of once",
    ),
    ("<think>a</think>b</think><answer>B</answer>", False, "a</think>b", "B", "</think> occurs 2 times"),
    ("<THINK>r</THINK><answer>B</answer>", False, "r", "B", "<think> occurs 0 times instead of once"),
    ("<think>r</think><answer><think>s</think></answer>", False, "r</think><answer><think>s", None, "<think> occurs 2"),
]


@pytest.mark.parametrize(("text", "thought_is_open", "reasoning", "answer", "problem"), FORMATS)
def test_parse_response_splits_and_names_the_deviation(text, thought_is_open, reasoning, answer, problem):
    parsed = parse_response(text, thought_is_open=thought_is_open)
    assert (parsed.reasoning, parsed.answer) == (reasoning, answer)
    assert parsed.is_well_formed == (problem is None)
    assert (parsed.problem or "").startswith(problem or "") and (parsed.problem is None) == (problem is None)


def test_instructions_are_those_of_existing_checkpoints():
    texts = [instruction(target, kind) for target, kind in product(Target, QuestionKind)]
    assert texts == [
        "Think about the video step by step inside <think></think>, then give the letter of the right option inside "
        "<answer></answer>.",
        "Think about the video step by step inside <think></think>, then give a short answer inside <answer></answer>.",
        "Answer with the letter of the right option only.",
        "Answer with a short answer only.",
    ]


WRAPPINGS = (
    "{}", "({})", "{}.", "({}).", "[{}]", "{})", "**{}**", "**{}.**", "`{}`", '"{}"', "\\boxed{{{}}}", "Option {}",
    "Option {}.", "The answer is {}", "The answer is {}.", "the answer is ({})", "The correct answer is **{}**.",
    "Answer: {}", "So the answer is {}.", "I choose {}.", "{} is correct.", "答案是{}", "{}, because it is shown",
)  # fmt: skip
ELEMENTS = (
    "{}",
    "<answer>{}</answer>",
    "<think>It may be A, or B.</think><answer>{}</answer>",
    "A</think>{}",
    "<answer>{}",
)
WORDS = st.lists(st.text("nopqrst", min_size=3, max_size=8), min_size=10, max_size=10, unique=True)


@given(
    st.sampled_from(LETTERS),
    WORDS,
    st.sampled_from(WRAPPINGS),
    st.sampled_from(ELEMENTS),
    st.sampled_from(["", " ", "\n"]),
)
def test_any_wrapping_of_a_letter_is_that_letter(letter, options, wrapping, element, space):
    assert choice_letter(element.format(space + wrapping.format(letter) + space), options) == letter


@given(st.integers(0, 9), WORDS, st.sampled_from(["{}", "{}.", '"{}"', "the {}", "The answer is {}."]), st.booleans())
def test_any_wrapping_of_an_option_is_its_letter(index, options, wrapping, upper):
    text = wrapping.format(options[index].upper() if upper else options[index])
    assert choice_letter(text, options) == LETTERS[index]


@given(
    st.sampled_from(LETTERS), st.sampled_from(LETTERS), WORDS, st.sampled_from(["{} or {}", "{}, {}", "{}/{}", "{} {}"])
)
def test_two_letters_are_no_choice(one, other, options, listing):
    assert choice_letter(listing.format(one, other), options) is None
    assert choice_letter(f"The answer is {listing.format(one, other)}.", options) == (one if one == other else None)


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "A", "b", "I ", " ", "(", ")", ".", "not ", "is "])
    | st.text(max_size=4)
).map("".join)


@given(PIECES, st.lists(st.text(max_size=6), max_size=10), st.booleans())
@example("\ud800<answer>", ["\udfff"], False)
def test_no_text_raises(text, options, thought_is_open):
    parsed = parse_response(text, thought_is_open=thought_is_open)
    assert parsed.answer is None or (parsed.answer == parsed.answer.strip() != "" and parsed.answer in text)
    letter = choice_letter(text, options)
    assert letter is None or letter in LETTERS[: len(options)]


@given(
    st.text(st.characters(exclude_characters="<>"), min_size=1),
    st.text(st.characters(exclude_characters="<>"), min_size=1),
)
def test_a_formatted_response_is_parsed_back(reasoning, answer):
    parsed = parse_response(format_response(reasoning, format_answer(answer)))
    assert (parsed.reasoning, parsed.answer) == (reasoning.strip(), answer.strip() or None)
    assert parsed.is_well_formed == bool(reasoning.strip() and answer.strip())


REPEATED = (
    "<answer>", "</answer>", "<think>", "<think", "(", "A) ", "A, ", "A or ", "A ", "option A or ", "the answer is A ",
    "not A ", "a\n", "\nA", ". ", "it's ", " ", "_", "'", "is correct ",
)  # fmt: skip


@pytest.mark.parametrize("piece", REPEATED)
@pytest.mark.timeout(60)  # linear time is less than a second, quadratic time more than a minute
def test_long_texts_take_linear_time(piece):
    assert choice_letter(f"x{piece * (200_000 // len(piece))}x", PETS) in (None, "A")


def test_the_pattern_of_a_letter_element_is_the_format():
    assert re.findall(LETTER_ELEMENT, format_answer("C")) == ["C"]
    assert not re.search(LETTER_ELEMENT, format_answer("a cat"))
