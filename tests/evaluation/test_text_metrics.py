"""Texts are scored row by row, with intervals, and two systems over the same rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError, InputError
from offramp.evaluation.text_metrics import METRICS, TextSettings, measure_texts

RIGHT = [["K AE1 T"], ["D AO1 G", "D AA1 G"], ["F EH1 R IY0"]]
QUICK = TextSettings(metrics=("errors", "diversity"), samples=0)


def values(texts, references, settings=QUICK):
    scores = measure_texts(texts, references, settings).scores()
    return {each.name: each.value for each in scores}


def test_a_row_is_right_if_it_is_any_of_its_references():
    found = values(["K AE1  T ", "D AA1 G", "F EH1"], RIGHT)

    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["row_error_rate"] == pytest.approx(1 / 3)


def test_token_errors_are_edits_by_the_lengths_of_the_nearest_references():
    found = values(["K AE1 T S", "D", "F EH1 R IY0"], [["K AE1 T"], ["D AO1 G", "D AA1"], RIGHT[2]])

    assert found["token_error_rate"] == pytest.approx((1 + 1 + 0) / (3 + 2 + 4))


def test_repetition_is_of_neighbours_and_of_four_in_a_row():
    found = values(["a a b b b", "c d e f c d e f"], [["x"], ["y"]])

    assert found["repeated_tokens"] == pytest.approx(3 / 13)
    assert found["seq_rep_4"] == pytest.approx((0 + 1 / 5) / 2)
    assert found["distinct_1"] == pytest.approx(6 / 13)
    assert found["distinct_2"] == pytest.approx(7 / 11)


def test_lengths_are_compared_with_the_first_references():
    found = values(["a b", "", "c"], [["a", "a b c d e"], ["b c"], ["c"]])

    assert found["length_ratio"] == pytest.approx(3 / 4)
    assert found["empty"] == pytest.approx(1 / 3)


@given(
    rows=st.lists(
        st.lists(st.text("ab ", min_size=1).filter(str.strip), min_size=1, max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_the_first_references_have_no_errors(rows):
    found = values([row[0] for row in rows], rows)

    assert found["exact_match"] == 1
    assert found["token_error_rate"] == 0
    assert found["length_ratio"] == 1
    assert found["empty"] == 0


def test_every_group_is_measured_with_its_flavour_and_interval():
    texts = ["a ferry carries cars over the water"] * 3
    right = [["a ferry carries cars across the water", "a boat"]] * 3

    scores = measure_texts(texts, right, TextSettings(samples=100)).scores()

    assert [each.name for each in scores] == [
        *("rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf"),
        *("exact_match", "row_error_rate", "token_error_rate", "repeated_tokens", "seq_rep_4"),
        *("distinct_1", "distinct_2", "length_ratio", "empty"),
    ]
    assert all(each.flavour for each in scores)
    assert [each.name for each in scores if each.low is None] == ["distinct_1", "distinct_2"]
    assert all(each.low is None or each.low <= each.value <= each.high for each in scores)


def test_two_systems_are_compared_score_by_score():
    right = [["a b c d"]] * 40
    first = measure_texts(["a b c d"] * 10 + ["x"] * 30, right)
    other = measure_texts(["a b c d"] * 40, right)

    better = {each.name: each for each in other.against(first)}

    assert better["exact_match"].value == pytest.approx(0.75)
    assert better["exact_match"].low > 0.5
    assert better["bleu"].p_value < 0.05
    assert better["token_error_rate"].high < 0
    assert all(each.value == 0 for each in first.against(first))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ConfigError, match=f"some of {', '.join(METRICS)}, got meteor"):
        TextSettings(metrics=("rouge", "meteor"))
    with pytest.raises(ConfigError, match="got none"):
        TextSettings(metrics=())
    with pytest.raises(InputError, match="got 0 texts"):
        measure_texts([], [], QUICK)
    with pytest.raises(InputError, match="got 1 texts and references for 2"):
        measure_texts(["a"], [["a"], ["b"]], QUICK)
    with pytest.raises(InputError, match="row 1: references are"):
        measure_texts(["a", "b"], [["a"], [" "]], QUICK)
    with pytest.raises(ConfigError, match="measure both with the same settings"):
        measure_texts(["a"], [["a"]]).against(
            measure_texts(["a"], [["a"]], TextSettings(stemmer=False))
        )
