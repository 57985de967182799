"""Weights that others have published: where they are, what must be known about them, and the scores published with them.

Facts are those of OpenSTL: the download links and scores of its pages ``docs/en/model_zoos`` (c74deb5), patch sizes and strides of its
``configs`` (OpenSTLv0.3.0, 0a0f36c), lengths and frame sizes of its ``dataset_constant.py``. Sizes of files are not told there. Left
out: networks that are not here; E3D-LSTM on weather, whose configuration is not published; and E3D-LSTM on Human3.6M, whose link may
be misspelt. The page prints the same scores for ConvLSTM and PredRNN++ on humidity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stpredict.errors import UserError, nearest

_RELEASES = "https://github.com/chengtan9907/OpenSTL/releases/download"
_PAGES = "https://github.com/chengtan9907/OpenSTL/blob/OpenSTL-Lightning/docs/en/model_zoos"


@dataclass(frozen=True)
class Convention:
    """How a page counts its scores.

    Attributes:
        name: in words.
        protocol: under which the scores here are defined alike.
        same: score of the page -> the score here that is defined alike.
    """

    name: str
    protocol: str
    same: Mapping[str, str]


FRAME_SUMS = Convention(
    "sums over a frame, mean over frames",
    "openstl",
    same={"mse": "mse_sum", "mae": "mae_sum", "ssim": "ssim_range2", "psnr": "psnr", "lpips": "lpips"},
)
PIXEL_MEANS = Convention("means over pixels", "per-pixel", same={"mse": "mse", "mae": "mae", "rmse": "rmse"})


@dataclass(frozen=True)
class Benchmark:
    """The clips that published scores are for.

    Attributes:
        title: in words.
        tag: of the release that holds the weights.
        page: the address where the scores are published.
        card: the shipped card of the data, or None if there is none.
        split: of that card.
        files: what must be in its folder, in words.
        context: observed frames.
        horizon: frames to forecast.
        shape: (C, H, W) of a frame.
        columns: the scores, in the order in which :data:`CATALOGUE` lists them.
        convention: how they are counted.
        clips: how many there are, or None where the page and the files' own description do not say.
    """

    title: str
    tag: str
    page: str
    context: int
    horizon: int
    shape: tuple[int, int, int]
    card: str | None = None
    split: str | None = None
    files: str = ""
    columns: tuple[str, ...] = ("mse", "mae", "ssim", "psnr")
    convention: Convention = FRAME_SUMS
    clips: int | None = None


@dataclass(frozen=True)
class Published:
    """A file of published weights.

    Attributes:
        name: of the file, without its suffix.
        benchmark: the clips that its scores are for.
        network: the name of ours that it belongs to.
        parameters: in millions, as published.
        epochs: that it was trained for.
        told: what the file may not tell beside what the benchmark tells, for the import.
        scores: as published.
        source: the program whose checkpoint it is.
        releases: the address that the tag and the file's name follow.
    """

    name: str
    benchmark: Benchmark
    network: str
    parameters: float
    epochs: int
    told: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    source: str = "openstl"
    releases: str = _RELEASES

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return f"{self.name}.pth"

    def url(self, mirror: str | None = None) -> str:
        """Return where the file is; ``mirror`` stands for the address of the releases."""
        return f"{(mirror or self.releases).rstrip('/')}/{self.benchmark.tag}/{self.file}"

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the file may not tell, for the import."""
        channels, height, width = self.benchmark.shape
        known = {"context": self.benchmark.context, "horizon": self.benchmark.horizon}
        return {**known, "channels": channels, "height": height, "width": width, **self.told}

    @property
    def bytes_expected(self) -> tuple[int, int]:
        """Return the least and the most bytes that the file can have.

        It holds the parameters in float32, and, if it is a checkpoint to go on from, two numbers of the optimiser for each. The
        published count of one network is 1.4 times that of its configuration.
        """
        weights = 4e6 * self.parameters
        return int(0.65 * weights), int(3.2 * weights) + (1 << 20)

    def can_have(self, size: int) -> bool:
        """Return whether the file can have so many bytes."""
        least, most = self.bytes_expected
        return least <= size <= most


_VIDEO, _TRAFFIC, _WEATHER = (f"{_PAGES}/{name}_benchmarks.md" for name in ("video", "traffic", "weather"))
_ALL_FIVE = ("mse", "mae", "ssim", "psnr", "lpips")

_MOVING_MNIST = Benchmark(
    "Moving MNIST", "mmnist-weights", _VIDEO, 10, 10, (1, 64, 64), "moving_mnist", "classic", files="mnist_test_seq.npy", clips=10_000
)
_MOVING_FASHION = Benchmark("Moving FashionMNIST", "mfmnist-weights", _VIDEO, 10, 10, (1, 64, 64))
_MOVING_CIFAR = Benchmark("Moving MNIST on CIFAR-10", "mmnist-cifar-weights", _VIDEO, 10, 10, (3, 64, 64))
_KTH = Benchmark(
    "KTH actions",
    "kth20-weights",
    _VIDEO,
    10,
    20,
    (1, 128, 128),
    "kth",
    "classic",
    files="the folders boxing to walking of the frames that OpenSTL distributes",
    columns=_ALL_FIVE,
)
_KITTICALTECH = Benchmark(
    "KITTI, Caltech Pedestrian",
    "kitti-weights",
    _VIDEO,
    10,
    1,
    (3, 128, 160),
    "kitticaltech",
    "test",
    files="kitti_hkl and caltech, or kitticaltech_npy, as OpenSTL distributes them",
    columns=_ALL_FIVE,
)
_HUMAN = Benchmark("Human3.6M", "human-weights", _VIDEO, 4, 4, (3, 256, 256), columns=_ALL_FIVE)
_TAXIBJ = Benchmark("TaxiBJ", "taxibj-weights", _TRAFFIC, 4, 4, (2, 32, 32), "taxibj", "test", files="dataset.npz")


def _weather(title: str, channels: int) -> Benchmark:
    columns = ("mse", "mae", "rmse")
    return Benchmark(
        f"WeatherBench {title}", "weather-5-625-weights", _WEATHER, 12, 12, (channels, 32, 64), columns=columns, convention=PIXEL_MEANS
    )


_TEMPERATURE, _HUMIDITY, _WIND, _CLOUDS = (
    _weather(*about) for about in (("temperature", 1), ("humidity", 1), ("wind", 2), ("cloud cover", 1))
)


def _row(
    benchmark: Benchmark,
    name: str,
    network: str,
    parameters: float,
    epochs: int,
    patch_size: int,
    scores: tuple[float, ...],
    stride: int = 1,
) -> Published:
    told: dict[str, Any] = {"patch_size": patch_size}
    if network in ("convlstm", "predrnnpp"):
        told["maths"] = "legacy"  # all releases are older than OpenSTL's mending of these two
    if network == "e3d_lstm":
        told |= {"stride": stride, "memory": "frozen"}
    return Published(name, benchmark, network, parameters, epochs, told, dict(zip(benchmark.columns, scores, strict=True)))


# Name, network, million parameters, epochs, patch size (of SimVP 1), and the scores in the order of the benchmark's columns.
_ROWS = (
    _row(_MOVING_MNIST, "mmnist_convlstm_one_ep200", "convlstm", 15.0, 200, 4, (29.80, 90.64, 0.9288, 22.10)),
    _row(_MOVING_MNIST, "mmnist_convlstm_l_one_ep200", "convlstm", 33.8, 200, 4, (27.78, 86.14, 0.9343, 22.44)),
    _row(_MOVING_MNIST, "mmnist_predrnn_one_ep200", "predrnn", 23.8, 200, 4, (23.97, 72.82, 0.9462, 23.28)),
    _row(_MOVING_MNIST, "mmnist_predrnnpp_one_ep200", "predrnnpp", 38.6, 200, 4, (22.06, 69.58, 0.9509, 23.65)),
    _row(_MOVING_MNIST, "mmnist_e3dlstm_one_ep200", "e3d_lstm", 51.0, 200, 4, (35.97, 78.28, 0.9320, 21.11)),
    _row(_MOVING_MNIST, "mmnist_predrnnv2_one_ep200", "predrnn_v2", 23.9, 200, 4, (24.13, 73.73, 0.9453, 23.21)),
    _row(_MOVING_MNIST, "mmnist_simvp_s_incepu_one_ep200", "simvp", 58.0, 200, 1, (32.15, 89.05, 0.9268, 21.84)),
    _row(_MOVING_MNIST, "mmnist_simvp_s_gsta_one_ep200", "simvp", 46.8, 200, 1, (26.69, 77.19, 0.9402, 22.78)),
    _row(_MOVING_MNIST, "mmnist_convlstm_one_ep2000", "convlstm", 15.0, 2000, 4, (22.41, 73.07, 0.9480, 23.54)),
    _row(_MOVING_MNIST, "mmnist_predrnn_one_ep2000", "predrnn", 23.8, 2000, 4, (26.43, 77.52, 0.9411, 22.90)),
    _row(_MOVING_MNIST, "mmnist_predrnnpp_one_ep2000", "predrnnpp", 38.6, 2000, 4, (14.07, 48.91, 0.9698, 26.37)),
    _row(_MOVING_MNIST, "mmnist_e3dlstm_one_ep2000", "e3d_lstm", 51.0, 2000, 4, (24.07, 77.49, 0.9436, 23.19)),
    _row(_MOVING_MNIST, "mmnist_predrnnv2_one_ep2000", "predrnn_v2", 23.9, 2000, 4, (17.26, 57.22, 0.9624, 25.01)),
    _row(_MOVING_MNIST, "mmnist_simvp_s_incepu_one_ep2000", "simvp", 58.0, 2000, 1, (21.15, 64.15, 0.9536, 23.99)),
    _row(_MOVING_MNIST, "mmnist_simvp_s_gsta_one_ep2000", "simvp", 46.8, 2000, 1, (15.05, 49.80, 0.9675, 25.97)),
    _row(_MOVING_FASHION, "fmnist_convlstm_one_ep200", "convlstm", 15.0, 200, 4, (28.87, 113.20, 0.8793, 22.07)),
    _row(_MOVING_FASHION, "fmnist_convlstm_l_one_ep200", "convlstm", 33.8, 200, 4, (25.51, 104.85, 0.8928, 22.67)),
    _row(_MOVING_FASHION, "fmnist_predrnn_one_ep200", "predrnn", 23.8, 200, 4, (22.01, 91.74, 0.9091, 23.42)),
    _row(_MOVING_FASHION, "fmnist_predrnnpp_one_ep200", "predrnnpp", 38.6, 200, 4, (21.71, 91.97, 0.9097, 23.45)),
    _row(_MOVING_FASHION, "fmnist_e3dlstm_one_ep200", "e3d_lstm", 51.0, 200, 4, (35.35, 110.09, 0.8722, 21.27)),
    _row(_MOVING_FASHION, "fmnist_predrnnv2_one_ep200", "predrnn_v2", 23.9, 200, 4, (24.13, 97.46, 0.9004, 22.96)),
    _row(_MOVING_FASHION, "fmnist_simvp_incepu_one_ep200", "simvp", 58.0, 200, 1, (30.77, 113.94, 0.8740, 21.81)),
    _row(_MOVING_FASHION, "fmnist_simvp_gsta_one_ep200", "simvp", 46.8, 200, 1, (25.86, 101.22, 0.8933, 22.61)),
    _row(_MOVING_CIFAR, "mmnist_cifar_convlstm_one_ep200", "convlstm", 15.5, 200, 4, (73.31, 338.56, 0.9204, 23.09)),
    _row(_MOVING_CIFAR, "mmnist_cifar_convlstm_l_one_ep200", "convlstm", 34.4, 200, 4, (62.86, 291.05, 0.9337, 23.83)),
    _row(_MOVING_CIFAR, "mmnist_cifar_predrnn_one_ep200", "predrnn", 23.8, 200, 4, (50.09, 225.04, 0.9499, 24.90)),
    _row(_MOVING_CIFAR, "mmnist_cifar_predrnnpp_one_ep200", "predrnnpp", 38.6, 200, 4, (44.19, 198.27, 0.9567, 25.60)),
    _row(_MOVING_CIFAR, "mmnist_cifar_e3dlstm_one_ep200", "e3d_lstm", 52.8, 200, 4, (80.79, 214.86, 0.9314, 22.89)),
    _row(_MOVING_CIFAR, "mmnist_cifar_predrnnv2_one_ep200", "predrnn_v2", 23.9, 200, 4, (57.27, 252.29, 0.9419, 24.24)),
    _row(_MOVING_CIFAR, "mmnist_cifar_simvp_incepu_one_ep200", "simvp", 58.0, 200, 1, (59.83, 214.54, 0.9414, 24.15)),
    _row(_MOVING_CIFAR, "mmnist_cifar_simvp_gsta_one_ep200", "simvp", 46.8, 200, 1, (51.13, 185.13, 0.9512, 24.93)),
    _row(_KITTICALTECH, "kitticaltech_convlstm_one_ep100", "convlstm", 15.0, 100, 2, (139.6, 1583.3, 0.9345, 27.46, 0.08575)),
    _row(_KITTICALTECH, "kitticaltech_e3dlstm_one_ep100", "e3d_lstm", 54.9, 100, 4, (200.6, 1946.2, 0.9047, 25.45, 0.12602)),
    _row(_KITTICALTECH, "kitticaltech_predrnn_one_ep100", "predrnn", 23.7, 100, 2, (130.4, 1525.5, 0.9374, 27.81, 0.07395)),
    _row(_KITTICALTECH, "kitticaltech_predrnnpp_one_ep100", "predrnnpp", 38.5, 100, 2, (125.5, 1453.2, 0.9433, 28.02, 0.13210)),
    _row(_KITTICALTECH, "kitticaltech_predrnnv2_one_ep100", "predrnn_v2", 23.8, 100, 2, (147.8, 1610.5, 0.9330, 27.12, 0.08920)),
    _row(_KITTICALTECH, "kitticaltech_simvp_incepu_one_ep100", "simvp", 8.6, 100, 1, (160.2, 1690.8, 0.9338, 26.81, 0.06755)),
    _row(_KITTICALTECH, "kitticaltech_simvp_gsta_one_ep100", "simvp", 15.6, 100, 1, (129.7, 1507.7, 0.9454, 27.89, 0.05736)),
    _row(_KTH, "kth20_convlstm_one_ep100", "convlstm", 14.9, 100, 2, (47.65, 445.5, 0.8977, 26.99, 0.26686)),
    _row(_KTH, "kth20_e3dlstm_one_ep100", "e3d_lstm", 53.5, 100, 8, (136.40, 892.7, 0.8153, 21.78, 0.48358), stride=2),
    _row(_KTH, "kth20_predrnn_one_ep100", "predrnn", 23.6, 100, 2, (41.07, 380.6, 0.9097, 27.95, 0.21892)),
    _row(_KTH, "kth20_predrnnpp_one_ep100", "predrnnpp", 38.3, 100, 2, (39.84, 370.4, 0.9124, 28.13, 0.19871)),
    _row(_KTH, "kth20_predrnnv2_one_ep100", "predrnn_v2", 23.6, 100, 2, (39.57, 368.8, 0.9099, 28.01, 0.21478)),
    _row(_KTH, "kth20_simvp_incepu_one_ep100", "simvp", 12.2, 100, 1, (41.11, 397.1, 0.9065, 27.46, 0.26496)),
    _row(_KTH, "kth20_simvp_gsta_one_ep100", "simvp", 15.6, 100, 1, (45.02, 417.8, 0.9049, 27.04, 0.25240)),
    _row(_HUMAN, "human_convlstm_cos_ep50", "convlstm", 15.5, 50, 4, (125.5, 1566.7, 0.9813, 33.40, 0.03557)),
    _row(_HUMAN, "human_predrnn_cos_ep50", "predrnn", 24.6, 50, 4, (113.2, 1458.3, 0.9831, 33.94, 0.03245)),
    _row(_HUMAN, "human_predrnnpp_cos_ep50", "predrnnpp", 39.3, 50, 4, (110.0, 1452.2, 0.9832, 34.02, 0.03196)),
    _row(_HUMAN, "human_predrnnv2_cos_ep50", "predrnn_v2", 24.6, 50, 4, (114.9, 1484.7, 0.9827, 33.84, 0.03334)),
    _row(_HUMAN, "human_simvp_incepu_cos_ep50", "simvp", 41.2, 50, 1, (115.8, 1511.5, 0.9822, 33.73, 0.03467)),
    _row(_HUMAN, "human_simvp_gsta_cos_ep50", "simvp", 11.3, 50, 1, (108.4, 1441.0, 0.9834, 34.08, 0.03224)),
    _row(_TAXIBJ, "taxibj_convlstm_cos_ep50", "convlstm", 14.98, 50, 2, (0.3358, 15.32, 0.9836, 39.45)),
    _row(_TAXIBJ, "taxibj_e3dlstm_cos_ep50", "e3d_lstm", 50.99, 50, 2, (0.3427, 14.98, 0.9842, 39.64)),
    _row(_TAXIBJ, "taxibj_predrnn_cos_ep50", "predrnn", 23.66, 50, 2, (0.3194, 15.31, 0.9838, 39.51)),
    _row(_TAXIBJ, "taxibj_predrnnpp_cos_ep50", "predrnnpp", 38.40, 50, 2, (0.3348, 15.37, 0.9834, 39.47)),
    _row(_TAXIBJ, "taxibj_predrnnv2_cos_ep50", "predrnn_v2", 23.67, 50, 2, (0.3834, 15.55, 0.9826, 39.49)),
    _row(_TAXIBJ, "taxibj_simvp_incepu_cos_ep50", "simvp", 13.79, 50, 1, (0.3282, 15.45, 0.9835, 39.45)),
    _row(_TAXIBJ, "taxibj_simvp_gsta_cos_ep50", "simvp", 9.96, 50, 1, (0.3246, 15.03, 0.9844, 39.71)),
    _row(_TEMPERATURE, "weather_t2m_convlstm_cos_ep50", "convlstm", 14.98, 50, 2, (1.521, 0.7949, 1.233)),
    _row(_TEMPERATURE, "weather_t2m_predrnn_cos_ep50", "predrnn", 23.57, 50, 2, (1.331, 0.7246, 1.154)),
    _row(_TEMPERATURE, "weather_t2m_predrnnpp_cos_ep50", "predrnnpp", 38.31, 50, 2, (1.634, 0.7883, 1.278)),
    _row(_TEMPERATURE, "weather_t2m_predrnnv2_cos_ep50", "predrnn_v2", 23.59, 50, 2, (1.545, 0.7986, 1.243)),
    _row(_TEMPERATURE, "weather_t2m_simvp_incepu_cos_ep50", "simvp", 14.67, 50, 1, (1.238, 0.7037, 1.113)),
    _row(_TEMPERATURE, "weather_t2m_simvp_gsta_cos_ep50", "simvp", 12.76, 50, 1, (1.105, 0.6567, 1.051)),
    _row(_HUMIDITY, "weather_r_convlstm_cos_ep50", "convlstm", 14.98, 50, 2, (35.146, 4.012, 5.928)),
    _row(_HUMIDITY, "weather_r_predrnn_cos_ep50", "predrnn", 23.57, 50, 2, (37.611, 4.096, 6.133)),
    _row(_HUMIDITY, "weather_r_predrnnpp_cos_ep50", "predrnnpp", 38.31, 50, 2, (35.146, 4.012, 5.928)),
    _row(_HUMIDITY, "weather_r_predrnnv2_cos_ep50", "predrnn_v2", 23.59, 50, 2, (36.508, 4.087, 6.042)),
    _row(_HUMIDITY, "weather_r_simvp_incepu_cos_ep50", "simvp", 14.67, 50, 1, (34.355, 3.994, 5.861)),
    _row(_HUMIDITY, "weather_r_simvp_gsta_cos_ep50", "simvp", 12.76, 50, 1, (31.426, 3.765, 5.606)),
    _row(_WIND, "weather_uv10_convlstm_cos_ep50", "convlstm", 14.98, 50, 2, (1.8976, 0.9215, 1.3775)),
    _row(_WIND, "weather_uv10_predrnn_cos_ep50", "predrnn", 23.65, 50, 2, (1.8810, 0.9068, 1.3715)),
    _row(_WIND, "weather_uv10_predrnnpp_cos_ep50", "predrnnpp", 38.40, 50, 2, (1.8727, 0.9019, 1.3685)),
    _row(_WIND, "weather_uv10_predrnnv2_cos_ep50", "predrnn_v2", 23.68, 50, 2, (2.0072, 0.9413, 1.4168)),
    _row(_WIND, "weather_uv10_simvp_incepu_cos_ep50", "simvp", 14.67, 50, 1, (1.9993, 0.9510, 1.4140)),
    _row(_WIND, "weather_uv10_simvp_gsta_cos_ep50", "simvp", 12.76, 50, 1, (1.5069, 0.8142, 1.2276)),
    _row(_CLOUDS, "weather_tcc_convlstm_cos_ep50", "convlstm", 14.98, 50, 2, (0.04944, 0.15419, 0.22234)),
    _row(_CLOUDS, "weather_tcc_predrnn_cos_ep50", "predrnn", 23.57, 50, 2, (0.05504, 0.15877, 0.23461)),
    _row(_CLOUDS, "weather_tcc_predrnnpp_cos_ep50", "predrnnpp", 38.31, 50, 2, (0.05479, 0.15435, 0.23407)),
    _row(_CLOUDS, "weather_tcc_predrnnv2_cos_ep50", "predrnn_v2", 23.59, 50, 2, (0.05051, 0.15867, 0.22475)),
    _row(_CLOUDS, "weather_tcc_simvp_incepu_cos_ep50", "simvp", 14.67, 50, 1, (0.04765, 0.15029, 0.21829)),
    _row(_CLOUDS, "weather_tcc_simvp_gsta_cos_ep50", "simvp", 12.76, 50, 1, (0.04657, 0.14688, 0.21580)),
)

CATALOGUE: dict[str, Published] = {row.name: row for row in _ROWS}
"""Published weights by name."""


def find_published(name: str) -> Published:
    """Return an entry of the catalogue.

    Raises:
        UserError: there is none of that name.
    """
    if name not in CATALOGUE:
        close = nearest(name, CATALOGUE)
        hint = close if "did you mean" in close else "; 'stpredict import --list' shows them"
        raise UserError(f"The catalogue of published weights has no '{name}'{hint}")
    return CATALOGUE[name]


def list_published(word: str = "") -> list[str]:
    """Return a line about each entry whose name holds ``word``, under a heading."""
    found = [one for one in CATALOGUE.values() if word in one.name]
    if not found:
        find_published(word)
    lines = [f"{'name':36} {'network':10} {'data':26} {'frames':>7} {'epochs':>6} {'million':>7}  published scores"]
    for one in found:
        about = one.benchmark
        scores = ", ".join(f"{name} {value:g}" for name, value in one.scores.items())
        frames = f"{about.context} + {about.horizon}"
        lines.append(f"{one.name:36} {one.network:10} {about.title:26} {frames:>7} {one.epochs:6} {one.parameters:7g}  {scores}")
    return lines
