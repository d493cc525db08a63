import inspect

from vlp import errors


def test_every_error_is_a_vlp_error_and_stands_in_the_drawing() -> None:
    classes = [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if value.__module__ == errors.__name__ and value is not errors.VlpError
    ]
    assert classes
    for error in classes:
        assert issubclass(error, errors.VlpError)
        assert f"+-- {error.__name__}" in (errors.__doc__ or "")
