"""What becomes of proof files in which a number was changed."""

from emalign_jax.exact.proofs.verify import Unproved


def refused_and_proved(changed_files, lines, is_true):
    """(refused, proved) of changed files, (path, document) each. What is still proved must be true."""
    refused = proved = 0
    for path, document in changed_files:
        try:
            lines(document)
        except Unproved:
            refused += 1
        else:
            proved += 1
            assert is_true(document), path
    return refused, proved
