"""Users who misread beliefs: what they get differs from what they believe to get (section 11 of docs/model.md).

Such a user reasons by a joint distribution of its own, `believed_prior`. Games are reduced by it once, where a
computation begins; from there on `plain`, the user without its perception, acts in the game that it perceives, so that
every method for that user is one for this user too. A new perception is one subclass of `AbstractPerception` with
`believed_prior`.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from emalign_jax.games.game import PRIOR_SUM_TOLERANCE, Game
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import shown
from emalign_jax.internal.validation import Array, as_float_array, float_parameter
from emalign_jax.users.base import AbstractUser, check_beliefs

# Beliefs may be smaller than the prior of a cell (x_A, x_B) by this factor, not by more.
SMALLEST_SHARE = 1e-6
# With larger weights rounding would decide what the user does.
LARGEST_WEIGHT = 1e6


class AbstractPerception(AbstractUser):
    """A user who acts as another one does, on beliefs that it misreads.

    A new one is a subclass with a field `user` and the method `believed_prior`.

    Args:
        user: how the user acts.

    Example:
        >>> class Unsure(em.AbstractPerception):
        ...     user: em.AbstractUser
        ...     def believed_prior(self, prior, xp):  # half way to the uniform distribution
        ...         return (prior + prior.mean(axis=(-3, -2, -1), keepdims=True)) / 2
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> float(em.certify(game, honest, em.Selection(), Unsure(em.RationalUser())).user)
        1.0

    Source: section 11 of docs/model.md.
    """

    user: eqx.AbstractVar[AbstractUser]

    def __init_subclass__(cls, **options):
        if ignored := sorted({"plain", "respond", "reply"} & set(vars(cls))):
            raise ValueError(
                f"{cls.__name__}: a perception changes beliefs alone, and its own "
                f"{', '.join(ignored)} would be ignored: wrap a user who responds so"
            )
        super().__init_subclass__(**options)

    @property
    def plain(self):
        return self.user.plain

    @property
    def acting(self):
        return eqx.tree_at(lambda own: own.user, self, self.user.acting)

    def respond(self, options, favour):
        return self.user.respond(options, favour)

    @property
    def title(self):
        return f"{self.user.title} who misreads beliefs"

    @property
    def is_smooth(self):
        """Whether responses are differentiable."""
        return self.user.is_smooth

    @property
    def compares(self):
        return self.user.compares

    @property
    def most_forgone(self):
        return self.user.most_forgone

    @property
    def tie_tolerance(self):
        return self.user.tie_tolerance

    @property
    def plans(self):
        return self.user.plans

    @property
    def favours(self):
        return self.user.favours

    def check(self, games: Game, protocol: Any, messages: int) -> None:
        batching.check_fits(self, games.batch_shape)
        if not any(isinstance(x, Tracer) for x in jax.tree.leaves((self, games))):
            prior = np.asarray(games.prior, np.float64)
            check_beliefs(self, prior, self.believed_prior(prior, np))
        self.user.check(games, protocol, messages)

    def axes(self):
        return eqx.tree_at(lambda own: own.user, jax.tree.map(lambda _: 0, self), self.user.axes())


class Conservative(AbstractPerception):
    """A user who moves too little, or too far, from what it would believe without messages.

    After a message the expected utility of an action is
    weight * E[u(a) | x_A, message] + (1 - weight) * E[u(a) | x_A].

    Args:
        user: how the user acts, any user.
        weight: from 0 to 1e6; below 1 the user under-reacts, above 1 it over-reacts. A scalar or an array over the
            batch.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> user = em.Conservative(em.RationalUser(), weight=0.2)  # acquits, as .2 * 1 + .8 * .3 < 1/2
        >>> round(float(em.certify(game, honest, em.Selection(), user).user), 3)
        0.7

    Source: Edwards, Conservatism in human information processing, 1968; Benjamin, Errors in probabilistic reasoning and
    judgment biases, 2019; section 11 of docs/model.md.
    """

    user: AbstractUser
    weight: Float[Array, "*batch"]

    def __init__(self, user: Any, weight: Any):
        self.user = _user(user)
        rule = f"a number from 0 to {LARGEST_WEIGHT:g} (1: beliefs as they should be)"
        self.weight = float_parameter("weight", weight, rule, lambda x: (x >= 0) & (x <= LARGEST_WEIGHT))

    @property
    def title(self):
        if np.ndim(self.weight):
            return super().title
        return f"{self.user.title} who moves {float(self.weight):g} times as far as Bayes"

    def believed_prior(self, prior, xp):
        prior = self.user.believed_prior(prior, xp)
        mass = prior.sum(-1)
        whole = mass.sum(-1)[..., None, None]
        alone = prior.sum(-2, keepdims=True) / xp.where(whole > 0, whole, 1)  # P(y | x_A)
        weight = xp.asarray(self.weight).astype(prior.dtype)[..., None, None, None]
        return weight * prior + (1 - weight) * mass[..., None] * alone


class BaseRateNeglect(AbstractPerception):
    """A user whose own prior of the outcomes leans to the uniform one.

    How x_A and x_B depend on the outcome it knows.

    Args:
        user: how the user acts, any user.
        neglect: from 0 (the prior of the games) to 1 (all outcomes that can happen are equally likely). A scalar or an
            array over the batch.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> user = em.BaseRateNeglect(em.RationalUser("highest"), neglect=1.0)  # convicts: guilt seems to be as likely
        >>> round(float(em.certify(game, silent, em.Selection(), user).user), 3)
        0.3

    Source: Kahneman and Tversky, On the psychology of prediction, 1973; section 11 of docs/model.md.
    """

    user: AbstractUser
    neglect: Float[Array, "*batch"]

    def __init__(self, user: Any, neglect: Any):
        self.user = _user(user)
        rule = "a number from 0 to 1 (0: the prior of the games)"
        self.neglect = float_parameter("neglect", neglect, rule, lambda x: (x >= 0) & (x <= 1))

    def believed_prior(self, prior, xp):
        prior = self.user.believed_prior(prior, xp)
        outcomes = prior.sum((-3, -2), keepdims=True)
        possible = outcomes > 0
        uniform = possible / possible.sum(-1, keepdims=True)
        neglect = xp.asarray(self.neglect).astype(prior.dtype)[..., None, None, None]
        return prior * (1 - neglect + neglect * uniform / xp.where(possible, outcomes, 1))


class SubjectivePrior(AbstractPerception):
    """A user with a prior of its own, which agents and games do not share.

    Args:
        user: how the user acts, any user that does not misread beliefs in another way: write
            `Conservative(SubjectivePrior(...), weight)` for both.
        prior: [..., XA, XB, Y] the joint distribution that the user believes in, non-negative, with sum 1, and positive
            at every (x_A, x_B) that can happen: at least 1e-6 times the prior of the games there.

    Raises:
        ValueError: names the field and the rule, and when it is used with games that it does not fit.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> user = em.SubjectivePrior(em.RationalUser(), [[[0.2, 0.0], [0.0, 0.8]]])
        >>> round(float(em.certify(game, silent, em.Selection(), user).user), 3)  # convicts
        0.3

    Source: section 11 of docs/model.md.
    """

    user: AbstractUser
    prior: Float[Array, "*batch XA XB Y"]

    def __init__(self, user: Any, prior: Any):
        self.user = _user(user)
        if isinstance(self.user, AbstractPerception):
            raise ValueError(
                f"user: {type(user).__name__} misreads beliefs already; write Conservative(SubjectivePrior(...), "
                "weight) for both"
            )
        self.prior = as_float_array("prior", prior)
        if self.prior.ndim < 3:
            raise ValueError(f"prior: expected shape [..., XA, XB, Y], got {list(self.prior.shape)}")
        if not isinstance(self.prior, Tracer):
            own = np.asarray(self.prior, np.float64)
            if not (np.isfinite(own).all() and (own >= 0).all()):
                raise ValueError("prior: expected finite numbers >= 0")
            sums = own.sum((-3, -2, -1))
            if (abs(sums - 1) > PRIOR_SUM_TOLERANCE).any():
                raise ValueError(f"prior: must sum to 1 (within {PRIOR_SUM_TOLERANCE:g}), got {np.ravel(sums)[0]:.9g}")

    def believed_prior(self, prior, xp):
        if self.prior.shape[-3:] != prior.shape[-3:]:
            raise ValueError(
                f"prior: the user's has [XA, XB, Y] = {list(self.prior.shape[-3:])}, that of the games "
                f"{list(prior.shape[-3:])}"
            )
        own = xp.asarray(self.prior).astype(prior.dtype)
        if xp is np:
            with np.errstate(invalid="ignore"):
                short = own.sum(-1) < SMALLEST_SHARE * prior.sum(-1)
            if short.any():
                xa, xb = (int(x) for x in np.argwhere(short)[0][-2:])
                raise ValueError(
                    f"prior: the user's is 0 or nearly so at x_A = {xa}, x_B = {xb}, which can happen: it must be at "
                    f"least {SMALLEST_SHARE:g} times that of the games"
                )
        return own

    def axes(self):
        return eqx.tree_at(lambda own: own.prior, super().axes(), 3)


def _user(user: Any) -> AbstractUser:
    if not isinstance(user, AbstractUser):
        raise ValueError(f"user: expected a user such as RationalUser(), got {shown(user)}")
    return user
