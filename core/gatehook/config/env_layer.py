"""The environment as a layer of settings: GATEHOOK_A__B__C is the key c of the table [a.b].

dynaconf's own loader would parse every value as TOML, turning a secret such as `1e5` into a number. Here values stay
text, and the types of the settings decide what they become.
"""

import re
from collections.abc import Collection, Iterator, Mapping

__all__ = ["PREFIX", "read"]

PREFIX = "GATEHOOK_"
_OWN = frozenset({"GATEHOOK_CONFIG"})

# Kubernetes announces every Service to its neighbours; one called "gatehook" looks like settings of ours.
_KUBERNETES = re.compile(r"GATEHOOK_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://\S+")  # the value of GATEHOOK_PORT, there


def _is_setting(variable: str, value: str) -> bool:
    if not variable.startswith(PREFIX) or variable in _OWN:
        return False
    if "__" in variable:
        return True
    return not _KUBERNETES.fullmatch(variable) and not _KUBERNETES_PORT.fullmatch(value)


def read(environ: Mapping[str, str], but: Collection[str] = ()) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Each variable that is a setting, sorted by name: the variable, its path in lower case, and its raw value.

    Args:
        environ: the environment.
        but: variables that are not settings, because settings refer to them as `env:NAME`.
    """
    for variable in sorted(environ):
        if variable not in but and _is_setting(variable, environ[variable]):
            yield variable, tuple(variable.removeprefix(PREFIX).lower().split("__")), environ[variable]
