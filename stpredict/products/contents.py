"""What a forecast product holds, whatever the file that it is written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stpredict
from stpredict.frames import FrameSpec


@dataclass(frozen=True)
class Nowcast:
    """A forecast with what it was made from.

    Attributes:
        predictor: the names of the predictors that made it.
        spec: what the numbers mean.
        observed: ``(K, C, H, W)`` physical, NaN = missing.
        forecast: ``(horizon, C, H, W)`` physical, or ``(M, horizon, C, H, W)`` of an ensemble.
        times: ``(K + horizon,)`` datetime64[s], or None where the film has no clock.
        source: the files or the folder that were observed.
        film: what the archive calls the film whose newest frames these are.
        filled: of each observed frame, whether it was missing and made up.
        fill_rule: the rule by which missing frames are made up, or None.
        members: what each member is; empty where there is one forecast and no ensemble.
        thresholds: physical values whose probability of being reached the product tells.
        facts: more that a file says about itself: hashes of the predictors, the perturbation, the institution.
    """

    predictor: str
    spec: FrameSpec
    observed: NDArray[np.float32]
    forecast: NDArray[np.float32]
    times: NDArray[np.datetime64] | None
    source: str
    film: str = ""
    filled: tuple[bool, ...] = ()
    fill_rule: str | None = None
    members: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        """Return the number of forecast frames."""
        return int(self.forecast.shape[-4])

    @property
    def lead_times(self) -> NDArray[np.float64] | None:
        """Return the seconds from the last observed frame to each forecast one."""
        if self.forecast_times is not None and self.observed_times is not None:
            seconds: NDArray[np.float64] = (self.forecast_times - self.observed_times[-1]).astype("timedelta64[s]").astype(np.float64)
            return seconds
        if self.spec.time_step is None:
            return None
        return np.arange(1, self.horizon + 1, dtype=np.float64) * self.spec.time_step

    @property
    def observed_times(self) -> NDArray[np.datetime64] | None:
        """Return the times ``(K,)`` of the observed frames."""
        return None if self.times is None else self.times[: len(self.observed)].astype("datetime64[s]")

    @property
    def forecast_times(self) -> NDArray[np.datetime64] | None:
        """Return the valid times ``(horizon,)``."""
        return None if self.times is None else self.times[len(self.observed) :].astype("datetime64[s]")

    def exceedance(self) -> NDArray[np.float32]:
        """Return the share of members that reach each threshold, ``(thresholds, horizon, C, H, W)``, NaN where no member has a value."""
        assert self.members, "a share of members"
        valid = ~np.isnan(self.forecast)
        count = valid.sum(axis=0)
        shares = [(valid & (self.forecast >= np.float32(threshold))).sum(axis=0) for threshold in self.thresholds]
        return np.stack([np.where(count > 0, share / np.maximum(count, 1), np.nan) for share in shares]).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a file holds, by name; times as seconds since 1970 in UTC."""
        arrays: dict[str, NDArray[Any]] = {"forecast": self.forecast, "observed": self.observed}
        if self.observed_times is not None and self.forecast_times is not None:
            arrays["observed_times"] = self.observed_times.astype(np.int64)
            arrays["forecast_times"] = self.forecast_times.astype(np.int64)
        if self.thresholds:
            arrays |= {"exceedance": self.exceedance(), "thresholds": np.array(self.thresholds, dtype=np.float64)}
        return arrays

    @property
    def byte_count(self) -> int:
        """Return how many bytes a file may take, its own headers included."""
        frames = self.forecast.nbytes + self.observed.nbytes
        probabilities = len(self.thresholds) * self.horizon * int(np.prod(self.spec.shape)) * 4
        places = 4 * self.spec.height * self.spec.width * 8
        whole = frames + probabilities + places
        return whole + whole // 100 + (1 << 18)

    def about(self) -> dict[str, Any]:
        """Return what a file says about itself."""
        about: dict[str, Any] = {
            "predictor": self.predictor,
            "source": self.source,
            "film": self.film,
            "used": self.used(),
            "filled": [str(time) for time in self._filled_times()],
            "fill_rule": self.fill_rule,
            "spec": self.spec.to_dict(),
            "units": self.spec.units,
            "version": stpredict.__version__,
            **self.facts,
        }
        return {**about, "members": list(self.members)} if self.members else about

    def used(self) -> str:
        """Say which frames were used, and what was missing among them and made up."""
        times, count = self.observed_times, len(self.observed)
        if times is None:
            return f"the {count} last frames of '{self.film}', which has no clock"
        step = "" if self.spec.time_step is None else f", every {self.spec.time_step / 60:g} min"
        words = f"{count} frames, {_minute(times[0])} to {_minute(times[-1])} UTC{step}"
        made_up = ", ".join(_minute(time) for time in self._filled_times())
        words += f"; missing and made up ({self.fill_rule}): {made_up}" if made_up else "; no frame was missing"
        share = float(np.isnan(self.observed).mean())
        words += f"; {100 * share:.1f} % of the pixels have no value" if share else ""
        return words + "".join(f"; {caution}" for caution in self.facts.get("cautions", ()))

    def _filled_times(self) -> list[np.datetime64]:
        """Return the times of the observed frames that were made up."""
        times = self.observed_times
        return [] if times is None else [time for time, filled in zip(times, self.filled, strict=False) if filled]


def _minute(time: np.datetime64) -> str:
    """Return a time as people write it, with seconds only where there are some."""
    text = str(time.astype("datetime64[s]")).replace("T", " ")
    return text.removesuffix(":00") if text.endswith(":00") else text
