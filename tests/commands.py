"""What the tests of commands have in common; the fixture `run` is in conftest.py."""


def refused(answer, *words):
    """Exit 2, nothing on stdout, one line on stderr that holds the words."""
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    return True
