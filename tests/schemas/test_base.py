import pytest

from schemas.base import Span, parse_json
from schemas.errors import SchemaError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"start_us": 3}', "f.json, field end_us: Field required"),
        ('{"start_us": 3, "end_us": -1}', "f.json, field end_us: Input should be greater than or equal to 0, got -1"),
        ('{"start_us": 3, "end_us": 3}', "f.json, field (file): a span must end after it starts, got [3, 3)"),
    ],
)
def test_a_file_that_does_not_fit_names_the_field_and_its_value_alone(text, message):
    with pytest.raises(SchemaError) as raised:
        parse_json(text, Span, "f.json")
    assert str(raised.value) == message
