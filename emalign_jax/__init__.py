"""Do competing AIs serve their user as well as an aligned one?

Equilibria of communication games between one user and K agents, searched by batched gradient play in JAX
and certified by exact linear programs. Data flows one way:

    game -> protocol, user -> payoffs -> solve (play) -> certify (exact) -> tables and figures
"""

from importlib import import_module

from emalign_jax.internal.version import VERSION as __version__  # noqa: F401

TYPE_CHECKING = False  # as in `typing`, which takes as long to import as all the rest

if TYPE_CHECKING:
    from emalign_jax._public import *  # noqa: F403
else:

    def __getattr__(name):
        """A public name, at first use: the command line must handle signals before it imports jax, for seconds."""
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        public = import_module("emalign_jax._public")
        names = {"__all__": public.__all__} | {each: getattr(public, each) for each in public.__all__}
        globals().update(names)
        if name not in names:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return names[name]

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
