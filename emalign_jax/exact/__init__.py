"""The exact part: NumPy float64 and HiGHS. It shares no code with play beyond the definition of a game."""

from emalign_jax.exact import pooled, selection  # noqa: F401 - they register their checks
from emalign_jax.exact.alignment import Alignment, align
from emalign_jax.exact.certificate import Certificate, certify
from emalign_jax.exact.stability import Stability, stability

__all__ = ["Alignment", "Certificate", "Stability", "align", "certify", "stability"]
