"""JSON that Python takes and its standard does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.strict_json import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(VALUES)
def test_what_json_can_hold_is_read_as_it_is(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("NaN", "NaN is not valid JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not valid JSON"),
        ('{"a": 1e400}', "1e400 is too large a number"),
        ('[{"a": 1, "b": 2, "a": 1}]', "the field 'a' stands twice in one object"),
        ("{", "Expecting property name"),
    ],
)
def test_what_it_cannot_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_json(text)
