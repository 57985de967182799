"""Products as GeoTIFF: one file, a band for each lead, north up.

A projection that the EPSG registry has is given by its number. Any other is given as the well-known text of ESRI in the citation key,
which is how GDAL, and so QGIS and rasterio, writes and reads a projection that the other keys cannot say.

Source: OGC GeoTIFF standard 1.1 (OGC 19-008r4); GDAL's GeoTIFF driver, https://gdal.org/en/stable/drivers/raster/gtiff.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from stpredict.errors import UserError, import_optional
from stpredict.files import refuse_full_disk, whole_file
from stpredict.products.contents import Nowcast
from stpredict.products.places import Places, places_of

_SCALE, _TIEPOINT, _KEYS, _TEXTS = 33550, 33922, 34735, 34737
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
_MODEL, _RASTER, _GEOGRAPHIC, _ANGLE, _PROJECTED, _CITATION, _LENGTH = 1024, 1025, 2048, 2054, 3072, 3073, 3076
_USER_DEFINED, _DEGREE, _METRE = 32767, 9102, 9001


def write_geotiff(path: Path, nowcast: Nowcast) -> None:
    """Write a forecast of one channel as float32 bands, NaN = missing; bands are described by their valid time, or their lead.

    Raises:
        UserError: a library is missing, the frames have several channels or no grid, or the projection cannot be written.
        OSError: there is no room.
    """
    tifffile = import_optional("tifffile", "radar")
    spec = nowcast.spec
    if spec.grid is None or spec.channels > 1:
        lack = "these frames have no grid" if spec.grid is None else f"these frames have {spec.channels} channels"
        raise UserError(f"A GeoTIFF holds frames of one channel on a grid, and {lack}: write '{path.name}' as .npz, .h5 or .nc")
    places = places_of(spec.grid, spec.height, spec.width)
    bands = nowcast.forecast[:, 0] if spec.grid.row_origin == "north" else nowcast.forecast[:, 0, ::-1]
    metadata = _metadata(nowcast)
    tags: list[tuple[int, int, int, Any, bool]] = [
        *_placing_tags(places, path),
        (_GDAL_METADATA, 2, len(metadata) + 1, metadata, True),
        (_GDAL_NODATA, 2, 4, "nan", True),
    ]
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, nowcast.byte_count)
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(bands),
            photometric="minisblack",
            planarconfig="separate" if len(bands) > 1 else None,
            compression="zlib",
            rowsperstrip=min(spec.height, 64),
            metadata=None,
            software="stpredict",
            extratags=tags,
        )


def _placing_tags(places: Places, path: Path) -> list[tuple[int, int, int, Any, bool]]:
    left, bottom, right, top = places.corners
    scale = ((right - left) / len(places.x), (top - bottom) / len(places.y), 0.0)
    keys, text = _keys(places, path)
    entries = [number for key in sorted(keys) for number in (key, *keys[key])]
    header = [1, 1, 0, len(keys), *entries]
    tags: list[tuple[int, int, int, Any, bool]] = [
        (_SCALE, 12, 3, scale, True),
        (_TIEPOINT, 12, 6, (0.0, 0.0, 0.0, left, top, 0.0), True),
        (_KEYS, 3, len(header), tuple(header), True),
    ]
    return [*tags, (_TEXTS, 2, len(text) + 1, text, True)] if text else tags


def _keys(places: Places, path: Path) -> tuple[dict[int, tuple[int, int, int]], str]:
    """Return the keys, each with where its value is, how many there are, and the value; and the text that they point into."""
    pyproj = import_optional("pyproj", "radar")
    code = places.crs.to_epsg(min_confidence=100)
    keys = {_MODEL: (0, 1, 2 if places.geographic else 1), _RASTER: (0, 1, 1)}
    if places.geographic and code is None:
        code = _near_geographic(places)
        if code is None:
            raise UserError(f"A GeoTIFF cannot say the globe of '{places.proj4}': write '{path.name}' as .nc")
    if places.geographic:
        return {**keys, _GEOGRAPHIC: (0, 1, code), _ANGLE: (0, 1, _DEGREE)}, ""
    if code is not None:
        return {**keys, _PROJECTED: (0, 1, code), _LENGTH: (0, 1, _METRE)}, ""
    try:
        wkt = places.crs.to_wkt("WKT1_GDAL" if places.crs.is_bound else "WKT1_ESRI")  # which has no word for the shift of a datum
    except pyproj.exceptions.CRSError as error:
        raise UserError(f"A GeoTIFF cannot say the projection '{places.proj4}' ({error}): write '{path.name}' as .nc") from None
    text = f"ESRI PE String = {wkt}|"
    return {**keys, _MODEL: (0, 1, _USER_DEFINED), _CITATION: (_TEXTS, len(text), 0), _LENGTH: (0, 1, _METRE)}, text


def _near_geographic(places: Places) -> int | None:
    """Return the number of WGS 84 where the globe is its ellipsoid, for a PROJ string names no datum."""
    ellipsoid = places.crs.ellipsoid
    same = abs(ellipsoid.semi_major_metre - 6378137) < 1e-3 and abs(ellipsoid.semi_minor_metre - 6356752.314245) < 1e-3
    return 4326 if same else None


def _metadata(nowcast: Nowcast) -> str:
    """Return what GDAL shows of the file and of each band, as ASCII."""
    about = {
        "TITLE": f"Forecast by {nowcast.predictor}",
        "UNITS": nowcast.spec.units,
        "OBSERVED": nowcast.used(),
        "SOURCE": nowcast.source,
        "STPREDICT_VERSION": str(nowcast.about()["version"]),
        "INSTITUTION": str(nowcast.facts.get("institution", "")),
        "PREDICTOR_HASH": "; ".join(nowcast.facts.get("hashes", {}).values()),
    }
    times, leads = nowcast.forecast_times, nowcast.lead_times
    if times is not None and nowcast.observed_times is not None:
        about["FORECAST_REFERENCE_TIME"] = f"{nowcast.observed_times[-1]}Z"
    items = [f"<Item name={quoteattr(name)}>{escape(text)}</Item>" for name, text in about.items() if text]
    for band in range(nowcast.horizon):
        sample = f'sample="{band}"'
        described = f"lead {band + 1}" if times is None else f"{times[band]}Z"
        items.append(f'<Item name="DESCRIPTION" {sample} role="description">{described}</Item>')
        items.append(f'<Item name="UNITTYPE" {sample} role="unittype">{escape(nowcast.spec.units)}</Item>')
        if leads is not None:
            items.append(f'<Item name="LEAD_TIME_SECONDS" {sample}>{leads[band]:g}</Item>')
    text = "<GDALMetadata>\n" + "\n".join(items) + "\n</GDALMetadata>\n"
    return text.encode("ascii", "xmlcharrefreplace").decode()
