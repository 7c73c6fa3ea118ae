"""What an experiment is: a tree of frozen sections, validated by pydantic.

Options, TOML keys, `--set`, manifests, the keys of cells and docs/specification.md derive from it. A key is written
"section.name", such as "user.precision".
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic.fields import FieldInfo

from emalign_jax.games.families import FAMILIES, all_knobs
from emalign_jax.games.families.drawing import INFORMATION_WORTH
from emalign_jax.internal.arguments import MOST, shortened, shown
from emalign_jax.internal.registry import Registry
from emalign_jax.protocols.base import PROTOCOLS
from emalign_jax.users.base import USERS

# Made of the fields of their section; of any other kind the parameters of the class are keys.
BUILT_IN_PROTOCOLS = ("pooled", "selection", "conversation")
MOST_SEED = 2**32 - 1
# The names in a manifest are not looked up: a plugin may have defined them.
ANY_NAME = {"any_name": True}
WORDS = {  # of pydantic's messages
    "Value error, ": "", "Input should be": "expected", "greater than or equal to": ">=", "less than or equal to": "<=",
    "a valid boolean": "true or false", "a valid": "a", "a integer": "an integer", "a string": "text",
}  # fmt: skip
Flat = dict[str, Any]


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("expected a number")
    return value


def _in_quotes(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text in quotes")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, int | float | str) or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("expected a number, a word, true or false")
    return value


def named(registry: Registry, without: tuple[str, ...] = ()) -> Any:
    """A check that a word is a name in the registry, at the time of the check."""

    def check(name: str | None, info: Any) -> str | None:  # a ValidationInfo, which is no type to test for
        known = [word for word in registry if word not in without]
        if name is not None and name not in known and info.context is not ANY_NAME:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"expected one of {', '.join(known)}, got {shown(name)}{hint}")
        return name

    return AfterValidator(check)


Number = Annotated[float, AfterValidator(_not_nan)]
Scalar = Annotated[Any, AfterValidator(_scalar)]
S = TypeVar("S", bound="Section")


TOP = {  # keys of a file that are not of the specification: the numbers do not depend on them
    "title": FieldInfo(annotation=Annotated[str, BeforeValidator(_in_quotes)]),
    "block": FieldInfo(annotation=int, ge=1, le=MOST),
}


def whole(default: int | None, description: str, least: int = 1, most: int = MOST) -> Any:
    return Field(default, ge=least, le=most, description=description)


class Section(pydantic.BaseModel):
    """A section of a specification. Nothing is converted: a word is no number, 1 is not true."""

    model_config = pydantic.ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, ser_json_inf_nan="constants"
    )

    @property
    def extra(self) -> Flat:
        """Parameters of classes that the section names, and knobs of families, which have no field here."""
        return dict(self.__pydantic_extra__ or {})


class Open(Section):
    """A section whose further keys are parameters of the class that it names."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)


class RandomGames(Open):
    """Random games of a family. Further keys are knobs of families, such as noise."""

    family: Annotated[str, named(FAMILIES)] = Field(default="hull", description="family of random games")
    count: int = whole(100, "games for each family and number of agents")
    agents: int = whole(2, "number of agents K")
    states: int = whole(4, "outcomes Y")
    actions: int = whole(4, "actions A of the user")
    user_features: int | None = whole(
        None, "values XA of x_A, which the user sees; by default 1 (nothing), and 3 if the user replies"
    )
    agent_features: int | None = whole(None, "values XB of x_B, which the agents see; by default Y")
    user_information: Number = Field(default=0.5, description="chance that x_A is y itself")
    agent_information: Number = Field(default=1.0, description="chance that x_B is y itself")
    information_worth: Number = Field(
        default=INFORMATION_WORTH,
        description="redraw a game if knowing x_B gains the user less than this share of the range of u",
    )

    def drawing(self) -> Flat:
        """The arguments of `random_games`, but for the key."""
        features = {"user_features": 1 if self.user_features is None else self.user_features}
        return self.model_dump(exclude={"file", "digest"}) | features


class Games(RandomGames):
    """Random games, or the games of a file."""

    file: str | None = Field(default=None, description="games (.npz) in place of random ones")
    digest: str | None = Field(default=None, description="digest of that file, for the manifest")


class Protocol(Open):
    """How the user talks to the agents. Further keys are parameters of a protocol from a plugin."""

    kind: Annotated[str, named(PROTOCOLS)] = Field(default="selection", description="protocol, built in or of a plugin")
    temperature: Number = Field(
        default=0.0, description="how randomly the user picks an agent in Selection; 0: the best"
    )
    compare: int | None = whole(None, "with selection: agents, drawn at random, that are compared; by default all")
    rounds: int | None = whole(
        None, "rounds of messages; by default 2 in a conversation. With selection: of one with the picked agent"
    )
    replies: int | None = whole(None, "replies the user can give after each round but the last; by default 2")
    reply_to: Literal["each", "all"] = Field(
        default="each", description="each: a reply for every agent; all: one goes to all"
    )
    messages: int | None = whole(None, "messages of an agent in a round; by default enough for a best response")


class User(Open):
    """How the user acts. Further keys are parameters of the user's class, such as tolerance."""

    kind: Annotated[str | None, named(USERS)] = Field(
        default=None, description="user; by default rational if the precision is infinite, else quantal"
    )
    precision: Number = Field(default=math.inf, description="how precisely the user optimises: > 0, or inf (rational)")
    ties: Literal["agents", "lowest", "highest", "uniform"] = Field(
        default="agents", description="how a rational user breaks ties"
    )
    reply_rule: Literal["plans", "babbling", "truthful", "questions"] = Field(
        default="plans", description="how the user replies in a conversation: as is best (plans), or by a fixed rule"
    )
    weight: Number = Field(
        default=1.0, description="how far the user moves from what it believes without messages, from 0; 1: as Bayes"
    )
    neglect: Number = Field(
        default=0.0, description="how far the user's own prior of the outcomes leans to the uniform one, from 0 to 1"
    )


class Solver(Section):
    """How equilibria are searched."""

    method: Literal["play", "best_responses"] = Field(
        default="play", description="gradient play with exact checks, or exact best responses alone"
    )
    start: Literal["monopolist", "random"] | None = Field(
        default=None, description="the first start; by default monopolist in Selection, else random"
    )
    starts: int = whole(1, "starts a game; those after the first are random")
    steps: int | None = whole(None, "steps of gradient play, or best responses a start, at most")
    extrapolation: Literal["none", "optimistic", "extragradient"] = Field(
        default="none", description="of gradient play"
    )
    tolerance: Number | None = Field(
        default=None,
        description="certified if every gain is at most this share of the agent's payoff range; by default 1e-5 in "
        "Selection with a rational user, else 1e-3",
    )


class Measure(Section):
    """What is computed of each game besides its equilibrium."""

    verify: bool = Field(
        default=True, description="check equilibria; without it no gains, certificates or monopoly values"
    )
    monopoly: bool = Field(default=True, description="the user's value with each agent alone")
    aligned: bool = Field(
        default=False, description="the user's value with one aligned agent alone, and certificates of single agents"
    )
    stability: bool = Field(
        default=True, description="the worst and best exact equilibrium, where they can be computed"
    )
    coverage: bool = Field(default=True, description="what no equilibrium falls short of full information by more")
    eps: bool = Field(default=True, description="the distance of the user's utility from the agents' hull")
    trajectory: bool = Field(
        default=False, description="what searches met on their way, in trajectories.parquet; takes time and room"
    )


class Specification(Section):
    """One experiment: games, a protocol, a user, a solver and what is measured."""

    seed: int = whole(0, "seed of random games and starts", 0, MOST_SEED)
    games: Games = Games()
    protocol: Protocol = Protocol()
    user: User = User()
    solver: Solver = Solver()
    measure: Measure = Measure()


def fields(of: type[Section] = Specification) -> dict[str, FieldInfo]:
    """The keys of a specification and what each takes."""
    found: dict[str, FieldInfo] = {}
    for name, info in of.model_fields.items():
        inside = info.annotation
        if isinstance(inside, type) and issubclass(inside, Section):
            found |= {f"{name}.{key}": one for key, one in inside.model_fields.items()}
        else:
            found[name] = info
    return found


def further_keys(known: Iterable[str]) -> list[str]:
    """The keys of registered classes that are not among the known: knobs of families, parameters of protocols and
    users."""
    found = [f"games.{name}" for name in all_knobs()]
    for section, registry in (("protocol", PROTOCOLS), ("user", USERS)):
        names = [name for name in registry if name not in BUILT_IN_PROTOCOLS]
        found += [f"{section}.{key}" for name in names for key in registry.parameters(name)]
    return [name for name in dict.fromkeys(found) if name not in known]


def nested(flat: Flat) -> dict[str, Any]:
    """{"user": {"precision": 5.0}} of {"user.precision": 5.0}."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, key = name.rpartition(".")
        (found.setdefault(section, {}) if section else found)[key] = value
    return found


def flat(specification: Section) -> Flat:
    """{"user.precision": 5.0, ...}, every key, and further ones where they were given."""
    found: Flat = {}
    for name, value in specification.model_dump().items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


def validated(name: str, value: Any, info: FieldInfo | None, any_name: bool = False) -> Any:
    """`value` as the key takes it. info: of `fields`; None for further keys. Raises `ValueError` that names the key."""
    if isinstance(value, str) and value in ("inf", "-inf") and info is not None and info.annotation is not str:
        value = float(value)  # JSON has no infinity.
    further = Number if name.startswith("games.") else Scalar
    kind: Any = further if info is None else Annotated[info.annotation, info]
    try:
        return TypeAdapter(kind).validate_python(value, strict=True, context=ANY_NAME if any_name else None)
    except pydantic.ValidationError as error:
        raise ValueError(f"{name}: {_rule(error, value)}") from None


def given_keys(
    sources: Iterable[tuple[str, Flat]], top: tuple[str, ...], known: dict[str, FieldInfo],
    check: Callable[..., Any] = validated, any_name: bool = False,
) -> Flat:  # fmt: skip
    """The keys of several sources, of which later ones count, their values checked.

    sources:  (what messages begin with, {key: value}); top: keys of TOP; known: of `fields`
    check:    called with (key, value, its `FieldInfo` or None for further keys, any_name); returns the value
    any_name: what a plugin has defined need not be known
    Raises `ValueError` that names the source, the key and the rule.
    """
    further, infos, found = further_keys(known), {name: TOP[name] for name in top} | known, {}
    for where, values in sources:
        for name, value in values.items():
            free = any_name and name.startswith(("games.", "protocol.", "user."))
            if not (name in infos or name in further or free):
                raise ValueError(f"{where}{shortened(name)}: no such key; {nearest(name, [*infos, *further])}")
            with placed(where, words=str):
                found[name] = (validated if name in top else check)(name, value, infos.get(name), any_name)
    return found


def make(of: type[S], values: Flat) -> S:
    """The specification with these values. Raises `ValueError` that names the key and the rule."""
    try:
        return of.model_validate(nested(values))
    except pydantic.ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{name}: {_rule(error, values.get(name))}") from None


def _rule(error: pydantic.ValidationError, value: Any) -> str:
    """pydantic's first complaint in the words of this package."""
    first = error.errors(include_url=False)[0]
    words = first["msg"]
    for theirs, ours in WORDS.items():
        words = words.replace(theirs, ours)
    inside = first["input"] if isinstance(value, list | tuple) and first["loc"] else value
    return words if ", got " in words else f"{shortened(words, 300)}, got {shown(inside)}"


def nearest(name: str, known: Iterable[str], form: str = "{}") -> str:
    """What was probably meant: the same key elsewhere, or one that is spelt nearly so."""
    known = list(known)
    last = name.split(".")[-1]
    same = [full for full in known if full.split(".")[-1] == last]
    close = same or difflib.get_close_matches(name, known, 1, 0.7)
    if not close and "." in name:
        near = difflib.get_close_matches(last, [full.split(".")[-1] for full in known], 1)
        close = [full for full in known if full.split(".")[-1] in near]
    if close:
        return f"did you mean {form.format(close[0])}?"
    inside = [full for full in known if full.startswith(name.split(".")[0] + ".")] if "." in name else known
    inside = inside or list(dict.fromkeys(full.split(".")[0] for full in known))
    return "expected " + ", ".join(form.format(full) for full in inside)


def by_key(message: str, known: Iterable[str] | None = None) -> str:
    """A message of the library with the key of the specification for the name of its argument.

    known: the keys; by default those of `Specification`
    """
    names = [*(fields() if known is None else known), *(f"games.{name}" for name in all_knobs())]
    keys = {name.split(".")[-1]: name for name in reversed(names)} | {"compared": "protocol.compare"}
    keys |= {"protocol": "protocol.kind", "user": "user.kind"}
    found = re.match(r"\w+(, \w+)*: ", message)
    if found is None:
        return message
    named = [keys.get(name, name) for name in found[0][:-2].split(", ")]
    return ", ".join(named) + message[found.end() - 2 :]


@contextlib.contextmanager
def placed(before: str, after: str = "", words: Callable[[str], str] = by_key) -> Iterator[None]:
    """Let messages of `ValueError`s begin and end with these, with `words` of the message between them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{before}{words(str(error))}{after}") from None
