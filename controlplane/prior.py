"""What services' models are believed to take before anything was executed: profiles that the configuration names."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import structlog

from controlplane import profilefile
from controlplane.cell import HALF_LIFE_S, SAMPLES, Cell
from controlplane.config import ServicePolicy
from controlplane.latency import FORGOTTEN
from controlplane.profiled import Times, executions
from controlplane.profilefile import Profile, ProfileError
from core.config import ConfigError

log = structlog.get_logger()

# Of each rows and threads, as if executed a half-life ago: enough to be believed and to show a 95 % quantile, and
# outweighed by a dozen live executions.
EXECUTIONS = 20
# As old as this, an execution says nothing beside one of now.
_FORGOTTEN_S = -math.log2(FORGOTTEN) * HALF_LIFE_S


class Priors:
    """Profiles by service, each for one model only."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = profiles
        self._warned: dict[str, str] = {}  # by service with a profile: the last other model that was told of

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
            if self._warned.get(service) != digest:
                self._warned[service] = digest
                log.warning(
                    "profile of another model", service=service, model=digest, profiled=profile.digest
                )
            return {}
        levels: dict[tuple[int, int], dict[int, Times]] = {}
        for instances, times in sorted(profile.times.items()):
            for key, one in times.items():
                levels.setdefault(key, {})[instances] = one
        found = {key: _cell(of, now - HALF_LIFE_S) for key, of in levels.items()}
        log.info("latency profiled", service=service, model=digest, cells=len(found))
        return found

    def beneath(
        self, remembered: Mapping[tuple[int, int], Cell], service: str, digest: str, now: float
    ) -> Mapping[tuple[int, int], Cell]:
        """Give what is remembered of a model, and what was profiled where that says nothing.

        As if profiled a half-life before the newest that is remembered. What is so old that the first execution
        outweighs all of it is given only where there is no profile.
        """
        newest = max((max(cell.at) for cell in remembered.values()), default=-math.inf)
        forgotten = now - newest > _FORGOTTEN_S
        profiled = self.cells(service, digest, now if forgotten else newest)
        return profiled if forgotten and profiled else {**profiled, **remembered}


def _cell(levels: Mapping[int, Times], at: float) -> Cell:
    """Executions beside so many others, by rising number, the most first: those are the first that a full cell loses.

    Where there are more numbers than it has room for, some between the fewest and the most are left out.
    """
    cell = Cell()
    numbers = np.array(sorted(levels))
    kept = np.linspace(0, len(numbers) - 1, min(len(numbers), SAMPLES // EXECUTIONS)).round().astype(int)
    for instances in reversed(numbers[kept].tolist()):
        for work_s in executions(levels[instances], EXECUTIONS):
            cell.record(work_s, float(instances), at)
    return cell
