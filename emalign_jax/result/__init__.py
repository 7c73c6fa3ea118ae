"""What every result shares: codes, the base class of results over batches, the columns of tables, and display."""

from emalign_jax.result.batched import Batched, BatchedStarts
from emalign_jax.result.codes import Derivative, FoundBy, Move, Result

__all__ = ["Batched", "BatchedStarts", "Derivative", "FoundBy", "Move", "Result"]
