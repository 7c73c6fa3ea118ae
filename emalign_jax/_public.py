"""The public names, which the package imports at first use."""

from emalign_jax import experiments, mechanisms
from emalign_jax.equilibrium.best_response_dynamics import BestResponseDynamics
from emalign_jax.equilibrium.observed_agents import ObservedCertificate, certify_counts
from emalign_jax.equilibrium.sizes import values_against_size
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.solver import solve
from emalign_jax.equilibrium.trajectory import Trajectory
from emalign_jax.exact import (
    Alignment,
    BestResponse,
    BestTransfers,
    Certificate,
    Coverage,
    EquilibriumBounds,
    Market,
    MarketSolver,
    MarketValues,
    Premises,
    Stability,
    align,
    best_response,
    best_transfers,
    certify,
    coverage,
    equilibrium_bounds,
    least_budget,
    market,
    premises,
    stability,
    worst_case,
)
from emalign_jax.exact.checks.base import AbstractCheck, Deviation, register_check
from emalign_jax.exact.proofs.files import verify_proof, write_proof
from emalign_jax.games import catalog, families
from emalign_jax.games.families import FAMILIES, AbstractFamily, knob, random_games
from emalign_jax.games.files import load_games, load_schemes, save_games, save_schemes
from emalign_jax.games.from_functions import game_from_functions
from emalign_jax.games.from_table import UtilityTable, game_from_table, utility_table
from emalign_jax.games.game import Game, ReducedGame, reduce_game
from emalign_jax.games.labels import Labels
from emalign_jax.games.merged_users import several_users
from emalign_jax.internal.validation import parameter
from emalign_jax.mechanisms import AbstractMechanism
from emalign_jax.play import GradientPlay, Implicit, SmoothPlay, Unrolled
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import (
    AbstractProtocol,
    Comparison,
    Conversation,
    Payoffs,
    Pooled,
    SampledConversation,
    SampledGradient,
    SampledPayoffs,
    Selection,
    options_of,
)
from emalign_jax.protocols.batched_payoffs import payoffs, pseudo_gradient, sampled_gradient, sampled_payoffs
from emalign_jax.protocols.observed_schemes import (
    AgentCounts,
    ObservedSchemes,
    counts_from_agent,
    schemes_from_counts,
)
from emalign_jax.protocols.schemes import full_revelation, no_information, random_schemes
from emalign_jax.report import plot, shown_in_notebooks  # noqa: F401 (the latter registers figures)
from emalign_jax.report.transcripts import transcript_tree
from emalign_jax.result import Derivative, FoundBy, Move, Result
from emalign_jax.tuning import Tuned, evaluate, tune
from emalign_jax.tuning.objectives import Objective
from emalign_jax.users import (
    AbstractPerception,
    AbstractUser,
    BaseRateNeglect,
    Conservative,
    FixedReplies,
    Options,
    QuantalUser,
    RationalUser,
    SparsemaxUser,
    SubjectivePrior,
)

__all__ = [
    "FAMILIES",
    "AbstractCheck",
    "AbstractFamily",
    "AbstractMechanism",
    "AbstractPerception",
    "AbstractProtocol",
    "AbstractSolver",
    "AbstractUser",
    "AgentCounts",
    "Alignment",
    "BaseRateNeglect",
    "BestResponse",
    "BestResponseDynamics",
    "BestTransfers",
    "Certificate",
    "Comparison",
    "Conservative",
    "Conversation",
    "Coverage",
    "Derivative",
    "Deviation",
    "EquilibriumBounds",
    "FixedReplies",
    "FoundBy",
    "Game",
    "GradientPlay",
    "Implicit",
    "Labels",
    "Market",
    "MarketSolver",
    "MarketValues",
    "Move",
    "Objective",
    "ObservedCertificate",
    "ObservedSchemes",
    "Options",
    "Payoffs",
    "Pooled",
    "Premises",
    "QuantalUser",
    "RationalUser",
    "ReducedGame",
    "Result",
    "SampledConversation",
    "SampledGradient",
    "SampledPayoffs",
    "Selection",
    "SmoothPlay",
    "Solution",
    "SparsemaxUser",
    "Stability",
    "SubjectivePrior",
    "Trajectory",
    "Tuned",
    "Unrolled",
    "UtilityTable",
    "align",
    "best_response",
    "best_transfers",
    "catalog",
    "certify",
    "certify_counts",
    "counts_from_agent",
    "coverage",
    "equilibrium_bounds",
    "evaluate",
    "experiments",
    "families",
    "full_revelation",
    "game_from_functions",
    "game_from_table",
    "knob",
    "least_budget",
    "load_games",
    "load_schemes",
    "market",
    "mechanisms",
    "no_information",
    "options_of",
    "parameter",
    "payoffs",
    "plot",
    "premises",
    "pseudo_gradient",
    "random_games",
    "random_schemes",
    "reduce_game",
    "register_check",
    "sampled_gradient",
    "sampled_payoffs",
    "save_games",
    "save_schemes",
    "schemes_from_counts",
    "several_users",
    "solve",
    "stability",
    "transcript_tree",
    "tune",
    "utility_table",
    "values_against_size",
    "verify_proof",
    "worst_case",
    "write_proof",
]
