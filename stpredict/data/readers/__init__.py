"""The readers by name. Each file is one kind of archive."""

from __future__ import annotations

READERS = {
    "store": "stpredict.data.readers.store:Store",
    "arrays": "stpredict.data.readers.arrays:Arrays",
    "folders": "stpredict.data.readers.folders:Folders",
    "video": "stpredict.data.readers.video:Video",
    "knmi": "stpredict.data.readers.knmi:Knmi",
    "odim": "stpredict.data.readers.odim:Odim",
    "meteoswiss": "stpredict.data.readers.meteoswiss:MeteoSwiss",
    "fmi": "stpredict.data.readers.fmi:Fmi",
    "sevir": "stpredict.data.readers.sevir:Sevir",
    "hko7": "stpredict.data.readers.hko7:Hko7",
    "shanghai": "stpredict.data.readers.shanghai:Shanghai",
    "meteonet": "stpredict.data.readers.meteonet:MeteoNet",
    "kth": "stpredict.data.readers.kth:Kth",
    "taxibj": "stpredict.data.readers.taxibj:TaxiBj",
    "kitticaltech": "stpredict.data.readers.kitticaltech:KittiCaltech",
    "cf": "stpredict.data.readers.cf:Cf",
    "radolan": "stpredict.data.readers.radolan:Radolan",
}
