"""Exact tiled inference gives the whole image's result, for every supported statistic and kind of network."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from keygraph import load
from keygraph.errors import CancelledError, InputError, KeygraphError
from keygraph.instrumentation.metrics import psnr
from keygraph.instrumentation.synthetic import synthetic_image as picture
from keygraph.manifest import METADATA_KEY, ExactTiling, GlobalStatistics, Manifest, Tiling
from keygraph.runtime.io import images
from keygraph.runtime.io.scratch_file import ScratchFile
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.restorer import Restorer
from keygraph.runtime.tiling.exact.executor import tiles

if TYPE_CHECKING:
    from exported import ExportStore

onnx = pytest.importorskip("onnx")

MakeManifest = Callable[..., Manifest]
Array = np.ndarray[Any, Any]

#: Sums are rounded in another order; nothing else differs.
EXACT_DB = 100.0


def image(height: int, width: int, channels: int = 3) -> Array:
    return np.ascontiguousarray(np.moveaxis(picture((1, channels, height, width), (0.0, 1.0))[0], 0, 2))


# Networks in PyTorch, as exported.


@pytest.fixture(scope="session")
def networks(exports: ExportStore) -> Callable[[str], Path]:
    """Tiny networks by name, exported without verification when they are first asked for."""
    pytest.importorskip("torch")
    from tiny_channel_attention import CSA, GLMHA

    known = {"csa": (CSA, "restormer"), "glmha": (GLMHA, "mst_plus_plus")}
    return lambda name: exports.get(*known[name]).onnx


@pytest.mark.parametrize("name", ["csa", "glmha"])
@pytest.mark.parametrize(("height", "width", "tile"), [(101, 139, 64), (40, 200, 96), (75, 60, 512)])
def test_exact_tiles_give_the_whole_images_result(
    networks: Callable[..., Path], name: str, height: int, width: int, tile: int
) -> None:
    restorer = load(networks(name))
    given = image(height, width)
    whole = restorer.restore(given, tile="none")
    exact = restorer.restore(given, tile=tile, global_statistics="exact")
    span = (float(whole.image.min()), float(whole.image.max()))
    assert psnr(exact.image, whole.image, span) > EXACT_DB
    cut = tile < max(height, width)
    assert (exact.sweeps > 1) == cut
    assert len(exact.plan.tiles) >= (2 if cut else 1)
    for axis in (exact.plan.rows, exact.plan.columns):
        assert (axis.origins[0], axis.origins[-1]) == (0, axis.length - axis.tile)
        assert list(axis.origins) == sorted(set(axis.origins))
    assert exact.tile[0] >= exact.plan.rows.tile
    assert exact.overlap > 0 if len(exact.plan.tiles) > 1 else exact.overlap == 0
    if cut:
        # Plain tiles differ, so the comparison can fail.
        plain = restorer.restore(given, tile=tile, global_statistics="tile")
        assert plain.sweeps == 0
        assert psnr(plain.image, whole.image, span) < EXACT_DB - 10
        assert "tiles change its result" in plain.notices[-1]


def test_exact_is_what_happens_to_images_that_are_cut(networks: Callable[..., Path]) -> None:
    restorer = load(networks("csa"))
    assert restorer.restore(image(48, 64), tile=40).sweeps > 1
    assert restorer.restore(image(48, 64)).sweeps == 0


# Networks made by hand, one for each rule.


@pytest.fixture
def by_hand(tmp_path: Path, make_manifest: MakeManifest) -> Callable[..., Restorer]:
    """Return a maker of networks with these nodes, from `image` [1, 3, H, W] to `restored`."""

    def make(
        nodes: Sequence[Any], constants: dict[str, Any] | None = None, channels: int = 3, **changes: Any
    ) -> Restorer:
        own = {"size_multiple": 4, "global_statistics": True, "in_channels": channels, "out_channels": channels}
        manifest = make_manifest(**{**own, **changes})
        helper, float_ = onnx.helper, onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "by hand",
            [helper.make_tensor_value_info("image", float_, ["batch", channels, "height", "width"])],
            [helper.make_tensor_value_info("restored", float_, ["batch", channels, None, None])],
            [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
        onnx.checker.check_model(model)
        path = tmp_path / "by_hand.onnx"
        path.write_bytes(model.SerializeToString())
        return load(path, library=None)

    return make


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs.split(), outputs.split(), outputs.split()[0], **attributes)


#: axes [2, 3] are rows and columns.
AXES = {"axes": np.array([2, 3])}


@pytest.mark.parametrize(
    "operator", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
)
def test_every_reduction(by_hand: Callable[..., Restorer], operator: str) -> None:
    restorer = by_hand(
        [
            node("Conv", "image kernel", "blurred", pads=[2, 2, 2, 2], group=3),
            node(operator, "blurred axes", "statistic"),
            node("Div", "blurred statistic", "restored"),
        ],
        {**AXES, "kernel": np.random.default_rng(0).random((3, 1, 5, 5), np.float32)},
    )
    assert_exact(restorer, image(45, 70), tile=28)


def test_a_sweep_is_cancelled_between_tiles(by_hand: Callable[..., Restorer]) -> None:
    node, cancel, done = onnx.helper.make_node, threading.Event(), list[int]()
    nodes = [node("GlobalAveragePool", ["image"], ["mean"]), node("Sub", ["image", "mean"], ["restored"])]

    def progress(tiles_done: int, _total: int) -> None:
        done.append(tiles_done)
        cancel.set()

    with pytest.raises(CancelledError):
        by_hand(nodes).restore(image(70, 90), tile=32, global_statistics="exact", progress=progress, cancel=cancel)
    assert done == [1]


def test_channels_that_are_restored_apart_have_statistics_of_their_own(by_hand: Callable[..., Restorer]) -> None:
    restorer = by_hand([node("ReduceSum", "image axes", "sum"), node("Div", "image sum", "restored")], AXES, channels=1)
    given = image(61, 90) * np.array([1.0, 0.3, 0.1], np.float32)
    assert_exact(restorer, given, tile=32)
    seen: list[tuple[int, int]] = []
    restorer.restore(given, tile=32, progress=lambda *done: seen.append(done))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_sums_of_half_precision_stay_in_float32(by_hand: Callable[..., Restorer]) -> None:
    """A Gram matrix of half tensors, over more pixels than half can represent."""
    half = onnx.TensorProto.FLOAT16
    restorer = by_hand(
        [
            node("Cast", "image", "half", to=half),
            node("Reshape", "half rows", "pixels"),
            node("Transpose", "pixels", "turned", perm=[0, 2, 1]),
            node("MatMul", "pixels turned", "gram"),
            node("Softmax", "gram", "weights"),
            node("MatMul", "weights pixels", "mixed"),
            node("Shape", "image", "shape"),
            node("Reshape", "mixed shape", "square"),
            node("Cast", "square", "restored", to=onnx.TensorProto.FLOAT),
        ],
        {"rows": np.array([0, 3, -1])},
        normalisation="none",
    )
    given = (image(40, 64) - 0.5) * 0.2
    exact = restorer.restore(given, tile=32)
    assert exact.sweeps == 2
    assert np.abs(exact.image - restorer.restore(given, tile="none").image).max() < 1e-3
    sums = exact_plan(restorer).locality.statistics
    assert [(s.combine, s.phase) for s in sums.values()] == [("sum", 0)]


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(by_hand: Callable[..., Restorer], operator: str) -> None:
    assert_exact(by_hand([node(operator, "image", "s"), node("Sub", "image s", "restored")]), image(33, 50), tile=16)


def test_sizes_that_are_numbers_are_the_whole_images(by_hand: Callable[..., Restorer]) -> None:
    """A mean that is a sum divided by height times width, as the graph computes them."""
    restorer = by_hand(
        [
            node("Shape", "image", "sizes", start=2),
            node("ReduceProd", "sizes", "pixels", keepdims=0),
            node("Cast", "pixels", "count", to=onnx.TensorProto.FLOAT),
            node("ReduceSum", "image axes", "sum"),
            node("Div", "sum count", "mean"),
            node("Sub", "image mean", "restored"),
        ],
        AXES,
    )
    assert_exact(restorer, image(33, 50), tile=16)


def test_maps_are_expanded_to_the_size_of_a_tile(by_hand: Callable[..., Restorer]) -> None:
    """To sizes of the whole image: channels are repeated, and pixels, rows and columns are there already."""
    restorer = by_hand(
        [
            node("Conv", "image kernel", "blurred", pads=[1, 1, 1, 1]),
            node("Reshape", "blurred flat", "pixels"),
            node("Shape", "pixels", "one"),
            node("Mul", "one thrice", "three"),
            node("Expand", "pixels three", "repeated"),
            node("Shape", "image", "sizes"),
            node("Reshape", "repeated sizes", "grey"),
            node("Expand", "grey sizes", "same"),
            node("ReduceMean", "same axes", "mean"),
            node("Sub", "same mean", "restored"),
        ],
        {
            **AXES,
            "kernel": np.random.default_rng(0).random((1, 3, 3, 3), np.float32),
            "flat": np.array([0, 1, -1]),
            "thrice": np.array([1, 3, 1]),
        },
    )
    assert_exact(restorer, image(45, 70), tile=28)


def test_bins_of_a_pool(by_hand: Callable[..., Restorer]) -> None:
    """Maxima over thirds of the image, both axes at once, with bounds that the graph computes."""
    constants = {
        **AXES,
        "three": np.array([3, 3]),
        "two": np.array([2, 2]),
        "kernel": np.ones((3, 1, 3, 3), np.float32),
    }
    nodes = [
        node("Conv", "image kernel", "blurred", pads=[1, 1, 1, 1], group=3),
        node("Shape", "blurred", "sizes", start=2),
        node("Mul", "sizes two", "double"),
        node("Div", "sizes three", "first"),
        node("Div", "double three", "last"),
        node("Slice", "blurred first last axes", "middle"),
        node("ReduceMax", "middle axes", "peak"),
        node("Sub", "image peak", "restored"),
    ]
    given = image(33, 50)
    given[16, 25], given[0, 0] = 30.0, 60.0  # The peak is in the middle, for which the corner must not be taken.
    restorer = by_hand(nodes, constants, normalisation="none")
    assert_exact(restorer, given, tile=16)
    assert restorer.restore(given, tile=16).image.min() < -29


def test_scales_up_and_down_and_back(by_hand: Callable[..., Restorer]) -> None:
    """Strided and transposed convolutions and pixel shuffles, zero-padded only at the image's edges."""
    rng = np.random.default_rng(0)
    restorer = by_hand(
        [
            node("Conv", "image down", "half", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("SpaceToDepth", "half", "quarter", blocksize=2),
            node("ReduceMean", "quarter axes", "mean"),
            node("Add", "quarter mean", "shifted"),
            node("Conv", "shifted same", "mixed", pads=[1, 1, 1, 1]),
            node("DepthToSpace", "mixed", "half_again", blocksize=2),
            node("ConvTranspose", "half_again up", "large", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("ReduceMax", "large axes", "peak"),
            node("Div", "large peak", "restored"),
        ],
        {
            **AXES,
            "down": rng.normal(size=(3, 3, 4, 4)).astype(np.float32),
            "same": rng.normal(size=(12, 12, 3, 3)).astype(np.float32),
            "up": rng.normal(size=(3, 3, 4, 4)).astype(np.float32),
        },
    )
    assert_exact(restorer, image(60, 85), tile=32)


def assert_exact(restorer: Restorer, given: Array, tile: int) -> None:
    whole = restorer.restore(given, tile="none").image
    exact = restorer.restore(given, tile=tile, global_statistics="exact")
    assert exact.sweeps == len(exact_plan(restorer).sweeps) > 1
    assert len(exact.plan.tiles) > 3
    np.testing.assert_allclose(exact.image, whole, rtol=1e-5, atol=1e-5 * float(np.abs(whole).max()))
    plain = restorer.restore(given, tile=tile, overlap=0, global_statistics="tile").image
    assert np.abs(plain - whole).max() > 1e-3 * np.abs(whole).max()


def exact_plan(restorer: Restorer) -> Any:
    return restorer.session.exact().plan  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("nodes", "constants", "why"),
    [
        ([node("CumSum", "image axis", "restored")], {"axis": np.int64(2)}, "CumSum.*not known to work tile by tile"),
        (
            [node("ReduceMax", "image axis", "row"), node("Sub", "image row", "restored")],
            {"axis": np.array([2])},
            "cut out of the whole",
        ),
        (
            [
                node("Shape", "image", "size", start=3),
                node("Slice", "image one size last", "cut"),
                node("Concat", "cut first", "restored", axis=3),
                node("Slice", "image zero one last", "first"),
            ],
            {"zero": np.array([0]), "one": np.array([1]), "last": np.array([3])},
            "cut out of the whole|joins",
        ),
        ([node("Softmax", "image", "restored", axis=3)], {}, "normalises over the image's pixels"),
        (
            [
                node("Reshape", "image rows", "pixels"),
                node("Transpose", "pixels", "turned", perm=[0, 2, 1]),
                node("MatMul", "turned pixels", "related"),
                node("MatMul", "pixels related", "mixed"),
                node("Shape", "image", "shape"),
                node("Reshape", "mixed shape", "restored"),
            ],
            {"rows": np.array([0, 3, -1])},
            "relates pixels to pixels",
        ),
    ],
)
def test_networks_that_cannot_be_divided_say_why(
    by_hand: Callable[..., Restorer], nodes: list[Any], constants: dict[str, Any], why: str
) -> None:
    order = sorted(nodes, key=lambda n: n.output[0] == "restored")
    restorer = by_hand(order, constants)
    given = image(24, 32)
    with pytest.raises(InputError, match=why):
        restorer.restore(given, tile=16, global_statistics="exact")
    # Unless exact tiles are asked for, plain tiles are used, with a notice.
    assert any("tiles are not exact" in line for line in restorer.restore(given, tile=16).notices)


# Refusals.


def test_what_has_no_exact_tiles_is_refused(
    networks: Callable[..., Path], by_hand: Callable[..., Restorer], make_model: Callable[..., Path]
) -> None:
    given = image(48, 64)
    with pytest.raises(InputError, match="give exact or tile"):
        load(networks("csa")).restore(given, global_statistics="whole")
    with pytest.raises(InputError, match="no statistics over the whole image"):
        load(make_model("blur")).restore(given, tile=32, global_statistics="exact")
    failed = GlobalStatistics(None, (Tiling(32, 8, 30.0),), None)
    restorer = by_hand([node("Identity", "image", "restored")], statistics=failed)
    with pytest.raises(InputError, match="failed the proof"):
        restorer.restore(given, tile=32, global_statistics="exact")
    assert any("30 dB" in line for line in restorer.restore(given, tile=32).notices)

    class Engine:
        """A session that has no `exact`."""

        def __init__(self, session: Any) -> None:
            self.manifest, self.description, self.run = session.manifest, "engine", session.run

    with pytest.raises(InputError, match="restore with the one that export-model wrote"):
        Restorer(Engine(restorer.session)).restore(given, tile=32, global_statistics="exact")


def test_a_tile_that_the_halo_fills_is_refused(networks: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="needs tiles of at least"):
        load(networks("csa")).restore(image(64, 64), tile=8, global_statistics="exact")


def test_nan_is_an_error(by_hand: Callable[..., Restorer]) -> None:
    restorer = by_hand(
        [node("Log", "image", "logs"), node("ReduceSum", "logs axes", "sum"), node("Sub", "image sum", "restored")],
        AXES,
        normalisation="none",
    )
    with pytest.raises(KeygraphError, match="NaN or infinity in sum"):
        restorer.restore(np.full((16, 32, 3), -1.0, np.float32), tile=16)
    restorer = by_hand(
        [node("ReduceMax", "image axes", "peak"), node("Sub", "image peak", "low"), node("Log", "low", "restored")],
        AXES,
    )
    with pytest.raises(KeygraphError, match="NaN or infinity in the tile at row 0, column 0"):
        restorer.restore(image(16, 32), tile=16)


# Tiles and features.


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 64), (64, 200, 64), (328, 96, 48), (1000, 16, 72)])
def test_cores_cover_every_pixel_once(networks: Callable[..., Path], height: int, width: int, side: int) -> None:
    plan = exact_plan(load(networks("csa")))
    heaviest = max(sweep.weight for sweep in plan.sweeps)
    for sweep in plan.sweeps:
        covered = np.zeros((height, width), int)
        for tile in tiles(sweep, height, width, side, plan.stretch(sweep)):
            covered[tile.top : tile.bottom, tile.left : tile.right] += 1
            top, left, bottom, right = tile.outer
            # No map takes more memory than the largest map of a tile in the heaviest sweep.
            assert (bottom - top) ** 2 * sweep.weight <= side**2 * heaviest
            assert (right - left) ** 2 * sweep.weight <= side**2 * heaviest
            assert max(bottom - top, right - left) * sweep.finest <= side
            assert all(edge % sweep.unit == 0 for edge in (*tile.outer, tile.top, tile.left))
            # The halo ends only with the image.
            assert top == max(0, tile.top - sweep.halo)
            assert right == min(width, tile.right + sweep.halo)
        assert (covered == 1).all()


def test_features_go_to_files_and_come_back(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((37, 21, 5), np.float32)
    file = ScratchFile(tmp_path, 37, 21, 5, np.dtype(np.float32))
    assert not list(tmp_path.iterdir())  # No name: nothing is left behind, however the process ends.
    for top in range(0, 37, 10):
        for left in range(0, 21, 8):
            file.write(top, left, values[top : top + 10, left : left + 8])
    np.testing.assert_array_equal(file.read(3, 4, 30, 11), values[3:33, 4:15])
    np.testing.assert_array_equal(file[5:99, :], values[5:])
    assert (file.min(), file.max()) == (values.min(), values.max())
    file.close()


def test_features_are_given_back_when_a_run_is_interrupted(networks: Callable[..., Path], tmp_path: Path) -> None:
    restorer = load(networks("csa"))

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        restorer.restore(image(48, 64), tile=40, scratch=tmp_path, progress=interrupt)
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    file = ScratchFile(tmp_path, 4, 4, 1, np.dtype(np.float32))
    with Path("/dev/full").open("r+b", buffering=0) as full:
        os.dup2(full.fileno(), file.fileno())
        with pytest.raises(InputError, match=r"is full.*--scratch"):
            file.write(0, 0, np.ones((4, 4, 1), np.float32))
    file.close()


def test_too_little_room_is_known_beforehand(networks: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    restorer = load(networks("csa"))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"GB of disk for features.*--global-statistics tile"):
        restorer.restore(image(48, 64), tile=40, global_statistics="exact")


# From file to file.


@pytest.mark.parametrize("orientation", [1, 6, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_photographs_go_from_file_to_file(
    networks: Callable[..., Path], tmp_path: Path, orientation: int, suffix: str
) -> None:
    import pyvips

    pixels = (image(57, 91) * 65535).astype(np.uint16)
    alpha = np.linspace(0, 65535, pixels[:, :, 0].size).astype(np.uint16).reshape(pixels.shape[:2])
    written = images.Picture(pixels, alpha, images.Metadata(icc=icc(), resolution=(3.0, 3.0)))
    images.write(tmp_path / "upright.tif", written)
    source = pyvips.Image.new_from_file(str(tmp_path / "upright.tif")).copy()
    source.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    source.tiffsave(str(tmp_path / "in.tif"))
    restorer = load(networks("csa"))
    whole = restore_file(restorer, tmp_path / "in.tif", tmp_path / f"whole{suffix}", tile="none")
    exact = restore_file(
        restorer, tmp_path / "in.tif", tmp_path / f"exact{suffix}", tile=64, global_statistics="exact", scratch=tmp_path
    )
    assert (whole.sweeps, exact.sweeps > 1) == (0, True)
    same = ("source", "height", "width", "padded", "notices")
    assert [getattr(exact, name) for name in same] == [getattr(whole, name) for name in same]
    first, second = (images.read(tmp_path / f"{name}{suffix}") for name in ("whole", "exact"))
    difference = first.pixels.astype(int) - second.pixels
    assert np.abs(difference).max() <= (8 if suffix == ".jpg" else 1)
    assert (difference != 0).mean() < 0.1
    if suffix != ".jpg":
        np.testing.assert_array_equal(first.alpha, second.alpha)
    assert first.metadata == second.metadata
    assert first.metadata.icc == icc()
    assert first.metadata.resolution == pytest.approx((3.0, 3.0), rel=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_reading_and_writing_take_no_more_memory_than_some_rows(tmp_path: Path) -> None:
    import pyvips
    from keygraph.runtime.device.memory import growth
    from keygraph.runtime.io.images import streaming

    height, width = 12_000, 1024  # About 10 MB of memory, whatever the height.
    waves = pyvips.Image.zone(width, height) * 100 + 128
    waves.bandjoin([waves, waves]).cast("uchar").copy(interpretation="srgb").tiffsave(str(tmp_path / "in.tif"))

    def work() -> None:
        with contextlib.ExitStack() as files:
            streaming.write(tmp_path / "out.png", streaming.read(tmp_path / "in.tif", tmp_path, files), tmp_path)

    work()  # What libraries allocate once.
    grown = growth(work)
    assert grown is not None
    assert grown < height * width * 3 / 2
    small = [pyvips.Image.new_from_file(str(tmp_path / name)).hist_find() for name in ("in.tif", "out.png")]
    assert (small[0] - small[1]).abs().max() == 0


def icc() -> bytes:
    import pyvips

    made = pyvips.Image.black(8, 8, bands=3).copy(interpretation="srgb").icc_export(output_profile="srgb")
    profile: bytes = made.get("icc-profile-data")
    return profile


# The manifest.


def test_manifests_hold_what_was_measured(make_manifest: MakeManifest) -> None:
    from keygraph.manifest import from_json

    statistics = GlobalStatistics(
        14500, (Tiling(64, 32, 30.0), Tiling(256, 32, 41.5)), ExactTiling(128, 131.0, 45, 768)
    )
    manifest = make_manifest(global_statistics=True, statistics=statistics)
    assert from_json(manifest.to_json(), "test") == manifest
    older = dataclasses.asdict(manifest)
    del older["statistics"]
    import json

    assert from_json(json.dumps(older), "test").statistics is None


def test_no_map_is_kept_in_bfloat16_which_numpy_has_not(tmp_path: Path) -> None:
    """As a file in bf16 runs on a CPU: in float32, rounded after every step."""
    torch = pytest.importorskip("torch")
    from keygraph.export import export
    from keygraph.models import load_checkpoint, save_checkpoint
    from keygraph.models.restormer import Restormer
    from tiny_channel_attention import CSA

    torch.manual_seed(0)
    save_checkpoint(tmp_path / "net.ckpt", Restormer(CSA))
    export(load_checkpoint(tmp_path / "net.ckpt"), tmp_path / "net.onnx", precision="bf16", verification=False)
    with load(tmp_path / "net.onnx") as restorer:
        image = np.random.default_rng(0).random((64, 80, 3), np.float32)
        whole = restorer(image, tile="none")
        assert psnr(restorer(image, tile=32, global_statistics="exact"), whole, (0, 1)) > 40
