from modelrack.cli.models import describe_form
from modelrack.cli.output import fit_widths


def test_a_table_that_fits_stays_in_one_line() -> None:
    assert fit_widths([9, 30, 5], [9, 8, 5], 44) == [9, 30, 5]


def test_a_narrow_table_breaks_texts_and_leaves_names_whole() -> None:
    """Names were cut in the middle at 80 columns, which nobody can copy."""
    assert fit_widths([25, 30, 5], [25, 8, 5], 44) == [25, 14, 5]
    assert fit_widths([25, 30, 5], [25, 8, 5], 38) == [25, 8, 5]


def test_names_are_cut_where_nothing_else_is_left() -> None:
    assert fit_widths([25, 30, 5], [25, 8, 5], 20) == [7, 8, 5]
    assert fit_widths([3, 3], [3, 3], 0) == [1, 1]


def test_form() -> None:
    model = {"model_format": "gguf", "model_size_in_billions": 1.8, "quantization": "q4_k_m"}
    assert describe_form(model) == "gguf 1.8B q4_k_m"
    assert describe_form({"model_format": "echo", "model_size_in_billions": None, "quantization": "none"}) == "echo"
    assert describe_form({}) == ""
