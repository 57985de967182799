"""The readers by name. Each file is one kind of archive."""

from __future__ import annotations

READERS = {
    "arrays": "stpredict.data.readers.arrays:Arrays",
    "folders": "stpredict.data.readers.folders:Folders",
    "video": "stpredict.data.readers.video:Video",
    "knmi": "stpredict.data.readers.knmi:Knmi",
    "kth": "stpredict.data.readers.kth:Kth",
    "taxibj": "stpredict.data.readers.taxibj:TaxiBj",
    "kitticaltech": "stpredict.data.readers.kitticaltech:KittiCaltech",
}
