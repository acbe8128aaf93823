"""What services' models are believed to take before anything was executed: profiles that the configuration names."""

from collections.abc import Mapping
from pathlib import Path

import structlog

from controlplane import profilefile
from controlplane.cell import HALF_LIFE_S, Cell
from controlplane.config import ServicePolicy
from controlplane.profiled import executions
from controlplane.profilefile import Profile, ProfileError
from core.config import ConfigError

log = structlog.get_logger()

# Of each rows and threads, as if executed a half-life ago: enough to be believed and to show a 95 % quantile, and
# outweighed by a dozen live executions.
EXECUTIONS = 20


class Priors:
    """Profiles by service, each for one model only."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = profiles
        self._warned: set[tuple[str, str]] = set()

    @classmethod
    def read(cls, path: Path, policies: Mapping[str, ServicePolicy]) -> "Priors":
        """Read the files that the policies of `path` name. Raises ConfigError with key, file and line."""
        profiles = {}
        for name, policy in policies.items():
            if not policy.profile:
                continue
            place = f"{path}: services.{name}.profile"
            try:
                profiles[name] = profilefile.read(Path(policy.profile))
            except ProfileError as error:
                raise ConfigError(f"{place}: {error}") from error
            if not profiles[name].digest:
                raise ConfigError(
                    f"{place}: {policy.profile}: expected the model's SHA-256 in the header, as `sponge profile` "
                    "writes it: # model: NAME, SHA-256 HEX"
                )
        return cls(profiles)

    def cells(self, service: str, digest: str, now: float) -> dict[tuple[int, int], Cell]:
        """Give executions as they were profiled; none without a profile, nor, with a warning, with another model's."""
        profile = self._profiles.get(service)
        if profile is None:
            return {}
        if profile.digest != digest:
            if (service, digest) not in self._warned:
                self._warned.add((service, digest))
                log.warning(
                    "profile of another model", service=service, model=digest, profiled=profile.digest
                )
            return {}
        found: dict[tuple[int, int], Cell] = {}
        for instances, times in profile.times.items():
            for key, one in times.items():
                cell = found.setdefault(key, Cell())
                for work_s in executions(one, EXECUTIONS):
                    cell.record(work_s, float(instances), now - HALF_LIFE_S)
        log.info("latency profiled", service=service, model=digest, cells=len(found))
        return found
