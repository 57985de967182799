"""What a watch leaves behind: names, the log, and products whose first lead is not the next step."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.products import Nowcast
from stpredict.watching_record import LOG, Cycle, Record, drop_first, label, stamp

MOMENT = datetime(2020, 5, 1, 12, 5, tzinfo=UTC).timestamp()


def nowcast(leads: int) -> Nowcast:
    spec = FrameSpec(channels=1, height=2, width=3, units="mm/h", time_step=300.0)
    times = np.datetime64("2020-05-01T12:00", "s") + 300 * np.arange(2 + leads)
    forecast = np.arange(leads, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 3), np.float32)
    return Nowcast("rain", spec, np.zeros((2, 1, 2, 3), np.float32), forecast, times, "folder")


def test_names_have_seconds_only_where_they_are_needed(tmp_path: Path) -> None:
    record = Record(tmp_path, ".odim.h5")
    assert record.product(MOMENT, 300).name == "nowcast-20200501T1205.odim.h5"
    assert record.product(MOMENT + 2, 2).name == "nowcast-20200501T120502.odim.h5"


def test_the_log_tells_what_is_done_though_its_last_line_was_cut_off(tmp_path: Path) -> None:
    record = Record(tmp_path, ".nc")
    assert record.done() == []
    record.add(Cycle(stamp(MOMENT)))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"cycle": "2020-05')
    assert record.done() == [MOMENT]
    record.add(Cycle(stamp(MOMENT + 300), used="rain"))
    assert record.done() == [MOMENT, MOMENT + 300]
    assert json.loads((tmp_path / LOG).read_text().splitlines()[-1])["used"] == "rain"


def test_the_first_leads_are_dropped(tmp_path: Path) -> None:
    later = drop_first(nowcast(5), 2, 3)
    assert later.forecast[:, 0, 0, 0].tolist() == [2.0, 3.0, 4.0]
    assert [str(time) for time in later.forecast_times] == ["2020-05-01T12:20:00", "2020-05-01T12:25:00", "2020-05-01T12:30:00"]
    assert later.lead_times.tolist() == [900.0, 1200.0, 1500.0], "from 12:05, the newest frame"
    cycle = Cycle("2020-05-01T12:15:00", used="rain", inputs=["a", "b"], missing=["2020-05-01T12:10:00", "2020-05-01T12:15:00"])
    told = label(later, cycle, "We")
    assert told.lead_times.tolist() == later.lead_times.tolist() and told.source == "a, b" and told.facts["institution"] == "We"
    assert told.used().endswith("no frame was missing; none came in time for 2020-05-01 12:10, 2020-05-01 12:15")
    np.testing.assert_array_equal(drop_first(nowcast(3), 0, 3).forecast, nowcast(3).forecast)


def test_a_repeated_frame_needs_no_longer_forecast() -> None:
    far = drop_first(nowcast(3), 200, 3)
    assert str(far.forecast_times[0]) == "2020-05-02T04:50:00" and len(far.forecast) == 3


def test_a_folder_is_for_one_watch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no folder"), Record(tmp_path / "file", ".nc").hold():
        pass
    with Record(tmp_path / "new" / "out", ".nc").hold():
        assert (tmp_path / "new" / "out").is_dir()
